"""Activations over balls: value, slope and second derivative, each holding the exact one.

At a kink the second derivative does not exist: a ball that touches one is refused, except where the two sides fit
together to second order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

from thalweg.certificates.intervals import elementary
from thalweg.certificates.intervals.arithmetic import Ball, ball, known_to_twelve_digits, lower, upper
from thalweg.certificates.intervals.elementary import Jet, Rule
from thalweg.foundation import NotApplicableError
from thalweg.structure import ActivationFacts, activation_facts, elu_facts, leaky_relu_facts, power_facts
from thalweg.structure.activation_match import Polynomial, TwoSidedPower

__all__ = ["AtKinkError", "enclosure_of"]


class AtKinkError(Exception):
    """A ball holds a point where the second derivative does not exist."""


def enclosure_of(facts: ActivationFacts) -> Rule:
    """How to enclose an activation.

    Args:
        facts: of a recognised activation, perhaps rescaled or of a family (powers, leaky ReLU, ELU, polynomials, ...).

    Raises:
        NotApplicableError: for one that no enclosure is written for.

    >>> from thalweg.certificates.intervals.arithmetic import precision
    >>> with precision():
    ...     jet = enclosure_of(activation_facts("tanh"))(ball(0.0))
    >>> float(jet.value), float(jet.slope)
    (0.0, 1.0)
    """
    rule = _rule_of(facts.function) if facts.recognised else None
    if rule is None:
        raise NotApplicableError(f"no interval enclosure is written for the activation {facts.name}")
    return rule


def _rule_of(function: Any) -> Rule | None:
    known = _registered().get(function) if isinstance(function, Hashable) else None
    if known is not None:
        return known
    if isinstance(function, Polynomial):
        return partial(elementary.polynomial, tuple(map(known_to_twelve_digits, function.coefficients)))
    if isinstance(function, TwoSidedPower):
        return partial(_two_sided, function.left, function.right, function.exponent)
    if isinstance(function, partial):
        family = _families().get(function.func)
        return None if family is None else family(**function.keywords)
    if all(hasattr(function, name) for name in ("function", "inner", "outer")):  # rescaled facts
        inside = _rule_of(function.function)
        if inside is not None:
            return partial(
                elementary.rescaled,
                inside,
                known_to_twelve_digits(function.inner),
                known_to_twelve_digits(function.outer),
            )
    return None


@cache
def _registered() -> dict[Any, Rule]:
    return {activation_facts(name).function: rule for name, rule in _BY_NAME.items()}


@cache
def _families() -> dict[Any, Callable[..., Rule]]:
    """Makers of rules, by the function that a family fills in."""

    def of(facts: ActivationFacts) -> Any:
        assert isinstance(facts.function, partial)
        return facts.function.func

    return {
        of(activation_facts("softplus")): lambda beta, threshold: partial(_torch_softplus, beta, threshold),
        of(leaky_relu_facts(0.5)): lambda negative_slope: partial(_two_sided, -negative_slope, 1.0, 1),
        of(power_facts(4)): lambda exponent: partial(elementary.power, exponent),
        of(elu_facts(2.0)): lambda alpha, scale: partial(_elu, alpha, scale),
    }


# -- those with kinks --------------------------------------------------------------------------------------------------


def _pieces(z: Ball, corners: tuple[float, ...], rules: tuple[Rule, ...]) -> Jet:
    """The piece that a ball lies in, with one rule more than there are corners.

    Raises:
        AtKinkError: if it touches a corner.
    """
    for corner, rule in zip(corners, rules, strict=False):
        if z < corner:
            return rule(z)
        if not z > corner:
            raise AtKinkError(f"a pre-activation in [{lower(z):.4g}, {upper(z):.4g}] may meet the kink at {corner:g}")
    return rules[-1](z)


def _two_sided(left: float, right: float, exponent: int, z: Ball) -> Jet:
    """``right z**k`` for z > 0 and ``left |z|**k`` for z < 0."""
    sides = (
        partial(elementary.rescaled, partial(elementary.power, exponent), ball(-1), known_to_twelve_digits(left)),
        partial(elementary.rescaled, partial(elementary.power, exponent), ball(1), known_to_twelve_digits(right)),
    )
    if exponent > 2 and z.contains(0):  # continuous to second order
        below, above = (side(z) for side in sides)
        return Jet(*(one.union(other) for one, other in zip(below, above, strict=True)))
    return _pieces(z, (0.0,), sides)


def _field(z: Ball) -> Jet:
    """``sigmoid(4 z) + softplus(z)``."""
    step, ramp = elementary.sigmoid(4 * z), _torch_softplus(1.0, 20.0, z)
    return Jet(step.value + ramp.value, 4 * step.slope + ramp.slope, 16 * step.curvature + ramp.curvature)


def _elu(alpha: float, scale: float, z: Ball) -> Jet:
    a, c = known_to_twelve_digits(alpha), known_to_twelve_digits(scale)

    def left(z: Ball) -> Jet:
        value = c * a * z.exp()
        return Jet(c * a * z.expm1(), value, value)

    return _pieces(z, (0.0,), (left, partial(elementary.line, c, 0)))


def _torch_softplus(beta: float, threshold: float, z: Ball) -> Jet:
    """``log(1 + exp(beta z)) / beta``, and the identity where ``beta z`` exceeds the threshold, as torch has it."""
    b = known_to_twelve_digits(beta)
    smooth = partial(elementary.rescaled, elementary.softplus, b, 1 / b)
    if threshold == float("inf"):
        return smooth(z)
    try:
        _pieces(b * z, (threshold,), (elementary.identity, elementary.identity))
    except AtKinkError:
        raise AtKinkError(
            f"a pre-activation in [{lower(z):.4g}, {upper(z):.4g}] may meet {threshold / beta:g}, where torch goes "
            "over from softplus to the identity"
        ) from None
    return smooth(z) if b * z < threshold else elementary.identity(z)


def _softsign(z: Ball) -> Jet:
    def right(z: Ball) -> Jet:
        inverse = 1 / (1 + z)
        return Jet(z * inverse, inverse * inverse, -2 * inverse * inverse * inverse)

    return _pieces(z, (0.0,), (partial(elementary.rescaled, right, ball(-1), ball(-1)), right))


def _clipped(low: float, high: float, z: Ball) -> Jet:
    return _pieces(
        z, (low, high), (partial(elementary.line, 0, low), elementary.identity, partial(elementary.line, 0, high))
    )


def _hardswish(z: Ball) -> Jet:
    inside = partial(elementary.polynomial, (ball(0), ball(1) / 2, ball(1) / 6))
    return _pieces(z, (-3.0, 3.0), (partial(elementary.line, 0, 0), inside, elementary.identity))


_BY_NAME: dict[str, Rule] = {
    "identity": elementary.identity,
    "tanh": elementary.tanh,
    "sigmoid": elementary.sigmoid,
    "erf(z/sqrt2)": elementary.erf_scaled,
    "erf": elementary.erf,
    "arctan": elementary.arctan,
    "gaussian": elementary.gaussian,
    "normal_cdf": elementary.normal,
    "softplus": partial(_torch_softplus, 1.0, 20.0),
    "log(1+exp(z))": partial(_torch_softplus, 1.0, float("inf")),
    "sigmoid(4z)+softplus(z)": _field,
    "gelu": elementary.gelu,
    "gelu(tanh)": elementary.gelu_tanh,
    "silu": elementary.silu,
    "mish": elementary.mish,
    "exp": elementary.exp,
    "sin": elementary.sin,
    "cos": elementary.cos,
    "square": partial(elementary.power, 2),
    "cube": partial(elementary.power, 3),
    "relu": partial(_two_sided, 0.0, 1.0, 1),
    "leaky_relu": partial(_two_sided, -0.01, 1.0, 1),
    "abs": partial(_two_sided, 1.0, 1.0, 1),
    "elu": partial(_elu, 1.0, 1.0),
    "softsign": _softsign,
    "hardtanh": partial(_clipped, -1.0, 1.0),
    "relu6": partial(_clipped, 0.0, 6.0),
    "hardswish": _hardswish,
}
