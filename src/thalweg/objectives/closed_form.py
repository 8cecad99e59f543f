"""The second derivatives of a risk whose network is a multilayer perceptron, in closed form, cut to fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, plan_passes
from thalweg.objectives.networks import explain_network
from thalweg.objectives.output_losses import OutputLosses
from thalweg.objectives.outputs import Piece
from thalweg.objectives.paths import AGREEMENT
from thalweg.objectives.perceptron import Part, Perceptron
from thalweg.objectives.risk import EmpiricalRisk, RiskChunk
from thalweg.structure import DenseNetwork

__all__ = ["ClosedForm", "closed_form"]


def closed_form(risk: EmpiricalRisk) -> ClosedForm | None:
    """The closed form of a risk's derivatives; None where its network is no multilayer perceptron on all its data."""
    structure = explain_network(risk).structure
    network = structure.as_dense() if structure is not None else None
    if network is None or not _suits(risk, network):
        return None
    found = ClosedForm(risk, network)
    return found if _agrees(risk, found) else None


def _suits(risk: EmpiricalRisk, network: DenseNetwork) -> bool:
    """Whether rows are samples, and the derivatives of all parts are known."""
    known = all(layer.activation.recognised for layer in network.layers)
    return known and network.rows_per_sample == 1 and risk.path.second != "none"


def _agrees(risk: EmpiricalRisk, found: ClosedForm) -> bool:
    """Whether it gives the module's outputs for all data.

    Networks are traced with a few samples, and may do something else with many.
    """
    generator = torch.Generator().manual_seed(0)
    move = 0.1 * torch.randn(risk.initial.shape, generator=generator, dtype=torch.float64).to(risk.initial)
    theta = risk.initial + move * (1 + risk.initial.abs())
    expected, outputs = risk.outputs(theta), found.outputs(theta)
    apart, largest = float((outputs - expected).abs().max()), float(expected.abs().max())
    return apart <= 1e-3 * AGREEMENT[risk.dtype] * (1 + largest)  # also false where either is no number


class ClosedForm:
    """Value, gradient, Hessian, Gauss-Newton matrix and Jacobian of a loss over N samples.

    Args:
        risk: the loss.
        network: its model, one row a sample.
    """

    def __init__(self, risk: EmpiricalRisk, network: DenseNetwork) -> None:
        self._perceptron = Perceptron(network, risk.device)
        self._losses = OutputLosses(risk)
        self._features = network.features(risk.inputs).to(risk.device, risk.dtype)
        self._chunks = risk.chunks

    @property
    def hessian_cost(self) -> Cost:
        """What a Hessian or Gauss-Newton matrix over all samples holds in memory."""
        return self._perceptron.hessian_cost(len(self._features))

    def outputs(self, theta: Float[Tensor, " P"]) -> Float[Tensor, "N C"]:
        """Outputs of all samples."""
        pieces = self._pieces(theta.unsqueeze(0), self._perceptron.jacobian_cost(len(self._features)))
        parts = [self._perceptron.outputs(theta.unsqueeze(0), self._features[piece.samples])[0] for piece in pieces]
        return torch.cat(parts)

    def hessians(
        self, rows: Float[Tensor, "S P"]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian."""
        size = rows.shape[1]
        found = rows.new_empty(len(rows)), torch.empty_like(rows), rows.new_empty(len(rows), size, size)
        for some, parts in self._groups(rows):
            for into, part in zip(found, self._perceptron.hessians(rows[some], parts), strict=True):
                into[some] = part
        return found

    def gauss_newton(self, rows: Float[Tensor, "S P"]) -> Float[Tensor, "S P P"]:
        """``J^T B J``."""
        found = rows.new_empty(len(rows), rows.shape[1], rows.shape[1])
        for some, parts in self._groups(rows):
            found[some] = self._perceptron.gauss_newton(rows[some], parts)
        return found

    def jacobians(self, rows: Float[Tensor, "S P"]) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Piece by piece the Jacobians ``(s, n, C, P)`` and outputs ``(s, n, C)``."""
        for piece in self._pieces(rows, self._perceptron.jacobian_cost(len(self._features))):
            outputs, jacobian = self._perceptron.jacobians(rows[piece.rows], self._features[piece.samples])
            yield piece, jacobian, outputs

    def _groups(self, rows: Tensor) -> Iterator[tuple[slice, Iterator[Part]]]:
        """Some parameter vectors at a time, with all parts of the data."""
        passes = plan_passes(self.hessian_cost, len(rows))
        for first in range(0, len(rows), passes.copies):
            yield slice(first, first + passes.copies), self._parts(passes.samples)

    def _parts(self, samples: int) -> Iterator[Part]:
        for some, chunk in self._cut(samples):
            yield self._features[some], self._losses.of(chunk, some)

    def _pieces(self, rows: Tensor, cost: Cost) -> Iterator[Piece]:
        passes = plan_passes(cost, len(rows))
        for first in range(0, len(rows), passes.copies):
            for some, chunk in self._cut(passes.samples):
                yield Piece(slice(first, first + passes.copies), chunk, some)

    def _cut(self, samples: int) -> Iterator[tuple[slice, RiskChunk]]:
        start = 0
        for chunk in self._chunks(samples):
            stop = start + len(chunk.weights)
            yield slice(start, stop), chunk
            start = stop
