"""Two ways to sum and put together the Hessian of a network with one hidden layer, whichever is faster.

With ``z_i = w_i . x`` and ``f_c = sum_i a_ci sigma(z_i)``, ``e`` the gradient of the loss in the outputs, B its second
derivative there and ``u_i = sum_c a_ci e_c``, the Hessian is a sum over samples::

    H[w_ip, w_jq] = (A^T B A)_ij sigma'_i sigma'_j x_p x_q  +  [i = j] u_i sigma''_i x_p x_q
    H[w_ip, a_cj] = (B A)_ci sigma'_i sigma_j x_p  +  [i = j] e_c sigma'_i x_p
    H[a_ci, a_dj] = B_cd sigma_i sigma_j

(a bias is a weight of an input, or of a unit, that is one). The outgoing weights stand outside the sums, so all outputs
share them. `Joint` takes the rows ``sigma'_i x_p`` times each other: the most multiplications, in products of matrices
that are large enough to be fast. `ByPairs` puts what depends on the parameters, the pairs of units, against what does
not, the pairs of inputs: a quarter of the multiplications, in thin matrices, which pays where inputs are many.

Samples come last in all arrays, so that what belongs to a unit lies in one piece.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ByPairs", "Entering", "Form", "Joint", "Sums", "form_for"]

_WRITE = 10
"""What it costs to write and read a number, in multiplications of a large product of matrices."""
_THIN = 60
"""What a number of a pair of units costs, written, read and taken times the few columns of a thin matrix."""
_FEW = 2**15
"""So many numbers are copied together faster than they are visited one unit at a time."""


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


class Sums(NamedTuple):
    """Sums over samples that a Hessian is put together from, for S parameter vectors.

    Attributes:
        units: ``sigma'_i sigma'_j x_p x_q``, as the form arranges them.
        own: ``u_i sigma''_i x_p x_q`` for each unit and the pairs of inputs p <= q; for one output without the a_i of
            u_i. Empty where second derivatives vanish or do not count.
        crossed: ``sigma'_i sigma_j x_p``, the last sigma_j that of a bias, one.
        pulled: ``e_c sigma'_i x_p``; no rows where only ``J^T B J`` is wanted.
        outer: ``sigma_i sigma_j``.
        slopes: ``e_c sigma_j``, the gradient in the outgoing weights.
    """

    units: Float[Tensor, "..."]
    own: Float[Tensor, "S r k"]
    crossed: Float[Tensor, "S h m p"]
    pulled: Float[Tensor, "S C m p"]
    outer: Float[Tensor, "S h h"]
    slopes: Float[Tensor, "S C h"]


class Form(ABC):
    """How the sums of one network are taken and put together.

    Args:
        units: m, of the hidden layer.
        inputs: p, with the one for the bias.
        device: of the parameters.
    """

    def __init__(self, units: int, inputs: int, device: torch.device | str) -> None:
        self.units, self.inputs = units, inputs
        self._rooms = threading.local()  # arrays kept from pass to pass: memory fresh from the system is slow to touch

    @abstractmethod
    def row_numbers(self, hidden: int, outputs: int) -> int:
        """How many numbers are written for a sample."""

    @abstractmethod
    def products(
        self, x: Entering, slopes: Tensor, weighted: Tensor, ends: Tensor, pull: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sums `units`, `crossed` and `pulled`.

        Args:
            x: what enters.
            slopes: ``(S, m, n)``, sigma'.
            weighted: the same times B, where B differs between samples.
            ends: ``(S, h, n)``, sigma and the one of the bias.
            pull: ``(S, C, n)``, e; no rows where it is not wanted.
        """

    @abstractmethod
    def block(self, sums: Sums, joint: Float[Tensor, "S m m"], ends: Float[Tensor, "S C m"]) -> Float[Tensor, "S u"]:
        """The part of the incoming weights, ``joint_ij units + [i = j] own``, as the form arranges it."""

    @abstractmethod
    def places(self) -> Int[Tensor, "mp mp"]:
        """Where each entry of that part lies in what `block` returns; the same place for both triangles."""

    def _room(self, like: Tensor, *shape: int) -> Tensor:
        """An array to be written over, of this thread."""
        needed, held = math.prod(shape), getattr(self._rooms, "held", None)
        if held is None or len(held) < needed or held.dtype != like.dtype or held.device != like.device:
            held = self._rooms.held = like.new_empty(needed)
        return held[:needed].view(shape)


class Joint(Form):
    """``sigma'_i x_p`` against each other, against the units and against the pull, in one product of matrices."""

    def __init__(self, units: int, inputs: int, device: torch.device | str) -> None:
        super().__init__(units, inputs, device)
        self._full = symmetric(inputs).flatten().to(device)

    @staticmethod
    def cost(m: int, p: int, hidden: int, outputs: int) -> int:
        """Of a sample, in multiplications."""
        return m * p * (_WRITE + m * p + hidden + outputs)

    def row_numbers(self, hidden: int, outputs: int) -> int:
        """The rows, the units and the pull."""
        return self.units * self.inputs + hidden + outputs

    def products(
        self, x: Entering, slopes: Tensor, weighted: Tensor, ends: Tensor, pull: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One product; `units` is ``(S, m, p, m p)``."""
        count, m, n = slopes.shape
        p, h = self.inputs, ends.shape[1]
        both = self._room(slopes, count, m * p + h + pull.shape[1], n)
        inner = both[:, : m * p].view(count, m, p, n)
        torch.mul(slopes.unsqueeze(2), x.columns, out=inner)
        both[:, m * p : m * p + h] = ends
        both[:, m * p + h :] = pull
        if weighted is slopes:
            found = torch.bmm(both[:, : m * p], both.mT)
        else:  # one output, whose B stands on the left; the pull has none
            left = (weighted.unsqueeze(2) * x.columns).flatten(1, 2)
            found = torch.bmm(left, both[:, : m * p + h].mT)
            found = torch.cat([found, torch.bmm(both[:, : m * p], pull.mT)], 2)
        found = found.unflatten(1, (m, p))
        crossed = found[..., m * p : m * p + h].permute(0, 3, 1, 2)
        return found[..., : m * p], crossed, found[..., m * p + h :].permute(0, 3, 1, 2)

    def block(self, sums: Sums, joint: Tensor, ends: Tensor) -> Tensor:
        """In rows and columns of the incoming weights."""
        count, m, p = len(joint), self.units, self.inputs
        block = sums.units.unflatten(3, (m, p)) * joint[:, :, None, :, None]
        if sums.own.numel():
            own = sums.own.index_select(2, self._full).view(count, m, p, p)
            own = own * ends.mT.unsqueeze(-1) if ends.shape[1] == 1 else own
            block.diagonal(dim1=1, dim2=3).add_(own.permute(0, 2, 3, 1))
        return block.flatten(1)

    def places(self) -> Tensor:
        """The upper triangle."""
        return upper(self.units * self.inputs, self.units * self.inputs)


class ByPairs(Form):
    """``sigma'_i sigma'_j`` for i <= j against ``x_p x_q`` for p <= q, and ``sigma'_i sigma_j`` against ``x_p``."""

    def __init__(self, units: int, inputs: int, device: torch.device | str) -> None:
        super().__init__(units, inputs, device)
        self._left, self._right = torch.triu_indices(units, units, device=device)
        self._entry = self._left * units + self._right
        self._own = (self._left == self._right).nonzero().squeeze(1)

    @staticmethod
    def cost(m: int, p: int, hidden: int, outputs: int) -> int:
        """Of a sample, in multiplications."""
        pairs = m * (m + 1) // 2
        return pairs * (_THIN + p * (p + 1) // 2) + m * (hidden + outputs) * (_WRITE + p)

    def row_numbers(self, hidden: int, outputs: int) -> int:
        """The pairs, and the units and the pull times each slope."""
        return self.units * (self.units + 1) // 2 + (hidden + outputs) * self.units

    def products(
        self, x: Entering, slopes: Tensor, weighted: Tensor, ends: Tensor, pull: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Two products; `units` is ``(S, pairs of units, pairs of inputs)``."""
        count, m, n = slopes.shape
        pairs, h, c = len(self._left), ends.shape[1], pull.shape[1]
        held = self._room(slopes, count * (pairs + (h + c) * m) * n)
        rows = held[: count * pairs * n].view(count, pairs, n)
        crossed = held[count * pairs * n :].view(count, h + c, m, n)
        self._pair_up(weighted, slopes, rows)
        torch.mul(weighted.unsqueeze(1), ends.unsqueeze(2), out=crossed[:, :h])
        torch.mul(slopes.unsqueeze(1), pull.unsqueeze(2), out=crossed[:, h:])
        found = (crossed.flatten(0, 2) @ x.rows).view(count, h + c, m, self.inputs)
        return (rows.flatten(0, 1) @ x.products).unflatten(0, (count, pairs)), found[:, :h], found[:, h:]

    def _pair_up(self, left: Tensor, right: Tensor, into: Tensor) -> None:
        """The products of all pairs of units."""
        if into.numel() <= _FEW:
            torch.mul(left.index_select(1, self._left), right.index_select(1, self._right), out=into)
            return
        at, m = 0, self.units
        for i in range(m):  # written once, read from the cache
            torch.mul(left[:, i : i + 1], right[:, i:], out=into[:, at : at + m - i])
            at += m - i

    def block(self, sums: Sums, joint: Tensor, ends: Tensor) -> Tensor:
        """In pairs."""
        block = sums.units * joint.flatten(1).index_select(1, self._entry).unsqueeze(-1)
        if sums.own.numel():
            block.index_add_(1, self._own, sums.own * ends.mT if ends.shape[1] == 1 else sums.own)
        return block.flatten(1)

    def places(self) -> Tensor:
        """The pairs that both belong to."""
        m, p = self.units, self.inputs
        unit_pairs, input_pairs = symmetric(m), symmetric(p)
        found = unit_pairs[:, None, :, None] * int(input_pairs.max() + 1) + input_pairs[None, :, None, :]
        return found.reshape(m * p, m * p)


def form_for(units: int, inputs: int, hidden: int, outputs: int, device: torch.device | str) -> Form:
    """The faster form, by what products of matrices were measured to cost.

    >>> type(form_for(5, 5, 6, 1, "cpu")).__name__, type(form_for(5, 30, 6, 1, "cpu")).__name__
    ('Joint', 'ByPairs')
    """
    joint, by_pairs = (form.cost(units, inputs, hidden, outputs) for form in (Joint, ByPairs))
    return (Joint if joint <= by_pairs else ByPairs)(units, inputs, device)


def symmetric(size: int) -> Int[Tensor, "size size"]:
    """The number of each pair, whatever its order, in the order of `torch.triu_indices`."""
    left, right = torch.triu_indices(size, size)
    numbers = torch.empty(size, size, dtype=torch.int64)
    numbers[left, right] = numbers[right, left] = torch.arange(len(left))
    return numbers


def upper(size: int, stride: int) -> Int[Tensor, "size size"]:
    """Where the entries of a symmetric matrix lie, both triangles in the upper one: exactly symmetric then."""
    every = torch.arange(size)
    return torch.minimum(every[:, None], every) * stride + torch.maximum(every[:, None], every)
