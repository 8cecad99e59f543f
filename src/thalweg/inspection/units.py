"""Hidden units that do not respond to the data: dead ones and saturated ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import NotApplicableError
from thalweg.inspection.records import Units
from thalweg.objectives import EmpiricalRisk
from thalweg.objectives.data import take
from thalweg.structure.activations import ActivationFacts
from thalweg.structure.network import NetworkStructure

__all__ = ["measure_units"]

SAMPLES = 2048
"""Samples looked at, at most."""
FLAT_SLOPE = 1e-2
"""A unit is in the flat part of its activation where the slope is below this fraction of the largest."""
STEP = 1e-4
"""Of the central difference that measures a slope, in units of the argument or of the mean argument of the unit, the
larger in size; an activation need not be differentiable by autograd."""
SHARE = 0.99
"""A unit is saturated when that holds for this share of the samples."""


def measure_units(risk: EmpiricalRisk, structure: NetworkStructure, theta: Float[Tensor, " P"]) -> tuple[Units, ...]:
    """Count dead and saturated units behind every activation that follows a layer with weights.

    Args:
        risk: the loss, for its data.
        structure: of its network.
        theta: ``(P,)`` of the risk.

    Raises:
        NotApplicableError: if the network has no activation.
    """
    if not structure.activations:
        raise NotApplicableError("the network has no elementwise activation")
    inputs = take(risk.inputs, slice(0, min(risk.n_samples, SAMPLES)))
    entering = structure.activation_inputs(theta, inputs)
    found = []
    for step in structure.activations:
        assert step.activation is not None
        z = _by_unit(entering[step.name], structure.steps[step.reads[0]].kind == "convolution")
        dead, saturated = _count(z, step.activation)
        layer = structure.steps[step.reads[0]].name
        found.append(Units(layer, z.shape[1], dead, saturated, step.activation.name))
    return tuple(found)


def _by_unit(z: Tensor, channels: bool) -> Tensor:
    """``(samples and positions, units)``; the units of a convolution are its channels, else the last axis has them."""
    if channels:
        z = z.movedim(1, -1)
    return z.reshape(-1, z.shape[-1])


def _count(z: Tensor, activation: ActivationFacts) -> tuple[int, int]:
    """Units with one output for all samples, and units in the flat part of a saturating activation."""
    out = activation(z).to(z)  # a comparison gives truth values
    step = STEP * torch.maximum(z.abs(), z.abs().mean(0)).clamp_min(torch.finfo(z.dtype).tiny)
    slope = (activation(z + step).to(z) - activation(z - step).to(z)) / (2 * step)
    spread = out.amax(0) - out.amin(0)
    dead = spread <= 1e-12 * out.abs().amax().clamp_min(1e-300)
    if not activation.saturates:
        return int(dead.sum()), 0
    largest = activation.lipschitz or float(slope.abs().max())
    flat = (slope.abs() < FLAT_SLOPE * largest).double().mean(0) > SHARE
    # a ReLU-like unit is flat on one side by design; it is dead rather than saturated when that side is all it sees
    return int(dead.sum()), int((flat & ~dead).sum())
