"""Critical points and minima nearby, against Newton's own limit; and what must leave them undecided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gap_problems import ask, critical, draw, perceptron, settled
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import CriticalPointNearby, MinimumNearby, Outcome, State
from thalweg.foundation import InvalidInputError
from thalweg.zoo import Quadratic

NEARBY, MINIMUM = CriticalPointNearby(), MinimumNearby()
LOSSES: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
    "squares": (nn.MSELoss(), lambda: draw(8, 2, seed=9)),
    "labels": (nn.CrossEntropyLoss(), lambda: torch.arange(8) % 2),
    "bits": (nn.BCEWithLogitsLoss(), lambda: draw(8, 2, seed=9).sigmoid()),
}


def decayed(loss: str = "squares", decay: float = 0.05, widths: tuple[int, ...] = (2, 3, 2), seed: int = 0,
            activation: nn.Module | None = None) -> tw.Objective:  # fmt: skip
    risk = tw.EmpiricalRisk(
        perceptron(widths, activation, seed=seed), LOSSES[loss][0], draw(8, 2, seed=seed), LOSSES[loss][1]()
    )
    return risk + tw.L2(risk, decay)


def start(objective: tw.Objective, seed: int = 0) -> Tensor:
    return draw(objective.space.size, seed=seed) * 0.7


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus])
def test_a_minimum_of_a_network_with_decay(loss: str, activation: Callable[[], nn.Module]) -> None:
    objective = decayed(loss, activation=activation())
    best = settled(objective, start(objective))
    moved = best + 1e-10 * draw(objective.space.size, seed=3)
    found, below = ask(NEARBY, objective, moved), ask(MINIMUM, objective, moved)
    assert found.established, found.reason
    exact = critical(objective, moved)
    assert float((exact - moved).norm()) <= found.bound <= 3 * float((exact - moved).norm()) + 1e-12
    assert found.evidence["index"] == int((torch.linalg.eigvalsh(objective.hessian(exact)) < 0).sum())
    if found.evidence["index"] == 0:
        assert "a strict local minimum" in found.claim
        assert below.established, below.reason
        assert float((exact - moved).norm()) <= float(below.evidence["radius"])
        gap = float(objective.value(moved)) - float(objective.value(exact))
        assert gap <= below.bound + 1e-15


def test_a_saddle_has_its_index() -> None:
    """At zero weights the network is stationary by symmetry, up to a bias: a saddle for small decay."""
    risk = tw.EmpiricalRisk(perceptron((2, 2, 1), bias=False), nn.MSELoss(), draw(8, 2), draw(8, 1) * 3)
    objective = risk + tw.L2(risk, 0.01)
    origin = torch.zeros(6, dtype=torch.float64) + 1e-9
    found = ask(NEARBY, objective, origin)
    assert found.established, found.reason
    assert found.evidence["index"] == int((torch.linalg.eigvalsh(objective.hessian(0 * origin)) < 0).sum()) > 0
    assert "a saddle with" in found.claim
    assert float(origin.norm()) <= found.bound
    assert ask(MINIMUM, objective, origin).outcome is Outcome.UNDECIDED


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_quadratics_in_closed_form(scale: float) -> None:
    """No change of the Hessian: the Newton step leads to the minimum, the gap is that of the gradient in its norm."""
    bowl = Quadratic([1.0 * scale, 4.0 * scale])
    theta = torch.tensor([3.0, 1.0], dtype=torch.float64)
    found = ask(CriticalPointNearby(lipschitz=0.0), bowl, theta)
    assert found.established, found.reason
    minimum = theta - torch.linalg.solve(bowl.hessian(theta), bowl.gradient(theta))
    assert float((theta - minimum).norm()) <= found.bound <= float((theta - minimum).norm()) * (1 + 1e-6)
    below = ask(MinimumNearby(lipschitz=0.0), bowl, theta)
    gap = float(bowl.value(theta) - bowl.value(minimum))
    assert gap <= below.bound
    assert below.bound == pytest.approx(float(bowl.gradient(theta).norm()) ** 2 / (2 * scale), rel=1e-6)
    saddle = Quadratic([2.0 * scale, -1.0 * scale])
    found = ask(CriticalPointNearby(lipschitz=0.0), saddle, theta)
    assert found.evidence["index"] == 1
    assert ask(MinimumNearby(lipschitz=0.0), saddle, theta).outcome is Outcome.UNDECIDED


def test_a_penalty_of_the_users_with_its_constant() -> None:
    """``cosh`` in each coordinate: third derivative at most sinh(1) within reach."""
    space = tw.ParameterSpace({"x": (2,)})
    bowl = tw.Penalty(space, lambda p: p["x"].cosh().sum(), name="cosh")
    theta = torch.tensor([0.05, -0.1], dtype=torch.float64)
    assert "pass CriticalPointNearby(lipschitz=)" in ask(NEARBY, bowl, theta).reason
    found = ask(CriticalPointNearby(lipschitz=1.2), bowl, theta)
    assert found.established
    assert any(h.state is State.ASSUMED for h in found.hypotheses)
    assert float(theta.norm()) <= found.bound
    below = ask(MinimumNearby(lipschitz=1.2), bowl, theta)
    assert float(bowl.value(theta)) - 2 <= below.bound
    for certifier in (CriticalPointNearby(lipschitz=1e3), MinimumNearby(lipschitz=1e3)):
        assert ask(certifier, bowl, theta).outcome is Outcome.UNDECIDED
    with pytest.raises(InvalidInputError, match="finite and not negative"):
        CriticalPointNearby(lipschitz=float("nan"))


# -- what must withdraw them -------------------------------------------------------------------------------------------


def test_a_point_further_off_is_undecided() -> None:
    objective = decayed()
    best = settled(objective, start(objective))
    far = best + 0.3 * draw(objective.space.size, seed=5)
    for certifier in (NEARBY, MINIMUM):
        assert ask(certifier, objective, best).established
        assert ask(certifier, objective, far).outcome is Outcome.UNDECIDED


def test_without_decay_symmetries_make_the_hessian_singular() -> None:
    """A dead unit leaves the Hessian singular whatever the rest does."""
    objective = decayed(decay=0.0)
    theta = settled(objective, start(objective))
    blocks = objective.space.unflatten(theta.clone())
    blocks["0.weight"][0] = 0
    blocks["0.bias"][0] = 0
    blocks["2.weight"][:, 0] = 0
    dead = objective.space.flatten(blocks)
    for certifier in (NEARBY, MINIMUM):
        assert ask(certifier, objective, dead).outcome is Outcome.UNDECIDED


def test_corners_and_terms_without_a_bound_are_declined() -> None:
    relu = decayed(activation=nn.ReLU())
    quartic = decayed() + tw.Penalty(decayed(), lambda p: (p["0.weight"] ** 4).sum(), name="fourth")
    for certifier in (NEARBY, MINIMUM):
        assert "continuous derivatives, not relu" in ask(certifier, relu, start(relu)).reason
        assert "Penalty(fourth) changes is not known" in ask(certifier, quartic, start(quartic)).reason
    huber = tw.EmpiricalRisk(perceptron((2, 3, 1)), nn.HuberLoss(), draw(4, 2), draw(4, 1))
    assert ask(NEARBY, huber, huber.initial).outcome is Outcome.NOT_APPLICABLE
