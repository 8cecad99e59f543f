"""Averages over Gaussian inputs of products of two units, in closed form and stable where vectors meet.

For ``x ~ N(0, I)``: ``arc_cosine_kernel(w, v) = E[relu(w.x) relu(v.x)]`` and ``erf_kernel(w, v, b, c) = E[s(w.x + b)
s(v.x + c)]`` with ``s(z) = erf(z / sqrt 2) = 2 Phi(z) - 1``. These are written so that nested derivatives stay
accurate, and finite, at parallel, antiparallel and vanishing vectors. `relu_kernel` has biases in both units; its
docstring says how near to parallel vectors it can be trusted.
"""

from __future__ import annotations

from functools import cache
from math import pi, sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["arc_cosine_kernel", "erf_kernel", "erf_mean", "relu_kernel", "relu_mean", "relu_square"]

_MEETING, _STEEPNESS = 0.12, 160.0
"""Squared sine at which two forms of the kernel change places, and how fast: at 0 and 0.24 only one has a weight."""

HELD = 1e-5
"""Least sine of the angle of two vectors in the kernel of biased ReLUs."""

_SERIES = np.cumprod([1 / 3, *(2 * n / (2 * n + 3) for n in range(1, 16))]).tolist()
"""``(2n)!! / (2n+3)!!``: Taylor coefficients of ``(sin a - a cos a) / sin(a)^3`` in the squared sine."""


def arc_cosine_kernel(w: Float[Tensor, "*#n d"], v: Float[Tensor, "*#n d"]) -> Float[Tensor, "*#n"]:
    """``E[relu(w.x) relu(v.x)] = |w||v| (sin t + (pi - t) cos t) / (2 pi)``, t the angle (Cho and Saul 2009, order 1).

    The kernel is twice continuously differentiable in w away from zero, not three times where w and v are
    (anti)parallel. Derivatives up to the second are accurate to rounding there; exactly there, where third ones do not
    exist, the term that jumps is left out. At ``w = 0``, where there is a corner, the gradient is the mean of those on
    opposite sides.

    Args:
        w: ``(*n, d)``.
        v: ``(*n, d)``, broadcast against w.

    >>> float(arc_cosine_kernel(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0])))
    12.5
    """
    a, length_w = _direction(w)
    b, length_v = _direction(v)
    cosine, dot = (a * b).sum(-1), (w * v).sum(-1)
    sine_squared = ((b - cosine.unsqueeze(-1) * a) ** 2).sum(-1)
    # The form for small sines and the other one agree to rounding where they meet, so any smooth weight may blend them.
    # A comparison instead would look like a kink, to a reader and to kink detection.
    near = (1 - torch.tanh(_STEEPNESS * (sine_squared - _MEETING))) / 2
    side = torch.tanh(40 * cosine)  # the sign of the cosine wherever `near` is not zero
    scale = length_w * length_v
    even_near = pi / 2 * side * dot + scale * _cubic(sine_squared)
    even_far = scale * _even(sine_squared, cosine)
    return (pi / 2 * dot + near * even_near + (1 - near) * even_far) / (2 * pi)


def _even(sine_squared: Tensor, cosine: Tensor) -> Tensor:
    """``sin t + (pi/2 - t) cos t``, what is even in the cosine; its derivatives lose their digits at small sines."""
    sine = (sine_squared + _tiny(sine_squared)).sqrt()
    return sine + cosine * torch.atan2(cosine, sine)


def _cubic(sine_squared: Tensor) -> Tensor:
    """The same less ``pi/2 |cos t|``: ``sin a - a cos a`` of the small angle a to the line of the other vector.

    The square root enters only through its third power: that keeps second derivatives accurate.
    """
    powers, top = torch.stack([torch.ones_like(sine_squared), sine_squared]), sine_squared**2
    while len(powers) < len(_SERIES):  # by doubling: few operations, of which nested derivatives make many
        powers, top = torch.cat([powers, top * powers]), top**2
    series = torch.tensordot(torch.tensor(_SERIES, dtype=powers.dtype, device=powers.device), powers, dims=1)
    return (sine_squared + _tiny(sine_squared)) ** 1.5 * series


def _tiny(like: Tensor) -> float:
    """Too small to be seen in any result, large enough for finite derivatives of roots at zero up to the fourth."""
    return float(torch.finfo(like.dtype).eps) ** 2.5


def _direction(w: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector and length; of a vanishing vector zero and zero, with zero derivative of the length."""
    squared = (w**2).sum(-1)
    there = ~torch.logical_not(torch.linalg.vector_norm(w.detach(), dim=-1))  # so kink detection measures the length
    length = torch.where(there, squared, 1.0).sqrt()
    return w / length.unsqueeze(-1), torch.where(there, length, 0.0)


def erf_kernel(
    w: Float[Tensor, "*#n d"],
    v: Float[Tensor, "*#n d"],
    b: Float[Tensor, "*#n"] | None = None,
    c: Float[Tensor, "*#n"] | None = None,
) -> Float[Tensor, "*#n"]:
    """``E[s(w.x + b) s(v.x + c)]``, s the function ``erf(z / sqrt 2)``.

    Without biases it is ``2/pi * arcsin(w.v / sqrt((1 + |w|^2)(1 + |v|^2)))`` (Williams 1997), as an arctangent: the
    tangent is ``w.v / sqrt(1 + |w|^2 + |v|^2 + |w|^2 |v|^2 - (w.v)^2)``; the last difference is summed as squares
    (Lagrange's identity), so nothing cancels at large weights.

    With biases it is ``s(h) s(k) + 2/pi I``, with ``h = b / sqrt(1 + |w|^2)``, k likewise, and I the integral over the
    correlation of the bivariate normal density. With t the tangent and y the argument of a hyperbolic sine::

        I = exp(-(h^2 + k^2) / 4)  int_0^{asinh t}  exp(-((h - k)^2 e^{2y} + (h + k)^2 e^{-2y}) / 8) / cosh(y)  dy

    whose integrand varies over lengths of one, however large weights and biases are; Gauss-Legendre quadrature with 96
    nodes is exact to ``1e-14`` while ``|t| <= 1e3``, and t is at most ``|w| |v| / sqrt(1 + |w|^2 + |v|^2)``.

    Args:
        w: ``(*n, d)``.
        v: ``(*n, d)``, broadcast against w.
        b: ``(*n)``, of w; None for zero.
        c: ``(*n)``, of v; None for zero.

    >>> round(float(erf_kernel(torch.tensor([0.8]), torch.tensor([1.7]))), 6)
    0.361977
    """
    tangent = _tangent(w, v)
    if b is None and c is None:
        return 2 / pi * torch.atan(tangent)
    zero = torch.zeros_like(tangent)
    h = zero if b is None else b / (1 + (w**2).sum(-1)).sqrt()
    k = zero if c is None else c / (1 + (v**2).sum(-1)).sqrt()
    means = torch.erf(h / sqrt(2)) * torch.erf(k / sqrt(2))
    return means + 2 / pi * _integral(h, k, tangent, 96)


def erf_mean(w: Float[Tensor, "*#n d"], b: Float[Tensor, "*#n"]) -> Float[Tensor, "*#n"]:
    """``E[s(w.x + b)] = s(b / sqrt(1 + |w|^2))``."""
    return torch.erf(b / (2 * (1 + (w**2).sum(-1))).sqrt())


def _integral(h: Tensor, k: Tensor, tangent: Tensor, count: int, cosine: Tensor | None = None) -> Tensor:
    """The integral I; with a cosine, over ``cosine - tanh y`` times the same."""
    nodes, weights = (torch.tensor(part, dtype=tangent.dtype, device=tangent.device) for part in _nodes(count))
    end = torch.asinh(tangent).unsqueeze(-1)
    y = end * nodes
    apart, together, least = (part.unsqueeze(-1) for part in ((h - k) ** 2, (h + k) ** 2, h**2 + k**2))
    exponent = (apart * torch.exp(2 * y) + together * torch.exp(-2 * y)) / 8 + least / 4
    integrand = weights * torch.exp(-exponent) / torch.cosh(y)
    if cosine is not None:
        integrand = integrand * (cosine.unsqueeze(-1) - torch.tanh(y))
    return integrand.sum(-1) * end.squeeze(-1)


def relu_kernel(
    w: Float[Tensor, "*#n d"], v: Float[Tensor, "*#n d"], b: Float[Tensor, "*#n"], c: Float[Tensor, "*#n"]
) -> Float[Tensor, "*#n"]:
    """``E[relu(w.x + b) relu(v.x + c)]``.

    The derivative in ``w.v`` is the probability that both units are active (Price 1958), so from independent units on,
    with ``m = b / |w|``, ``n = c / |v|`` and u the cosine of the angle::

        E[relu(w.x + b)] E[relu(v.x + c)] + w.v Phi(m) Phi(n) + |w||v| / 2pi  int (u - tanh y) dI(y)

    over the integral I in `erf_kernel`, with m and n for h and k and the cotangent of the angle for t. In this form
    nothing cancels where vectors meet. Values are exact to ``1e-13`` of ``|w||v| (1 + m^2 + n^2)``. The sine is held
    above ``1e-5``: so near to parallel and antiparallel vectors, where the kernel has no third derivatives if
    ``m = n``, second ones are known to about ``1e-5``. Of a unit with itself take `relu_square`.

    Args:
        w: ``(*n, d)``.
        v: ``(*n, d)``, broadcast against w.
        b: ``(*n)``, of w.
        c: ``(*n)``, of v.
    """
    r, q, dot = _length(w), _length(v), (w * v).sum(-1)
    m, n, cosine = b / r, c / q, dot / (r * q)
    squared = _squared_area(w, v) / (r * q) ** 2
    sine = (squared + HELD**2 * torch.exp(-squared / (10 * HELD) ** 2)).sqrt()
    along = r * q / (2 * pi) * _integral(m, n, cosine / sine, 192, cosine)
    return relu_mean(w, b) * relu_mean(v, c) + dot * _normal(m) * _normal(n) + along


def relu_square(w: Float[Tensor, "*n d"], b: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """``E[relu(w.x + b)^2] = (b^2 + r^2) Phi(b/r) + b r phi(b/r)``, r the length of w."""
    r = _length(w)
    return (b**2 + r**2) * _normal(b / r) + b * r * _density(b / r)


def relu_mean(w: Float[Tensor, "*n d"], b: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """``E[relu(w.x + b)] = r phi(b/r) + b Phi(b/r)``, r the length of w."""
    r = _length(w)
    return r * _density(b / r) + b * _normal(b / r)


def _length(w: Tensor) -> Tensor:
    """Never quite zero: a unit without weights is a constant, with finite derivatives.

    Without weights and without bias it stands at the corner of that constant, where there are no second derivatives.
    """
    return ((w**2).sum(-1) + float(torch.finfo(w.dtype).tiny) ** 0.4).sqrt()


def _normal(z: Tensor) -> Tensor:
    return torch.erfc(z / -sqrt(2)) / 2


def _density(z: Tensor) -> Tensor:
    return torch.exp(z * z / -2) / sqrt(2 * pi)


def _tangent(w: Tensor, v: Tensor) -> Tensor:
    """``rho / sqrt(1 - rho^2)`` of the correlation rho of the two units' Gaussian arguments, each with unit noise."""
    dot = (w * v).sum(-1)
    ww, vv = (w**2).sum(-1), (v**2).sum(-1)
    return dot / (1 + ww + vv + _squared_area(w, v)).sqrt()


def _squared_area(w: Tensor, v: Tensor) -> Tensor:
    """``|w|^2 |v|^2 - (w.v)^2`` as a sum of squares (Lagrange's identity)."""
    outer = w.unsqueeze(-1) * v.unsqueeze(-2)
    return ((outer - outer.mT) ** 2).sum((-2, -1)) / 2


@cache
def _nodes(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
