"""First and second derivative of a multilayer perceptron's loss along a line, with proved errors.

Each number of the forward pass is carried as a jet: its value, slope and curvature along ``theta + t v`` at ``t = 0``,
every one with a bound of its error. For weights ``W + t V`` and inputs ``x + t x' + t^2 x''/2`` the weighted sums have
``z' = W x' + V x`` and ``z'' = W x'' + 2 V x'``; an activation makes ``s(z)``, ``s' z'`` and ``s'' z'^2 + s' z''`` of
them, the loss ``g f'`` and ``f'^T B f' + g f''``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.activation_bounds import third_derivative_bound
from thalweg.certificates.bounded_arithmetic import added, exactly, matrix_product, multiplied, scaled
from thalweg.certificates.case import Case
from thalweg.certificates.claims import Level
from thalweg.certificates.figure import Figure
from thalweg.certificates.forward import Bounded, bounded_layers, switched
from thalweg.certificates.gradient_bounds import bounded_derivative, near_kink
from thalweg.certificates.output_slopes import bounded_bend, bounded_slope
from thalweg.certificates.rounding import TINY, UNIT, gamma, sum_above
from thalweg.foundation import NotApplicableError, require_memory
from thalweg.objectives import L2
from thalweg.structure import DenseNetwork
from thalweg.structure.activations import ActivationFacts

__all__ = ["LineDerivatives", "bounded_bending", "proved_line_derivatives"]

ULPS = 256
"""Rounding of a computed second derivative, in units of roundoff times the largest one (and at least one)."""

EXACT_BENDS = frozenset({"cos", "erf(z/sqrt2)", "gelu", "normal_cdf", "sigmoid", "sin", "softplus", "tanh"})
"""Activations whose second derivative is known to be computed that well; the piecewise linear ones besides."""


class LineDerivatives(NamedTuple):
    """Derivatives of ``t -> loss(theta + t v)`` at ``t = 0``."""

    first: Figure
    second: Figure


class _Jet(NamedTuple):
    value: Bounded
    first: Bounded
    second: Bounded


def proved_line_derivatives(case: Case, direction: Float[Tensor, " P"]) -> LineDerivatives:
    """The first two derivatives along a direction, rounding errors included.

    Args:
        case: the problem; only its data term and weight decay count.
        direction: v, ``(P,)``, taken as exact and not normalised.

    Raises:
        NotApplicableError: for other than multilayer perceptrons of known activations, losses in closed form, and
            weight decay; and where an argument may lie on a kink.

    >>> from thalweg.objectives import EmpiricalRisk
    >>> from torch import nn
    >>> line = nn.Linear(1, 1, bias=False)
    >>> risk = EmpiricalRisk(line, nn.MSELoss(), torch.ones(2, 1), torch.zeros(2, 1))
    >>> two = torch.tensor([2.0], dtype=torch.float64)
    >>> [round(figure.value, 12) for figure in proved_line_derivatives(Case(risk, two), torch.ones(1).double())]
    [4.0, 2.0]
    """
    if not all(isinstance(term, L2) for term in case.others):
        raise NotApplicableError("no rounding bound is known of the terms of the loss besides data and weight decay")
    network, risk = case.dense(), case.data_term()
    rows = risk.n_samples * network.rows_per_sample
    require_memory(
        30 * 8 * rows * max(network.widths), "derivatives along a line with error bounds", "Use fewer samples."
    )
    f = _outputs(network, case.theta, direction, network.features(risk.inputs))
    shape = (risk.n_samples, risk.n_outputs)
    value, first, second = (Bounded(part.value.reshape(shape), part.error.reshape(shape)) for part in f)
    slope = bounded_slope(risk, value)
    parts = [
        [multiplied(slope, first)],
        [multiplied(slope, second), bounded_bend(risk, value, first)],
    ]
    for term in case.others:
        assert isinstance(term, L2)
        pull = term.strength * term.mask * direction
        for part, other in zip(parts, (case.theta - term.center, direction), strict=True):
            entries = pull * other
            part.append(Bounded(entries, gamma(6) * entries.abs() + TINY))
    return LineDerivatives(*(_total(part) for part in parts))


def _total(parts: list[Bounded]) -> Figure:
    numbers = torch.cat([part.value.reshape(-1) for part in parts])
    errors = torch.cat([part.error.reshape(-1) for part in parts])
    if not bool(torch.isfinite(numbers).all() and torch.isfinite(errors).all()):
        raise NotApplicableError("a derivative along the line or its error bound overflows")
    total = math.fsum(numbers.tolist())
    return Figure(total, sum_above(errors) + 2 * UNIT * abs(total) + TINY, Level.RIGOROUS)


def _outputs(network: DenseNetwork, theta: Tensor, direction: Tensor, features: Tensor) -> _Jet:
    """The jet of the outputs."""
    nothing = exactly(torch.zeros_like(features))
    x = _Jet(exactly(features), nothing, nothing)
    layers = bounded_layers(network, theta, features)
    for layer, found, (weight, _) in zip(network.layers, layers, network.matrices(theta), strict=True):
        turned, moved = exactly(weight.T), exactly(_entries(direction, layer.weight_coordinates).T)
        first = added(matrix_product(x.first, turned), matrix_product(x.value, moved))
        if layer.bias_coordinates is not None:
            shift = _entries(direction, layer.bias_coordinates).expand_as(first.value)
            first = added(first, exactly(shift))
        second = added(matrix_product(x.second, turned), scaled(matrix_product(x.first, moved), 2.0))
        x = _activated(layer.activation, _Jet(found.before, first, second), found.after)
    return x


def _entries(vector: Tensor, coordinates: Tensor) -> Tensor:
    """Entries of a direction at coordinates of theta, zero where frozen."""
    return torch.where(coordinates >= 0, vector[coordinates.clamp_min(0)], 0.0)


def _activated(facts: ActivationFacts, z: _Jet, after: Bounded) -> _Jet:
    if facts.name == "identity":
        return z
    slope = bounded_derivative(facts, z.value)
    second = multiplied(slope, z.second)
    if not facts.piecewise_linear:
        second = added(second, multiplied(bounded_bending(facts, z.value), multiplied(z.first, z.first)))
    elif bool(near_kink(facts, z.value).any()):
        raise NotApplicableError(f"an argument of {facts.name} may lie on its corner")
    return _Jet(after, multiplied(slope, z.first), second)


def bounded_bending(facts: ActivationFacts, z: Bounded) -> Bounded:
    """The second derivative of an activation where its argument is known within a bound.

    Raises:
        NotApplicableError: where its accuracy is not known, or an argument may lie on a kink.
    """
    if facts.name not in EXACT_BENDS or facts.curvature is None:
        raise NotApplicableError(f"no rounding bound is written for the second derivative of {facts.name}")
    own = ULPS * UNIT * max(1.0, facts.curvature) + switched(facts, z.value)
    error = third_derivative_bound(facts) * z.error + own
    return Bounded(facts.derivative(z.value, 2), error * (1 + 16 * UNIT) + TINY)
