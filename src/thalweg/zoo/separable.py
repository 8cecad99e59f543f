"""Logistic regression on data that a hyperplane separates: no minimum."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.zoo._samples import SampledObjective, generator
from thalweg.zoo.infinity import Escape

__all__ = ["SeparableLogistic"]


class SeparableLogistic(SampledObjective):
    """``1/N * sum_n log(1 + exp(-y_n w . x_n))`` with labels of plus and minus one that a direction separates.

    The loss is convex, falls along the separating direction from any point, and is critical nowhere; gradient
    descent follows the direction of the largest margin, with a norm that grows like the logarithm of time (Soudry et
    al. 2018).

    Args:
        inputs: ``(N, d)``.
        targets: ``(N,)``, each 1 or -1.
        direction: ``(d,)``, with ``y_n w . x_n > 0`` for every n.

    Raises:
        InvalidInputError: for other labels, or a direction that does not separate.

    >>> SeparableLogistic.random().value(torch.zeros(3))
    tensor(0.6931, dtype=torch.float64)
    """

    escape: Escape = "separable"
    infimum = 0.0
    why = "scaling a separating direction lowers every sample's loss towards zero"

    def __init__(
        self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, " N"], direction: Float[Tensor, " d"]
    ) -> None:
        super().__init__(inputs, targets)
        self.space = ParameterSpace({"weight": (1, self.inputs.shape[1])})
        if self.n_outputs != 1 or not bool((self.targets.abs() == 1).all()):
            raise InvalidInputError("every label must be 1 or -1")
        self.direction = self._single(direction)
        if not bool(((self.inputs @ self.direction) * self.targets[:, 0] > 0).all()):
            raise InvalidInputError("the direction does not separate the labels; there may be a minimum then")

    @classmethod
    def random(cls, inputs: int = 3, samples: int = 30, *, margin: float = 0.3, seed: int = 0) -> SeparableLogistic:
        """Gaussian inputs, labelled by a random direction and pushed away from its hyperplane by a margin."""
        source = generator(seed)
        direction = torch.randn(inputs, generator=source, dtype=torch.float64)
        direction /= direction.norm()
        x = torch.randn(samples, inputs, generator=source, dtype=torch.float64)
        y = torch.where(x @ direction >= 0, 1.0, -1.0).to(torch.float64)
        return cls(x + margin * y.unsqueeze(1) * direction, y, direction)

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """``w . x``."""
        return chunk.inputs @ theta.unsqueeze(1)

    def chunk_loss(self, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, ""]:
        """The logistic loss, accurate at large margins of either sign."""
        return -torch.nn.functional.logsigmoid(chunk.targets * outputs).sum() / self.n_samples

    def on(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."]) -> SeparableLogistic:
        """The same loss on other data that the direction separates as well."""
        return SeparableLogistic(inputs, targets.reshape(-1), self.direction)

    def starts(self) -> Float[Tensor, "n P"]:
        """The origin, a point against the separating direction, and one far along it."""
        return torch.tensor([0.0, -1.0, 10.0], dtype=self.dtype).unsqueeze(1) * self.direction

    def limits(self) -> Float[Tensor, " n"]:
        """Zero."""
        return torch.zeros(3, dtype=self.dtype)
