"""Intervals of loss and gradient, and regions without critical points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, ClaimKind, Level, Outcome, Scope, certify
from thalweg.certificates.intervals import IntervalGradient, gradient_interval, loss_interval
from thalweg.foundation import InvalidInputError


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ridge(scale: float = 1.0) -> tuple[tw.Objective, Tensor]:
    """Ridge regression and its only critical point."""
    x, y = draw(12, 3, seed=4), draw(12, 1, seed=5) * scale
    risk = tw.EmpiricalRisk(nn.Linear(3, 1), nn.MSELoss(), x, y)
    wide = torch.cat([x, torch.ones(12, 1)], 1).double()
    best = torch.linalg.solve(wide.T @ wide * 2 / 12 + 0.1 * torch.eye(4).double(), 2 / 12 * wide.T @ y)[:, 0]
    return risk + tw.L2(risk, 0.1), best


def perceptron(loss: nn.Module, targets: Tensor) -> tw.EmpiricalRisk:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, targets.shape[1]))
    return tw.EmpiricalRisk(net, loss, draw(len(targets), 3, seed=7), targets)


@pytest.mark.parametrize("radius", [0.0, 1e-6, 0.1])
def test_intervals_hold_what_autograd_gives(radius: float) -> None:
    risk = perceptron(nn.BCEWithLogitsLoss(), (draw(8, 2) > 0).double())
    theta = draw(risk.space.size, seed=3)
    case = Case(risk, theta)
    value, slope = loss_interval(case, radius), gradient_interval(case, radius)
    assert slope.low.shape == slope.high.shape == theta.shape
    for seed in range(10):
        move = radius * (2 * torch.rand(len(theta), generator=torch.Generator().manual_seed(seed)).double() - 1)
        there = risk.evaluate(theta + move, 1)
        assert there.gradient is not None
        assert value.low - 1e-14 <= there.value <= value.high + 1e-14
        assert bool((slope.low - 1e-14 <= there.gradient).all())
        assert bool((there.gradient <= slope.high + 1e-14).all())
    if radius == 0:
        assert float(value.high - value.low) < 1e-14
        assert float((slope.high - slope.low).max()) < 1e-14


def test_numbers_that_overflow_have_no_bounds() -> None:
    risk = perceptron(nn.MSELoss(), draw(4, 1))
    value = loss_interval(Case(risk, draw(risk.space.size) * 1e200))
    assert value.low <= value.high
    assert math.isinf(float(value.high))


def test_agrees_with_the_running_error_of_the_forward_pass() -> None:
    risk = perceptron(nn.MSELoss(), draw(8, 2))
    case = Case(risk, draw(risk.space.size, seed=5))
    low, high = loss_interval(case)
    assert case.value.level is Level.RIGOROUS
    assert case.value.below <= float(high)
    assert float(low) <= case.value.above


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("away", [1e-6, 1e-3, 1.0, 30.0])
def test_no_critical_point_is_claimed_only_where_there_is_none(scale: float, away: float) -> None:
    objective, best = ridge(scale)
    for seed in range(4):
        theta = best + scale * away * draw(4, seed=seed)
        (found,) = certify(objective, theta, ["interval gradient"])
        assert found.established, found.reason
        assert (found.kind, found.scope, found.level) == (ClaimKind.NOT_A_MINIMUM, Scope.BALL, Level.RIGOROUS)
        truth = float((theta - best).norm())
        assert found.bound is not None
        assert 0.01 * truth < found.bound < truth + 1e-12 * scale
        direction = found.evidence["direction"]
        assert isinstance(direction, Tensor)
        assert float(objective.value(theta + 1e-3 * direction)) < float(objective.value(theta))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_at_a_critical_point_nothing_is_claimed(scale: float) -> None:
    objective, best = ridge(scale)
    (found,) = certify(objective, best, ["interval gradient"])
    assert found.outcome is Outcome.UNDECIDED
    assert found.evidence["least value"] <= float(objective.value(best)) * (1 + 1e-15)
    assert "no larger than rounding explains" in found.reason


def test_a_kink_withdraws_the_claim() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
    (found,) = certify(risk, torch.ones(3), ["interval gradient"])
    assert found.outcome is Outcome.UNDECIDED
    assert "the kink at 0" in found.reason
    (smooth,) = certify(risk.subset([1, 1]), torch.ones(3), ["interval gradient"])
    assert smooth.established


def test_other_terms_are_declined_by_name() -> None:
    risk = perceptron(nn.MSELoss(), draw(4, 1))
    odd = risk + tw.Penalty(risk, lambda p: p["0.bias"].sum(), "sum of biases")
    (found,) = certify(odd, risk.initial, ["interval gradient"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "Penalty(sum of biases)" in found.reason


def test_a_batch_of_points_is_refused() -> None:
    risk = perceptron(nn.MSELoss(), draw(4, 1))
    with pytest.raises(InvalidInputError, match="one point"):
        Case(risk, risk.initial.expand(2, -1))


def test_settings_are_few() -> None:
    objective, best = ridge()
    for bits in (20, 53, 256):
        (found,) = certify(objective, best + 0.5, [IntervalGradient(bits=bits)])
        assert found.established
