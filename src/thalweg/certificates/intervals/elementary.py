"""Smooth scalar functions over balls: value, slope and second derivative, each holding the exact one.

>>> from thalweg.certificates.intervals.arithmetic import ball, precision
>>> with precision():
...     float(sin(ball(0.0)).slope)
1.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from thalweg.certificates.intervals.arithmetic import Ball, ball, flint

__all__ = [
    "Jet",
    "Rule",
    "after",
    "arctan",
    "cos",
    "erf",
    "erf_scaled",
    "exp",
    "gated",
    "gaussian",
    "gelu",
    "gelu_tanh",
    "identity",
    "line",
    "mish",
    "normal",
    "polynomial",
    "power",
    "raised",
    "rescaled",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "tanh",
]


class Jet(NamedTuple):
    """Value, first and second derivative."""

    value: Ball
    slope: Ball
    curvature: Ball


Rule = Callable[[Ball], Jet]
"""A scalar function over balls."""


def identity(z: Ball) -> Jet:
    """``z``."""
    return Jet(z, ball(1), ball(0))


def tanh(z: Ball) -> Jet:
    """``tanh(z)``."""
    t = z.tanh()
    slope = 1 - t * t
    return Jet(t, slope, -2 * t * slope)


def sigmoid(z: Ball) -> Jet:
    """``1 / (1 + exp(-z))``, without overflow at any z."""
    t = (z / 2).tanh()
    slope = (1 - t * t) / 4
    return Jet((1 + t) / 2, slope, -t * slope)


def softplus(z: Ball) -> Jet:
    """``log(1 + exp(z))``."""
    first = sigmoid(z)
    value = z + (-z).exp().log1p() if float(z) > 0 else z.exp().log1p()  # either form holds; each is sharp on one side
    return Jet(value, first.value, first.slope)


def normal(z: Ball) -> Jet:
    """The normal distribution function."""
    arb = flint().arb
    density = (-z * z / 2).exp() / (2 * arb.pi()).sqrt()
    return Jet((-z / arb(2).sqrt()).erfc() / 2, density, -z * density)


def erf_scaled(z: Ball) -> Jet:
    """``erf(z / sqrt 2)``."""
    value = (z / flint().arb(2).sqrt()).erf()
    density = normal(z)
    return Jet(value, 2 * density.slope, 2 * density.curvature)


def erf(z: Ball) -> Jet:
    """``erf(z)``."""
    slope = 2 * (-z * z).exp() / flint().arb.pi().sqrt()
    return Jet(z.erf(), slope, -2 * z * slope)


def arctan(z: Ball) -> Jet:
    """``arctan(z)``."""
    slope = 1 / (1 + z * z)
    return Jet(z.atan(), slope, -2 * z * slope * slope)


def gaussian(z: Ball) -> Jet:
    """``exp(-z^2)``."""
    value = (-z * z).exp()
    return Jet(value, -2 * z * value, (4 * z * z - 2) * value)


def gated(z: Ball, gate: Jet) -> Jet:
    """``z gate(z)``."""
    return Jet(z * gate.value, gate.value + z * gate.slope, 2 * gate.slope + z * gate.curvature)


def gelu(z: Ball) -> Jet:
    """``z Phi(z)`` with the normal distribution function."""
    return gated(z, normal(z))


def silu(z: Ball) -> Jet:
    """``z sigmoid(z)``."""
    return gated(z, sigmoid(z))


def mish(z: Ball) -> Jet:
    """``z tanh(softplus(z))``."""
    return gated(z, after(tanh, softplus(z)))


def gelu_tanh(z: Ball) -> Jet:
    """GELU by the approximation that ends in a tanh."""
    arb = flint().arb
    factor, cubic = (2 / arb.pi()).sqrt(), arb("0.044715")
    inside = Jet(factor * (z + cubic * z * z * z), factor * (1 + 3 * cubic * z * z), 6 * factor * cubic * z)
    t = after(tanh, inside)
    return gated(z, Jet((1 + t.value) / 2, t.slope / 2, t.curvature / 2))


def exp(z: Ball) -> Jet:
    """``exp(z)``."""
    value = z.exp()
    return Jet(value, value, value)


def sin(z: Ball) -> Jet:
    """``sin(z)``."""
    sine, cosine = z.sin(), z.cos()
    return Jet(sine, cosine, -sine)


def cos(z: Ball) -> Jet:
    """``cos(z)``."""
    sine, cosine = z.sin(), z.cos()
    return Jet(cosine, -sine, -cosine)


def raised(z: Ball, exponent: int) -> Ball:
    """``z**exponent`` by multiplication; the operator goes by the logarithm where z may be negative."""
    value = ball(1)
    for _ in range(exponent):
        value = value * z
    return value


def power(exponent: int, z: Ball) -> Jet:
    """``z**exponent`` for an exponent that is not negative."""
    n = exponent
    return Jet(raised(z, n), n * raised(z, n - 1), n * (n - 1) * raised(z, n - 2))


def polynomial(coefficients: tuple[Ball, ...], z: Ball) -> Jet:
    """``sum_k coefficients[k] z**k``."""
    value, slope, half = ball(0), ball(0), ball(0)
    for coefficient in reversed(coefficients):  # Horner's rule for the first three Taylor coefficients
        half = half * z + slope
        slope = slope * z + value
        value = value * z + coefficient
    return Jet(value, slope, 2 * half)


def after(outer: Rule, inner: Jet) -> Jet:
    """The chain rule."""
    found = outer(inner.value)
    return Jet(
        found.value,
        found.slope * inner.slope,
        found.curvature * inner.slope * inner.slope + found.slope * inner.curvature,
    )


def rescaled(rule: Rule, inner: Ball, outer: Ball, z: Ball) -> Jet:
    """``outer rule(inner z)``."""
    found = rule(inner * z)
    return Jet(outer * found.value, outer * inner * found.slope, outer * inner * inner * found.curvature)


def line(slope: Ball | float, shift: Ball | float, z: Ball) -> Jet:
    """``slope z + shift``."""
    return Jet(slope * z + shift, ball(1) * slope, ball(0))
