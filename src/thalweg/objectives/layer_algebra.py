"""Pieces of the closed forms of perceptrons: layers in a flat vector, passes, and sums of outer products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Bend", "Layer", "Passed", "add_crossed", "add_diagonal", "gradient_of", "summed"]


class Layer(NamedTuple):
    """A layer: `rows` units with `columns` weights each, the bias last, and their place among those of all layers."""

    rows: int
    columns: int
    biased: bool
    place: slice

    def block(self, whole: Tensor, other: Layer) -> Tensor:
        """The block of a matrix ``(S, L, L)`` that belongs to two layers, as ``(S, rows, columns, rows, columns)``."""
        return whole[:, self.place, other.place].view(-1, self.rows, self.columns, other.rows, other.columns)


class Passed(NamedTuple):
    """One pass forward.

    Attributes:
        entering: what enters each layer, with a last column of ones for a bias (or without), ``(S, n, p)``.
        slopes: of each layer's activation, ``(S, n, m)``; None for the identity, and where they were not asked for.
        bends: its second derivatives, ``(S, n, m)``; None also where they vanish, as those of a ReLU do.
        outputs: ``(S, n, C)``.
    """

    entering: list[Tensor]
    slopes: list[Tensor | None]
    bends: list[Tensor | None]
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


def gradient_of(layers: list[Layer], passed: Passed, signals: list[Tensor]) -> Float[Tensor, "S L"]:
    """``sum_n d_k a_{k-1}`` of all layers, in their order; of a bias without a column of ones, ``sum_n d_k``."""
    found = []
    for layer, signal, entering in zip(layers, signals, passed.entering, strict=True):
        part = torch.bmm(signal.mT, entering)
        if part.shape[2] < layer.columns:
            part = torch.cat([part, signal.sum(1).unsqueeze(-1)], -1)
        found.append(part.flatten(1))
    return torch.cat(found, 1)


def summed(bend: Float[Tensor, "S n m i"], left: Tensor, right: Tensor) -> Float[Tensor, "S m p i q"]:
    """``sum_n bend_ji left_p right_q``, the outer product taken with the smaller of the two."""
    m, i = bend.shape[2:]
    if left.shape[-1] <= right.shape[-1]:
        spread = (bend.unsqueeze(-1) * left[..., :, None, None, :]).flatten(2)  # (S, n, m i p)
        return torch.bmm(spread.mT, right).unflatten(1, (m, i, left.shape[-1])).transpose(2, 3)
    spread = (bend.unsqueeze(-1) * right[..., :, None, None, :]).flatten(2)  # (S, n, m i q)
    return torch.bmm(left.mT, spread).unflatten(2, (m, i, right.shape[-1])).transpose(1, 2)


def add_diagonal(block: Float[Tensor, "S m p m p"], diagonal: Float[Tensor, "S n m"], entering: Tensor) -> None:
    """Add ``sum_n diagonal_m entering_p entering_q`` to the block of a layer with itself."""
    spread = (diagonal.unsqueeze(-1) * entering.unsqueeze(-2)).flatten(2)
    found = torch.bmm(spread.mT, entering).view(block.shape[:3] + block.shape[4:])  # (S, m, p, q)
    block.diagonal(dim1=1, dim2=3).add_(found.permute(0, 2, 3, 1))


def add_crossed(block: Float[Tensor, "S m p i q"], signal: Tensor, moves: Tensor, right: Tensor) -> None:
    """Add ``sum_n signal_j moves_pi right_q`` to a block; moves that are diagonal are given as their diagonal."""
    if moves.dim() == 3:
        spread = (moves.unsqueeze(-1) * right.unsqueeze(-2)).flatten(2)
        found = torch.bmm(signal.mT, spread).view(*block.shape[:3], block.shape[4])  # (S, m, p, q)
        block.diagonal(dim1=2, dim2=3).add_(found.mT)
        return
    spread = (moves.unsqueeze(-1) * right[..., :, None, None, :]).flatten(2)
    block.add_(torch.bmm(signal.mT, spread).view(block.shape))
