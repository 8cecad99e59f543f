"""The Jacobian of one parameter block, kept as the factors that a layer gives for nothing.

For a sample n, an output c and a layer used at positions t, the derivative with respect to the layer's weight is a
sum of outer products of the backpropagated signal and the activation,

    J[n, c] = sum_t  s[n, c, t] a[n, t]^T,

so a block's share of the kernel, ``<J[n, c], J[m, d]>``, needs only inner products of signals and of activations. All
factors are float64, whatever the model is.

Letters: n, m samples; c, d outputs; t, s positions; g features of a signal; a features of an activation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factor", "Lookup", "Outer", "Rows", "joined"]

_Meeting = Callable[[slice, slice], Tensor]
"""Inner products of activations ``(n, T, m, T')`` for some samples of the left and some of the right."""

TILE_BYTES = 64 * 2**20
"""Working memory of one tile of a Gram matrix."""


class Factor(ABC):
    """The Jacobian of one block over some samples."""

    @abstractmethod
    def add_gram(self, other: Factor, into: Tensor) -> None:
        """Add ``<J[n, c], J'[m, d]>`` to ``(n, C, m, C')``."""

    @abstractmethod
    def pull(self, weights: Tensor, size: int) -> Tensor:
        """``sum_{n,c} weights[n, c] J[n, c]``, flat ``(size,)``."""

    @abstractmethod
    def magnitude(self) -> float:
        """An upper bound of the Frobenius norm, as a scale for rounding."""

    @abstractmethod
    def bytes(self) -> int:
        """Memory held."""


@dataclass(frozen=True)
class Rows(Factor):
    """The rows themselves, ``(n, C, p)``: for small blocks."""

    rows: Tensor

    def add_gram(self, other: Factor, into: Tensor) -> None:
        """One product of matrices."""
        assert isinstance(other, Rows)
        into += (self.rows.flatten(0, 1) @ other.rows.flatten(0, 1).T).reshape(into.shape)

    def pull(self, weights: Tensor, size: int) -> Tensor:
        """Weighted sum of rows."""
        return torch.einsum("nc,ncp->p", weights, self.rows)

    def magnitude(self) -> float:
        """The norm itself."""
        return float(torch.linalg.vector_norm(self.rows))

    def bytes(self) -> int:
        """Memory held."""
        return _bytes(self.rows)


@dataclass(frozen=True)
class Outer(Factor):
    """Signals ``(n, C, T, g)`` and activations ``(n, T, a)`` whose outer products sum to the rows ``(g, a)``."""

    signals: Tensor
    activations: Tensor

    def add_gram(self, other: Factor, into: Tensor) -> None:
        """By Grams of the factors or by the rows, whichever takes fewer multiplications."""
        assert isinstance(other, Outer)
        n, outputs, positions, g = self.signals.shape
        m, others, positions2, _ = other.signals.shape
        a = self.activations.shape[2]
        pairs, meetings = n * m, positions * positions2
        by_grams = pairs * meetings * (a + outputs * others * (g + 1))
        by_rows = (n * outputs * positions + m * others * positions2 + pairs * outputs * others) * g * a
        if by_grams <= by_rows:
            _add_by_grams(self.signals, other.signals, into, self._activation_gram(other))
        else:
            _add_by_rows(self, other, into)

    def _activation_gram(self, other: Outer) -> _Meeting:
        return lambda rows, columns: torch.einsum("nta,msa->ntms", self.activations[rows], other.activations[columns])

    def pull(self, weights: Tensor, size: int) -> Tensor:
        """Weighted sum of the outer products."""
        weighted = torch.einsum("nc,nctg->ntg", weights, self.signals)
        return torch.einsum("ntg,nta->ga", weighted, self.activations).reshape(size)

    def magnitude(self) -> float:
        """By the triangle inequality over positions."""
        return _triangle(self.signals, torch.linalg.vector_norm(self.activations, dim=-1))

    def bytes(self) -> int:
        """Memory held."""
        return _bytes(self.signals) + _bytes(self.activations)


@dataclass(frozen=True)
class Lookup(Factor):
    """Signals ``(n, C, T, g)`` and the entry of a table that each position reads ``(n, T)``: one-hot activations."""

    signals: Tensor
    indices: Tensor
    entries: int

    def add_gram(self, other: Factor, into: Tensor) -> None:
        """By whole tables where they are small, else position by position: two meet where they read the same entry."""
        assert isinstance(other, Lookup)
        if self.entries <= self.indices.shape[1] * other.indices.shape[1]:
            sides = (self, other)
            per_feature = 8 * self.entries * sum(side.signals.shape[0] * side.signals.shape[1] for side in sides)
            for part in _parts(self.signals.shape[3], per_feature):
                left, right = (side._tables(part).flatten(2).flatten(0, 1) for side in sides)
                into += (left @ right.T).reshape(into.shape)
            return

        def meet(rows: slice, columns: slice) -> Tensor:
            return (self.indices[rows, :, None, None] == other.indices[columns]).to(self.signals.dtype)

        _add_by_grams(self.signals, other.signals, into, meet)

    def _tables(self, features: slice) -> Tensor:
        """The rows themselves for some features, ``(n, C, entries, g)``."""
        signals = self.signals[..., features]
        where = self.indices[:, None, :, None].expand(signals.shape)
        return signals.new_zeros(*signals.shape[:2], self.entries, signals.shape[3]).scatter_add_(2, where, signals)

    def pull(self, weights: Tensor, size: int) -> Tensor:
        """Weighted signals added to the entries they belong to."""
        weighted = torch.einsum("nc,nctg->ntg", weights, self.signals)
        table = weighted.new_zeros(self.entries, weighted.shape[-1])
        return table.index_add_(0, self.indices.flatten(), weighted.flatten(0, 1)).reshape(size)

    def magnitude(self) -> float:
        """By the triangle inequality over positions."""
        return _triangle(self.signals, torch.ones_like(self.indices, dtype=self.signals.dtype))

    def bytes(self) -> int:
        """Memory held."""
        return _bytes(self.signals) + _bytes(self.indices)


def joined(factors: Sequence[Factor]) -> Factor | None:
    """One factor for a block used several times, or None for a mixture of kinds.

    Uses add up, so their positions are laid one after another.
    """
    first = factors[0]
    if len(factors) == 1:
        return first
    if all(isinstance(f, Rows) for f in factors):
        return Rows(torch.stack([f.rows for f in factors if isinstance(f, Rows)]).sum(0))
    if all(isinstance(f, Outer) for f in factors):
        outers = [f for f in factors if isinstance(f, Outer)]
        return Outer(torch.cat([f.signals for f in outers], 2), torch.cat([f.activations for f in outers], 1))
    if all(isinstance(f, Lookup) for f in factors):
        lookups = [f for f in factors if isinstance(f, Lookup)]
        signals, indices = torch.cat([f.signals for f in lookups], 2), torch.cat([f.indices for f in lookups], 1)
        return Lookup(signals, indices, lookups[0].entries)
    return None


def _add_by_grams(left: Tensor, right: Tensor, into: Tensor, activation_gram: _Meeting) -> None:
    """Add ``sum_{t,s} <a, a'> <s, s'>``, a tile of samples at a time."""
    n, outputs, positions, _ = left.shape
    m, others, positions2, _ = right.shape
    per_pair = 2 * 8 * positions * positions2 * (1 + outputs * others)
    for columns in _parts(m, per_pair):
        for rows in _parts(n, per_pair * min(m, columns.stop - columns.start)):
            meeting = activation_gram(rows, columns)
            alike = torch.einsum("nctg,mdsg->nctmds", left[rows], right[columns])
            alike *= meeting[:, None, :, :, None, :]
            into[rows, :, columns] += alike.sum((2, 5))


def _add_by_rows(left: Outer, right: Outer, into: Tensor) -> None:
    """Add the product of the rows, a few signal features at a time."""
    a = left.activations.shape[2]
    per_feature = 8 * a * sum(side.signals.shape[0] * side.signals.shape[1] for side in (left, right))
    for part in _parts(left.signals.shape[3], per_feature):
        rows = [
            torch.einsum("nctg,nta->ncga", side.signals[..., part], side.activations).flatten(2).flatten(0, 1)
            for side in (left, right)
        ]
        into += (rows[0] @ rows[1].T).reshape(into.shape)


def _parts(length: int, bytes_each: int) -> Iterator[slice]:
    step = max(1, TILE_BYTES // max(1, bytes_each))
    for start in range(0, length, step):
        yield slice(start, start + step)


def _triangle(signals: Tensor, lengths: Tensor) -> float:
    by_position = torch.linalg.vector_norm(signals, dim=-1) * lengths.unsqueeze(1)
    return float(torch.linalg.vector_norm(by_position.sum(-1)))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
