"""What lies at infinity where a channel points, whether or not the loss leads there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.objectives import Objective, restrict
from thalweg.solvers import Status, find_critical_point
from thalweg.symmetry.channel_coordinates import half_distances
from thalweg.symmetry.channel_ends import Channel, ChannelEnd, figures, named
from thalweg.symmetry.channel_entry import enter
from thalweg.symmetry.channel_verdict import EndReport, report_end

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
    entry = enter(objective, theta, layer, groups)
    form, space, merging = entry.form, entry.form.space, entry.merging
    free = [name for name in space.names if name not in ("softness", "opening")]
    held = restrict(form, free, torch.zeros_like(entry.inner[0]))
    found = find_critical_point(held, held.embed(entry.inner[0]), progress=False)
    end = held.project(found.theta)
    value, where = float(form.value(end)), f"{named(layer, entry.pick.groups)}, at infinity"
    report = None
    if found.status is Status.CONVERGED:
        report = report_end(form, end, torch.ones(len(merging.sizes), dtype=torch.bool, device=end.device))
        kind, told = _kind(report)
        message = f"{where}: the loss is {value:.10g}, h = {figures(report.h)}; {told}"
    else:
        kind, message = ChannelEnd.UNRESOLVED, f"{where}: {found.status.value}. {found.message}"
    return Channel(
        end=kind,
        value=value,
        gradient_norm=float(found.gradient_norm),
        layer=layer,
        groups=entry.pick.groups,
        epsilon=half_distances(merging, entry.inner, space)[0],
        h=torch.full((len(merging.sizes),), torch.nan).to(end) if report is None else report.h,
        theta=end,
        objective=form,
        ground=entry.ground,
        undecided=-1 if report is None else report.level,
        entered_at=float(form.value(entry.inner[0])),
        message=message[:1].upper() + message[1:],
        way_out=report.way_out if report is not None and kind is ChannelEnd.SADDLE else None,
    )


def _kind(report: EndReport) -> tuple[ChannelEnd, str]:
    if report.negative or report.falls:
        softer = "; it falls as a unit alone becomes soft again" if report.softens else ""
        return ChannelEnd.SADDLE, f"{report.negative} negative curvatures{softer}."
    if report.level:
        return ChannelEnd.DEGENERATE, f"no negative curvature, {report.level} lost in rounding."
    return ChannelEnd.MINIMUM, "no negative curvature."
