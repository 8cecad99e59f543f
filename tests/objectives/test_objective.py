"""The base class alone: any function of a flat vector, with no data or with its own chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg.foundation import Cost, InvalidInputError, NotApplicableError, ParameterSpace, memory_limit
from thalweg.objectives import Capability, Objective, require


class Rosenbrock(Objective):
    """Value, gradient and Hessian are known in closed form."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.space = ParameterSpace({"x": (), "y": ()})
        self.dtype = dtype

    def chunk_value(self, theta: Tensor, chunk: Any) -> Tensor:
        x, y = theta
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    def content(self) -> list[object]:
        return ["rosenbrock"]


def hessian(theta: Tensor) -> Tensor:
    x, y = theta
    return torch.stack([torch.stack([2 - 400 * (y - 3 * x**2), -400 * x]),
                        torch.stack([-400 * x, torch.full_like(x, 200.0)])])  # fmt: skip


class Sums(Objective):
    """Chunks of its own: the sum over n of cos(n * theta . w)."""

    def __init__(self, samples: int) -> None:
        self.space = ParameterSpace({"w": (3,)})
        self.samples = samples
        self.asked: list[int] = []

    def chunks(self, samples: int) -> Iterator[Tensor]:
        self.asked.append(samples)
        return iter(torch.arange(1.0, self.samples + 1, dtype=torch.float64).split(max(1, samples)))

    def chunk_value(self, theta: Tensor, chunk: Tensor) -> Tensor:
        return torch.cos(chunk[:, None] * theta).sum()

    @property
    def cost(self) -> Cost:
        return Cost(self.samples, 1000, 100)

    def content(self) -> list[object]:
        return [self.samples]


POINTS = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_derivatives_in_closed_form() -> None:
    found = Rosenbrock().evaluate(POINTS, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    for i, j in ((0, 0), (2, 1)):
        x, y = POINTS[i, j]
        torch.testing.assert_close(found.value[i, j], (1 - x) ** 2 + 100 * (y - x**2) ** 2)
        slope = torch.stack([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])
        torch.testing.assert_close(found.gradient[i, j], slope)
        torch.testing.assert_close(found.hessian[i, j], hessian(POINTS[i, j]))
        operator = Rosenbrock().hessian_operator(POINTS[i, j])
        torch.testing.assert_close(operator.dense(), hessian(POINTS[i, j]))
        assert operator.symmetric
    assert torch.equal(found.hessian, found.hessian.mT)
    assert Rosenbrock().evaluate(POINTS).gradient is None
    assert Rosenbrock().evaluate(POINTS, 1).hessian is None
    single = Rosenbrock(torch.float32).hessian(POINTS)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found.hessian, rtol=1e-5, atol=1e-2)


def test_its_own_chunks_are_asked_for_as_many_samples_as_fit() -> None:
    objective = Sums(50)
    theta = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    n = torch.arange(1.0, 51, dtype=torch.float64)[:, None]
    with memory_limit(5 * (100 + 7 * 1000) // 2):
        value, gradient, _ = objective.evaluate(theta, 1)
        assert max(objective.asked) == 7
        matrix = objective.hessian(theta)
        with pytest.raises(Exception, match="kept graph"):
            objective.hessian_operator(theta, keep=True)
    torch.testing.assert_close(value, torch.cos(n * theta).sum())
    torch.testing.assert_close(gradient, -(n * torch.sin(n * theta)).sum(0))
    torch.testing.assert_close(matrix, torch.diag(-(n**2 * torch.cos(n * theta)).sum(0)))
    objective.asked.clear()
    objective.value(theta)
    assert objective.asked == [50]
    assert objective.kept_bytes() == 100 + 2 * 50 * 1000  # a pass forward, and what a pass back adds


def test_seeds_and_columns_share_one_limit() -> None:
    """More parameter vectors and Hessian columns at once never mean more samples at once."""
    objective = Sums(40)
    theta = torch.zeros(30, 3, dtype=torch.float64)
    with memory_limit(60_000):
        wanted = torch.diag(-(torch.arange(1.0, 41, dtype=torch.float64) ** 2).sum().expand(3))
        torch.testing.assert_close(objective.hessian(theta), wanted.expand(30, 3, 3))
    assert max(objective.asked) < 40


def test_what_is_missing_is_declined_by_name() -> None:
    objective = Rosenbrock()
    with pytest.raises(NotApplicableError, match=r"Gauss-Newton matrix does not apply to Rosenbrock\(P=2\): it needs"):
        objective.gauss_newton_operator(POINTS[0, 0])
    with pytest.raises(NotApplicableError, match="does not apply to"):
        objective.gauss_newton(POINTS)
    for capability in Capability:
        with pytest.raises(NotApplicableError, match=r"the method does not apply to Rosenbrock\(P=2\): it needs"):
            require(objective, capability, "the method")


def test_inference_mode_is_declined() -> None:
    with torch.inference_mode(), pytest.raises(InvalidInputError, match=r"use torch.no_grad"):
        Rosenbrock().gradient(POINTS)


def test_fingerprints_of_classes_differ() -> None:
    class Rosenbrock2(Rosenbrock):
        pass

    assert Rosenbrock().fingerprint() == Rosenbrock().fingerprint()
    assert Rosenbrock().fingerprint() != Rosenbrock2().fingerprint()
    assert Rosenbrock().fingerprint() != Rosenbrock(torch.float32).fingerprint()
    assert Sums(3).fingerprint() != Sums(4).fingerprint()
