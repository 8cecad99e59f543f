"""The activations Thalweg knows from the start: their functions, derivatives and facts.

Constants that have no closed form (the largest slope of SiLU, the least value of GELU) were computed with 30 digits;
the tests compare every declared fact with the function itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from thalweg.foundation import InvalidInputError
from thalweg.structure.activations import ActivationFacts, register_activation

__all__ = ["elu_facts", "leaky_relu_facts", "power_facts", "softplus_facts"]

_SQRT_2 = math.sqrt(2.0)
_DENSITY_0 = 1 / math.sqrt(2 * math.pi)


# -- functions and derivatives -----------------------------------------------------------------------------------------


def _identity(z: Tensor) -> Tensor:
    return z.clone()


def _tanh_1(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z) ** 2


def _tanh_2(z: Tensor) -> Tensor:
    t = torch.tanh(z)
    return -2 * t * (1 - t**2)


def _sigmoid_1(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)  # s(1 - s) would lose all digits for large z


def _sigmoid_2(z: Tensor) -> Tensor:
    return -torch.sigmoid(z) * torch.sigmoid(-z) * torch.tanh(z / 2)


def _density(z: Tensor) -> Tensor:
    return _DENSITY_0 * torch.exp(-z * z / 2)


def _normal(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / _SQRT_2)


def _erf(z: Tensor) -> Tensor:
    return torch.erf(z / _SQRT_2)


def _gaussian(z: Tensor) -> Tensor:
    return torch.exp(-z * z)


def _erf_1(z: Tensor) -> Tensor:
    return 2 * _density(z)


def _erf_2(z: Tensor) -> Tensor:
    return -2 * z * _density(z)


def _normal_2(z: Tensor) -> Tensor:
    return -z * _density(z)


def _softplus(z: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return functional.softplus(z, beta, threshold)


def _softplus_1(z: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.where(beta * z > threshold, torch.ones_like(z), torch.sigmoid(beta * z))


def _softplus_2(z: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.where(beta * z > threshold, torch.zeros_like(z), beta * _sigmoid_1(beta * z))


def _gelu_1(z: Tensor) -> Tensor:
    return _normal(z) + z * _density(z)


def _gelu_2(z: Tensor) -> Tensor:
    return (2 - z * z) * _density(z)


def _silu_1(z: Tensor) -> Tensor:
    return torch.sigmoid(z) + z * _sigmoid_1(z)


def _silu_2(z: Tensor) -> Tensor:
    return 2 * _sigmoid_1(z) + z * _sigmoid_2(z)


def _field(z: Tensor) -> Tensor:
    return torch.sigmoid(4 * z) + functional.softplus(z)


def _field_1(z: Tensor) -> Tensor:
    return 4 * _sigmoid_1(4 * z) + _softplus_1(z)


def _field_2(z: Tensor) -> Tensor:
    return 16 * _sigmoid_2(4 * z) + _softplus_2(z)


def _power(z: Tensor, exponent: int) -> Tensor:
    return z**exponent


def _power_1(z: Tensor, exponent: int) -> Tensor:
    return exponent * z ** (exponent - 1)


def _power_2(z: Tensor, exponent: int) -> Tensor:
    return exponent * (exponent - 1) * z ** (exponent - 2)


def _step(z: Tensor, left: float, right: float) -> Tensor:
    """The slope of a two-piece linear function; torch takes the left one at zero."""
    return torch.where(z > 0, torch.full_like(z, right), torch.full_like(z, left))


def _abs_1(z: Tensor) -> Tensor:
    return torch.sign(z)


def _elu(z: Tensor, alpha: float, scale: float) -> Tensor:
    return scale * functional.elu(z, alpha)


def _elu_1(z: Tensor, alpha: float, scale: float) -> Tensor:
    return torch.where(z > 0, torch.full_like(z, scale), scale * alpha * torch.exp(z.clamp(max=0)))


def _elu_2(z: Tensor, alpha: float, scale: float) -> Tensor:
    return torch.where(z >= 0, torch.zeros_like(z), scale * alpha * torch.exp(z.clamp(max=0)))


def _minus_sin(z: Tensor) -> Tensor:
    return -torch.sin(z)


def _minus_cos(z: Tensor) -> Tensor:
    return -torch.cos(z)


def _between(z: Tensor, low: float, high: float) -> Tensor:
    return ((z > low) & (z < high)).to(z.dtype)


# -- families ----------------------------------------------------------------------------------------------------------

_SMOOTH: dict[str, Any] = {"kinks": (), "smoothness": inf, "analytic": True}
_CORNER: dict[str, Any] = {"kinks": (0.0,), "smoothness": 0, "analytic": False}


def leaky_relu_facts(slope: float, name: str | None = None) -> ActivationFacts:
    """Facts of ``z`` for z > 0 and ``slope * z`` below, for any slope but 1.

    Raises:
        InvalidInputError: for a slope of 1, which is the identity.

    >>> leaky_relu_facts(0.2).lipschitz
    1.0
    """
    if slope == 1 or not math.isfinite(slope):
        raise InvalidInputError(f"a leaky ReLU has a finite slope other than 1, got {slope}")
    return ActivationFacts(
        name or f"leaky_relu({slope:.6g})",
        partial(functional.leaky_relu, negative_slope=slope),
        (partial(_step, left=slope, right=1.0), torch.zeros_like),
        parity="even" if slope == -1 else "none",
        homogeneity=1,
        limits=(-inf if slope > 0 else (0.0 if slope == 0 else inf), inf),
        infimum=-inf if slope > 0 else 0.0,
        supremum=inf,
        lipschitz=max(1.0, abs(slope)),
        curvature=0.0,
        monotone=slope >= 0,
        constant_on=(-inf, 0.0) if slope == 0 else None,
        reflection_slope=1 + slope,
        **_CORNER,
    )


def elu_facts(alpha: float, scale: float = 1.0, name: str | None = None) -> ActivationFacts:
    """Facts of ``scale * z`` for z > 0 and ``scale * alpha * (exp(z) - 1)`` below, for positive alpha and scale.

    Raises:
        InvalidInputError: for factors that are not positive.
    """
    if not (alpha > 0 and scale > 0):
        raise InvalidInputError(f"these facts hold for positive alpha and scale, got {alpha} and {scale}")
    return ActivationFacts(
        name or (f"elu({alpha:.6g})" if scale == 1 else f"{scale:.6g} elu({alpha:.6g})"),
        partial(_elu, alpha=alpha, scale=scale),
        (partial(_elu_1, alpha=alpha, scale=scale), partial(_elu_2, alpha=alpha, scale=scale)),
        parity="none",
        kinks=(0.0,),
        smoothness=1 if alpha == 1 else 0,
        limits=(-scale * alpha, inf),
        infimum=-scale * alpha,
        supremum=inf,
        analytic=False,
        lipschitz=scale * max(1.0, alpha),
        curvature=scale * alpha,
        monotone=True,
    )


def power_facts(exponent: int, name: str | None = None) -> ActivationFacts:
    """Facts of ``z**exponent`` for an integer exponent of at least 2.

    Raises:
        InvalidInputError: for any other exponent.
    """
    if exponent != int(exponent) or exponent < 2:
        raise InvalidInputError(f"these facts hold for integer exponents of at least 2, got {exponent}")
    even = exponent % 2 == 0
    return ActivationFacts(
        name or f"z**{exponent}",
        partial(_power, exponent=exponent),
        (partial(_power_1, exponent=exponent), partial(_power_2, exponent=exponent)),
        parity="even" if even else "odd",
        homogeneity=exponent,
        limits=(inf if even else -inf, inf),
        infimum=0.0 if even else -inf,
        supremum=inf,
        lipschitz=inf,
        curvature=2.0 if exponent == 2 else inf,
        monotone=not even,
        reflection_sum=None if even else 0.0,
        reflection_slope=0.0 if even else None,
        **_SMOOTH,
    )


def softplus_facts(beta: float = 1.0, threshold: float = 20.0, name: str | None = None) -> ActivationFacts:
    """Facts of ``log(1 + exp(beta z)) / beta`` as torch computes it: the identity where ``beta z > threshold``.

    The switch changes the value by less than ``exp(-threshold) / beta`` and is not counted as a kink; the facts are
    those of the mathematical function and hold for the computed one to that accuracy.

    Raises:
        InvalidInputError: for a beta that is not positive.
    """
    if not beta > 0:
        raise InvalidInputError(f"these facts hold for a positive beta, got {beta}")
    return ActivationFacts(
        name or (f"softplus(beta={beta:.6g})" if threshold == 20 else f"softplus(beta={beta:.6g}, {threshold:.6g})"),
        partial(_softplus, beta=beta, threshold=threshold),
        (partial(_softplus_1, beta=beta, threshold=threshold), partial(_softplus_2, beta=beta, threshold=threshold)),
        parity="none",
        limits=(0.0, inf),
        infimum=0.0,
        supremum=inf,
        lipschitz=1.0,
        curvature=beta / 4,
        monotone=True,
        reflection_slope=1.0,
        **_SMOOTH,
    )


# -- the table ---------------------------------------------------------------------------------------------------------

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
_SIGMOIDAL: dict[str, Any] = {"monotone": True, **_SMOOTH}


def _odd_sigmoidal(top: float) -> dict[str, Any]:
    return {
        "parity": "odd",
        "limits": (-top, top),
        "infimum": -top,
        "supremum": top,
        "reflection_sum": 0.0,
        **_SIGMOIDAL,
    }


def _gated(least: float) -> dict[str, Any]:
    """GELU, SiLU and their like: zero on the left, the identity on the right, with a dip between."""
    return {"parity": "none", "limits": (0.0, inf), "infimum": least, "supremum": inf, "monotone": False, **_SMOOTH}


_DECLARED = (
    ActivationFacts(
        "identity",
        _identity,
        (torch.ones_like, torch.zeros_like),
        parity="odd",
        homogeneity=1,
        limits=(-inf, inf),
        infimum=-inf,
        supremum=inf,
        lipschitz=1.0,
        curvature=0.0,
        monotone=True,
        reflection_sum=0.0,
        reflection_slope=2.0,
        **_SMOOTH,
    ),
    replace(leaky_relu_facts(0.0, "relu"), function=torch.relu),
    ActivationFacts(
        "tanh", torch.tanh, (_tanh_1, _tanh_2), lipschitz=1.0, curvature=4 / (3 * math.sqrt(3)), **_odd_sigmoidal(1.0)
    ),
    ActivationFacts(
        "sigmoid",
        torch.sigmoid,
        (_sigmoid_1, _sigmoid_2),
        parity="none",
        limits=(0.0, 1.0),
        infimum=0.0,
        supremum=1.0,
        lipschitz=0.25,
        curvature=1 / (6 * math.sqrt(3)),
        reflection_sum=1.0,
        **_SIGMOIDAL,
    ),
    ActivationFacts(
        "erf(z/sqrt2)",
        _erf,
        (_erf_1, _erf_2),
        lipschitz=2 * _DENSITY_0,
        curvature=2 * _DENSITY_0 * math.exp(-0.5),
        **_odd_sigmoidal(1.0),
    ),
    ActivationFacts(
        "erf",
        torch.erf,
        lipschitz=2 / math.sqrt(math.pi),
        curvature=4 / math.sqrt(math.pi) * math.sqrt(0.5) * math.exp(-0.5),
        **_odd_sigmoidal(1.0),
    ),
    ActivationFacts(
        "arctan", torch.arctan, lipschitz=1.0, curvature=9 / (8 * math.sqrt(3)), **_odd_sigmoidal(math.pi / 2)
    ),
    ActivationFacts(
        "gaussian",
        _gaussian,
        parity="even",
        limits=(0.0, 0.0),
        infimum=0.0,
        supremum=1.0,
        lipschitz=math.sqrt(2 / math.e),
        curvature=2.0,
        monotone=False,
        reflection_slope=0.0,
        **_SMOOTH,
    ),
    ActivationFacts(
        "normal_cdf",
        _normal,
        (_density, _normal_2),
        parity="none",
        limits=(0.0, 1.0),
        infimum=0.0,
        supremum=1.0,
        lipschitz=_DENSITY_0,
        curvature=_DENSITY_0 * math.exp(-0.5),
        reflection_sum=1.0,
        **_SIGMOIDAL,
    ),
    softplus_facts(name="softplus"),
    softplus_facts(threshold=inf, name="log(1+exp(z))"),
    ActivationFacts(
        "sigmoid(4z)+softplus(z)",
        _field,
        (_field_1, _field_2),
        parity="none",
        limits=(0.0, inf),
        infimum=0.0,
        supremum=inf,
        lipschitz=1.503915861395848712,
        curvature=1.7829781190252739187,
        **_SIGMOIDAL,
    ),
    ActivationFacts(
        "gelu",
        functional.gelu,
        (_gelu_1, _gelu_2),
        lipschitz=1.1289041451851547863,
        curvature=2 * _DENSITY_0,
        reflection_slope=1.0,
        **_gated(-0.16997120747990366169),
    ),
    ActivationFacts(
        "gelu(tanh)",
        partial(functional.gelu, approximate="tanh"),
        lipschitz=1.1289930686587717655,
        curvature=2 * _DENSITY_0,
        reflection_slope=1.0,
        **_gated(-0.17004075057125405064),
    ),
    ActivationFacts(
        "silu",
        functional.silu,
        (_silu_1, _silu_2),
        lipschitz=1.099839320128866917,
        curvature=0.5,
        reflection_slope=1.0,
        **_gated(-0.27846454276107379511),
    ),
    ActivationFacts(
        "mish",
        functional.mish,
        lipschitz=1.0884981612517278612,
        curvature=0.64420463723697242952,
        **_gated(-0.30884341301725040663),
    ),
    leaky_relu_facts(0.01, "leaky_relu"),
    ActivationFacts(
        "abs",
        torch.abs,
        (_abs_1, torch.zeros_like),
        parity="even",
        homogeneity=1,
        limits=(inf, inf),
        infimum=0.0,
        supremum=inf,
        lipschitz=1.0,
        curvature=0.0,
        monotone=False,
        reflection_slope=0.0,
        **_CORNER,
    ),
    elu_facts(1.0, name="elu"),
    elu_facts(_SELU_ALPHA, _SELU_SCALE, name="selu"),
    power_facts(2, "square"),
    power_facts(3, "cube"),
    ActivationFacts(
        "exp",
        torch.exp,
        (torch.exp, torch.exp),
        parity="none",
        limits=(0.0, inf),
        infimum=0.0,
        supremum=inf,
        lipschitz=inf,
        curvature=inf,
        **_SIGMOIDAL,
    ),
    ActivationFacts(
        "sin",
        torch.sin,
        (torch.cos, _minus_sin),
        parity="odd",
        infimum=-1.0,
        supremum=1.0,
        lipschitz=1.0,
        curvature=1.0,
        monotone=False,
        reflection_sum=0.0,
        **_SMOOTH,
    ),
    ActivationFacts(
        "cos",
        torch.cos,
        (_minus_sin, _minus_cos),
        parity="even",
        infimum=-1.0,
        supremum=1.0,
        lipschitz=1.0,
        curvature=1.0,
        monotone=False,
        reflection_slope=0.0,
        **_SMOOTH,
    ),
    ActivationFacts(
        "softsign",
        functional.softsign,
        parity="odd",
        kinks=(0.0,),
        smoothness=1,
        limits=(-1.0, 1.0),
        infimum=-1.0,
        supremum=1.0,
        analytic=False,
        lipschitz=1.0,
        curvature=2.0,
        monotone=True,
        reflection_sum=0.0,
    ),
    ActivationFacts(
        "hardtanh",
        functional.hardtanh,
        (partial(_between, low=-1.0, high=1.0), torch.zeros_like),
        parity="odd",
        kinks=(-1.0, 1.0),
        smoothness=0,
        limits=(-1.0, 1.0),
        infimum=-1.0,
        supremum=1.0,
        analytic=False,
        lipschitz=1.0,
        curvature=0.0,
        monotone=True,
        constant_on=(-inf, -1.0),
        reflection_sum=0.0,
    ),
    ActivationFacts(
        "relu6",
        functional.relu6,
        (partial(_between, low=0.0, high=6.0), torch.zeros_like),
        parity="none",
        kinks=(0.0, 6.0),
        smoothness=0,
        limits=(0.0, 6.0),
        infimum=0.0,
        supremum=6.0,
        analytic=False,
        lipschitz=1.0,
        curvature=0.0,
        monotone=True,
        constant_on=(-inf, 0.0),
    ),
    ActivationFacts(
        "hardswish",
        functional.hardswish,
        parity="none",
        kinks=(-3.0, 3.0),
        smoothness=0,
        limits=(0.0, inf),
        infimum=-0.375,
        supremum=inf,
        analytic=False,
        lipschitz=1.5,
        curvature=1 / 3,
        monotone=False,
        constant_on=(-inf, -3.0),
        reflection_slope=1.0,
    ),
)
for _facts in _DECLARED:
    register_activation(_facts, check=False)  # the tests check every one, and more thoroughly
