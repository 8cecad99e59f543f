"""Linear least squares, plain and with a ridge: the minimiser is known exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, InvalidInputError, LinearOperator, ParameterSpace
from thalweg.objectives import L2, Capability, Objective, SumObjective
from thalweg.zoo._samples import SampleChunk, SampledObjective
from thalweg.zoo.critical import CriticalPoint

__all__ = ["LinearRegression", "RidgeRegression"]


class LinearRegression(SampledObjective):
    """``1/(2N) * sum_n ||W x_n - y_n||^2`` over W, the weight of a ``nn.Linear(d, C, bias=False)``.

    Args:
        inputs: X, ``(N, d)``; add a column of ones for a bias.
        targets: Y, ``(N, C)``, or ``(N,)`` for one output.

    Raises:
        InvalidInputError: for mismatched, empty or non-finite data.

    >>> fit = LinearRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([2.0, 4.0]))
    >>> fit.critical_points()[0].theta
    tensor([2.0000], dtype=torch.float64)
    """

    capabilities = SampledObjective.capabilities | {Capability.CRITICAL_POINTS}

    def __init__(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."]) -> None:
        super().__init__(inputs, targets)
        self.space = ParameterSpace({"weight": (self.n_outputs, self.inputs.shape[1])})

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """``W x``."""
        return chunk.inputs @ theta.reshape(self.n_outputs, -1).T

    def on(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."]) -> LinearRegression:
        """The regression of other data."""
        return LinearRegression(inputs, targets)

    def minimizer(self, ridge: float = 0.0) -> Float[Tensor, "C d"]:
        """The W of least norm that minimises the loss plus ``ridge / 2 * ||W||^2``.

        Singular values of X up to ``max(N, d) * eps`` of the largest count as zero, as in `numpy.linalg.matrix_rank`.
        """
        left, s, right = self._svd
        gains = s / (s**2 + self.n_samples * ridge)
        return (self.targets.T @ left) * gains @ right

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The minimiser of least norm; where X has dependent columns it lies on an affine space of global minima."""
        weight = self.minimizer()
        _, s, right = self._svd
        columns = self.inputs.shape[1]
        missing = columns - len(s)
        theta = weight.reshape(-1)
        complement = torch.linalg.qr(right.T, mode="complete")[0][:, len(s) :]
        return (
            CriticalPoint(
                theta,
                float(self.value(theta)),
                0,
                self.n_outputs * missing,
                "degenerate minimum" if missing else "strict minimum",
                "the loss is convex and the normal equations hold",
                tangent=torch.block_diag(*[complement] * self.n_outputs) if missing else None,
                spectrum=self._spectrum(0.0),
                is_global=True,
            ),
        )

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        left, s, right = torch.linalg.svd(self.inputs, full_matrices=False)
        kept = s > max(self.inputs.shape) * torch.finfo(s.dtype).eps * s.max()
        return left[:, kept], s[kept], right[kept]

    def _spectrum(self, ridge: float) -> Tensor:
        one_output = torch.zeros(self.inputs.shape[1], dtype=self.dtype)
        s = self._svd[1]
        one_output[: len(s)] = s**2 / self.n_samples
        return (one_output + ridge).repeat(self.n_outputs).sort().values


class RidgeRegression(Objective):
    """`LinearRegression` plus ``strength / 2 * ||W||^2``: strictly convex, one minimum, known exactly.

    Args:
        inputs: X, ``(N, d)``.
        targets: Y, ``(N, C)``, or ``(N,)`` for one output.
        strength: of the penalty, positive.

    Attributes:
        risk: the regression without penalty.
        terms: the regression and the `L2` penalty, as in a `SumObjective`.

    Raises:
        InvalidInputError: for unusable data or a strength that is not positive.

    >>> RidgeRegression(torch.tensor([[1.0]]), torch.tensor([2.0]), strength=1.0).critical_points()[0].theta
    tensor([1.], dtype=torch.float64)
    """

    capabilities = frozenset({Capability.GAUSS_NEWTON, Capability.CRITICAL_POINTS})

    def __init__(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."], strength: float) -> None:
        if not strength > 0:
            raise InvalidInputError(f"the ridge must be positive, got {strength}; LinearRegression has none")
        self.risk = LinearRegression(inputs, targets)
        self.strength = float(strength)
        self.space = self.risk.space
        self._sum = SumObjective([self.risk, L2(self.risk, self.strength)])

    @property
    def terms(self) -> tuple[Objective, ...]:
        """The regression and its penalty."""
        return self._sum.terms

    def chunks(self, samples: int) -> Iterator[tuple[int, SampleChunk | None]]:
        """The chunks of both terms."""
        return self._sum.chunks(samples)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """One chunk of one term."""
        return self._sum.chunk_value(theta, chunk)

    def content(self) -> Iterable[object]:
        """Both terms."""
        return self._sum.content()

    @property
    def cost(self) -> Cost:
        """That of the sum."""
        return self._sum.cost

    def gauss_newton(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """The Hessian itself."""
        return self._sum.gauss_newton(theta)

    def gauss_newton_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """The Hessian itself."""
        return self._sum.gauss_newton_operator(theta, keep=keep)

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The one minimum."""
        theta = self.risk.minimizer(self.strength).reshape(-1)
        why = "the loss is strictly convex and the normal equations hold"
        spectrum = self.risk._spectrum(self.strength)
        value = float(self.value(theta))
        return (CriticalPoint(theta, value, 0, 0, "strict minimum", why, spectrum=spectrum, is_global=True),)
