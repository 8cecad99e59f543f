"""What units in a channel compute, as functions in which the end of the channel is an ordinary point.

One unit whose input weights ``u / s`` grow while its output weight s (times a sign) vanishes computes ``hardened(u.x,
s) = s sigma(u.x / s)``, in the end the asymptotes of sigma: a rectified linear unit where sigma is like softplus. s is
positive.

Two units with input weights ``w +- s v`` and output weights ``c / 2 +- A / (2 s)`` compute together, with z = w.x and
r = v.x, ``c average(z, s r) + A r mean_slope(z, s r)``, where::

    average(z, t)     = (sigma(z + t) + sigma(z - t)) / 2
    mean_slope(z, t)  = (sigma(z + t) - sigma(z - t)) / (2 t) = 1/2 integral of sigma'(z + t u) du,  u from -1 to 1

Three units with input weights ``m + s p + s^2 q``, ``m - 2 s^2 q``, ``m - s p + s^2 q`` and output weights ``A_0 +- A_1
/ s + A_2 / s^2`` (first and last) and ``A_0 - 2 A_2 / s^2`` compute A_0 times the sum of the three, A_1 times ``2 p
mean_slope``, and A_2 times ``p^2 mean_bend + 6 q mean_slope`` (each at its own place), where::

    mean_bend(z, t)   = (sigma(z + t) + sigma(z - t) - 2 sigma(z)) / t^2 = integral of (1 - |u|) sigma''(z + t u) du

Nothing grows and nothing cancels as s goes to zero. What two and three units compute is even in s: a
change of its sign changes the names of two units.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.objectives import seamless
from thalweg.structure import ActivationFacts, jet

__all__ = [
    "Asymptotes",
    "HardJet",
    "PairJet",
    "average",
    "hard_jet",
    "hardened",
    "mean_bend",
    "mean_slope",
    "pair_jet",
    "triple_atoms",
]

MOST_NODES = 8
SMALL = 0.125
"""Up to this ``|t|`` the integrals are taken by Gauss-Legendre quadrature, exact to rounding for functions whose
singularities are not much nearer than one; beyond by the quotients, whose rounding errors grow by a small factor."""


class Asymptotes(NamedTuple):
    """``sigma(z) ~ slope z + level`` at minus and at plus infinity."""

    slopes: tuple[float, float]
    levels: tuple[float, float]

    @staticmethod
    def of(facts: ActivationFacts) -> Asymptotes | None:
        """Those of an activation that has them, with a bend between them and not all slopes zero; else None."""
        ends = torch.tensor([-1e3, 1e3, -1e6, 1e6], dtype=torch.float64)
        slopes = slope_of(facts, ends)
        levels = facts(ends) - slopes * ends
        same = torch.stack([slopes, levels]).isfinite().all() and torch.allclose(slopes[:2], slopes[2:], atol=1e-12)
        if not same or not torch.allclose(levels[:2], levels[2:], atol=1e-8) or not bool(slopes[:2].any()):
            return None
        (low, high), (below, above) = slopes[:2].tolist(), levels[:2].tolist()
        if low == high and abs(below - above) < 1e-8:
            return None  # affine from far: nothing becomes sharp
        return Asymptotes((low, high), (below, above))

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``slope`` and ``level`` on the side of each z; at zero those from above."""
        (low, high), (below, above) = self.slopes, self.levels
        right = z >= 0
        one = torch.ones_like(z)
        return torch.where(right, high * one, low * one), torch.where(right, above * one, below * one)


def hardened(facts: ActivationFacts, asymptotes: Asymptotes, z: Float[Tensor, "..."], s: Tensor) -> Tensor:
    """``s sigma(z / s)`` for s >= 0; differentiable by torch, at s = 0 from the side of positive s."""
    with seamless():
        closed = s == 0
    slope, level = asymptotes.at(torch.where(closed, z, torch.full_like(z, torch.inf)))
    inside = s * facts(z / torch.where(closed, torch.ones_like(s), s))
    return torch.where(closed, slope * z + level * s, inside)


def average(facts: ActivationFacts, z: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``(sigma(z + t) + sigma(z - t)) / 2``."""
    return (facts(z + t) + facts(z - t)) / 2


def mean_slope(facts: ActivationFacts, z: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The mean of sigma' between ``z - t`` and ``z + t``; differentiable by torch."""
    near, inside, outside = _sides(t)
    nodes, weights = _on_both_sides(t, MOST_NODES)
    by_nodes = (slope_of(facts, z.unsqueeze(-1) + inside.unsqueeze(-1) * nodes) * (weights / 2)).sum(-1)
    by_ends = (facts(z + outside) - facts(z - outside)) / (2 * outside)
    return torch.where(near, by_nodes, by_ends)


def mean_bend(facts: ActivationFacts, z: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The integral of ``(1 - |u|) sigma''(z + t u)``; differentiable by torch."""
    near, inside, outside = _sides(t)
    nodes, weights = _on_both_sides(t, MOST_NODES)
    u, weights = (nodes + 1) / 2, weights * (1 - nodes) / 4  # from 0 to 1, with 1 - u
    aside = inside.unsqueeze(-1) * u
    both = bend_of(facts, z.unsqueeze(-1) + aside) + bend_of(facts, z.unsqueeze(-1) - aside)
    by_ends = (facts(z + outside) + facts(z - outside) - 2 * facts(z)) / outside.square()
    return torch.where(near, (both * weights).sum(-1), by_ends)


def triple_atoms(
    facts: ActivationFacts, m: Float[Tensor, "..."], p: Float[Tensor, "..."], q: Float[Tensor, "..."], s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What A_0, A_1 and A_2 multiply; differentiable by torch."""
    aside, shift = s * p, s.square() * q
    outer = m + shift
    total = 2 * average(facts, outer, aside) + facts(m - 2 * shift)
    first = 2 * p * mean_slope(facts, outer, aside)
    second = p.square() * mean_bend(facts, outer, aside) + 6 * q * mean_slope(facts, m - shift / 2, 1.5 * shift)
    return total, first, second


def slope_of(facts: ActivationFacts, z: Tensor) -> Tensor:
    """sigma'(z), differentiable itself."""
    if facts.derivatives:
        return facts.derivatives[0](z)
    slope: Tensor = torch.func.jvp(facts.function, (z,), (torch.ones_like(z),))[1]
    return slope


def bend_of(facts: ActivationFacts, z: Tensor) -> Tensor:
    """sigma''(z), differentiable itself."""
    if len(facts.derivatives) >= 2:
        return facts.derivatives[1](z)
    bend: Tensor = torch.func.jvp(lambda at: slope_of(facts, at), (z,), (torch.ones_like(z),))[1]
    return bend


class HardJet(NamedTuple):
    """`hardened` and its derivatives, each ``(S, h, n)``: by ``"z"``, ``"s"``, and by both."""

    value: Tensor
    by: dict[str, Tensor]
    twice: dict[str, Tensor]


def hard_jet(
    facts: ActivationFacts, asymptotes: Asymptotes, z: Float[Tensor, "S h n"], s: Float[Tensor, "S h 1"], order: int
) -> HardJet:
    """`hardened` with derivatives up to an order, 0 to 2."""
    slope, level = asymptotes.at(z)
    closed = (s == 0).expand_as(z)
    inner = torch.where(s == 0, torch.ones_like(s), s)
    y = z / inner
    found = jet(facts, y, max(order, 1))
    value = torch.where(closed, slope * z, inner * found[0])
    far = closed | (y.abs() > 1e3)  # where the asymptote is all there is, and a difference would lose its digits
    by = {"z": torch.where(far, slope, found[1]), "s": torch.where(far, level, found[0] - y * found[1])}
    twice: dict[str, Tensor] = {}
    if order >= 2:
        bend = torch.where(far, 0.0, found[2] / inner)
        twice = {"zz": bend, "zs": -y * bend, "ss": y * y * bend}
    return HardJet(value, by, twice)


class PairJet(NamedTuple):
    """The two atoms of pairs of units, and their derivatives, each ``(S, g, n)``.

    Attributes:
        values: ``average(z, s r)`` and ``r mean_slope(z, s r)``.
        by: first derivatives of both, by ``"z"``, ``"r"`` and ``"s"``.
        twice: second derivatives of both, by ``"zz"``, ``"zr"``, ``"zs"``, ``"rr"``, ``"rs"``, ``"ss"``.
    """

    values: tuple[Tensor, Tensor]
    by: dict[str, tuple[Tensor, Tensor]]
    twice: dict[str, tuple[Tensor, Tensor]]


def pair_jet(
    facts: ActivationFacts, z: Float[Tensor, "S g n"], r: Float[Tensor, "S g n"], s: Float[Tensor, "S g 1"], order: int
) -> PairJet:
    """The atoms of pairs at ``z = w.x`` and ``r = v.x``, with derivatives up to an order, 0 to 2."""
    t = s * r
    up, down = jet(facts, z + t, order), jet(facts, z - t, order)
    even = [(a + b) / 2 for a, b in zip(up, down, strict=True)]
    odd = [(a - b) / 2 for a, b in zip(up, down, strict=True)]
    means = _means(facts, z, t, odd, even)
    by: dict[str, tuple[Tensor, Tensor]] = {}
    twice: dict[str, tuple[Tensor, Tensor]] = {}
    square = r * r
    if order >= 1:
        by = {"z": (even[1], r * means["2"]), "r": (s * odd[1], even[1]), "s": (r * odd[1], square * means["2u"])}
    if order >= 2:
        twice = {
            "zz": (even[2], r * means["3"]),
            "zr": (s * odd[2], even[2]),
            "zs": (r * odd[2], square * means["3u"]),
            "rr": (s * s * even[2], s * odd[2]),
            "rs": (odd[1] + t * even[2], r * odd[2]),
            "ss": (square * even[2], square * r * means["3uu"]),
        }
    return PairJet((even[0], r * means["1"]), by, twice)


def _means(facts: ActivationFacts, z: Tensor, t: Tensor, odd: list[Tensor], even: list[Tensor]) -> dict[str, Tensor]:
    """Means over u from -1 to 1 of ``sigma^(k)(z + t u) u^j``, named by k and a letter u for each j."""
    order = len(odd) - 1
    near = t.abs() <= SMALL
    inside = t[near]
    if 0 < inside.numel() == t.numel():
        return _by_nodes(facts, z, t, order)
    found = _by_ends(torch.where(near, torch.ones_like(t), t), odd, even)
    if inside.numel():
        for name, part in _by_nodes(facts, z[near], inside, order).items():
            found[name][near] = part
    return found


def _by_ends(t: Tensor, odd: list[Tensor], even: list[Tensor]) -> dict[str, Tensor]:
    """From values at the ends; by parts for what has a factor u."""
    found = {"1": odd[0] / t}
    if len(odd) > 1:
        found["2"] = odd[1] / t
        found["2u"] = (even[1] - found["1"]) / t
    if len(odd) > 2:
        found["3"] = odd[2] / t
        found["3u"] = (even[2] - found["2"]) / t
        found["3uu"] = (odd[2] - 2 * found["2u"]) / t
    return found


def _by_nodes(facts: ActivationFacts, z: Tensor, t: Tensor, order: int) -> dict[str, Tensor]:
    """By quadrature, with as many nodes as the largest ``|t|`` asks for."""
    largest = float(t.abs().max())
    count = next(n for n, reach in ((3, 1e-3), (5, 1e-2), (MOST_NODES, torch.inf)) if not largest > reach)
    names = ["1", "2", "2u", "3", "3u", "3uu"][: (1, 3, 6)[order]]
    found = {name: torch.zeros_like(z) for name in names}
    for u, weight in zip(*_gauss_legendre(count), strict=True):
        each = jet(facts, z + u * t, order + 1)
        for name in names:
            found[name].add_(each[int(name[0])], alpha=weight / 2 * u ** (len(name) - 1))
    return found


def _sides(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where t is small; t there, zero elsewhere; t elsewhere, one there."""
    with seamless():
        near = t.abs() <= SMALL
    return near, torch.where(near, t, torch.zeros_like(t)), torch.where(near, torch.ones_like(t), t)


def _on_both_sides(like: Tensor, count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = _gauss_legendre(count)
    return like.new_tensor(nodes), like.new_tensor(weights)


@cache
def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes.tolist(), weights.tolist()
