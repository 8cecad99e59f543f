"""How fast a multilayer perceptron can change: bounds of its first three derivatives over a ball.

For a unit direction u in parameter space, layer by layer and with ``t`` the part of u in the layers before::

    |z'|   <= Z,    Z^2 = (|W| s1 Z_before)^2 + |a|^2 + 1
    |z''|  <= Q,    Q   = p/2 + sqrt(p^2/4 + q^2),  p = |W|_c s2 Z_before^2 + |W| s1 Q_before,  q = s1 Z_before
    |z'''| <= T,    T   = sqrt(p^2 + 9 q^2),  p = |W|_c (s3 Z^3 + 3 s2 Z Q) + |W| s1 T,  q = s2 Z^2 + s1 Q

(before in all of the last line), where s1, s2, s3 bound the derivatives of the activation, ``|W|`` is the 2-norm and
``|W|_c`` the largest norm of a column: for entrywise products ``|x y|_1 <= |x| |y|``, and ``|W x| <= |W|_c |x|_1``. By
Banach's theorem a symmetric multilinear form is as large on the diagonal as anywhere, so that Q is a Lipschitz constant
of the Jacobian of one sample and T of its second derivative. Over a ball of radius R the norms of weights grow by R,
those of activations by ``R s1 Z``. For one hidden layer without biases Q is at most ``s1 |x| + |W|_c s2 |x|^2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.activation_bounds import third_derivative_bound
from thalweg.certificates.forward import bounded_activations
from thalweg.certificates.rounding import gamma, operator_norm_above
from thalweg.foundation import NotApplicableError
from thalweg.structure import DenseLayer, DenseNetwork
from thalweg.structure.activations import ActivationFacts

__all__ = ["Growth", "growth"]


@dataclass(frozen=True)
class Growth:
    """Bounds of the derivatives of each sample's outputs along any unit direction, anywhere in a ball.

    Attributes:
        first: ``(N,)``, a Lipschitz constant of the outputs.
        second: ``(N,)``, one of the Jacobian.
        third: ``(N,)``, one of the second derivative; None where it was not asked for.
    """

    first: Float[Tensor, " N"]
    second: Float[Tensor, " N"]
    third: Float[Tensor, " N"] | None


@dataclass
class _Rates:
    """Bounds of the first derivatives of what one layer gives, ``(M,)`` each."""

    first: Tensor
    second: Tensor
    third: Tensor


class _Slopes:
    """Bounds of the derivatives of an activation."""

    def __init__(self, facts: ActivationFacts, order: int) -> None:
        self.third = 0.0
        if facts.name == "identity":
            self.first, self.second = 1.0, 0.0
            return
        smoothness = facts.smoothness
        if not facts.recognised or smoothness is None or smoothness < order - 1:
            raise NotApplicableError(f"it needs activations with {order - 1} continuous derivatives, not {facts.name}")
        first, second = facts.lipschitz, facts.curvature
        if first is None or second is None or not math.isfinite(first) or not math.isfinite(second):
            raise NotApplicableError(f"no bounds are known of slope and curvature of the activation {facts.name}")
        self.first, self.second = first, second
        if order > 2:
            self.third = third_derivative_bound(facts)

    def after(self, rates: _Rates) -> _Rates:
        """What the activation makes of the rates of its argument."""
        z, q, t = rates.first, rates.second, rates.third
        return _Rates(
            self.first * z,
            self.second * z**2 + self.first * q,
            self.third * z**3 + 3 * self.second * z * q + self.first * t,
        )


def growth(network: DenseNetwork, theta: Float[Tensor, " P"], inputs: Any, radius: float, *, order: int = 2) -> Growth:
    """Bounds of the derivatives over the ball of a radius about theta.

    Args:
        network: the perceptron.
        theta: ``(P,)``.
        inputs: of the network.
        radius: of the ball.
        order: 2, or 3 for the third derivative too.

    Raises:
        NotApplicableError: where layers share parameters, or an activation has corners or derivatives not known.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> network = trace(nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)), torch.ones(3, 1)).as_dense()
    >>> growth(network, torch.zeros(7, dtype=torch.float64), torch.ones(3, 1), 0.0).second
    tensor([1.4142, 1.4142, 1.4142], dtype=torch.float64)
    """
    if network.tied:
        raise NotApplicableError("it needs layers that share no parameters")
    slopes = [_Slopes(layer.activation, order) for layer in network.layers]
    features = network.features(inputs)
    activations = bounded_activations(network, theta, features)
    entering = _above(features.norm(dim=1), features.shape[1])
    before = _Rates(*(torch.zeros_like(entering) for _ in range(3)))
    for number, (layer, (weight, _)) in enumerate(zip(network.layers, network.matrices(theta), strict=True)):
        previous = slopes[number - 1] if number else None
        rates = _through(layer, weight, radius, entering, before, previous)
        value, error = activations[number]
        reached = _above((value.abs() + error).norm(dim=1), value.shape[1])
        entering = _capped(reached + radius * slopes[number].first * rates.first, layer)
        before = rates
    last = slopes[-1].after(before)
    per_sample = [_above(part.reshape(-1, network.rows_per_sample).norm(dim=1), 64) for part in vars(last).values()]
    slack = 1 + 1e-9  # roundings of the few hundred operations above, all of numbers that are not negative
    first, second, third = (part * slack for part in per_sample)
    return Growth(first, second, third if order > 2 else None)


def _through(
    layer: DenseLayer, weight: Tensor, radius: float, entering: Tensor, before: _Rates, slopes: _Slopes | None
) -> _Rates:
    """Rates of what a layer computes before its activation, from those of the layer before."""
    moves = bool((layer.weight_coordinates >= 0).any())
    offset = 1.0 if layer.bias_coordinates is not None and bool((layer.bias_coordinates >= 0).any()) else 0.0
    own = entering**2 * moves + offset
    if slopes is None:
        return _Rates(own.sqrt(), torch.zeros_like(own), torch.zeros_like(own))
    grows = radius if moves else 0.0
    whole = operator_norm_above(weight) + grows
    column = float(_above(weight.norm(dim=0), weight.shape[0]).max()) + grows
    z, q, t = before.first, before.second, before.third
    s1, s2, s3 = slopes.first, slopes.second, slopes.third
    bent = column * s2 * z**2 + whole * s1 * q
    twisted = column * (s3 * z**3 + 3 * s2 * z * q) + whole * s1 * t
    cross = s1 * z * moves
    crossed = (s2 * z**2 + s1 * q) * moves
    return _Rates(
        ((whole * s1 * z) ** 2 + own).sqrt(),
        bent / 2 + (bent**2 / 4 + cross**2).sqrt(),
        (twisted**2 + 9 * crossed**2).sqrt(),
    )


def _capped(size: Tensor, layer: DenseLayer) -> Tensor:
    """Activations of a bounded function have bounded norm."""
    facts = layer.activation
    if not facts.bounded:
        return size
    assert facts.infimum is not None
    assert facts.supremum is not None
    most = max(abs(facts.infimum), abs(facts.supremum)) * math.sqrt(layer.out_features)
    return size.clamp_max(most * (1 + 1e-12))


def _above(norms: Tensor, terms: int) -> Tensor:
    return norms * (1 + 2 * gamma(terms + 4))
