"""Searches in the coordinates of channels, and what lies where they end."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.objectives import restrict
from thalweg.solvers import Solution, Status, minimize
from thalweg.symmetry.channel_coordinates import (
    from_channel,
    half_distances,
    incoming_by_name,
    opening_of,
    rows_of,
    to_channel,
)
from thalweg.symmetry.channel_ends import Channel, ChannelEnd, figures, named
from thalweg.symmetry.channel_ground import Ground
from thalweg.symmetry.channel_network import Merging
from thalweg.symmetry.channel_verdict import report_end

__all__ = ["ChannelSearch"]

_CLOSED = 1e-5
"""An epsilon below this fraction of the input weights' size is tried as zero."""
_SIDEWAYS = 1e-4
"""Two units that pull less than this part of what they give together are alike, and in no channel."""
_SOFTER = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
"""Parts of the softness where a channel was entered at which its end must not be undercut."""
_SAME = 1e-12
"""Losses that differ by less than this part of them are the same in other coordinates."""
_ITERATIONS = 150
_HELD_ITERATIONS = 80
"""With units held at their asymptotes a search that has not converged by then turns round between kinks."""
_MARGIN = 1e-9
"""No sample may lie nearer to the kink of a unit that has become hard, relative to the size of its features."""


class ChannelSearch:
    """Searches from some points, all of whose channels are of one kind.

    Channels of one unit are closed from the beginning: what is on the other side of their end is another network. They
    are at a minimum there if the loss rises as they open.

    Args:
        ground: the network.
        merging: the channels.
        units: ``(S, u)``, of which units.
        rows: ``(S, P)``, weights of the network where each search begins.
    """

    def __init__(self, ground: Ground, merging: Merging, units: Int[Tensor, "S u"], rows: Float[Tensor, "S P"]) -> None:
        self.ground, self.merging, self.units = ground, merging, units
        self.form = ground.form(merging)
        self.space = self.form.space
        self.start = to_channel(ground.network, merging, units, rows, self.space)
        self.entered = self.form.value(self.start)
        self.softness = self.start[:, self.space.slice("softness")] if merging.alone else None
        self.first = self._search(self.start)
        self.closed = self._closed(self.first.theta)

    def _search(self, theta: Tensor) -> Solution:
        """Minimise from some points, units alone held at the end of their channels."""
        if self.softness is None:
            return minimize(self.form, theta, max_iterations=_ITERATIONS, progress=False)
        held = restrict(self.form, [name for name in self.space.names if name != "softness"], 0 * theta[0])
        found = minimize(held, held.embed(theta), max_iterations=_HELD_ITERATIONS, progress=False)
        return replace(found, theta=held.project(found.theta))

    def _closed(self, theta: Tensor) -> Bool[Tensor, "S n"]:
        """Which channels are as good as closed."""
        named, alone = self.space.unflatten(theta), self.merging.alone
        pairs, triples = self.merging.pairs, self.merging.triples
        rows = rows_of(self.merging, named)
        columns = named[f"weight_{self.merging.layer + 1}"].mT
        _, c, flat, _ = columns.split([rows.single.shape[1], pairs, triples, triples], 1)
        middle = torch.cat([rows.w, rows.m], 1).norm(dim=-1)
        near = half_distances(self.merging, theta, self.space)[:, alone:] <= _CLOSED * middle
        # epsilon = s |v| is small as well where v vanishes: two units that are alike, with finite weights
        sideways, sum_ = rows.sideways[:, alone:].norm(dim=-1), torch.cat([c, flat], 1).norm(dim=-1)
        near &= sideways > _SIDEWAYS * sum_ * middle
        return torch.cat([torch.ones(len(theta), alone, dtype=torch.bool, device=theta.device), near], 1)

    def ends(self) -> list[Channel]:
        """What lies at the end of each search."""
        rows = [k for k, one in enumerate(self.first.converged.tolist()) if one and bool(self.closed[k].any())]
        at_infinity = dict(zip(rows, self._at_infinity(rows), strict=True)) if rows else {}
        return [at_infinity.get(number) or self._where_it_stopped(number) for number in range(len(self.start))]

    def led(self) -> dict[int, Tensor]:
        """Where searches that found no end went, as weights, by number."""
        theta = self.first.theta.clone()
        if self.softness is not None:
            theta[:, self.space.slice("softness")] = self.softness
        shut = (opening_of(self.merging, theta, self.space) == 0).any(1)
        open_ones = ~self.first.converged & ~shut & torch.isfinite(theta).all(1)
        found = {}
        for number in open_ones.nonzero().squeeze(1).tolist():
            raw = self._weights(number, theta[number])
            if bool(torch.isfinite(raw).all()):
                found[number] = raw
        return found

    def _weights(self, number: int, theta: Tensor) -> Tensor:
        """Of the network itself."""
        return from_channel(self.ground.network, self.merging, self.units[number], theta.unsqueeze(0), self.space)[0]

    def _where_it_stopped(self, number: int) -> Channel:
        """A search that closed no channel."""
        found, name = self.first[number], self._name(number)
        if found.status is not Status.CONVERGED:
            told = f"In the coordinates of {name}: {found.status.value}. {found.message}"
            return self._channel(number, ChannelEnd.UNRESOLVED, found, told)
        inner = found.theta.unsqueeze(0)
        if bool((opening_of(self.merging, inner, self.space) == 0).any()):
            told = f"{name} became alike, at finite weights that these coordinates do not have."
            return self._channel(number, ChannelEnd.UNRESOLVED, found, told)
        epsilon = half_distances(self.merging, inner, self.space)[0]
        told = f"{name} came to rest at epsilon = {figures(epsilon)}, where the weights are finite."
        channel = self._channel(number, ChannelEnd.FINITE, found, told)
        return replace(channel, theta=self._weights(number, found.theta), objective=None)

    def _at_infinity(self, rows: list[int]) -> list[Channel]:
        """Points whose channels are exactly closed, searched once more from there."""
        closed = self.closed[rows]
        again = self._search(self._shut(self.first.theta[rows], closed))
        stays = self._closed(again.theta) | ~closed
        end = self._shut(again.theta, closed)
        return [
            self._end_of(number, replace(again[k], theta=end[k]), closed[k], bool(stays[k].all()))
            for k, number in enumerate(rows)
        ]

    def _end_of(self, number: int, found: Solution, closed: Tensor, stays: bool) -> Channel:
        name, value, entered = self._name(number), float(found.value), float(self.entered[number])
        if found.status is not Status.CONVERGED or not stays:
            why = "it opens again from there." if not stays else f"{found.status.value}. {found.message}"
            told = f"{name} closes, but its end is no minimum: {why}"
            return self._channel(number, ChannelEnd.UNRESOLVED, found, told)
        report = report_end(self.form, found.theta, closed)
        reason = ""
        if report.falls or report.negative:
            reason = f"the loss falls from there, h = {figures(report.h)}, {report.negative} negative curvatures."
        elif not bool(torch.isfinite(report.h[closed]).all()):
            reason = "nothing pulls it open there."
        elif value > entered + report.noise + _SAME * abs(entered):
            reason = f"with {value:.10g} it lies above the {entered:.10g} here."
        elif self.merging.alone and self._undercut(number, found.theta, value - report.noise - _SAME * abs(value)):
            reason = "the loss falls as a unit alone becomes soft again."
        elif not self._clear(found.theta):
            reason = "a sample lies on the kink of a unit that has become hard."
        if reason:
            told = f"{name} closes, but its end is no minimum: {reason}"
            return self._channel(number, ChannelEnd.UNRESOLVED, found, told)
        told = f"{name}: the loss falls from {entered:.10g} to {value:.10g} at infinity, h = {figures(report.h)}" + (
            f"; {report.level} curvatures are lost in rounding." if report.level else "."
        )
        kind = ChannelEnd.DEGENERATE if report.level else ChannelEnd.MINIMUM
        return replace(self._channel(number, kind, found, told), h=report.h, undecided=report.level)

    def _undercut(self, number: int, end: Tensor, bound: float) -> bool:
        """Whether the loss is below a bound with softer units alone, all else as at the end or at its best for one.

        Where the levels of the asymptotes vanish the slope at the end does so too, and says nothing.
        """
        assert self.softness is not None
        place, free = self.space.slice("softness"), [name for name in self.space.names if name != "softness"]
        softer = end.expand(len(_SOFTER), -1).clone()
        softer[:, place] = self.softness[number] * softer.new_tensor(_SOFTER).unsqueeze(1)
        held = restrict(self.form, free, softer[2])
        best = minimize(held, held.embed(softer[2]), max_iterations=_HELD_ITERATIONS, progress=False).value
        lowest = torch.cat([self.form.value(softer), best.reshape(1)]).nan_to_num(nan=torch.inf).min()
        return float(lowest) < bound

    def _shut(self, theta: Tensor, closed: Tensor) -> Tensor:
        """With the openings of closed channels exactly zero."""
        theta, alone = theta.clone(), self.merging.alone
        if len(self.merging.sizes) > alone:
            place = self.space.slice("opening")
            theta[:, place] = torch.where(closed[:, alone:], 0.0, theta[:, place])
        return theta

    def _clear(self, theta: Tensor) -> bool:
        """Whether no sample lies on the kink of a unit that has become hard."""
        return not self.merging.alone or self.kink_distance(theta) > _MARGIN

    def kink_distance(self, theta: Tensor) -> float:
        """The least ``|u.x| / (|u| |x|)`` over units alone and samples that are not zero."""
        named, x = {name: one.unsqueeze(0) for name, one in self.space.unflatten(theta).items()}, self.form.inputs
        for k in range(self.merging.layer):
            x = self.ground.network.layers[k].activation(_ending_in_one(x, named, k) @ incoming_by_name(k, named)[0].T)
        x, u = _ending_in_one(x, named, self.merging.layer), rows_of(self.merging, named).u[0]
        size = x.norm(dim=1, keepdim=True) * u.norm(dim=1)
        return float(torch.where(size > 0, (x @ u.T).abs() / size, torch.inf).min())

    def _groups(self, number: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(part.tolist()) for part in self.units[number].split(list(self.merging.sizes)))

    def _name(self, number: int) -> str:
        return named(self.merging.layer, self._groups(number))

    def _channel(self, number: int, end: ChannelEnd, found: Solution, message: str) -> Channel:
        epsilon = half_distances(self.merging, self.start[number : number + 1], self.space)[0]
        return Channel(
            end=end,
            value=float(found.value),
            gradient_norm=float(found.gradient_norm),
            layer=self.merging.layer,
            groups=self._groups(number),
            epsilon=epsilon,
            h=torch.full_like(epsilon, torch.nan),
            theta=found.theta,
            objective=self.form,
            ground=self.ground,
            undecided=int(found.undecided),
            entered_at=float(self.entered[number]),
            message=message[:1].upper() + message[1:],
        )


def _ending_in_one(x: Float[Tensor, "n d"], named: dict[str, Tensor], layer: int) -> Tensor:
    """What enters a layer, with a one for its bias where it has one."""
    return torch.cat([x, x.new_ones(len(x), 1)], 1) if f"bias_{layer}" in named else x
