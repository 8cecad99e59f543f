"""Losses of outputs ``(S, n, C)`` for many parameter vectors at once: value, slope and curvature in closed form.

Written for squared errors, cross-entropy and the logistic losses; any other loss is differentiated by autograd, in its
outputs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from thalweg.foundation import NotApplicableError
from thalweg.objectives import paths
from thalweg.objectives.output_forms import decision_shares, squares
from thalweg.objectives.perceptron import OutputLoss
from thalweg.objectives.risk import EmpiricalRisk

__all__ = ["OutputLosses"]


@dataclass(frozen=True)
class _Squares:
    """``sum w |f - y|^2``; `bend` is 2 w where all weights are equal."""

    weight: Float[Tensor, "n 1"]
    target: Float[Tensor, "n C"]
    bend: float | None

    def value(self, outputs: Tensor) -> Tensor:
        gap = outputs - self.target
        return (self.weight * gap * gap).flatten(1).sum(1)

    def value_and_slopes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        gap = outputs - self.target
        pull = self.weight * gap
        return (pull * gap).flatten(1).sum(1), 2 * pull

    def blocks(self, outputs: Tensor) -> Tensor:
        return torch.diag_embed((2 * self.weight).expand_as(outputs))

    def bent(self, outputs: Tensor, columns: Tensor) -> Tensor:
        return (2 * self.weight).unsqueeze(-1) * columns

    def of(self, some: slice) -> _Squares:
        return _Squares(self.weight[some], self.target[some], self.bend)


@dataclass(frozen=True)
class _Softmax:
    """``-sum_k a_k log softmax(f)_k``, with a the weights of the classes, and A their sum."""

    share: Float[Tensor, "n C"]
    total: Float[Tensor, "n 1"]
    bend: ClassVar[float | None] = None

    def value(self, outputs: Tensor) -> Tensor:
        return -(self.share * torch.log_softmax(outputs, -1)).sum((1, 2))

    def value_and_slopes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        logs = torch.log_softmax(outputs, -1)
        return -(self.share * logs).sum((1, 2)), self.total * logs.exp() - self.share

    def blocks(self, outputs: Tensor) -> Tensor:
        p = torch.softmax(outputs, -1)
        weighted = self.total * p
        found = weighted.unsqueeze(-1) * -p.unsqueeze(-2)
        found.diagonal(dim1=-2, dim2=-1).add_(weighted)
        return found

    def bent(self, outputs: Tensor, columns: Tensor) -> Tensor:
        p = torch.softmax(outputs, -1).unsqueeze(-1)
        return self.total.unsqueeze(-1) * p * (columns - p.mT @ columns)

    def of(self, some: slice) -> _Softmax:
        return _Softmax(self.share[some], self.total[some])


@dataclass(frozen=True)
class _Signs:
    """``-a log s(f) - b log s(-f)`` for each output by itself, s the logistic function."""

    up: Float[Tensor, "n C"]
    down: Float[Tensor, "n C"]
    bend: ClassVar[float | None] = None

    def value(self, outputs: Tensor) -> Tensor:
        # not by torch's softplus, which leaves out what is below 2e-9 for arguments beyond 20
        return -(self.up * functional.logsigmoid(outputs) + self.down * functional.logsigmoid(-outputs)).sum((1, 2))

    def value_and_slopes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(outputs), self.down * torch.sigmoid(outputs) - self.up * torch.sigmoid(-outputs)

    def blocks(self, outputs: Tensor) -> Tensor:
        return torch.diag_embed(self._bends(outputs))

    def bent(self, outputs: Tensor, columns: Tensor) -> Tensor:
        return self._bends(outputs).unsqueeze(-1) * columns

    def _bends(self, outputs: Tensor) -> Tensor:
        return (self.up + self.down) * torch.sigmoid(outputs) * torch.sigmoid(-outputs)

    def of(self, some: slice) -> _Signs:
        return _Signs(self.up[some], self.down[some])


@dataclass(frozen=True)
class _Differentiated:
    """Any loss, by autograd in the outputs."""

    risk: EmpiricalRisk
    some: slice
    bend: ClassVar[float | None] = None

    @cached_property
    def _chunk(self) -> Any:
        return self.risk.chunk_of(self.some)

    def value(self, outputs: Tensor) -> Tensor:
        return paths.values(lambda row: self.risk.chunk_loss(row, self._chunk), outputs, self.risk.path)

    def value_and_slopes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(outputs), self.risk._slopes(outputs, self._chunk)

    def blocks(self, outputs: Tensor) -> Tensor:
        return self.risk._blocks(outputs, self._chunk)

    def bent(self, outputs: Tensor, columns: Tensor) -> Tensor:
        return self.blocks(outputs) @ columns


class OutputLosses:
    """The loss of a risk, to be taken over any of its samples.

    Args:
        risk: with one row of C outputs a sample.
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._risk = risk
        self._whole = self._squares() or self._logarithms()

    def of(self, some: slice) -> OutputLoss:
        """The loss of some samples."""
        return _Differentiated(self._risk, some) if self._whole is None else self._whole.of(some)

    def _squares(self) -> _Squares | None:
        if type(self._risk.loss) is not nn.MSELoss:
            return None
        form = squares(self._risk)
        same = bool((form.weight == form.weight[0]).all())
        return _Squares(form.weight.unsqueeze(1), form.target, 2 * float(form.weight[0]) if same else None)

    def _logarithms(self) -> _Softmax | _Signs | None:
        try:
            shares, places = decision_shares(self._risk)
        except NotApplicableError:
            return None
        samples, width = self._risk.n_samples, self._risk.n_outputs
        if places.shape[1] == 1:  # one decision an output, in order
            up, down = shares.reshape(samples, width, 2).unbind(-1)
            return _Signs(up, down)
        if places.shape != (samples, width):  # several decisions a sample
            return None
        return _Softmax(shares, shares.sum(1, keepdim=True))
