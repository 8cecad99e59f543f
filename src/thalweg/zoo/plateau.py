"""Losses that flatten out towards infinity without any structure to blame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.objectives import Capability, Objective
from thalweg.zoo.critical import CriticalPoint
from thalweg.zoo.infinity import Escape

__all__ = ["Bump", "ExponentialTail"]


class Bump(Objective):
    """``1 / (1 + |x|^2)``: a maximum at the origin, decaying to zero, which no point attains.

    Args:
        size: P.

    >>> Bump(2).critical_points()[0].kind
    'maximum'
    """

    capabilities = frozenset({Capability.CRITICAL_POINTS})
    escape: Escape = "plateau"
    infimum = 0.0
    why = "the value decays like the inverse square of the distance"

    def __init__(self, size: int = 2) -> None:
        self.space = ParameterSpace({"x": (size,)})

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """``1 / (1 + |x|^2)``."""
        return 1 / (1 + (theta**2).sum())

    def content(self) -> Iterable[object]:
        """Nothing beyond the space."""
        return []

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The maximum."""
        zeros = torch.zeros(self.space.size, dtype=self.dtype)
        why = "the top of the bump"
        return (CriticalPoint(zeros, 1.0, self.space.size, 0, "maximum", why, spectrum=zeros - 2),)

    def starts(self) -> Float[Tensor, "n P"]:
        """Points near the top, on the slope and far out."""
        return torch.tensor([0.01, 1.0, 100.0], dtype=self.dtype).unsqueeze(1).expand(-1, self.space.size).clone()

    def limits(self) -> Float[Tensor, " n"]:
        """Zero."""
        return torch.zeros(3, dtype=self.dtype)


class ExponentialTail(Objective):
    """``exp(-x) + y^2 / 2``: falls for ever in x, with an ordinary minimum in y.

    >>> ExponentialTail().gradient(torch.tensor([25.0, 0.0])).abs().max() < 2e-11
    tensor(True)
    """

    space = ParameterSpace({"x": (), "y": ()})
    escape: Escape = "plateau"
    infimum = 0.0
    why = "the exponential decays for ever"

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """``exp(-x) + y^2 / 2``."""
        return torch.exp(-theta[0]) + theta[1] ** 2 / 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the class."""
        return []

    def starts(self) -> Float[Tensor, "n P"]:
        """On the slope, and out on the tail."""
        return torch.tensor([[0.0, 1.0], [-2.0, -1.0], [10.0, 0.5]], dtype=self.dtype)

    def limits(self) -> Float[Tensor, " n"]:
        """Zero."""
        return torch.zeros(3, dtype=self.dtype)
