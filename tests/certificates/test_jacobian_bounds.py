"""The Jacobian with its error, against 50 digits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Level
from thalweg.certificates.jacobian_bounds import bounded_jacobian
from thalweg.foundation import NotApplicableError

SLOPES: dict[str, tuple[nn.Module, Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "tanh": (nn.Tanh(), lambda z: mpmath.sech(z) ** 2),
    "sigmoid": (nn.Sigmoid(), lambda z: 1 / (2 + mpmath.exp(z) + mpmath.exp(-z))),
    "softplus": (nn.Softplus(), lambda z: 1 / (1 + mpmath.exp(-z))),
    "gelu": (nn.GELU(), lambda z: mpmath.ncdf(z) + z * mpmath.npdf(z)),
    "silu": (nn.SiLU(), lambda z: mpmath.diff(lambda x: x / (1 + mpmath.exp(-x)), z)),
    "relu": (nn.ReLU(), lambda z: mpmath.mpf(z > 0)),
}
VALUES = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "relu": lambda z: max(z, mpmath.mpf(0)),
}


def problem(activation: nn.Module, scale: float, seed: int = 0) -> tw.EmpiricalRisk:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64) * scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 4), activation, nn.Linear(4, 3), activation, nn.Linear(3, 2))
    return tw.EmpiricalRisk(model, nn.MSELoss(), x, torch.zeros(3, 2))


def exact_rows(risk: tw.EmpiricalRisk, name: str) -> list[list[mpmath.mpf]]:
    """J by hand, in many digits, in the order of the blocks."""
    blocks = [mpmath.matrix(b.tolist()) for b in risk.space.unflatten(risk.initial).values()]
    (w1, b1, w2, b2, w3, _), slope = blocks, SLOPES[name][1]
    value = VALUES[name]
    rows = []
    for sample in risk.inputs:
        x = mpmath.matrix(sample.tolist())
        z1 = w1 * x + b1
        a1 = z1.apply(value)
        z2 = w2 * a1 + b2
        a2 = z2.apply(value)
        for c in range(2):
            d2 = [w3[c, j] * slope(z2[j]) for j in range(3)]
            d1 = [sum(w2[j, i] * d2[j] for j in range(3)) * slope(z1[i]) for i in range(4)]
            row = [d * x[i] for d in d1 for i in range(2)] + d1
            row += [d * a1[i] for d in d2 for i in range(4)] + d2
            row += [(a2[i] if k == c else mpmath.mpf(0)) for k in range(2) for i in range(3)]
            rows.append(row + [mpmath.mpf(k == c) for k in range(2)])
    return rows


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0])
def test_the_exact_jacobian_lies_within_the_bound(name: str, scale: float) -> None:
    risk = problem(SLOPES[name][0], scale)
    network = Case(risk, risk.initial).dense()
    with mpmath.workdps(50):
        found = bounded_jacobian(network, risk.initial, risk.inputs)
        truth = exact_rows(risk, name)
        off = mpmath.sqrt(sum((mpmath.mpf(v) - t) ** 2 for row, exact in zip(found.value.tolist(), truth, strict=True)
                              for v, t in zip(row, exact, strict=True)))  # fmt: skip
    assert off <= found.error
    switched = 1e-6 if name == "softplus" and scale > 1 else 0.0  # torch's goes over to its asymptote at 20
    assert found.error <= 1e-11 * (1 + scale) + switched
    assert torch.allclose(found.value, risk.jacobian(risk.initial), rtol=1e-12, atol=1e-12)


def test_tied_and_frozen_weights_and_sequences() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))

    x, y = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).double(), torch.zeros(4, 5, 2)
    for parameters in (None, "a.*", "*weight"):
        risk = tw.EmpiricalRisk(Twice(), nn.MSELoss(), x, y, parameters=parameters)
        case = Case(risk, risk.initial)
        found = case.bounded_jacobian
        assert found.level is Level.RIGOROUS
        assert float((found.value - case.jacobian).norm()) <= found.error


def test_an_argument_at_a_corner_leaves_the_jacobian_open() -> None:
    risk = problem(nn.ReLU(), 1.0)
    theta = risk.initial.clone()
    theta[:12] = 0  # all units of the first layer at their corner
    case = Case(risk, theta)
    assert case.bounded_jacobian.error > 1e-3


def test_what_is_no_perceptron_gets_an_estimate() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.a(x) * self.b(x)).sum(1, keepdim=True)

    risk = tw.EmpiricalRisk(Product(), nn.MSELoss(), torch.ones(4, 2), torch.zeros(4, 1))
    case = Case(risk, risk.initial)
    assert case.bounded_jacobian.level is Level.NUMERIC
    assert 0 < case.bounded_jacobian.error < 1e-12
    mish = problem(nn.Mish(), 1.0)
    network = Case(mish, mish.initial).dense()
    with pytest.raises(NotApplicableError, match="no rounding bound is written for the slope"):
        bounded_jacobian(network, mish.initial, mish.inputs)
