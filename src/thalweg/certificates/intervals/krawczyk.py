"""Critical points proved to exist: Newton's method and the Krawczyk operator.

For a box X around c and any matrix C the Krawczyk operator is ``K(X) = c - C g(c) + (I - C H(X)) (X - c)``. If it lies
inside of X, then X holds exactly one zero of the gradient g (R. Krawczyk, Computing 4 (1969); A. Neumaier, *Interval
Methods for Systems of Equations* (1990), chapter 5). A box over which every matrix in H(X) is regular holds at most
one, and the inertia of the Hessian is the same all over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from thalweg.certificates.intervals.activations import AtKinkError
from thalweg.certificates.intervals.arithmetic import (
    Box,
    Matrix,
    Row,
    around,
    ball,
    half_width,
    magnitude,
    matrix,
    middle,
    upper,
)
from thalweg.certificates.rounding import UNIT

__all__ = [
    "Enclosed",
    "Isolated",
    "Differentiable",
    "NotShownError",
    "StoppedError",
    "distance",
    "enclose_zero",
    "isolate",
    "settle",
]

NEWTON_STEPS = 12
INFLATIONS = 6
GROWTHS = 5
LONGEST_LEAP = 1e9
"""By how much a radius may grow at once, from what a smaller one has shown."""
WANTED = 0.7
"""Contraction aimed at when the radius of uniqueness is chosen; anything below one would do."""


class Differentiable(Protocol):
    """What has a gradient and a Hessian over boxes."""

    def gradient(self, box: Box) -> Row:
        """``(P,)``."""

    def hessian(self, box: Box) -> Matrix:
        """``(P, P)``."""


class NotShownError(Exception):
    """What was to be proved was not; the message says why."""


class StoppedError(NotShownError):
    """There was no time to go on."""


class Enclosed(NamedTuple):
    """A box around exactly one critical point.

    Attributes:
        center: ``(P,)``, exact.
        box: ``(P,)``.
        hessian: over the box.
        inverse: of its midpoint, roughly.
        contraction: of the operator there, below one.
    """

    center: Row
    box: Row
    hessian: Matrix
    inverse: Matrix
    contraction: float


class Isolated(NamedTuple):
    """A cube in which there is at most one critical point.

    Attributes:
        radius: half the side.
        contraction: a norm of ``I - C H`` over the cube, below one.
    """

    radius: float
    contraction: float


# -- towards the critical point ----------------------------------------------------------------------------------------


def settle(loss: Differentiable, start: Row, goes_on: Callable[[], None]) -> tuple[Row, Matrix]:
    """Newton's method with as many digits as there are, while its steps shrink.

    Args:
        loss: what is to be made stationary.
        start: ``(P,)``, exact.
        goes_on: raises `StoppedError` where time is up.

    Returns:
        A point ``(P,)``, exact, and roughly the inverse of the Hessian there.

    Raises:
        NotShownError: if the steps do not shrink, or the Hessian cannot be inverted.
    """
    point, inverse, before, ratio = start, None, math.inf, 1.0
    for _ in range(NEWTON_STEPS):
        goes_on()
        if inverse is None or ratio > 1e-2:  # while the steps shrink fast, an old inverse does
            inverse = inverted(loss.hessian(point))
        step = _times(inverse, _column(loss.gradient(point))).entries()
        length, blur = _length(step), math.hypot(*map(half_width, step))
        if not math.isfinite(length):
            raise NotShownError("numbers overflow near this point")
        ratio = length / before if before > 0 else 0.0
        if ratio > 0.5 and length > 4 * blur and before < math.inf:
            raise NotShownError(
                f"Newton's method does not settle here: a step of {before:.3g} is followed by one of {length:.3g}"
            )
        point, before = [middle(x - middle(s)) for x, s in zip(point, step, strict=True)], length
        if length <= max(4 * blur, 2.0**-100 * _length(point)):
            break
    return point, inverse


def inverted(hessian: Matrix) -> Matrix:
    """The inverse of the midpoint, roughly: exact numbers without a bound of their error."""
    try:
        return hessian.mid().inv().mid()
    except ZeroDivisionError:
        raise NotShownError("the Hessian cannot be inverted here") from None


# -- existence ---------------------------------------------------------------------------------------------------------


def enclose_zero(loss: Differentiable, center: Row, inverse: Matrix, goes_on: Callable[[], None]) -> Enclosed:
    """A box around a point that holds exactly one critical point, found by inflating it.

    Raises:
        NotShownError: if no box is mapped into itself.
    """
    shift = _times(inverse, _column(loss.gradient(center))).entries()
    radii = [2 * magnitude(s) + 2.0**-100 * (1 + magnitude(c)) for s, c in zip(shift, center, strict=True)]
    for _ in range(INFLATIONS):
        goes_on()
        box = [around(c, r) for c, r in zip(center, radii, strict=True)]
        hessian = loss.hessian(box)
        defect = _defect(inverse, hessian)
        moved = (_times(defect, _column([around(0, r) for r in radii])) - _column(shift)).entries()
        reach = [magnitude(x) for x in moved]
        if not all(map(math.isfinite, reach)):
            break
        if all(a < r for a, r in zip(reach, radii, strict=True)):
            return Enclosed(center, box, hessian, inverse, max(a / r for a, r in zip(reach, radii, strict=True)))
        inverse = inverted(hessian)
        shift = _times(inverse, _column(loss.gradient(center))).entries()
        radii = [1.5 * max(a, r) for a, r in zip(reach, radii, strict=True)]
    raise NotShownError("no box around the point where Newton's method ends is mapped into itself")


# -- uniqueness --------------------------------------------------------------------------------------------------------


def isolate(loss: Differentiable, point: Row, inverse: Matrix, least: float, goes_on: Callable[[], None]) -> Isolated:
    """The largest cube around a point, of a few that are tried, over which the Hessian is regular.

    Args:
        loss: what is differentiated.
        point: ``(P,)``, exact.
        inverse: roughly, of the Hessian nearby.
        least: the least radius that is of use.
        goes_on: raises `StoppedError` where time is up.

    Raises:
        NotShownError: if not even that of the least radius.
    """
    best: Isolated | None = None
    radius = max(2 * least, 2.0**-20 * max(magnitude(x) for x in point))
    for _ in range(GROWTHS):
        goes_on()
        try:
            found = _contraction(loss, point, inverse, radius)
        except AtKinkError:
            found = math.inf
        if found < 1:
            best = Isolated(radius, found)
        # what I - C H varies by grows about in proportion to the radius
        wanted = radius * min(WANTED / found if found > 0 else math.inf, LONGEST_LEAP)
        if best is None:
            if radius <= least * (1 + 1e-9):
                break
            radius = max(wanted if math.isfinite(found) else math.sqrt(radius * least), least * (1 + 1e-12))
        elif found < 1 and wanted > 1.3 * radius:
            radius = wanted
        else:
            break
    if best is None:
        raise NotShownError(f"within {least:.3g} of here the Hessian could not be shown to be regular")
    return best


def _contraction(loss: Differentiable, point: Row, inverse: Matrix, radius: float) -> float:
    """A norm of ``|I - C H|`` over a cube: below one, every Hessian there is regular."""
    defect = _defect(inverse, loss.hessian([around(x, radius) for x in point]))
    sizes = np.array([magnitude(x) for x in defect.entries()]).reshape(len(point), -1)
    if not sizes.max() < 1e100:  # also infinite, or no number
        return math.inf
    scale = np.ones(len(point))
    for _ in range(8):  # towards the Perron vector, whose weights make the norm least
        scale = sizes @ scale
        scale = scale / scale.max() + 1e-6 if scale.max() > 0 else np.ones(len(point))
    return float(np.max(sizes @ scale / scale)) * (1 + (len(point) + 8) * 2 * UNIT)


# -- matrices ----------------------------------------------------------------------------------------------------------


def distance(box: Row, point: Row) -> float:
    """An upper bound of the Euclidean distance of anything in a box from a point."""
    gaps = [x - y for x, y in zip(box, point, strict=True)]
    return upper(sum((ball(magnitude(gap)) * ball(magnitude(gap)) for gap in gaps), ball(0)).sqrt())


def _defect(inverse: Matrix, hessian: Matrix) -> Matrix:
    size = hessian.nrows()
    unit = matrix(size, size, [ball(float(i == j)) for i in range(size) for j in range(size)])
    return unit - _times(inverse, hessian)


def _column(entries: Row) -> Matrix:
    return matrix(len(entries), 1, entries)


def _times(left: Matrix, right: Matrix) -> Matrix:
    return left * right


def _length(entries: Row) -> float:
    return math.hypot(*(float(x) for x in entries))
