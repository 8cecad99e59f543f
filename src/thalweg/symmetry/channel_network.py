"""A network in the coordinates of its channels, in which the end at infinity is an ordinary point.

Two units i and j of one layer whose input weights merge while their output weights grow in opposite directions compute,
in the limit, a unit and a gated linear unit. With

    w = (w_i + w_j) / 2,   epsilon = |w_i - w_j| / 2,   Delta = (w_i - w_j) / (2 epsilon),
    c = a_i + a_j,         a = epsilon (a_i - a_j),     v = a Delta

the pair's output is exactly

    c / 2 (sigma(z + epsilon d) + sigma(z - epsilon d)) + (v.x) / 2 * integral of sigma'(z + epsilon d u) du

for z = w.x, d = Delta.x and u from -1 to 1; at epsilon = 0 that is ``c sigma(w.x) + (v.x) sigma'(w.x)``. Nothing grows
and nothing cancels. The loss is even in epsilon, so its gradient has nothing there along epsilon, and half its second
derivative along epsilon is the h of ``L = L_infinity + h epsilon^2``: a minimum at infinity is a minimum with epsilon
= 0 of this network.

Source: Martinelli, van Meegen, Simsek, Gerstner and Brea, Flat channels to infinity in neural loss landscapes (2025),
arXiv 2506.14951; the integral in place of the difference quotient is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError
from thalweg.structure import ActivationFacts, DenseNetwork

__all__ = ["ChannelNetwork", "Pairs"]

_NODES = 8
_SMALL = 0.125
"""Up to this ``|epsilon d|`` the integral is taken by Gauss-Legendre quadrature, exact to rounding for functions whose
singularities are a unit away; beyond, by the difference quotient, whose rounding errors grow by 8 only."""


class Pairs(NamedTuple):
    """The channels of one layer.

    Attributes:
        layer: number of the hidden layer.
        units: ``(n, 2)``, the units i and j of each channel, all different.
        largest: ``(n,)``, of the next layer, the unit on which each channel acts most: there v is read off, and the
            pull on the others stands in relation to it.
    """

    layer: int
    units: Int[Tensor, "n 2"]
    largest: Int[Tensor, " n"]


class ChannelNetwork(nn.Module):
    """A multilayer perceptron with some pairs of units in the coordinates of their channels.

    Units are numbered anew: those of no pair first, in their order, then one merged unit for each channel. Its inputs
    are what enters the first layer of the network given (`DenseNetwork.features`).

    Args:
        network: a perceptron with one row a sample, all of whose parameters are free and used once.
        layer: number of the hidden layer.
        channels: how many pairs of it.
        largest: see `Pairs`.
        shape: of one sample's output.

    Parameters, by name: ``weight_k`` and ``bias_k`` of each layer k (merged units last: rows w, columns c); ``pull``
    ``(n, d)``, the v of each channel, with a last column for the bias where there is one; ``share`` ``(n, q - 1)``, the
    pull on the other units of the next layer relative to that on the largest; ``epsilon`` ``(n,)``.
    """

    _places: Tensor
    _largest: Tensor
    _nodes: Tensor
    _weights: Tensor

    def __init__(
        self, network: DenseNetwork, layer: int, channels: int, largest: Sequence[int], shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.layer, self.channels, self.shape = layer, channels, tuple(shape)
        self.depth = len(network.layers)
        self.activations = [one.activation for one in network.layers]
        for k, one in enumerate(network.layers):
            rows = one.out_features - (channels if k == layer else 0)
            columns = one.in_features - (channels if k == layer + 1 else 0)
            self.register_parameter(f"weight_{k}", nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64)))
            bias = None if one.bias_coordinates is None else nn.Parameter(torch.zeros(rows, dtype=torch.float64))
            self.register_parameter(f"bias_{k}", bias)
        here, after = network.layers[layer], network.layers[layer + 1]
        biased = here.bias_coordinates is not None
        self.pull = nn.Parameter(torch.ones(channels, here.in_features + biased, dtype=torch.float64))
        outputs = after.out_features
        if not all(0 <= unit < outputs for unit in largest) or len(largest) != channels:
            raise InvalidInputError(f"the next layer has {outputs} units; got {list(largest)} for {channels} channels")
        self.share = nn.Parameter(torch.zeros(channels, outputs - 1, dtype=torch.float64)) if outputs > 1 else None
        self.epsilon = nn.Parameter(torch.zeros(channels, dtype=torch.float64))
        # where the shares of each channel go among the units of the next layer: its largest one has share 1
        places = torch.stack([torch.tensor([u for u in range(outputs) if u != r], dtype=torch.int64) for r in largest])
        self.register_buffer("_places", places)
        self.register_buffer("_largest", torch.tensor(list(largest), dtype=torch.int64))
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        self.register_buffer("_nodes", torch.tensor(nodes))
        self.register_buffer("_weights", torch.tensor(weights) / 2)

    def forward(self, x: Float[Tensor, "n d"]) -> Tensor:
        """The outputs, one row a sample."""
        gated = x[:, :0]
        for k in range(self.depth):
            weight, bias = getattr(self, f"weight_{k}"), getattr(self, f"bias_{k}")
            z = x @ weight.T if bias is None else x @ weight.T + bias
            if k == self.layer + 1:
                z = z + gated @ self._pushes()
            if k == self.layer:
                x, gated = self._channel_layer(z, x)
            else:
                x = self.activations[k](z)
        return x.reshape(-1, *self.shape)

    def _channel_layer(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The units, and what the channels' gates let through."""
        facts = self.activations[self.layer]
        single = z.shape[1] - self.channels
        middle = z[:, single:]
        pull = self.pull[:, : x.shape[1]]
        reach = x @ pull.T  # v.x
        if self.pull.shape[1] > x.shape[1]:
            reach = reach + self.pull[:, -1]
        step = self.epsilon / self.pull.square().sum(1).sqrt()  # epsilon d = step * v.x
        aside = step * reach
        merged = (facts(middle + aside) + facts(middle - aside)) / 2
        units = torch.cat([facts(z[:, :single]), merged], 1)
        return units, reach * self._mean_slope(facts, middle, aside)

    def _mean_slope(self, facts: ActivationFacts, z: Tensor, aside: Tensor) -> Tensor:
        """The mean of sigma' between ``z - aside`` and ``z + aside``."""
        near = aside.abs() <= _SMALL
        inside = torch.where(near, aside, torch.zeros_like(aside))
        points = z.unsqueeze(-1) + inside.unsqueeze(-1) * self._nodes
        by_nodes = (slope_of(facts, points) * self._weights).sum(-1)
        outside = torch.where(near, torch.ones_like(aside), aside)
        by_ends = (facts(z + outside) - facts(z - outside)) / (2 * outside)
        return torch.where(near, by_nodes, by_ends)

    def _pushes(self) -> Tensor:
        """How each channel acts on the units of the next layer, ``(n, q)``."""
        if self.share is None:
            return torch.ones_like(self.epsilon).unsqueeze(1)
        joined = torch.cat([torch.ones_like(self.epsilon).unsqueeze(1), self.share], 1)
        order = torch.cat([self._largest.unsqueeze(1), self._places], 1).argsort(1)
        return joined.gather(1, order)


def slope_of(facts: ActivationFacts, z: Tensor) -> Tensor:
    """sigma'(z), differentiable itself."""
    if facts.derivatives:
        return facts.derivatives[0](z)
    slope: Tensor = torch.func.jvp(facts.function, (z,), (torch.ones_like(z),))[1]
    return slope
