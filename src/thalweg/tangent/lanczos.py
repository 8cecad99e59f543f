"""Eigenpairs at both ends of a spectrum, from one Krylov space or from the dense matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.foundation import (
    InvalidInputError,
    LinearOperator,
    Progress,
    RunControl,
    current_limit,
    progress_bar,
    require_memory,
)
from thalweg.tangent._interrupts import interrupts_held
from thalweg.tangent._krylov import KrylovSpace
from thalweg.tangent.eigenpairs import Eigenpairs, Reason

__all__ = ["extreme_eigenpairs"]

BASIS_BYTES = 800_000_000
"""Memory that a basis takes at most: 100 vectors of a million float64; half of `current_limit` where that is less."""

BASIS_VECTORS = 400
"""Most basis vectors, whatever the memory: the small dense eigenproblem after a product grows with the cube."""

DENSE_BELOW = 3000
"""Up to this size the matrix is formed and diagonalised, unless fewer products are allowed."""

KRYLOV_PRODUCTS = 400
"""Products allowed where the caller sets no limit and the matrix is not formed."""


def extreme_eigenpairs(
    operator: LinearOperator,
    smallest: int = 1,
    largest: int = 1,
    *,
    tolerance: float = 1e-3,
    max_products: int | None = None,
    block: int = 1,
    seed: int | torch.Generator = 0,
    dense_below: int = DENSE_BELOW,
    control: RunControl | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """Find eigenpairs at both ends of the spectrum of a symmetric operator.

    Thick-restart Lanczos with full reorthogonalisation (Wu & Simon, SIAM J. Matrix Anal. Appl. 22, 2000) in memory
    planned beforehand, one Krylov space for both ends; for small operators the dense matrix. Ctrl-C, a stop event or
    a time limit during the search returns what is known by then.

    Args:
        operator: symmetric, P x P.
        smallest: pairs of the lower end.
        largest: pairs of the upper end.
        tolerance: of a residual norm, relative to the largest absolute eigenvalue seen.
        max_products: most columns multiplied; None allows P columns to the dense way and 400 to the iteration.
        block: vectors multiplied at once; copies of a repeated eigenvalue are found up to this number.
        seed: of the start.
        dense_below: largest P for the dense way, which costs P products whatever is asked; 0 forbids it.
        control: time budget and stop event.
        progress: told the products used; None shows a bar of its own in a terminal.

    Raises:
        InvalidInputError: for an operator that is not symmetric and square or not finite, or senseless numbers.
        MemoryLimitError: if not even a small basis fits.

    >>> spectrum = torch.linspace(-1, 3, 50, dtype=torch.float64).unsqueeze(1)
    >>> operator = LinearOperator((50, 50), lambda columns: spectrum * columns, symmetric=True)
    >>> pairs = extreme_eigenpairs(operator, smallest=1, largest=2)
    >>> [round(float(v), 4) for v in pairs.largest], pairs.lowest.negative
    ([3.0, 2.9184], True)
    """
    _check(operator, smallest, largest, tolerance, max_products, block)
    size = operator.shape[0]
    ends = _Ends(min(smallest, size), min(largest, size), size, tolerance)
    control = control or RunControl()
    if size <= min(dense_below, max_products or size):
        with _reporting(progress, size) as bar:
            return _dense(operator, ends, control, bar)
    allowed = max_products or KRYLOV_PRODUCTS
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    space = KrylovSpace(operator, _plan_capacity(operator, ends, block, allowed), block, generator)
    reason: Reason = "interrupted"
    used = _Counter()
    try:
        with _reporting(progress, allowed) as bar:
            reason = _grow(space, ends, allowed, used, control, bar)
    except KeyboardInterrupt:
        pass  # the space holds every product finished before
    return _extract(space, ends, used.products, reason)


@dataclass(frozen=True)
class _Ends:
    """Which of the ascending values are asked for, and when one counts as converged."""

    smallest: int
    largest: int
    size: int
    tolerance: float

    def wanted(self, found: int) -> list[int]:
        """Positions among `found` ascending values, none twice."""
        low = range(min(self.smallest, found))
        high = range(max(found - self.largest, 0), found)
        return sorted({*low, *high})

    @property
    def count(self) -> int:
        """How many pairs that makes."""
        return min(self.size, self.smallest + self.largest)

    def record(
        self,
        values: Tensor,
        residuals: Tensor,
        vectors: Tensor,
        scale: float,
        products: int,
        reason: Reason,
        exact: bool,
    ) -> Eigenpairs:
        """The result, from the wanted values."""
        found = len(values)
        return Eigenpairs(
            values=values,
            vectors=vectors,
            residuals=residuals,
            converged=residuals <= self.tolerance * scale,
            n_smallest=min(self.smallest, found),
            n_largest=min(self.largest, found),
            scale=scale,
            tolerance=self.tolerance,
            products=products,
            reason=reason,
            exact=exact,
        )


@dataclass
class _Counter:
    """Products finished, known also where the search ends in an interrupt."""

    products: int = 0


def _grow(space: KrylovSpace, ends: _Ends, allowed: int, used: _Counter, control: RunControl, bar: Progress) -> Reason:
    """Multiply and absorb until something says stop."""
    enough = min(ends.size, 2 * ends.count + 8)  # a residual can be small by chance in the first few steps
    while not space.exhausted:
        why = control.why_stop()
        if why is not None:
            return "time limit" if why == "time limit" else "interrupted"
        if used.products + space.pending > allowed:
            return "products"
        if space.full:
            with interrupts_held():
                _, coordinates, _ = space.ritz()
                space.restart(coordinates[:, _kept(space, ends)])
        width = space.pending
        product = space.multiply()
        with interrupts_held():
            space.absorb(product)
            used.products += width
        bar.update(used.products)
        due = space.m <= 64 or space.m % (1 + space.m // 64) == 0  # a larger eigenproblem is not solved every time
        if due and space.m >= enough and _all_converged(space, ends):
            return "converged"
    return "whole space"


def _all_converged(space: KrylovSpace, ends: _Ends) -> bool:
    values, _, residuals = space.ritz()
    return bool((residuals[ends.wanted(len(values))] <= ends.tolerance * values.abs().max()).all())


def _kept(space: KrylovSpace, ends: _Ends) -> list[int]:
    """Ritz vectors that survive a restart: those wanted, and half of the room that is left, at the ends asked for."""
    most = space.capacity - space.pending
    extra = max(0, (most - ends.count) // 2)
    asked = (ends.smallest > 0) + (ends.largest > 0)
    low = ends.smallest + (extra // asked if ends.smallest else 0)
    high = ends.largest + (extra // asked if ends.largest else 0)
    return _Ends(low, high, ends.size, ends.tolerance).wanted(space.m)[:most]


def _extract(space: KrylovSpace, ends: _Ends, products: int, reason: Reason) -> Eigenpairs:
    if space.m == 0:
        return _nothing(space.operator, ends, reason)
    values, coordinates, residuals = space.ritz()
    these = ends.wanted(len(values))
    vectors = space.vectors(coordinates[:, these])
    return ends.record(
        values[these],
        residuals[these],
        vectors,
        float(values.abs().max()),
        products,
        reason,
        exact=space.exhausted,
    )


def _dense(operator: LinearOperator, ends: _Ends, control: RunControl, bar: Progress) -> Eigenpairs:
    """All columns; or as many as there was time for, and the eigenpairs of that principal submatrix with residuals."""
    size = operator.shape[0]
    item = torch.empty((), dtype=operator.dtype).element_size()
    require_memory(
        (6 * 8 + item) * size**2,  # as measured: the columns, the symmetric part, its eigenvectors and LAPACK's work
        f"a dense {size} x {size} matrix",
        "Use dense_below=0: the iteration needs less.",
    )
    columns = torch.zeros(size, size, dtype=torch.float64)
    done, why = 0, control.why_stop()
    while done < size and why is None:
        width = min(64, size - done)
        unit = torch.zeros(size, width, dtype=operator.dtype, device=operator.device)
        unit[done : done + width] = torch.eye(width, dtype=operator.dtype, device=operator.device)
        try:
            columns[:, done : done + width] = (operator @ unit).double().cpu()
        except KeyboardInterrupt:
            why = "interrupted"
            break
        done += width
        bar.update(done)
        why = control.why_stop()
    whole = done == size
    reason: Reason = "dense" if whole else ("time limit" if why == "time limit" else "interrupted")
    if done == 0:
        return _nothing(operator, ends, reason)
    if not bool(torch.isfinite(columns).all()):
        raise InvalidInputError("the operator's product with a unit vector is NaN or infinite")
    known = columns[:done, :done]
    values, coordinates = torch.linalg.eigh((known + known.T) / 2)
    these = ends.wanted(done)
    vectors = torch.zeros(size, len(these), dtype=torch.float64)
    vectors[:done] = coordinates[:, these]
    residuals = torch.linalg.vector_norm(columns[:, :done] @ coordinates[:, these] - vectors * values[these], dim=0)
    scale = float(values.abs().max())
    placed = vectors.to(dtype=operator.dtype, device=operator.device)
    return ends.record(values[these], residuals, placed, scale, done, reason, exact=whole)


def _nothing(operator: LinearOperator, ends: _Ends, reason: Reason) -> Eigenpairs:
    none = torch.zeros(0, dtype=torch.float64)
    vectors = torch.zeros(operator.shape[0], 0, dtype=operator.dtype, device=operator.device)
    return ends.record(none, none, vectors, 0.0, 0, reason, exact=False)


def _plan_capacity(operator: LinearOperator, ends: _Ends, block: int, allowed: int) -> int:
    """How many basis vectors there will be, from the memory that there is."""
    size = operator.shape[0]
    vector = size * torch.empty((), dtype=operator.dtype).element_size()
    beside = 4 * block + ends.count  # the pending block, its product, their working copies, and the vectors returned
    least = min(size, ends.count + 2 * block + 4)
    require_memory(
        (least + beside) * vector,
        f"a Krylov basis of {least} vectors of {size}",
        "Ask for fewer eigenpairs.",
    )
    room = min(BASIS_BYTES, current_limit() // 2) // vector - beside
    return max(least, min(room, size, BASIS_VECTORS, allowed + block))


def _check(
    operator: LinearOperator, smallest: int, largest: int, tolerance: float, max_products: int | None, block: int
) -> None:
    if not operator.symmetric or operator.shape[0] != operator.shape[1]:
        raise InvalidInputError(f"eigenpairs need a symmetric operator (made with symmetric=True), got {operator!r}")
    if smallest < 0 or largest < 0 or smallest + largest == 0:
        raise InvalidInputError(f"ask for at least one pair; got smallest={smallest}, largest={largest}")
    if not 0 < tolerance < 1:
        raise InvalidInputError(f"tolerance is relative and must lie between 0 and 1, got {tolerance}")
    if block < 1 or (max_products is not None and max_products < block):
        raise InvalidInputError(f"need block >= 1 and max_products >= block, got {block} and {max_products}")


@contextmanager
def _reporting(progress: Progress | None, total: int) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with progress_bar("eigenpairs", total) as bar:
        yield bar
