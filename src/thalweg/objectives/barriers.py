"""Penalties that keep a search in bounds, or draw two units together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives.objective import Objective

__all__ = ["MergePenalty", "NormBarrier"]


class NormBarrier(Objective):
    """``(n - c)^3 / 3`` where ``n = ||theta||^2 / (2 P)`` exceeds the threshold c, else nothing.

    It turns ways to infinity (channels, separable data) into finite critical points of the sum, and changes nothing
    inside the ball ``n <= c``; it is twice continuously differentiable. A critical point outside the ball is none of
    the loss: compare the gradient of the loss by itself.

    Source: Brea et al., MLPGradientFlow (arXiv 2301.10638), with c = 1000.

    Args:
        space: the space, or an objective whose space it is.
        threshold: c, positive.

    >>> barrier = NormBarrier(ParameterSpace({"w": (2,)}), threshold=1.0)
    >>> barrier.value(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    tensor([0.0000, 0.3333], dtype=torch.float64)
    """

    nonnegative = True

    def __init__(self, space: ParameterSpace | Objective, threshold: float = 1e3) -> None:
        if not isinstance(threshold, SupportsFloat) or not 0 < float(threshold) < float("inf"):
            raise InvalidInputError(f"the threshold of a barrier must be positive and finite, got {threshold!r}")
        _settle(self, space)
        self.threshold = float(threshold)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The barrier."""
        return (theta.square().sum() / (2 * self.space.size) - self.threshold).clamp(min=0) ** 3 / 3

    def content(self) -> Iterable[object]:
        """The threshold."""
        return [self.threshold]

    def __repr__(self) -> str:
        return f"NormBarrier({self.threshold:g})"


class MergePenalty(Objective):
    """``strength / 2 * ||w_i - w_j||^2`` for two rows of one block, such as the incoming weights of two units.

    Args:
        space: the space, or an objective whose space it is.
        block: name of a block with at least two rows.
        rows: i and j, different.
        strength: positive.

    Raises:
        InvalidInputError: where there is no such block or row.

    >>> penalty = MergePenalty(ParameterSpace({"w": (2, 2)}), "w", (0, 1), strength=2.0)
    >>> penalty.value(torch.tensor([1.0, 0.0, 0.0, 2.0]))
    tensor(5., dtype=torch.float64)
    """

    nonnegative = True

    def __init__(
        self, space: ParameterSpace | Objective, block: str, rows: tuple[int, int], strength: float = 1.0
    ) -> None:
        _settle(self, space)
        if block not in self.space:
            raise InvalidInputError(f"there is no block {block!r}; there are {', '.join(self.space.names)}")
        shape, (i, j) = self.space[block].shape, rows
        if not shape or i == j or not all(0 <= row < shape[0] for row in rows):
            raise InvalidInputError(f"rows must be two different rows of {block!r}, of shape {shape}; got {rows}")
        if not isinstance(strength, SupportsFloat) or not 0 < float(strength) < float("inf"):
            raise InvalidInputError(f"the strength of a penalty must be positive and finite, got {strength!r}")
        self.block, self.rows, self.strength = block, (i, j), float(strength)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The penalty."""
        weight = self.space.unflatten(theta)[self.block]
        return self.strength / 2 * (weight[self.rows[0]] - weight[self.rows[1]]).square().sum()

    def content(self) -> Iterable[object]:
        """Block, rows and strength."""
        return [self.block, *self.rows, self.strength]

    def __repr__(self) -> str:
        return f"MergePenalty({self.block!r}, {self.rows}, {self.strength:g})"


def _settle(penalty: Objective, space: ParameterSpace | Objective) -> None:
    """Give a penalty the space, type and device of an objective, or a space alone."""
    if isinstance(space, Objective):
        penalty.space, penalty.dtype, penalty.device = space.space, space.dtype, space.device
    else:
        penalty.space, penalty.dtype, penalty.device = space, torch.float64, torch.device("cpu")
