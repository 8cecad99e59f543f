"""Losses of outputs ``(S, n, C)`` for many parameter vectors at once: value, slope and curvature in closed form.

Written for squared errors, cross-entropy and the logistic losses; any other loss is differentiated by autograd, in its
outputs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """``sum w |f - y|^2``."""

    weight: Float[Tensor, "n 1"]
    target: Float[Tensor, "n C"]

    def value(self, outputs: Tensor) -> Tensor:
        return (self.weight * (outputs - self.target) ** 2).sum((1, 2))

    def slopes(self, outputs: Tensor) -> Tensor:
        return 2 * self.weight * (outputs - self.target)

    def blocks(self, outputs: Tensor) -> Tensor:
        return torch.diag_embed((2 * self.weight).expand_as(outputs))


@dataclass(frozen=True)
class _Softmax:
    """``-sum_k a_k log softmax(f)_k``, with a the weights of the classes, and A their sum."""

    share: Float[Tensor, "n C"]
    total: Float[Tensor, "n 1"]

    def value(self, outputs: Tensor) -> Tensor:
        return -(self.share * torch.log_softmax(outputs, -1)).sum((1, 2))

    def slopes(self, outputs: Tensor) -> Tensor:
        return self.total * torch.softmax(outputs, -1) - self.share

    def blocks(self, outputs: Tensor) -> Tensor:
        p = torch.softmax(outputs, -1)
        weighted = self.total * p
        found = weighted.unsqueeze(-1) * -p.unsqueeze(-2)
        found.diagonal(dim1=-2, dim2=-1).add_(weighted)
        return found


@dataclass(frozen=True)
class _Signs:
    """``-a log s(f) - b log s(-f)`` for each output by itself, s the logistic function."""

    up: Float[Tensor, "n C"]
    down: Float[Tensor, "n C"]

    def value(self, outputs: Tensor) -> Tensor:
        # not by torch's softplus, which leaves out what is below 2e-9 for arguments beyond 20
        return -(self.up * functional.logsigmoid(outputs) + self.down * functional.logsigmoid(-outputs)).sum((1, 2))

    def slopes(self, outputs: Tensor) -> Tensor:
        return self.down * torch.sigmoid(outputs) - self.up * torch.sigmoid(-outputs)

    def blocks(self, outputs: Tensor) -> Tensor:
        return torch.diag_embed((self.up + self.down) * torch.sigmoid(outputs) * torch.sigmoid(-outputs))


@dataclass(frozen=True)
class _Differentiated:
    """Any loss, by autograd in the outputs."""

    risk: EmpiricalRisk
    chunk: Any

    def value(self, outputs: Tensor) -> Tensor:
        return paths.values(lambda row: self.risk.chunk_loss(row, self.chunk), outputs, self.risk.path)

    def slopes(self, outputs: Tensor) -> Tensor:
        return self.risk._slopes(outputs, self.chunk)

    def blocks(self, outputs: Tensor) -> Tensor:
        return self.risk._blocks(outputs, self.chunk)


class OutputLosses:
    """The loss of a risk, to be taken over any of its samples.

    Args:
        risk: with one row of C outputs a sample.
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._risk = risk
        self._whole = self._squares() or self._logarithms()

    def of(self, chunk: Any, some: slice) -> OutputLoss:
        """The loss of a chunk, whose samples are these."""
        if self._whole is None:
            return _Differentiated(self._risk, chunk)
        return type(self._whole)(*(part[some] for part in vars(self._whole).values()))

    def _squares(self) -> _Squares | None:
        if type(self._risk.loss) is not nn.MSELoss:
            return None
        form = squares(self._risk)
        return _Squares(form.weight.unsqueeze(1), form.target)

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
