"""The gradient of a multilayer perceptron's loss by a pass back in which every number carries a bound of its error.

The forward pass gives the layers' inputs and weighted sums with their errors. The slopes of the activations there are
off by no more than the largest second derivative times the error of the weighted sum, and their own rounding; from the
outputs back each product adds what running error analysis says. So the exact gradient lies within the bounds, whatever
the order in which a library sums.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.bounded_arithmetic import added, matrix_product, multiplied, summed
from thalweg.certificates.forward import Bounded, BoundedLayer, bounded_layers, switched
from thalweg.certificates.output_slopes import bounded_slope
from thalweg.certificates.rounding import TINY, UNIT, gamma
from thalweg.foundation import NotApplicableError
from thalweg.objectives import L2, EmpiricalRisk
from thalweg.structure import DenseNetwork
from thalweg.structure.activations import ActivationFacts

__all__ = ["bounded_decay", "bounded_derivative", "bounded_gradient", "bounded_signals", "outputs_of"]

ULPS = 64
"""Rounding of a computed slope, in units of roundoff times the largest slope (and at least one)."""

EXACT_SLOPES = frozenset(
    {
        "arctan", "elu", "erf", "erf(z/sqrt2)", "gaussian", "gelu", "log(1+exp(z))", "normal_cdf", "selu", "sigmoid",
        "silu", "sin", "cos", "softplus", "tanh",
    }
)  # fmt: skip
"""Activations whose slope is known to be computed that well; the piecewise linear ones besides."""


def bounded_derivative(facts: ActivationFacts, z: Bounded, *, at_corners: bool = False) -> Bounded:
    """The slope of an activation where its argument is known within a bound.

    Args:
        facts: of the activation.
        z: its arguments.
        at_corners: where it may not be known on which side of a corner an argument lies, take either slope, with an
            error as large as the two are apart; else such an argument is refused.

    Raises:
        NotApplicableError: where the slope's accuracy is not known, or an argument may lie on a corner.
    """
    if facts.name == "identity":
        return Bounded(torch.ones_like(z.value), torch.zeros_like(z.value))
    bend, steep = facts.curvature, facts.lipschitz
    known = facts.piecewise_linear or facts.name in EXACT_SLOPES or facts.name.startswith("elu(")
    if not (facts.recognised and known and bend is not None and steep is not None and math.isfinite(bend * steep)):
        raise NotApplicableError(f"no rounding bound is written for the slope of {facts.name}")
    value = facts.derivative(z.value)
    own = ULPS * UNIT * max(1.0, steep) + switched(facts, z.value)
    error = (bend * z.error + own) * (1 + 16 * UNIT) + TINY
    if facts.smoothness == 0:
        close = near_kink(facts, z)
        if bool(close.any()) and not at_corners:
            raise NotApplicableError(f"an argument of {facts.name} may lie on its corner")
        error = torch.where(close, 2 * steep + error, error)
    return Bounded(value, error)


def near_kink(facts: ActivationFacts, z: Bounded) -> Tensor:
    """Which arguments may lie on a kink for all that is known of them."""
    if facts.kinks is None:
        return torch.ones_like(z.value, dtype=torch.bool)
    close = torch.zeros_like(z.value, dtype=torch.bool)
    for kink in facts.kinks:
        close |= (z.value - kink).abs() <= z.error + 4 * UNIT * abs(kink)
    return close


def outputs_of(network: DenseNetwork, layers: list[BoundedLayer]) -> Bounded:
    """The last layer's results as outputs ``(N, C)``."""
    last = layers[-1].after
    width = network.rows_per_sample * last.value.shape[-1]
    return Bounded(last.value.reshape(-1, width), last.error.reshape(-1, width))


def bounded_signals(
    risk: EmpiricalRisk, network: DenseNetwork, theta: Float[Tensor, " P"], layers: list[BoundedLayer]
) -> list[Bounded]:
    """Gradient of the data term in the weighted sums of each layer, ``(M, m)`` each, first layer first.

    Args:
        risk: over N samples.
        network: its model.
        theta: ``(P,)``, taken as exact.
        layers: what `bounded_layers` found there.

    Raises:
        NotApplicableError: for losses and activations without rounding bounds, and arguments that may lie on a corner.
    """
    slope = bounded_slope(risk, outputs_of(network, layers))
    shape = layers[-1].after.value.shape
    signal = Bounded(slope.value.reshape(shape), slope.error.reshape(shape))
    weights = [weight for weight, _ in network.matrices(theta)]
    found: list[Bounded] = []
    for number in reversed(range(len(layers))):
        facts = network.layers[number].activation
        if facts.name != "identity":
            signal = multiplied(signal, bounded_derivative(facts, layers[number].before))
        found.insert(0, signal)
        if number:
            signal = matrix_product(signal, Bounded(weights[number], torch.zeros_like(weights[number])))
    return found


def bounded_gradient(risk: EmpiricalRisk, network: DenseNetwork, theta: Float[Tensor, " P"]) -> Bounded:
    """Gradient of the data term, ``(P,)``, with proved errors.

    Args:
        risk: over N samples.
        network: its model.
        theta: ``(P,)``, taken as exact.

    Raises:
        NotApplicableError: as for `bounded_signals`; and where numbers overflow.
    """
    features = network.features(risk.inputs)
    layers = bounded_layers(network, theta, features)
    signals = bounded_signals(risk, network, theta, layers)
    total = _Collected(network.space.size, theta)
    before = Bounded(features, torch.zeros_like(features))
    for layer, signal, found in zip(network.layers, signals, layers, strict=True):
        transposed = Bounded(signal.value.T, signal.error.T)
        total.add(layer.weight_coordinates, matrix_product(transposed, before))
        if layer.bias_coordinates is not None:
            total.add(layer.bias_coordinates, summed(signal, 0))
        before = found.after
    return total.result()


def bounded_decay(term: L2, theta: Float[Tensor, " P"]) -> Bounded:
    """Gradient of weight decay, ``(P,)``, with proved errors."""
    value = term.strength * term.mask * (theta - term.center)
    return Bounded(value, gamma(4) * value.abs() + TINY)


class _Collected:
    """Entries added up by their coordinates, of which several places may use one."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.value, self.size, self.error = (torch.zeros(size, dtype=like.dtype, device=like.device) for _ in range(3))
        self.uses = torch.zeros(size, dtype=torch.long, device=like.device)

    def add(self, coordinates: Tensor, entries: Bounded) -> None:
        free = coordinates >= 0
        index, value = coordinates[free], entries.value[free]
        self.value.index_add_(0, index, value)
        self.size.index_add_(0, index, value.abs())
        self.error.index_add_(0, index, entries.error[free])
        self.uses.index_add_(0, index, torch.ones_like(index))

    def result(self) -> Bounded:
        most = int(self.uses.max())
        error = self.error + (gamma(most) * self.size if most > 1 else 0)
        if not bool(torch.isfinite(self.value).all() and torch.isfinite(error).all()):
            raise NotApplicableError("the gradient or its error bound overflows")
        return Bounded(self.value, error * (1 + 2 * gamma(2 * most + 2)))


def total_gradient(data: Bounded, others: list[Bounded]) -> Bounded:
    """The sum over the terms of the loss."""
    return added(data, *others) if others else data
