"""The derivatives of a risk whose network is a multilayer perceptron, in closed form, cut to fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, plan_passes
from thalweg.objectives.networks import explain_network
from thalweg.objectives.output_losses import OutputLosses
from thalweg.objectives.outputs import Piece
from thalweg.objectives.perceptron import Perceptron
from thalweg.objectives.risk import EmpiricalRisk
from thalweg.structure import DenseNetwork

__all__ = ["ClosedForm", "closed_form"]

_FORMS: WeakKeyDictionary[EmpiricalRisk, ClosedForm | None] = WeakKeyDictionary()


def closed_form(risk: EmpiricalRisk) -> ClosedForm | None:
    """The closed form of a risk's derivatives; None where its network is no multilayer perceptron."""
    if risk not in _FORMS:
        structure = explain_network(risk).structure
        network = structure.as_dense() if structure is not None else None
        _FORMS[risk] = ClosedForm(risk, network) if network is not None and _suits(risk, network) else None
    return _FORMS[risk]


def _suits(risk: EmpiricalRisk, network: DenseNetwork) -> bool:
    """Whether rows are samples, and the derivatives of all parts are known."""
    known = all(layer.activation.recognised for layer in network.layers)
    return known and network.rows_per_sample == 1 and risk.path.second != "none"


class ClosedForm:
    """Value, gradient, Hessian, Gauss-Newton matrix and Jacobian of a loss over N samples.

    Args:
        risk: the loss.
        network: its model, one row a sample.
    """

    def __init__(self, risk: EmpiricalRisk, network: DenseNetwork) -> None:
        self._perceptron = Perceptron(network)
        self._losses = OutputLosses(risk)
        self._features = network.features(risk.inputs).to(risk.device, risk.dtype)
        self._chunks = risk.chunks

    def derivatives(
        self, rows: Float[Tensor, "S P"], order: int
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"] | None, Float[Tensor, "S P P"] | None]:
        """Value, gradient (order >= 1) and Hessian (order 2)."""
        size = rows.shape[1]
        value, gradient = rows.new_zeros(len(rows)), torch.zeros_like(rows) if order else None
        hessian = rows.new_zeros(len(rows), size, size) if order == 2 else None
        perceptron, samples = self._perceptron, len(self._features)
        cost = perceptron.hessian_cost(samples) if order == 2 else perceptron.gradient_cost(samples)
        for piece in self._pieces(rows, cost):
            some, x, loss = rows[piece.rows], self._features[piece.samples], self._losses.of(piece.chunk, piece.samples)
            found: tuple[Tensor, ...]
            if order == 0:
                found = (perceptron.values(some, x, loss),)
            else:
                found = (perceptron.gradients if order == 1 else perceptron.hessians)(some, x, loss)
            for whole, part in zip((value, gradient, hessian), found, strict=False):
                assert whole is not None
                whole[piece.rows] += part
        return value, gradient, hessian

    def gauss_newton(self, rows: Float[Tensor, "S P"]) -> Float[Tensor, "S P P"]:
        """``J^T B J``."""
        total = rows.new_zeros(len(rows), rows.shape[1], rows.shape[1])
        for piece in self._pieces(rows, self._perceptron.hessian_cost(len(self._features))):
            loss = self._losses.of(piece.chunk, piece.samples)
            total[piece.rows] += self._perceptron.gauss_newton(rows[piece.rows], self._features[piece.samples], loss)
        return total

    def jacobians(self, rows: Float[Tensor, "S P"]) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Piece by piece the Jacobians ``(s, n, C, P)`` and outputs ``(s, n, C)``."""
        for piece in self._pieces(rows, self._perceptron.jacobian_cost(len(self._features))):
            outputs, jacobian = self._perceptron.jacobians(rows[piece.rows], self._features[piece.samples])
            yield piece, jacobian, outputs

    def _pieces(self, rows: Tensor, cost: Cost) -> Iterator[Piece]:
        passes = plan_passes(cost, max(1, len(rows)))
        for first in range(0, len(rows), passes.copies):
            start = 0
            for chunk in self._chunks(passes.samples):
                stop = start + len(chunk.weights)
                yield Piece(slice(first, first + passes.copies), chunk, slice(start, stop))
                start = stop
