"""From the weights of a network to the coordinates of its channels and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_network import Merging

__all__ = [
    "ChannelRows",
    "PairNumbers",
    "from_channel",
    "half_distances",
    "incoming_by_name",
    "merging_of",
    "opening_of",
    "pair_numbers",
    "rows_of",
    "scales",
    "to_channel",
]


class PairNumbers(NamedTuple):
    """Pairs of units of one layer, for S parameter vectors and n pairs each.

    Attributes:
        middle: w, ``(S, n, d)``, the bias last where there is one.
        epsilon: half the distance of the input weights, ``(S, n)``.
        sum: c, ``(S, n, q)``.
        apart: ``a_i - a_j``, ``(S, n, q)``.
    """

    middle: Float[Tensor, "S n d"]
    epsilon: Float[Tensor, "S n"]
    sum: Float[Tensor, "S n q"]
    apart: Float[Tensor, "S n q"]


def incoming_of(network: DenseNetwork, layer: int, rows: Float[Tensor, "S P"]) -> Float[Tensor, "S m d"]:
    """Input weights of all units of a hidden layer, the bias last where there is one."""
    units = network.units(layer)
    table = units.incoming if units.bias is None else torch.cat([units.incoming, units.bias.unsqueeze(1)], 1)
    return rows[:, table.flatten()].view(len(rows), *table.shape)


def outgoing_of(network: DenseNetwork, layer: int, rows: Float[Tensor, "S P"]) -> Float[Tensor, "S m q"]:
    """Output weights of all units of a hidden layer."""
    table = network.units(layer).outgoing
    return rows[:, table.flatten()].view(len(rows), *table.shape)


def pair_numbers(
    network: DenseNetwork, layer: int, rows: Float[Tensor, "S P"], i: Tensor, j: Tensor, *, negated: bool = False
) -> PairNumbers:
    """The numbers of pairs of units, ``(n,)`` each for all parameter vectors.

    Args:
        network: the perceptron.
        layer: number of the hidden layer.
        rows: parameter vectors.
        i: first units.
        j: second units.
        negated: take these with all their weights negated.
    """
    incoming, outgoing = incoming_of(network, layer, rows), outgoing_of(network, layer, rows)
    sign = -1.0 if negated else 1.0
    w_i, w_j, a_i, a_j = incoming[:, i], sign * incoming[:, j], outgoing[:, i], sign * outgoing[:, j]
    return PairNumbers((w_i + w_j) / 2, (w_i - w_j).norm(dim=-1) / 2, a_i + a_j, a_i - a_j)


def merging_of(
    network: DenseNetwork, layer: int, sizes: tuple[int, ...], units: Int[Tensor, " u"], row: Float[Tensor, " P"]
) -> Merging:
    """How these units merge at a parameter vector: on which unit of the next layer each channel acts most."""
    strongest = _strongest(outgoing_of(network, layer, row.unsqueeze(0))[:, units], sizes)
    largest, signs = [], []
    for size, each in zip(sizes, strongest, strict=True):
        at = int(each[0].abs().argmax())
        largest.append(at)
        signs.append(-1.0 if size != 2 and float(each[0, at]) < 0 else 1.0)
    return Merging(layer, sizes, tuple(largest), tuple(signs))


def _strongest(outgoing: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """What grows fastest of the output weights of each channel, ``(S, q)`` each."""
    found, at = [], 0
    for size in sizes:
        a = outgoing[:, at : at + size]
        if size == 1:
            found.append(a[:, 0])
        else:
            found.append(a[:, 0] - a[:, 1] if size == 2 else (a[:, 0] - 2 * a[:, 1] + a[:, 2]) / 6)
        at += size
    return found


class ChannelRows(NamedTuple):
    """Input weights of a layer with channels, ``(S, k, d)`` each, the bias last where there is one.

    Attributes:
        single: of units in no channel.
        u: of units alone in theirs.
        w: middles of pairs.
        v: of pairs, the difference that opens them.
        m: middles of threes.
        p: of threes, the difference of first order.
        q: of threes, that of second order.
    """

    single: Tensor
    u: Tensor
    w: Tensor
    v: Tensor
    m: Tensor
    p: Tensor
    q: Tensor

    @property
    def sideways(self) -> Float[Tensor, "S n d"]:
        """What epsilon is measured along: u, v and p."""
        return torch.cat([self.u, self.v, self.p], 1)


def rows_of(merging: Merging, named: dict[str, Tensor]) -> ChannelRows:
    """The input weights, by parameters of a `ChannelNetwork`, ``(S, ...)`` by name."""
    incoming = incoming_by_name(merging.layer, named)
    alone, pairs, triples = merging.alone, merging.pairs, merging.triples
    single = incoming.shape[1] - sum(merging.sizes)
    return ChannelRows(*incoming.split([single, alone, pairs, pairs, triples, triples, triples], 1))


def incoming_by_name(layer: int, named: dict[str, Tensor]) -> Float[Tensor, "S m d"]:
    """Input weights of a layer, the bias last where there is one, by parameters by name."""
    weight, bias = named[f"weight_{layer}"], named.get(f"bias_{layer}")
    return weight if bias is None else torch.cat([weight, bias.unsqueeze(-1)], -1)


def half_distances(merging: Merging, rows: Float[Tensor, "S Q"], space: ParameterSpace) -> Float[Tensor, "S n"]:
    """The epsilons: half the distance of the (outer) units' input weights; of a unit alone, one over their size."""
    return scales(merging, rows, space) * opening_of(merging, rows, space).abs()


def opening_of(merging: Merging, rows: Float[Tensor, "S Q"], space: ParameterSpace) -> Float[Tensor, "S n"]:
    """The openings s of all channels, softness for units alone."""
    named = space.unflatten(rows)
    return torch.cat([named[name] for name in ("softness", "opening") if name in space], 1)


def scales(merging: Merging, rows: Float[Tensor, "S Q"], space: ParameterSpace) -> Float[Tensor, "S n"]:
    """What s is multiplied by to give epsilon: ``1 / |u|``, ``|v|``, ``|p|``."""
    sideways = rows_of(merging, space.unflatten(rows)).sideways.norm(dim=-1)
    return torch.cat([1 / sideways[:, : merging.alone], sideways[:, merging.alone :]], 1)


def to_channel(
    network: DenseNetwork,
    merging: Merging,
    units: Int[Tensor, "*S u"],
    rows: Float[Tensor, "S P"],
    space: ParameterSpace,
) -> Float[Tensor, "S Q"]:
    """Parameters of the network in the coordinates of a `ChannelNetwork`.

    Args:
        network: the perceptron.
        merging: how units merge.
        units: which: those of each channel one after the other, of three the middle one in the middle; ``(u,)``, or
            ``(S, u)`` for each parameter vector its own.
        rows: parameter vectors.
        space: of the `ChannelNetwork`.

    Raises:
        InvalidInputError: where the output weights of a channel's units are equal: it has no opening.
    """
    count, layer = len(rows), merging.layer
    named = _by_layers(network, rows)
    units = units.expand(count, units.shape[-1])
    rest = _others(units, network.layers[layer].out_features)
    incoming = incoming_by_name(layer, named)
    outgoing = named[f"weight_{layer + 1}"].mT
    strongest = _strongest(_pick(outgoing, units), merging.sizes)
    pulls = torch.stack([each[:, at] for each, at in zip(strongest, merging.largest, strict=True)], 1)
    if not bool((pulls != 0).all()):
        raise InvalidInputError("the output weights of a channel's units are equal: nothing pulls it open")
    powers = {1: pulls.abs(), 2: 1 / pulls, 3: pulls.abs().rsqrt()}
    opening = torch.stack([powers[size][:, k] for k, size in enumerate(merging.sizes)], 1)
    first, then = _forth(merging, _pick(incoming, units), _pick(outgoing, units), opening)
    incoming, outgoing = torch.cat([_pick(incoming, rest), first], 1), torch.cat([_pick(outgoing, rest), then], 1)
    if f"bias_{layer}" in named:
        incoming, named[f"bias_{layer}"] = incoming[..., :-1], incoming[..., -1]
    named[f"weight_{layer}"], named[f"weight_{layer + 1}"] = incoming, outgoing.mT
    if "share" in space:
        relative = torch.stack(strongest, 1) / (pulls * rows.new_tensor(merging.signs)).unsqueeze(-1)
        named["share"] = relative.gather(2, _other_outputs(merging, relative.shape[2], rows))
    named["softness"], named["opening"] = opening[:, : merging.alone], opening[:, merging.alone :]
    return torch.cat([named[block.name].reshape(count, -1) for block in space], 1)


def from_channel(
    network: DenseNetwork,
    merging: Merging,
    units: Int[Tensor, "*S u"],
    rows: Float[Tensor, "S Q"],
    space: ParameterSpace,
) -> Float[Tensor, "S P"]:
    """Back to parameters of the network; the inverse of `to_channel`.

    Raises:
        InvalidInputError: where an opening is zero: that point has no finite weights.
    """
    count, layer = len(rows), merging.layer
    named, opening = space.unflatten(rows), opening_of(merging, rows, space)
    if not bool((opening != 0).all()):
        raise InvalidInputError("the opening is zero: the end of a channel has no finite weights")
    units = units.expand(count, units.shape[-1])
    rest = _others(units, network.layers[layer].out_features)
    single = rest.shape[1]
    incoming, outgoing = incoming_by_name(layer, named), named[f"weight_{layer + 1}"].mT
    pull = rows.new_tensor(merging.signs).expand(count, -1).unsqueeze(-1)
    if "share" in space:
        others = _other_outputs(merging, named["share"].shape[2] + 1, rows)
        largest = torch.tensor(merging.largest, device=rows.device).view(1, -1, 1).expand(count, -1, 1)
        pull = torch.cat([pull, named["share"]], 2).gather(2, torch.cat([largest, others], 2).argsort(2))
    first, then = _back(merging, incoming[:, single:], outgoing[:, single:], opening, pull)
    incoming = _placed(incoming[:, :single], rest, first, units)
    if f"bias_{layer}" in named:
        incoming, named[f"bias_{layer}"] = incoming[..., :-1], incoming[..., -1]
    named[f"weight_{layer}"] = incoming
    named[f"weight_{layer + 1}"] = _placed(outgoing[:, :single], rest, then, units).mT
    theta = rows.new_zeros(count, network.space.size)
    for k, one in enumerate(network.layers):
        theta[:, one.weight_coordinates.flatten()] = named[f"weight_{k}"].flatten(1)
        if one.bias_coordinates is not None:
            theta[:, one.bias_coordinates] = named[f"bias_{k}"]
    return theta


def _forth(merging: Merging, w: Tensor, a: Tensor, opening: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output weights of the units of channels, in the coordinates of these."""
    sizes = [merging.alone, merging.pairs, merging.triples]
    units = [count * size for count, size in zip(sizes, (1, 2, 3), strict=True)]
    s_1, s_2, s_3 = opening.unsqueeze(-1).split(sizes, 1)
    w_1, w_2, w_3 = w.split(units, 1)
    _, a_2, a_3 = a.split(units, 1)
    (w_i, w_j), (a_i, a_j) = _parted(w_2, 2), _parted(a_2, 2)
    (v_i, v_m, v_j), (b_i, b_m, b_j) = _parted(w_3, 3), _parted(a_3, 3)
    pairs = [(w_i + w_j) / 2, (w_i - w_j) / (2 * s_2)]
    triples = [(v_i + v_m + v_j) / 3, (v_i - v_j) / (2 * s_3), (v_i - 2 * v_m + v_j) / (6 * s_3.square())]
    columns = [a_i + a_j, (b_i + b_m + b_j) / 3, s_3 * (b_i - b_j) / 2]
    return torch.cat([s_1 * w_1, *pairs, *triples], 1), torch.cat(columns, 1)


def _back(merging: Merging, rows: Tensor, columns: Tensor, opening: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output weights of the units, one channel after the other."""
    alone, pairs, triples = merging.alone, merging.pairs, merging.triples
    s_1, s_2, s_3 = opening.unsqueeze(-1).split([alone, pairs, triples], 1)
    pull_1, pull_2, pull_3 = pull.split([alone, pairs, triples], 1)
    u, w, v, m, p, q = rows.split([alone, pairs, pairs, triples, triples, triples], 1)
    c, flat, tilt = columns.split([pairs, triples, triples], 1)
    aside, half = s_2 * v, pull_2 / (2 * s_2)
    first = [u / s_1, torch.stack([w + aside, w - aside], 2).flatten(1, 2)]
    then = [s_1 * pull_1, torch.stack([c / 2 + half, c / 2 - half], 2).flatten(1, 2)]
    aside, shift, tilt, bend = s_3 * p, s_3.square() * q, tilt / s_3, pull_3 / s_3.square()
    first.append(torch.stack([m + aside + shift, m - 2 * shift, m - aside + shift], 2).flatten(1, 2))
    then.append(torch.stack([flat + tilt + bend, flat - 2 * bend, flat - tilt + bend], 2).flatten(1, 2))
    return torch.cat(first, 1), torch.cat(then, 1)


def _parted(table: Tensor, size: int) -> tuple[Tensor, ...]:
    """The first units of all channels, the second, ..."""
    return table.unflatten(1, (table.shape[1] // size, size)).unbind(2)


def _by_layers(network: DenseNetwork, rows: Tensor) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for k, one in enumerate(network.layers):
        named[f"weight_{k}"] = rows[:, one.weight_coordinates.flatten()].view(-1, *one.weight_coordinates.shape)
        if one.bias_coordinates is not None:
            named[f"bias_{k}"] = rows[:, one.bias_coordinates]
    return named


def _other_outputs(merging: Merging, outputs: int, like: Tensor) -> Tensor:
    """For each channel the units of the next layer but the one it acts on most, ``(S, n, q - 1)``."""
    table = [[u for u in range(outputs) if u != r] for r in merging.largest]
    return torch.tensor(table, device=like.device).expand(len(like), -1, -1)


def _others(units: Tensor, width: int) -> Tensor:
    """The units that merge with none, ``(S, m - u)``, in ascending order."""
    free = torch.ones(len(units), width, dtype=torch.bool, device=units.device)
    free.scatter_(1, units, False)
    return free.nonzero()[:, 1].view(len(units), -1)


def _pick(table: Tensor, rows: Tensor) -> Tensor:
    return table.gather(1, rows.unsqueeze(-1).expand(-1, -1, table.shape[2]))


def _placed(single: Tensor, rest: Tensor, merged: Tensor, units: Tensor) -> Tensor:
    """Rows put back where their units were."""
    return _pick(torch.cat([single, merged], 1), torch.cat([rest, units], 1).argsort(1))
