"""A Krylov space of a symmetric operator, with full reorthogonalisation and thick restarts.

Wu & Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 22
(2000), in block form. The identity that is kept, to rounding, through every step and every restart is

    A V = V H + Q B,        [V Q] orthonormal,

with m basis vectors V, the pending block Q of vectors not yet multiplied, and the *computed* projections H, B. H is
symmetric only as far as the operator is: its skew part enters the residuals instead of being averaged away unseen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator

__all__ = ["KrylovSpace"]

_CANCELLED = 0.7
"""A projection that leaves less of a vector than this is done again (Daniel, Gragg, Kaufman & Stewart 1976)."""

_SMALL = 1e-3
"""A remainder shorter than this, relative to the product, is cleaned once more before it becomes a direction."""

_SLICE = 4 * 2**20
"""Elements of a basis that a rotation works on at a time (32 MiB of float64)."""


class KrylovSpace:
    """The space grown so far; `multiply` gives the next product, `absorb` takes it in.

    Args:
        operator: symmetric, P x P.
        capacity: most basis vectors held (pending ones not counted), at most P.
        block: vectors multiplied at once.
        generator: for the start and for fresh directions after a breakdown.
    """

    def __init__(self, operator: LinearOperator, capacity: int, block: int, generator: torch.Generator) -> None:
        self.operator = operator
        self.size = operator.shape[0]
        self.capacity = min(capacity, self.size)
        self.block = min(block, self.size)
        self.m = 0
        self.lost = 0.0
        self.H = torch.zeros(0, 0, dtype=torch.float64)
        self.B = torch.zeros(0, 0, dtype=torch.float64)
        self._generator = generator
        self._rows = torch.empty(self.capacity + self.block, self.size, dtype=operator.dtype, device=operator.device)
        self.pending = 0
        for _ in range(self.block):
            self._append_fresh()
        self.B = torch.zeros(self.pending, 0, dtype=torch.float64)

    @property
    def exhausted(self) -> bool:
        """True when no direction is left to multiply: the basis spans everything."""
        return self.pending == 0

    @property
    def full(self) -> bool:
        """True when the pending block has no room in the basis."""
        return self.m + self.pending > self.capacity

    def multiply(self) -> Tensor:
        """Product of the operator with the pending block, ``(P, pending)``; changes nothing here."""
        return self.operator @ self._rows[self.m : self.m + self.pending].T

    def absorb(self, product: Tensor) -> None:
        """Make the pending block part of the basis, given its product.

        Raises:
            InvalidInputError: if the product is not finite.
        """
        m, new = self.m, self.m + self.pending
        rest = product.T.to(self._rows.dtype).contiguous()  # one row per vector, as in the basis
        if not bool(torch.isfinite(rest).all()):
            raise InvalidInputError("the operator's product with a unit vector is NaN or infinite")
        lengths = torch.linalg.vector_norm(rest, dim=1)
        coefficients = torch.zeros(new, len(rest), dtype=torch.float64)
        coefficients[:m] = self._take_expected(rest)
        coefficients[m:] = _project_out(rest, self._rows[m:new])
        coefficients += _project_out(rest, self._rows[:new])
        grown = torch.zeros(new, new, dtype=torch.float64)
        grown[:m, :m] = self.H
        grown[m:, :m] = self.B
        grown[:, m:] = coefficients
        self.H, self.m = grown, new
        coupling = self._next_block(rest, max(float(lengths.max()), self.norm()))
        self.B = torch.zeros(self.pending, new, dtype=torch.float64)
        self.B[:, m:] = coupling

    def norm(self) -> float:
        """Largest column norm of H: the operator's norm from below."""
        return float(torch.linalg.vector_norm(self.H, dim=0).max()) if self.m else 0.0

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values ``(m,)`` ascending, their coordinates ``(m, m)`` and residual norms ``(m,)``."""
        symmetric = (self.H + self.H.T) / 2
        values, coordinates = torch.linalg.eigh(symmetric)
        skew = torch.linalg.vector_norm((self.H - symmetric) @ coordinates, dim=0)
        coupling = torch.linalg.vector_norm(self.B @ coordinates, dim=0)
        return values, coordinates, (skew**2 + coupling**2 + self.lost**2).sqrt()

    def vectors(self, coordinates: Tensor) -> Tensor:
        """The vectors ``(P, k)`` with these coordinates ``(m, k)``, of unit length."""
        found = self._rows[: self.m].T @ coordinates.to(self._rows)
        return found / torch.linalg.vector_norm(found, dim=0)

    def restart(self, coordinates: Tensor) -> None:
        """Shrink the basis to the span of some Ritz vectors, given by coordinates ``(m, k)``."""
        k, m = coordinates.shape[1], self.m
        turn = coordinates.T.to(self._rows)
        step = max(1, _SLICE // m)
        for start in range(0, self.size, step):
            part = slice(start, start + step)
            self._rows[:k, part] = turn @ self._rows[:m, part]
        self._rows[k : k + self.pending] = self._rows[m : m + self.pending].clone()
        image = self.H @ coordinates
        self.H = coordinates.T @ image
        outside = image - coordinates @ self.H  # not zero only as far as the operator is not symmetric
        self.lost = float((self.lost**2 + torch.linalg.vector_norm(outside) ** 2) ** 0.5)
        self.B = self.B @ coordinates
        self.m = k

    def _take_expected(self, rest: Tensor) -> Tensor:
        """Subtract what a symmetric operator sends back along its couplings; return the coefficients ``(m, pending)``.

        They stand in B already, and but for the last block's (after a restart: the first vectors') they are zero. Only
        rounding is then left to project out. Otherwise that projection would cancel leading digits, and one pass over
        the whole basis would not do.
        """
        coupled = self.B.any(0).nonzero()
        if len(coupled):
            part = slice(int(coupled.min()), int(coupled.max()) + 1)
            rest.addmm_(self.B[:, part].to(rest), self._rows[part], alpha=-1)
        return self.B.T

    def _next_block(self, rest: Tensor, scale: float) -> Tensor:
        """Orthonormalise what remains of the products ``(pending, P)`` into the next block; return its coefficients."""
        tiny = 10 * torch.finfo(rest.dtype).eps * scale
        coupling = torch.zeros(self.block, len(rest), dtype=torch.float64)
        self.pending = 0
        for column, vector in enumerate(rest.unbind()):
            row = vector.unsqueeze(0)
            if self.pending:
                ahead = self._rows[self.m : self.m + self.pending]
                coupling[: self.pending, column] = _project_out(row, ahead).squeeze(1)
            length = float(torch.linalg.vector_norm(row))
            if length > tiny and self.m + self.pending < self.size:
                coupling[self.pending, column] = length
                row /= length
                if length < _SMALL * scale:  # what is left of a cancellation is orthogonal no longer
                    _project_out(row, self._rows[: self.m + self.pending])
                self._append(row)
        while self.pending < min(self.block, self.size - self.m):
            self._append_fresh()  # the space is invariant in some direction: go on with a new one, coupled to nothing
        return coupling[: self.pending]

    def _append(self, row: Tensor) -> None:
        self._rows[self.m + self.pending] = row[0] / torch.linalg.vector_norm(row)
        self.pending += 1

    def _append_fresh(self) -> None:
        noise = torch.randn(1, self.size, generator=self._generator, dtype=torch.float64).to(self._rows)
        before = self._rows[: self.m + self.pending]
        for _ in range(2):  # again, because the first may leave little of it
            _project_out(noise, before)
            noise /= torch.linalg.vector_norm(noise)
        self._append(noise)


def _project_out(rows: Tensor, basis: Tensor) -> Tensor:
    """Make rows ``(k, P)`` orthogonal to a basis ``(m, P)``, in place; return the coefficients ``(m, k)``, float64.

    Gram-Schmidt with a second pass where the first one cancelled much of a row: twice is enough (Kahan, in Parlett).
    """
    before = torch.linalg.vector_norm(rows, dim=1)
    coefficients = rows @ basis.T
    rows.addmm_(coefficients, basis, alpha=-1)
    if bool((torch.linalg.vector_norm(rows, dim=1) < _CANCELLED * before).any()):
        again = rows @ basis.T
        rows.addmm_(again, basis, alpha=-1)
        coefficients = coefficients + again
    return coefficients.T.double().cpu()
