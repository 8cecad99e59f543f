"""Loss and errors bounded by gradients, against the loss itself in many digits, and against counts of errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from gap_problems import ask, descended, draw, perceptron
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import ErrorsByGradient, Level, LossByLayerGradient, Outcome, SquaresByGradient
from thalweg.certificates.gradient_gap import loss_of_slopes
from thalweg.certificates.loss_forms import hard_labels

SQUARES, ERRORS, LAYER = SquaresByGradient(), ErrorsByGradient(), LossByLayerGradient()


def regression(seed: int = 0, scale: float = 1.0, **options: object) -> tw.EmpiricalRisk:
    return tw.EmpiricalRisk(perceptron((3, 12, 2), seed=seed), nn.MSELoss(), draw(4, 3, seed=seed),
                            draw(4, 2, seed=seed + 50) * scale, **options)  # fmt: skip


def classes(seed: int = 0, n: int = 6, width: int = 30) -> tw.EmpiricalRisk:
    labels = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed))
    return tw.EmpiricalRisk(perceptron((3, width, 3), seed=seed), nn.CrossEntropyLoss(), draw(n, 3, seed=seed), labels)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_below_its_bound_and_the_bound_is_the_formula(seed: int, scale: float) -> None:
    risk = regression(seed, scale)
    found = ask(SQUARES, risk, risk.initial)
    assert found.established
    assert found.level is Level.RIGOROUS
    value = float(risk.value(risk.initial))
    assert value <= found.bound
    # with c = 1 / (N C): |grad|^2 N C / (4 sigma^2)
    sigma = float(torch.linalg.svdvals(risk.jacobian(risk.initial))[-1])
    formula = float(risk.gradient(risk.initial).norm()) ** 2 * 8 / (4 * sigma**2)
    assert found.bound == pytest.approx(formula, rel=1e-6)


def test_a_gradient_flow_loses_loss_at_the_rate_told() -> None:
    risk = regression(1)
    found = ask(SQUARES, risk, risk.initial)
    value, gradient = risk.evaluate(risk.initial, 1)[:2]
    assert float(gradient.norm()) ** 2 >= float(found.evidence["rate"]) * float(value)


@pytest.mark.parametrize("seed", range(3))
def test_no_stationary_point_of_positive_loss_within_the_radius(seed: int) -> None:
    risk = regression(seed)
    found = ask(SQUARES, risk, risk.initial)
    radius = float(found.evidence["radius"])
    assert radius > 0
    for trial in range(20):
        away = nn.functional.normalize(draw(risk.space.size, seed=trial), dim=0) * radius * (1 - 1e-6)
        assert float(torch.linalg.svdvals(risk.jacobian(risk.initial + away))[-1]) > 0
        assert float(risk.gradient(risk.initial + away).norm()) > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("trained", [0, 3, 20])
def test_errors_and_loss_of_classifiers(seed: int, trained: int) -> None:
    risk = classes(seed)
    theta = descended(risk, risk.initial, trained) if trained else risk.initial
    value = float(risk.value(theta))
    wrong = int((risk.outputs(theta).argmax(1) != risk.targets).sum())
    for certifier in (ERRORS, LAYER):
        found = ask(certifier, risk, theta)
        if found.established:
            assert wrong <= found.evidence["training errors at most"]
            if found.bound is not None:
                assert value <= found.bound
    if trained == 20:
        assert ask(ERRORS, risk, theta).established


def test_no_errors_are_proved_near_the_end_of_training() -> None:
    risk = classes(2)
    found = ask(ERRORS, risk, descended(risk, risk.initial, 30))
    assert found.evidence["training errors at most"] == 0
    assert found.bound is not None
    assert found.bound < 1


@pytest.mark.parametrize("name", ["bits", "signs", "weighted", "ignored"])
def test_other_logistic_losses(name: str) -> None:
    bits = torch.randint(0, 2, (5, 2), generator=torch.Generator().manual_seed(1)).double()
    labels = torch.tensor([0, 1, -100, 1, 0])
    loss, targets = {
        "bits": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 0.3])), bits),
        "signs": (nn.SoftMarginLoss(), 2 * bits - 1),
        "weighted": (nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0])), labels.clamp_min(0)),
        "ignored": (nn.CrossEntropyLoss(), labels),
    }[name]
    risk = tw.EmpiricalRisk(perceptron((3, 30, 2), seed=3), loss, draw(5, 3), targets)
    theta = descended(risk, risk.initial, 30)
    wrong = int((hard_labels(risk).margins(risk.outputs(theta)) <= 0).sum())
    for certifier in (ERRORS, LAYER):
        found = ask(certifier, risk, theta)
        assert found.established
        assert wrong <= found.evidence["training errors at most"]
        assert found.bound is None or float(risk.value(theta)) <= found.bound


def test_what_a_bound_of_the_slopes_says() -> None:
    risk = classes()
    labels = hard_labels(risk)
    assert loss_of_slopes(labels, 1e9).errors == 6
    assert math.isinf(loss_of_slopes(labels, 1.0).loss)
    for wrong in range(7):  # so many errors by a hair, and all else right without a doubt
        assert loss_of_slopes(labels, math.sqrt(wrong) / 2 * (1 + 1e-12)).errors == wrong
    small = loss_of_slopes(labels, 0.4)
    assert small.errors == 0
    m = torch.full((6,), 0.4 / math.sqrt(6), dtype=torch.float64)  # the worst case: all slopes equal
    assert float(-(labels.weight * torch.log1p(-m)).sum()) <= small.loss


def test_layers_give_the_gap_of_pyramidal_networks() -> None:
    """Data independent at the input, widths that fall, slopes bounded from below: no Jacobian needed."""
    model = perceptron((6, 5, 3, 2), nn.LeakyReLU(0.3), seed=1)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(4, 6), draw(4, 2))
    found = ask(LAYER, risk, risk.initial)
    assert found.established
    assert float(risk.value(risk.initial)) <= found.bound
    whole = ask(SQUARES, risk, risk.initial)
    assert whole.bound <= found.bound * (1 + 1e-9)  # the Jacobian sees all layers at once


@pytest.mark.parametrize("rows", [1, 3])
def test_layers_of_sequences_and_weights(rows: int) -> None:
    x, y = draw(2, rows, 6), draw(2, rows, 2)
    weights = torch.tensor([0.5, 3.0])
    risk = tw.EmpiricalRisk(perceptron((6, 5, 2), seed=2), nn.MSELoss(), x, y, sample_weight=weights)
    found = ask(LAYER, risk, risk.initial)
    assert found.established
    assert float(risk.value(risk.initial)) <= found.bound


@pytest.mark.soak
def test_errors_of_fifty_trained_networks(soak_figure: Callable[[str, object], None]) -> None:
    issued = 0
    for seed in range(50):
        risk = classes(seed)
        theta = descended(risk, risk.initial, 4 + seed % 20)
        wrong = int((risk.outputs(theta).argmax(1) != risk.targets).sum())
        found = ask(ERRORS, risk, theta)
        if found.established:
            issued += 1
            assert wrong <= found.evidence["training errors at most"]
            assert found.bound is None or float(risk.value(theta)) <= found.bound
    soak_figure("bounds of training errors, of 50 trained networks, all true", issued)
    assert issued >= 25


# -- what must withdraw them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certifier", [SQUARES, LAYER])
def test_a_repeated_sample_breaks_the_rank(certifier: SquaresByGradient | LossByLayerGradient) -> None:
    risk = regression()
    assert ask(certifier, risk, risk.initial).established
    x = risk.inputs.clone()
    x[1] = x[0]
    found = ask(certifier, risk.on(x, risk.targets), risk.initial)
    assert found.outcome is Outcome.UNDECIDED


def test_a_repeated_sample_with_weight_zero_does_not() -> None:
    risk = regression()
    x = risk.inputs.clone()
    x[1] = x[0]
    weighted = tw.EmpiricalRisk(perceptron((3, 12, 2)), nn.MSELoss(), x, risk.targets,
                                sample_weight=torch.tensor([1.0, 0.0, 2.0, 1.0]))  # fmt: skip
    for certifier in (SQUARES, LAYER):
        found = ask(certifier, weighted, risk.initial)
        assert found.established, found.reason
        assert float(weighted.value(risk.initial)) <= found.bound


@pytest.mark.parametrize("certifier", [SQUARES, ERRORS, LAYER])
def test_weight_decay_withdraws_them(certifier: SquaresByGradient | ErrorsByGradient | LossByLayerGradient) -> None:
    risk = classes() if certifier is ERRORS else regression()
    assert "no term besides that over data" in ask(certifier, risk + tw.L2(risk, 1e-3), risk.initial).reason


def test_outputs_that_move_together_break_the_rank() -> None:
    """What all classes share is invisible to a softmax: nothing is left of this Jacobian but its rounding."""

    class Repeated(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.net, self.own = perceptron((3, 20, 2)), own

        def forward(self, x: Tensor) -> Tensor:
            f = self.net(x)
            return f if self.own else f[:, :1].expand(-1, 2) * torch.ones(2, dtype=torch.float64)

    for own in (True, False):
        risk = tw.EmpiricalRisk(Repeated(own), nn.CrossEntropyLoss(), draw(4, 3), torch.arange(4) % 2)
        found = ask(ERRORS, risk, descended(risk, risk.initial, 8) if own else risk.initial)
        assert found.established is own, found.describe()


def test_other_losses_labels_and_sizes_are_declined() -> None:
    risk = regression()
    assert "a cross-entropy or logistic loss" in ask(ERRORS, risk, risk.initial).reason
    assert "a squared loss" in ask(SQUARES, classes(), classes().initial).reason
    soft = tw.EmpiricalRisk(
        perceptron((3, 9, 3)), nn.CrossEntropyLoss(label_smoothing=0.1), draw(3, 3), torch.arange(3)
    )
    for certifier in (ERRORS, LAYER):
        assert "soft or smoothed" in ask(certifier, soft, soft.initial).reason
    wide = tw.EmpiricalRisk(perceptron((3, 2, 1)), nn.MSELoss(), draw(40, 3), draw(40, 1))
    assert "at least as many parameters as outputs" in ask(SQUARES, wide, wide.initial).reason
    assert "as wide as there are rows of data" in ask(LAYER, wide, wide.initial).reason


def test_a_layer_that_widens_or_an_activation_that_dies_withdraws_the_layers() -> None:
    widening = tw.EmpiricalRisk(perceptron((5, 3, 5, 2), nn.LeakyReLU(0.3)), nn.MSELoss(), draw(6, 5), draw(6, 2))
    assert ask(LAYER, widening, widening.initial).outcome is Outcome.UNDECIDED
    dying = tw.EmpiricalRisk(perceptron((6, 4, 2), nn.ReLU()), nn.MSELoss(), draw(6, 6), draw(6, 2))
    assert ask(LAYER, dying, dying.initial).outcome is Outcome.UNDECIDED
    frozen = tw.EmpiricalRisk(perceptron((6, 4, 2), nn.Tanh()), nn.MSELoss(), draw(6, 6), draw(6, 2),
                              parameters="2.*")  # fmt: skip
    assert ask(LAYER, frozen, frozen.initial).outcome is Outcome.UNDECIDED
