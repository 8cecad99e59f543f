"""Small objectives whose critical points are known by heart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.objectives import Penalty


def function(size: int, formula: Callable[[Tensor], Tensor], name: str) -> Penalty:
    """An objective over one block x of this size."""
    return Penalty(ParameterSpace({"x": (size,)}), lambda p: formula(p["x"]), name=name)


def rosenbrock(size: int = 2) -> Penalty:
    """Minimum 0 at (1, ..., 1) at the end of a curved valley."""
    return function(size, lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(), f"rosenbrock-{size}")


def beale() -> Penalty:
    """Minimum 0 at (3, 0.5), flat shoulders around."""

    def formula(x: Tensor) -> Tensor:
        powers = torch.stack([x[1], x[1] ** 2, x[1] ** 3])
        return ((torch.tensor([1.5, 2.25, 2.625]) - x[0] * (1 - powers)) ** 2).sum()

    return function(2, formula, "beale")


def powell() -> Penalty:
    """Minimum 0 at the origin with a singular Hessian of rank two."""

    def formula(x: Tensor) -> Tensor:
        return (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4

    return function(4, formula, "powell")


def well() -> Penalty:
    """Minima -1/4 - 0 at (+-1, 0), a saddle at the origin."""
    return function(2, lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2, "double well")


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
