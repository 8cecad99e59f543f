"""Identities of the gradient: exact ones as tests of its code, others where the point is stationary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import (
    BalancedUnits,
    CalibratedOutputs,
    Case,
    Certificate,
    ClaimKind,
    LastLayerGradient,
    Outcome,
    certify,
)
from thalweg.certificates.convex_newton import minimise
from thalweg.foundation import InvalidInputError
from thalweg.objectives import Evaluation

DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def perceptron(activation: nn.Module, *, bias: bool = True, scale: float = 1.0) -> tuple[tw.EmpiricalRisk, Tensor]:
    net = nn.Sequential(
        nn.Linear(3, 5, bias=bias), activation, nn.Linear(5, 4, bias=bias), activation, nn.Linear(4, 2, bias=bias)
    )
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), scale * drawn(20, 3), drawn(20, 2, seed=1))
    return risk, drawn(risk.space.size, seed=2)


def ask(objective: tw.Objective, theta: Tensor, name: str) -> Certificate:
    return certify(objective, theta, [name])[0]


# -- exact at every point ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ReLU(), nn.Identity()])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_homogeneous_units_pull_equally_at_every_point(activation: nn.Module, bias: bool, scale: float) -> None:
    risk, theta = perceptron(activation, bias=bias, scale=scale)
    for objective in (risk, risk + tw.L2(risk, 0.3)):
        found = ask(objective, theta, "homogeneous units")
        assert found.established, found.reason
        assert found.kind is ClaimKind.IDENTITY
        assert float(found.evidence["relative difference"]) < 1e-12
        named = {name: risk.space.slice(name) for name in risk.space.names}
        g = risk.gradient(theta) * theta
        first = float(g[named["0.weight"]].sum() + (g[named["0.bias"]].sum() if bias else 0))
        assert first == pytest.approx(float(g[named["2.weight"]].sum()), rel=1e-9, abs=1e-9 * float(g.abs().max()))


def test_units_that_are_not_homogeneous_are_not_a_violation() -> None:
    found = ask(*perceptron(nn.Tanh()), "homogeneous units")
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "not tanh" in found.reason
    mixed = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    risk = tw.EmpiricalRisk(mixed, nn.MSELoss(), drawn(9, 3), drawn(9, 1))
    found = ask(risk, drawn(risk.space.size), "homogeneous units")
    assert found.established
    assert "4 homogeneous units" in found.claim


def test_a_wrong_gradient_violates_the_identity() -> None:
    risk, theta = perceptron(nn.LeakyReLU(0.2))
    right = Case(risk, theta)
    for certifier in ("homogeneous units", "last layer gradient"):
        case = Case(risk, theta)
        wrong = right.gradient.clone()
        wrong[risk.space.slice("4.weight")] *= 1 + 1e-9
        case.__dict__.update(_timed=(Evaluation(risk.value(theta), wrong), 1e-3), gradient_error=right.gradient_error)
        asked = next(c for c in tw.certificates.registered_certifiers() if c.name == certifier)
        found = asked.prove(case, ())
        assert found.outcome is Outcome.UNDECIDED
        assert "the identity is violated" in found.reason


def test_errors_that_cancel_in_the_sum_are_seen_entry_by_entry() -> None:
    risk, theta = perceptron(nn.Tanh())
    case, right = Case(risk, theta), Case(risk, theta)
    wrong, last = right.gradient.clone(), risk.space.slice("4.weight")
    off = 1e-6 * float(wrong[last].abs().max())
    wrong[last.start] += off / theta[last.start]
    wrong[last.start + 1] -= off / theta[last.start + 1]  # <W, grad W> stays
    case.__dict__.update(_timed=(Evaluation(risk.value(theta), wrong), 1e-3), gradient_error=right.gradient_error)
    found = LastLayerGradient().prove(case, ())
    assert found.outcome is Outcome.UNDECIDED
    assert "the identity is violated" in found.reason


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.GELU()])
def test_the_last_layer_agrees_with_the_outputs(activation: nn.Module) -> None:
    risk, theta = perceptron(activation)
    found = ask(risk, theta, "last layer gradient")
    assert found.established, found.reason
    assert float(found.evidence["relative difference"]) < 1e-13


def test_what_follows_the_last_layer_or_freezes_it_withdraws_it() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid())
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), drawn(9, 3), drawn(9, 2))
    found = ask(risk, risk.initial, "last layer gradient")
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "sigmoid follows" in found.reason
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    frozen = tw.EmpiricalRisk(plain, nn.MSELoss(), drawn(9, 3), drawn(9, 2), parameters="0.*")
    assert "not frozen" in ask(frozen, frozen.initial, "last layer gradient").reason
    assert "frozen weights" in ask(frozen, frozen.initial, "homogeneous units").reason
    assert LastLayerGradient().name == "last layer gradient"


# -- where the gradient vanishes ---------------------------------------------------------------------------------------


def stationary_last_layer(loss: nn.Module, targets: Tensor) -> tuple[tw.EmpiricalRisk, Tensor]:
    """Random features, and Newton's method in the last layer."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    risk = tw.EmpiricalRisk(net, loss, drawn(40, 3), targets)
    theta = drawn(risk.space.size, seed=3)
    theta[risk.space.slice("2.weight").start :] = 0
    head = tw.objectives.restrict(risk, "2.*", theta)
    return risk, head.project(minimise(head, torch.zeros(head.space.size, dtype=DOUBLE)).theta)


def test_mean_probabilities_are_frequencies_where_the_last_layer_is_stationary() -> None:
    labels = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))
    risk, theta = stationary_last_layer(nn.CrossEntropyLoss(), labels)
    found = ask(risk, theta, "calibrated outputs")
    assert found.established, found.reason
    assert "frequencies" in found.claim
    frequency = torch.bincount(labels, minlength=3).double() / 40
    predicted = torch.softmax(risk.outputs(theta), 1).mean(0)
    assert float((predicted - frequency).abs().max()) <= float(found.bound or 0) + 1e-12
    assert abs(float(found.evidence["sum of g.f"])) < 1e-8


def test_the_loss_is_a_difference_of_squares_where_the_last_layer_is_stationary() -> None:
    y = drawn(40, 3, seed=9)
    risk, theta = stationary_last_layer(nn.MSELoss(), y)
    found = ask(risk, theta, "calibrated outputs")
    assert found.established, found.reason
    assert "mean residuals are zero" in found.claim
    f = risk.outputs(theta)
    assert float(risk.value(theta)) == pytest.approx(float((y**2).sum() - (f**2).sum()) / 120, rel=1e-10)


def test_a_point_that_is_not_stationary_is_declined_and_decay_too() -> None:
    risk, theta = stationary_last_layer(nn.MSELoss(), drawn(40, 3, seed=9))
    moved = theta.clone()
    moved[-1] += 1e-3
    found = ask(risk, moved, "calibrated outputs")
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "the last layer is stationary" in found.reason
    assert certify(risk, moved, [CalibratedOutputs(tolerance=0.1)])[0].established
    assert ask(risk + tw.L2(risk, 0.1), theta, "calibrated outputs").outcome is Outcome.NOT_APPLICABLE
    for certifier in (CalibratedOutputs, BalancedUnits):
        with pytest.raises(InvalidInputError, match="tolerance is relative"):
            certifier(tolerance=0.0)


def decayed(strengths: tuple[float, float]) -> tuple[tw.Objective, Tensor]:
    """A product of two weights with decay: stationary where the squares balance."""
    ones = torch.ones(4, 1, dtype=DOUBLE)
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), ones, ones)
    objective = risk + tw.L2(risk, strengths[0], parameters="0.*") + tw.L2(risk, strengths[1], parameters="2.*")
    theta = torch.tensor([1.0, 1.0], dtype=DOUBLE)
    for _ in range(60):
        theta = theta - torch.linalg.solve(objective.hessian(theta), objective.gradient(theta))
    return objective, theta


@pytest.mark.parametrize("strengths", [(0.1, 0.1), (0.2, 0.05)])
def test_decay_balances_the_units(strengths: tuple[float, float]) -> None:
    objective, theta = decayed(strengths)
    assert float(theta.abs().min()) > 0.1
    found = ask(objective, theta, "balanced units")
    assert found.established, found.reason
    assert abs(strengths[0] * float(theta[0]) ** 2 - strengths[1] * float(theta[1]) ** 2) <= float(found.bound or 0)
    assert float(found.bound or 1) < 1e-12
    moved = theta * torch.tensor([1.01, 1 / 1.01], dtype=DOUBLE)
    assert ask(objective, moved, "balanced units").outcome is Outcome.NOT_APPLICABLE


def test_balance_needs_decay_towards_zero_and_homogeneous_units() -> None:
    risk, theta = perceptron(nn.ReLU())
    assert "weight decay" in ask(risk, theta, "balanced units").reason
    away = risk + tw.L2(risk, 0.1, center=torch.ones_like(theta))
    assert "towards zero" in ask(away, theta, "balanced units").reason
    penalty = risk + tw.Penalty(risk, lambda p: (p["0.weight"] ** 2).sum(), name="own")
    assert "not Penalty(own)" in ask(penalty, theta, "balanced units").reason
    smooth, there = perceptron(nn.Tanh())
    assert "homogeneous activation" in ask(smooth + tw.L2(smooth, 0.1), there, "balanced units").reason
