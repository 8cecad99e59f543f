"""How many eigenvalues of a Hessian are negative, zero and positive, and how many cannot be told.

**Signs.** By Weyl's inequality no eigenvalue of the true Hessian lies further from its computed value than the norm
of the difference between the true and the computed matrix. The error bar has three parts, all absolute:

- the eigensolver's: ``4 max(P, 16) u ||H||`` (LAPACK's backward error with a modest polynomial of P);
- the computed Hessian's own: `hessian_rounding`, or what the caller measured (`hessian_error`);
- the shift from the point at hand to the critical point that is meant: how far the Hessian changes on the way there
  (`hessian_error` measures it, or a distance times a bound of the third derivative).

A sign is decided only outside the bar.

**Zeros.** Inside the bar nothing can be decided by arithmetic alone. An eigenvalue there counts as zero

- *explained*: if the caller exhibits a direction along which the loss does not change, and the computed Hessian maps
  it to zero within the bar;
- *inferred*: if the eigenvalues inside the bar lie all below `FLOOR` times the bar, and none of the others below
  `GAP` times it. Rounding leaves true zeros there and hardly anything else: measured zeros of exact critical points
  lie below 1/40 of the bar. What the inference supposes is that no true eigenvalue hides below ``FLOOR * bar``;
  ``infer_zeros=False`` refuses to suppose it.

Everything else is undecided, with the reason. All of this is relative to ||H||: where the parameters are so badly
scaled that an eigenvalue that matters lies 1e-15 below the largest, no rule can tell it from zero; balance them first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, require_memory

__all__ = ["ErrorBar", "Inertia", "hessian_rounding", "inertia"]

GAP = 1e3
"""No eigenvalue outside the error bar may lie below this multiple of it where zeros are inferred."""

FLOOR = 1 / 30
"""Inferred zeros lie below this part of the error bar."""

_U64 = 2.0**-53


@dataclass(frozen=True)
class ErrorBar:
    """How far a computed eigenvalue may lie from the true one, by source; absolute.

    Attributes:
        eigensolver: rounding of the diagonalisation.
        hessian: rounding of the Hessian itself.
        shift: change of the Hessian between this point and the critical point that is meant.
    """

    eigensolver: float
    hessian: float
    shift: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.eigensolver + self.hessian + self.shift


@dataclass(frozen=True)
class Inertia:
    """Counts of eigenvalues by sign. They add up to P.

    The true number of negative eigenvalues lies in ``[negative, negative + undecided]``, and likewise for the others,
    as long as the zeros are zeros. Of those that are inferred this is only supposed: a true eigenvalue below
    ``FLOOR * threshold``, some 1e-15 of the norm, may hide among them.

    Attributes:
        negative: decided below zero.
        zero: explained or inferred to be zero.
        positive: decided above zero.
        undecided: neither.
        explained: how many of the zeros a flat direction explains; the others are inferred.
        threshold: the error bar's total.
        error: its parts.
        eigenvalues: ``(P,)`` ascending, float64.
        reasons: why zeros were counted so and why the rest is undecided; empty where there are neither.
    """

    negative: int
    zero: int
    positive: int
    undecided: int
    explained: int
    threshold: float
    error: ErrorBar
    eigenvalues: Float[Tensor, " P"]
    reasons: tuple[str, ...]

    @property
    def index(self) -> int | None:
        """Number of negative eigenvalues, None where something is undecided."""
        return None if self.undecided else self.negative

    @property
    def nullity(self) -> int | None:
        """Number of zero eigenvalues, None where something is undecided."""
        return None if self.undecided else self.zero

    def describe(self) -> str:
        """One line for reports.

        >>> inertia(torch.diag(torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64))).describe()
        '1 negative, 1 zero, 1 positive, 0 undecided (error bar 2.8e-14)'
        """
        counts = f"{self.negative} negative, {self.zero} zero, {self.positive} positive, {self.undecided} undecided"
        return f"{counts} (error bar {self.threshold:.2g})"


def hessian_rounding(hessian: Float[Tensor, "P P"], samples: int = 1) -> float:
    """Rule of thumb for the norm of a computed Hessian's rounding error: ``16 u sqrt(N) ||H||_F``.

    Each entry is a sum over N samples of products that pass through the layers; errors of blocked sums grow like ``u
    sqrt(N)`` at most, and the factor 16 stands for depth and for mild cancellation. A rule, not a bound: where large
    terms cancel (a residual that is small because two large numbers nearly agree), measure it with `hessian_error`.
    An asymmetric matrix counts at least ``||H - H^T||_F / 2``.

    Args:
        hessian: ``(P, P)``, in the dtype that it was computed in.
        samples: N.
    """
    unit = torch.finfo(hessian.dtype).eps / 2
    norm = float(torch.linalg.matrix_norm(hessian.double()))
    skew = float(torch.linalg.matrix_norm((hessian - hessian.mT).double())) / 2
    return max(16 * unit * math.sqrt(max(1, samples)) * norm, skew)


def inertia(
    hessian: Float[Tensor, "P P"],
    *,
    error: float | None = None,
    shift: float = 0.0,
    samples: int = 1,
    flat: Float[Tensor, "P k"] | None = None,
    infer_zeros: bool = True,
) -> Inertia:
    """Count the eigenvalues of a Hessian by sign; the rules are at the head of this module.

    Args:
        hessian: ``(P, P)``, symmetric up to rounding, in the dtype that it was computed in.
        error: norm of its rounding error where the caller knows it better than `hessian_rounding`.
        shift: how much the Hessian at the critical point that is meant may differ from this one in norm, for instance
            the length of the Newton step that leads there times a bound of the third derivative.
        samples: number N of samples the loss sums over, for `hessian_rounding`.
        flat: ``(P, k)``, directions along which the loss is known not to change.
        infer_zeros: whether a group at rounding level, far from all others, counts as zero without explanation.

    Raises:
        InvalidInputError: for a matrix that is not square, not finite, not of floating type or plainly not symmetric,
            and for flat directions of another shape or not finite.
        MemoryLimitError: if the diagonalisation would not fit.

    >>> count = inertia(torch.diag(torch.tensor([-1.0, 1e-14, 2.0], dtype=torch.float64)))
    >>> count.index is None, count.undecided, count.reasons[0][:40]
    (True, 1, '1 eigenvalue(s) inside the error bar, un')
    """
    _check(hessian, error, shift)
    size = len(hessian)
    copies = 4 if flat is None else 8  # as measured: with flat directions the complement's matrices come on top
    require_memory(copies * 8 * size**2, f"the eigenvalues of a {size} x {size} Hessian", "Use extreme_eigenpairs.")
    own = hessian_rounding(hessian, samples) if error is None else error
    matrix = hessian.detach().double().cpu()
    matrix = (matrix + matrix.T) / 2
    values = torch.linalg.eigvalsh(matrix)
    bar = ErrorBar(4 * max(size, 16) * _U64 * float(values.abs().max()), own, shift)
    threshold = bar.total
    rest, explained = values, 0
    reasons: list[str] = []
    if flat is not None:
        rest, explained, reasons = _without_flat(matrix, flat, threshold)
    outside = rest[rest.abs() > threshold]
    inside = rest[rest.abs() <= threshold]
    inferred, sentence = _infer(inside.abs(), outside.abs(), threshold, infer_zeros)
    return Inertia(
        negative=int((outside < 0).sum()),
        zero=explained + inferred,
        positive=int((outside > 0).sum()),
        undecided=len(inside) - inferred,
        explained=explained,
        threshold=threshold,
        error=bar,
        eigenvalues=values,
        reasons=tuple(reasons + sentence),
    )


def _check(hessian: Tensor, error: float | None, shift: float) -> None:
    if hessian.dim() != 2 or hessian.shape[0] != hessian.shape[1] or hessian.shape[0] == 0:
        raise InvalidInputError(f"a Hessian has shape (P, P); got {tuple(hessian.shape)}")
    if not hessian.is_floating_point():
        raise InvalidInputError(f"a Hessian is a floating tensor, which says how it was rounded; got {hessian.dtype}")
    if not bool(torch.isfinite(hessian).all()):
        raise InvalidInputError("the Hessian has entries that are NaN or infinite")
    asymmetry = float((hessian - hessian.mT).abs().max())
    if asymmetry > 1e-3 * float(hessian.abs().max()):
        raise InvalidInputError(f"the matrix is not symmetric (entries differ by {asymmetry:.2g}); a Hessian is")
    for name, value in (("error", error), ("shift", shift)):
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise InvalidInputError(f"{name} must be finite and not negative, got {value}")


def _without_flat(matrix: Tensor, flat: Tensor, threshold: float) -> tuple[Tensor, int, list[str]]:
    """Eigenvalues on the complement of the flat directions that the Hessian confirms, and how many those are.

    A null space of the true Hessian splits off exactly, so the inertia is that of the complement plus one zero for
    each.
    """
    size = len(matrix)
    if flat.dim() != 2 or len(flat) != size:
        raise InvalidInputError(f"flat directions are columns ({size}, k); got {tuple(flat.shape)}")
    if not bool(torch.isfinite(flat).all()):
        raise InvalidInputError("the flat directions have entries that are NaN or infinite")
    directions = flat.detach().double().cpu()
    lengths = torch.linalg.vector_norm(directions, dim=0)
    directions = directions[:, lengths > 0] / lengths[lengths > 0]
    left, singular, _ = torch.linalg.svd(directions, full_matrices=False)
    basis = left[:, singular > 1e-8 * singular.max()] if len(singular) else left  # dependent directions count once
    image = matrix @ basis
    _, stretch, mixing = torch.linalg.svd(image, full_matrices=False)
    confirmed = basis @ mixing.T[:, stretch <= threshold]
    claimed, count = basis.shape[1], confirmed.shape[1]
    reasons = [f"{count} zero(s) explained by flat directions that the Hessian confirms"] if count else []
    if count < claimed:
        reasons.append(
            f"{claimed - count} direction(s) were said to be flat, but the Hessian maps them to "
            f"{float(stretch.max()):.2g}, beyond the error bar {threshold:.2g}: not counted"
        )
    if count == 0:
        return torch.linalg.eigvalsh(matrix), 0, reasons
    complement = torch.linalg.qr(confirmed, mode="complete").Q[:, count:]
    remaining = torch.linalg.eigvalsh(complement.T @ matrix @ complement) if count < size else matrix.new_zeros(0)
    return remaining, count, reasons


def _infer(inside: Tensor, outside: Tensor, threshold: float, allowed: bool) -> tuple[int, list[str]]:
    """How many of the eigenvalues inside the bar count as zero by their distance from all others."""
    if len(inside) == 0:
        return 0, []
    found = f"{len(inside)} eigenvalue(s) inside the error bar"
    if not allowed:
        return 0, [f"{found}, not explained by an exhibited flat direction"]
    nearest = float(outside.min()) if len(outside) else math.inf
    largest = float(inside.max())
    if nearest < GAP * threshold:
        return 0, [f"{found}, undecided: another lies at {nearest:.2g}, below {GAP:g} times the bar {threshold:.2g}"]
    if largest > FLOOR * threshold:
        return 0, [f"{found}, undecided: they reach {largest:.2g}, above the rounding level {FLOOR * threshold:.2g}"]
    where = f"the nearest other at {nearest:.2g}" if len(outside) else "there is no other"
    return len(inside), [f"{found} inferred to be zero: at most {largest:.2g}, {where}"]
