"""A network in the coordinates of its channels, in which the end at infinity is an ordinary point.

A channel has one, two or three units. Those whose input weights merge while their output weights grow in opposite
directions compute, in the limit, a unit and a gated linear unit: two of them ``c sigma(w.x) + (v.x) sigma'(w.x)``,
three also a multiple of ``(p.x)^2 sigma''(m.x)``. A single unit whose input weights grow while its output weight
vanishes becomes what sigma looks like from far, a rectified linear unit in the case of softplus; the *softness* ``s =
|a|`` takes the place of the opening there, and ``u = s w`` that of the input weights. The coordinates, and what the
units compute in them, are those of `thalweg.symmetry.channel_atoms`; one number each, the *opening* s, says how far a
channel is from its end. For two units

    s = 1 / (a_i - a_j),   w = (w_i + w_j) / 2,   v = (w_i - w_j) (a_i - a_j) / 2,   c = a_i + a_j

so that half the distance of the input weights is ``epsilon = s |v|``. The loss is even in s: its gradient has nothing
there along s at the end, and half its second derivative is the h of ``L = L_infinity + h epsilon^2``, over ``|v|^2``: a
minimum at infinity is a minimum with s = 0 of this network.

Source: Martinelli, van Meegen, Simsek, Gerstner and Brea, Flat channels to infinity in neural loss landscapes (2025),
arXiv 2506.14951; the integrals in place of difference quotients, and the opening in place of epsilon, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import OwnDerivatives
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_atoms import Asymptotes, average, hardened, mean_slope, triple_atoms
from thalweg.symmetry.channel_form import ChannelMap

__all__ = ["ChannelNetwork", "Merging"]


class Merging(NamedTuple):
    """How units of one layer merge: all that the coordinates of their channels depend on but the units themselves.

    Attributes:
        layer: number of the hidden layer.
        sizes: of the channels, how many units each has: 1, 2 or 3, in this order.
        largest: of the next layer, the unit on which each channel acts most: the pull on the others stands in relation
            to it.
        signs: of the pull on it, for channels of one and of three units; 1 for those of two, where v takes the sign.
    """

    layer: int
    sizes: tuple[int, ...]
    largest: tuple[int, ...]
    signs: tuple[float, ...]

    @property
    def alone(self) -> int:
        """How many channels of one unit there are."""
        return self.sizes.count(1)

    @property
    def pairs(self) -> int:
        """How many channels of two units there are."""
        return self.sizes.count(2)

    @property
    def triples(self) -> int:
        """How many channels of three units there are."""
        return self.sizes.count(3)

    @staticmethod
    def of_pairs(layer: int, largest: Sequence[int]) -> Merging:
        """Channels of two units each."""
        return Merging(layer, (2,) * len(largest), tuple(largest), (1.0,) * len(largest))


class ChannelNetwork(nn.Module, OwnDerivatives):
    """A multilayer perceptron with some units in the coordinates of their channels.

    Units are numbered anew: those of no channel first, in their order; then those alone in theirs; then w of each pair,
    v of each; then m, p and q of each three. Its inputs are what enters the first layer of the network given
    (`DenseNetwork.features`).

    Args:
        network: a perceptron with one row a sample, all of whose parameters are free and used once.
        merging: which units merge.
        shape: of one sample's output.

    Parameters, by name: ``weight_k`` and ``bias_k`` of each layer k. In the layer after that of the channels the
    columns of each channel are all but its last: c of each pair; A_0, then A_1 of each three. The last is one (or minus
    one) for the unit it acts on most, and ``share`` ``(n, q - 1)`` for the others; ``softness`` is s of the
    channels of one unit, ``opening`` that of the others.

    Raises:
        InvalidInputError: for units or outputs that are not there, or an activation without asymptotes for a channel of
            one unit.
    """

    _places: Tensor
    _largest: Tensor
    _signs: Tensor

    def __init__(self, network: DenseNetwork, merging: Merging, shape: Sequence[int]) -> None:
        super().__init__()
        self.merging, self.shape = merging, tuple(shape)
        self.depth, layer, channels = len(network.layers), merging.layer, len(merging.sizes)
        self.activations = [one.activation for one in network.layers]
        outputs = network.layers[layer + 1].out_features
        _check(merging, network.layers[layer].out_features, outputs)
        self.single = network.layers[layer].out_features - sum(merging.sizes)
        for k, one in enumerate(network.layers):
            columns = one.in_features - (channels if k == layer + 1 else 0)
            self.register_parameter(f"weight_{k}", _zeros(one.out_features, columns))
            self.register_parameter(f"bias_{k}", None if one.bias_coordinates is None else _zeros(one.out_features))
        self.share = _zeros(channels, outputs - 1) if outputs > 1 else None
        self.softness = _zeros(merging.alone) if merging.alone else None
        self.opening = _zeros(channels - merging.alone) if channels > merging.alone else None
        self.asymptotes = Asymptotes.of(self.activations[layer]) if merging.alone else None
        if merging.alone and self.asymptotes is None:
            name = self.activations[layer].name
            raise InvalidInputError(f"{name} has no sloping asymptotes: there are no channels of one unit")
        # where the shares of each channel go among the units of the next layer: its largest one has share 1
        self.register_buffer("_places", torch.tensor([[u for u in range(outputs) if u != r] for r in merging.largest]))
        self.register_buffer("_largest", torch.tensor(merging.largest))
        self.register_buffer("_signs", torch.tensor(merging.signs, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "n d"]) -> Tensor:
        """The outputs, one row a sample."""
        pulls = x[:, :0]
        for k in range(self.depth):
            weight, bias = getattr(self, f"weight_{k}"), getattr(self, f"bias_{k}")
            z = x @ weight.T if bias is None else x @ weight.T + bias
            if k == self.merging.layer + 1:
                z = z + pulls @ self.pushes(self.share)
            if k == self.merging.layer:
                x, pulls = self._atoms(z)
            else:
                x = self.activations[k](z)
        return x.reshape(-1, *self.shape)

    def output_map(self, space: ParameterSpace) -> ChannelMap | None:
        """Its derivatives in closed form, where there is one hidden layer and no channel of three units."""
        return ChannelMap(self, space) if ChannelMap.suits(self) else None

    def _atoms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the columns of the next layer multiply, and what the shares do."""
        facts = self.activations[self.merging.layer]
        alone, pairs, triples = self.merging.alone, self.merging.pairs, self.merging.triples
        units, pulls, at = [facts(z[:, : self.single])], [], self.single + alone
        if alone:
            assert self.asymptotes is not None
            assert self.softness is not None
            pulls.append(hardened(facts, self.asymptotes, z[:, self.single : at], self.softness))
        opening = z.new_zeros(0) if self.opening is None else self.opening
        if pairs:
            w, v = z[:, at : at + 2 * pairs].split(pairs, 1)
            aside = opening[:pairs] * v
            units.append(average(facts, w, aside))
            pulls.append(v * mean_slope(facts, w, aside))
        if triples:
            m, p, q = z[:, at + 2 * pairs :].split(triples, 1)
            *others, last = triple_atoms(facts, m, p, q, opening[pairs:])
            units += others
            pulls.append(last)
        return torch.cat(units, 1), torch.cat(pulls, 1)

    def pushes(self, share: Float[Tensor, "*b n r"] | None) -> Float[Tensor, "*b n q"]:
        """How each channel acts on the units of the next layer, given its shares."""
        signs = self._signs.unsqueeze(1)
        if share is None:
            return signs
        joined = torch.cat([signs.expand_as(share[..., :1]), share], -1)
        order = torch.cat([self._largest.unsqueeze(1), self._places], 1).argsort(1)
        return joined.gather(-1, order.expand(*share.shape[:-2], -1, -1))


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))


def _check(merging: Merging, width: int, outputs: int) -> None:
    channels = len(merging.sizes)
    if list(merging.sizes) != sorted(merging.sizes) or not set(merging.sizes) <= {1, 2, 3} or not channels:
        raise InvalidInputError(f"channels have one, two or three units, in this order; got {list(merging.sizes)}")
    if sum(merging.sizes) > width:
        raise InvalidInputError(f"{sum(merging.sizes)} units cannot be in channels of a layer of {width}")
    if not all(0 <= unit < outputs for unit in merging.largest) or len(merging.largest) != channels:
        raise InvalidInputError(
            f"the next layer has {outputs} units; got {list(merging.largest)} for {channels} channels"
        )
    if len(merging.signs) != channels or not set(merging.signs) <= {1.0, -1.0}:
        raise InvalidInputError(f"one sign, 1 or -1, is needed for each of {channels} channels; got {merging.signs}")
