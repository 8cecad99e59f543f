"""Segmented regression: the lowest squared error of functions that consist of few straight pieces.

The cost of every segment is computed in whole numbers, exactly: floats are whole numbers times powers of two. Sums over
a segment run on from its first point to its last, so that no difference of large sums is ever rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.rounding import TINY, UNIT, gamma
from thalweg.certificates.squared import scaled_below

__all__ = ["Points", "segmented_bound"]


class Points(NamedTuple):
    """Points on a line in ascending order, points at one place put together; sums are whole numbers.

    Attributes:
        place: x.
        weight: sum of c.
        first: sums of c y, one for each output.
        second: sum of c y y over all outputs.
        shift: costs are divided by two to this power, so that they lie near one.
        exponent: costs so divided are to be multiplied by two to this power.
    """

    place: list[int]
    weight: list[int]
    first: list[list[int]]
    second: list[int]
    shift: int
    exponent: int


def segmented_bound(
    x: Float[Tensor, " n"], y: Float[Tensor, "n q"], weights: Float[Tensor, " n"], pieces: int
) -> float:
    """Lower bound of ``min sum_i c_i |y_i - f(x_i)|^2`` over all f with at most so many affine pieces.

    Pieces are fitted one by one, and need not join: dropping continuity can only lower the minimum. Dynamic programming
    (R. Bellman, Communications of the ACM 4 (1961)).

    Args:
        x: places, exact.
        y: targets; all outputs share the breakpoints.
        weights: c, positive.
        pieces: at least one.

    >>> x = torch.arange(6, dtype=torch.float64)
    >>> bound = segmented_bound(x, (x - 2.5).abs().unsqueeze(1), torch.ones(6, dtype=torch.float64), 1)
    >>> round(bound, 12)
    4.0
    >>> segmented_bound(x, (x - 2.5).abs().unsqueeze(1), torch.ones(6, dtype=torch.float64), 2)
    0.0
    """
    points = _points(x, y, weights)
    count = len(points.place)
    pieces = min(pieces, (count + 1) // 2)  # two places a piece are always fitted
    limit = _reachable(points, x, y, weights, pieces)
    costs = _costs(points, limit)
    best = float(_programme(costs, pieces)[0][-1])
    # a segment left out costs more than the limit
    best = min(best, limit) * (1 - 2 * gamma(pieces + 4))
    return scaled_below(best, points.exponent)


# -- exact costs -------------------------------------------------------------------------------------------------------


def _whole(numbers: Tensor) -> tuple[list[int], int]:
    """Whole numbers and an exponent e: the numbers are these times ``2^e``."""
    parts = [math.frexp(number) for number in numbers.reshape(-1).tolist()]
    used = [exponent for mantissa, exponent in parts if mantissa]
    least = min(used, default=0) - 53
    return [int(math.ldexp(m, 53)) << (e - 53 - least) if m else 0 for m, e in parts], least


def _points(x: Tensor, y: Tensor, weights: Tensor) -> Points:
    order = torch.argsort(x)
    x, y, weights = x[order], y[order], weights[order]
    places, _ = _whole(x)
    factors, of_weights = _whole(weights)
    flat, of_targets = _whole(y)
    width = y.shape[1]
    shift = sum(factor * value * value for factor, value in _pairs(factors, flat, width)).bit_length()
    found = Points([], [], [], [], shift, 2 * of_targets + of_weights + shift)
    for number, (place, factor) in enumerate(zip(places, factors, strict=True)):
        row = flat[number * width : (number + 1) * width]
        if not found.place or found.place[-1] != place:
            found.place.append(place)
            found.weight.append(0)
            found.first.append([0] * width)
            found.second.append(0)
        found.weight[-1] += factor
        found.first[-1] = [total + factor * value for total, value in zip(found.first[-1], row, strict=True)]
        found.second[-1] += factor * sum(value * value for value in row)
    return found


def _pairs(factors: list[int], flat: list[int], width: int) -> Iterator[tuple[int, int]]:
    return ((factors[place // width], value) for place, value in enumerate(flat))


class _Sums:
    """Weighted sums over the points of one segment."""

    def __init__(self, width: int) -> None:
        self.w = self.x = self.xx = self.yy = 0
        self.y, self.xy = [0] * width, [0] * width

    def add(self, points: Points, number: int) -> None:
        place, weight, first = points.place[number], points.weight[number], points.first[number]
        self.w += weight
        self.x += weight * place
        self.xx += weight * place * place
        self.yy += points.second[number]
        for output, value in enumerate(first):
            self.y[output] += value
            self.xy[output] += value * place

    def cost(self, shift: int) -> float:
        """Squares that the best straight line leaves, times ``2^-shift``, correctly rounded."""
        spread = self.w * self.xx - self.x * self.x
        if spread == 0:
            return (self.w * self.yy - sum(y * y for y in self.y)) / (self.w << shift)
        fitted = sum(
            self.w * xy * xy - 2 * self.x * xy * y + self.xx * y * y for y, xy in zip(self.y, self.xy, strict=True)
        )
        return (self.yy * spread - fitted) / (spread << shift)  # of whole numbers, rounded once


def _costs(points: Points, limit: float) -> np.ndarray:
    """``(n, n)``: entry i, j is a lower bound of the cost of the segment from i to j; infinite above the limit."""
    count, width = len(points.place), len(points.first[0])
    costs = np.full((count, count), np.inf)
    for start in range(count):
        sums = _Sums(width)
        for stop in range(start, count):
            sums.add(points, stop)
            cost = sums.cost(points.shift) * (1 - 2 * UNIT) - TINY
            if cost > limit:  # adding points only adds cost
                break
            costs[start, stop] = max(0.0, cost)
    return costs


# -- the best partition ------------------------------------------------------------------------------------------------


def _programme(costs: np.ndarray, pieces: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Least cost of the points up to each, in at most so many segments, and where the last segment then starts."""
    best = costs[0].copy()
    starts = [np.zeros(len(best), dtype=np.int64)]
    for _ in range(pieces - 1):
        before = np.concatenate([[0.0], best[:-1]])
        total = before[:, None] + costs
        start = total.argmin(0)
        best = total[start, np.arange(len(best))]
        starts.append(start)
    return best, starts


def _reachable(points: Points, x: Tensor, y: Tensor, weights: Tensor, pieces: int) -> float:
    """The cost of a partition that is nearly the best: no segment of the best one costs more."""
    starts = _programme(_rough_costs(points, x, y, weights), pieces)[1]
    total, stop = 0.0, len(points.place)
    for start in reversed(starts):
        if stop == 0:
            break
        first, sums = int(start[stop - 1]), _Sums(len(points.first[0]))
        for number in range(first, stop):
            sums.add(points, number)
        total += sums.cost(points.shift) * (1 + 4 * UNIT) + TINY
        stop = first
    return total * (1 + gamma(len(starts) + 4))


def _rough_costs(points: Points, x: Tensor, y: Tensor, weights: Tensor) -> np.ndarray:
    """Costs of all segments by differences of running sums, in floats."""
    order = torch.argsort(x)
    place, group = torch.unique_consecutive(x[order], return_inverse=True)
    size = float(x.max() - x.min()) or 1.0
    u, v, c = ((place - x.mean()) / size).numpy(), y[order] - y.mean(0), weights[order].unsqueeze(1)
    scale = float(v.abs().max()) or 1.0
    v = v / scale
    columns = torch.cat([c, c * v, (c * v * v).sum(1, keepdim=True)], dim=1)
    table = torch.zeros(len(place), columns.shape[1], dtype=torch.float64).index_add_(0, group, columns).numpy()
    w, first, second = table[:, 0], table[:, 1:-1], table[:, -1]
    W, X, XX, S = (_between(part) for part in (w, w * u, w * u * u, second))
    found = S.copy()
    spread = XX - X * X / np.where(W > 0, W, 1)
    for output in first.T:
        Y, XY = _between(output), _between(output * u)
        along = XY - X * Y / np.where(W > 0, W, 1)
        found -= Y * Y / np.where(W > 0, W, 1)
        found -= np.where(spread > 1e-13 * XX, along**2 / np.where(spread > 0, spread, 1), 0.0)
    costs = np.maximum(found, 0.0)
    costs[np.tril_indices(len(w), -1)] = np.inf
    return costs


def _between(numbers: np.ndarray) -> np.ndarray:
    """Sums of all runs: entry i, j is that from i to j, for i <= j."""
    running = np.concatenate([[0.0], np.cumsum(numbers)])
    return running[None, 1:] - running[:-1, None]
