"""What is known of the two ends of a spectrum.

What an iterative method can and cannot say. A pair (lambda, v) with ``||A v - lambda v|| = r``, ``||v|| = 1``, proves
that A has *an* eigenvalue within r of lambda; it never proves that none lies beyond. The lowest value found is
therefore a Rayleigh quotient: an upper bound of the smallest eigenvalue, which is all that "there is negative
curvature" needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.foundation import InvalidInputError

__all__ = ["Eigenpairs", "RayleighQuotient"]

Reason = Literal["converged", "dense", "whole space", "products", "time limit", "interrupted"]

_SENTENCES: dict[str, str] = {
    "converged": "every pair asked for reached the tolerance",
    "dense": "the matrix was formed and diagonalised",
    "whole space": "the basis spans the whole space",
    "products": "the number of products allowed was used up",
    "time limit": "the time allowed was used up",
    "interrupted": "it was interrupted",
}


@dataclass(frozen=True)
class RayleighQuotient:
    """``v^T A v`` for a unit vector v: an upper bound of the smallest eigenvalue, whatever else is known.

    Attributes:
        value: the quotient.
        residual: ``||A v - value v||``; some eigenvalue lies in ``value +- residual``.
        rounding: estimate of the quotient's rounding error, ``10 u sqrt(P) ||A||`` with the unit roundoff u of the
            operator's dtype.
    """

    value: float
    residual: float
    rounding: float

    @property
    def negative(self) -> bool:
        """True if the quotient is negative beyond its rounding: then A has a negative eigenvalue."""
        return self.value < -self.rounding

    def describe(self) -> str:
        """One line for reports.

        >>> RayleighQuotient(-0.25, 0.01, 1e-15).describe()
        'smallest eigenvalue <= -0.25 (Rayleigh quotient; an eigenvalue lies within 0.01 of it)'
        """
        margin = f"an eigenvalue lies within {self.residual:.2g} of it"
        return f"smallest eigenvalue <= {self.value:.4g} (Rayleigh quotient; {margin})"


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs found at the two ends of a spectrum, and how sure they are.

    `converged` says that the residual reached ``tolerance * scale``: there is an eigenvalue that near. That no
    eigenvalue was missed it does not say: one repeated more often than the method's block size may be found fewer
    times than it is repeated.

    Attributes:
        values: ``(k,)`` ascending, those of the lower end first; no pair is listed twice where the ends meet.
        vectors: ``(P, k)``, orthonormal, in the operator's dtype.
        residuals: ``(k,)``, ``||A v - value v||``.
        converged: ``(k,)``.
        n_smallest: how many were found of the lower end, ``values[:n_smallest]``.
        n_largest: how many were found of the upper end, ``values[-n_largest:]``.
        scale: the largest absolute eigenvalue seen.
        tolerance: of a residual, relative to `scale`.
        products: columns multiplied.
        reason: why it ended, one word; `stopped` gives the sentence.
        exact: True where all eigenvalues were computed, so that the ends are the true ends up to rounding.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "P k"]
    residuals: Float[Tensor, " k"]
    converged: Bool[Tensor, " k"]
    n_smallest: int
    n_largest: int
    scale: float
    tolerance: float
    products: int
    reason: Reason
    exact: bool

    @property
    def stopped(self) -> str:
        """Why it ended, as a sentence."""
        return _SENTENCES[self.reason]

    @property
    def smallest(self) -> Float[Tensor, " n_smallest"]:
        """Values of the lower end, ascending."""
        return self.values[: self.n_smallest]

    @property
    def largest(self) -> Float[Tensor, " n_largest"]:
        """Values of the upper end, descending."""
        return self.values.flip(0)[: self.n_largest]

    @property
    def lowest(self) -> RayleighQuotient:
        """The smallest value found, as what it is: an upper bound of the smallest eigenvalue.

        Raises:
            InvalidInputError: if the search was stopped before its first product.
        """
        if len(self.values) == 0:
            raise InvalidInputError("the search was stopped before its first product: there is no Rayleigh quotient")
        unit = torch.finfo(self.vectors.dtype).eps / 2
        rounding = 10 * unit * len(self.vectors) ** 0.5 * self.scale
        return RayleighQuotient(float(self.values[0]), float(self.residuals[0]), rounding)

    def describe(self) -> str:
        """A few words for reports."""
        done, total = int(self.converged.sum()), len(self.values)
        return f"{done} of {total} eigenpairs converged in {self.products} products; {self.stopped}"
