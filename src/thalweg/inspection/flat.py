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

from thalweg.foundation import ParameterSpace
from thalweg.inspection.groups import values_in_groups
from thalweg.inspection.records import FlatGroup, Point
from thalweg.objectives import Objective

__all__ = ["DISTANCES", "FlatCandidate", "verify_flat"]

DISTANCES = (-0.5, -0.1, 0.1, 0.5)
"""How far each direction is walked along, in units of the size of the parameters it moves, or of the usual size of as
many parameters of the same blocks where that is more."""
NOISE = 64.0
"""A change below this multiple of the value's measured rounding counts as none."""
MIXTURES = 8
"""Random mixtures walked before a kind is accepted."""
NAMED = 2
"""Directions of a kind that are described one by one."""


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
    # straight ways first: what is left of them beside a curved one would be neither straight nor that curve
    candidates = sorted(candidates, key=lambda candidate: candidate.multiplicative)
    changes = _largest_changes(objective, theta, point.value, candidates)
    groups: list[FlatGroup] = []
    spanned = theta.new_zeros(len(theta), 0)
    straight, short = spanned, False
    for kind in dict.fromkeys(candidate.kind for candidate in candidates):
        kept = [c for c, change in zip(candidates, changes, strict=True) if c.kind == kind and change <= tolerance]
        fresh = _new_directions([c.direction for c in kept], spanned) if kept else spanned[:, :0]
        if fresh.shape[1] == 0:
            continue
        curved = kept[0].multiplicative
        shorter = any(candidate.short for candidate in kept) or (short and not curved)
        mixtures = _mixtures(kept, torch.cat([straight, fresh], dim=1), shorter)
        together = max(_largest_changes(objective, theta, point.value, mixtures), default=0.0)
        if together > tolerance:
            continue
        spanned = torch.cat([spanned, fresh], dim=1)
        if not curved:
            straight, short = spanned, shorter
        change = max(together, *_of(kept, candidates, changes))
        groups.append(FlatGroup(kind, fresh.shape[1], _describe(kept), change, not curved, fresh))
    return tuple(groups)


def _of(kept: Sequence[FlatCandidate], candidates: Sequence[FlatCandidate], changes: Sequence[float]) -> list[float]:
    return [change for candidate, change in zip(candidates, changes, strict=True) if any(candidate is k for k in kept)]


def _describe(kept: Sequence[FlatCandidate]) -> str:
    described = "; ".join(dict.fromkeys(candidate.description for candidate in kept[:NAMED]))
    return described + (f"; and {len(kept) - NAMED} more" if len(kept) > NAMED else "")


def _mixtures(kept: Sequence[FlatCandidate], straight: Tensor, short: bool) -> list[FlatCandidate]:
    """Random directions in the span of these candidates and, for straight ones, of all accepted before."""
    generator = torch.Generator().manual_seed(0)
    own = torch.stack([candidate.direction for candidate in kept], dim=1)
    span = own if kept[0].multiplicative else straight  # rescalings commute: mixtures of tangents rescale together
    weights = torch.randn(span.shape[1], MIXTURES, generator=generator, dtype=torch.float64).to(span)
    return [FlatCandidate("mixture", "", v, kept[0].multiplicative, short) for v in (span @ weights).T.unbind()]


def walk(
    theta: Float[Tensor, " P"], candidate: FlatCandidate, distance: float, space: ParameterSpace
) -> Float[Tensor, " P"]:
    """The point at this distance along a candidate, in units of the size of the parameters it moves."""
    v = candidate.direction
    moved = v != 0
    if candidate.multiplicative:
        rate = torch.where(moved & (theta != 0), v / torch.where(theta != 0, theta, torch.ones_like(theta)), 0 * v)
        return theta * torch.exp(distance * rate / rate.abs().amax().clamp_min(torch.finfo(theta.dtype).tiny))
    own = float(torch.where(moved, theta, 0 * theta).norm())
    # a whole line stays level however far one goes, and weight decay may have left next to nothing of what it moves;
    # a segment is walked in its own measure
    size = own if candidate.short and own > 0 else max(own, _usual_size(theta, moved, space))
    return theta + (1e-3 if candidate.short else 1.0) * distance * size * v / v.norm()


def _usual_size(theta: Tensor, moved: Tensor, space: ParameterSpace) -> float:
    """The norm that as many parameters of the same blocks have on the average; that of all where those are zero."""
    squares = sum(float((theta[block.slice] ** 2).mean() * moved[block.slice].sum()) for block in space if block.size)
    return float(squares) ** 0.5 or float(theta.norm() * (moved.sum() / theta.numel()) ** 0.5) or 1.0


def _largest_changes(
    objective: Objective, theta: Tensor, value: float, candidates: Sequence[FlatCandidate]
) -> list[float]:
    each = len(DISTANCES)

    def ends(some: slice) -> Tensor:
        numbers = range(len(candidates) * each)[some]
        return torch.stack([walk(theta, candidates[k // each], DISTANCES[k % each], objective.space) for k in numbers])

    found = (values_in_groups(objective, len(candidates) * each, ends) - value).abs()
    return torch.nan_to_num(found.reshape(-1, each).amax(1), nan=torch.inf).tolist() if candidates else []


def _new_directions(directions: Sequence[Tensor], spanned: Tensor) -> Tensor:
    """Orthonormal basis of what the directions add to a span."""
    unit = torch.stack([direction / direction.norm() for direction in directions], dim=1)
    rest = unit - spanned @ (spanned.T @ unit)
    left, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
    fresh = left[:, sizes > 1e-7]
    return fresh - spanned @ (spanned.T @ fresh)
