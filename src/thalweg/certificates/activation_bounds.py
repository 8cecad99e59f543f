"""Bounds of the third derivative of activations."""

from __future__ import annotations

import math

from thalweg.foundation import NotApplicableError
from thalweg.structure.activations import ActivationFacts

__all__ = ["third_derivative_bound"]

_DENSITY_0 = 1 / math.sqrt(2 * math.pi)
_KNOWN = {
    "identity": 0.0,
    "tanh": 2.0,
    "sigmoid": 1 / 8,
    "softplus": 1 / (6 * math.sqrt(3)),
    "log(1+exp(z))": 1 / (6 * math.sqrt(3)),
    "sigmoid(4z)+softplus(z)": 8.0000305176145050,
    "erf": 4 / math.sqrt(math.pi),
    "erf(z/sqrt2)": 2 * _DENSITY_0,
    "normal_cdf": _DENSITY_0,
    "arctan": 2.0,
    "gaussian": 3.9035661455399021,
    "gelu": 0.77876963505573229,
    "gelu(tanh)": 0.77669145039854055,
    "silu": 0.30818151579647913,
    "mish": 0.58841204486901968,
    "sin": 1.0,
    "cos": 1.0,
}
"""Largest ``|sigma'''|`` by name. Those without a closed form were computed with 40 digits."""


def third_derivative_bound(facts: ActivationFacts) -> float:
    """An upper bound of ``|sigma'''|`` on the whole line.

    Raises:
        NotApplicableError: for an activation of which none is known.

    >>> from thalweg.structure import activation_facts
    >>> 2.0 <= third_derivative_bound(activation_facts("tanh")) < 2.0 + 1e-9
    True
    """
    if facts.name not in _KNOWN:
        raise NotApplicableError(f"no bound is known of the third derivative of the activation {facts.name}")
    return _KNOWN[facts.name] * (1 + 1e-12)
