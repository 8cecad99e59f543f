"""Small functions whose second derivatives do not tell what the point is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Capability, Objective
from thalweg.zoo.critical import CriticalPoint

__all__ = ["CubicInflection", "MonkeySaddle", "Quartic"]

_KNOWN = frozenset({Capability.CRITICAL_POINTS})


class Quartic(Objective):
    """``scale * sum_i (x_i - center_i)^4``: a true minimum whose Hessian is zero.

    With a small scale it is a decoy: gradients are tiny everywhere nearby, the parameters stay bounded, and nothing
    runs away. Who calls every tiny gradient a plateau is wrong here.

    Args:
        size: P.
        scale: positive factor.
        center: every coordinate of the minimum.

    Raises:
        InvalidInputError: for a scale that is not positive.

    >>> Quartic(1).critical_points()[0].kind
    'degenerate minimum'
    """

    capabilities = _KNOWN

    def __init__(self, size: int = 1, scale: float = 1.0, center: float = 0.0) -> None:
        if not scale > 0:
            raise InvalidInputError(f"the scale must be positive, got {scale}")
        self.space = ParameterSpace({"x": (size,)})
        self.scale, self.center = float(scale), float(center)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The sum of fourth powers."""
        return self.scale * ((theta - self.center) ** 4).sum()

    def content(self) -> Iterable[object]:
        """Scale and centre."""
        return [self.scale, self.center]

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The one minimum."""
        zeros = torch.zeros(self.space.size, dtype=self.dtype)
        why = "a sum of fourth powers vanishes only where each does"
        return (
            CriticalPoint(
                zeros + self.center, 0.0, 0, len(zeros), "degenerate minimum", why, spectrum=zeros, is_global=True
            ),
        )


class MonkeySaddle(Objective):
    """``x^3 - 3 x y^2``: three ways down from the origin, and the Hessian there is zero.

    >>> MonkeySaddle().critical_points()[0].kind
    'degenerate saddle'
    """

    space = ParameterSpace({"x": (), "y": ()})
    capabilities = _KNOWN

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The real part of ``(x + i y)^3``."""
        return theta[0] ** 3 - 3 * theta[0] * theta[1] ** 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the class."""
        return []

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The origin."""
        zeros = torch.zeros(2, dtype=self.dtype)
        return (CriticalPoint(zeros, 0.0, 0, 2, "degenerate saddle", "odd under x -> -x", spectrum=zeros),)


class CubicInflection(Objective):
    """``x^3 + y^2 / 2``: no negative curvature at the origin, and no minimum.

    >>> CubicInflection().critical_points()[0].index
    0
    """

    space = ParameterSpace({"x": (), "y": ()})
    capabilities = _KNOWN

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """``x^3 + y^2 / 2``."""
        return theta[0] ** 3 + theta[1] ** 2 / 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the class."""
        return []

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The origin."""
        zeros = torch.zeros(2, dtype=self.dtype)
        spectrum = torch.tensor([0.0, 1.0], dtype=self.dtype)
        return (CriticalPoint(zeros, 0.0, 0, 1, "degenerate saddle", "an inflection in x", spectrum=spectrum),)
