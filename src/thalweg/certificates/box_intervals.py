"""Intervals of many boxes at once: outputs of a small network, and their slopes, over boxes of parameters.

Ends are floats, moved outwards by a bound of the rounding error: hundreds of boxes and all samples go through one
operation of torch. What holds for every parameter vector of a box holds of its intervals.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.rounding import TINY, UNIT, gamma
from thalweg.foundation import NotApplicableError
from thalweg.structure import ActivationFacts, DenseNetwork
from thalweg.structure.activations import registered_activations

__all__ = ["Interval", "activate", "enclose_outputs", "magnitude", "multiply", "total", "widened"]

ULPS = 8
"""Errors of elementary functions, in units of roundoff."""


class Interval(NamedTuple):
    """Lower and upper ends, tensors of one shape."""

    low: Tensor
    high: Tensor

    @property
    def middle(self) -> Tensor:
        """A point inside."""
        return self.low + (self.high - self.low) / 2

    @property
    def radius(self) -> Tensor:
        """No point is further from the middle."""
        middle = self.middle
        return torch.maximum(self.high - middle, middle - self.low) * (1 + 4 * UNIT) + TINY

    def at(self, shape: tuple[int, ...]) -> Interval:
        """In another shape."""
        return Interval(self.low.reshape(shape), self.high.reshape(shape))


def widened(low: Tensor, high: Tensor, error: Tensor | float) -> Interval:
    """The ends moved outwards by an error, and for the rounding of that."""
    slack = 2 * UNIT * torch.maximum(low.abs(), high.abs()) + TINY
    return Interval(low - (error + slack), high + (error + slack))


def magnitude(x: Interval) -> Tensor:
    """Largest absolute value."""
    return torch.maximum(x.low.abs(), x.high.abs())


def multiply(x: Interval, y: Interval) -> Interval:
    """Products of all numbers of one with all of the other.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> found = multiply(Interval(-one, 2 * one), Interval(3 * one, 3 * one))
    >>> bool(found.low <= -3) and bool(found.high >= 6)
    True
    """
    products = torch.stack(torch.broadcast_tensors(x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high))
    return widened(products.amin(0), products.amax(0), 0.0)


def total(x: Interval, dim: int) -> Interval:
    """Sums along a dimension."""
    slack = gamma(x.low.shape[dim] + 2)
    return widened(x.low.sum(dim), x.high.sum(dim), slack * magnitude(x).sum(dim))


def activate(facts: ActivationFacts, z: Interval) -> tuple[Interval, Interval]:
    """Values of an activation over intervals, and its slopes (at corners: all between those on either side).

    Raises:
        NotApplicableError: where no finite Lipschitz constant is known.
    """
    lipschitz = facts.lipschitz
    if not facts.recognised or lipschitz is None or not math.isfinite(lipschitz) or (facts.smoothness or 0) < 0:
        raise NotApplicableError(f"no finite Lipschitz constant is known of the activation {facts.name}")
    # constants of functions that are not registered are known to twelve digits
    inexact = ULPS * UNIT if any(facts is each for each in registered_activations()) else 4e-12
    largest = magnitude(z)
    if facts.monotone:
        low, high = facts(z.low), facts(z.high)
    else:
        middle, reach = facts(z.middle), lipschitz * z.radius * (1 + 4 * UNIT)
        low, high = middle - reach, middle + reach
    error = 2 * inexact * (torch.maximum(low.abs(), high.abs()) + lipschitz * largest + abs(facts.value_at_zero))
    if "softplus" in facts.name:  # torch goes over to the asymptote at 20
        error = error + torch.where(z.high > 15, torch.exp(-z.low.clamp(15.0, 20.0)), torch.zeros_like(error))
    values = widened(low, high, error)
    if facts.infimum is not None and facts.supremum is not None:
        margin = 4e-12 * (1 + max(abs(end) for end in (facts.infimum, facts.supremum, 0.0) if math.isfinite(end)))
        values = Interval(values.low.clamp_min(facts.infimum - margin), values.high.clamp_max(facts.supremum + margin))
    return values, _slopes(facts, lipschitz, z, inexact)


def _slopes(facts: ActivationFacts, lipschitz: float, z: Interval, inexact: float) -> Interval:
    margin = 2 * inexact * (1 + lipschitz)
    least = 0.0 if facts.monotone else -lipschitz
    ends = torch.full_like(z.low, least - margin), torch.full_like(z.low, lipschitz + margin)
    if facts.piecewise_linear and facts.kinks:
        return _straight(facts, z, margin)
    smooth = facts.smoothness is not None and facts.smoothness >= 1
    if not smooth or facts.curvature is None or not math.isfinite(facts.curvature):
        return Interval(*ends)
    reach = facts.curvature * z.radius * (1 + 1e-9) + 4 * margin + 4 * inexact * facts.curvature * magnitude(z)
    middle = facts.derivative(z.middle)
    return Interval(torch.maximum(middle - reach, ends[0]), torch.minimum(middle + reach, ends[1]))


def _straight(facts: ActivationFacts, z: Interval, margin: float) -> Interval:
    kinks = sorted(facts.kinks or ())
    inside = [kinks[0] - 1, *((a + b) / 2 for a, b in itertools.pairwise(kinks)), kinks[-1] + 1]
    slopes = facts.derivative(torch.tensor(inside, dtype=torch.float64)).tolist()
    ends = [-math.inf, *kinks, math.inf]
    low, high = torch.full_like(z.low, math.inf), torch.full_like(z.low, -math.inf)
    for slope, start, stop in zip(slopes, ends[:-1], ends[1:], strict=True):
        near = 4e-12 * max(abs(end) if math.isfinite(end) else 0.0 for end in (start, stop))
        touched = (z.high >= start - near) & (z.low <= stop + near)
        low = torch.where(touched, low.clamp_max(slope - margin), low)
        high = torch.where(touched, high.clamp_min(slope + margin), high)
    return Interval(low, high)


def enclose_outputs(
    network: DenseNetwork, boxes: Interval, features: Float[Tensor, "M d"]
) -> tuple[Interval, Interval]:
    """Outputs over boxes of parameters, and their derivatives by each parameter.

    Args:
        network: the perceptron.
        boxes: ``(B, P)``.
        features: what the first layer sees, exact.

    Returns:
        Values ``(B, M, C)`` and derivatives ``(B, M, C, P)``.
    """
    count, size = boxes.low.shape
    x = Interval(*(features.expand(count, *features.shape),) * 2)
    slopes = Interval(*(torch.zeros(count, *features.shape, size, dtype=torch.float64),) * 2)
    ends = [network.matrices(end) for end in boxes]
    for number, layer in enumerate(network.layers):
        (low, bias_low), (high, bias_high) = ends[0][number], ends[1][number]
        weight = Interval(low.expand(count, *low.shape[-2:]), high.expand(count, *high.shape[-2:]))
        weight = weight.at((count, 1, *layer.weight_coordinates.shape))
        z = total(multiply(weight, Interval(x.low.unsqueeze(2), x.high.unsqueeze(2))), -1)
        own = _one_hot(layer.weight_coordinates, size)  # (out, in, P)
        before = Interval(slopes.low.unsqueeze(2), slopes.high.unsqueeze(2))  # (B, M, 1, in, P)
        through = multiply(Interval(weight.low.unsqueeze(-1), weight.high.unsqueeze(-1)), before)
        direct = multiply(Interval(own, own), Interval(x.low[:, :, None, :, None], x.high[:, :, None, :, None]))
        dz = total(Interval(torch.cat([through.low, direct.low], -2), torch.cat([through.high, direct.high], -2)), -2)
        if bias_low is not None and bias_high is not None and layer.bias_coordinates is not None:
            unit = _one_hot(layer.bias_coordinates, size)
            place = (-1, 1, layer.out_features)
            z = widened(z.low + bias_low.reshape(place), z.high + bias_high.reshape(place), 0.0)
            dz = widened(dz.low + unit, dz.high + unit, 0.0)
        if layer.activation.name == "identity":
            x, slopes = z, dz
        else:
            x, steep = activate(layer.activation, z)
            slopes = multiply(Interval(steep.low.unsqueeze(-1), steep.high.unsqueeze(-1)), dz)
    return x, slopes


def _one_hot(coordinates: Tensor, size: int) -> Tensor:
    """``(..., P)``: one where an entry is that coordinate of theta; all zero where it is frozen."""
    return (coordinates.unsqueeze(-1) == torch.arange(size)).to(torch.float64)
