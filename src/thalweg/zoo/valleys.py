"""Small functions with valleys: minima that are not points, and the saddles between them."""

from __future__ import annotations

from collections.abc import Iterable
from math import acos, cos, pi, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Capability, Objective
from thalweg.zoo.critical import CriticalPoint

__all__ = ["CrossedValleys", "DoubleWell", "HyperbolicValley", "ProductChain", "Rosenbrock"]

_KNOWN = frozenset({Capability.CRITICAL_POINTS})


def point_at(*coordinates: float) -> Float[Tensor, " P"]:
    """Coordinates as a parameter vector."""
    return torch.tensor(coordinates, dtype=torch.float64)


class ProductChain(Objective):
    """``1/2 * (w_1 w_2 ... w_n - 1)^2``: a linear network with one unit in every layer.

    From depth 3 on the origin is critical with zero Hessian and yet no minimum: on the fibre of equal function values
    around it the gradient is of the order of the (depth - 1)-th power of the distance.

    Args:
        depth: number of factors, at least 2.

    Raises:
        InvalidInputError: for a smaller depth.

    >>> [(p.index, p.nullity, p.kind) for p in ProductChain(3).critical_points()]
    [(0, 2, 'degenerate minimum'), (1, 1, 'saddle'), (0, 3, 'degenerate saddle')]
    """

    capabilities = _KNOWN

    def __init__(self, depth: int) -> None:
        if depth < 2:
            raise InvalidInputError(f"a chain needs at least 2 factors, got {depth}")
        self.space = ParameterSpace({"w": (depth,)})

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """Half the squared distance of the product to one."""
        product = theta[0]
        for i in range(1, self.space.size):  # unlike `prod`, this can be differentiated where factors vanish
            product = product * theta[i]
        return (product - 1) ** 2 / 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the space."""
        return []

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """All factors one; two factors zero, the others one; and for depth 3 or more the origin."""
        n = self.space.size
        ones, eye = torch.ones(n, dtype=self.dtype), torch.eye(n, dtype=self.dtype)
        valley = torch.linalg.svd(ones.unsqueeze(0))[2][1:].T
        first, second, rest = ones.clone(), torch.zeros(n, dtype=self.dtype), eye[:, 2:]
        first[:2] = 0
        second[-1], spectrum = n, torch.zeros(n, dtype=self.dtype)
        spectrum[0], spectrum[-1] = -1, 1
        points = [
            CriticalPoint(ones, 0.0, 0, n - 1, "degenerate minimum", "the product is one", valley, second, True),
            CriticalPoint(
                first,
                0.5,
                1,
                n - 2,
                "saddle",
                "raising the two vanishing factors together lowers the value",
                rest if n > 2 else None,
                spectrum,
            ),
        ]
        if n > 2:
            why = "moving all factors together by t lowers the value by t^depth"
            points.append(CriticalPoint(0 * ones, 0.5, 0, n, "degenerate saddle", why, spectrum=0 * ones))
        return tuple(points)


class HyperbolicValley(Objective):
    """``(x y - 1)^2``: the minima are the two branches of a hyperbola, flatter and flatter outwards.

    >>> HyperbolicValley().critical_point(2.0).theta
    tensor([2.0000, 0.5000], dtype=torch.float64)
    """

    space = ParameterSpace({"x": (), "y": ()})
    capabilities = _KNOWN

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """``(x y - 1)^2``."""
        return (theta[0] * theta[1] - 1) ** 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the class."""
        return []

    def critical_point(self, x: float) -> CriticalPoint:
        """The minimum at ``(x, 1/x)``, x not zero."""
        along = point_at(1.0, -1 / x**2)
        spectrum = point_at(0.0, 2 * (x**2 + x**-2))
        tangent = (along / along.norm()).unsqueeze(1)
        return CriticalPoint(point_at(x, 1 / x), 0.0, 0, 1, "degenerate minimum", "x y = 1", tangent, spectrum, True)

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """Three minima of the valley and the saddle at the origin."""
        saddle = CriticalPoint(point_at(0, 0), 1.0, 1, 0, "saddle", "-2 x y to second order", spectrum=point_at(-2, 2))
        return (*(self.critical_point(x) for x in (1.0, 4.0, -0.5)), saddle)


class CrossedValleys(Objective):
    """``x^2 y^2``: the minima are the two axes, and at their crossing the Hessian vanishes.

    >>> [(p.nullity, p.kind) for p in CrossedValleys().critical_points()]
    [(1, 'degenerate minimum'), (2, 'degenerate minimum')]
    """

    space = ParameterSpace({"x": (), "y": ()})
    capabilities = _KNOWN

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """``x^2 y^2``."""
        return theta[0] ** 2 * theta[1] ** 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the class."""
        return []

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """A point of one valley, and the crossing."""
        why = "the value is zero on both axes and positive elsewhere"
        axis, crossing = point_at(1, 0), point_at(0, 0)
        return (
            CriticalPoint(axis, 0.0, 0, 1, "degenerate minimum", why, axis.unsqueeze(1), point_at(0, 2), True),
            CriticalPoint(crossing, 0.0, 0, 2, "degenerate minimum", why, None, point_at(0, 0), True),
        )


class DoubleWell(Objective):
    """``(x^2 - 1)^2 / 4 + tilt * x + y^2 / 2``: two minima, the deeper one opposite to the tilt, and a saddle between.

    Args:
        tilt: at most ``2 / (3 sqrt 3) = 0.3849`` in absolute value, beyond which one well is gone.

    Raises:
        InvalidInputError: for a larger tilt.

    >>> [(p.kind, p.is_global) for p in DoubleWell(0.1).critical_points()]
    [('strict minimum', False), ('saddle', False), ('strict minimum', True)]
    """

    space = ParameterSpace({"x": (), "y": ()})
    capabilities = _KNOWN

    def __init__(self, tilt: float = 0.0) -> None:
        if not abs(tilt) < 2 / sqrt(27):
            raise InvalidInputError(f"two wells need a tilt below {2 / sqrt(27):.4f} in absolute value, got {tilt}")
        self.tilt = float(tilt)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The tilted double well in x, a parabola in y."""
        return (theta[0] ** 2 - 1) ** 2 / 4 + self.tilt * theta[0] + theta[1] ** 2 / 2

    def content(self) -> Iterable[object]:
        """The tilt."""
        return [self.tilt]

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The three roots of ``x^3 - x + tilt``, from the largest down, by Viète's formula."""
        angle = acos(-sqrt(27) / 2 * self.tilt) / 3
        right, left, middle = (2 / sqrt(3) * cos(angle - 2 * pi * k / 3) for k in (0, 2, 1))
        found = []
        for x in sorted((right, left, middle), reverse=True):
            curvature = 3 * x**2 - 1
            value = (x**2 - 1) ** 2 / 4 + self.tilt * x
            spectrum = point_at(curvature, 1.0).sort().values
            if curvature < 0:
                why = "the ridge between the wells"
                found.append(CriticalPoint(point_at(x, 0), value, 1, 0, "saddle", why, None, spectrum))
            else:
                deeper = self.tilt == 0 or x * self.tilt < 0
                why = "the bottom of a well" + ("" if deeper else ", higher than the other")
                found.append(CriticalPoint(point_at(x, 0), value, 0, 0, "strict minimum", why, None, spectrum, deeper))
        return tuple(found)


class Rosenbrock(Objective):
    """``(1 - x)^2 + 100 (y - x^2)^2``: one minimum, at the end of a narrow bent valley (Rosenbrock 1960).

    >>> Rosenbrock().critical_points()[0].theta
    tensor([1., 1.], dtype=torch.float64)
    """

    space = ParameterSpace({"x": (), "y": ()})
    capabilities = _KNOWN

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """``(1 - x)^2 + 100 (y - x^2)^2``."""
        return (1 - theta[0]) ** 2 + 100 * (theta[1] - theta[0] ** 2) ** 2

    def content(self) -> Iterable[object]:
        """Nothing beyond the class."""
        return []

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The one minimum; its Hessian is ``[[802, -400], [-400, 200]]``."""
        root = sqrt(301**2 + 400**2)
        spectrum = point_at(400 / (501 + root), 501 + root)  # their product is the determinant, 400
        why = "a sum of two squares that both vanish"
        return (CriticalPoint(point_at(1, 1), 0.0, 0, 0, "strict minimum", why, spectrum=spectrum, is_global=True),)
