"""For every loss the value is what the user's own PyTorch computes, and derivatives are those of plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from plain_torch import PlainRun
from torch import Tensor, nn

from thalweg.foundation import NotApplicableError
from thalweg.objectives import EmpiricalRisk

N, INPUTS, OUTPUTS = 11, 3, 4


def network(outputs: int = OUTPUTS, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, outputs))


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = OUTPUTS, seed: int = 2) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def some_ignored(of: Tensor, index: int) -> Tensor:
    found = of.clone()
    found.view(-1)[1::3] = index
    return found


SIGNS = torch.sign(draw(N, OUTPUTS, seed=3))
SHARES = torch.rand(N, OUTPUTS, generator=torch.Generator().manual_seed(4))
WEIGHT = torch.tensor([0.3, 2.0, 1.0, 0.0])

CASES: dict[str, tuple[Any, Tensor]] = {
    "mse mean": (nn.MSELoss(), draw(N, OUTPUTS)),
    "mse sum": (nn.MSELoss(reduction="sum"), draw(N, OUTPUTS)),
    "mse function": (F.mse_loss, draw(N, OUTPUTS)),
    "l1": (nn.L1Loss(), draw(N, OUTPUTS)),
    "huber": (nn.HuberLoss(delta=0.3), draw(N, OUTPUTS)),
    "huber sum": (nn.HuberLoss(reduction="sum", delta=2.5), draw(N, OUTPUTS)),
    "smooth l1": (nn.SmoothL1Loss(beta=0.4), draw(N, OUTPUTS)),
    "cross entropy": (nn.CrossEntropyLoss(), labels(N)),
    "cross entropy sum": (nn.CrossEntropyLoss(reduction="sum"), labels(N)),
    "cross entropy function": (F.cross_entropy, labels(N)),
    "cross entropy weights": (nn.CrossEntropyLoss(weight=WEIGHT), labels(N)),
    "cross entropy smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), labels(N)),
    "cross entropy ignored": (nn.CrossEntropyLoss(ignore_index=2), labels(N)),
    "cross entropy ignored outside": (nn.CrossEntropyLoss(), some_ignored(labels(N), -100)),
    "cross entropy everything": (
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=-7, label_smoothing=0.15),
        some_ignored(labels(N), -7),
    ),
    "cross entropy everything sum": (
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1, label_smoothing=0.15, reduction="sum"),
        labels(N),
    ),
    "cross entropy probabilities": (nn.CrossEntropyLoss(), SHARES / SHARES.sum(1, keepdim=True)),
    "cross entropy probabilities weights": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), SHARES),
    "bce": (nn.BCEWithLogitsLoss(), SHARES),
    "bce weight": (nn.BCEWithLogitsLoss(weight=WEIGHT), SHARES.round()),
    "bce pos_weight": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 0.2, 3.0, 5.0])), SHARES.round()),
    "bce both": (
        nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=torch.tensor(3.0), reduction="sum"),
        SHARES,
    ),
    "bce function": (F.binary_cross_entropy_with_logits, SHARES),
    "soft margin": (nn.SoftMarginLoss(), SIGNS),
    "soft margin sum": (nn.SoftMarginLoss(reduction="sum"), SIGNS),
    "multi label soft margin": (nn.MultiLabelSoftMarginLoss(weight=WEIGHT), SHARES.round()),
    "multi label margin": (nn.MultiLabelMarginLoss(), torch.tensor([[1, 3, -1, 0]] * N)),
    "multi margin": (nn.MultiMarginLoss(p=2, margin=0.7, weight=WEIGHT), labels(N)),
    "hinge embedding": (nn.HingeEmbeddingLoss(margin=0.5), SIGNS),
    "poisson": (nn.PoissonNLLLoss(), SHARES * 4),
    "poisson full": (nn.PoissonNLLLoss(full=True, reduction="sum"), (SHARES * 4).round()),
    "kl batchmean": (nn.KLDivLoss(reduction="batchmean"), SHARES),
    "kl log sum": (nn.KLDivLoss(reduction="sum", log_target=True), -SHARES),
    "nll": (nn.NLLLoss(weight=WEIGHT, ignore_index=0), labels(N)),
}


def check(risk: EmpiricalRisk, plain: PlainRun, *, second: bool = True) -> None:
    """Value to 1e-12, gradient and Hessian to 1e-9, away from the initial point as well as there."""
    torch.testing.assert_close(risk.initial, plain.initial, rtol=0, atol=0)
    for theta in (plain.initial, plain.initial + 0.1 * draw(len(plain.initial), seed=9).double()):
        value = plain.value(theta)
        torch.testing.assert_close(risk.value(theta), value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(risk.gradient(theta), plain.gradient(theta), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(risk.sample_values(theta).sum(), value, rtol=1e-12, atol=1e-12)
    if second:
        torch.testing.assert_close(risk.hessian(theta), plain.hessian(theta), rtol=1e-9, atol=1e-9)


ONCE_ONLY = ("multi margin", "multi label margin")
"""Losses that torch differentiates once only."""


@pytest.mark.parametrize("name", CASES)
def test_torch_losses(name: str) -> None:
    loss, targets = CASES[name]
    x, model = draw(N, INPUTS), network()
    risk = EmpiricalRisk(model, loss, x, targets, batch_size=4)
    check(risk, PlainRun(model, loss, x, targets), second=name not in ONCE_ONLY)


@pytest.mark.parametrize("name", ONCE_ONLY)
def test_losses_that_torch_differentiates_once_have_no_second_derivatives(name: str) -> None:
    loss, targets = CASES[name]
    risk = EmpiricalRisk(network(), loss, draw(N, INPUTS), targets)
    with pytest.raises(NotApplicableError, match=r"no Hessian: it cannot be differentiated twice .*margin_loss"):
        risk.hessian(risk.initial)
    with pytest.raises(NotApplicableError, match=r"cannot be differentiated twice in the outputs"):
        risk.gauss_newton(risk.initial)


class PerPixel(nn.Module):
    """Outputs ``(N, C, T)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, OUTPUTS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=3, label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum", ignore_index=3),
        nn.NLLLoss(ignore_index=3),
    ],
    ids=str,
)
def test_outputs_of_more_dimensions(loss: nn.Module) -> None:
    x, targets = draw(6, 2, 5), labels(6, 5)
    targets[2] = 3  # where 3 is ignored, a sample that contributes nothing
    torch.manual_seed(0)
    model = PerPixel()
    check(EmpiricalRisk(model, loss, x, targets, batch_size=4), PlainRun(model, loss, x, targets))


def test_probabilities_of_more_dimensions() -> None:
    x = draw(6, 2, 5)
    targets = draw(6, OUTPUTS, 5, seed=5).softmax(1)
    loss, model = nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), PerPixel()
    check(EmpiricalRisk(model, loss, x, targets), PlainRun(model, loss, x, targets))


def test_outputs_without_a_second_dimension() -> None:
    x, targets = draw(N, INPUTS), draw(N, seed=6)
    model = nn.Sequential(network(1), nn.Flatten(0))
    check(EmpiricalRisk(model, nn.MSELoss(), x, targets, batch_size=3), PlainRun(model, nn.MSELoss(), x, targets))


def test_probabilities_as_outputs() -> None:
    x, targets = draw(N, INPUTS), SHARES
    model = nn.Sequential(network(), nn.Sigmoid())
    for loss in (nn.BCELoss(), nn.BCELoss(weight=WEIGHT, reduction="sum"), F.binary_cross_entropy):
        check(EmpiricalRisk(model, loss, x, targets), PlainRun(model, loss, x, targets))


# -- callables ---------------------------------------------------------------------------------------------------------


def log_cosh(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.log(torch.cosh(outputs - targets))


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return log_cosh(outputs, targets).sum(1).mean()


def sum_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return log_cosh(outputs, targets).sum()


def loss_by_sample(outputs: Tensor, targets: Tensor) -> Tensor:
    return log_cosh(outputs, targets).mean(1)


def loss_by_element(outputs: Tensor, targets: Tensor) -> Tensor:
    return log_cosh(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "reduction", "finish"),
    [
        (mean_loss, "mean", lambda v: v),
        (sum_loss, "sum", lambda v: v),
        (loss_by_sample, "none", torch.sum),
        (loss_by_element, "none", torch.sum),
    ],
)
def test_callables_with_a_declared_reduction(
    loss: Callable[..., Tensor], reduction: str, finish: Callable[[Tensor], Tensor]
) -> None:
    x, targets, model = draw(N, INPUTS), draw(N, OUTPUTS), network()
    risk = EmpiricalRisk(model, loss, x, targets, reduction=reduction, batch_size=4)
    check(risk, PlainRun(model, loss, x, targets, finish=finish))


class Focal(nn.Module):
    """A user's own loss module that follows torch's custom of a `reduction`."""

    def __init__(self, gamma: float, reduction: str = "mean") -> None:
        super().__init__()
        self.gamma, self.reduction = gamma, reduction
        self.register_buffer("balance", torch.tensor([1.0, 2.0, 0.5, 0.25]))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logp = F.log_softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
        found = -self.balance[targets] * (1 - logp.exp()) ** self.gamma * logp
        return found if self.reduction == "none" else getattr(found, self.reduction)()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_modules_of_ones_own(reduction: str) -> None:
    x, targets, model = draw(N, INPUTS), labels(N), network()
    loss = Focal(1.5, reduction)
    check(EmpiricalRisk(model, loss, x, targets, batch_size=4), PlainRun(model, loss, x, targets))


class Plain(nn.Module):
    """A user's own loss module without a `reduction`, with a tensor in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.7]))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (self.scale * (outputs - targets) ** 4).sum(1).mean()


def test_a_loss_module_without_reduction_is_a_callable() -> None:
    x, targets, model, loss = draw(N, INPUTS), draw(N, OUTPUTS), network(), Plain()
    check(EmpiricalRisk(model, loss, x, targets, reduction="mean", batch_size=4), PlainRun(model, loss, x, targets))
    assert loss.scale.requires_grad
    assert loss.scale.dtype == torch.float32


def contrast(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    return ((outputs["a"] - batch["x"][:, :2]) ** 2).sum(1) + (outputs["b"] ** 2 * batch["y"]).sum(1)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.first(x))
        return {"b": self.second(h), "a": h}


def test_a_dictionary_in_and_out_and_a_loss_of_the_batch_itself() -> None:
    batch, model = {"x": draw(N, 3), "y": SHARES}, Named()
    risk = EmpiricalRisk(model, contrast, batch, reduction="none", batch_size=5)
    check(risk, PlainRun(model, contrast, batch, finish=torch.sum))
    assert risk.n_outputs == 6


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mse mean", "cross entropy everything", "bce both", "cross entropy ignored"])
def test_sample_weights_multiply_contributions(name: str) -> None:
    loss, targets = CASES[name]
    x, model = draw(N, INPUTS), network()
    weights = torch.rand(N, generator=torch.Generator().manual_seed(8)).double()
    weights[3] = 0
    plain = EmpiricalRisk(model, loss, x, targets)
    risk = EmpiricalRisk(model, loss, x, targets, sample_weight=weights, batch_size=4)
    theta = risk.initial
    torch.testing.assert_close(risk.sample_values(theta), weights * plain.sample_values(theta), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(risk.value(theta), weights @ plain.sample_values(theta), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(risk.gradient(theta), weights @ plain.sample_gradients(theta), rtol=1e-10, atol=1e-12)
    kept = risk.subset([0, 3, 5])
    torch.testing.assert_close(kept.sample_values(theta)[1], torch.zeros((), dtype=torch.float64))
    assert risk.fingerprint() != plain.fingerprint()


def test_sample_weights_of_a_callable_loss() -> None:
    x, targets, model = draw(N, INPUTS), draw(N, OUTPUTS), network()
    weights = torch.arange(1.0, N + 1)
    risk = EmpiricalRisk(model, loss_by_sample, x, targets, reduction="none", sample_weight=weights)
    plain = PlainRun(model, loss_by_sample, x, targets, finish=lambda v: (weights.double() * v).sum())
    torch.testing.assert_close(risk.value(risk.initial), plain.value(plain.initial), rtol=1e-12, atol=0)
    torch.testing.assert_close(risk.gradient(risk.initial), plain.gradient(plain.initial), rtol=1e-9, atol=1e-9)
