"""What lies at infinity where a channel points, whether or not the loss leads there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective, restrict
from thalweg.solvers import Status, find_critical_point
from thalweg.solvers.starts import checked_starts
from thalweg.symmetry.channel_coordinates import half_distances, merging_of, scales, to_channel
from thalweg.symmetry.channel_ends import Channel, ChannelEnd, figures, named
from thalweg.symmetry.channel_ground import ground_of
from thalweg.symmetry.channels import checked_pick, with_negated, with_signs
from thalweg.tangent import inertia

__all__ = ["channel_bottom"]


def channel_bottom(
    objective: Objective,
    theta: Float[Tensor, " P"] | Any = None,
    *,
    layer: int,
    groups: Sequence[Sequence[int]],
) -> Channel:
    """The critical point at infinity next to where channels point, of whatever kind it is.

    `resolve_channel` goes down, and so away from saddles. This stays at the end of the channels, openings zero, and
    looks for a critical point there that keeps its index; the Hessian in all coordinates, openings too, says what it
    is. Where ``h`` is negative the channel's own optimum lies at a finite epsilon, and its end is a saddle.

    Args:
        objective: as for `resolve_channel`.
        theta: ``(P,)``, or whatever `thalweg.objectives.as_theta` converts; None takes the initial parameters.
        layer: number of the hidden layer.
        groups: the units of each channel, as for `resolve_channel`.

    Raises:
        InvalidInputError: for a theta of another shape, or units that are not there.
        NotApplicableError: where channels cannot be.
    """
    points, batch = checked_starts(objective, theta, None, None)
    if batch != torch.Size([]):
        raise InvalidInputError(f"one parameter vector is needed, got a batch {tuple(batch)}")
    ground = ground_of(objective, layer)
    pick = with_signs(ground, checked_pick(ground, layer, groups), points[0])
    points = with_negated(ground.network, pick, points[0]).unsqueeze(0)
    units = torch.tensor(pick.units, device=points.device)
    merging = merging_of(ground.network, layer, pick.sizes, units, points[0])
    form = ground.form(merging)
    space = form.space
    start = to_channel(ground.network, merging, units, points, space)
    free = [name for name in space.names if name not in ("softness", "opening")]
    held = restrict(form, free, torch.zeros_like(start[0]))
    found = find_critical_point(held, held.embed(start[0]), progress=False)
    end = held.project(found.theta)
    measured = form.evaluate(end, 2)
    assert measured.gradient is not None
    assert measured.hessian is not None
    scale = scales(merging, end.unsqueeze(0), space)[0]
    alone = merging.alone
    slopes = measured.gradient[space.slice("softness")] if alone else scale[:0]
    bends = measured.hessian.diagonal()[space.slice("opening")] / 2 if len(scale) > alone else scale[:0]
    h = torch.cat([slopes / scale[:alone], bends / scale[alone:].square()])
    kind, way_out, told = _kind(form.n_samples, measured.hessian, h, merging.triples, alone)
    if found.status is not Status.CONVERGED:
        kind, way_out, told = ChannelEnd.UNRESOLVED, None, f"{found.status.value}. {found.message}"
    where = f"{named(layer, pick.groups)}, at infinity"
    message = f"{where}: the loss is {float(measured.value):.10g}, h = {figures(h)}; {told}"
    return Channel(
        end=kind,
        value=float(measured.value),
        gradient_norm=float(found.gradient_norm),
        layer=layer,
        groups=pick.groups,
        epsilon=half_distances(merging, start, space)[0],
        h=h,
        theta=end,
        objective=form,
        ground=ground,
        undecided=-1,
        entered_at=float(form.value(start[0])),
        message=message[:1].upper() + message[1:],
        way_out=way_out,
    )


def _kind(
    samples: int, hessian: Tensor, h: Tensor, triples: int, alone: int
) -> tuple[ChannelEnd, Tensor | None, str]:
    counts = inertia(hessian, samples=samples)
    falls = h[:alone] < 0
    if counts.negative or bool(falls.any()):
        way_out = torch.linalg.eigh((hessian + hessian.mT) / 2).eigenvectors[:, 0] if counts.negative else None
        softer = "; it falls as a unit alone becomes soft again" if bool(falls.any()) else ""
        return ChannelEnd.SADDLE, way_out, f"{counts.negative} negative curvatures{softer}."
    # one number of each channel of three does not matter at its end, and the softness of a unit alone has no curvature
    level = counts.undecided + max(0, counts.zero - triples - alone)
    if level:
        return ChannelEnd.DEGENERATE, None, f"no negative curvature, {level} lost in rounding."
    return ChannelEnd.MINIMUM, None, "no negative curvature."
