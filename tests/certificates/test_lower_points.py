"""Points with a lower loss: comparisons with errors, line searches, escapes, and parameters that the user has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, EscapeStep, Level, Outcome, Transfer, certify
from thalweg.certificates.lower_point import compared, lowest_along
from thalweg.certificates.random_rounding import RandomRounding
from thalweg.foundation import InvalidInputError
from thalweg.zoo import Quadratic

DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def risk_of(loss: object = None, **more: object) -> tw.EmpiricalRisk:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return tw.EmpiricalRisk(net, loss or nn.MSELoss(), drawn(9, 2), drawn(9, 1, seed=1), **more)  # type: ignore[arg-type]


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_points_that_differ_by_rounding_are_not_lower() -> None:
    unknown = risk_of(lambda f, y: ((f - y) ** 2).mean(), reduction="mean")
    for risk, level in ((risk_of(), Level.RIGOROUS), (unknown, Level.NUMERIC)):
        theta = drawn(risk.space.size, seed=3)
        for seed in range(20):
            moved = theta * (1 + 2e-16 * drawn(len(theta), seed=seed).sign())
            found = compared(Case(risk, theta), moved)
            assert found.level is level
            assert not found.shown
            assert found.bound <= 0
    assert not compared(Case(risk, theta), torch.full_like(theta, torch.inf)).shown


def test_a_point_that_is_lower_is_lower_by_at_most_the_difference() -> None:
    risk = risk_of()
    theta = drawn(risk.space.size, seed=3)
    there = theta - 0.01 * risk.gradient(theta)
    found = compared(Case(risk, theta), there)
    truth = float(risk.value(theta) - risk.value(there))
    assert truth * (1 - 1e-9) <= found.bound <= truth


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_minimum_on_a_line_is_found(scale: float) -> None:
    bowl = Quadratic([2.0, 2.0])
    start = torch.tensor([3.0, 4.0], dtype=DOUBLE)
    end = lowest_along(Case(bowl, start), start, -start * scale)
    assert float(bowl.value(end)) < 0.05 * float(bowl.value(start))
    assert lowest_along(Case(bowl, start), start, start) is start  # only up that way
    assert lowest_along(Case(bowl, start), start, torch.zeros(2).double()) is start


def test_random_rounding_errs_by_units_in_the_last_place_forward_and_back() -> None:
    risk = risk_of()
    theta = drawn(risk.space.size, seed=3)
    value, gradient = risk.value(theta), risk.gradient(theta)
    errors = []
    for seed in range(4):  # those of one draw may cancel to the last bit
        with RandomRounding(seed):
            other, slope = risk.value(theta), risk.gradient(theta)
        errors.append(abs(float(other - value)))
        assert 0 < float((slope - gradient).abs().max()) < 1e-13
    assert 0 < max(errors) < 1e-14 * (1 + float(value))
    assert float(risk.value(theta) - value) == 0


# -- parameters that the user has --------------------------------------------------------------------------------------


def test_the_best_of_the_points_given_is_taken() -> None:
    risk = risk_of()
    theta = drawn(risk.space.size, seed=3)
    better = [theta - t * risk.gradient(theta) for t in (1e-3, 1e-1, 1e-2)]
    (found,) = certify(risk, theta, [Transfer(points=(theta, *better, theta + 1))])
    assert found.established
    assert found.bound == pytest.approx(float(risk.value(theta) - risk.value(better[1])), rel=1e-9)
    assert "parameter vector 2 of the 5" in found.claim
    assert found.level is Level.RIGOROUS


def test_without_points_or_without_better_ones_there_is_no_claim() -> None:
    risk = risk_of()
    theta = drawn(risk.space.size, seed=3)
    (found,) = certify(risk, theta, ["transfer"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "Transfer(points=[...])" in found.reason
    (found,) = certify(risk, theta, [Transfer(points=(theta, theta * (1 + 1e-16)))])
    assert found.outcome is Outcome.UNDECIDED
    nan = torch.full_like(theta, torch.nan)
    with pytest.raises(InvalidInputError, match="points= holds NaN or infinite entries in number 1"):
        certify(risk, theta, [Transfer(points=(theta, nan))])
    with pytest.raises(InvalidInputError, match=r"points= holds vectors \(13,\)"):
        certify(risk, theta, [Transfer(points=(theta[:5],))])


# -- escapes -----------------------------------------------------------------------------------------------------------


def product() -> tw.EmpiricalRisk:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    return tw.EmpiricalRisk(net, nn.MSELoss(), torch.ones(3, 1), torch.ones(3, 1))


def test_a_saddle_is_left_along_its_curvature_and_further_down() -> None:
    risk, origin = product(), torch.zeros(2, dtype=DOUBLE)
    for asked in (["negative curvature", "escape step"], ["escape step"]):
        found = certify(risk, origin, asked)[-1]
        assert found.established, found.reason
        assert found.level is Level.RIGOROUS
        assert 0.99 < (found.bound or 0) <= 1.0
        there = found.evidence["theta"]
        assert isinstance(there, Tensor)
        assert 1 - float(risk.value(there)) >= (found.bound or 0)


def test_a_degenerate_saddle_is_left_by_a_move_that_changes_no_output() -> None:
    net = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(4)])
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), torch.ones(3, 1), torch.ones(3, 1))
    (found,) = certify(risk, torch.zeros(4, dtype=DOUBLE), ["escape step"])
    assert found.established
    assert "'fibre descent'" in found.claim
    assert (found.bound or 0) > 0.9


def test_a_minimum_is_not_left() -> None:
    for objective, theta in (
        (product(), torch.ones(2, dtype=DOUBLE)),
        (Quadratic([1.0, 0.0]), torch.zeros(2, dtype=DOUBLE)),
        (product() + tw.L2(product(), 3.0), torch.zeros(2, dtype=DOUBLE)),
    ):
        (found,) = certify(objective, theta, [EscapeStep()])
        assert found.outcome is Outcome.UNDECIDED
        assert found.reason == "no direction of descent is known"
