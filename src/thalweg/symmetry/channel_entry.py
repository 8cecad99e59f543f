"""The way from a point and some units of a network into the coordinates of their channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import EmpiricalRisk, Objective
from thalweg.solvers.starts import checked_starts
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_coordinates import from_channel, incoming_of, merging_of, to_channel
from thalweg.symmetry.channel_ground import Ground, ground_of
from thalweg.symmetry.channel_network import Merging
from thalweg.symmetry.channel_picks import Pick

__all__ = ["Entry", "checked_pick", "enter", "one_point", "with_negated", "with_signs"]


class Entry(NamedTuple):
    """A point in the coordinates of channels.

    Attributes:
        ground: the network.
        pick: the units, and which of them were negated on the way.
        merging: the channels.
        form: the loss in these coordinates.
        units: ``(u,)``, the units one after the other.
        inner: ``(1, Q)``, the point.
    """

    ground: Ground
    pick: Pick
    merging: Merging
    form: EmpiricalRisk
    units: Int[Tensor, " u"]
    inner: Float[Tensor, "1 Q"]

    def weights(self, inner: Float[Tensor, "1 Q"]) -> Float[Tensor, " P"]:
        """Back from these coordinates."""
        raw = from_channel(self.ground.network, self.merging, self.units, inner, self.form.space)[0]
        return with_negated(self.ground.network, self.pick, raw)


def enter(objective: Objective, theta: Float[Tensor, " P"] | Any, layer: int, groups: Sequence[Sequence[int]]) -> Entry:
    """Go there with units that were named.

    Raises:
        InvalidInputError: for a batch of points, or units that are not there.
        NotApplicableError: where channels cannot be.
    """
    point = one_point(objective, theta)
    ground = ground_of(objective, layer)
    pick = with_signs(ground, checked_pick(ground, layer, groups), point)
    row = with_negated(ground.network, pick, point)
    units = torch.tensor(pick.units, device=row.device)
    merging = merging_of(ground.network, pick.layer, pick.sizes, units, row)
    form = ground.form(merging)
    inner = to_channel(ground.network, merging, units, row.unsqueeze(0), form.space)
    return Entry(ground, pick, merging, form, units, inner)


def one_point(objective: Objective, theta: Float[Tensor, " P"] | Any) -> Float[Tensor, " P"]:
    """One parameter vector.

    Raises:
        InvalidInputError: for several.
    """
    points, batch = checked_starts(objective, theta, None, None)
    if batch != torch.Size([]):
        raise InvalidInputError(f"one parameter vector is needed, got a batch {tuple(batch)}")
    return points[0]


def checked_pick(ground: Ground, layer: int | None, groups: Sequence[Sequence[int]]) -> Pick:
    """Channels that were named by a user.

    Raises:
        InvalidInputError: for units that are not there, or without a layer.
    """
    if layer is None:
        raise InvalidInputError("say which hidden layer the units belong to: layer=0 is the first")
    width = ground.network.layers[layer].out_features
    pick = Pick(int(layer), tuple(sorted((tuple(int(unit) for unit in group) for group in groups), key=len)))
    units = pick.units
    if (
        not set(pick.sizes) <= {1, 2, 3}
        or not units
        or len(set(units)) != len(units)
        or not all(0 <= unit < width for unit in units)
    ):
        raise InvalidInputError(
            f"groups must be one, two or three different units each of hidden layer {layer}, numbered from 0 to "
            f"{width - 1}; got {[list(group) for group in groups]}"
        )
    return pick


def with_signs(ground: Ground, pick: Pick, row: Float[Tensor, " P"]) -> Pick:
    """For an odd activation, the units to be negated so that all of a channel point to the same side."""
    if ground.network.layers[pick.layer].activation.parity != "odd":
        return pick
    w = incoming_of(ground.network, pick.layer, row.unsqueeze(0))[0]
    apart = [unit for group in pick.groups for unit in group[1:] if float(w[group[0]] @ w[unit]) < 0]
    return pick._replace(negated=frozenset(apart))


def with_negated(network: DenseNetwork, pick: Pick, theta: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """The same function where the activation is odd: all weights of some units with the other sign."""
    units, turned = network.units(pick.layer), theta.clone()
    for unit in pick.negated:
        bias = units.incoming.new_zeros(0) if units.bias is None else units.bias[unit : unit + 1]
        table = torch.cat([units.incoming[unit], bias, units.outgoing[unit]])
        turned[table] = -turned[table]
    return turned
