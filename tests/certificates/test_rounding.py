"""Proved bounds against arithmetic of 60 digits and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from thalweg.certificates.rounding import (
    Inertia,
    eigenvalue_below,
    gram_error,
    norm_above,
    product_error,
    proved_inertia,
    singular_value_below,
    sum_above,
)
from thalweg.foundation import InvalidInputError

SEEDS = range(6)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_condition(n: int, p: int, condition: float, seed: int) -> Tensor:
    """A wide matrix with singular values from 1 down to 1 / condition."""
    left, _ = torch.linalg.qr(draw(n, n, seed=seed))
    right, _ = torch.linalg.qr(draw(p, n, seed=seed + 1))
    values = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
    return left * values @ right.T


def exact(matrix: Tensor) -> mpmath.matrix:
    return mpmath.matrix(matrix.tolist())


def smallest_of_gram(matrix: Tensor) -> mpmath.mpf:
    with mpmath.workdps(60):
        m = exact(matrix)
        return min(mpmath.eigsy(m * m.T, eigvals_only=True))


@pytest.mark.parametrize("condition", [1e1, 1e4])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_gram_bound_is_positive_and_below_the_exact_eigenvalue(condition: float, seed: int) -> None:
    matrix = with_condition(6, 20, condition, seed)
    bound = eigenvalue_below(matrix @ matrix.T, gram_error(matrix))
    truth = smallest_of_gram(matrix)
    assert 0 < bound <= truth
    assert bound > 0.99 * truth  # and not a bound in name only


@pytest.mark.parametrize("condition", [1e8, 1e9])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_gram_matrix_cannot_show_is_not_claimed(condition: float, seed: int) -> None:
    matrix = with_condition(6, 20, condition, seed)
    assert eigenvalue_below(matrix @ matrix.T, gram_error(matrix)) <= 0
    found, truth = singular_value_below(matrix), mpmath.sqrt(smallest_of_gram(matrix))
    assert 0 < found <= truth  # the singular value decomposition reaches further
    assert found > 0.9 * truth


@pytest.mark.parametrize("seed", SEEDS)
def test_a_singular_matrix_has_no_positive_bound(seed: int) -> None:
    matrix = draw(5, 9, seed=seed)
    matrix[4] = matrix[:4].sum(0)
    assert singular_value_below(matrix) < 1e-13
    assert singular_value_below(matrix, 4) > 1e-3
    assert eigenvalue_below(matrix @ matrix.T, gram_error(matrix)) <= 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1.0, 1e6, 1e150])
def test_bounds_of_every_singular_value_at_any_scale(seed: int, scale: float) -> None:
    matrix = draw(4, 7, seed=seed) * scale
    with mpmath.workdps(60):
        truth = sorted(mpmath.svd_r(exact(matrix), compute_uv=False), reverse=True)
    for number in range(1, 5):
        bound = singular_value_below(matrix, number)
        assert bound <= truth[number - 1]
        assert bound >= (1 - 1e-11) * truth[number - 1]


@given(st.lists(st.floats(0, 1e300, allow_subnormal=True), min_size=0, max_size=50))
def test_sums_are_bounded_above(numbers: list[float]) -> None:
    bound = sum_above(torch.tensor(numbers, dtype=torch.float64))
    assert math.isinf(bound) or Fraction(bound) >= sum(map(Fraction, numbers), Fraction(0))


@example([2.225073858507e-311, 2.225073858507e-311])
@given(st.lists(st.floats(-1e300, 1e300), min_size=0, max_size=20))
def test_norms_are_bounded_above(numbers: list[float]) -> None:
    bound = norm_above(torch.tensor(numbers, dtype=torch.float64))
    assert math.isinf(bound) or Fraction(bound) ** 2 >= sum((Fraction(x) ** 2 for x in numbers), Fraction(0))


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 4), st.integers(0, 10_000), st.floats(-100, 100))
def test_products_err_by_no_more_than_told(m: int, k: int, n: int, seed: int, exponent: float) -> None:
    left, right = draw(m, k, seed=seed) * 10.0**exponent, draw(k, n, seed=seed + 1) * 10.0 ** (exponent / 2)
    right[: k // 2] = -right[k - k // 2 :].flip(0)  # cancellation
    computed, allowed = left @ right, product_error(left, right)
    for i in range(m):
        for j in range(n):
            truth = sum(
                (Fraction(a) * Fraction(b) for a, b in zip(left[i].tolist(), right[:, j].tolist(), strict=True)),
                Fraction(0),
            )
            assert abs(Fraction(float(computed[i, j])) - truth) <= Fraction(float(allowed[i, j]))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_error_given_is_taken_off(seed: int) -> None:
    g = draw(8, 8, seed=seed)
    g = g @ g.T + torch.eye(8, dtype=torch.float64)
    assert eigenvalue_below(g, 0.25) == pytest.approx(eigenvalue_below(g) - 0.25, rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_inertia_of_a_rotated_spectrum(seed: int) -> None:
    rotation, _ = torch.linalg.qr(draw(7, 7, seed=seed))
    spectrum = torch.tensor([-3.0, -1e-3, -1e-10, 1e-10, 1e-6, 2.0, 100.0], dtype=torch.float64)
    matrix = rotation * spectrum @ rotation.T
    matrix = (matrix + matrix.T) / 2
    assert proved_inertia(matrix) == Inertia(3, 4, 0)
    assert proved_inertia(matrix, 1e-8) == Inertia(2, 3, 2)
    assert proved_inertia(matrix, 1000.0) == Inertia(0, 0, 7)


def test_zero_eigenvalues_stay_undecided() -> None:
    rank_one = torch.ones(4, 4, dtype=torch.float64)
    assert proved_inertia(rank_one) == Inertia(0, 1, 3)
    assert eigenvalue_below(rank_one) <= 0
    assert eigenvalue_below(torch.zeros(3, 3, dtype=torch.float64)) <= 0


def test_an_empty_matrix_has_every_bound() -> None:
    assert eigenvalue_below(torch.zeros(0, 0, dtype=torch.float64)) == math.inf
    assert proved_inertia(torch.zeros(0, 0, dtype=torch.float64)) == Inertia(0, 0, 0)


def test_bad_matrices_are_named() -> None:
    with pytest.raises(InvalidInputError, match="square float64"):
        eigenvalue_below(torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="square float64"):
        eigenvalue_below(torch.ones(2, 2))
    with pytest.raises(InvalidInputError, match="not finite"):
        eigenvalue_below(torch.full((2, 2), math.nan, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="no singular value number 3"):
        singular_value_below(torch.ones(2, 5, dtype=torch.float64), 3)
