"""The derivatives of a risk whose network is a multilayer perceptron, in closed form, cut to fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, current_limit, plan_passes
from thalweg.objectives.by_outputs import ByOutputs, OwnDerivatives
from thalweg.objectives.output_losses import OutputLosses
from thalweg.objectives.outputs import Piece
from thalweg.objectives.paths import AGREEMENT
from thalweg.objectives.perceptron import OutputLoss, Perceptron
from thalweg.objectives.risk import EmpiricalRisk
from thalweg.objectives.shallow import Shallow
from thalweg.objectives.shallow_forms import Entering
from thalweg.structure import DenseNetwork

__all__ = ["ClosedForm", "closed_form"]

MOSTLY = 2
"""How many weights for each free parameter there may be, for dense matrices over all of them to pay."""

SHALLOW_SET = 16 * 2**20
"""Bytes aimed at for a pass of a network with one hidden layer: its arrays then stay near the cache."""

MOVES = (0.1, 1.0, 30.0)
"""How far from the initial parameters, relative to one and their size, the closed form is held against the module."""


def closed_form(risk: EmpiricalRisk) -> ClosedForm | None:
    """The closed form of a risk's derivatives; None where its network is no multilayer perceptron on all its data."""
    own = _own_form(risk)
    if own is not None:
        return own if _agrees(risk, own) else None
    structure = risk.trace_report.structure
    network = structure.as_dense(mixed=True) if structure is not None else None
    if network is None or not _suits(risk, network):
        return None
    found = ClosedForm.of_perceptron(risk, network)
    return found if _agrees(risk, found) else None


def _own_form(risk: EmpiricalRisk) -> ClosedForm | None:
    """That of a model that brings its derivatives itself."""
    model, inputs = risk.model, risk.inputs
    if not isinstance(model, OwnDerivatives) or risk.forward is not None or not isinstance(inputs, Tensor):
        return None
    outputs = model.output_map(risk.space)
    return None if outputs is None else ClosedForm(risk, ByOutputs(outputs), inputs)


def _suits(risk: EmpiricalRisk, network: DenseNetwork) -> bool:
    """Whether rows are samples, and the derivatives of all parts are known."""
    known = all(layer.activation.recognised for layer in network.layers)
    return known and network.rows_per_sample == 1 and risk.path.second != "none"


def _agrees(risk: EmpiricalRisk, found: ClosedForm) -> bool:
    """Whether it gives the module's outputs for all data, at parameters near and far.

    Networks are traced with a few samples, and may do something else with many, or with large weights.
    """
    generator = torch.Generator().manual_seed(0)
    for size in MOVES:
        move = size * torch.randn(risk.initial.shape, generator=generator, dtype=torch.float64).to(risk.initial)
        theta = risk.initial + move * (1 + risk.initial.abs())
        expected, outputs = risk.outputs(theta), found.outputs(theta)
        finite = torch.isfinite(expected)
        if not torch.equal(finite, torch.isfinite(outputs)):
            return False
        apart = torch.where(finite, outputs - expected, 0.0).abs().max()
        largest = torch.where(finite, expected, 0.0).abs().max()
        if not bool(apart <= 1e-3 * AGREEMENT[risk.dtype] * (1 + largest)):
            return False
    return True


class ClosedForm:
    """Value, gradient, Hessian, Gauss-Newton matrix and Jacobian of a loss over N samples.

    Networks with one hidden layer have forms of their own (`Shallow`), where these are faster.

    Args:
        risk: the loss.
        general: the form of its outputs.
        inputs: what enters it, one row a sample.
        shallow: a faster one, where there is one.
    """

    def __init__(
        self, risk: EmpiricalRisk, general: Perceptron | ByOutputs, inputs: Tensor, shallow: Shallow | None = None
    ) -> None:
        self._general, self._shallow = general, shallow
        self._losses = OutputLosses(risk)
        self._features, self._samples = general.features(inputs), len(inputs)
        every = slice(0, self._samples)
        self._whole_loss = self._losses.of(every)
        self._at_most, self._chunk_of = risk.batch_size or self._samples, risk.chunk_of
        self._entering = None if shallow is None else shallow.entering(inputs)

    @staticmethod
    def of_perceptron(risk: EmpiricalRisk, network: DenseNetwork) -> ClosedForm:
        """Of a network with one row a sample."""
        inputs = network.features(risk.inputs).to(risk.device, risk.dtype)
        shallow = Shallow(network, risk.device) if Shallow.suits(network, len(inputs)) else None
        return ClosedForm(risk, Perceptron(network, risk.device, risk.dtype), inputs, shallow)

    @property
    def smooth(self) -> bool:
        """Whether no activation has kinks: at one, slopes are a convention, and the module's may be another."""
        return all(facts.kinks == () for facts in self._general.activations)

    def is_lean(self, matrices: int) -> bool:
        """Whether so many matrices over the weights of all layers, frozen ones too, fit and are not mostly frozen."""
        length = self._general.length
        held = matrices * 8 * length**2
        return length <= MOSTLY * self._general.size and held <= current_limit()

    @property
    def hessian_cost(self) -> Cost:
        """What a Hessian or Gauss-Newton matrix over all samples holds in memory."""
        return (self._dense if self._dense is not None else self._general).hessian_cost(self._samples)

    @property
    def _dense(self) -> Shallow | None:
        """The shallow form, where it has Hessians under this loss."""
        return self._shallow if self._shallow is not None and self._shallow.takes(self._whole_loss) else None

    def outputs(self, theta: Float[Tensor, " P"]) -> Float[Tensor, "N C"]:
        """Outputs of all samples."""
        row = theta.unsqueeze(0)
        pieces = self._pieces(row, self._general.gradient_cost(self._samples))
        return torch.cat([self._general.outputs(row, self._features[:, some])[0] for _, some in pieces])

    def values(self, rows: Float[Tensor, "S P"]) -> Float[Tensor, " S"]:
        """The loss."""
        form = self._shallow or self._general
        found = [form.values(rows[some], parts) for some, parts in self._groups(form, rows, form.gradient_cost)]
        return _joined(found)

    def gradients(self, rows: Float[Tensor, "S P"]) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"]]:
        """Value and gradient."""
        form = self._shallow or self._general
        found = [form.gradients(rows[some], parts) for some, parts in self._groups(form, rows, form.gradient_cost)]
        values, gradients = zip(*found, strict=True)
        return _joined(values), _joined(gradients)

    def hessians(
        self, rows: Float[Tensor, "S P"]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian."""
        form = self._dense or self._general
        groups = self._groups(form, rows, form.hessian_cost)
        if len(rows) == 1:
            return form.hessians(rows, next(groups)[1])
        size = rows.shape[1]
        found = rows.new_empty(len(rows)), torch.empty_like(rows), rows.new_empty(len(rows), size, size)
        for some, parts in groups:
            for into, part in zip(found, form.hessians(rows[some], parts), strict=True):
                into[some] = part
        return found

    def gauss_newton(self, rows: Float[Tensor, "S P"]) -> Float[Tensor, "S P P"]:
        """``J^T B J``."""
        form = self._dense or self._general
        found = rows.new_empty(len(rows), rows.shape[1], rows.shape[1])
        for some, parts in self._groups(form, rows, form.hessian_cost):
            found[some] = form.gauss_newton(rows[some], parts)
        return found

    def jacobians(self, rows: Float[Tensor, "S P"]) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Piece by piece the Jacobians ``(s, n, C, P)`` and outputs ``(s, n, C)``."""
        for these, some in self._pieces(rows, self._general.jacobian_cost(self._samples)):
            outputs, jacobian = self._general.jacobians(rows[these], self._features[:, some])
            yield Piece(these, self._chunk_of(some), some), jacobian, outputs

    # -- how the work is cut -------------------------------------------------------------------------------------------

    def _groups(
        self, form: Shallow | Perceptron | ByOutputs, rows: Tensor, cost: Callable[[int], Cost]
    ) -> Iterator[tuple[slice, Iterator[Any]]]:
        """Some parameter vectors at a time, with all parts of the data."""
        features = self._entering if isinstance(form, Shallow) else self._features
        passes = plan_passes(cost(self._samples), len(rows), SHALLOW_SET if isinstance(form, Shallow) else None)
        for first in range(0, max(1, len(rows)), passes.copies):  # no rows are one group too
            yield slice(first, first + passes.copies), self._parts(features, passes.samples)

    def _parts(self, features: Any, samples: int) -> Iterator[tuple[Any, OutputLoss]]:
        if min(samples, self._at_most) >= self._samples:
            yield features, self._whole_loss
            return
        for some in self._cut(samples):
            part = features.of(some) if isinstance(features, Entering) else features[:, some]
            yield part, self._losses.of(some)

    def _pieces(self, rows: Tensor, cost: Cost) -> Iterator[tuple[slice, slice]]:
        passes = plan_passes(cost, len(rows))
        for first in range(0, max(1, len(rows)), passes.copies):  # no rows are one group too
            for some in self._cut(passes.samples):
                yield slice(first, first + passes.copies), some

    def _cut(self, samples: int) -> Iterator[slice]:
        count, step = self._samples, min(samples, self._at_most)
        for start in range(0, count, step):
            yield slice(start, min(start + step, count))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
