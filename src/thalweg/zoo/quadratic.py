"""Quadratic functions with a chosen spectrum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.objectives import Capability, Objective
from thalweg.zoo._samples import as_vector, generator, random_orthogonal
from thalweg.zoo.critical import CriticalPoint, PointKind, count_signs

__all__ = ["Quadratic"]


class Quadratic(Objective):
    """``offset + 1/2 (theta - center)^T Q diag(spectrum) Q^T (theta - center)``.

    Args:
        spectrum: ``(P,)``, the eigenvalues; zero and negative ones are allowed.
        center: ``(P,)``, the critical point; the origin where None.
        seed: of the random orthogonal basis Q; None takes the coordinate axes.
        offset: the value at the centre.

    Attributes:
        spectrum: ``(P,)``, as given.
        basis: ``(P, P)``, Q: its columns are the eigenvectors.
        center: ``(P,)``.

    >>> bowl = Quadratic([1.0, 4.0], center=torch.tensor([3.0, 0.0]), seed=None)
    >>> bowl.value(torch.tensor([1.0, 1.0]))
    tensor(4., dtype=torch.float64)
    """

    capabilities = frozenset({Capability.CRITICAL_POINTS})

    def __init__(
        self,
        spectrum: Sequence[float] | Float[Tensor, " P"],
        center: Float[Tensor, " P"] | None = None,
        *,
        seed: int | None = 0,
        offset: float = 0.0,
    ) -> None:
        self.spectrum = as_vector(spectrum, "spectrum")
        size = len(self.spectrum)
        self.space = ParameterSpace({"x": (size,)})
        self.basis = torch.eye(size, dtype=self.dtype) if seed is None else random_orthogonal(size, generator(seed))
        self.center = self._single(torch.zeros(size) if center is None else center).clone()
        self.offset = float(offset)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The quadratic form."""
        return self.offset + (self.spectrum * ((theta - self.center) @ self.basis) ** 2).sum() / 2

    def content(self) -> Iterable[object]:
        """Spectrum, basis, centre and offset."""
        return [self.spectrum, self.basis, self.center, self.offset]

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The centre; with zero eigenvalues it stands for an affine space of critical points, spanned by `tangent`."""
        index, nullity = count_signs(self.spectrum)
        flat = self.basis[:, self.spectrum == 0]
        return (
            CriticalPoint(
                self.center.clone(),
                self.offset,
                index,
                nullity,
                self._kind(index, nullity),
                "the gradient is linear and vanishes at the centre",
                tangent=flat if nullity else None,
                spectrum=self.spectrum.sort().values,
                is_global=index == 0,
            ),
        )

    def _kind(self, index: int, nullity: int) -> PointKind:
        if index == 0:
            return "degenerate minimum" if nullity else "strict minimum"
        return "maximum" if index + nullity == self.space.size else "saddle"
