"""The loss of a multilayer perceptron over a box of parameters: enclosures of value, gradient and Hessian.

Unit by unit and row by row of the data, forward for the outputs and their derivatives in theta, back for what the loss
makes of them. With ``z_l = W_l a_{l-1} + b_l``, ``a_l = sigma_l(z_l)`` and ``s_l`` the derivative of the loss in
``a_l``, the Hessian is the loss's own curvature along the outputs' derivatives, plus for every layer
``sum s_l sigma_l''(z_l) dz_l^T dz_l`` and what the product ``W_l a_{l-1}`` gives, ``s_l sigma_l'(z_l)`` times
``dW_l da_{l-1}`` and its transpose. Coordinates used twice (tied weights) add up by themselves; frozen ones are
constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from thalweg.certificates.case import Case
from thalweg.certificates.intervals.activations import enclosure_of
from thalweg.certificates.intervals.arithmetic import Ball, Box, Matrix, Row, ball, flint, matrix
from thalweg.certificates.intervals.elementary import Rule
from thalweg.certificates.intervals.losses import OutputLoss, Tangents, check_loss, output_loss
from thalweg.certificates.intervals.rows import as_matrix, by_entry, plus, product, times
from thalweg.foundation import NotApplicableError
from thalweg.objectives import L2
from thalweg.structure import DenseNetwork

__all__ = ["IntervalLoss", "check_enclosable"]


@dataclass(frozen=True)
class _Layer:
    """One layer; the bias is the weight of a further input that is always one.

    Attributes:
        coordinates: ``(out, in)``, -1 where frozen.
        frozen: the values there.
        biased: whether there is a bias.
        rule: of the activation, None for the identity.
    """

    coordinates: list[list[int]]
    frozen: list[list[float]]
    biased: bool
    rule: Rule | None

    def weights(self, box: Box) -> list[Row]:
        return [
            [box[p] if p >= 0 else ball(value) for p, value in zip(where, values, strict=True)]
            for where, values in zip(self.coordinates, self.frozen, strict=True)
        ]


class _Pass(NamedTuple):
    """What a layer computed, unit by unit: its inputs (the one of the bias included), and sigma, sigma', sigma''."""

    weights: list[Row]
    inputs: list[Row]
    values: list[Row]
    slopes: list[Row] | None
    curvatures: list[Row] | None


class IntervalLoss:
    """The loss of a case, to be evaluated over boxes of parameters.

    Args:
        case: a multilayer perceptron of known activations under a known loss, with or without L2 penalties.

    Raises:
        NotApplicableError: for anything else, by name.
    """

    def __init__(self, case: Case) -> None:
        check_enclosable(case)
        risk, network = case.data_term(), case.dense()
        self.size = len(case.theta)
        self.activations = sorted({layer.activation.name for layer in network.layers} - {"identity"})
        self._layers = _layers_of(network, case)
        self._features: list[Row] = [list(map(ball, column)) for column in network.features(risk.inputs).T.tolist()]
        self.rows = risk.n_samples * network.rows_per_sample
        self._loss: OutputLoss = output_loss(risk, network.rows_per_sample)
        self._penalties = [
            (ball(term.strength), list(map(ball, term.mask.tolist())), list(map(ball, term.center.tolist())))
            for term in case.others
            if isinstance(term, L2)
        ]

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def value(self, box: Box) -> Ball:
        """The loss, ``()``."""
        return self._loss.value(self._forward(box)[-1].values) + self._penalty(box)

    def gradient(self, box: Box) -> Row:
        """The gradient, ``(P,)``."""
        return self._gradient(box, self._forward(box))

    def value_and_gradient(self, box: Box) -> tuple[Ball, Row]:
        """The loss and its gradient ``(P,)``, from one forward pass."""
        passes = self._forward(box)
        return self._loss.value(passes[-1].values) + self._penalty(box), self._gradient(box, passes)

    def hessian(self, box: Box) -> Matrix:
        """The Hessian, ``(P, P)``."""
        passes = self._forward(box)
        before, after = self._tangents(passes)
        table = _SymmetricTable(self.size)
        for strength, mask, _ in self._penalties:
            for p, part in enumerate(mask):
                table.add(p, p, strength * part)
        outputs = passes[-1].values
        for rows, weights in self._loss.curvature(outputs, after[-1]):
            table.add_squares(rows, weights)
        signal = self._loss.slope(outputs)
        for number in reversed(range(len(passes))):
            here = passes[number]
            if here.slopes is not None and here.curvatures is not None:
                bends = by_entry(signal, here.curvatures)
                for rows, weights in zip(before[number], bends, strict=True):
                    table.add_squares(rows, weights)
            delta = signal if here.slopes is None else by_entry(signal, here.slopes)
            if number:
                table.add_products(after[number - 1], delta, self._layers[number].coordinates)
                signal = _pull(here.weights, delta, len(passes[number - 1].values))
        return table.matrix()

    # -- how it is done ------------------------------------------------------------------------------------------------

    def _forward(self, box: Box) -> list[_Pass]:
        found: list[_Pass] = []
        current, ones = self._features, [ball(1)] * self.rows
        for layer in self._layers:
            inputs = [*current, ones] if layer.biased else current
            weights = layer.weights(box)
            before = product(weights, inputs)
            if layer.rule is None:
                found.append(_Pass(weights, inputs, before, None, None))
            else:
                jets = [[layer.rule(z) for z in row] for row in before]
                parts = ([[jet[k] for jet in row] for row in jets] for k in range(3))
                found.append(_Pass(weights, inputs, *parts))
            current = found[-1].values
        return found

    def _gradient(self, box: Box, passes: list[_Pass]) -> Row:
        found = self._penalty_gradient(box)
        signal = self._loss.slope(passes[-1].values)
        for number in reversed(range(len(passes))):
            here = passes[number]
            delta = signal if here.slopes is None else by_entry(signal, here.slopes)
            self._add_gradient(found, number, here, delta)
            if number:
                signal = _pull(here.weights, delta, len(passes[number - 1].values))
        return found

    def _tangents(self, passes: list[_Pass]) -> tuple[list[list[Tangents]], list[list[Tangents]]]:
        """Derivatives in theta of every unit, before and after its activation."""
        before, after = [], []
        incoming: list[Tangents] = [{} for _ in self._features]
        for layer, here in zip(self._layers, passes, strict=True):
            found = _combine(here.weights, incoming, self.rows)
            for tangent, where in zip(found, layer.coordinates, strict=True):
                for p, row in zip(where, here.inputs, strict=True):
                    if p >= 0:
                        tangent[p] = plus(tangent[p], row) if p in tangent else row
            before.append(found)
            incoming = found
            if here.slopes is not None:
                incoming = [
                    {p: times(row, slope) for p, row in tangent.items()}
                    for tangent, slope in zip(found, here.slopes, strict=True)
                ]
            after.append(incoming)
        return before, after

    def _add_gradient(self, into: Row, number: int, here: _Pass, delta: list[Row]) -> None:
        table = as_matrix(delta) * as_matrix(here.inputs).transpose()
        coordinates = (p for where in self._layers[number].coordinates for p in where)
        for p, entry in zip(coordinates, table.entries(), strict=True):
            if p >= 0:
                into[p] += entry

    def _penalty(self, box: Box) -> Ball:
        total = ball(0)
        for strength, mask, center in self._penalties:
            squares = (part * (x - c) * (x - c) for part, x, c in zip(mask, box, center, strict=True))
            total += strength / 2 * sum(squares, ball(0))
        return total

    def _penalty_gradient(self, box: Box) -> Row:
        found = [ball(0)] * self.size
        for strength, mask, center in self._penalties:
            found = [g + strength * part * (x - c) for g, part, x, c in zip(found, mask, box, center, strict=True)]
        return found


class _SymmetricTable:
    """A symmetric matrix that is added to piece by piece."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries = [ball(0)] * size**2

    def add(self, p: int, q: int, entry: Ball) -> None:
        self._entries[p * self._size + q] += entry

    def add_squares(self, rows: Tangents, weights: Row) -> None:
        """``sum_m w_m r_m^T r_m``."""
        if not rows:
            return
        plain = as_matrix(list(rows.values()))
        weighted = as_matrix([times(row, weights) for row in rows.values()])
        entries = iter((weighted * plain.transpose()).entries())
        for p in rows:
            start = p * self._size
            for q in rows:
                self._entries[start + q] += next(entries)

    def add_products(self, tangents: list[Tangents], delta: list[Row], coordinates: list[list[int]]) -> None:
        """``delta_j dW_jk da_k`` and its transpose, summed over the rows of data."""
        signals = as_matrix(delta).transpose()
        for unit, tangent in enumerate(tangents):
            if not tangent:
                continue
            entries = iter((as_matrix(list(tangent.values())) * signals).entries())
            for p in tangent:
                for where in coordinates:
                    q, entry = where[unit], next(entries)
                    if q >= 0:
                        self.add(p, q, entry)
                        self.add(q, p, entry)

    def matrix(self) -> Matrix:
        return matrix(self._size, self._size, self._entries)


def check_enclosable(case: Case) -> None:
    """See without effort whether an `IntervalLoss` can be made.

    Raises:
        NotApplicableError: if not, by name.
    """
    flint()
    check_loss(case.data_term())
    strange = [term for term in case.others if type(term) is not L2]
    if strange:
        raise NotApplicableError(f"no interval enclosure is written for {strange[0]!r}")
    for layer in case.dense().layers:
        enclosure_of(layer.activation)


def _layers_of(network: DenseNetwork, case: Case) -> list[_Layer]:
    found = []
    for layer, (weight, bias) in zip(network.layers, network.matrices(case.theta), strict=True):
        coordinates, values = layer.weight_coordinates.tolist(), weight.tolist()
        if bias is not None and layer.bias_coordinates is not None:
            coordinates = [[*row, b] for row, b in zip(coordinates, layer.bias_coordinates.tolist(), strict=True)]
            values = [[*row, b] for row, b in zip(values, bias.tolist(), strict=True)]
        rule = None if layer.activation.name == "identity" else enclosure_of(layer.activation)
        found.append(_Layer(coordinates, values, bias is not None, rule))
    return found


def _combine(weights: list[Row], incoming: list[Tangents], rows: int) -> list[Tangents]:
    """``sum_k W_jk da_k`` for every unit j; coordinates that the same units depend on go together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for p in dict.fromkeys(p for tangent in incoming for p in tangent):
        groups.setdefault(tuple(k for k, tangent in enumerate(incoming) if p in tangent), []).append(p)
    found: list[Tangents] = [{} for _ in weights]
    for units, members in groups.items():
        stacked = [[x for p in members for x in incoming[unit][p]] for unit in units]
        combined = product([[row[unit] for unit in units] for row in weights], stacked)
        for tangent, entries in zip(found, combined, strict=True):
            for place, p in enumerate(members):
                tangent[p] = entries[place * rows : (place + 1) * rows]
    return found


def _pull(weights: list[Row], delta: list[Row], inputs: int) -> list[Row]:
    """The signal one layer further back, without that of the bias."""
    back = [[row[k] for row in weights] for k in range(inputs)]
    return product(back, delta)
