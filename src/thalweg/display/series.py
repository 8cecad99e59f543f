"""The data of figures: lines, points, stems, bars and histograms, from sequences, arrays or tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thalweg.foundation import InvalidInputError

__all__ = ["SMALLEST", "Series", "bars", "histogram", "line", "points", "stems"]

Kind = Literal["line", "points", "stems", "bars"]

SMALLEST, LARGEST = 1e-300, 1e250
"""Sizes with room for a margin below on a logarithmic axis, and above on any."""


@dataclass(frozen=True)
class Series:
    """One set of data in a figure; made by `line`, `points`, `stems`, `bars` and `histogram`.

    Attributes:
        kind: how it is drawn.
        name: for the legend.
        x: positions, or names of categories.
        y: heights.
        error: one standard error of each height; empty without. Bars of error, and a band around a line.
        width: of bars at positions; 0 lets them share the room of their category.
        labels: shown at each datum on demand; empty without.
        left_out: number of data that were given but are not numbers.
    """

    kind: Kind
    name: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    width: float = 0.0
    labels: tuple[str, ...] = ()
    left_out: int = 0


def line(name: str, x: Any, y: Any, error: Any = None) -> Series:
    """A line through data in their order, with a band of one standard error where `error` is given.

    Args:
        name: for the legend.
        x: ``(n,)`` positions: a sequence, array or tensor.
        y: ``(n,)`` heights.
        error: ``(n,)`` standard errors of the heights.

    Raises:
        InvalidInputError: for lengths that differ.
    """
    return _series("line", name, x, y, error)


def points(name: str, x: Any, y: Any, error: Any = None, labels: Sequence[str] = ()) -> Series:
    """Single points, with bars of one standard error where `error` is given; arguments as for `line`.

    Args:
        name: for the legend.
        x: ``(n,)`` positions.
        y: ``(n,)`` heights.
        error: ``(n,)`` standard errors of the heights.
        labels: ``(n,)`` texts, shown at each point on demand.

    Raises:
        InvalidInputError: for lengths that differ.
    """
    return _series("points", name, x, y, error, labels)


def stems(name: str, x: Any, y: Any, labels: Sequence[str] = ()) -> Series:
    """Points on stems from zero, as for a spectrum: eigenvalue against its number; arguments as for `points`."""
    return _series("stems", name, x, y, None, labels)


def bars(name: str, categories: Sequence[str], heights: Any, error: Any = None) -> Series:
    """One bar for each category; several such series in one figure stand side by side.

    Args:
        name: for the legend.
        categories: ``(n,)`` texts.
        heights: ``(n,)``.
        error: ``(n,)`` standard errors.

    Raises:
        InvalidInputError: for lengths that differ.
    """
    return _series("bars", name, [str(one) for one in categories], heights, error)


def histogram(name: str, values: Any, bins: int | None = None) -> Series:
    """Bars for the share of values in each interval.

    The heights are densities: the areas of the bars sum to 1 over the values that are finite.

    Args:
        name: for the legend.
        values: ``(n,)``; what is not finite is left out and counted.
        bins: number of intervals; None takes 2 n^(1/3) (the Rice rule), at most 200.

    Raises:
        InvalidInputError: if no value is finite, or for less than one interval.

    >>> histogram("eigenvalues", [0.0, 0.1, 0.9, 1.0], bins=2).y
    (1.0, 1.0)
    """
    import numpy as np

    given = np.asarray(_plain_array(values), dtype=float).ravel()
    finite = given[np.isfinite(given)]
    if not len(finite):
        raise InvalidInputError(f"the histogram {name!r} needs a finite value, got {len(given)} that are not")
    count = bins if bins is not None else min(200, max(1, math.ceil(2 * len(finite) ** (1 / 3))))
    if count < 1:
        raise InvalidInputError(f"a histogram needs at least one interval, got bins={bins}")
    low, high = float(finite.min()), float(finite.max())
    size = max(abs(low), abs(high))
    size = size if size > 1e-290 else 1.0
    if high - low < 1e-9 * size:  # equal but for rounding: intervals between them would have no width
        low, high = low - size / 20, high + size / 20
    heights, edges = np.histogram(finite, bins=count, range=(low, high), density=True)
    centres, width = (edges[:-1] + edges[1:]) / 2, (high - low) / count
    left_out = len(given) - len(finite)
    return Series("bars", name, tuple(centres.tolist()), tuple(heights.tolist()), width=width, left_out=left_out)


def _series(kind: Kind, name: str, x: Any, y: Any, error: Any, labels: Sequence[str] = ()) -> Series:
    """Check lengths, and leave out what is not finite."""
    across: list[Any] = list(x) if _is_text(x) else _floats(x)
    heights = _floats(y)
    errors = [] if error is None else _floats(error)
    for what, given in (("heights", heights), ("errors", errors), ("labels", labels)):
        if len(given) != len(across) and (len(given) > 0 or what == "heights"):
            raise InvalidInputError(f"the series {name!r} has {len(across)} positions and {len(given)} {what}")
    keep = [
        number
        for number, (a, b) in enumerate(zip(across, heights, strict=True))
        if _drawable(b) and (isinstance(a, str) or _drawable(a))
    ]
    return Series(
        kind,
        name,
        tuple(across[i] for i in keep),
        tuple(heights[i] for i in keep),
        error=tuple(errors[i] if math.isfinite(errors[i]) else 0.0 for i in keep) if errors else (),
        labels=tuple(str(labels[i]) for i in keep) if len(labels) else (),
        left_out=len(across) - len(keep),
    )


def _drawable(value: float) -> bool:
    """Finite, with room for a margin above."""
    return abs(value) <= LARGEST


def _is_text(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and isinstance(values[0], str)


def _floats(values: Any) -> list[float]:
    """Numbers out of a sequence, an array or a tensor on any device."""
    values = _plain_array(values)
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    if not isinstance(found, list) or any(isinstance(one, list | tuple) for one in found):
        raise InvalidInputError("a series of a figure takes one axis of numbers; flatten the array first")
    return [float(one) for one in found]


def _plain_array(values: Any) -> Any:
    """A tensor without its graph, on the CPU; anything else as it is."""
    return values.detach().cpu() if hasattr(values, "detach") else values
