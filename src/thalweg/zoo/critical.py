"""What an objective of this room knows about itself: critical points, stated as facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Capability, Objective, require

__all__ = ["CriticalPoint", "KnowsCriticalPoints", "PointKind", "critical_points_of"]

PointKind = Literal["strict minimum", "degenerate minimum", "saddle", "degenerate saddle", "maximum"]
"""What a critical point is.

``strict minimum``: positive definite Hessian. ``degenerate minimum``: a local minimum whose Hessian has zero
eigenvalues, on a valley or alone. ``saddle``: the Hessian has a negative eigenvalue and the point is no maximum.
``degenerate saddle``: no negative eigenvalue, and yet lower values in every neighbourhood (inflections included).
``maximum``: a local maximum.
"""


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """One critical point that is known for certain.

    Attributes:
        theta: ``(P,)``.
        value: of the objective there.
        index: number of negative Hessian eigenvalues.
        nullity: number of zero Hessian eigenvalues.
        kind: what the point is, see `PointKind`.
        why: the reason, in a sentence.
        tangent: ``(P, f)``, orthonormal basis of the directions along which a smooth set of critical points of the same
            value is known to pass through the point; None where none is known. ``f <= nullity``.
        spectrum: ``(P,)``, all Hessian eigenvalues in ascending order where they are known in closed form, else None.
        is_global: True only for a minimum that is known to be global.

    Raises:
        InvalidInputError: if these statements contradict one another.

    >>> CriticalPoint(torch.zeros(2), 0.0, index=1, nullity=0, kind="saddle", why="x^2 - y^2").positive
    1
    """

    theta: Float[Tensor, " P"]
    value: float
    index: int
    nullity: int
    kind: PointKind
    why: str
    tangent: Float[Tensor, "P f"] | None = None
    spectrum: Float[Tensor, " P"] | None = None
    is_global: bool = False

    def __post_init__(self) -> None:
        size = self.theta.numel()
        flat = 0 if self.tangent is None else self.tangent.shape[1]
        allowed = {
            "strict minimum": self.index == 0 and self.nullity == 0,
            "degenerate minimum": self.index == 0 and self.nullity > 0,
            "saddle": self.index > 0,
            "degenerate saddle": self.index == 0 and self.nullity > 0,
            "maximum": self.index + self.nullity == size,
        }
        if self.index < 0 or self.nullity < 0 or self.index + self.nullity > size or not allowed[self.kind]:
            raise InvalidInputError(
                f"a {self.kind} of {size} parameters cannot have {self.index} negative and {self.nullity} zero "
                "eigenvalues"
            )
        if flat > self.nullity:
            raise InvalidInputError(f"{flat} flat directions need as many zero eigenvalues, got {self.nullity}")
        if self.is_global and not self.is_minimum:
            raise InvalidInputError(f"a {self.kind} cannot be a global minimum")

    @property
    def positive(self) -> int:
        """Number of positive Hessian eigenvalues."""
        return self.theta.numel() - self.index - self.nullity

    @property
    def is_minimum(self) -> bool:
        """True for a local minimum, strict or not."""
        return self.kind in ("strict minimum", "degenerate minimum")


@runtime_checkable
class KnowsCriticalPoints(Protocol):
    """An objective that declares `Capability.CRITICAL_POINTS` and so has this method."""

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """Critical points known for certain; not always all there are."""


def critical_points_of(objective: Objective) -> tuple[CriticalPoint, ...]:
    """Ask an objective for the critical points that it knows.

    Raises:
        NotApplicableError: if it knows none (capability CRITICAL_POINTS).

    >>> from thalweg.zoo import Quadratic
    >>> [point.kind for point in critical_points_of(Quadratic([1.0, -2.0]))]
    ['saddle']
    """
    require(objective, Capability.CRITICAL_POINTS, "critical_points_of")
    return cast(KnowsCriticalPoints, objective).critical_points()


def count_signs(spectrum: Float[Tensor, " P"]) -> tuple[int, int]:
    """Index and nullity of a spectrum in which zeros are exact."""
    return int((spectrum < 0).sum()), int((spectrum == 0).sum())


def orthonormal(columns: Float[Tensor, "P k"]) -> Float[Tensor, "P f"] | None:
    """Orthonormal basis of the span of some columns; None if they are all zero.

    A direction counts where its singular value exceeds 1e-10 of the largest.
    """
    if columns.shape[1] == 0:
        return None
    left, strengths, _ = torch.linalg.svd(columns, full_matrices=False)
    kept = strengths > 1e-10 * strengths.max()
    return left[:, kept] if bool(kept.any()) and float(strengths.max()) > 0 else None
