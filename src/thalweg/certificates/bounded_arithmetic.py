"""Sums and products of numbers that carry bounds of their errors (running error analysis).

If ``|a* - a| <= e_a`` and ``|b* - b| <= e_b`` for the exact ``a*`` and ``b*``, the exact product differs from the
computed one by at most ``|a| e_b + |b| e_a + e_a e_b`` and the rounding of the product itself (N. Higham, *Accuracy and
Stability of Numerical Algorithms*, section 3.3). The bounds are computed in floating point as well; what that may take
off them is added.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.forward import Bounded
from thalweg.certificates.rounding import TINY, UNIT, gamma

__all__ = ["added", "exactly", "matrix_product", "multiplied", "scaled", "summed"]


def exactly(value: Float[Tensor, "..."]) -> Bounded:
    """Numbers without error."""
    return Bounded(value, torch.zeros_like(value))


def added(*parts: Bounded) -> Bounded:
    """The sum, entry by entry.

    >>> one = exactly(torch.ones(1, dtype=torch.float64))
    >>> float(added(one, one).value), float(added(one, one).error) < 1e-15
    (2.0, True)
    """
    value, size, error = parts[0].value, parts[0].value.abs(), parts[0].error
    for part in parts[1:]:
        value, size, error = value + part.value, size + part.value.abs(), error + part.error
    terms = len(parts)
    return Bounded(value, (error + gamma(terms) * size) * (1 + 2 * gamma(2 * terms)))


def multiplied(left: Bounded, right: Bounded) -> Bounded:
    """The product, entry by entry.

    >>> two = Bounded(torch.full((1,), 2.0, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64))
    >>> float(multiplied(two, two).error) >= 2.25
    True
    """
    value = left.value * right.value
    error = left.value.abs() * right.error + right.value.abs() * left.error + left.error * right.error
    return Bounded(value, (error + UNIT * value.abs()) * (1 + 16 * UNIT) + TINY)


def scaled(numbers: Bounded, factor: float | Tensor) -> Bounded:
    """The product with an exact factor."""
    value, size = numbers.value * factor, torch.as_tensor(factor).abs()
    return Bounded(value, (numbers.error * size + UNIT * value.abs()) * (1 + 16 * UNIT) + TINY)


def matrix_product(left: Bounded, right: Bounded) -> Bounded:
    """``left @ right``, matrices ``(*batch, m, k)`` and ``(k, n)``."""
    terms = left.value.shape[-1] + 2
    sizes = left.value.abs(), right.value.abs()
    error = left.error @ sizes[1] + gamma(terms) * (sizes[0] @ sizes[1])
    if bool(right.error.any()):
        error = error + (sizes[0] + left.error) @ right.error
    return Bounded(left.value @ right.value, error * (1 + 2 * gamma(3 * terms)) + terms * TINY)


def summed(numbers: Bounded, dim: int) -> Bounded:
    """The sum along a dimension."""
    terms = numbers.value.shape[dim] + 1
    error = numbers.error.sum(dim) + gamma(terms) * numbers.value.abs().sum(dim)
    return Bounded(numbers.value.sum(dim), error * (1 + 2 * gamma(2 * terms)))
