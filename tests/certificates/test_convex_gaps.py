"""Gaps of linear models against their exact minima, and the regret inequality they rest on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gap_problems import ask, descended, draw, perceptron
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, ConvexGap, LastLayerGap, Outcome, Scope, TangentGap
from thalweg.certificates import convex_bound as module
from thalweg.certificates.linear_parts import euler_vector, last_layer_coordinates
from thalweg.certificates.tangent_model import TangentModel, output_slopes
from thalweg.foundation import InvalidInputError

LOSSES: dict[str, tuple[nn.Module, Callable[[int], Tensor], int]] = {
    "squares": (nn.MSELoss(), lambda seed: draw(6, 2, seed=seed), 2),
    "labels": (nn.CrossEntropyLoss(), lambda seed: torch.randint(0, 3, (6,), generator=generator(seed)), 3),
    "smoothed": (
        nn.CrossEntropyLoss(label_smoothing=0.2), lambda seed: torch.randint(0, 3, (6,), generator=generator(seed)), 3
    ),
    "bits": (nn.BCEWithLogitsLoss(), lambda seed: torch.randint(0, 2, (6, 2), generator=generator(seed)).double(), 2),
    "huber": (nn.HuberLoss(), lambda seed: draw(6, 2, seed=seed), 2),
    "absolute": (nn.L1Loss(), lambda seed: draw(6, 2, seed=seed), 2),
}  # fmt: skip


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(loss: str, seed: int = 0, width: int = 5, activation: nn.Module | None = None) -> tw.EmpiricalRisk:
    function, targets, outputs = LOSSES[loss]
    model = perceptron((3, width, outputs), activation, seed=seed)
    return tw.EmpiricalRisk(model, function, draw(6, 3, seed=seed), targets(seed))


def gap_of_squares(risk: tw.EmpiricalRisk, theta: Tensor, columns: Tensor | None = None, decay: float = 0.0) -> float:
    """``L - min`` over a model linear in its parameters, unrestricted, by least squares."""
    jacobian = risk.jacobian(theta)
    chosen = torch.arange(jacobian.shape[1]) if columns is None else columns
    scale = (2 / risk.targets.numel()) ** 0.5
    rows = [scale * jacobian[:, chosen], decay**0.5 * torch.eye(len(chosen), dtype=torch.float64)]
    target = [scale * (risk.outputs(theta) - risk.targets).reshape(-1), decay**0.5 * theta[chosen]]
    matrix, right = torch.cat(rows), torch.cat(target)
    left = right - matrix @ (torch.linalg.pinv(matrix) @ right)
    return float((right @ right - left @ left) / 2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_squares_against_least_squares(seed: int, decay: float) -> None:
    risk = problem("squares", seed, width=2)  # more outputs than parameters of the last layer, fewer than of all
    objective = risk + tw.L2(risk, decay) if decay else risk
    for certifier, columns in (
        (TangentGap(radius=1e4), None),  # beyond the least-squares step
        (LastLayerGap(), last_layer_coordinates(Case(risk, risk.initial))),
    ):
        found = ask(certifier, objective, risk.initial)
        truth = gap_of_squares(risk, risk.initial, columns, decay)
        assert found.established
        assert found.scope is Scope.LINEARISED
        assert truth * (1 - 1e-9) <= found.bound
        if decay or columns is not None:
            assert "radius" not in found.evidence
            assert found.bound <= truth * (1 + 1e-5) + 1e-10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("whole", [True, False])
def test_no_tried_parameters_beat_the_gap(loss: str, whole: bool) -> None:
    """Minimised over the model within the radius by projected gradients, and along many random moves."""
    risk = problem(loss)
    certifier = (TangentGap if whole else LastLayerGap)(radius=0.5)
    found = ask(certifier, risk, risk.initial)
    assert found.established, found.reason
    model = TangentModel(Case(risk, risk.initial), None if whole else last_layer_coordinates(Case(risk, risk.initial)))
    limit = 0.5 if "radius" in found.evidence else float("inf")
    delta, value = torch.zeros_like(model.strong), float(risk.value(risk.initial))
    start, lowest = value, value
    for step in range(200):
        value, slope = model.value_and_gradient(delta)
        lowest = min(lowest, value)
        delta = delta - 0.5 / (1 + 0.02 * step) * slope
        delta = delta * min(1.0, limit / max(float(delta.norm()), 1e-300))
    assert start - lowest <= found.bound
    if "radius" in found.evidence:
        assert found.bound <= 0.5 * float(model.value_and_gradient(torch.zeros_like(delta))[1].norm()) + 1e-9
    if "radius" in found.evidence and loss not in ("huber", "absolute"):
        assert found.bound <= (start - lowest) * 1.5 + 1e-3


def test_last_layers_are_the_network_itself() -> None:
    """The claim of the last layer is one about networks: other weights there do lower the loss, by less than told."""
    risk = problem("labels", 1)
    objective = risk + tw.L2(risk, 0.01)
    found = ask(LastLayerGap(), objective, risk.initial)
    restricted = tw.restrict(objective, "2.*", risk.initial)
    best = restricted.value(descended(restricted, restricted.embed(risk.initial), 60))
    truth = float(objective.value(risk.initial)) - float(best)
    assert truth - 1e-9 <= found.bound <= truth * 1.01


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_linear_networks_are_certified_outright(scale: float) -> None:
    x, y = draw(20, 3), draw(20, 2) * scale
    risk = tw.EmpiricalRisk(nn.Linear(3, 2), nn.MSELoss(), x, y)
    design = torch.cat([x, torch.ones(20, 1, dtype=torch.float64)], 1)
    best = float(((y - design @ torch.linalg.lstsq(design, y).solution) ** 2).mean())
    found = ask(ConvexGap(), risk, risk.initial)
    truth = float(risk.value(risk.initial)) - best
    assert found.scope is Scope.ARCHITECTURE
    assert truth * (1 - 1e-9) <= found.bound <= truth * (1 + 1e-6) + 1e-12 * scale**2


def test_logistic_regression_with_decay_and_without() -> None:
    x, y = draw(20, 3), torch.randint(0, 2, (20, 1), generator=generator(0)).double()
    risk = tw.EmpiricalRisk(nn.Linear(3, 1), nn.BCEWithLogitsLoss(), x, y)
    decayed = risk + tw.L2(risk, 0.1)
    best = float(decayed.value(descended(decayed, risk.initial, 100)))
    found = ask(ConvexGap(), decayed, risk.initial)
    assert found.scope is Scope.ARCHITECTURE
    truth = float(decayed.value(risk.initial)) - best
    assert truth - 1e-12 <= found.bound <= truth * 1.001
    at_best = descended(decayed, risk.initial, 200)
    assert ask(ConvexGap(), decayed, at_best).bound < 1e-9
    limited = ask(ConvexGap(radius=2.0), risk, risk.initial)
    assert limited.scope is Scope.BALL
    assert limited.evidence["radius"] == 2.0


@pytest.mark.parametrize("seed", range(40))
def test_the_regret_inequality(seed: int) -> None:
    """``L(theta) - L_theta(alpha) <= <grad, gamma - alpha>`` for the losses of the name, whatever alpha."""
    loss = ["squares", "labels", "bits"][seed % 3]
    homogeneous = seed % 2 == 0
    function, targets, outputs = LOSSES[loss]
    model = perceptron((3, 4, outputs), nn.ReLU() if homogeneous else nn.Tanh(), seed=seed, bias=not homogeneous)
    risk = tw.EmpiricalRisk(model, function, draw(6, 3, seed=seed), targets(seed))
    theta = risk.initial * 2
    euler = euler_vector(Case(risk, theta))
    assert euler is not None
    assert ("homogeneous of degree 2" in euler.describe) is homogeneous
    jacobian, gradient, here = risk.jacobian(theta), risk.gradient(theta), float(risk.value(theta))
    assert torch.allclose(jacobian @ euler.gamma, risk.outputs(theta).reshape(-1), atol=1e-12)
    for trial in range(25):
        alpha = draw(risk.space.size, seed=1000 * seed + trial) * [0.1, 1.0, 10.0][trial % 3]
        there = output_slopes(risk, (jacobian @ alpha).reshape(6, outputs)).value
        assert float(gradient @ (euler.gamma - alpha)) - (here - there) >= -1e-10 * (1 + abs(there))


def test_matrix_free_products_give_the_same_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.certificates import tangent_model

    risk = problem("labels", 2)
    objective = risk + tw.L2(risk, 0.01)
    dense = ask(TangentGap(), objective, risk.initial)
    monkeypatch.setattr(tangent_model, "DENSE", 0)
    for certifier in (TangentGap(), LastLayerGap()):
        free = ask(certifier, objective, risk.initial)
        assert free.established
        if isinstance(certifier, TangentGap):
            assert free.bound == pytest.approx(dense.bound, rel=1e-6)


def test_dear_products_leave_the_plain_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEISURE", 0.0)
    risk = problem("labels")
    found = ask(TangentGap(radius=0.7), risk, risk.initial)
    assert found.bound == pytest.approx(0.7 * float(risk.gradient(risk.initial).norm()), rel=1e-9)


# -- what must withdraw them -------------------------------------------------------------------------------------------


def test_a_term_or_loss_not_known_to_be_convex() -> None:
    risk = problem("squares")
    quartic = risk + tw.Penalty(risk, lambda p: (p["0.weight"] ** 4).sum(), name="fourth")
    for certifier in (TangentGap(), LastLayerGap()):
        assert "all other terms are squares of parameters" in ask(certifier, quartic, risk.initial).reason
    model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    clamped = tw.EmpiricalRisk(model, nn.BCELoss(), draw(4, 3), torch.ones(4, 1))
    assert "convex in the outputs" in ask(TangentGap(), clamped, clamped.initial).reason
    negative = tw.EmpiricalRisk(
        nn.Linear(3, 2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, -1.0])), draw(4, 3), torch.tensor([0, 0, 0, 1])
    )
    assert ask(ConvexGap(), negative, negative.initial).outcome is Outcome.NOT_APPLICABLE


def test_what_has_no_last_layer_of_its_own() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    tied = tw.EmpiricalRisk(Tied(), nn.MSELoss(), draw(4, 3), draw(4, 3))
    assert "used elsewhere too" in ask(LastLayerGap(), tied, tied.initial).reason
    squashed = tw.EmpiricalRisk(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), nn.MSELoss(), draw(4, 3), draw(4, 2))
    assert "made by a dense layer" in ask(LastLayerGap(), squashed, squashed.initial).reason
    assert ask(ConvexGap(), problem("squares"), problem("squares").initial).outcome is Outcome.NOT_APPLICABLE
    head = tw.EmpiricalRisk(perceptron((3, 4, 2)), nn.MSELoss(), draw(9, 3), draw(9, 2), parameters="2.*")
    assert ask(ConvexGap(), head, head.initial).established
    body = tw.EmpiricalRisk(perceptron((3, 4, 2)), nn.MSELoss(), draw(9, 3), draw(9, 2), parameters="0.*")
    assert "the last layer is frozen" in ask(LastLayerGap(), body, body.initial).reason
    assert euler_vector(Case(body, body.initial)) is None
    with pytest.raises(InvalidInputError, match="positive and finite"):
        TangentGap(radius=0.0)
