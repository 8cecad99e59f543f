"""Derivatives of a multilayer perceptron's loss in closed form, for many parameter vectors in one pass.

Layer k computes ``z_k = W_k a_{k-1}`` and ``a_k = sigma_k(z_k)``; a bias is a column of W_k, and a one in what enters.
With ``d_k`` the gradient of the loss in z_k, ``G_kl`` the Jacobian of z_k in z_l, and ``M_k`` the second derivative of
the loss in z_k through all that follows::

    M_k = V_k^T M_{k+1} V_k + diag((W_{k+1}^T d_{k+1}) sigma_k''),    V_k = W_{k+1} diag(sigma_k')

the Hessian in the weights of the layers k >= l is a sum over samples::

    H[W_k(j, p), W_l(i, q)] = sum  (M_k G_kl)_ji a_{k-1,p} a_{l-1,q}  +  d_k,j sigma'_{k-1,p} (G_{k-1,l})_pi a_{l-1,q}

(the second term for l < k only). A block takes one product of matrices, however many outputs there are. Where outputs
are few and layers wide, what the loss's own curvature B contributes is cheaper as ``J^T B J``; then ``M_k`` holds the
rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost
from thalweg.objectives.layer_algebra import Bend, Layer, Passed, add_crossed, gradient_of, summed
from thalweg.structure import DenseNetwork

__all__ = ["OutputLoss", "Part", "Perceptron"]

SPREADING = 8
"""What it costs to write and read a number of an outer product, in multiplications."""


@runtime_checkable
class OutputLoss(Protocol):
    """A sum over n samples of losses of their outputs ``(S, n, C)``, for S parameter vectors."""

    def value(self, outputs: Tensor) -> Tensor:
        """``(S,)``."""

    def slopes(self, outputs: Tensor) -> Tensor:
        """Gradient in the outputs, ``(S, n, C)``."""

    def blocks(self, outputs: Tensor) -> Tensor:
        """Hessian in the outputs of each sample, ``(S, n, C, C)``."""


Part: TypeAlias = tuple[Float[Tensor, "n d"], OutputLoss]
"""What enters the network for some of the samples, and the loss over these."""


class Perceptron:
    """The closed forms of one network.

    Args:
        network: with one row a sample. Derivatives of activations that are not declared are taken by autograd.
        device: of the parameters.
    """

    def __init__(self, network: DenseNetwork, device: torch.device | str = "cpu") -> None:
        self.activations = [layer.activation for layer in network.layers]
        self.layers: list[Layer] = []
        tables, start = [], 0
        for layer in network.layers:
            parts = [layer.weight_coordinates]
            if layer.bias_coordinates is not None:
                parts.append(layer.bias_coordinates.unsqueeze(1))
            table = torch.cat(parts, 1)
            self.layers.append(Layer(table.shape[0], table.shape[1], layer.bias_coordinates is not None, start))
            tables.append(table.reshape(-1))
            start += table.numel()
        self.size = network.space.size
        self._places = torch.cat(tables).to(device)
        order = self._places.argsort()
        every = torch.arange(self.size, device=device)
        self._order = order if torch.equal(self._places[order], every) else None
        self._free = (self._places >= 0).nonzero().squeeze(1)
        nothing = torch.zeros(self.size, dtype=torch.float64)
        held = [w if b is None else torch.cat([w, b.unsqueeze(1)], 1) for w, b in network.matrices(nothing)]
        self._frozen = torch.cat([table.reshape(-1) for table in held])  # zero where something is free
        by_blocks = sum(
            k.rows * m.rows * (k.columns * m.columns + SPREADING * min(k.columns, m.columns)) for k, m in self._pairs
        )
        self._by_outputs = self.layers[-1].rows * len(self._places) ** 2 <= by_blocks

    # -- what a sample holds in memory ---------------------------------------------------------------------------------

    def hessian_cost(self, samples: int) -> Cost:
        """Of the largest outer product and the Jacobian, with the passes; fixed are the matrix and its copies."""
        curved = [facts.name != "identity" for facts in self.activations]
        whole = [True] * len(self.layers)  # whether M_k is more than a diagonal, or nothing
        whole[-1] = not self._by_outputs
        for k in reversed(range(len(self.layers) - 1)):
            whole[k] = whole[k + 1] or curved[k + 1]
        products = [0]
        for k, layer in enumerate(self.layers):
            products.append(layer.rows * layer.columns * (layer.rows if whole[k] else 1))
            for m, other in enumerate(self.layers[:k]):
                if whole[k] or curved[k]:
                    products.append(layer.rows * other.rows * min(layer.columns, other.columns))
                products.append(other.rows * other.columns * (layer.columns if m < k - 1 else 1))
        jacobian = self.layers[-1].rows * len(self._places) if self._by_outputs else 0
        squares = sum(k.rows * m.rows for k, m in self._pairs)
        numbers = max(*products, 3 * jacobian) + 4 * squares + 8 * self._numbers
        return Cost(samples, 8 * numbers, 8 * 5 * len(self._places) ** 2)

    def jacobian_cost(self, samples: int) -> Cost:
        """Of the Jacobian, with the passes."""
        width = self.layers[-1].rows
        return Cost(samples, 8 * (3 * width * len(self._places) + (6 + width) * self._numbers), 0)

    @property
    def _pairs(self) -> list[tuple[Layer, Layer]]:
        return [(k, m) for number, k in enumerate(self.layers) for m in self.layers[: number + 1]]

    @property
    def _numbers(self) -> int:
        return sum(layer.rows + layer.columns for layer in self.layers)

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def outputs(self, rows: Float[Tensor, "S P"], x: Float[Tensor, "n d"]) -> Float[Tensor, "S n C"]:
        """Outputs of each sample."""
        return self._forward(self._local(rows), x).outputs

    def hessians(
        self, rows: Float[Tensor, "S P"], parts: Iterator[Part]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian over all parts of the data, from one pass over each."""
        local = self._local(rows)
        value, gradient, whole = local.new_zeros(len(local)), torch.zeros_like(local), self._blank(local)
        for x, loss in parts:
            passed = self._forward(local, x)
            slopes, blocks = loss.slopes(passed.outputs), loss.blocks(passed.outputs)
            signals = self._signals(local, passed, slopes)
            value += loss.value(passed.outputs)
            gradient += gradient_of(passed, signals)
            self._add_of_outputs(whole, local, passed, blocks)
            bends = self._bends(local, passed, None if self._by_outputs else blocks, slopes, signals)
            self._add_blocks(whole, local, passed, bends, signals)
        self._mirror(whole)
        return value, self._gathered(gradient), self._square(whole)

    def gauss_newton(self, rows: Float[Tensor, "S P"], parts: Iterator[Part]) -> Float[Tensor, "S P P"]:
        """``J^T B J``, summed over all parts of the data."""
        local = self._local(rows)
        whole = self._blank(local)
        for x, loss in parts:
            passed = self._forward(local, x)
            blocks = loss.blocks(passed.outputs)
            if self._by_outputs:
                self._add_of_outputs(whole, local, passed, blocks)
            else:
                self._add_blocks(whole, local, passed, self._bends(local, passed, blocks, None, None), None)
        self._mirror(whole)
        return self._square(whole)

    def jacobians(
        self, rows: Float[Tensor, "S P"], x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "S n C"], Float[Tensor, "S n C P"]]:
        """Outputs of each sample, and their Jacobian."""
        local = self._local(rows)
        passed = self._forward(local, x)
        return passed.outputs, self._gathered(self._jacobian(local, passed))

    # -- parameters ----------------------------------------------------------------------------------------------------

    def _local(self, rows: Tensor) -> Tensor:
        """Parameters layer by layer, unit by unit, frozen ones among them: ``(S, L)``."""
        if self._order is not None:
            return rows.index_select(1, self._places)
        local = self._frozen.to(rows).repeat(len(rows), 1)
        local[:, self._free] = rows[:, self._places[self._free]]
        return local

    def _gathered(self, local: Tensor) -> Tensor:
        """Derivatives in the coordinates of theta, along the last dimension; those of a shared parameter add up."""
        if self._order is not None:
            return local.index_select(-1, self._order)
        found = local.new_zeros(*local.shape[:-1], self.size)
        return found.index_add_(-1, self._places[self._free], local[..., self._free])

    def _blank(self, local: Tensor) -> Tensor:
        """Room for a matrix over the parameters of all layers, ``(S, L, L)``."""
        return local.new_zeros(*local.shape, local.shape[1])

    def _square(self, whole: Tensor) -> Tensor:
        """The same along both dimensions of a symmetric matrix, made exactly symmetric."""
        found = self._gathered(self._gathered(whole).mT)
        return (found + found.mT).div_(2)

    # -- passes --------------------------------------------------------------------------------------------------------

    def _forward(self, local: Tensor, x: Tensor) -> Passed:
        entering, before = [], []
        a = x
        for k, (layer, facts) in enumerate(zip(self.layers, self.activations, strict=True)):
            if layer.biased:
                a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)
            entering.append(a)
            a = a @ layer.weights(local).mT
            before.append(a)
            if facts.name != "identity":
                a = facts(before[k])
        return Passed(entering, before, a)

    def _slope(self, passed: Passed, k: int) -> Tensor | None:
        """``sigma_k'``, None for the identity."""
        facts = self.activations[k]
        return None if facts.name == "identity" else facts.derivative(passed.before[k])

    def _signals(self, local: Tensor, passed: Passed, slopes: Tensor) -> list[Tensor]:
        """``d_k`` of every layer, ``(S, n, m)``."""
        found: list[Tensor] = []
        signal = slopes
        for k in reversed(range(len(self.layers))):
            slope = self._slope(passed, k)
            signal = signal if slope is None else signal * slope
            found.insert(0, signal)
            if k:
                signal = signal @ self.layers[k].inner(local)
        return found

    def _jacobian(self, local: Tensor, passed: Passed) -> Tensor:
        """Of the outputs, in the order of the layers, ``(S, n, C, L)``."""
        width, last = self.layers[-1].rows, len(self.layers) - 1
        back = torch.eye(width, dtype=local.dtype, device=local.device).expand(*passed.outputs.shape, width)
        parts: list[Tensor] = []
        for k in reversed(range(last + 1)):
            if k < last:
                back = back @ self.layers[k + 1].inner(local).unsqueeze(1)
            slope = self._slope(passed, k)
            back = back if slope is None else back * slope.unsqueeze(2)
            parts.insert(0, (back.unsqueeze(-1) * passed.entering[k][..., :, None, None, :]).flatten(3))
        return torch.cat(parts, -1)

    # -- second derivatives --------------------------------------------------------------------------------------------

    def _add_of_outputs(self, whole: Tensor, local: Tensor, passed: Passed, blocks: Tensor) -> None:
        """Add ``J^T B J``, where it is cheaper this way."""
        if self._by_outputs:
            jacobian = self._jacobian(local, passed)
            whole.baddbmm_(jacobian.flatten(1, 2).mT, (blocks @ jacobian).flatten(1, 2))

    def _bends(
        self,
        local: Tensor,
        passed: Passed,
        blocks: Tensor | None,
        slopes: Tensor | None,
        signals: list[Tensor] | None,
    ) -> list[Bend]:
        """``M_k`` of every layer; without blocks or signals, without what these contribute."""
        found: list[Bend] = []
        whole, incoming = blocks, slopes
        for k in reversed(range(len(self.layers))):
            slope, diagonal = self._slope(passed, k), None
            if slope is not None:
                if incoming is not None:
                    diagonal = incoming * self.activations[k].derivative(passed.before[k], 2)
                whole = None if whole is None else whole * (slope.unsqueeze(-1) * slope.unsqueeze(-2))
            bend = Bend(whole, diagonal)
            found.insert(0, bend)
            if k:
                weights = self.layers[k].inner(local)
                whole = bend.pulled(weights)
                incoming = None if signals is None else signals[k] @ weights
        return found

    def _add_blocks(
        self, whole: Tensor, local: Tensor, passed: Passed, bends: list[Bend], signals: list[Tensor] | None
    ) -> None:
        """Add all blocks to a matrix, but those above the diagonal: they are the transposes of those below."""
        for k, layer in enumerate(self.layers):
            own, bend = passed.entering[k], bends[k]
            block = layer.block(whole, layer)
            if bend.whole is not None:
                block.add_(summed(bend.whole, own, own))
            if bend.diagonal is not None:
                spread = (bend.diagonal.unsqueeze(-1) * own.unsqueeze(-2)).flatten(2)
                found = (spread.mT @ own).unflatten(1, (layer.rows, layer.columns))  # (S, m, p, q)
                block.diagonal(dim1=1, dim2=3).add_(found.permute(0, 2, 3, 1))
            moves: Tensor | None = None  # diag(sigma'_{k-1}) G_{k-1,l}: None stands for the diagonal itself, l = k - 1
            for m in reversed(range(k)):
                other = self.layers[m]
                moves = self._moves(local, passed, k, m, moves)
                block = layer.block(whole, other)
                if not bend.nothing:
                    weights = layer.inner(local).unsqueeze(1)
                    steps = weights * moves.unsqueeze(-2) if m == k - 1 else weights @ moves
                    block.add_(summed(bend.times(steps), own, passed.entering[m]))
                if signals is not None:
                    add_crossed(block[:, :, : layer.columns - layer.biased], signals[k], moves, passed.entering[m])

    def _mirror(self, whole: Tensor) -> None:
        """Fill in the blocks above the diagonal."""
        for layer, other in self._pairs:
            if layer is not other:
                whole[:, other.place, layer.place] = whole[:, layer.place, other.place].mT

    def _moves(self, local: Tensor, passed: Passed, k: int, m: int, before: Tensor | None) -> Tensor:
        """``diag(sigma'_{k-1}) G_{k-1,m}``: the diagonal ``(S, n, m)`` for m = k - 1, else ``(S, n, m_{k-1}, m_m)``."""
        slope = self._slope(passed, m)
        if before is None:
            return torch.ones_like(passed.before[m]) if slope is None else slope
        weights = self.layers[m + 1].inner(local).unsqueeze(1)
        moved = before.unsqueeze(-1) * weights if m == k - 2 else before @ weights
        return moved if slope is None else moved * slope.unsqueeze(-2)
