"""Which units could be those of a channel: a guess that only chooses what is tried first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_atoms import Asymptotes
from thalweg.symmetry.channel_coordinates import incoming_of, outgoing_of, pair_numbers

__all__ = ["Pick", "candidates", "picks"]

OPPOSED = 2.0
"""Output weights of a candidate differ by this many times their sum."""
NEAR = 0.5
"""And its input weights by less than this fraction of their size, on each side of the middle."""
HARD = 0.02
"""A unit is hard whose values depart by less than this part of their size from the asymptotes."""
STRONG = 0.05
"""Candidates less unlike than this are tried all at once before any are tried alone."""
MOST = 3
"""Channels tried at once after that."""
MOST_NEAR = 64
"""Pairs of near units among which channels of three are looked for."""


class Pick(NamedTuple):
    """Channels to try at once.

    Attributes:
        layer: number of the hidden layer.
        groups: units of each, of three the middle one in the middle; the smaller ones first.
        negated: units taken with all their weights negated.
    """

    layer: int
    groups: tuple[tuple[int, ...], ...]
    negated: frozenset[int] = frozenset()

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many units merge in each channel."""
        return tuple(len(group) for group in self.groups)

    @property
    def units(self) -> list[int]:
        """All units, those of each channel one after the other."""
        return [unit for group in self.groups for unit in group]


class Candidate(NamedTuple):
    """One possible channel; the less `unlike`, the likelier."""

    unlike: float
    layer: int
    units: tuple[int, ...]
    negated: frozenset[int]


def candidates(
    network: DenseNetwork, layers: tuple[int, ...], row: Tensor, features: Float[Tensor, "n d"]
) -> list[Candidate]:
    """Possible channels of a parameter vector, the likeliest first.

    Args:
        network: the perceptron.
        layers: those of its hidden layers that are asked about.
        row: the parameter vector.
        features: what enters the network, for some samples.
    """
    found: list[Candidate] = []
    for layer, z in enumerate(_arguments(network, row, features)):
        if layer not in layers:
            continue
        near = _near_pairs(network, layer, row)
        found += [one for one, opposed in near if opposed > OPPOSED]
        found += _threes(network, layer, row, [one for one, _ in near])
        found += _hard(network, layer, z, outgoing_of(network, layer, row.unsqueeze(0))[0])
    return sorted(found)


def _arguments(network: DenseNetwork, row: Tensor, x: Tensor) -> Iterator[Float[Tensor, "n m"]]:
    """What enters the activation of each hidden layer."""
    for layer, (weight, bias) in zip(network.hidden, network.matrices(row), strict=False):
        z = x @ weight.T if bias is None else x @ weight.T + bias
        yield z
        x = layer.activation(z)


def _hard(network: DenseNetwork, layer: int, z: Tensor, outgoing: Tensor) -> list[Candidate]:
    """Units that are as good as their asymptotes: they have a sharp bend, or are linear for all samples."""
    facts = network.layers[layer].activation
    asymptotes = Asymptotes.of(facts)
    if asymptotes is None:
        return []
    slope, level = asymptotes.at(z)
    values = facts(z)
    apart = (values - slope * z - level).square().mean(0) / values.square().mean(0).clamp(min=1e-300)
    counts = (outgoing != 0).any(1).tolist()  # a unit that gives nothing does not matter, hard or soft
    scores = enumerate(apart.sqrt().tolist())
    return [Candidate(score, layer, (unit,), frozenset()) for unit, score in scores if score < HARD and counts[unit]]


def _near_pairs(network: DenseNetwork, layer: int, row: Tensor) -> list[tuple[Candidate, float]]:
    """Pairs of units with nearly equal input weights, and how far their output weights are opposed."""
    facts, width = network.layers[layer].activation, network.layers[layer].out_features
    i, j = torch.triu_indices(width, width, 1, device=row.device)
    tiny = torch.finfo(row.dtype).tiny
    found = []
    for negated in (False, True) if facts.parity == "odd" else (False,):
        numbers = pair_numbers(network, layer, row.unsqueeze(0), i, j, negated=negated)
        near = numbers.epsilon[0] / numbers.middle[0].norm(dim=-1).clamp(min=tiny)
        apart = numbers.apart[0].norm(dim=-1)
        opposed = apart / numbers.sum[0].norm(dim=-1).clamp(min=tiny)
        for k in ((near < NEAR) & (apart > 0) & (numbers.epsilon[0] > 0)).nonzero().squeeze(1).tolist():
            units = (int(i[k]), int(j[k]))
            turned = frozenset(units[1:]) if negated else frozenset()
            strength = float(opposed[k])
            found.append((Candidate(float(near[k]) / max(strength, 1e-12), layer, units, turned), strength))
    return sorted(found)


def _threes(network: DenseNetwork, layer: int, row: Tensor, pairs: list[Candidate]) -> list[Candidate]:
    """Three units near each other whose output weights cancel like (1, -2, 1)."""
    signs: dict[frozenset[int], list[bool]] = defaultdict(list)
    for one in sorted(pairs, key=lambda pair: pair.unlike)[:MOST_NEAR]:
        signs[frozenset(one.units)].append(bool(one.negated))
    w, a = incoming_of(network, layer, row.unsqueeze(0))[0], outgoing_of(network, layer, row.unsqueeze(0))[0]
    found = []
    units = {unit for pair in signs for unit in pair}
    triangles = {tuple(sorted((*pair, third))) for pair in signs for third in units - pair}
    for three in sorted(triangles):
        sides = [signs.get(frozenset(pair)) for pair in combinations(three, 2)]
        if any(side is None for side in sides):
            continue
        negated = frozenset(unit for unit, side in zip(three[1:], sides[:2], strict=True) if side and side[0])
        found += _one_three(layer, three, negated, w, a)
    return found


def _one_three(layer: int, three: tuple[int, ...], negated: frozenset[int], w: Tensor, a: Tensor) -> list[Candidate]:
    sign = w.new_tensor([-1.0 if unit in negated else 1.0 for unit in three]).unsqueeze(1)
    w, a = sign * w[list(three)], sign * a[list(three)]
    found = []
    for middle in range(3):
        first, last = (k for k in range(3) if k != middle)
        bend = float((a[first] - 2 * a[middle] + a[last]).norm()) / 2
        tilt, total = float((a[first] - a[last]).norm()), float(a.sum(0).norm())
        near = float((w - w.mean(0)).norm(dim=1).max() / w.mean(0).norm().clamp(min=1e-300))
        if near < NEAR and bend > OPPOSED * max(total, tilt):
            units = (three[first], three[middle], three[last])
            found.append(Candidate(near * max(total, tilt) / bend, layer, units, negated))
    return found


def picks(found: list[Candidate]) -> Iterator[Pick]:
    """What merges strongly, all at once; that with what is hard; then one by one.

    The likeliest first, then the two likeliest of its layer that share no unit, and so on; then the next alone. Units
    that are hard come after those that merge: a pair of coordinates too many does no harm, but a unit that is held at
    its asymptotes, and should not be, costs a long search between the kinks.
    """
    strong = [one for one in found if one.unlike < STRONG]
    for layer in dict.fromkeys(one.layer for one in strong):
        here = [one for one in strong if one.layer == layer]
        for some in ([one for one in here if len(one.units) > 1], here):
            if some:
                *_, last = _growing(some)
                yield last
    for start in range(min(len(found), MOST)):
        for number, pick in enumerate(_growing([one for one in found[start:] if one.layer == found[start].layer]), 1):
            yield pick
            if number == MOST:
                break


def _growing(found: list[Candidate]) -> Iterator[Pick]:
    """The first, the first two that share no unit, and so on."""
    taken: list[Candidate] = []
    used: set[int] = set()
    for one in found:
        if not set(one.units) & used:
            taken.append(one)
            used |= set(one.units)
            groups = sorted((each.units for each in taken), key=lambda units: (len(units), units))
            yield Pick(one.layer, tuple(groups), frozenset().union(*(each.negated for each in taken)))
