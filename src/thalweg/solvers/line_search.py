"""A line search for the strong Wolfe conditions, for a batch of lines at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.method import finite
from thalweg.solvers.watch import checkpoint

__all__ = ["Line", "strong_wolfe"]


@dataclass(frozen=True)
class Line:
    """Where the search ended on every line; rows that failed hold the best point seen, which may be the start.

    Attributes:
        length: ``(b,)``, step length along the direction.
        value: ``(b,)``.
        gradient: ``(b, P)``.
        found: ``(b,)``, True where the conditions hold.
        evaluations: ``(b,)``.
    """

    length: Float[Tensor, " b"]
    value: Float[Tensor, " b"]
    gradient: Float[Tensor, "b P"]
    found: Bool[Tensor, " b"]
    evaluations: Int[Tensor, " b"]


def strong_wolfe(
    objective: Objective,
    theta: Float[Tensor, "b P"],
    direction: Float[Tensor, "b P"],
    value: Float[Tensor, " b"],
    gradient: Float[Tensor, "b P"],
    length: Float[Tensor, " b"],
    *,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    limit: int = 30,
) -> Line:
    """Find step lengths with sufficient decrease and ``|slope| <= curvature * |first slope|``.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6.

    Each line is a bracketing phase that doubles to quadruples, then a zoom by safeguarded cubic interpolation. Where
    the decrease is lost in the rounding of the value, the approximate Wolfe condition on slopes stands in for it (Hager
    and Zhang 2005, eq. 2.3).

    Args:
        objective: what is minimised.
        theta: origins.
        direction: descent directions.
        value: at the origins.
        gradient: at the origins.
        length: first trial lengths, positive.
        decrease: the constant of sufficient decrease.
        curvature: the constant of the curvature condition.
        limit: trials per line.
    """
    search = _Search(value, (gradient * direction).sum(-1), gradient, decrease, curvature)
    trial = length.clone()
    for _ in range(limit):
        rows = search.active.nonzero().squeeze(-1)
        if not len(rows):
            break
        checkpoint()
        points = theta[rows] + trial[rows, None] * direction[rows]
        found = objective.evaluate(points, 1)
        assert found.gradient is not None
        trial[rows] = search.learn(rows, trial[rows], finite(found.value), found.gradient, direction[rows])
    return Line(search.best_t, search.best_f, search.best_g, search.done, search.count)


class _Search:
    """The brackets of all lines: `low` is the best end, its slope pointing into the bracket, `high` the other."""

    def __init__(self, value: Tensor, slope: Tensor, gradient: Tensor, decrease: float, curvature: float) -> None:
        self.f0, self.s0 = value, slope
        self.decrease, self.curvature = decrease, curvature
        self.noise = 16 * torch.finfo(value.dtype).eps * value.abs()
        zero = torch.zeros_like(value)
        self.low_t, self.low_f, self.low_s = zero.clone(), value.clone(), slope.clone()
        self.high_t, self.high_f, self.high_s = zero.clone(), value.clone(), slope.clone()
        self.zooming = torch.zeros_like(value, dtype=torch.bool)
        self.done = torch.zeros_like(self.zooming)
        self.active = slope < 0
        self.count = torch.zeros_like(value, dtype=torch.int64)
        self.best_t, self.best_f, self.best_g = zero.clone(), value.clone(), gradient.clone()

    def learn(self, rows: Tensor, t: Tensor, f: Tensor, gradient: Tensor, direction: Tensor) -> Tensor:
        """Take in one trial per row and return the next one."""
        slope = (gradient * direction).sum(-1)
        f = torch.where(torch.isfinite(slope), f, torch.full_like(f, torch.inf))
        self.count[rows] += 1
        f0, s0 = self.f0[rows], self.s0[rows]
        near = (f <= f0 + self.noise[rows]) & (f0 - f < self.noise[rows])
        approximate = near & ((2 * self.decrease - 1) * s0 >= slope)
        enough = (f <= f0 + self.decrease * t * s0) | approximate
        done = enough & (slope.abs() <= -self.curvature * s0)
        better = done | ((f < self.best_f[rows]) & torch.isfinite(f))
        self._store(rows[better], t[better], f[better], gradient[better])
        self.done[rows] = done
        # a trial that is too high, or no better than the low end, closes the bracket; else the sign of its slope
        # decides
        low_f = torch.where(near, torch.maximum(self.low_f[rows], f), self.low_f[rows])
        closes = ~enough | (f > low_f) | ~torch.isfinite(f)
        turns = ~closes & (slope * torch.where(self.zooming[rows], self.high_t[rows] - self.low_t[rows], t) >= 0)
        moves = ~closes
        self._swap(rows[turns])
        self._high(rows[closes], t[closes], f[closes], slope[closes])
        self._low(rows[moves], t[moves], f[moves], slope[moves])
        self.zooming[rows] |= closes | turns
        width = (self.high_t[rows] - self.low_t[rows]).abs()
        hopeless = self.zooming[rows] & (width <= 4 * torch.finfo(t.dtype).eps * t.abs())
        self.active[rows] = ~done & ~hopeless
        return torch.where(self.zooming[rows], self._interpolate(rows), 4 * t)

    def _store(self, rows: Tensor, t: Tensor, f: Tensor, gradient: Tensor) -> None:
        self.best_t[rows], self.best_f[rows], self.best_g[rows] = t, f, gradient

    def _swap(self, rows: Tensor) -> None:
        self._high(rows, self.low_t[rows], self.low_f[rows], self.low_s[rows])

    def _high(self, rows: Tensor, t: Tensor, f: Tensor, s: Tensor) -> None:
        self.high_t[rows], self.high_f[rows], self.high_s[rows] = t, f, s

    def _low(self, rows: Tensor, t: Tensor, f: Tensor, s: Tensor) -> None:
        self.low_t[rows], self.low_f[rows], self.low_s[rows] = t, f, s

    def _interpolate(self, rows: Tensor) -> Tensor:
        """Minimiser of the cubic through both ends, kept away from them."""
        a, fa, sa = self.low_t[rows], self.low_f[rows], self.low_s[rows]
        b, fb, sb = self.high_t[rows], self.high_f[rows], self.high_s[rows]
        d1 = sa + sb - 3 * (fa - fb) / (a - b)
        d2 = torch.sign(b - a) * (d1**2 - sa * sb).clamp(min=0).sqrt()
        cubic = b - (b - a) * (sb + d2 - d1) / (sb - sa + 2 * d2)
        cubic = torch.where(torch.isfinite(cubic), cubic, (a + b) / 2)
        edge = 0.1 * (b - a).abs()
        return torch.minimum(torch.maximum(cubic, torch.minimum(a, b) + edge), torch.maximum(a, b) - edge)
