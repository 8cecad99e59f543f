"""Running error bounds of a forward pass: how far computed outputs and loss can be from the exact ones.

Each entry carries a bound of its error. A dense layer passes errors on through ``|W|`` and adds those of its dot
products; an activation passes them on by its Lipschitz constant and adds its own rounding; the loss does the same with
its slope. The bounds are proved for multilayer perceptrons of registered activations (N. Higham, *Accuracy and
Stability of Numerical Algorithms*, section 3.3: running error analysis).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thalweg.certificates.rounding import TINY, UNIT, gamma, sum_above
from thalweg.foundation import NotApplicableError
from thalweg.objectives import EmpiricalRisk
from thalweg.structure import DenseNetwork
from thalweg.structure.activations import ActivationFacts

__all__ = [
    "ULPS",
    "Bounded",
    "BoundedLayer",
    "as_given",
    "bounded_activations",
    "bounded_layers",
    "bounded_outputs",
    "bounded_risk",
    "switched",
]

ULPS = 8
"""Errors of an activation and of the elementary functions in a loss, in units of roundoff. Libraries promise fewer than
4 for tanh, exp, log and erf; a few more operations go with each."""


class Bounded(NamedTuple):
    """Computed numbers, and entrywise bounds of how far they are from the exact ones."""

    value: Tensor
    error: Tensor


class BoundedLayer(NamedTuple):
    """What a layer computes before and after its activation."""

    before: Bounded
    after: Bounded


def as_given(inputs: Any, features: Float[Tensor, "M d"]) -> bool:
    """Whether the first layer sees the numbers of the inputs themselves, bit for bit, and not a function of them."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if len(leaves) != 1 or leaves[0].numel() != features.numel() or not leaves[0].is_floating_point():
        return False
    return torch.equal(leaves[0].detach().to(features).reshape(features.shape), features)


def bounded_activations(
    network: DenseNetwork, theta: Float[Tensor, " P"], features: Float[Tensor, "M d"]
) -> list[Bounded]:
    """What every layer gives, the last one included, ``(M, m)`` each.

    Args:
        network: the perceptron.
        theta: ``(P,)``, taken as exact.
        features: what the first layer sees, taken as exact.

    Raises:
        NotApplicableError: for an activation whose Lipschitz constant is not known or infinite.
    """
    return [layer.after for layer in bounded_layers(network, theta, features)]


def bounded_layers(
    network: DenseNetwork, theta: Float[Tensor, " P"], features: Float[Tensor, "M d"]
) -> list[BoundedLayer]:
    """The same with what enters the activations.

    Raises:
        NotApplicableError: as for `bounded_activations`.
    """
    x, error = features, torch.zeros_like(features)
    found = []
    for layer, (weight, bias) in zip(network.layers, network.matrices(theta), strict=True):
        size = weight.abs()
        z = x @ weight.mT
        moved = x.abs() @ size.mT
        if bias is not None:
            z, moved = z + bias, moved + bias.abs()
        terms = weight.shape[-1] + 2
        growth = 1 + 2 * gamma(2 * terms)
        z_error = growth * (error @ size.mT + gamma(terms) * moved) + terms * TINY
        x, error = after = _activate(layer.activation, z, z_error)
        found.append(BoundedLayer(Bounded(z, z_error), after))
    return found


def bounded_outputs(network: DenseNetwork, theta: Float[Tensor, " P"], inputs: Any) -> Bounded:
    """Outputs ``(N, C)`` with their errors.

    Raises:
        NotApplicableError: as for `bounded_activations`.
    """
    last = bounded_activations(network, theta, network.features(inputs))[-1]
    width = network.rows_per_sample * last.value.shape[-1]
    return Bounded(last.value.reshape(-1, width), last.error.reshape(-1, width))


def _activate(facts: ActivationFacts, z: Tensor, error: Tensor) -> Bounded:
    if facts.name == "identity":
        return Bounded(z, error)
    slope = facts.lipschitz
    if not facts.recognised or slope is None or not math.isfinite(slope):
        raise NotApplicableError(f"no finite Lipschitz constant is known of the activation {facts.name}")
    value = facts(z)
    own = ULPS * UNIT * (value.abs() + slope * z.abs()) + TINY
    own = own + switched(facts, z)
    return Bounded(value, (error * slope + own) * (1 + 8 * UNIT))


def switched(facts: ActivationFacts, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """How far torch's softplus, which goes over to its asymptote at 20, is from the function that is meant.

    Raises:
        NotApplicableError: for a softplus of another scale or threshold, which goes over elsewhere.
    """
    if "softplus" not in facts.name:
        return torch.zeros_like(z)
    if facts.name not in ("softplus", "sigmoid(4z)+softplus(z)"):
        raise NotApplicableError(f"where {facts.name} goes over to its asymptote is not known here")
    return torch.where(z > 19.9, torch.exp(-z), torch.zeros_like(z))


def bounded_risk(risk: EmpiricalRisk, outputs: Bounded) -> tuple[float, float]:
    """The data term of the loss, and a proved bound of its error.

    Args:
        risk: over N samples.
        outputs: ``(N, C)`` with their errors.

    Raises:
        NotApplicableError: for losses other than squared errors, cross-entropy and the logistic ones.
    """
    rule, factors = _LOSSES.get(type(risk.loss)), risk.factors
    if rule is None or factors is None:
        raise NotApplicableError(f"no rounding bound is written for {risk.loss_facts.name}")
    values = risk.losses_of(outputs.value)
    errors = rule(risk, outputs, values, factors)
    total = math.fsum(values.tolist())
    return total, (sum_above(errors) + UNIT * abs(total)) * (1 + 8 * UNIT) + TINY


def _squared(risk: EmpiricalRisk, outputs: Bounded, values: Tensor, factors: Tensor) -> Tensor:
    assert isinstance(risk.targets, Tensor)
    distance = (outputs.value - risk.targets.to(outputs.value).reshape(outputs.value.shape)).abs() * (1 + 2 * UNIT)
    moved = factors * (outputs.error * (2 * distance + outputs.error)).sum(1)
    terms = outputs.value.shape[1] + ULPS
    return (moved + gamma(terms) * values) * (1 + 2 * gamma(terms)) + TINY


def _logarithmic(risk: EmpiricalRisk, outputs: Bounded, values: Tensor, factors: Tensor) -> Tensor:
    """Cross-entropy and the logistic losses: the slope in each output is bounded, whatever the outputs."""
    steepest, width = _steepest(risk), outputs.value.shape[1]
    moved = factors * steepest * outputs.error.sum(1)
    terms = width + ULPS
    size = factors * steepest * (outputs.value.abs().sum(1) + math.log(width + 1))
    return (moved + gamma(terms) * (values.abs() + 2 * size)) * (1 + 2 * gamma(terms)) + TINY


def _steepest(risk: EmpiricalRisk) -> float:
    """A bound of the loss's slope in any one output: of ``p - t`` under class weights, or of ``y s(-y f)``."""
    steepest = 1.0
    for name in ("weight", "pos_weight"):
        held = getattr(risk.loss, name, None)
        if isinstance(held, Tensor):
            steepest *= max(1.0, float(held.abs().max()))
    targets = risk.targets
    assert isinstance(targets, Tensor)
    if targets.is_floating_point():  # soft labels need not sum to one, nor signs be one
        along = 1 if isinstance(risk.loss, nn.CrossEntropyLoss) and targets.dim() > 1 else None
        size = targets.abs().sum(along) if along else targets.abs()
        steepest *= max(1.0, float(size.max()))
    return steepest


_LOSSES = {
    nn.MSELoss: _squared,
    nn.CrossEntropyLoss: _logarithmic,
    nn.BCEWithLogitsLoss: _logarithmic,
    nn.SoftMarginLoss: _logarithmic,
}
