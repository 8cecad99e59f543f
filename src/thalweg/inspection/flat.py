"""Directions along which the loss does not change, each shown by walking along it.

The structure of the network proposes directions: duplicated neurons, dead units, inputs that are always zero, the
rescaling of a ReLU unit, the common shift under a softmax. A proposal counts only if the loss, evaluated at several
distances on both sides, stays the same up to rounding; that holds for penalised losses too, where most symmetries are
broken. Directions that are level one by one need not be level together (three factors at zero), so random mixtures are
walked as well before a kind is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.inspection.records import FlatGroup, Point
from thalweg.objectives import Objective

__all__ = ["DISTANCES", "FlatCandidate", "verify_flat"]

DISTANCES = (-0.5, -0.1, 0.1, 0.5)
"""How far each direction is walked along, in units of the size of the parameters it moves."""
NOISE = 64.0
"""A change below this multiple of the value's measured rounding counts as none."""
MIXTURES = 8
"""Random mixtures walked before a kind is accepted."""
BYTES = 256 * 2**20
"""Memory that the walked points may fill."""


@dataclass(frozen=True)
class FlatCandidate:
    """A proposed direction.

    Attributes:
        kind: what makes it flat.
        description: in words, naming units or inputs.
        direction: ``(P,)``, the tangent at theta.
        multiplicative: the way is ``theta_i exp(t v_i / theta_i)`` rather than a straight line, as for rescalings.
        short: flat only along a piece of the line around theta, which is walked a thousandth as far.
    """

    kind: str
    description: str
    direction: Float[Tensor, " P"]
    multiplicative: bool = False
    short: bool = False


def verify_flat(
    objective: Objective, theta: Float[Tensor, " P"], point: Point, candidates: Sequence[FlatCandidate]
) -> tuple[FlatGroup, ...]:
    """Walk along every candidate, and gather those along which the loss stays, by kind, into orthonormal bases.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        point: value and rounding there.
        candidates: proposals.

    Returns:
        One group for each kind with at least one new direction; together their directions are orthonormal.
    """
    tolerance = NOISE * max(point.value_noise, torch.finfo(theta.dtype).eps * abs(point.value))
    changes = _largest_changes(objective, theta, point.value, candidates)
    groups: list[FlatGroup] = []
    spanned = theta.new_zeros(len(theta), 0)
    straight = theta.new_zeros(len(theta), 0)
    for kind in dict.fromkeys(candidate.kind for candidate in candidates):
        kept = [c for c, change in zip(candidates, changes, strict=True) if c.kind == kind and change <= tolerance]
        fresh = _new_directions([c.direction for c in kept], spanned) if kept else spanned[:, :0]
        if fresh.shape[1] == 0:
            continue
        mixtures = _mixtures(kept, fresh, straight)
        together = max(_largest_changes(objective, theta, point.value, mixtures), default=0.0)
        if together > tolerance:
            continue
        spanned = torch.cat([spanned, fresh], dim=1)
        if not kept[0].multiplicative:
            straight = torch.cat([straight, fresh], dim=1)
        change = max(together, *_of(kept, candidates, changes))
        straight_ways = not kept[0].multiplicative
        groups.append(FlatGroup(kind, fresh.shape[1], _describe(kept), change, straight_ways, fresh))
    return tuple(groups)


def _of(kept: Sequence[FlatCandidate], candidates: Sequence[FlatCandidate], changes: Sequence[float]) -> list[float]:
    return [change for candidate, change in zip(candidates, changes, strict=True) if any(candidate is k for k in kept)]


def _describe(kept: Sequence[FlatCandidate]) -> str:
    described = "; ".join(dict.fromkeys(candidate.description for candidate in kept[:4]))
    return described + (f"; and {len(kept) - 4} more" if len(kept) > 4 else "")


def _mixtures(kept: Sequence[FlatCandidate], fresh: Tensor, straight: Tensor) -> list[FlatCandidate]:
    """Random directions in the span of these candidates and of all straight ones accepted before."""
    generator = torch.Generator().manual_seed(0)
    if kept[0].multiplicative:  # rescalings commute: mixtures of their tangents rescale together
        span = torch.stack([candidate.direction for candidate in kept], dim=1)
    else:
        span = torch.cat([straight, fresh], dim=1)
    weights = torch.randn(span.shape[1], MIXTURES, generator=generator, dtype=torch.float64).to(span)
    short = any(candidate.short for candidate in kept)
    return [FlatCandidate("mixture", "", v, kept[0].multiplicative, short) for v in (span @ weights).T.unbind()]


def walk(theta: Float[Tensor, " P"], candidate: FlatCandidate, distance: float) -> Float[Tensor, " P"]:
    """The point at this distance along a candidate, in units of the size of the parameters it moves."""
    v = candidate.direction
    moved = v != 0
    if candidate.multiplicative:
        rate = torch.where(moved & (theta != 0), v / torch.where(theta != 0, theta, torch.ones_like(theta)), 0 * v)
        return theta * torch.exp(distance * rate / rate.abs().amax().clamp_min(torch.finfo(theta.dtype).tiny))
    size = torch.where(moved, theta, 0 * theta).norm().clamp_min(1.0)
    return theta + (1e-3 if candidate.short else 1.0) * distance * size * v / v.norm()


def _largest_changes(
    objective: Objective, theta: Tensor, value: float, candidates: Sequence[FlatCandidate]
) -> list[float]:
    at_once = max(1, BYTES // (len(DISTANCES) * theta.numel() * theta.element_size()))
    changes: list[float] = []
    for start in range(0, len(candidates), at_once):
        some = candidates[start : start + at_once]
        ends = torch.stack([walk(theta, c, t) for c in some for t in DISTANCES])
        found = (objective.value(ends) - value).abs().reshape(len(some), len(DISTANCES)).amax(1)
        changes.extend(torch.nan_to_num(found, nan=torch.inf).tolist())
    return changes


def _new_directions(directions: Sequence[Tensor], spanned: Tensor) -> Tensor:
    """Orthonormal basis of what the directions add to a span."""
    unit = torch.stack([direction / direction.norm() for direction in directions], dim=1)
    rest = unit - spanned @ (spanned.T @ unit)
    left, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
    fresh = left[:, sizes > 1e-7]
    return fresh - spanned @ (spanned.T @ fresh)
