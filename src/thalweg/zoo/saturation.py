"""Units that fit an extreme target by saturating."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.zoo._samples import SampledObjective
from thalweg.zoo.infinity import Escape

__all__ = ["SaturatingUnit"]


class SaturatingUnit(SampledObjective):
    """``1/(2N) * sum_n (tanh(w . x_n + b) - y_n)^2`` with targets of plus and minus one: reached only at infinity.

    There is no critical point: on the ray from the origin through parameters that separate the targets, every
    sample's loss falls all the way, and the same direction makes the gradient non-zero everywhere.

    Args:
        inputs: ``(N, d)``.
        targets: ``(N,)``, each 1 or -1.
        direction: ``(d + 1,)``, weights and bias that separate: ``y_n (w . x_n + b) > 0`` for every n.

    Raises:
        InvalidInputError: for other targets, or a direction that does not separate.

    >>> unit = SaturatingUnit(torch.tensor([[1.0], [2.0]]), torch.ones(2), torch.tensor([1.0, 1.0]))
    >>> unit.value(torch.tensor([[0.0, 0.0], [2.0, 2.0], [20.0, 20.0]]))
    tensor([5.0000e-01, 1.1250e-07, 0.0000e+00], dtype=torch.float64)
    """

    escape: Escape = "saturation"
    infimum = 0.0
    why = "a tanh reaches its target of one only for an infinite argument"

    def __init__(
        self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, " N"], direction: Float[Tensor, " d_plus_1"]
    ) -> None:
        super().__init__(inputs, targets)
        self.space = ParameterSpace({"weight": (1, self.inputs.shape[1]), "bias": (1,)})
        if self.n_outputs != 1 or not bool((self.targets.abs() == 1).all()):
            raise InvalidInputError("every target must be 1 or -1: any other value is reached at a finite argument")
        self.direction = self._single(direction)
        if not bool((self._arguments(self.direction) * self.targets > 0).all()):
            raise InvalidInputError("the direction does not separate the targets; there may be a minimum then")

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """``tanh(w . x + b)``."""
        weights = self.space.unflatten(theta)
        return torch.tanh(chunk.inputs @ weights["weight"].T + weights["bias"])

    def on(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."]) -> SaturatingUnit:
        """The same unit on other data that the direction separates as well."""
        return SaturatingUnit(inputs, targets.reshape(-1), self.direction)

    def content(self) -> list[object]:
        """The data; the direction is a fact about it."""
        return list(super().content())

    def starts(self) -> Float[Tensor, "n P"]:
        """The origin, and points further along the direction that separates."""
        unit = self.direction / self.direction.norm()
        return torch.tensor([0.0, 0.5, 2.0], dtype=self.dtype).unsqueeze(1) * unit

    def limits(self) -> Float[Tensor, " n"]:
        """Zero."""
        return torch.zeros(3, dtype=self.dtype)

    def _arguments(self, theta: Tensor) -> Tensor:
        return self.inputs @ theta[:-1].unsqueeze(1) + theta[-1]
