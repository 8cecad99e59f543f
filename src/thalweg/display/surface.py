"""Heights over a plane, drawn as colour beneath the series of a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from thalweg.display.series import SMALLEST
from thalweg.foundation import InvalidInputError

__all__ = ["Surface", "surface"]

COLOURS = ("#0d2c54", "#174e86", "#2b7bba", "#58a5c9", "#93c9c6", "#cfe3b4", "#f5edb0")
"""From low to high: one after the other lighter, so that they are told apart without their hue."""


@dataclass(frozen=True)
class Surface:
    """Heights on a grid; made by `surface`.

    Attributes:
        name: what the colour means.
        x: ``(n,)`` ascending positions.
        y: ``(m,)`` ascending positions.
        heights: ``(m, n)``; NaN where there is none.
        scale: of the colours.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    heights: tuple[tuple[float, ...], ...]
    scale: Literal["linear", "log"]

    def level(self, height: float) -> float:
        """Height on the scale of the colours; NaN where it has no place there.

        >>> surface("loss", [0, 1], [0, 1], [[1.0, 10.0], [100.0, 0.0]], scale="log").level(100.0)
        2.0
        """
        if self.scale == "log":
            return math.log10(height) if height >= SMALLEST else math.nan
        return height if math.isfinite(height) else math.nan

    @property
    def levels(self) -> tuple[tuple[float, ...], ...]:
        """All heights, as `level` has them."""
        return tuple(tuple(self.level(height) for height in row) for row in self.heights)

    @cached_property
    def span(self) -> tuple[float, float]:
        """Lowest and highest level."""
        found = [level for row in self.levels for level in row if math.isfinite(level)]
        return min(found), max(found)

    def colour(self, height: float) -> str:
        """Of a height, as ``#rrggbb``; none where there is none."""
        level = self.level(height)
        if not math.isfinite(level):
            return "none"
        low, high = self.span
        return shade((level - low) / (high - low) if high > low else 0.5)


def surface(name: str, x: Any, y: Any, heights: Any, scale: Literal["linear", "log"] = "linear") -> Surface:
    """Heights on a grid.

    Args:
        name: what the colour means.
        x: ``(n,)`` positions across, ascending: a sequence, array or tensor.
        y: ``(m,)`` positions up, ascending.
        heights: ``(m, n)``; what is not finite is left blank.
        scale: of the colours.

    Raises:
        InvalidInputError: for shapes that do not fit, fewer than two positions, positions that do not ascend, or no
            height that can be drawn.
    """
    across, up, rows = _plain(x), _plain(y), [tuple(map(float, row)) for row in _plain(heights)]
    if len(rows) != len(up) or any(len(row) != len(across) for row in rows):
        shape = f"({len(rows)}, {len(rows[0]) if rows else 0})"
        raise InvalidInputError(f"the surface {name!r} needs heights ({len(up)}, {len(across)}), got {shape}")
    for what in (across, up):
        if len(what) < 2 or not all(a < b for a, b in pairwise(what)):
            raise InvalidInputError(f"the surface {name!r} needs two or more ascending positions each way")
        if not math.isfinite(what[0]) or not math.isfinite(what[-1]):
            raise InvalidInputError(f"the surface {name!r} has positions that are not finite")
    if scale not in ("linear", "log"):
        raise InvalidInputError(f"the colours of a surface are 'linear' or 'log', got {scale!r}")
    made = Surface(name, tuple(map(float, across)), tuple(map(float, up)), tuple(rows), scale)
    if not any(math.isfinite(level) for row in made.levels for level in row):
        raise InvalidInputError(f"the surface {name!r} has no height that can be drawn")
    return made


def shade(share: float) -> str:
    """The colour at a share of the scale, between its neighbours.

    >>> shade(0.0), shade(1.0)
    ('#0d2c54', '#f5edb0')
    """
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    number = min(int(place), len(COLOURS) - 2)
    pairs = zip(_parts(COLOURS[number]), _parts(COLOURS[number + 1]), strict=True)
    return "#" + "".join(f"{round(a + (place - number) * (b - a)):02x}" for a, b in pairs)


def _parts(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _plain(values: Any) -> list[Any]:
    """Numbers, or rows of them, out of a sequence, an array or a tensor on any device."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return list(values.tolist() if hasattr(values, "tolist") else values)
