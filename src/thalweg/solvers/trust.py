"""What all trust-region methods share: judging a trial point, and the radius that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.method import State, finite, max_norm
from thalweg.solvers.watch import checkpoint

__all__ = ["Advance", "Proposal", "advance", "judge"]

_VISIBLE = 256.0
"""A predicted decrease below this many units of rounding of the value is judged by gradients instead of by values."""
_ATTEMPTS = 12
"""Trials of one iteration; each rejected one divides the radius by at least four."""

_CORRECTIONS = 3
_WEAK = 0.9
"""Below this ratio of actual to predicted decrease a step is worth correcting."""


class Proposal(NamedTuple):
    """Trial steps of a model, for k rows.

    Attributes:
        step: ``(k, P)``.
        predicted: ``(k,)``, decrease of the model.
        boundary: ``(k,)``, whether the radius bound the step.
        correct: maps row numbers among the k ``(j,)`` and gradients found there ``(j, P)`` to the steps that take back
            the gradients the model did not foresee; None where the model cannot say.
    """

    step: Float[Tensor, "k P"]
    predicted: Float[Tensor, " k"]
    boundary: Bool[Tensor, " k"]
    correct: Callable[[Tensor, Tensor], Tensor] | None = None


Propose = Callable[[Int[Tensor, " k"], Float[Tensor, " k"]], Proposal]
"""Maps row numbers and radii to trial steps."""


class Advance(NamedTuple):
    """The outcome of one iteration.

    Attributes:
        theta: ``(b, P)``, moved where a trial was accepted.
        moved: ``(b,)``.
        radius: ``(b,)``, for the next iteration.
        evaluations: ``(b,)``, values and gradients computed.
    """

    theta: Float[Tensor, "b P"]
    moved: Bool[Tensor, " b"]
    radius: Float[Tensor, " b"]
    evaluations: Int[Tensor, " b"]


class Judged(NamedTuple):
    """What k trial steps did.

    Attributes:
        ratio: ``(k,)``, actual over predicted decrease.
        accepted: ``(k,)``, whether the step is to be taken.
        gradient: ``(k, P)``, found at the trial points; None where it was not asked for.
    """

    ratio: Float[Tensor, " k"]
    accepted: Bool[Tensor, " k"]
    gradient: Float[Tensor, "k P"] | None


def judge(objective: Objective, state: State, step: Tensor, predicted: Tensor, *, slopes: bool = False) -> Judged:
    """Compare the decrease along trial steps with what the model predicted.

    Where the predicted decrease is lost in the rounding of the value, the decrease is taken from the slopes at both
    ends (trapezoidal rule, as in the approximate Wolfe condition of Hager and Zhang 2005), and a step that lowers the
    gradient is taken too.

    Args:
        objective: what is minimised.
        state: where the k rows stand.
        step: ``(k, P)``.
        predicted: ``(k,)``.
        slopes: whether the gradients at the trial points are wanted, which costs less than asking for them later.
    """
    trial = state.theta + step
    found = objective.evaluate(trial, 1 if slopes else 0)
    value = finite(found.value)
    ratio = (state.value - value) / predicted.clamp(min=torch.finfo(predicted.dtype).tiny)
    accepted = ratio > 1e-4
    unit = torch.finfo(value.dtype).eps * state.value.abs()
    blurred = (predicted < _VISIBLE * unit) & (value <= state.value + _VISIBLE * unit)
    if bool(blurred.any()):
        rows = blurred.nonzero().squeeze(-1)
        slope = objective.gradient(trial[rows]) if found.gradient is None else found.gradient[rows]
        decrease = -((state.gradient[rows] + slope) * step[rows]).sum(-1) / 2
        fine = decrease / predicted[rows].clamp(min=torch.finfo(predicted.dtype).tiny)
        better = max_norm(slope) < 0.9 * state.gradient_norm[rows]
        ratio[rows] = fine
        accepted[rows] = (fine > 0.1) & (max_norm(slope) < 4 * state.gradient_norm[rows]) | better
    return Judged(ratio, accepted & torch.isfinite(value), found.gradient)


def advance(
    objective: Objective, state: State, radius: Tensor, propose: Propose, *, widest: float, scale: Tensor | None = None
) -> Advance:
    """Try steps, with radii cut until one is good enough, in every row at once.

    Rejected rows ask the same model again, which costs a value and no new curvature.

    Args:
        objective: what is minimised.
        state: where the rows stand.
        radius: ``(b,)``.
        propose: the model.
        widest: upper limit of the radius.
        scale: ``(b, P)``, the units in which lengths are measured; ones where None.
    """
    theta, radius = state.theta.clone(), radius.clone()
    scale = torch.ones_like(theta) if scale is None else scale
    moved = torch.zeros_like(state.stuck)
    evaluations = torch.zeros_like(state.evaluations)
    pending = torch.arange(len(theta), device=theta.device)
    bare = replace(state, memory={})  # rows are picked below, and what a method remembers may be matrices
    resolution = torch.finfo(theta.dtype).eps * scale.amax(-1) * (1 + theta.norm(dim=-1)) / 4
    for _ in range(_ATTEMPTS):
        checkpoint()
        proposal = propose(pending, radius[pending])
        here = bare.take(pending)
        first = judge(objective, here, proposal.step, proposal.predicted, slopes=proposal.correct is not None)
        evaluations[pending] += 1
        step, ratio, accepted, more = _corrected(objective, here, proposal, first)
        evaluations[pending] += more
        length = (step * scale[pending]).norm(dim=-1)
        wider = accepted & (ratio > 0.75) & proposal.boundary
        poor = ~(ratio > 0.25)
        factor = torch.where(wider, 2.5, 1.0).to(radius)
        new = torch.where(poor, torch.where(accepted, 0.5, 0.25).to(radius) * length, factor * radius[pending])
        radius[pending] = new.clamp(min=torch.finfo(theta.dtype).tiny, max=widest)
        theta[pending] = torch.where(accepted[:, None], theta[pending] + step, theta[pending])
        moved[pending] = accepted
        pending = pending[~accepted & (radius[pending] > resolution[pending])]
        if not len(pending):
            break
    return Advance(theta, moved, radius, evaluations)


def _corrected(
    objective: Objective, state: State, proposal: Proposal, first: Judged
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bend weak steps back onto the floor of a curved valley.

    Across a narrow valley the model is right and along it the floor bends away: the trial lands on the wall. The
    gradient there, less the one the model foresaw, is the wall; the same model takes it back. A gradient each, no new
    curvature (the second-order correction of constrained optimisation, and for least squares geodesic acceleration).
    """
    step, ratio, accepted, gradient = proposal.step, first.ratio, first.accepted, first.gradient
    more = torch.zeros_like(state.evaluations)
    if proposal.correct is None or gradient is None:
        return step, ratio, accepted, more
    step, ratio, accepted = step.clone(), ratio.clone(), accepted.clone()
    length = step.norm(dim=-1)
    rows = ((ratio < _WEAK) & torch.isfinite(ratio)).nonzero().squeeze(-1)
    gradient = gradient[rows]
    for number in range(_CORRECTIONS):
        if not len(rows):
            break
        back = proposal.correct(rows, torch.nan_to_num(gradient, posinf=0.0, neginf=0.0))
        bent = step[rows] + back
        sane = bent.norm(dim=-1) <= 2 * length[rows]
        last = number == _CORRECTIONS - 1
        tried = judge(objective, state.take(rows), bent, proposal.predicted[rows], slopes=not last)
        more[rows] += 1
        better = sane & (tried.ratio > ratio[rows])
        kept = rows[better]
        step[kept], ratio[kept], accepted[kept] = bent[better], tried.ratio[better], tried.accepted[better]
        weak = better & (tried.ratio < _WEAK) & torch.isfinite(tried.ratio)
        rows = rows[weak]
        gradient = gradient[:0] if tried.gradient is None else tried.gradient[weak]
    return step, ratio, accepted, more
