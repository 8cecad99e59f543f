"""Separated data: scaling does bring the loss to zero, and what must withdraw the claim."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gap_problems import ask, descended, draw, perceptron
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Level, Outcome, SeparatedData

SEPARATED = SeparatedData()
LOSSES: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
    "labels": (nn.CrossEntropyLoss(), lambda outputs: outputs.argmax(1)),
    "weighted": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])), lambda outputs: outputs.argmax(1)),
    "bits": (nn.BCEWithLogitsLoss(), lambda outputs: (outputs > 0).double()),
    "signs": (nn.SoftMarginLoss(), lambda outputs: outputs.sign()),
}


def separated(
    loss: str, activation: nn.Module | None = None, bias: bool = True, seed: int = 0, **options: object
) -> tw.EmpiricalRisk:
    """Labels that the network itself gives."""
    model, x = perceptron((2, 6, 3), activation, seed=seed, bias=bias), draw(10, 2, seed=seed)
    with torch.no_grad():
        targets = LOSSES[loss][1](model(x))
    return tw.EmpiricalRisk(model, LOSSES[loss][0], x, targets, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_scaling_brings_the_loss_to_zero(loss: str, activation: Callable[[], nn.Module]) -> None:
    risk = separated(loss, activation())
    found = ask(SEPARATED, risk, risk.initial)
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    direction, margin = found.evidence["direction"], float(found.evidence["margin"])
    values = [float(risk.value(risk.initial + c * direction)) for c in (0.0, 10 / margin, 100 / margin)]
    assert values[0] > values[1] > values[2]
    assert values[2] < 1e-15
    assert float(risk.gradient(risk.initial) @ direction) < 0  # and so not stationary


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales_of_the_inputs(scale: float) -> None:
    model, x = perceptron((2, 6, 3), nn.ReLU(), bias=False), draw(10, 2) * scale
    with torch.no_grad():
        targets = model(x).argmax(1)
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), x, targets)
    assert ask(SEPARATED, risk, risk.initial).established


def test_a_network_of_any_kind_has_a_last_layer() -> None:
    class Pictures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.conv(x)).flatten(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Pictures().double(), draw(5, 1, 4, 4)
    with torch.no_grad():
        targets = model(x).argmax(1)
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), x, targets)
    found = ask(SEPARATED, risk, risk.initial)
    assert found.established, found.reason
    assert found.level is Level.NUMERIC


def test_without_a_linear_layer_other_weights_may_scale() -> None:
    """A rectified output: homogeneous in all parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False), nn.LeakyReLU(0.5))
    x = draw(8, 2)
    with torch.no_grad():
        targets = model.double()(x).argmax(1)
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), x, targets)
    found = ask(SEPARATED, risk, risk.initial)
    assert found.established, found.reason
    assert found.evidence["degree"] == 2


def test_labels_ignored_and_weights_zero_do_not_count() -> None:
    risk = separated("labels")
    wrong = risk.targets.clone()
    wrong[0] = (wrong[0] + 1) % 3
    assert ask(SEPARATED, risk.on(risk.inputs, wrong), risk.initial).outcome is Outcome.UNDECIDED
    model = perceptron((2, 6, 3))
    weights = torch.ones(10)
    weights[0] = 0
    unweighted = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), risk.inputs, wrong, sample_weight=weights)
    assert ask(SEPARATED, unweighted, risk.initial).established
    wrong[0] = -100
    assert ask(SEPARATED, risk.on(risk.inputs, wrong), risk.initial).established


# -- what must withdraw it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_one_wrong_label(loss: str) -> None:
    risk = separated(loss)
    targets = risk.targets.clone()
    targets[3] = {"bits": 1 - targets[3], "signs": -targets[3]}.get(loss, (targets[3] + 1) % 3)
    found = ask(SEPARATED, risk.on(risk.inputs, targets), risk.initial)
    assert found.outcome is Outcome.UNDECIDED
    assert "decisions are wrong" in found.reason


def test_a_tie_is_no_margin() -> None:
    risk = separated("labels")
    assert ask(SEPARATED, risk, torch.zeros_like(risk.initial)).outcome is Outcome.UNDECIDED


def test_decay_soft_labels_and_bounded_outputs() -> None:
    risk = separated("labels")
    assert "no term besides" in ask(SEPARATED, risk + tw.L2(risk, 1e-6), risk.initial).reason
    smoothed = tw.EmpiricalRisk(
        perceptron((2, 6, 3)), nn.CrossEntropyLoss(label_smoothing=0.1), risk.inputs, risk.targets
    )
    assert "soft or smoothed" in ask(SEPARATED, smoothed, risk.initial).reason
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()
    with torch.no_grad():
        targets = model(risk.inputs).argmax(1)
    squashed = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), risk.inputs, targets)
    assert "in which the outputs are homogeneous" in ask(SEPARATED, squashed, squashed.initial).reason
    frozen = separated("labels", parameters="0.*")
    assert ask(SEPARATED, frozen, frozen.initial).outcome is Outcome.NOT_APPLICABLE
    regression = tw.EmpiricalRisk(perceptron((2, 6, 3)), nn.MSELoss(), risk.inputs, draw(10, 3))
    assert ask(SEPARATED, regression, regression.initial).outcome is Outcome.NOT_APPLICABLE


def test_a_partly_frozen_last_layer_does_not_scale() -> None:
    """With the last bias frozen scaling the weights does not scale the outputs."""
    risk = separated("labels", parameters=["0.*", "2.weight"])
    assert ask(SEPARATED, risk, risk.initial).outcome is Outcome.NOT_APPLICABLE


def test_training_ends_in_it() -> None:
    risk = tw.EmpiricalRisk(perceptron((2, 8, 2), seed=4), nn.CrossEntropyLoss(), draw(6, 2), torch.arange(6) % 2)
    assert not ask(SEPARATED, risk, risk.initial).established
    assert ask(SEPARATED, risk, descended(risk, risk.initial, 60)).established
