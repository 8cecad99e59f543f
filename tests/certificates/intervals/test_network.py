"""Value, gradient and Hessian over balls: against autograd, against 50 digits, and over whole boxes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case
from thalweg.certificates.intervals.arithmetic import around, ball, half_width, lower, midpoints, precision, upper
from thalweg.certificates.intervals.network import IntervalLoss
from thalweg.foundation import NotApplicableError
from thalweg.objectives import Penalty

N = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(classes: int, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (N,), generator=torch.Generator().manual_seed(seed))


def network(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        modules += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*modules[:-1]).double()


class Tied(nn.Module):
    """The middle weights are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.middle(torch.tanh(self.middle(x)))))


class Transposed(nn.Module):
    """Encoder and decoder share one matrix; the outputs are squashed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(torch.tanh(x @ self.weight) @ self.weight.T)


def soft(shape: tuple[int, ...]) -> Tensor:
    return torch.softmax(draw(*shape, seed=5), 1)


def risks() -> dict[str, tw.Objective]:
    x = draw(N, 2, seed=1)
    bits, signs = (draw(N, 3, seed=2) > 0).double(), torch.sign(draw(N, 3, seed=3))
    weights = torch.tensor([1.0, 2.5, 0.3], dtype=torch.float64)
    three = network(2, 4, 3)
    squares = tw.EmpiricalRisk(network(2, 3, 1), nn.MSELoss(), x, draw(N, 1))
    frozen = network(2, 3, 3, 1)
    return {
        "squares": squares,
        "squares, summed": tw.EmpiricalRisk(three, nn.MSELoss(reduction="sum"), x, draw(N, 3)),
        "squares, weighted": tw.EmpiricalRisk(three, nn.MSELoss(), x, draw(N, 3), sample_weight=torch.arange(6.0)),
        "deep": tw.EmpiricalRisk(network(2, 3, 4, 3, 2, activation=nn.GELU), nn.MSELoss(), x, draw(N, 2)),
        "no bias": tw.EmpiricalRisk(network(2, 3, 2, 1, bias=False), nn.MSELoss(), x, draw(N, 1)),
        "linear": tw.EmpiricalRisk(nn.Linear(2, 3).double(), nn.MSELoss(), x, draw(N, 3)),
        "labels": tw.EmpiricalRisk(three, nn.CrossEntropyLoss(), x, labels(3)),
        "labels, weighted and smoothed": tw.EmpiricalRisk(
            three, nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1, ignore_index=2), x, labels(3)
        ),
        "soft labels": tw.EmpiricalRisk(three, nn.CrossEntropyLoss(weight=weights), x, soft((N, 3))),
        "bits": tw.EmpiricalRisk(three, nn.BCEWithLogitsLoss(weight=weights, pos_weight=weights.flip(0)), x, bits),
        "several labels": tw.EmpiricalRisk(three, nn.MultiLabelSoftMarginLoss(weight=weights), x, bits),
        "signs": tw.EmpiricalRisk(three, nn.SoftMarginLoss(), x, signs),
        "decay": squares + tw.L2(squares, 0.3) + tw.L2(squares, 0.1, "*weight", center=draw(13, seed=9)),
        "frozen": tw.EmpiricalRisk(frozen, nn.MSELoss(), x, draw(N, 1), parameters=["0.weight", "2.bias", "4.*"]),
        "tied": tw.EmpiricalRisk(Tied(), nn.MSELoss(), x, draw(N, 1)),
        "transposed": tw.EmpiricalRisk(Transposed(), nn.MSELoss(), x, draw(N, 2)),
        "sequence": tw.EmpiricalRisk(
            network(2, 3, 2), nn.MSELoss(), draw(N, 4, 2), draw(N, 4, 2), sample_weight=torch.arange(1.0, 7.0)
        ),
        "float32": tw.EmpiricalRisk(network(2, 3, 1).float(), nn.MSELoss(), x.float(), draw(N, 1).float()),
        "relu": tw.EmpiricalRisk(network(2, 4, 2, 1, activation=nn.ReLU), nn.MSELoss(), x, draw(N, 1)),
    }  # fmt: skip


RISKS = risks()


def found_at(objective: tw.Objective, theta: Tensor, radius: float = 0.0):  # type: ignore[no-untyped-def]
    loss = IntervalLoss(Case(objective, theta))
    box = [around(t, radius) if radius else ball(t) for t in theta.tolist()]
    return loss.value(box), loss.gradient(box), loss.hessian(box)


@pytest.mark.parametrize("name", RISKS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_against_autograd(name: str, scale: float) -> None:
    objective = RISKS[name]
    theta = scale * draw(objective.space.size, seed=11)
    expected = objective.evaluate(theta, 2)
    with precision():
        value, gradient, hessian = found_at(objective, theta)
        numbers = np.array([float(g) for g in gradient])
        matrix = midpoints(hessian)
        assert max(map(half_width, [value, *gradient, *hessian.entries()])) < 1e-13 * (1 + np.abs(matrix).max())
    assert float(value) == pytest.approx(float(expected.value), rel=1e-12)
    assert expected.gradient is not None
    assert expected.hessian is not None
    size = float(expected.hessian.abs().max())
    np.testing.assert_allclose(numbers, expected.gradient, atol=1e-12 * (size + float(expected.gradient.abs().max())))
    np.testing.assert_allclose(matrix, expected.hessian, atol=1e-12 * size)
    assert np.array_equal(matrix, matrix.T) or np.abs(matrix - matrix.T).max() < 1e-25 * size


@pytest.mark.parametrize("name", RISKS)
@pytest.mark.parametrize("radius", [1e-6, 1e-2, 0.2])
def test_a_box_holds_what_any_of_its_points_has(name: str, radius: float) -> None:
    objective = RISKS[name]
    theta = draw(objective.space.size, seed=13)
    if name == "relu" and radius > 1e-5:
        pytest.skip("a box across kinks is refused")
    with precision():
        value, gradient, hessian = found_at(objective, theta, radius)
        ends = [(lower(g), upper(g)) for g in [value, *gradient, *hessian.entries()]]
    low, high = np.array(ends).T
    moves = 2 * torch.rand(8, len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    moves[:4] = torch.sign(moves[:4])
    for move in moves:
        there = objective.evaluate(theta + radius * move, 2)
        assert there.gradient is not None
        assert there.hessian is not None
        numbers = np.concatenate([[float(there.value)], there.gradient.numpy(), there.hessian.reshape(-1).numpy()])
        noise = 1e-12 * (1 + np.abs(numbers).max())
        assert (low - noise <= numbers).all()
        assert (numbers <= high + noise).all()


def exact_loss(theta: list[mpmath.mpf], x: Tensor, y: Tensor, squares: bool) -> mpmath.mpf:
    """2-2-1 tanh, written out."""
    total = mpmath.mpf(0)
    for (one, two), (target,) in zip(x.tolist(), y.tolist(), strict=True):
        hidden = [mpmath.tanh(theta[2 * j] * one + theta[2 * j + 1] * two + theta[4 + j]) for j in (0, 1)]
        f = theta[6] * hidden[0] + theta[7] * hidden[1] + theta[8]
        if squares:
            total += (f - mpmath.mpf(target)) ** 2
        else:
            total += mpmath.log1p(mpmath.exp(-f)) if target == 1 else mpmath.log1p(mpmath.exp(f))
    return total / len(x)


@pytest.mark.parametrize("squares", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_against_differences_of_sixty_digits(squares: bool, scale: float) -> None:
    x = draw(3, 2, seed=1) * scale
    y = draw(3, 1, seed=2) * scale if squares else (draw(3, 1, seed=2) > 0).double()
    loss = nn.MSELoss() if squares else nn.BCEWithLogitsLoss()
    risk = tw.EmpiricalRisk(network(2, 2, 1), loss, x, y)
    theta = draw(9, seed=3)
    theta[:4] /= scale
    with precision(), mpmath.workdps(100):
        found = found_at(risk, theta)
        start, step = [mpmath.mpf(t) for t in theta.tolist()], mpmath.mpf(10) ** -30
        steps = [step * (1 / mpmath.mpf(scale) if k < 4 else 1) for k in range(9)]

        def at(*moves: tuple[int, int]) -> mpmath.mpf:
            there = list(start)
            for k, sign in moves:
                there[k] += sign * steps[k]
            return exact_loss(there, x, y, squares)

        assert lower(found[0]) <= at() <= upper(found[0])
        for k in range(9):
            slope = (at((k, 1)) - at((k, -1))) / (2 * steps[k])
            assert lower(found[1][k]) <= slope <= upper(found[1][k])
            for q in range(k + 1):
                signs = itertools.product((1, -1), (1, -1))
                four = sum((s * t * at((k, s), (q, t)) for s, t in signs), mpmath.mpf(0))
                assert lower(found[2][k, q]) <= four / (4 * steps[k] * steps[q]) <= upper(found[2][k, q])


def test_sharper_with_more_bits() -> None:
    theta = draw(13, seed=4)
    widths = []
    for bits in (30, 60):
        with precision(bits):
            widths.append(half_width(found_at(RISKS["squares"], theta)[0]))
    assert widths[0] > 1e3 * widths[1]


class Wild(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) * x


def strange() -> dict[str, tuple[tw.Objective, str]]:
    x, y = draw(N, 2), draw(N, 1)
    squares = RISKS["squares"]
    penalty = Penalty(squares, lambda p: p["0.weight"].pow(4).sum(), "quartic")
    convolution = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(2, 1)).double()
    return {
        "loss": (tw.EmpiricalRisk(network(2, 1), nn.HuberLoss(), x, y), "no interval enclosure is written for Huber"),
        "own loss": (
            tw.EmpiricalRisk(network(2, 1), lambda f, t: ((f - t) ** 4).sum(), x, y, reduction="sum"),
            "no interval enclosure is written for",
        ),
        "activation": (
            tw.EmpiricalRisk(network(2, 2, 1, activation=Wild), nn.MSELoss(), x, y),
            "for the activation",
        ),
        "penalty": (squares + penalty, r"for Penalty\(quartic\)"),
        "network": (
            tw.EmpiricalRisk(convolution, nn.MSELoss(), x.unsqueeze(1), y),
            "it needs a multilayer perceptron",
        ),
        "no data": (tw.L2(squares, 1.0), "one term over data"),
        "two risks": (squares + squares, "one term over data"),
        "restricted": (
            tw.objectives.restrict(squares, "0.*", squares.initial),  # type: ignore[attr-defined]
            "one term over data",
        ),
        "places": (
            tw.EmpiricalRisk(network(3, 4), nn.CrossEntropyLoss(), draw(N, 2, 3), torch.zeros(N, 4, dtype=torch.int64)),
            "cross-entropy at several places",
        ),
    }


STRANGE = strange()


@pytest.mark.parametrize("name", STRANGE)
def test_what_cannot_be_enclosed_is_declined_by_name(name: str) -> None:
    objective, words = STRANGE[name]
    with precision(), pytest.raises(NotApplicableError, match=words):
        IntervalLoss(Case(objective, draw(objective.space.size)))
