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

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost
from thalweg.objectives.layer_algebra import Bend, Layer, Passed, add_crossed, add_diagonal, gradient_of, summed
from thalweg.objectives.perceptron_layout import Layout, Weights
from thalweg.structure import DenseNetwork, jet

__all__ = ["OutputLoss", "Part", "Perceptron", "over_parts"]

SPREADING = 8
"""What it costs to write and read a number of an outer product, in multiplications."""


@runtime_checkable
class OutputLoss(Protocol):
    """A sum over n samples of losses of their outputs ``(S, n, C)``, for S parameter vectors."""

    @property
    def bend(self) -> float | None:
        """The second derivative by each output by itself, where it is one number for all; else None."""

    def value(self, outputs: Tensor) -> Tensor:
        """``(S,)``."""

    def value_and_slopes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """``(S,)``, and the gradient in the outputs ``(S, n, C)``."""

    def blocks(self, outputs: Tensor) -> Tensor:
        """Hessian in the outputs of each sample, ``(S, n, C, C)``."""

    def bent(self, outputs: Tensor, columns: Tensor) -> Tensor:
        """That Hessian times ``(S, n, C, k)``."""


Part: TypeAlias = tuple[Float[Tensor, "n d"], OutputLoss]
"""What enters the network for some of the samples, and the loss over these."""


def over_parts(found: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The sums of what was found in each part of the data."""
    if len(found) == 1:
        return found[0]
    return tuple(torch.stack(each).sum(0) for each in zip(*found, strict=True))


class Perceptron:
    """The closed forms of one network.

    Args:
        network: with one row a sample. Derivatives of activations that are not declared are taken by autograd.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self, network: DenseNetwork, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> None:
        self._layout = Layout(network, device)
        self.layers, self.activations = self._layout.layers, [layer.activation for layer in network.layers]
        self.size, self.length = self._layout.size, self._layout.length
        self._one = torch.ones((), dtype=dtype, device=device)
        by_blocks = sum(
            k.rows * m.rows * (k.columns * m.columns + SPREADING * min(k.columns, m.columns)) for k, m in self._pairs
        )
        self._by_outputs = self.layers[-1].rows * self._layout.length**2 <= by_blocks
        self._of_hessian = self._hessian_bytes()

    # -- what a sample holds in memory ---------------------------------------------------------------------------------

    def gradient_cost(self, samples: int) -> Cost:
        """Of a pass forward and back."""
        return Cost(samples, 8 * 8 * self._numbers, 8 * 6 * self._layout.length)

    def hessian_cost(self, samples: int) -> Cost:
        """Of the largest outer product and the Jacobian, with the passes; fixed are the matrix and its copies."""
        return Cost(samples, self._of_hessian, 8 * 5 * self._layout.length**2)

    def jacobian_cost(self, samples: int) -> Cost:
        """Of the Jacobian, with the passes."""
        width = self.layers[-1].rows
        return Cost(samples, 8 * (3 * width * self._layout.length + (6 + width) * self._numbers), 0)

    def _hessian_bytes(self) -> int:
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
        jacobian = self.layers[-1].rows * self._layout.length if self._by_outputs else 0
        squares = sum(k.rows * m.rows for k, m in self._pairs)
        return 8 * (max(*products, 3 * jacobian) + 4 * squares + 8 * self._numbers)

    @property
    def _pairs(self) -> list[tuple[Layer, Layer]]:
        return [(k, m) for number, k in enumerate(self.layers) for m in self.layers[: number + 1]]

    @property
    def _numbers(self) -> int:
        return sum(layer.rows + layer.columns for layer in self.layers)

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def features(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "1 n p"]:
        """What enters the first layer, as the methods below take it: the inputs, and a one for the bias."""
        entering = torch.cat([x, x.new_ones(len(x), 1)], 1) if self.layers[0].biased else x
        return entering.unsqueeze(0)

    def outputs(self, rows: Float[Tensor, "S P"], x: Float[Tensor, "1 n p"]) -> Float[Tensor, "S n C"]:
        """Outputs of each sample."""
        return self._forward(self._layout.weights(rows), x, 0, ones=False).outputs

    def values(self, rows: Float[Tensor, "S P"], parts: Iterator[Part]) -> Float[Tensor, " S"]:
        """The loss over all parts of the data."""
        weights = self._layout.weights(rows)
        total: Tensor | None = None
        for x, loss in parts:
            total = _plus(total, loss.value(self._forward(weights, x, 0, ones=False).outputs))
        return _made(total)

    def gradients(
        self, rows: Float[Tensor, "S P"], parts: Iterator[Part]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"]]:
        """Value and gradient over all parts of the data."""
        weights = self._layout.weights(rows)
        total: Tensor | None = None
        gradient: Tensor | None = None
        for x, loss in parts:
            passed = self._forward(weights, x, 1, ones=False)
            value, slopes = loss.value_and_slopes(passed.outputs)
            total = _plus(total, value)
            gradient = _plus(gradient, gradient_of(self.layers, passed, self._signals(weights, passed, slopes)[0]))
        return _made(total), self._layout.gathered(_made(gradient))

    def hessians(
        self, rows: Float[Tensor, "S P"], parts: Iterator[Part]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian over all parts of the data, from one pass over each."""
        weights, whole = self._layout.weights(rows), self._blank(rows)
        total: Tensor | None = None
        gradient: Tensor | None = None
        for x, loss in parts:
            passed = self._forward(weights, x, 2)
            value, slopes = loss.value_and_slopes(passed.outputs)
            signals, incoming = self._signals(weights, passed, slopes)
            total, gradient = _plus(total, value), _plus(gradient, gradient_of(self.layers, passed, signals))
            blocks = None
            if self._by_outputs:
                self._add_of_outputs(whole, weights, passed, loss)
            else:
                blocks = loss.blocks(passed.outputs)
            self._add_blocks(whole, weights, passed, self._bends(weights, passed, blocks, incoming), signals)
        self._mirror(whole)
        return _made(total), self._layout.gathered(_made(gradient)), self._layout.square(whole)

    def gauss_newton(self, rows: Float[Tensor, "S P"], parts: Iterator[Part]) -> Float[Tensor, "S P P"]:
        """``J^T B J``, summed over all parts of the data."""
        weights, whole = self._layout.weights(rows), self._blank(rows)
        for x, loss in parts:
            passed = self._forward(weights, x, 1)
            if self._by_outputs:
                self._add_of_outputs(whole, weights, passed, loss)
            else:
                bends = self._bends(weights, passed, loss.blocks(passed.outputs), None)
                self._add_blocks(whole, weights, passed, bends, None)
        self._mirror(whole)
        return self._layout.square(whole)

    def jacobians(
        self, rows: Float[Tensor, "S P"], x: Float[Tensor, "1 n p"]
    ) -> tuple[Float[Tensor, "S n C"], Float[Tensor, "S n C P"]]:
        """Outputs of each sample, and their Jacobian."""
        weights = self._layout.weights(rows)
        passed = self._forward(weights, x, 1)
        return passed.outputs, self._layout.gathered(self._jacobian(weights, passed))

    # -- passes --------------------------------------------------------------------------------------------------------

    def _forward(self, weights: Weights, x: Tensor, order: int, *, ones: bool = True) -> Passed:
        """What each layer computes, and the derivatives of its activation up to an order.

        Without ones what enters the hidden layers has no last column of them, and biases are added by themselves: less
        is copied so.
        """
        a = x.expand(len(weights.whole[0]), -1, -1)
        entering: list[Tensor] = []
        slopes: list[Tensor | None] = []
        bends: list[Tensor | None] = []
        for k, (layer, facts) in enumerate(zip(self.layers, self.activations, strict=True)):
            apart = layer.biased and k and not ones
            if layer.biased and k and ones:
                a = torch.cat([a, self._one.expand(a.shape[0], a.shape[1], 1)], -1)
            entering.append(a)
            if apart:
                a = torch.baddbmm(weights.whole[k][:, None, :, -1], a, weights.inner[k].mT)
            else:
                a = torch.bmm(a, weights.whole[k].mT)
            derivatives: list[Tensor] = []
            if facts.name != "identity":
                a, *derivatives = jet(facts, a, 1 if facts.piecewise_linear and order == 2 else order)
            slopes.append(derivatives[0] if derivatives else None)
            bends.append(derivatives[1] if len(derivatives) > 1 else None)
        return Passed(entering, slopes, bends, a)

    def _signals(self, weights: Weights, passed: Passed, slopes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """``d_k`` of every layer, and the gradients in what its activation gives, ``(S, n, m)`` each."""
        signals: list[Tensor] = []
        incoming = [slopes]
        for k in reversed(range(len(self.layers))):
            slope = passed.slopes[k]
            signals.insert(0, incoming[0] if slope is None else incoming[0] * slope)
            if k:
                incoming.insert(0, torch.bmm(signals[0], weights.inner[k]))
        return signals, incoming

    def _jacobian(self, weights: Weights, passed: Passed) -> Tensor:
        """Of the outputs, in the order of the layers, ``(S, n, C, L)``."""
        outputs = passed.outputs
        whole = outputs.new_empty(*outputs.shape, self._layout.length)
        last = len(self.layers) - 1
        back: Tensor | None = None  # None stands for the identity
        for k in reversed(range(last + 1)):
            layer, slope = self.layers[k], passed.slopes[k]
            if k < last:
                inner = weights.inner[k + 1].unsqueeze(1)
                back = inner if back is None else back @ inner
            if slope is not None:
                back = torch.diag_embed(slope) if back is None else back * slope.unsqueeze(2)
            into = whole[..., layer.place].view(*outputs.shape, layer.rows, layer.columns)
            if back is None:
                into.zero_()
                into.diagonal(dim1=2, dim2=3).copy_(passed.entering[k].unsqueeze(-1))
            else:
                torch.mul(back.unsqueeze(-1), passed.entering[k][:, :, None, None, :], out=into)
        return whole

    # -- second derivatives --------------------------------------------------------------------------------------------

    def _blank(self, rows: Tensor) -> Tensor:
        """Room for a matrix over the weights of all layers, ``(S, L, L)``."""
        return rows.new_zeros(len(rows), self._layout.length, self._layout.length)

    def _add_of_outputs(self, whole: Tensor, weights: Weights, passed: Passed, loss: OutputLoss) -> None:
        """Add ``J^T B J``."""
        jacobian = self._jacobian(weights, passed)
        flat = jacobian.flatten(1, 2)
        if loss.bend is not None:
            whole.baddbmm_(flat.mT, flat, alpha=loss.bend)
        else:
            whole.baddbmm_(flat.mT, loss.bent(passed.outputs, jacobian).flatten(1, 2))

    def _bends(
        self, weights: Weights, passed: Passed, blocks: Tensor | None, incoming: list[Tensor] | None
    ) -> list[Bend]:
        """``M_k`` of every layer; without blocks or incoming gradients, without what these contribute."""
        found: list[Bend] = []
        whole = blocks
        for k in reversed(range(len(self.layers))):
            slope, curved = passed.slopes[k], passed.bends[k]
            diagonal = None if incoming is None or curved is None else incoming[k] * curved
            if slope is not None and whole is not None:
                whole = whole * (slope.unsqueeze(-1) * slope.unsqueeze(-2))
            bend = Bend(whole, diagonal)
            found.insert(0, bend)
            if k:
                whole = bend.pulled(weights.inner[k])
        return found

    def _add_blocks(
        self, whole: Tensor, weights: Weights, passed: Passed, bends: list[Bend], signals: list[Tensor] | None
    ) -> None:
        """Add all blocks to a matrix, but those above the diagonal: they are the transposes of those below."""
        for k, layer in enumerate(self.layers):
            own, bend = passed.entering[k], bends[k]
            if bend.whole is not None:
                layer.block(whole, layer).add_(summed(bend.whole, own, own))
            if bend.diagonal is not None:
                add_diagonal(layer.block(whole, layer), bend.diagonal, own)
            moves: Tensor | None = None  # diag(sigma'_{k-1}) G_{k-1,l}: None stands for the diagonal itself, l = k - 1
            for m in reversed(range(k)):
                other = self.layers[m]
                moves = self._moves(weights, passed, k, m, moves)
                block = layer.block(whole, other)
                if not bend.nothing:
                    inner = weights.inner[k].unsqueeze(1)
                    steps = inner * moves.unsqueeze(-2) if m == k - 1 else inner @ moves
                    block.add_(summed(bend.times(steps), own, passed.entering[m]))
                if signals is not None:
                    inside = block[:, :, :-1] if layer.biased else block
                    add_crossed(inside, signals[k], moves, passed.entering[m])

    def _mirror(self, whole: Tensor) -> None:
        """Fill in the blocks above the diagonal."""
        for layer, other in self._pairs:
            if layer is not other:
                whole[:, other.place, layer.place] = whole[:, layer.place, other.place].mT

    def _moves(self, weights: Weights, passed: Passed, k: int, m: int, before: Tensor | None) -> Tensor:
        """``diag(sigma'_{k-1}) G_{k-1,m}``: the diagonal ``(S, n, m)`` for m = k - 1, else ``(S, n, m_{k-1}, m_m)``."""
        slope = passed.slopes[m]
        if before is None:
            return self._one.expand(*passed.outputs.shape[:2], self.layers[m].rows) if slope is None else slope
        inner = weights.inner[m + 1].unsqueeze(1)
        moved = before.unsqueeze(-1) * inner if m == k - 2 else before @ inner
        return moved if slope is None else moved * slope.unsqueeze(-2)


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _made(total: Tensor | None) -> Tensor:
    assert total is not None, "there is at least one part"
    return total
