"""From the weights of a network to the coordinates of its channels and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_network import Pairs

__all__ = ["PairNumbers", "from_channel", "pair_numbers", "to_channel"]


class PairNumbers(NamedTuple):
    """Pairs of units of one layer, for S parameter vectors and n pairs each.

    Attributes:
        middle: w, ``(S, n, d)``, the bias last where there is one.
        epsilon: half the distance of the input weights, ``(S, n)``.
        direction: Delta, ``(S, n, d)``.
        sum: c, ``(S, n, q)``.
        pull: ``epsilon (a_i - a_j)``, ``(S, n, q)``.
    """

    middle: Float[Tensor, "S n d"]
    epsilon: Float[Tensor, "S n"]
    direction: Float[Tensor, "S n d"]
    sum: Float[Tensor, "S n q"]
    pull: Float[Tensor, "S n q"]


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
    """The numbers of pairs of units, ``(n,)`` each for all parameter vectors, or ``(S, n)`` for each its own.

    Args:
        network: the perceptron.
        layer: number of the hidden layer.
        rows: parameter vectors.
        i: first units.
        j: second units.
        negated: take these with all their weights negated.
    """
    incoming, outgoing = incoming_of(network, layer, rows), outgoing_of(network, layer, rows)

    def of(table: Tensor, units: Tensor) -> Tensor:
        if units.dim() == 1:
            return table[:, units]
        return table.gather(1, units.unsqueeze(-1).expand(-1, -1, table.shape[2]))

    sign = -1.0 if negated else 1.0
    w_i, w_j, a_i, a_j = of(incoming, i), sign * of(incoming, j), of(outgoing, i), sign * of(outgoing, j)
    difference = (w_i - w_j) / 2
    epsilon = difference.norm(dim=-1)
    direction = difference / epsilon.clamp(min=torch.finfo(rows.dtype).tiny).unsqueeze(-1)
    return PairNumbers((w_i + w_j) / 2, epsilon, direction, a_i + a_j, epsilon.unsqueeze(-1) * (a_i - a_j))


def to_channel(
    network: DenseNetwork, pairs: Pairs, rows: Float[Tensor, "S P"], space: ParameterSpace
) -> Float[Tensor, "S Q"]:
    """Parameters of the network in the coordinates of a `ChannelNetwork`.

    Args:
        network: the perceptron.
        pairs: its channels; ``units`` may be ``(S, n, 2)``, for each parameter vector its own.
        rows: parameter vectors.
        space: of the `ChannelNetwork`.
    """
    count, layer = len(rows), pairs.layer
    units = pairs.units.expand(count, *pairs.units.shape[-2:])
    numbers = pair_numbers(network, layer, rows, units[..., 0], units[..., 1])
    rest = _others(units, network.layers[layer].out_features)
    named: dict[str, Tensor] = {}
    for k, one in enumerate(network.layers):
        named[f"weight_{k}"] = rows[:, one.weight_coordinates.flatten()].view(count, *one.weight_coordinates.shape)
        if one.bias_coordinates is not None:
            named[f"bias_{k}"] = rows[:, one.bias_coordinates]
    d = network.layers[layer].in_features
    incoming, outgoing = named[f"weight_{layer}"], named[f"weight_{layer + 1}"]
    named[f"weight_{layer}"] = torch.cat([_pick(incoming, rest), numbers.middle[..., :d]], 1)
    if f"bias_{layer}" in named:
        bias = named[f"bias_{layer}"]
        named[f"bias_{layer}"] = torch.cat([bias.gather(1, rest), numbers.middle[..., d]], 1)
    named[f"weight_{layer + 1}"] = torch.cat([_pick(outgoing.mT, rest), numbers.sum], 1).mT
    strongest = numbers.pull.gather(2, pairs.largest.view(1, -1, 1).expand(count, -1, 1))  # (S, n, 1)
    if not bool((strongest != 0).all()):
        raise InvalidInputError("a pair does not pull: its output weights, or its input weights, are equal")
    named["pull"] = strongest * numbers.direction
    if "share" in space:
        others = [[u for u in range(numbers.pull.shape[2]) if u != r] for r in pairs.largest.tolist()]
        table = torch.tensor(others, device=rows.device).expand(count, -1, -1)
        named["share"] = numbers.pull.gather(2, table) / strongest
    named["epsilon"] = numbers.epsilon
    return torch.cat([named[block.name].reshape(count, -1) for block in space], 1)


def from_channel(
    network: DenseNetwork, pairs: Pairs, rows: Float[Tensor, "S Q"], space: ParameterSpace
) -> Float[Tensor, "S P"]:
    """Back to parameters of the network; the inverse of `to_channel`.

    Raises:
        InvalidInputError: where an epsilon is zero: that point has no finite weights.
    """
    count, layer = len(rows), pairs.layer
    named = space.unflatten(rows)
    epsilon, pull = named["epsilon"].abs(), named["pull"]
    if not bool((epsilon > 0).all()):
        raise InvalidInputError("epsilon is zero: the end of a channel has no finite weights")
    units = pairs.units.expand(count, *pairs.units.shape[-2:])
    rest = _others(units, network.layers[layer].out_features)
    n, d = pull.shape[1], network.layers[layer].in_features
    single = rest.shape[1]
    size = pull.norm(dim=-1, keepdim=True)
    aside = epsilon.unsqueeze(-1) * pull / size
    joined = torch.ones(count, n, 1, dtype=rows.dtype, device=rows.device)
    if "share" in space:
        order = torch.stack([torch.tensor([r, *(u for u in range(named["share"].shape[2] + 1) if u != r)])
                             for r in pairs.largest.tolist()]).argsort(1)  # fmt: skip
        joined = torch.cat([joined, named["share"]], 2).gather(2, order.to(rows.device).expand(count, -1, -1))
    half = size * joined / (2 * epsilon.unsqueeze(-1))  # (a_i - a_j) / 2
    theta = rows.new_zeros(count, network.space.size)
    for k, one in enumerate(network.layers):
        weight, bias = named[f"weight_{k}"], named.get(f"bias_{k}")
        if k == layer:
            middle = weight[:, single:]
            weight = _placed(weight[:, :single], rest, middle + aside[..., :d], middle - aside[..., :d], units)
            if bias is not None:
                edge, own = aside[..., d:], bias[:, single:, None]
                bias = _placed(bias[:, :single, None], rest, own + edge, own - edge, units).squeeze(-1)
        if k == layer + 1:
            columns = weight.mT
            shared = columns[:, single:] / 2
            weight = _placed(columns[:, :single], rest, shared + half, shared - half, units).mT
        theta[:, one.weight_coordinates.flatten()] = weight.flatten(1)
        if bias is not None and one.bias_coordinates is not None:
            theta[:, one.bias_coordinates] = bias
    return theta


def _others(units: Tensor, width: int) -> Tensor:
    """The units that belong to no pair, ``(S, m - 2 n)``, in ascending order."""
    free = torch.ones(len(units), width, dtype=torch.bool, device=units.device)
    free.scatter_(1, units.flatten(1), False)
    return free.nonzero()[:, 1].view(len(units), -1)


def _pick(table: Tensor, rows: Tensor) -> Tensor:
    return table.gather(1, rows.unsqueeze(-1).expand(-1, -1, table.shape[2]))


def _placed(single: Tensor, rest: Tensor, first: Tensor, second: Tensor, units: Tensor) -> Tensor:
    """Rows put back where their units were."""
    order = torch.cat([rest, units[..., 0], units[..., 1]], 1).argsort(1)
    return _pick(torch.cat([single, first, second], 1), order)
