"""Lower bounds of least squares over linear models, over matrices of low rank, and over linear models of low rank.

A projection residual is bounded without cancellation: of the residual R left by any computed fit, exact but for its own
rounding, no more can be fitted than its projection on the span of the inputs, and that is tiny. The span is that of
computed combinations ``M = X G`` of the inputs, whose distance to an orthonormal basis is bounded.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.rounding import TINY, UNIT, gamma, norm_above, product_error, singular_values_below
from thalweg.certificates.squared import power_of_two, scaled_below, scaled_exactly

__all__ = ["LowRankFit", "low_rank_affine_bound", "low_rank_bound"]

NEARLY = 1e-10
"""Relative size below which a pivot suggests a dependent column."""
DENOMINATOR = 1000
"""Largest denominator tried in an exact relation among columns."""


class LowRankFit(NamedTuple):
    """A lower bound of a least-squares problem.

    Attributes:
        bound: in the units of the loss, rounding taken off.
        rounding: how much that was.
    """

    bound: float
    rounding: float


def low_rank_bound(
    targets: Float[Tensor, "n q"], weights: Float[Tensor, " n"], rank: int, *, intercept: bool
) -> LowRankFit:
    """Lower bound of ``min sum_i c_i |y_i - f_i|^2`` over all tables f of a rank, or of a rank plus a constant row.

    It is the sum of the squared singular values beyond the rank (Eckart and Young); with a constant row, those of the
    centred table.

    >>> y = torch.eye(3, dtype=torch.float64)
    >>> bound = low_rank_bound(y, torch.ones(3, dtype=torch.float64), 1, intercept=False).bound
    >>> 2 - 1e-12 < bound < 2
    True
    """
    y, c, exponent = _normalised(targets, weights)
    root = c.sqrt()
    size = norm_above(root.unsqueeze(1) * y) * (1 + 8 * UNIT)
    error = 0.0
    if intercept:
        y, size, error = _centred(y, c)
    table = root.unsqueeze(1) * y
    values = singular_values_below(table, error + 4 * UNIT * size + TINY)[rank:]
    return _fit(_squares_below(values), float((torch.linalg.svdvals(table)[rank:] ** 2).sum()), exponent)


def low_rank_affine_bound(
    design: Float[Tensor, "n d"],
    targets: Float[Tensor, "n q"],
    weights: Float[Tensor, " n"],
    rank: int,
    *,
    intercept: bool,
) -> LowRankFit | None:
    """Lower bound of ``min sum_i c_i |y_i - B x_i - b|^2`` over all B of a rank, and all b where there is one.

    Args:
        design: x, exact.
        targets: y, exact.
        weights: c, positive.
        rank: largest rank of B.
        intercept: whether b is free; else it is zero.

    Returns:
        The bound, or None where the columns of the design are so nearly dependent that their span cannot be told.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> y = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    >>> found = low_rank_affine_bound(x, y, torch.ones(3, dtype=torch.float64), 1, intercept=True)
    >>> 2 / 3 - 1e-12 < found.bound < 2 / 3
    True
    """
    y, c, exponent = _normalised(targets, weights)
    x = independent_columns(design, intercept=intercept)
    if x.shape[1] >= len(x):
        return LowRankFit(0.0, 0.0)  # everything is fitted
    if not x.shape[1]:
        return low_rank_bound(targets, weights, 0, intercept=False)
    span = _span(x, c)
    if span is None:
        return None
    outside = _outside(span, x, y, c)
    inside = _inside(span, y, c, rank, intercept=intercept)
    total = (outside[0] + inside[0]) * (1 - 4 * UNIT)
    return _fit(total, outside[1] + inside[1], exponent)


def _fit(below: float, about: float, exponent: int) -> LowRankFit:
    bound = scaled_below(below, exponent)
    return LowRankFit(bound, max(0.0, about * 2.0 ** min(1000, exponent) - bound))


def _normalised(targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, int]:
    """Targets and weights brought near one by powers of two, and the exponent to bring their squares back."""
    of_targets, of_weights = power_of_two(targets), power_of_two(weights)
    exponent = 2 * of_targets + of_weights
    return scaled_exactly(targets, -of_targets), scaled_exactly(weights, -of_weights), exponent


def _squares_below(values: Tensor) -> float:
    """Lower bound of the sum of squares of numbers that are not negative."""
    return max(0.0, float((values**2).sum()) * (1 - gamma(len(values) + 4)) - (len(values) + 1) * TINY)


def _centred(y: Tensor, c: Tensor) -> tuple[Tensor, float, float]:
    """The table less its weighted mean; a bound of its weighted norm, and of what the mean and the rounding put off."""
    total = c.sum()
    moved = y - (c.unsqueeze(1) * y).sum(0) / total
    root = c.sqrt().unsqueeze(1)
    size = norm_above(root * moved) * (1 + 8 * UNIT)
    # a constant row off by delta moves the weighted table by sqrt(total) |delta|; delta is the mean of what is left
    left = (c.unsqueeze(1) * moved).sum(0).abs() + gamma(len(c) + 4) * (c.unsqueeze(1) * moved.abs()).sum(0)
    off = norm_above(left / total) * float(total.sqrt()) * (1 + gamma(2 * len(c) + 16))
    return moved, size, off + 2 * UNIT * size + TINY


# -- the span of the inputs --------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """Exact combinations ``M = X G`` of the columns: computed, their entrywise errors, and how far from orthonormal.

    Attributes:
        computed: ``(n, r)``.
        error: ``(n, r)`` entrywise bound of what M is off.
        coefficients: G, ``(r, r)``.
        defect: bound of ``||M^T C M - I||_2``, below one half.
    """

    computed: Tensor
    error: Tensor
    coefficients: Tensor
    defect: float


def independent_columns(design: Float[Tensor, "n d"], *, intercept: bool) -> Float[Tensor, "n r"]:
    """Columns with the same span, scaled by powers of two; first a constant one where there is an intercept.

    A column is left out only where it is shown in exact arithmetic to be a combination of others, with coefficients
    that are simple fractions: zeros, copies, the last of the columns of a one-hot code beside a constant.
    """
    scaled = [scaled_exactly(column, -power_of_two(column)) for column in design.T if bool(column.any())]
    if intercept:
        scaled.insert(0, torch.ones(len(design), dtype=torch.float64))
    if not scaled:
        return design[:, :0]
    x = torch.stack(scaled, dim=1)
    _, triangle, order = scipy.linalg.qr(x.numpy(), mode="economic", pivoting=True)
    pivots = np.abs(np.diag(triangle))
    sound = sorted(order[: int((pivots > NEARLY * pivots[0]).sum())])
    if intercept and 0 not in sound:
        sound = _exchange(x, sound)
    if len(sound) >= len(x):
        return x  # they span everything as it is
    rest = [column for column in range(x.shape[1]) if column not in set(sound)]
    relations = torch.linalg.lstsq(x[:, sound], x[:, rest]).solution.T.tolist() if rest else []
    apart = [
        column
        for column, relation in zip(rest, relations, strict=True)
        if not _is_combination(x[:, column], x[:, sound], relation)
    ]
    return x[:, sorted([*sound, *apart])]


def _exchange(x: Tensor, sound: list[int]) -> list[int]:
    """Put the constant column in the place of the one it depends on most."""
    found = torch.linalg.lstsq(x[:, sound], x[:, :1]).solution[:, 0]
    out = sound[int(found.abs().argmax())]
    return [0, *(column for column in sound if column != out)]


def _is_combination(column: Tensor, others: Tensor, relation: list[float]) -> bool:
    """Whether a column is exactly the combination that the nearest simple fractions make of others."""
    if not all(map(math.isfinite, relation)):
        return False
    simple = [Fraction(value).limit_denominator(DENOMINATOR) for value in relation]
    used = [place for place, value in enumerate(simple) if value]
    factors = [simple[place] for place in used]
    return all(
        Fraction(own) == sum((f * Fraction(v) for f, v in zip(factors, row, strict=True)), Fraction(0))
        for own, row in zip(column.tolist(), others[:, used].tolist(), strict=True)
    )


def _span(x: Tensor, c: Tensor) -> _Span | None:
    root = c.sqrt().unsqueeze(1)
    _, triangle = torch.linalg.qr(root * x)
    if not bool((triangle.diagonal() != 0).all()):
        return None
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    coefficients = torch.linalg.solve_triangular(triangle, identity, upper=True)
    if not bool(torch.isfinite(coefficients).all()):
        return None
    computed = x @ coefficients
    error = product_error(x, coefficients)
    gram = computed.T @ (c.unsqueeze(1) * computed)
    gram.diagonal().sub_(1)
    own = norm_above(gram) + norm_above(product_error(computed.T, c.unsqueeze(1) * computed)) * (1 + 8 * UNIT)
    size, off = norm_above(root * computed) * (1 + 8 * UNIT), norm_above(root * error) * (1 + 8 * UNIT)
    defect = (own + 2 * size * off + off**2 + 2 * UNIT * math.sqrt(x.shape[1])) * (1 + 16 * UNIT)
    return _Span(computed, error, coefficients, defect) if defect < 0.5 else None


def _products(span: _Span, table: Tensor, c: Tensor) -> tuple[Tensor, float]:
    """``M^T C T`` as computed, and a bound in the Frobenius norm of its error."""
    weighted = c.unsqueeze(1) * table
    found = span.computed.T @ weighted
    off = norm_above(product_error(span.computed.T, weighted)) + norm_above(span.error.T @ weighted.abs())
    return found, off * (1 + gamma(len(c) + 16))


def _outside(span: _Span, x: Tensor, y: Tensor, c: Tensor) -> tuple[float, float]:
    """Weighted squares that no combination of the columns fits: a lower bound, and about how many."""
    fit = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for _ in range(2):  # the second pass takes out what rounding left of the first
        fit = fit + span.coefficients @ _products(span, y - x @ fit, c)[0]
    fitted = x @ fit
    residual = y - fitted
    error = product_error(x, fit) + UNIT * residual.abs() * (1 + 2 * UNIT)
    root = c.sqrt().unsqueeze(1)
    put_off = norm_above(root * error) * (1 + 8 * UNIT)
    whole = float((c.unsqueeze(1) * residual**2).sum()) * (1 - gamma(residual.numel() + 4)) - residual.numel() * TINY
    along, off = _products(span, residual, c)
    fits_at_most = (norm_above(along) + off) ** 2 / (1 - span.defect) * (1 + 16 * UNIT)
    left = math.sqrt(max(0.0, whole - fits_at_most - 4 * UNIT * abs(whole))) * (1 - 4 * UNIT) - put_off
    return max(0.0, left) ** 2 * (1 - 4 * UNIT), whole


def _inside(span: _Span, y: Tensor, c: Tensor, rank: int, *, intercept: bool) -> tuple[float, float]:
    """Weighted squares within the span that a rank leaves out: a lower bound, and about how many."""
    if rank >= min(span.computed.shape[1] - intercept, y.shape[1]):
        return 0.0, 0.0
    if not intercept:
        along, off = _products(span, y, c)
        values = singular_values_below(along, off) / math.sqrt(1 + span.defect)
    else:
        moved, size, _ = _centred(y, c)
        along, off = _products(span, moved, c)
        # the first combination is constant; the others are orthogonal to it but for the defect
        leak = span.defect * (norm_above(along[:1]) + off) / (1 - span.defect)
        put_off = 2 * UNIT * size * math.sqrt(1 + span.defect)
        along, off = along[1:], (off + leak + put_off) * (1 + 16 * UNIT)
        values = singular_values_below(along, off) / math.sqrt(1 + span.defect)
    return _squares_below(values[rank:] * (1 - 4 * UNIT)), float((torch.linalg.svdvals(along)[rank:] ** 2).sum())
