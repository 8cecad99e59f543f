"""Directions of negative curvature against closed forms, and what must withdraw them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Level, NegativeCurvature, Outcome, Scope, State, certify
from thalweg.certificates.negative_curvature import DENSE, curvature_along
from thalweg.foundation import InvalidInputError
from thalweg.zoo import Quadratic


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(x: Tensor, y: Tensor) -> tw.EmpiricalRisk:
    return tw.EmpiricalRisk(nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)), nn.MSELoss(), x, y)


def test_the_saddle_of_a_product_has_a_known_curvature() -> None:
    """(w1 w2 - 1)^2 at zero: Hessian [[0, -2], [-2, 0]]."""
    ones = torch.ones(3, 1, dtype=torch.float64)
    (found,) = certify(chain(ones, ones), torch.zeros(2).double(), ["negative curvature"])
    assert found.established
    assert found.level is Level.RIGOROUS
    assert -2 <= float(found.evidence["curvature"]) < -2 + 1e-9
    assert found.scope is Scope.POINT


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scaled_targets_scale_the_curvature(scale: float) -> None:
    ones = torch.ones(3, 1, dtype=torch.float64)
    (found,) = certify(chain(ones, scale * ones), torch.zeros(2).double(), ["negative curvature"])
    assert float(found.evidence["curvature"]) == pytest.approx(-2 * scale, rel=1e-9)


def test_a_convex_loss_and_a_flat_one_are_never_refuted() -> None:
    for spectrum in ([1.0, 2.0], [0.0, 1.0], [0.0, 0.0]):
        (found,) = certify(Quadratic(spectrum), torch.ones(2).double(), ["negative curvature"])
        assert found.outcome is Outcome.UNDECIDED
    risk = tw.EmpiricalRisk(nn.Linear(3, 2), nn.CrossEntropyLoss(), drawn(8, 3), torch.arange(8) % 2)
    for seed in range(5):
        (found,) = certify(risk, drawn(8, seed=seed), ["negative curvature"])
        assert found.outcome is Outcome.UNDECIDED


def test_curvature_that_cancels_between_samples_is_rounding() -> None:
    """Every sample bends the loss, half of them up and half of them down by as much."""
    x = torch.tensor([0.1, 0.7, 0.3, 0.1, 0.7, 0.3], dtype=torch.float64).reshape(-1, 1)
    y = torch.tensor([0.3, 0.3, 0.3, -0.3, -0.3, -0.3], dtype=torch.float64).reshape(-1, 1)
    for loss, reduction in ((nn.MSELoss(), None), (lambda f, t: ((f - t) ** 2).mean(), "mean")):
        net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        risk = tw.EmpiricalRisk(net, loss, x, y, reduction=reduction)
        (found,) = certify(risk, torch.zeros(2).double(), ["negative curvature"])
        assert found.outcome is Outcome.UNDECIDED


def test_a_product_that_vanishes_exactly_is_rounding() -> None:
    """A direction in the null space of the Hessian, at theta = 0 where moving the parameters shows nothing."""

    def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels)

    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 3))
    x = drawn(6, 3)
    risk = tw.EmpiricalRisk(net, cross_entropy, torch.cat([x, x, x]), torch.arange(18) // 6, reduction="mean")
    theta = torch.zeros(risk.space.size).double()
    flat = torch.zeros_like(theta)
    flat[risk.space.slice("2.bias")] = 1 / math.sqrt(3)  # a shift of all logits
    figure = curvature_along(Case(risk, theta), flat + 1e-9 * drawn(len(theta)))
    assert abs(figure.value) <= figure.error + 1e-15


def test_lanczos_for_many_parameters() -> None:
    net = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 2))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), drawn(20, 10), drawn(20, 2, seed=1))
    theta = torch.zeros(risk.space.size).double()
    assert len(theta) > DENSE
    (found,) = certify(risk, theta, ["negative curvature"])
    assert found.established
    assert "Lanczos" in str(found.evidence["found"])
    exact = torch.linalg.eigvalsh(risk.hessian(theta))[0]
    assert float(exact) - 1e-12 <= float(found.evidence["curvature"]) < 0.9 * float(exact)


def test_a_given_direction_is_taken_and_checked() -> None:
    ones = torch.ones(3, 1, dtype=torch.float64)
    risk, origin = chain(ones, ones), torch.zeros(2).double()
    (found,) = certify(risk, origin, [NegativeCurvature(direction=torch.tensor([3.0, 3.0]))])
    assert float(found.evidence["curvature"]) == pytest.approx(-2, rel=1e-9)
    (found,) = certify(risk, origin, [NegativeCurvature(direction=torch.tensor([1.0, 0.0]))])
    assert found.outcome is Outcome.UNDECIDED
    with pytest.raises(InvalidInputError, match="direction= must be a finite vector"):
        certify(risk, origin, [NegativeCurvature(direction=torch.zeros(2))])


def test_a_lipschitz_constant_makes_a_ball_of_it() -> None:
    """x^3/3 - x at -1 + 1/4: the Hessian, 2 x, has the constant 2 and stays negative up to zero."""
    cubic = tw.Penalty(tw.ParameterSpace({"x": (1,)}), lambda p: (p["x"] ** 3).sum() / 3 - p["x"].sum(), name="cubic")
    there = torch.tensor([-0.75]).double()
    (found,) = certify(cubic, there, [NegativeCurvature(hessian_lipschitz=2.0)])
    assert found.scope is Scope.BALL
    assert found.bound is not None
    assert 0.7499 < found.bound <= 0.75
    assert found.hypotheses[-1].state is State.ASSUMED
    with pytest.raises(InvalidInputError, match="hessian_lipschitz must be positive"):
        NegativeCurvature(hessian_lipschitz=-1.0)


# -- what must withdraw it ---------------------------------------------------------------------------------------------


def test_weight_decay_beyond_the_curvature_withdraws_it() -> None:
    ones = torch.ones(3, 1, dtype=torch.float64)
    risk = chain(ones, ones)
    for strength, established in ((1.9, True), (2.1, False)):
        (found,) = certify(risk + tw.L2(risk, strength), torch.zeros(2).double(), ["negative curvature"])
        assert found.established is established


def test_corners_withdraw_it() -> None:
    x, y = drawn(6, 2), drawn(6, 1, seed=1)
    risk = tw.EmpiricalRisk(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), nn.MSELoss(), x, y)
    theta = drawn(risk.space.size, seed=2)
    theta[risk.space.slice("0.bias")] = 0
    theta[risk.space.slice("0.weight")] = 0
    (found,) = certify(risk, theta, ["negative curvature"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "twice differentiable" in found.reason


def test_without_second_derivatives_it_is_declined() -> None:
    class First(tw.Objective):
        space = tw.ParameterSpace({"x": (2,)})
        path = tw.objectives.DerivativePath(second="none")

        def chunk_value(self, theta: Tensor, chunk: object) -> Tensor:
            return (theta**2).sum()

        def content(self) -> list[object]:
            return ["first"]

    (found,) = certify(First(), torch.ones(2).double(), ["negative curvature"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "second derivatives" in found.reason


def test_a_hessian_that_is_at_hand_is_used_at_any_size() -> None:
    """Beyond `DENSE` parameters the direction is iterated for, unless the matrix is known."""
    spectrum = torch.linspace(1.0, 2.0, DENSE + 20, dtype=torch.float64)
    spectrum[7] = -1e-9
    quadratic = Quadratic(spectrum.tolist())
    theta = torch.zeros(len(spectrum)).double()
    (iterated,) = certify(quadratic, theta, ["negative curvature"])
    assert "dense Hessian" not in f"{iterated.reason} {iterated.evidence}"
    hessian = quadratic.hessian(theta)
    (found,) = certify(quadratic, theta, ["negative curvature"], hessian=hessian)
    assert found.established
    assert found.evidence["found"] == "from the dense Hessian"
    assert float(found.evidence["curvature"]) == pytest.approx(-1e-9, rel=1e-3)
    direction = found.evidence["direction"]
    assert isinstance(direction, Tensor)
    assert float(direction @ hessian @ direction) < 0
