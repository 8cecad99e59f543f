"""The gradient of one layer bounds the loss where the data are independent before it (pyramidal networks).

With features ``Phi`` (one row per input row, and a column of ones for a bias) before a layer, its gradient is
``Delta^T Phi``. If the rows of Phi are independent, it is at least ``sigma_min(Phi) |Delta|``; and signals that came
back through layers of widths that do not grow have lost at most the product of the smallest slopes and smallest
singular values on their way. No Jacobian is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.forward import Bounded, BoundedLayer, bounded_layers
from thalweg.certificates.gradient_bounds import bounded_derivative
from thalweg.certificates.gradient_gap import bare_loss, claim_of_slopes, gradient_above
from thalweg.certificates.loss_forms import hard_labels, squares
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT, norm_above, singular_value_below
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError
from thalweg.structure import DenseNetwork

__all__ = ["LossByLayerGradient"]


class _Way(NamedTuple):
    """How much of the loss's slope a layer's gradient is sure to show.

    Attributes:
        layer: its number.
        features: smallest singular value of what enters it, rows weighted.
        back: what the signals keep on their way back to it.
        gradient: upper bound of its gradient's norm.
        level: how firmly that is known.
    """

    layer: int
    features: float
    back: float
    gradient: float
    level: Level

    @property
    def slopes(self) -> float:
        """Upper bound of the norm of the output slopes, each divided by its weight."""
        return self.gradient / (self.features * self.back) * (1 + 1e-12)


@dataclass(frozen=True)
class LossByLayerGradient(Certifier):
    """Gap, or number of training errors, from the gradient of a single layer of a multilayer perceptron."""

    name: ClassVar[str] = "loss by a layer's gradient"
    kind: ClassVar[ClaimKind] = ClaimKind.GAP
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "pyramidal networks: Q. Nguyen, M. Hein (2017); Nguyen, Mondelli (2020)"
    stage: ClassVar[int] = 60

    def work(self, case: Case) -> Work:
        """A forward pass, and a decomposition of each layer's features that may be independent."""
        risk, network = case.data_term(), case.dense()
        _form(case)
        rows = risk.n_samples * network.rows_per_sample
        if network.tied:
            raise NotApplicableError("it needs layers that share no parameters")
        if rows > max(network.widths[:-1]) + 1:
            raise NotApplicableError(
                f"it needs a layer that is as wide as there are rows of data, {rows}; the widths are {network.widths}"
            )
        return Work(gradients=5, flops=40.0 * rows**2 * sum(network.widths), bytes=48 * rows * max(network.widths))

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Try every layer before which the data may be independent, and take the best."""
        bare = bare_loss(case)
        if not bare.met:
            return self.declined([bare])
        ways = list(_ways(case, _row_weights(case)))
        if not ways:
            return self.undecided("no layer has independent features and wide, regular layers after it", [bare])
        best = min(ways, key=lambda way: way.slopes)
        network = case.dense()
        named = f"layer {network.layers[best.layer].name!r}"
        hypotheses = [
            bare,
            Hypothesis(f"what enters {named} is linearly independent", State.PROVED, best.features),
            Hypothesis(f"layers after {named} do not widen and are regular", State.PROVED, best.back),
        ]
        evidence: dict[str, Tensor | float | str] = {
            "layer": network.layers[best.layer].name, "features": best.features, "signals": best.back
        }  # fmt: skip
        if type(case.data_term().loss) is not nn.MSELoss:
            labels = hard_labels(case.data_term())
            return claim_of_slopes(self, labels, best.slopes / labels.steepness, best.level, hypotheses, evidence)
        bound = best.slopes**2 / 2 * (1 + 1e-12)
        if not math.isfinite(bound):
            return self.undecided("the gradient's bound overflows", hypotheses)
        text = f"the loss is at most {bound:.6g}, for the gradient of {named} is at most {best.gradient:.3g}"
        return self.claimed(text, level=best.level, bound=bound, hypotheses=hypotheses, evidence=evidence)


def _form(case: Case) -> object:
    """Squares or labels of the loss, whichever it has."""
    risk = case.data_term()
    return squares(risk) if type(risk.loss) is nn.MSELoss else hard_labels(risk)


def _row_weights(case: Case) -> Tensor:
    """Of every row of data that counts: ``sqrt(2 c)`` for squares, the least weight of its decisions for labels.

    Dividing each output's slope by its own weight makes it no larger than dividing by the row's least. Rows none of
    whose outputs count send no signal back; they get infinite weight here and are left out.
    """
    risk, network = case.data_term(), case.dense()
    if type(risk.loss) is nn.MSELoss:
        weight = (2 * squares(risk).weight).sqrt().repeat_interleave(network.rows_per_sample)
        return torch.where(weight > 0, weight, torch.inf)
    labels = hard_labels(risk)
    weight = torch.full((risk.n_samples * risk.n_outputs,), torch.inf, dtype=torch.float64)
    weight[labels.place.cpu()] = labels.weight.cpu().unsqueeze(1)
    return weight.reshape(risk.n_samples * network.rows_per_sample, -1).amin(1)


def _ways(case: Case, weights: Tensor) -> Iterator[_Way]:
    network = case.dense()
    features = network.features(case.data_term().inputs)
    layers = bounded_layers(network, case.theta, features)
    counted = weights.isfinite()
    back = 1.0
    for number in reversed(range(len(network.layers))):
        back *= _smallest_slope(network, number, layers, counted)
        if not back > 0:
            return
        if _free(network, number) and int(counted.sum()) <= network.widths[number] + 1:
            entering = layers[number - 1].after if number else Bounded(features, torch.zeros_like(features))
            smallest = _independence(network, number, entering, weights, counted)
            if smallest > 0:
                yield _Way(number, smallest, back, *_layer_gradient(case, number))
        back *= _kept(network, case.theta, number)
        if not back > 0:
            return


def _smallest_slope(network: DenseNetwork, number: int, layers: list[BoundedLayer], counted: Tensor) -> float:
    try:
        slopes = bounded_derivative(network.layers[number].activation, layers[number].before, at_corners=True)
    except NotApplicableError:
        return 0.0
    sure = (slopes.value.abs() - slopes.error)[counted]
    return float(sure.min()) * (1 - 8 * UNIT) if len(sure) else 0.0


def _free(network: DenseNetwork, number: int) -> bool:
    """Whether a layer's weights are all free."""
    return bool((network.layers[number].weight_coordinates >= 0).all())


def _offset(network: DenseNetwork, number: int) -> bool:
    table = network.layers[number].bias_coordinates
    return table is not None and bool((table >= 0).all())


def _independence(network: DenseNetwork, number: int, entering: Bounded, weights: Tensor, counted: Tensor) -> float:
    """Smallest singular value of the weighted rows that enter a layer, zero where it is not told from zero."""
    value, error = entering.value[counted], entering.error[counted]
    if _offset(network, number):
        value = torch.cat([value, torch.ones_like(value[:, :1])], dim=1)
    if len(value) > value.shape[1]:
        return 0.0
    scale = weights[counted].unsqueeze(1).to(value)
    weighted = scale * value
    off = norm_above(scale * error) + 8 * UNIT * norm_above(weighted)
    return singular_value_below(weighted, error=off * (1 + 1e-12))


def _kept(network: DenseNetwork, theta: Tensor, number: int) -> float:
    """What a signal keeps at least when it goes back through a layer: zero unless the layer does not widen."""
    weight, _ = network.matrices(theta)[number]
    return singular_value_below(weight) * (1 - 8 * UNIT) if weight.shape[0] <= weight.shape[1] else 0.0


def _layer_gradient(case: Case, number: int) -> tuple[float, Level]:
    layer = case.dense().layers[number]
    places = [layer.weight_coordinates.reshape(-1)]
    if _offset(case.dense(), number):
        assert layer.bias_coordinates is not None
        places.append(layer.bias_coordinates)
    return gradient_above(case, torch.cat(places).to(case.theta.device))


register_certifier(LossByLayerGradient())
