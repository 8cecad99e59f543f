"""What a critical point at infinity is: signs of the curvatures there, and how the loss changes as channels open."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.objectives import EmpiricalRisk
from thalweg.solvers.local import measure_rounding
from thalweg.symmetry.channel_coordinates import rows_of, scales
from thalweg.symmetry.channel_network import ChannelNetwork
from thalweg.tangent import Inertia, inertia

__all__ = ["EndReport", "report_end"]


class EndReport(NamedTuple):
    """A critical point at infinity.

    Attributes:
        h: ``(n,)``, how the loss rises as each channel opens; NaN for those that are not closed.
        falls: whether it falls as some channel opens, beyond rounding.
        softens: whether it falls as some unit alone becomes soft again, beyond rounding.
        noise: of the loss, by rounding.
        negative: curvatures below zero, those along openings of two and three units among them.
        level: curvatures, and slopes along the softness of units alone, that rounding does not tell from zero; not
            counted are directions that are level for a known reason.
        way_out: ``(Q,)``, the direction of the most negative curvature; None where there is none.
    """

    h: Float[Tensor, " n"]
    falls: bool
    softens: bool
    noise: float
    negative: int
    level: int
    way_out: Float[Tensor, " Q"] | None


def report_end(form: EmpiricalRisk, theta: Float[Tensor, " Q"], closed: Bool[Tensor, " n"]) -> EndReport:
    """Look at a critical point whose closed channels have openings of exactly zero.

    Units alone have no curvature along their softness but a slope: that counts in its place.

    Args:
        form: the loss in the coordinates of channels.
        theta: the point.
        closed: which channels are closed.
    """
    assert isinstance(form.model, ChannelNetwork)
    merging, space = form.model.merging, form.space
    found = form.evaluate(theta, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    scale = scales(merging, theta.unsqueeze(0), space)[0]
    inside = torch.ones(space.size, dtype=torch.bool, device=theta.device)
    rounding = measure_rounding(form, theta.unsqueeze(0), found.value.reshape(1), found.gradient.unsqueeze(0))
    slopes, noise = scale[:0], scale[:0]
    if merging.alone:
        place = space.slice("softness")
        inside[place] = False
        slopes = found.gradient[place] / scale[: merging.alone]
        noise = 2 * rounding.changes[0, :, place].abs().amax(0) / scale[: merging.alone]
    hessian = found.hessian[inside][:, inside]
    counts = inertia(hessian, samples=form.n_samples, flat=_level_directions(form, theta, closed)[inside])
    bends = found.hessian.diagonal()[space.slice("opening")] / 2 if "opening" in space else scale[:0]
    h = torch.where(closed, torch.cat([slopes, bends / scale[merging.alone :].square()]), torch.nan)
    way_out = None
    if counts.negative:
        way_out = torch.zeros_like(theta)
        way_out[inside] = torch.linalg.eigh((hessian + hessian.mT) / 2).eigenvectors[:, 0]
    softens = bool((slopes < -noise).any())
    return EndReport(
        h=h,
        falls=softens or bool((bends < -counts.threshold)[closed[merging.alone :]].any()),
        softens=softens,
        noise=float(rounding.value),
        negative=counts.negative,
        level=_unexplained(counts) + int((slopes.abs() <= noise).sum()),
        way_out=way_out,
    )


def _unexplained(counts: Inertia) -> int:
    return counts.undecided + counts.zero - counts.explained


def _level_directions(
    form: EmpiricalRisk, theta: Float[Tensor, " Q"], closed: Bool[Tensor, " n"]
) -> Float[Tensor, "Q k"]:
    """Along which nothing changes at the end of channels of three units.

    All that matters there of A_1 and q is ``2 A_1 p + 6 A_2 q``: A_1 may take from A_2 what q gives to p.
    """
    assert isinstance(form.model, ChannelNetwork)
    model, space = form.model, form.space
    merging = model.merging
    here, after = f"weight_{merging.layer}", f"weight_{merging.layer + 1}"
    named = {name: value.unsqueeze(0) for name, value in space.unflatten(theta).items()}
    rows, pushes = rows_of(merging, named), model.pushes(named.get("share")).reshape(len(merging.sizes), -1)
    width, columns = named[here].shape[1], named[after].shape[2]
    found = []
    for k in range(merging.triples):
        number = len(merging.sizes) - merging.triples + k
        if not bool(closed[number]):
            continue
        move = {name: torch.zeros_like(value[0]) for name, value in named.items()}
        move[after][:, columns - merging.triples + k] = pushes[number]
        bend = -rows.p[0, k] / 3
        at, inputs = width - merging.triples + k, named[here].shape[2]
        move[here][at] = bend[:inputs]
        if f"bias_{merging.layer}" in move:
            move[f"bias_{merging.layer}"][at] = bend[-1]
        found.append(space.flatten(move))
    return torch.stack(found, 1) if found else torch.zeros(space.size, 0).to(theta)
