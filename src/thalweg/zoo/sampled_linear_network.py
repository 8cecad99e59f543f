"""Linear networks on data: the same saddles, seen through samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Capability
from thalweg.zoo._samples import SampledObjective, as_matrix, generator
from thalweg.zoo.critical import CriticalPoint, orthonormal
from thalweg.zoo.linear_network import LinearNetwork

__all__ = ["SampledLinearNetwork", "whitened_samples"]

WHITE = 1e-12
"""Largest entry of ``X^T X / N - I`` at which inputs count as white, and the closed-form spectrum is given."""


class SampledLinearNetwork(SampledObjective):
    """``1/(2N) * sum_n ||W_L ... W_1 x_n - y_n||^2``: half the mean squared error of a linear network on data.

    With ``C = X^T X / N`` this is ``1/2 ||W_L ... W_1 C^(1/2) - M||_F^2`` plus a constant, ``M = Y^T X C^(-1/2) / N``:
    a `LinearNetwork` in the coordinates ``W_1 C^(1/2)``. A linear change of coordinates keeps index and nullity, so
    the critical points are known for all inputs of full column rank; the eigenvalues are known for white inputs,
    ``C = I``.

    Args:
        inputs: X, ``(N, d)``, of rank d.
        targets: Y, ``(N, k)``, or ``(N,)`` for one output.
        widths: of the hidden layers; a number for a single one.

    Attributes:
        whitened: the `LinearNetwork` of target M.
        constant: the value that no linear network goes below.

    Raises:
        InvalidInputError: for unusable data, or inputs of lower rank.

    >>> inputs, targets = whitened_samples(torch.eye(2), 10, noise=1.0)
    >>> network = SampledLinearNetwork(inputs, targets, widths=1)
    >>> [(p.index, p.nullity) for p in network.critical_points()]
    [(2, 0), (0, 2), (0, 2)]
    """

    capabilities = SampledObjective.capabilities | {Capability.CRITICAL_POINTS}

    def __init__(
        self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."], widths: int | Sequence[int]
    ) -> None:
        super().__init__(inputs, targets)
        covariance = self.inputs.T @ self.inputs / self.n_samples
        variances, axes = torch.linalg.eigh(covariance)
        size = self.inputs.shape[1]
        if float(variances[0]) <= size * torch.finfo(self.dtype).eps * float(variances[-1]):
            raise InvalidInputError(f"the inputs must have rank {size}; drop the columns that depend on others")
        self._unwhiten = axes * variances.rsqrt() @ axes.T
        target = self.targets.T @ self.inputs @ self._unwhiten / self.n_samples
        self.white = bool((covariance - torch.eye(size, dtype=self.dtype)).abs().max() <= WHITE)
        self.whitened = LinearNetwork(target, widths)
        self.space = self.whitened.space
        residual = self.targets - self.inputs @ (target @ self._unwhiten).T
        self.constant = float((residual**2).sum() / (2 * self.n_samples))

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """The product of all layers, applied."""
        result: Tensor = chunk.inputs
        for weight in self.space.unflatten(theta).values():
            result = result @ weight.T
        return result

    def on(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."]) -> SampledLinearNetwork:
        """The same network on other data."""
        return SampledLinearNetwork(inputs, targets, self.whitened.widths)

    def content(self) -> list[object]:
        """The data and the widths."""
        return [*super().content(), self.whitened.widths]

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """Those of the whitened network in the coordinates of this one.

        Raises:
            MemoryLimitError: if there are too many of them.
        """
        return tuple(self._translated(point) for point in self.whitened.critical_points())

    def _translated(self, point: CriticalPoint) -> CriticalPoint:
        theta = self._to_own(point.theta)
        tangent = None if point.tangent is None else orthonormal(self._to_own(point.tangent.T).T)
        spectrum = point.spectrum if self.white else None
        return replace(point, theta=theta, value=float(self.value(theta)), tangent=tangent, spectrum=spectrum)

    def _to_own(self, theta: Tensor) -> Tensor:
        """``W_1 -> W_1 C^(-1/2)``, of vectors ``(*batch, P)``."""
        weights = self.space.unflatten(theta)
        first = self.space.names[0]
        return self.space.flatten({**weights, first: weights[first] @ self._unwhiten})

    def _hidden_units(self) -> int:
        return sum(self.whitened.widths)


def whitened_samples(
    target: Float[Tensor, "k d"], samples: int, *, noise: float = 0.0, seed: int = 0
) -> tuple[Float[Tensor, "N d"], Float[Tensor, "N k"]]:
    """Data whose inputs are white in the sample, ``X^T X / N = I``, and whose best linear map is exactly `target`.

    Args:
        target: M, ``(k, d)``.
        samples: N, at least d, and at least ``d + k`` with noise.
        noise: root mean square of the residual of every output, uncorrelated with all inputs in the sample.
        seed: of the draw.

    Returns:
        X ``(N, d)`` and Y ``(N, k)``.

    Raises:
        InvalidInputError: for too few samples.

    >>> inputs, targets = whitened_samples(torch.tensor([[2.0, 1.0]]), 5)
    >>> torch.allclose(inputs.T @ inputs / 5, torch.eye(2, dtype=inputs.dtype))
    True
    """
    target = as_matrix(target, "the target")
    outputs, inputs = target.shape
    needed = inputs + (outputs if noise else 0)
    if samples < needed:
        raise InvalidInputError(f"{needed} columns without correlation need as many samples, got {samples}")
    drawn = torch.randn(samples, needed, generator=generator(seed), dtype=torch.float64)
    columns = torch.linalg.qr(drawn)[0] * samples**0.5
    x = columns[:, :inputs]
    residual = noise * columns[:, inputs:] if noise else 0.0
    return x, x @ target.T + residual
