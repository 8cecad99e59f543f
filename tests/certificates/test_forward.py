"""Running error bounds against the same networks computed with 50 digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Level
from thalweg.certificates.forward import Bounded, bounded_risk
from thalweg.foundation import NotApplicableError

mp = mpmath.mp
ACTIVATIONS: dict[str, tuple[nn.Module, Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "tanh": (nn.Tanh(), mpmath.tanh),
    "sigmoid": (nn.Sigmoid(), lambda z: 1 / (1 + mpmath.exp(-z))),
    "relu": (nn.ReLU(), lambda z: max(z, mpmath.mpf(0))),
    "leaky relu": (nn.LeakyReLU(0.25), lambda z: max(z, z / 4)),
    "softplus": (nn.Softplus(), lambda z: mpmath.log1p(mpmath.exp(z))),
    "gelu": (nn.GELU(), lambda z: z * (1 + mpmath.erf(z / mpmath.sqrt(2))) / 2),
    "silu": (nn.SiLU(), lambda z: z / (1 + mpmath.exp(-z))),
    "elu": (nn.ELU(), lambda z: z if z > 0 else mpmath.expm1(z)),
}
SIZES = (3, 6, 5, 2)


def network(activation: nn.Module) -> nn.Sequential:
    a, b, c, d = SIZES
    return nn.Sequential(nn.Linear(a, b), activation, nn.Linear(b, c), activation, nn.Linear(c, d)).double()


def exact_outputs(theta: Tensor, x: Tensor, activation: Callable[[mpmath.mpf], mpmath.mpf]) -> list[list[mpmath.mpf]]:
    """The network layer by layer, in the precision of mpmath."""
    rows = [[mpmath.mpf(v) for v in row] for row in x.tolist()]
    place, numbers = 0, theta.tolist()
    for layer, (before, after) in enumerate(itertools.pairwise(SIZES)):
        weight = [[mpmath.mpf(v) for v in numbers[place + i * before : place + (i + 1) * before]] for i in range(after)]
        place += before * after
        bias = [mpmath.mpf(v) for v in numbers[place : place + after]]
        place += after
        rows = [[sum((w * v for w, v in zip(ws, row, strict=True)), b) for ws, b in zip(weight, bias, strict=True)]
                for row in rows]  # fmt: skip
        if layer < len(SIZES) - 2:
            rows = [[activation(v) for v in row] for row in rows]
    return rows


def problem(name: str, scale: float, seed: int, loss: nn.Module | None = None, targets: Tensor | None = None):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, SIZES[0], generator=generator, dtype=torch.float64)
    targets = torch.randn(5, SIZES[-1], generator=generator, dtype=torch.float64) if targets is None else targets
    risk = tw.EmpiricalRisk(network(ACTIVATIONS[name][0]), loss or nn.MSELoss(), x, targets)
    theta = scale * torch.randn(risk.space.size, generator=generator, dtype=torch.float64)
    return risk, theta, x, targets


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(2))
def test_outputs_are_within_their_error(name: str, scale: float, seed: int) -> None:
    risk, theta, x, _ = problem(name, scale, seed)
    bounded = Case(risk, theta).bounded_outputs
    with mpmath.workdps(50):
        for computed, error, truth in zip(
            bounded.value, bounded.error, exact_outputs(theta, x, ACTIVATIONS[name][1]), strict=True
        ):
            for c, e, t in zip(computed.tolist(), error.tolist(), truth, strict=True):
                assert abs(mpmath.mpf(c) - t) <= e
    assert float(bounded.error.max()) <= 1e-10 * (1 + float(bounded.value.abs().max())) * max(1.0, scale**2) * 30


LABELS = torch.tensor([0, 1, 1, 0, 1])
BITS = torch.tensor([[0.0, 1.0], [0.2, 0.7], [1.0, 1.0], [0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)
SIGNS = 2 * BITS.round() - 1


def of_labels(f: list[list[mpmath.mpf]]) -> mpmath.mpf:
    terms = [mpmath.log(sum(mpmath.exp(v - row[y]) for v in row)) for row, y in zip(f, LABELS.tolist(), strict=True)]
    return sum(terms) / len(f)


def of_bits(f: list[list[mpmath.mpf]]) -> mpmath.mpf:
    terms = [
        3 * t * mpmath.log1p(mpmath.exp(-v)) + (1 - mpmath.mpf(t)) * mpmath.log1p(mpmath.exp(v))
        for row, ts in zip(f, BITS.tolist(), strict=True)
        for v, t in zip(row, ts, strict=True)
    ]
    return sum(terms) / len(terms)


def of_signs(f: list[list[mpmath.mpf]]) -> mpmath.mpf:
    return sum(
        mpmath.log1p(mpmath.exp(-v * s))
        for row, ss in zip(f, SIGNS.tolist(), strict=True)
        for v, s in zip(row, ss, strict=True)
    ) / (2 * len(f))


LOSSES = {
    "labels": (nn.CrossEntropyLoss(), LABELS, of_labels),
    "bits": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0).double()), BITS, of_bits),
    "signs": (nn.SoftMarginLoss(), SIGNS, of_signs),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0])
def test_the_loss_is_within_its_error(name: str, scale: float) -> None:
    loss, targets, exact = LOSSES[name]
    risk, theta, x, _ = problem("tanh", scale, 1, loss, targets)
    value = Case(risk, theta).value
    assert value.level is Level.RIGOROUS
    with mpmath.workdps(50):
        truth = exact(exact_outputs(theta, x, mpmath.tanh))
        assert abs(mpmath.mpf(value.value) - truth) <= value.error
    assert value.error <= 1e-10 * (1 + abs(value.value)) * max(1.0, scale**2)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0])
def test_squares_and_weight_decay_are_within_their_error(scale: float) -> None:
    risk, theta, x, targets = problem("sigmoid", scale, 3)
    value = Case(risk + tw.L2(risk, 0.3), theta).value
    assert value.level is Level.RIGOROUS
    with mpmath.workdps(50):
        outputs = exact_outputs(theta, x, ACTIVATIONS["sigmoid"][1])
        pairs = [
            (v, t) for row, ts in zip(outputs, targets.tolist(), strict=True) for v, t in zip(row, ts, strict=True)
        ]
        truth = sum((v - t) ** 2 for v, t in pairs) / len(pairs)
        truth += mpmath.mpf(0.3) / 2 * sum(mpmath.mpf(v) ** 2 for v in theta.tolist())
        assert abs(mpmath.mpf(value.value) - truth) <= value.error


def test_errors_given_for_outputs_are_passed_on() -> None:
    """A loss at outputs moved by their error lies within the loss's error."""
    for loss, targets, _ in (*LOSSES.values(), (nn.MSELoss(), BITS, None)):
        risk, theta, _, _ = problem("tanh", 1.0, 5, loss, targets)
        outputs = risk.outputs(theta)
        for size in (1e-3, 1e-1):
            error = torch.full_like(outputs, size)
            value, allowed = bounded_risk(risk, Bounded(outputs, error))
            generator = torch.Generator().manual_seed(0)
            for _ in range(20):
                signs = 2 * torch.randint(0, 2, outputs.shape, generator=generator).double() - 1
                moved = float(risk.losses_of(outputs + size * signs).sum())
                assert abs(moved - value) <= allowed


def test_what_has_no_bound_is_numeric_or_declined() -> None:
    risk, theta, _, _ = problem("tanh", 1.0, 0, nn.HuberLoss())
    with pytest.raises(NotApplicableError, match="no rounding bound is written for HuberLoss"):
        bounded_risk(risk, Case(risk, theta).bounded_outputs)
    assert Case(risk, theta).value.level is Level.NUMERIC
    cubic = tw.EmpiricalRisk(network(Cubic()), nn.MSELoss(), torch.randn(4, 3, dtype=torch.float64), torch.ones(4, 2))
    with pytest.raises(NotApplicableError, match="no finite Lipschitz constant"):
        _ = Case(cubic, cubic.initial).bounded_outputs
    recurrent = tw.EmpiricalRisk(Last(), nn.MSELoss(), torch.randn(4, 3, 2), torch.ones(4, 2))
    with pytest.raises(NotApplicableError, match="it needs the structure of the network"):
        _ = Case(recurrent, recurrent.initial).bounded_outputs
    assert Case(recurrent, recurrent.initial).value.level is Level.NUMERIC


class Cubic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(2, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x)[0][:, -1]
