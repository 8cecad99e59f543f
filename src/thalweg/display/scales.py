"""From values to positions on an axis, and the ticks between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thalweg.display.figures import Axis, Figure
from thalweg.display.numbers import format_number
from thalweg.display.series import SMALLEST

__all__ = ["Placing", "place_x", "place_y"]

MOST_TICKS = 7


@dataclass(frozen=True)
class Placing:
    """An axis with its data in sight: position of a value, and ticks as (value, text).

    Attributes:
        axis: the axis.
        low: smallest value in sight.
        high: largest value in sight.
        threshold: half-width of the linear part of a symlog scale.
    """

    axis: Axis
    low: float
    high: float
    threshold: float

    def at(self, value: float) -> float:
        """Position on a straight scale.

        >>> Placing(Axis("x", scale="log"), 1.0, 100.0, 0.0).at(10.0)
        1.0
        """
        if self.axis.scale == "log":
            return math.log10(value)
        if self.axis.scale == "symlog":
            return math.copysign(math.log10(1 + abs(value) / self.threshold), value)
        return value

    def share(self, value: float) -> float:
        """Position as a share of the axis: 0 at its low end, 1 at its high end."""
        start, end = self.at(self.low), self.at(self.high)
        return (self.at(value) - start) / (end - start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values in sight, at most nine.

        >>> [text for _, text in Placing(Axis("x"), 0.0, 10.0, 0.0).ticks()]
        ['0', '2', '4', '6', '8', '10']
        >>> [text for _, text in Placing(Axis("x"), 0.113922, 0.113928, 0.0).ticks()]
        ['0.113922', '0.113923', '0.113924', '0.113925', '0.113926', '0.113927', '0.113928']
        """
        makers = {"linear": self._linear_ticks, "log": self._log_ticks, "symlog": self._symlog_ticks}
        inside = [value for value in makers[self.axis.scale]() if self.low <= value <= self.high]
        if len(inside) < 2:  # less than a decade in sight, or one side of zero only
            inside = self._linear_ticks()
        return list(zip(inside, _told_apart(inside), strict=True))

    def _linear_ticks(self) -> list[float]:
        rough = (self.high - self.low) / (MOST_TICKS - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9)), 10 * power)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [min(max(number * step, self.low), self.high) for number in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if last - first < 1:
            return self._linear_ticks()
        stride = math.ceil((last - first + 1) / MOST_TICKS)
        return [10.0**power for power in range(first, last + 1, stride)]

    def _symlog_ticks(self) -> list[float]:
        reach = max(abs(self.low), abs(self.high))
        first = math.ceil(math.log10(self.threshold) - 1e-9)
        last = math.floor(math.log10(reach) + 1e-9)
        stride = max(1, math.ceil((last - first + 1) / 4))
        sizes = [10.0**power for power in range(last, first, -stride)]
        return [*(-size for size in sizes), 0.0, *reversed(sizes)]


def _told_apart(values: Sequence[float]) -> list[str]:
    """Texts with as many digits as it takes to tell neighbours from each other."""
    for digits in range(4, 16):
        texts = [format_number(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def place_x(figure: Figure) -> Placing:
    """The horizontal axis of a figure that has numbers there."""
    values = [float(x) for one in figure.series for x in one.x if not isinstance(x, str)]
    edges = [float(x) + side * one.width / 2 for one in figure.series if one.width for x in one.x for side in (-1, 1)]
    if figure.ground is not None:
        return _around(figure.x, figure.ground.x, [*values, *_marks(figure, "x")])
    return _place(figure.x, [*values, *edges, *_marks(figure, "x")], zero=False)


def place_y(figure: Figure) -> Placing:
    """The vertical axis of a figure; zero is in sight where bars or stems stand on it."""
    if figure.ground is not None:
        return _around(figure.y, figure.ground.y, [*_marks(figure, "y"), *(y for one in figure.series for y in one.y)])
    ends = []
    for one in figure.series:
        errors: Sequence[float] = one.error or [0.0] * len(one.y)
        for y, error in zip(one.y, errors, strict=True):
            ends += [y - error, y + error]
    zero = any(one.kind in ("bars", "stems") for one in figure.series)
    return _place(figure.y, [*ends, *_marks(figure, "y")], zero=zero)


def _around(axis: Axis, ground: Sequence[float], values: Sequence[float]) -> Placing:
    """An axis that ends with the ground, so that no margin stays blank, or with data that lie beyond it."""
    every = [value for value in (*ground, *values) if axis.scale != "log" or value >= SMALLEST]
    return Placing(axis, min(every), max(every), _threshold(axis, every))


def _marks(figure: Figure, axis: str) -> list[float]:
    return [mark.value for mark in figure.marks if mark.axis == axis and math.isfinite(mark.value)]


def _place(axis: Axis, values: Iterable[float], *, zero: bool) -> Placing:
    found = [value for value in values if axis.scale != "log" or value >= SMALLEST]
    if axis.scale == "log":
        low, high = (math.log10(min(found)), math.log10(max(found))) if found else (0.0, 1.0)
        margin = 0.05 * (high - low) if high - low > 1e-6 else 0.3  # equal but for rounding: a factor of two around it
        return Placing(axis, 10.0 ** max(low - margin, -307), 10.0 ** min(high + margin, 307), 0.0)
    if zero:
        found.append(0.0)
    low, high = min(found), max(found)
    threshold = _threshold(axis, found)
    if axis.scale == "symlog":
        straight = Placing(axis, low, high, threshold)
        margin = 0.05 * (straight.at(high) - straight.at(low)) or 0.5
        ends = straight.at(low) - margin, straight.at(high) + margin
        return Placing(axis, _back(ends[0], threshold), _back(ends[1], threshold), threshold)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    bottom = low if zero and low == 0 else low - margin
    top = high if zero and high == 0 else high + margin
    return Placing(axis, bottom, top if top > bottom else bottom + 1.0, threshold)


def _back(position: float, threshold: float) -> float:
    """The value at a position of a symlog scale."""
    return math.copysign(threshold * (10 ** abs(position) - 1), position)


def _threshold(axis: Axis, values: list[float]) -> float:
    if axis.scale != "symlog":
        return 0.0
    if axis.threshold > 0:
        return axis.threshold
    sizes = [abs(value) for value in values if value]
    return max(min(sizes), 1e-8 * max(sizes)) if sizes else 1.0
