"""Averages over Gaussian inputs of products of two units, in closed form and stable where vectors meet.

For ``x ~ N(0, I)``: ``arc_cosine_kernel(w, v) = E[relu(w.x) relu(v.x)]`` and ``erf_kernel(w, v) = E[s(w.x) s(v.x)]``
with ``s(z) = erf(z / sqrt 2) = 2 Phi(z) - 1``; `erf_kernel_with_bias` has a bias in one of the two. All are written so
that nested derivatives stay accurate, and finite, at parallel, antiparallel and vanishing vectors.
"""

from __future__ import annotations

from functools import cache
from math import pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["arc_cosine_kernel", "erf_kernel", "erf_kernel_with_bias"]

_MEETING, _STEEPNESS = 0.12, 160.0
"""Squared sine at which two forms of the kernel change places, and how fast: at 0 and 0.24 only one has a weight."""

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


def erf_kernel(w: Float[Tensor, "*#n d"], v: Float[Tensor, "*#n d"]) -> Float[Tensor, "*#n"]:
    """``E[s(w.x) s(v.x)] = 2/pi * arcsin(w.v / sqrt((1 + |w|^2)(1 + |v|^2)))`` (Williams 1997), as an arctangent.

    The tangent is ``w.v / sqrt(1 + |w|^2 + |v|^2 + |w|^2 |v|^2 - (w.v)^2)``; the last difference is summed as squares
    (Lagrange's identity), so nothing cancels at large weights.

    Args:
        w: ``(*n, d)``.
        v: ``(*n, d)``, broadcast against w.

    >>> round(float(erf_kernel(torch.tensor([0.8]), torch.tensor([1.7]))), 6)
    0.361977
    """
    return 2 / pi * torch.atan(_tangent(w, v))


def erf_kernel_with_bias(
    w: Float[Tensor, "*#n d"], v: Float[Tensor, "*#n d"], bias: Float[Tensor, "*#n"]
) -> Float[Tensor, "*#n"]:
    """``E[s(w.x) s(v.x + bias)] = 4 T(bias / sqrt(1 + |v|^2), t)``, T the function of Owen (1956).

    t is the tangent of the arcsine in `erf_kernel`. The integral for T is taken by Gauss-Legendre quadrature with 64
    nodes in the angle, which is exact to rounding while ``|t| <= 20`` and ``|bias| <= 3 sqrt(1 + |v|^2)``.

    Args:
        w: ``(*n, d)``, without bias.
        v: ``(*n, d)``, broadcast against w.
        bias: ``(*n)``, of v.
    """
    angle = torch.atan(_tangent(w, v)).unsqueeze(-1)
    h_squared = (bias**2 / (1 + (v**2).sum(-1))).unsqueeze(-1)
    nodes, weights = (torch.tensor(part, dtype=w.dtype, device=w.device) for part in _nodes())
    integrand = torch.exp(-h_squared / (2 * torch.cos(angle * nodes) ** 2))
    return 2 / pi * angle.squeeze(-1) * (weights * integrand).sum(-1)


def _tangent(w: Tensor, v: Tensor) -> Tensor:
    """``rho / sqrt(1 - rho^2)`` of the correlation rho of the two units' Gaussian arguments, each with unit noise."""
    dot = (w * v).sum(-1)
    ww, vv = (w**2).sum(-1), (v**2).sum(-1)
    outer = w.unsqueeze(-1) * v.unsqueeze(-2)
    return dot / (1 + ww + vv + ((outer - outer.mT) ** 2).sum((-2, -1)) / 2).sqrt()


@cache
def _nodes() -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
