"""Pieces of the closed forms of perceptrons: layers in a flat vector, passes, and sums of outer products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Bend", "Layer", "Passed", "add_crossed", "gradient_of", "summed"]


@dataclass(frozen=True)
class Layer:
    """A layer's weights among all: `rows` units with `columns` weights each, the bias last, from `start` on."""

    rows: int
    columns: int
    biased: bool
    start: int

    @property
    def place(self) -> slice:
        """Its weights among all."""
        return slice(self.start, self.start + self.rows * self.columns)

    def weights(self, local: Tensor) -> Tensor:
        """``(S, rows, columns)``."""
        return local[:, self.place].unflatten(1, (self.rows, self.columns))

    def inner(self, local: Tensor) -> Tensor:
        """The weights without the bias."""
        return self.weights(local)[..., : self.columns - self.biased]

    def block(self, whole: Tensor, other: Layer) -> Tensor:
        """The block of a matrix ``(S, L, L)`` that belongs to two layers, as ``(S, rows, columns, rows, columns)``."""
        part = whole[:, self.place, other.place]
        return part.unflatten(2, (other.rows, other.columns)).unflatten(1, (self.rows, self.columns))


class Passed(NamedTuple):
    """One pass forward.

    Attributes:
        entering: what enters each layer, with a last column of ones for a bias: ``(n, p)`` the first, ``(S, n, p)``.
        before: ``(S, n, m)`` of each layer, before the activation.
        outputs: ``(S, n, C)``.
    """

    entering: list[Tensor]
    before: list[Tensor]
    outputs: Tensor


class Bend(NamedTuple):
    """``M_k = whole + diag(diagonal)``, ``(S, n, m, m)`` and ``(S, n, m)``; None stands for zero."""

    whole: Tensor | None
    diagonal: Tensor | None

    @property
    def nothing(self) -> bool:
        """Whether it is zero."""
        return self.whole is None and self.diagonal is None

    def times(self, columns: Float[Tensor, "S n m i"]) -> Float[Tensor, "S n m i"]:
        """``M_k`` times a matrix."""
        if self.whole is None:
            assert self.diagonal is not None
            return self.diagonal.unsqueeze(-1) * columns
        found = self.whole @ columns
        return found if self.diagonal is None else found + self.diagonal.unsqueeze(-1) * columns

    def pulled(self, weights: Float[Tensor, "S m i"]) -> Float[Tensor, "S n i i"] | None:
        """``W^T M_k W``."""
        if self.nothing:
            return None
        wide = weights.unsqueeze(1)
        return wide.mT @ self.times(wide.expand(-1, self._samples(), -1, -1))

    def _samples(self) -> int:
        part = self.whole if self.whole is not None else self.diagonal
        assert part is not None
        return part.shape[1]


def gradient_of(passed: Passed, signals: list[Tensor]) -> Float[Tensor, "S L"]:
    """``sum_n d_k a_{k-1}`` of all layers, in their order."""
    return torch.cat([(d.mT @ a).flatten(1) for d, a in zip(signals, passed.entering, strict=True)], 1)


def summed(bend: Float[Tensor, "S n m i"], left: Tensor, right: Tensor) -> Float[Tensor, "S m p i q"]:
    """``sum_n bend_ji left_p right_q``, the outer product taken with the smaller of the two."""
    m, i = bend.shape[2:]
    if left.shape[-1] <= right.shape[-1]:
        spread = (bend.unsqueeze(-1) * left[..., :, None, None, :]).flatten(2)  # (S, n, m i p)
        return (spread.mT @ right).unflatten(1, (m, i, left.shape[-1])).transpose(2, 3)
    spread = (bend.unsqueeze(-1) * right[..., :, None, None, :]).flatten(2)  # (S, n, m i q)
    return (left.mT @ spread).unflatten(2, (m, i, right.shape[-1])).transpose(1, 2)


def add_crossed(block: Float[Tensor, "S m p i q"], signal: Tensor, moves: Tensor, right: Tensor) -> None:
    """Add ``sum_n signal_j moves_pi right_q`` to a block; moves that are diagonal are given as their diagonal."""
    if moves.dim() == 3:
        spread = (moves.unsqueeze(-1) * right.unsqueeze(-2)).flatten(2)
        found = (signal.mT @ spread).unflatten(2, (moves.shape[-1], right.shape[-1]))  # (S, m, p, q)
        block.diagonal(dim1=2, dim2=3).add_(found.transpose(2, 3))
        return
    spread = (moves.unsqueeze(-1) * right[..., :, None, None, :]).flatten(2)
    block.add_((signal.mT @ spread).unflatten(2, (*moves.shape[2:], right.shape[-1])))
