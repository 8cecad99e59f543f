"""Keeping to the floor of a valley: prediction along it, correction across it, for many lanes at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.local import LocalModel
from thalweg.solvers.method import finite
from thalweg.solvers.newton import decompose
from thalweg.solvers.watch import checkpoint

__all__ = ["Lanes", "follow"]

_ATTEMPTS = 40
"""Predictions tried per stop."""
_CORRECTIONS, _RENEWALS = 8, 3
_SHORTEST = 2e-3
"""A lane ends when it would need steps shorter than this, in units of its size."""


@dataclass
class Lanes:
    """Walkers, each with one unit vector along which it advances while it stays minimal in the complement.

    Attributes:
        theta: ``(m, P)``, where they are.
        value: ``(m,)``.
        along: ``(m, P)``, the unit vectors.
        held: ``(m, P, P)``, projector onto what is not relaxed: the unit vector and all other soft directions.
        tangent: ``(m, P)``, change per unit of distance over the last stretch.
        bend: ``(m, P)``, divided difference of the last two tangents; zero until there are two.
        stretch: ``(m,)``, length of the last stretch.
        at: ``(m,)``, distance travelled along the unit vector.
        step: ``(m,)``, length of the next prediction.
        size: ``(m,)``, unit of distance.
        noise: ``(m,)``, what differences of values must exceed to be seen.
        origin: ``(m,)``, value at the start.
        curvature: ``(m, P)``, spectrum of the complement where it was last decomposed.
        vectors: ``(m, P, P)``.
        barrier: ``(m,)``, how much higher than the start the last place was that could not be relaxed, less twice what
            relaxing promised; minus infinity before any.
        alive: ``(m,)``, False once a lane could not go on.
        saddle: stay stationary in the complement instead of minimal.
        evaluations: ``(m,)``, values and gradients computed.
        hessians: ``(m,)``, Hessians computed.
    """

    theta: Tensor
    value: Tensor
    along: Tensor
    held: Tensor
    tangent: Tensor
    bend: Tensor
    stretch: Tensor
    at: Tensor
    step: Tensor
    size: Tensor
    noise: Tensor
    origin: Tensor
    curvature: Tensor
    vectors: Tensor
    barrier: Tensor
    alive: Tensor
    saddle: bool
    evaluations: Tensor
    hessians: Tensor

    @classmethod
    def begin(
        cls,
        objective: Objective,
        model: LocalModel,
        soft: Tensor,
        along: Tensor,
        size: Tensor,
        noise: Tensor,
        *,
        saddle: bool = False,
    ) -> Lanes:
        """On the floor nearest to the points of a model, whose spectrum serves the first steps."""
        hessian = (model.vectors * model.eigenvalues[:, None]) @ model.vectors.mT
        held = _held(model.vectors, soft, along)
        curvature, vectors = complement(hessian, held)
        count = torch.zeros(len(size), dtype=torch.int64, device=size.device)
        lanes = cls(
            theta=model.theta.clone(),
            value=model.value.clone(),
            along=along,
            held=held,
            tangent=_tangent(hessian, curvature, vectors, along, held),
            bend=torch.zeros_like(along),
            stretch=torch.zeros_like(size),
            at=torch.zeros_like(size),
            step=0.25 * size,
            size=size,
            noise=noise,
            origin=model.value.clone(),
            curvature=curvature,
            vectors=vectors,
            barrier=torch.full_like(size, -torch.inf),
            alive=torch.ones_like(count, dtype=torch.bool),
            saddle=saddle,
            evaluations=count,
            hessians=count.clone(),
        )
        rows = torch.arange(len(size), device=size.device)
        arrived, theta, value, _, _ = _correct(objective, lanes, rows, 0 * size, 0.5 * size)
        lanes.theta[arrived], lanes.value[arrived] = theta[arrived], value[arrived]
        lanes.origin = lanes.value.clone()
        return lanes

    def turned(self) -> Lanes:
        """The same walkers facing the other way, without the effort so far."""
        changes = {"along": -self.along, "tangent": -self.tangent}  # before the first step: no bend yet
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "saddle"}
        copies = {name: tensor.clone() for name, tensor in tensors.items()} | changes
        copies["evaluations"], copies["hessians"] = 0 * self.evaluations, 0 * self.hessians
        return Lanes(saddle=self.saddle, **copies)


def follow(objective: Objective, lanes: Lanes, distance: float) -> None:
    """Advance every living lane to a distance, in units of its size; those that cannot die on the way."""
    goal = distance * lanes.size
    for _ in range(_ATTEMPTS):
        short = lanes.alive & (lanes.at < goal * (1 - 1e-12))
        rows = short.nonzero().squeeze(-1)
        if not len(rows):
            return
        ahead = torch.minimum(lanes.step[rows], (goal - lanes.at)[rows])
        reach = 0.3 * ahead * lanes.tangent[rows].norm(dim=-1)
        arrived, theta, value, gain, effort = _correct(objective, lanes, rows, ahead, reach)
        done, again = rows[arrived], rows[~arrived]
        tangent = (theta[arrived] - lanes.theta[done]) / ahead[arrived][:, None]
        # three points make a parabola; the first stretch starts from the exact tangent, as if after a stretch of length
        # zero
        span = (ahead[arrived] + lanes.stretch[done])[:, None]
        lanes.bend[done] = (tangent - lanes.tangent[done]) / span
        lanes.tangent[done], lanes.stretch[done] = tangent, ahead[arrived]
        lanes.theta[done], lanes.value[done] = theta[arrived], value[arrived]
        lanes.at[done] += ahead[arrived]
        lanes.step[done] *= torch.where(effort[arrived] <= 3, 1.7, 1.0).to(lanes.step)
        lanes.barrier[again] = (value - 2 * gain)[~arrived] - lanes.origin[again]
        lanes.step[again] = ahead[~arrived] / 3
        lanes.alive[again] = lanes.step[again] > _SHORTEST * lanes.size[again]
    lanes.alive &= lanes.at >= goal * (1 - 1e-12)


def _correct(
    objective: Objective, lanes: Lanes, rows: Tensor, ahead: Tensor, reach: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From the prediction, Newton steps across the valley with the last Hessian, renewed where it no longer serves.

    Returns:
        For each row: whether the floor was found within `reach` of the prediction, the point, its value, and the number
        of corrections.
    """
    over = (ahead * (ahead + lanes.stretch[rows]))[:, None]
    start = lanes.theta[rows] + ahead[:, None] * lanes.tangent[rows] + over * lanes.bend[rows]
    theta, value = start.clone(), torch.full_like(ahead, torch.inf)
    arrived, failed = torch.zeros_like(ahead, dtype=torch.bool), torch.zeros_like(ahead, dtype=torch.bool)
    last, promised = torch.full_like(ahead, torch.inf), torch.full_like(ahead, torch.inf)
    effort = torch.zeros_like(rows)
    renewals = torch.zeros_like(rows)
    for _ in range(_CORRECTIONS):
        active = (~arrived & ~failed).nonzero().squeeze(-1)
        if not len(active):
            break
        checkpoint()
        owner = rows[active]
        found = objective.evaluate(theta[active], 1)
        assert found.gradient is not None
        lanes.evaluations[owner] += 1
        effort[active] += 1
        value[active] = finite(found.value)
        gain, move = _across(lanes, owner, found.gradient)
        there = gain <= _goal(lanes, owner, value[active])
        strays = (theta[active] + move - start[active]).norm(dim=-1) > reach[active]
        stale = ~there & ((gain > 0.25 * last[active]) | strays)
        renew = stale & (renewals[active] < _RENEWALS) & torch.isfinite(value[active])
        if bool(renew.any()):
            here = theta[active[renew]]
            gain[renew], move[renew] = _renewed(objective, lanes, owner[renew], here, found.gradient[renew])
            renewals[active[renew]] += 1
            there = gain <= _goal(lanes, owner, value[active])
            strays = (theta[active] + move - start[active]).norm(dim=-1) > reach[active]
        arrived[active] = there & torch.isfinite(value[active])
        failed[active] = ~there & ((stale & ~renew) | strays) | ~torch.isfinite(value[active])
        going = ~arrived[active] & ~failed[active]
        theta[active[going]] += move[going]
        promised[active] = gain
        last[active] = torch.where(renew, torch.full_like(gain, torch.inf), gain)
    return arrived, theta, value, promised, effort


def _goal(lanes: Lanes, rows: Tensor, value: Tensor) -> Tensor:
    """On the floor: what relaxing could still gain is small beside the difference that is being looked at."""
    return torch.maximum(0.005 * (value - lanes.origin[rows]).abs(), 0.25 * lanes.noise[rows])


def _across(lanes: Lanes, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What a Newton step across the valley would gain, and the step.

    Without `saddle`, directions of negative curvature are left alone.
    """
    curvature, vectors = lanes.curvature[rows], lanes.vectors[rows]
    off = gradient - (lanes.held[rows] @ gradient[:, :, None]).squeeze(-1)
    slopes = (vectors.mT @ off[:, :, None]).squeeze(-1)
    eps = torch.finfo(gradient.dtype).eps
    least = (
        eps * max(10, gradient.shape[-1]) * curvature.abs().amax(-1, keepdim=True) + torch.finfo(gradient.dtype).tiny
    )
    size = curvature.abs().clamp(min=least)
    gain = (slopes**2 / size).sum(-1) / 2
    curved = curvature.abs() > least if lanes.saddle else curvature > least
    step = torch.where(curved, -slopes / torch.where(curved, curvature, size), torch.zeros_like(slopes))
    return gain, (vectors @ step[:, :, None]).squeeze(-1)


def _renewed(
    objective: Objective, lanes: Lanes, rows: Tensor, theta: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The same with the Hessian where the lane is now."""
    lanes.hessians[rows] += 1
    lanes.curvature[rows], lanes.vectors[rows] = complement(objective.hessian(theta), lanes.held[rows])
    return _across(lanes, rows, gradient)


def _held(vectors: Tensor, soft: Tensor, along: Tensor) -> Tensor:
    """Projector onto the soft eigenvectors and the unit vector, which usually lies among them."""
    basis = torch.where(soft[:, None], vectors, torch.zeros_like(vectors))
    rest = along - (basis @ (basis.mT @ along[:, :, None])).squeeze(-1)
    size = rest.norm(dim=-1, keepdim=True)
    rest = torch.where(size > 1e-6, rest / size.clamp(min=1e-6), torch.zeros_like(rest))
    return basis @ basis.mT + rest[:, :, None] * rest[:, None, :]


def _tangent(hessian: Tensor, curvature: Tensor, vectors: Tensor, along: Tensor, held: Tensor) -> Tensor:
    """How the floor runs: the unit vector, and across it what keeps the gradient there at zero to first order."""
    image = hessian @ along[:, :, None]
    slopes = (vectors.mT @ (image - held @ image)).squeeze(-1)
    least = torch.finfo(along.dtype).eps * max(10, along.shape[-1]) * curvature.abs().amax(-1, keepdim=True)
    curved = curvature.abs() > least
    back = torch.where(
        curved, slopes / torch.where(curved, curvature, torch.ones_like(curvature)), torch.zeros_like(slopes)
    )
    return along - (vectors @ back[:, :, None]).squeeze(-1)


def complement(hessian: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrum of the Hessian off the held directions.

    On those stands a bound on all eigenvalues, so that no step goes there.
    """
    free = torch.eye(held.shape[-1], dtype=held.dtype, device=held.device) - held
    stiff = hessian.abs().sum(-1).amax(-1)
    return decompose(free @ hessian @ free + stiff[:, None, None] * held)
