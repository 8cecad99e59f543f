"""Derivatives of the loss of a network with one hidden layer, in closed form, for many parameter vectors in one pass.

With ``z_i = w_i . x`` and ``f_c = sum_i a_ci sigma(z_i)``, ``e`` the gradient of the loss in the outputs, B its second
derivative there and ``u_i = sum_c a_ci e_c``, the Hessian is a sum over samples::

    H[w_ip, w_jq] = (A^T B A)_ij sigma'_i sigma'_j x_p x_q  +  [i = j] u_i sigma''_i x_p x_q
    H[w_ip, a_cj] = (B A)_ci sigma'_i sigma_j x_p  +  [i = j] e_c sigma'_i x_p
    H[a_ci, a_dj] = B_cd sigma_i sigma_j

(a bias is a weight of an input, or of a unit, that is one). What depends on the parameters in the first row are the
pairs of units, what does not are the pairs of inputs: one product of matrices joins them for all parameter vectors at
once, a quarter of the multiplications that ``J^T J`` takes. It holds where B is the same number for all samples and
outputs, as for squared error, or where there is one output.

Samples come last in all arrays, so that what belongs to a unit lies in one piece.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import Cost
from thalweg.objectives.perceptron import OutputLoss
from thalweg.objectives.perceptron_layout import Layout
from thalweg.structure import DenseNetwork, jet

__all__ = ["Entering", "Shallow"]

PAIR = 10
"""What it costs to write and read a number of a pair of units, in multiplications."""

FEW = 2**15
"""So many numbers are copied together faster than they are visited one unit at a time."""

MOST_PRODUCTS = 64 * 2**20
"""Bytes that products of inputs may take."""


class Entering(NamedTuple):
    """What enters the network, for n samples.

    Attributes:
        columns: ``(p, n)``, the inputs, and a one for the bias.
        rows: ``(n, p)``, the same.
        products: ``(n, p (p + 1) / 2)``, of each pair of them.
    """

    columns: Float[Tensor, "p n"]
    rows: Float[Tensor, "n p"]
    products: Float[Tensor, "n k"]

    def of(self, some: slice) -> Entering:
        """Some of the samples."""
        return Entering(self.columns[:, some], self.rows[some], self.products[some])


class _Sums(NamedTuple):
    """Sums over samples that a Hessian is put together from, for S parameter vectors.

    Attributes:
        pairs: ``sigma'_i sigma'_j x_p x_q`` for the pairs of units i <= j and the pairs of inputs p <= q, then
            ``u_i sigma''_i x_p x_q`` (for one output, where u_i is a_i times it, without a_i).
        crossed: ``sigma'_i sigma_j x_p`` with j before i, sigma_j of a bias one; then ``e_c sigma'_i x_p``.
        outer: ``sigma_i sigma_j``.
        slopes: ``e_c sigma_j``, the gradient in the outgoing weights.
    """

    pairs: Float[Tensor, "S r k"]
    crossed: Float[Tensor, "S q m p"]
    outer: Float[Tensor, "S h h"]
    slopes: Float[Tensor, "S C h"]


class Shallow:
    """The closed forms of one network with one hidden layer.

    Args:
        network: for which `suits` says yes.
        device: of the parameters.
    """

    def __init__(self, network: DenseNetwork, device: torch.device | str = "cpu") -> None:
        self._layout = Layout(network, device)
        first, last = self._layout.layers
        self.facts = network.layers[0].activation
        self.units, self.inputs, self._biased = first.rows, first.columns, first.biased
        self.outputs, self._ends_biased = last.rows, last.biased
        self._left, self._right = torch.triu_indices(self.units, self.units, device=device)
        self._joint = self._left * self.units + self._right
        self._own = (self._left == self._right).nonzero().squeeze(1)
        self._table = self._places(device)
        self._rooms = threading.local()  # arrays kept from pass to pass: memory fresh from the system is slow to touch

    @staticmethod
    def suits(network: DenseNetwork, samples: int) -> bool:
        """Whether a network has one hidden layer, all parameters free, and few enough units for pairs of them to pay.

        Compared with ``J^T J`` over all parameters, where inputs are many or units few.
        """
        if len(network.layers) != 2 or network.layers[1].activation.name != "identity":
            return False
        if not Layout(network, "cpu").is_permutation:
            return False
        m, p = network.layers[0].out_features, network.layers[0].in_features + 1
        by_pairs = 1.5 * m**2 * PAIR + m**2 * p**2 / 4 + m**2 * p
        return by_pairs <= (m * (p + 1)) ** 2 + 8 * m * p * 2 and 8 * samples * p * (p + 1) // 2 <= MOST_PRODUCTS

    def takes(self, loss: OutputLoss) -> bool:
        """Whether Hessians under a loss have this form."""
        return self.outputs == 1 or loss.bend is not None

    def gradient_cost(self, samples: int) -> Cost:
        """Of a pass forward and back."""
        return Cost(samples, 8 * (5 * self.units + 4 * self.outputs), 8 * 4 * self._layout.length)

    def hessian_cost(self, samples: int) -> Cost:
        """Of the pairs of units; fixed are the matrix and what it is put together from."""
        m, h, c = self.units, self._hidden, self.outputs
        rows = m * (m + 1) // 2 + m + (h + c) * m
        return Cost(samples, 8 * (rows + 8 * m + 4 * c), 8 * 3 * self._layout.length**2)

    def entering(self, x: Float[Tensor, "n d"]) -> Entering:
        """What enters the first layer, as the methods below take it."""
        rows = torch.cat([x, x.new_ones(len(x), 1)], 1) if self._biased else x
        p, q = torch.triu_indices(self.inputs, self.inputs, device=x.device)
        columns = rows.mT.contiguous()
        return Entering(columns, rows.contiguous(), (columns[p] * columns[q]).mT.contiguous())

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def values(self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]) -> Float[Tensor, " S"]:
        """The loss over all parts of the data."""
        incoming, outgoing = self._layout.weights(rows).whole
        return _sum([(loss.value(self._forward(incoming, outgoing, x, 0)[1].mT),) for x, loss in parts])[0]

    def gradients(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"]]:
        """Value and gradient over all parts of the data."""
        incoming, outgoing = self._layout.weights(rows).whole
        found = []
        for x, loss in parts:
            (units, slopes), outputs = self._forward(incoming, outgoing, x, 1)
            value, pull = loss.value_and_slopes(outputs.mT)
            pull = pull.mT  # (S, C, n)
            tilt = pull if self.outputs == 1 else torch.bmm(self._inner(outgoing).mT, pull)
            back = ((slopes * tilt).flatten(0, 1) @ x.rows).view_as(incoming)
            found.append((value, back, self._with_bias(torch.bmm(pull, units.mT), pull)))
        value, back, ends = _sum(found)
        if self.outputs == 1:
            back = back * self._inner(outgoing).mT
        return value, self._layout.gathered(torch.cat([back.flatten(1), ends.flatten(1)], 1))

    def hessians(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian over all parts of the data, from one pass over each."""
        incoming, outgoing = self._layout.weights(rows).whole
        found, bend = [], 1.0
        for x, loss in parts:
            (units, slopes, *bends), outputs = self._forward(incoming, outgoing, x, 1 if self._flat else 2)
            value, pull = loss.value_and_slopes(outputs.mT)
            pull = pull.mT
            bend = 1.0 if loss.bend is None else loss.bend
            weight = loss.blocks(outputs.mT).flatten(2).mT if loss.bend is None else None  # (S, 1, n)
            tilt = pull if self.outputs == 1 else torch.bmm(self._inner(outgoing).mT, pull)
            bent = bends[0] * tilt if bends else None
            found.append((value, *self._sums(x, units, slopes, bent, weight, pull)))
        value, *sums = _sum(found)
        gradient, matrix = self._assembled(_Sums(*sums), self._inner(outgoing), bend)
        return value, self._layout.gathered(gradient), matrix

    def gauss_newton(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]
    ) -> Float[Tensor, "S P P"]:
        """``J^T B J``, summed over all parts of the data."""
        incoming, outgoing = self._layout.weights(rows).whole
        found, bend = [], 1.0
        for x, loss in parts:
            (units, slopes), outputs = self._forward(incoming, outgoing, x, 1)
            bend = 1.0 if loss.bend is None else loss.bend
            weight = loss.blocks(outputs.mT).flatten(2).mT if loss.bend is None else None
            found.append(tuple(self._sums(x, units, slopes, None, weight, None)))
        return self._assembled(_Sums(*_sum(found)), self._inner(outgoing), bend)[1]

    # -- passes --------------------------------------------------------------------------------------------------------

    @property
    def _flat(self) -> bool:
        """Whether second derivatives of the activation vanish."""
        return self.facts.piecewise_linear or self.facts.name == "identity"

    @property
    def _hidden(self) -> int:
        return self.units + self._ends_biased

    def _inner(self, outgoing: Tensor) -> Tensor:
        return outgoing[..., : self.units]

    def _forward(self, incoming: Tensor, outgoing: Tensor, x: Entering, order: int) -> tuple[list[Tensor], Tensor]:
        """The units with their derivatives ``(S, m, n)``, and the outputs ``(S, C, n)``."""
        z = (incoming.flatten(0, 1) @ x.columns).view(*incoming.shape[:2], x.columns.shape[1])
        found = jet(self.facts, z, order)
        if self._ends_biased:
            return found, torch.baddbmm(outgoing[..., -1:], self._inner(outgoing), found[0])
        return found, torch.bmm(outgoing, found[0])

    def _with_bias(self, sums: Tensor, pull: Tensor) -> Tensor:
        return torch.cat([sums, pull.sum(2, keepdim=True)], 2) if self._ends_biased else sums

    def _sums(
        self,
        x: Entering,
        units: Tensor,
        slopes: Tensor,
        bent: Tensor | None,
        weight: Tensor | None,
        pull: Tensor | None,
    ) -> _Sums:
        """What is summed over samples; without `bent` and `pull` what belongs to ``J^T B J`` alone."""
        count, m, n = units.shape
        weighted = slopes if weight is None else slopes * weight
        pairs = m * (m + 1) // 2
        rows = self._room("rows", units, count, pairs + (0 if bent is None else m), n)
        self._pair_up(weighted, slopes, rows[:, :pairs])
        if bent is not None:
            rows[:, pairs:] = bent
        hidden, c = self._hidden, 0 if pull is None else self.outputs
        crossed = self._room("crossed", units, count, hidden + c, m, n)
        torch.mul(weighted.unsqueeze(1), units.unsqueeze(2), out=crossed[:, :m])
        if self._ends_biased:
            crossed[:, m] = weighted
        if pull is not None:
            torch.mul(slopes.unsqueeze(1), pull.unsqueeze(2), out=crossed[:, hidden:])
        ends = units if weight is None else units * weight
        outer = torch.bmm(ends, units.mT)
        if self._ends_biased:
            edge = ends.sum(2, keepdim=True)
            total = edge.new_full((count, 1, 1), float(n)) if weight is None else weight.sum(2, keepdim=True)
            outer = torch.cat([torch.cat([outer, edge], 2), torch.cat([edge.mT, total], 2)], 1)
        return _Sums(
            pairs=(rows.flatten(0, 1) @ x.products).view(count, rows.shape[1], x.products.shape[1]),
            crossed=(crossed.flatten(0, 2) @ x.rows).view(count, hidden + c, m, self.inputs),
            outer=outer,
            slopes=units.new_zeros(0) if pull is None else self._with_bias(torch.bmm(pull, units.mT), pull),
        )

    def _pair_up(self, left: Tensor, right: Tensor, into: Tensor) -> None:
        """The products of all pairs of units."""
        if into.numel() <= FEW:
            torch.mul(left.index_select(1, self._left), right.index_select(1, self._right), out=into)
            return
        at, m = 0, self.units
        for i in range(m):  # written once, read from the cache
            torch.mul(left[:, i : i + 1], right[:, i:], out=into[:, at : at + m - i])
            at += m - i

    def _room(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An array to be written over, of this thread."""
        needed, held = math.prod(shape), getattr(self._rooms, name, None)
        if held is None or len(held) < needed or held.dtype != like.dtype or held.device != like.device:
            held = like.new_empty(needed)
            setattr(self._rooms, name, held)
        return held[:needed].view(shape)

    # -- putting a Hessian together ------------------------------------------------------------------------------------

    def _assembled(self, sums: _Sums, ends: Tensor, bend: float) -> tuple[Tensor, Tensor]:
        """Gradient in the order of the layers (meaningless without slopes), and the matrix in that of theta."""
        count, m, hidden = len(ends), self.units, self._hidden
        pairs = len(self._left)
        joint = bend * (ends.mT @ ends)  # (S, m, m)
        units = sums.pairs[:, :pairs] * joint.flatten(1).index_select(1, self._joint).unsqueeze(-1)
        if sums.pairs.shape[1] > pairs:
            own = sums.pairs[:, pairs:]
            units.index_add_(1, self._own, own * ends.mT if self.outputs == 1 else own)
        pulled = sums.crossed[:, hidden:]  # (S, C, m, p), or nothing
        crossed = bend * ends[:, :, None, :, None] * sums.crossed[:, None, :hidden]  # (S, C, h, m, p)
        if pulled.shape[1]:
            crossed[:, :, :m].diagonal(dim1=2, dim2=3).add_(pulled.transpose(2, 3))
        compact = torch.cat(
            [units.new_zeros(count, 1), units.flatten(1), crossed.flatten(1), bend * sums.outer.flatten(1)], 1
        )
        matrix = compact.index_select(1, self._table.flatten()).view(count, *self._table.shape)
        if not pulled.shape[1]:
            return matrix, matrix
        back = (ends.unsqueeze(-1) * pulled).sum(1)
        return torch.cat([back.flatten(1), sums.slopes.flatten(1)], 1), matrix

    def _places(self, device: torch.device | str) -> Int[Tensor, "P P"]:
        """Where each entry of the matrix lies among the numbers that it is put together from."""
        m, p, c, hidden = self.units, self.inputs, self.outputs, self._hidden
        unit_pairs, input_pairs = _symmetric(m), _symmetric(p)
        first = 1
        units = first + unit_pairs[:, None, :, None] * int(input_pairs.max() + 1) + input_pairs[None, :, None, :]
        first += int(unit_pairs.max() + 1) * int(input_pairs.max() + 1)
        crossed = first + torch.arange(c * hidden * m * p).view(c, hidden, m, p)
        first += crossed.numel()
        outer = torch.zeros(c, hidden, c, hidden, dtype=torch.int64)  # nothing between different outputs
        every = torch.arange(hidden)
        upper = torch.minimum(every[:, None], every) * hidden + torch.maximum(every[:, None], every)
        outer[torch.arange(c), :, torch.arange(c)] = first + upper  # one triangle twice: exactly symmetric
        length = self._layout.length
        table = torch.empty(length, length, dtype=torch.int64)
        table[: m * p, : m * p] = units.reshape(m * p, m * p)
        table[m * p :, : m * p] = crossed.reshape(c * hidden, m * p)
        table[: m * p, m * p :] = crossed.reshape(c * hidden, m * p).T
        table[m * p :, m * p :] = outer.reshape(c * hidden, c * hidden)
        order = self._layout.local_of.cpu()
        return table[order][:, order].to(device)


def _symmetric(size: int) -> Int[Tensor, "size size"]:
    """The number of each pair, whatever its order, in the order of `torch.triu_indices`."""
    left, right = torch.triu_indices(size, size)
    numbers = torch.empty(size, size, dtype=torch.int64)
    numbers[left, right] = numbers[right, left] = torch.arange(len(left))
    return numbers


def _sum(found: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The sums of what was found in each part of the data."""
    if len(found) == 1:
        return found[0]
    return tuple(torch.stack(each).sum(0) for each in zip(*found, strict=True))
