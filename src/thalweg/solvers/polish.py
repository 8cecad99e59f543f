"""The last steps: pure Newton until the gradient is rounding, and what the length of those steps tells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.local import LocalModel, measure, rounding_signs
from thalweg.solvers.newton import decompose
from thalweg.solvers.watch import checkpoint

__all__ = ["Polished", "polish"]

_STEPS = 10
_SAFE = 4.0
"""Factor on the change of eigenvalues that the last step foretells for the next one."""
_POSITION = 1e-10
"""Nor does any point count as better known than this, in units of ``1 + |theta|``."""
_ASIDE = 1e-6
_SLOW = 0.5
"""Newton steps that shrink by less than this are not converging quadratically; five of them show at which rate."""


@dataclass(frozen=True)
class Polished:
    """Where pure Newton steps led.

    The ratio of successive steps tells places that Newton's method reaches from places at infinity: it tends to 0 at a
    regular critical point, to ``(k - 2) / (k - 1)`` at a degenerate one where the value grows like the k-th power, and
    to 1 or more on the way to infinity (1 for an exponential approach, ``(p + 2) / (p + 1)`` for a power ``s^-p``).

    Attributes:
        model: at the last point.
        decrement: Newton decrement there.
        length: length of the next Newton step.
        ratio: last ratio of successive steps; NaN with fewer than two.
        soft: ``(b, P)``, eigendirections that are not resolved (`LocalModel.newton_step`).
        evaluations: values and gradients computed, Hessians among them.
        hessians: Hessians computed.
    """

    model: LocalModel
    decrement: Float[Tensor, " b"]
    length: Float[Tensor, " b"]
    ratio: Float[Tensor, " b"]
    soft: Bool[Tensor, "b P"]
    evaluations: Int[Tensor, " b"]
    hessians: Int[Tensor, " b"]


def polish(objective: Objective, model: LocalModel, *, saddle: bool = False) -> Polished:
    """Take pure Newton steps for as long as they lower the maximum norm of the gradient.

    Args:
        objective: whose critical points are sought.
        model: measured at points already near.
        saddle: use negative curvature too, and let the value rise.
    """
    step, decrement, soft = model.newton_step(both_signs=saddle)
    length = step.norm(dim=-1)
    ratio = torch.full_like(length, torch.nan)
    hessians = torch.zeros(len(length), dtype=torch.int64, device=length.device)
    shortest = 2 * torch.finfo(length.dtype).eps * (1 + model.theta.norm(dim=-1))
    turning = _turning_aside(objective, model, length <= shortest)
    hessians += length <= shortest
    active = torch.arange(len(length), device=length.device)
    for count in range(_STEPS):
        unfinished = (model.gradient_norm > model.rounding.floor) | (count == 0)
        active = active[(unfinished & (length > shortest))[active]]
        if not len(active):
            break
        checkpoint()
        cap = ((1 + model.theta[active].norm(dim=-1)) / length[active]).clamp(max=1)
        trial = measure(objective, model.theta[active] + cap[:, None] * step[active], model.rounding.take(active))
        hessians[active] += 1
        here = model.take(active)
        change = (trial.eigenvalues - here.eigenvalues).abs().amax(-1)
        turning[active] = change / (cap * length[active])
        better = trial.gradient_norm < here.gradient_norm
        if not saddle:
            better &= (trial.value <= here.value + here.rounding.value) & ~trial.negative().any(-1)
        rows = active[better]
        model = model.put(rows, trial.take(better))
        before = length[rows]
        step[rows], decrement[rows], soft[rows] = trial.take(better).newton_step(both_signs=saddle)
        length[rows] = step[rows].norm(dim=-1)
        ratio[rows] = length[rows] / before
        active = rows[~((ratio[rows] > _SLOW) & (count >= 4))]
    reach = torch.maximum(_SAFE * length, _POSITION * (1 + model.theta.norm(dim=-1)))
    model = replace(model, drift=turning * reach)
    step, decrement, soft = model.newton_step(both_signs=saddle)
    return Polished(model, decrement, length, ratio, soft, hessians.clone(), hessians)


def _turning_aside(objective: Objective, model: LocalModel, still: Tensor) -> Tensor:
    """Largest change of an eigenvalue per unit of length, seen a little aside of points without a step left."""
    turning = torch.zeros_like(model.value)
    rows = still.nonzero().squeeze(-1)
    if len(rows):
        aside = _ASIDE * (1 + model.theta[rows].norm(dim=-1))
        direction = rounding_signs(model.theta)[0] / model.theta.shape[-1] ** 0.5
        values, _ = decompose(objective.hessian(model.theta[rows] + aside[:, None] * direction))
        turning[rows] = (values - model.eigenvalues[rows]).abs().amax(-1) / aside
    return turning
