"""Bounds on rounding errors, and linear algebra whose results are proved.

Everything here is for float64 under IEEE 754 arithmetic, whatever the order in which a library sums. With the unit
roundoff ``u = 2^-53`` and ``gamma_k = k u / (1 - k u)`` a sum or dot product of k terms is computed within ``gamma_k``
times that of the absolute values (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError

__all__ = [
    "TINY",
    "UNIT",
    "Inertia",
    "eigenvalue_below",
    "gamma",
    "gram_error",
    "norm_above",
    "operator_norm_above",
    "orthogonality_defect",
    "product_error",
    "proved_inertia",
    "singular_value_below",
    "singular_values_below",
    "sum_above",
]

UNIT = 2.0**-53
"""Unit roundoff of float64."""
TINY = 2.0**-1022
"""Smallest normal number of float64; results below it lose relative accuracy."""


def gamma(terms: int) -> float:
    """``k u / (1 - k u)``, rounded up: the relative error of a sum or dot product of k terms.

    >>> gamma(2) > 2 * UNIT
    True
    """
    if terms * UNIT >= 0.5:
        raise InvalidInputError(f"{terms} terms are too many for a bound on their rounding")
    return terms * UNIT / (1 - terms * UNIT) * (1 + 4 * UNIT)


def sum_above(numbers: Tensor) -> float:
    """An upper bound of the exact sum of numbers that are not negative.

    >>> sum_above(torch.full((10,), 0.1, dtype=torch.float64)) >= 1.0
    True
    """
    return float(numbers.sum()) * (1 + gamma(numbers.numel() + 2)) + numbers.numel() * TINY


def norm_above(matrix: Float[Tensor, "..."]) -> float:
    """An upper bound of the Frobenius norm (of a vector: the Euclidean one).

    >>> norm_above(torch.tensor([3.0, 4.0], dtype=torch.float64)) >= 5.0
    True
    """
    largest = float(matrix.abs().max()) if matrix.numel() else 0.0
    if largest == 0:
        return 0.0
    scaled = matrix / largest  # squares neither overflow nor vanish unnoticed
    return largest * math.sqrt(sum_above(scaled**2)) * (1 + 8 * UNIT) + TINY  # below TINY roundings are absolute


def operator_norm_above(matrix: Float[Tensor, "n k"]) -> float:
    """An upper bound of the largest singular value.

    From a computed decomposition ``U S V^T`` it is at most ``||U|| s_1 ||V|| + ||A - U S V^T||``; the Frobenius norm is
    one too.

    >>> a = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    >>> 4.0 <= operator_norm_above(a) < 4.0 + 1e-12
    True
    """
    whole = norm_above(matrix)
    if whole == 0 or min(matrix.shape) == 1:
        return whole
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    defects = orthogonality_defect(left), orthogonality_defect(right.T)
    scaled = left * values
    residual = norm_above(matrix - scaled @ right) + norm_above(product_error(scaled, right))
    residual += UNIT * norm_above(scaled) * norm_above(right) + UNIT * whole
    found = float(values[0]) * math.sqrt((1 + defects[0]) * (1 + defects[1])) + residual
    return min(whole, found * (1 + 16 * UNIT))


def product_error(left: Float[Tensor, "m k"], right: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """Entrywise bound of the rounding error of ``left @ right``."""
    terms = left.shape[-1] + 2
    return gamma(terms) * (1 + gamma(terms)) * (left.abs() @ right.abs()) + terms * TINY


def gram_error(matrix: Float[Tensor, "n k"]) -> float:
    """Bound in the 2-norm of the rounding error of ``matrix @ matrix.T``: ``gamma_k ||matrix||_F^2``."""
    return gamma(matrix.shape[-1] + 2) * norm_above(matrix) ** 2 * (1 + 4 * UNIT) + matrix.numel() * TINY


def eigenvalue_below(matrix: Float[Tensor, "n n"], error: float = 0.0) -> float:
    """A proved lower bound of the smallest eigenvalue of an exact symmetric matrix.

    If the Cholesky factorisation of ``M = G - s I`` runs to its end in floating point, then ``lambda_min(M) >= -tr(M)
    gamma_{n+1} / (1 - gamma_{n+1})`` (Rump, *Verification of positive definiteness*, BIT 46 (2006), Theorem 2.3). The
    largest shift s for which it does is searched from the computed eigenvalues.

    Args:
        matrix: G, ``(n, n)`` symmetric; only its lower triangle is read.
        error: bound in the 2-norm of how far G is from the exact matrix.

    Returns:
        The bound; ``-inf`` where no factorisation succeeds.

    Raises:
        InvalidInputError: for a matrix that is not square and finite.

    >>> g = torch.diag(torch.tensor([1.0, 0.25], dtype=torch.float64))
    >>> 0.2499 < eigenvalue_below(g) <= 0.25
    True
    >>> eigenvalue_below(g, error=0.1) <= 0.15
    True
    """
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != torch.float64:
        raise InvalidInputError(f"a square float64 matrix is needed, got {matrix.dtype} of {tuple(matrix.shape)}")
    if not bool(torch.isfinite(matrix).all()) or not math.isfinite(error):
        raise InvalidInputError("the matrix or its error bound is not finite")
    n = len(matrix)
    if n == 0:
        return math.inf
    lower = torch.tril(matrix)
    exact = lower + torch.tril(matrix, -1).T
    values = torch.linalg.eigvalsh(exact)
    smallest, scale = float(values[0]), float(values.abs().max())
    best = -math.inf
    slack = 4 * n * UNIT * scale + TINY
    for _ in range(12):
        shift = smallest - slack
        bound = _bound_by_cholesky(exact, shift)
        if bound is not None:
            best = bound
            break
        slack *= 4
    return _down(best - error) if math.isfinite(best) else best


def _bound_by_cholesky(matrix: Tensor, shift: float) -> float | None:
    n = len(matrix)
    shifted = matrix.clone()
    shifted.diagonal().sub_(shift)
    _, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed):
        return None
    diagonal = shifted.diagonal()  # positive: the factorisation has run to its end
    ratio = gamma(n + 2) / (1 - gamma(n + 2)) * (1 + 8 * UNIT)
    loss = ratio * sum_above(diagonal) + 2 * UNIT * float(diagonal.max()) + (n + 2) ** 2 * TINY
    return _down(shift - loss)


class Inertia(NamedTuple):
    """Numbers of eigenvalues of either sign, and of those whose sign could not be proved."""

    negative: int
    positive: int
    undecided: int


def proved_inertia(matrix: Float[Tensor, "n n"], error: float = 0.0) -> Inertia:
    """The inertia of an exact symmetric matrix, proved by a congruence.

    With computed eigenvectors V the matrix ``V^T G V`` has the inertia of G (Sylvester), if V is not singular; it is
    nearly diagonal, and what it is not bounds how far its eigenvalues lie from its diagonal (Weyl).

    Args:
        matrix: G, ``(n, n)`` symmetric.
        error: bound in the 2-norm of how far G is from the exact matrix.

    >>> proved_inertia(torch.diag(torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)))
    Inertia(negative=1, positive=1, undecided=1)
    """
    n = len(matrix)
    if n == 0:
        return Inertia(0, 0, 0)
    _, vectors = torch.linalg.eigh(matrix)
    defect = orthogonality_defect(vectors)
    if defect >= 0.5:
        return Inertia(0, 0, n)
    product = matrix @ vectors
    congruent = vectors.T @ product
    rounding = norm_above(product_error(matrix, vectors)) * math.sqrt(1 + defect) + norm_above(
        product_error(vectors.T, product)
    )
    diagonal = congruent.diagonal()
    off = norm_above(congruent - torch.diag(diagonal))
    radius = (off + rounding + error * (1 + defect)) * (1 + 16 * UNIT)
    negative, positive = int((diagonal < -radius).sum()), int((diagonal > radius).sum())
    return Inertia(negative, positive, n - negative - positive)


def orthogonality_defect(vectors: Float[Tensor, "n k"]) -> float:
    """A bound of ``||V^T V - I||_2``."""
    gram = vectors.T @ vectors
    gram.diagonal().sub_(1)
    return (norm_above(gram) + gram_error(vectors.T)) * (1 + 8 * UNIT)


def singular_values_below(matrix: Float[Tensor, "n k"], error: float = 0.0) -> Float[Tensor, " r"]:
    """Proved lower bounds of the singular values of an exact matrix, largest first.

    From a computed decomposition ``U S V^T``: by Weyl's inequality ``sigma_i(A)`` is at least
    ``sigma_i(U S V^T) - ||A - U S V^T||``, and ``sigma_i(U S V^T)`` at least ``sigma_min(U) s_i sigma_min(V)``. Unlike
    the Gram matrix, it reaches relative singular values of ``1e-14``.

    Args:
        matrix: ``(n, k)``.
        error: bound in the 2-norm of how far `matrix` is from the exact one.

    Returns:
        The bounds ``(min(n, k),)``, at least zero.

    >>> a = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    >>> singular_values_below(a)
    tensor([3.0000, 0.5000], dtype=torch.float64)
    """
    if matrix.numel() == 0:
        return matrix.new_zeros(0)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    defects = orthogonality_defect(left), orthogonality_defect(right.T)
    if max(defects) >= 0.5:
        return torch.zeros_like(values)
    scaled = left * values
    residual = norm_above(matrix - scaled @ right) + norm_above(product_error(scaled, right))
    residual += UNIT * norm_above(scaled) * norm_above(right) + UNIT * norm_above(matrix)
    shrink = math.sqrt((1 - defects[0]) * (1 - defects[1])) * (1 - 8 * UNIT)
    bounds = values * shrink - (residual * (1 + 8 * UNIT) + error)
    return (bounds - 4 * UNIT * bounds.abs() - TINY).clamp_min(0)


def singular_value_below(matrix: Float[Tensor, "n k"], number: int | None = None, error: float = 0.0) -> float:
    """One of `singular_values_below`.

    Args:
        matrix: ``(n, k)``.
        number: which one, counted from 1 for the largest; None for the smallest of the ``min(n, k)``.
        error: bound in the 2-norm of how far `matrix` is from the exact one.

    Raises:
        InvalidInputError: if there is none of that number.
    """
    number = min(matrix.shape) if number is None else number
    if not 1 <= number <= min(matrix.shape):
        raise InvalidInputError(f"a matrix of {tuple(matrix.shape)} has no singular value number {number}")
    return float(singular_values_below(matrix, error)[number - 1])


def _down(number: float) -> float:
    """A little less, so that the roundings of the last few operations do not count."""
    return number - 4 * UNIT * abs(number) - TINY
