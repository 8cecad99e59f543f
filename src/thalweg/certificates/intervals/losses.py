"""Losses over balls: value, slope and curvature in the outputs of a sample.

The curvature is given as a sum of squares, ``sum_k w_k (r_k . df)^2``, so that its enclosure stays symmetric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from thalweg.certificates.intervals.arithmetic import Ball, Row, around, ball
from thalweg.certificates.intervals.elementary import Jet, sigmoid, softplus
from thalweg.certificates.rounding import gamma
from thalweg.foundation import NotApplicableError
from thalweg.objectives import EmpiricalRisk

__all__ = ["OutputLoss", "Tangents", "check_loss", "output_loss"]

Tangents = dict[int, Row]
"""Derivative of one output in each coordinate of theta that it depends on: coordinate to one ball a row of data."""


class OutputLoss(ABC):
    """The data term as a function of outputs, given unit by unit: ``outputs[c][m]`` for row m."""

    @abstractmethod
    def value(self, outputs: Sequence[Row]) -> Ball:
        """The loss."""

    @abstractmethod
    def slope(self, outputs: Sequence[Row]) -> list[Row]:
        """Its derivative in every output."""

    @abstractmethod
    def curvature(self, outputs: Sequence[Row], tangents: Sequence[Tangents]) -> list[tuple[Tangents, Row]]:
        """Pairs of rows r and weights w: the second derivative along theta is ``sum w r^T r`` over pairs and rows."""


class Elementwise(OutputLoss):
    """A loss of every single output: squared errors and the logistic losses.

    Args:
        rule: ``(output, *constants)`` to value, slope and curvature.
        constants: for unit c and row m ``constants[c][m]``.
    """

    def __init__(self, rule: Callable[..., Jet], constants: list[list[tuple[Ball, ...]]]) -> None:
        self._rule = rule
        self._constants = constants

    def _jets(self, outputs: Sequence[Row]) -> list[list[Jet]]:
        return [
            [self._rule(f, *some) for f, some in zip(row, constants, strict=True)]
            for row, constants in zip(outputs, self._constants, strict=True)
        ]

    def value(self, outputs: Sequence[Row]) -> Ball:
        """Sum over outputs and rows."""
        return sum((jet.value for row in self._jets(outputs) for jet in row), ball(0))

    def slope(self, outputs: Sequence[Row]) -> list[Row]:
        """One by one."""
        return [[jet.slope for jet in row] for row in self._jets(outputs)]

    def curvature(self, outputs: Sequence[Row], tangents: Sequence[Tangents]) -> list[tuple[Tangents, Row]]:
        """Each output by itself."""
        weights = ([jet.curvature for jet in row] for row in self._jets(outputs))
        return list(zip(tangents, weights, strict=True))


class CrossEntropy(OutputLoss):
    """``-sum_k a_k log softmax(f)_k`` for each sample.

    Args:
        weights: ``weights[k][m]``, a for class k and sample m.
    """

    def __init__(self, weights: list[Row]) -> None:
        self._weights = weights
        self._totals = [sum(column, ball(0)) for column in zip(*weights, strict=True)]

    def value(self, outputs: Sequence[Row]) -> Ball:
        """With the largest output taken out of the exponentials."""
        total = ball(0)
        for sample, f in enumerate(zip(*outputs, strict=True)):
            largest = max(f, key=float)
            normaliser = largest + sum(((k - largest).exp() for k in f), ball(0)).log()
            total += self._totals[sample] * normaliser
            total -= sum((row[sample] * k for row, k in zip(self._weights, f, strict=True)), ball(0))
        return total

    def slope(self, outputs: Sequence[Row]) -> list[Row]:
        """``A p - a``."""
        return [
            [total * share - a for total, share, a in zip(self._totals, shares, row, strict=True)]
            for shares, row in zip(_softmax(outputs), self._weights, strict=True)
        ]

    def curvature(self, outputs: Sequence[Row], tangents: Sequence[Tangents]) -> list[tuple[Tangents, Row]]:
        """``A sum_k p_k (e_k - p)(e_k - p)^T``, the covariance of the classes."""
        shares = _softmax(outputs)
        mean: Tangents = {}
        for row, tangent in zip(shares, tangents, strict=True):
            for p, derivative in tangent.items():
                part = [share * d for share, d in zip(row, derivative, strict=True)]
                mean[p] = part if p not in mean else [a + b for a, b in zip(mean[p], part, strict=True)]
        pairs = []
        for row, tangent in zip(shares, tangents, strict=True):
            apart = {
                p: [d - m for d, m in zip(tangent[p], average, strict=True)] if p in tangent else [-m for m in average]
                for p, average in mean.items()
            }
            pairs.append((apart, [total * share for total, share in zip(self._totals, row, strict=True)]))
        return pairs


def _softmax(outputs: Sequence[Row]) -> list[Row]:
    """``1 / sum_j exp(f_j - f_k)``: every term by itself, so that nothing overflows that matters."""
    return [
        [1 / sum(((j - k).exp() for j in f), ball(0)) for f, k in zip(zip(*outputs, strict=True), row, strict=True)]
        for row in outputs
    ]


# -- which it is -------------------------------------------------------------------------------------------------------


def check_loss(risk: EmpiricalRisk) -> None:
    """See whether an enclosure is written for the loss.

    Raises:
        NotApplicableError: for other than squared errors, cross-entropy and the logistic losses.
    """
    if type(risk.loss) not in _MAKERS or risk.factors is None or not isinstance(risk.targets, Tensor):
        raise NotApplicableError(f"no interval enclosure is written for {risk.loss_facts.name}")


def output_loss(risk: EmpiricalRisk, rows_per_sample: int) -> OutputLoss:
    """The loss of a risk.

    Args:
        risk: over N samples.
        rows_per_sample: of the network; more than one for a perceptron applied along a sequence.

    Raises:
        NotApplicableError: for other than squared errors, cross-entropy and the logistic losses.
    """
    check_loss(risk)
    assert isinstance(risk.targets, Tensor)
    assert isinstance(risk.loss, nn.Module)
    shape = risk.structured_outputs(torch.zeros(risk.n_samples, risk.n_outputs, dtype=torch.float64))
    if not isinstance(shape, Tensor):
        raise NotApplicableError("it needs a network with one tensor of outputs")
    return _MAKERS[type(risk.loss)](_Reader(risk, rows_per_sample, shape), risk.loss, risk.targets)


class _Reader:
    """Lays out what a loss holds, unit by unit and row by row."""

    def __init__(self, risk: EmpiricalRisk, rows_per_sample: int, outputs: Tensor) -> None:
        assert risk.factors is not None
        self.rows_per_sample = rows_per_sample
        self.outputs = outputs
        # a mean divides by a whole number, except over class weights, whose sum is rounded
        summed = len(risk.factors) if getattr(risk.loss, "weight", None) is not None else 0
        self._terms = 2 + summed
        self.factors = [self._factor(f) for f in risk.factors.tolist() for _ in range(rows_per_sample)]

    def _factor(self, computed: float) -> Ball:
        return around(computed, gamma(self._terms) * abs(computed)) if computed else ball(0)

    def spread(self, held: Tensor | None) -> Float[Tensor, "C M"]:
        """A tensor that goes with the outputs, by broadcasting, as a table of units and rows; None counts as one."""
        full = torch.ones_like(self.outputs) if held is None else held.to(self.outputs).expand_as(self.outputs)
        rows = len(self.outputs) * self.rows_per_sample
        return full.reshape(rows, -1).T

    def constants(self, *tables: Tensor) -> list[list[tuple[Ball, ...]]]:
        """For every unit and row the factor of its sample, and the entries of the tables."""
        lists = [table.tolist() for table in tables]
        return [
            [
                (factor, *map(ball, numbers))
                for factor, *numbers in zip(self.factors, *(entries[unit] for entries in lists), strict=True)
            ]
            for unit in range(len(lists[0]))
        ]


def _squared(reader: _Reader, loss: nn.Module, targets: Tensor) -> OutputLoss:
    return Elementwise(_square, reader.constants(reader.spread(targets)))


def _square(f: Ball, factor: Ball, target: Ball) -> Jet:
    gap = f - target
    return Jet(factor * gap * gap, 2 * factor * gap, 2 * factor)


def _binary(reader: _Reader, loss: nn.Module, targets: Tensor) -> OutputLoss:
    weight, positive = (getattr(loss, name, None) for name in ("weight", "pos_weight"))
    several = isinstance(loss, nn.MultiLabelSoftMarginLoss)  # the mean over the labels of a sample
    share = 1 / ball(reader.outputs.shape[-1]) if several else ball(1)
    if several and reader.outputs.dim() != 2:
        raise NotApplicableError("no interval enclosure is written for several labels at each of several places")
    tables = reader.constants(reader.spread(targets), reader.spread(weight), reader.spread(positive))
    pairs = [[_pair(share, *numbers) for numbers in row] for row in tables]
    return Elementwise(_logistic, pairs)


def _pair(share: Ball, factor: Ball, target: Ball, weight: Ball, positive: Ball) -> tuple[Ball, Ball]:
    """What multiplies ``-log s(f)`` and ``-log s(-f)``."""
    both = share * factor * weight
    return both * positive * target, both * (1 - target)


def _logistic(f: Ball, yes: Ball, no: Ball) -> Jet:
    step = sigmoid(f)
    value = yes * softplus(-f).value + no * softplus(f).value
    return Jet(value, no * step.value - yes * (1 - step.value), (yes + no) * step.slope)


def _signs(reader: _Reader, loss: nn.Module, targets: Tensor) -> OutputLoss:
    return Elementwise(_signed, reader.constants(reader.spread(targets)))


def _signed(f: Ball, factor: Ball, sign: Ball) -> Jet:
    found = softplus(-sign * f)
    return Jet(factor * found.value, -factor * sign * found.slope, factor * sign * sign * found.curvature)


def _cross_entropy(reader: _Reader, loss: nn.Module, targets: Tensor) -> OutputLoss:
    if reader.outputs.dim() != 2 or reader.rows_per_sample != 1:
        raise NotApplicableError("no interval enclosure is written for cross-entropy at several places of a sample")
    assert isinstance(loss, nn.CrossEntropyLoss)
    classes = reader.outputs.shape[1]
    if targets.is_floating_point():
        shares, kept = targets, torch.ones(len(targets))
    else:
        kept = targets != loss.ignore_index
        shares = functional.one_hot(torch.where(kept, targets, torch.zeros_like(targets)), classes)
    smoothing = ball(loss.label_smoothing)
    weights = [1.0] * classes if loss.weight is None else loss.weight.tolist()
    rows = []
    for weight, share in zip(weights, shares.T.tolist(), strict=True):
        label = ((1 - smoothing) * s + smoothing / classes for s in map(ball, map(float, share)))
        rows.append(
            [
                factor * weight * a if here else ball(0)
                for factor, a, here in zip(reader.factors, label, kept.tolist(), strict=True)
            ]
        )
    return CrossEntropy(rows)


_MAKERS: dict[type, Callable[[_Reader, nn.Module, Tensor], OutputLoss]] = {
    nn.MSELoss: _squared,
    nn.BCEWithLogitsLoss: _binary,
    nn.MultiLabelSoftMarginLoss: _binary,
    nn.SoftMarginLoss: _signs,
    nn.CrossEntropyLoss: _cross_entropy,
}
