"""Derivatives, in closed form, of a network with one hidden layer in the coordinates of channels.

With ``f_c = sum_k V_ck Phi_k`` the units and the atoms of channels Phi (`thalweg.symmetry.channel_atoms`) are
functions of the rows of ``W x``, each of one row, or of the two of its channel and its opening; second derivatives are
therefore blocks of one unit, or of one channel. Channels of three units are left to automatic differentiation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.structure import jet
from thalweg.symmetry.channel_atoms import HardJet, PairJet, hard_jet, pair_jet

if TYPE_CHECKING:
    from thalweg.symmetry.channel_network import ChannelNetwork

__all__ = ["ChannelMap"]


class Passed(NamedTuple):
    """What one pass keeps.

    Attributes:
        outputs: ``(S, n, C)``.
        x: inputs, and a one for the bias, ``(p, n)``.
        outgoing: V with the entries that are fixed, ``(S, C, m)``.
        plain: units of no channel with their derivatives, ``(S, k, n)`` each.
        hard: those alone in theirs.
        pairs: the atoms of channels of two.
    """

    outputs: Float[Tensor, "S n C"]
    x: Float[Tensor, "p n"]
    outgoing: Float[Tensor, "S C m"]
    plain: list[Tensor]
    hard: HardJet
    pairs: PairJet

    @property
    def atoms(self) -> Float[Tensor, "S m n"]:
        """What V multiplies."""
        return torch.cat([self.plain[0], self.pairs.values[0], self.hard.value, self.pairs.values[1]], 1)

    def slopes(self) -> list[tuple[str, str, Tensor]]:
        """Of which atom, by which row or opening, and how much: first derivatives that are not zero."""
        found = [("plain", "plain", self.plain[1])]
        found += [("hard", name, self.hard.by[by]) for name, by in (("hard", "z"), ("softness", "s"))]
        for name, by in (("w", "z"), ("v", "r"), ("opening", "s")):
            found += [(atom, name, each) for atom, each in zip(("average", "gated"), self.pairs.by[by], strict=True)]
        return found


class ChannelMap:
    """The outputs of a `ChannelNetwork` with one hidden layer, and their derivatives.

    Its own coordinates ("local") are W row by row, each with its bias; V row by row, fixed entries too, each with its
    bias; softness and openings.

    Args:
        network: the module.
        space: its parameters.
    """

    def __init__(self, network: ChannelNetwork, space: ParameterSpace) -> None:
        self._network, self._space = network, space
        self.activations, self.size = network.activations, space.size
        self._facts = network.activations[0]
        plain, alone, pairs = network.single, network.merging.alone, network.merging.pairs
        self._counts = plain, alone, pairs
        self._biased, self._ends_biased = "bias_0" in space, "bias_1" in space
        self._units = plain + alone + 2 * pairs
        self._entering = space["weight_0"].shape[1] + self._biased
        self._outputs = space["weight_1"].shape[0]
        self._rows = _ranges({"plain": plain, "hard": alone, "w": pairs, "v": pairs})
        self._atoms = _ranges({"plain": plain, "average": pairs, "hard": alone, "gated": pairs})
        self._edges = _ranges({"softness": alone, "opening": pairs})
        self.length = self._first_edge + alone + pairs
        self._order = self._places()

    @staticmethod
    def suits(network: ChannelNetwork) -> bool:
        """Whether there is one hidden layer, and no channel of three units."""
        return network.depth == 2 and network.activations[1].name == "identity" and not network.merging.triples

    @property
    def _first_edge(self) -> int:
        return self._units * self._entering + self._outputs * (self._units + self._ends_biased)

    def _places(self) -> Tensor:
        """Which local number each coordinate of theta is."""
        space, m, p, c = self._space, self._units, self._entering, self._outputs
        own, ends = torch.arange(m * p).view(m, p), m + self._ends_biased
        out = m * p + torch.arange(c * ends).view(c, ends)
        fixed = self._atoms["hard"].start
        named = {
            "weight_0": own[:, : p - self._biased],
            "bias_0": own[:, -1],
            "weight_1": out[:, :fixed],
            "bias_1": out[:, -1],
            "share": out[:, fixed:m].T.gather(1, self._network._places.cpu()),
            **{name: self._first_edge + torch.arange(some.start, some.stop) for name, some in self._edges.items()},
        }
        return torch.cat([named[block.name].flatten() for block in space])

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def features(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "1 n p"]:
        """The inputs, and a one for the bias."""
        return (torch.cat([x, x.new_ones(len(x), 1)], 1) if self._biased else x).unsqueeze(0)

    def numbers(self, order: int) -> int:
        """The passes, and beyond the first order the Jacobian."""
        passes = 20 * self._units + 20 * self._counts[2] + 4 * self._outputs
        return passes + (2 * self._outputs * self.length if order == 2 else 0)

    def chosen(self, table: Tensor, dim: int) -> Tensor:
        """What belongs to theta."""
        return table.index_select(dim, self._order.to(table.device))

    def passed(self, rows: Float[Tensor, "S P"], x: Float[Tensor, "1 n p"], order: int) -> Passed:
        """A pass forward."""
        named, facts = self._space.unflatten(rows), self._facts
        plain, alone, pairs = self._counts
        incoming, none = named["weight_0"], rows.new_zeros(len(rows), 0)
        if self._biased:
            incoming = torch.cat([incoming, named["bias_0"].unsqueeze(-1)], -1)
        pushes = self._network.pushes(named.get("share"))
        outgoing = torch.cat([named["weight_1"], pushes.mT.expand(len(rows), -1, -1)], -1)
        columns = x[0].mT
        z = (incoming.flatten(0, 1) @ columns).view(len(rows), self._units, columns.shape[1])
        z_plain, z_hard, w, v = z.split([plain, alone, pairs, pairs], 1)
        found = jet(facts, z_plain, order)
        asymptotes, softness = self._network.asymptotes, named.get("softness", none).unsqueeze(-1)
        if asymptotes is None:
            hard = HardJet(z_hard, dict.fromkeys("zs", z_hard), dict.fromkeys(("zz", "zs", "ss"), z_hard))
        else:
            hard = hard_jet(facts, asymptotes, z_hard, softness, order)
        gated = pair_jet(facts, w, v, named.get("opening", none).unsqueeze(-1), order)
        outputs = torch.bmm(outgoing, torch.cat([found[0], gated.values[0], hard.value, gated.values[1]], 1))
        if self._ends_biased:
            outputs = outputs + named["bias_1"].unsqueeze(-1)
        return Passed(outputs.mT, columns, outgoing, found, hard, gated)

    def jacobian(self, passed: Passed) -> Float[Tensor, "S L C n"]:
        """Of the outputs in the local numbers."""
        count, n, c = passed.outputs.shape
        m, p, ends = self._units, self._entering, self._units + self._ends_biased
        found = passed.outputs.new_zeros(count, self.length, c, n)
        inner = found[:, : m * p].view(count, m, p, c, n)
        outgoing = passed.outgoing.mT.unsqueeze(-1)  # (S, m, C, 1)
        slopes: dict[str, Tensor] = {}
        for atom, name, each in passed.slopes():
            part = outgoing[:, self._atoms[atom]] * each.unsqueeze(2)
            slopes[name] = slopes[name] + part if name in slopes else part
        for name, some in self._rows.items():
            torch.mul(slopes[name].unsqueeze(2), passed.x[:, None], out=inner[:, some])
        for name, some in self._edges.items():
            found[:, self._first_edge :][:, some] = slopes[name]
        out = found[:, m * p : self._first_edge].view(count, c, ends, c, n)
        for output in range(c):
            out[:, output, :m, output] = passed.atoms
            out[:, output, m:, output] = 1.0
        return found

    def pulled(self, passed: Passed, slopes: Float[Tensor, "S n C"]) -> Float[Tensor, "S P"]:
        """``sum e . df``."""
        pull = slopes.mT  # (S, C, n)
        tilt = torch.bmm(passed.outgoing.mT, pull)  # (S, m, n)
        found: dict[str, Tensor] = {}
        for atom, name, each in passed.slopes():
            part = tilt[:, self._atoms[atom]] * each
            found[name] = found[name] + part if name in found else part
        incoming = torch.cat([found[name] for name in self._rows], 1).flatten(0, 1) @ passed.x.mT
        out = torch.bmm(pull, passed.atoms.mT)
        if self._ends_biased:
            out = torch.cat([out, pull.sum(2, keepdim=True)], 2)
        local = [incoming.view(len(pull), -1), out.flatten(1), *(found[name].sum(2) for name in self._edges)]
        return self.chosen(torch.cat(local, 1), 1)

    def bent(self, passed: Passed, slopes: Float[Tensor, "S n C"]) -> Float[Tensor, "S L L"]:
        """``sum e . d2f``."""
        pull = slopes.mT
        count, m, p = len(pull), self._units, self._entering
        found = pull.new_zeros(count, self.length, self.length)
        tilt = torch.bmm(passed.outgoing.mT, pull)
        outer = (passed.x.unsqueeze(1) * passed.x).flatten(0, 1).mT  # (n, p p)
        inner = found[:, : m * p, : m * p].view(count, m, p, m, p)
        edge = found[:, self._first_edge :, : m * p].view(count, -1, m, p)
        corner = found[:, self._first_edge :, self._first_edge :]
        for left, right, weight in self._bends(passed, tilt):
            if right in self._rows:
                block = (weight.flatten(0, 1) @ outer).view(*weight.shape[:2], p, p).transpose(0, 1)
                i, j = _numbers(self._rows[left]), _numbers(self._rows[right])
                inner[:, i, :, j] = block
                inner[:, j, :, i] = block
            elif left in self._rows:
                i, j = _numbers(self._rows[left]), _numbers(self._edges[right])
                edge[:, j, i] = (weight.flatten(0, 1) @ passed.x.mT).view(*weight.shape[:2], p)
            else:
                j = _numbers(self._edges[right])
                corner[:, j, j] = weight.sum(2)
        self._put_outgoing(found, passed, pull)
        found[:, : m * p, self._first_edge :] = found[:, self._first_edge :, : m * p].mT
        return found

    def _bends(self, passed: Passed, tilt: Tensor) -> list[tuple[str, str, Tensor]]:
        """By which rows or openings, and how much: second derivatives that are not zero."""
        alone, hard = tilt[:, self._atoms["plain"]], tilt[:, self._atoms["hard"]]
        first, second = tilt[:, self._atoms["average"]], tilt[:, self._atoms["gated"]]
        found = [("plain", "plain", alone * passed.plain[2])]
        names = {"z": "hard", "s": "softness"}
        found += [(names[by[0]], names[by[1]], hard * each) for by, each in passed.hard.twice.items()]
        names = {"z": "w", "r": "v", "s": "opening"}
        for by, (a, b) in passed.pairs.twice.items():
            found.append((names[by[0]], names[by[1]], first * a + second * b))
        return found

    def _put_outgoing(self, found: Tensor, passed: Passed, pull: Tensor) -> None:
        """V against rows and openings: ``e_c`` times the slopes of the atom."""
        count, c, m, p = len(pull), self._outputs, self._units, self._entering
        ends, start = m + self._ends_biased, self._first_edge
        cross = found[:, : m * p, m * p : start].view(count, m, p, c, ends)
        edge = found[:, start:, m * p : start].view(count, -1, c, ends)
        for each in range(c):
            for atom, name, slope in passed.slopes():
                weight, k = pull[:, each : each + 1] * slope, _numbers(self._atoms[atom])
                if name in self._rows:
                    summed = (weight.flatten(0, 1) @ passed.x.mT).view(*weight.shape[:2], p)
                    cross[:, _numbers(self._rows[name]), :, each, k] = summed.transpose(0, 1)
                else:
                    edge[:, _numbers(self._edges[name]), each, k] = weight.sum(2)
        found[:, m * p : start, : m * p] = found[:, : m * p, m * p : start].mT
        found[:, m * p : start, start:] = found[:, start:, m * p : start].mT


def _ranges(counts: dict[str, int]) -> dict[str, slice]:
    found, at = {}, 0
    for name, count in counts.items():
        found[name] = slice(at, at + count)
        at += count
    return found


def _numbers(some: slice) -> Tensor:
    return torch.arange(some.start, some.stop)
