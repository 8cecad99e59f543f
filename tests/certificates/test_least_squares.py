"""Bounds of least squares against explicit fits whose loss is computed in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from lower_bound_truths import affine, best_affine, best_table, exact, squares, straight
from torch import Tensor

from thalweg.certificates.forward import as_given
from thalweg.certificates.least_squares import independent_columns, low_rank_affine_bound, low_rank_bound
from thalweg.certificates.squared import power_of_two, scaled_below, scaled_exactly
from thalweg.foundation import NotApplicableError

SEEDS = range(5)
SCALES = [1e-100, 1e-6, 1.0, 1e6, 1e60]


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def table(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("intercept", [False, True])
def test_tables_of_a_rank(seed: int, scale: float, intercept: bool) -> None:
    y, c = draw(seed, 9, 5) * scale + intercept * 100 * scale, np.abs(draw(seed + 50, 9))
    found = low_rank_bound(table(y), table(c), 2, intercept=intercept)
    truth = squares(best_table(y, c, 2, intercept=intercept), y, exact(c))
    assert Fraction(found.bound) <= truth
    assert found.bound >= (1 - 1e-9) * float(truth)
    assert 0 <= found.rounding <= 1e-9 * float(truth)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_affine_maps_of_a_rank(seed: int, scale: float, intercept: bool, rank: int) -> None:
    x, y, c = draw(seed, 12, 3) / scale + 5 / scale, draw(seed + 9, 12, 4) * scale, np.abs(draw(seed + 50, 12))
    found = low_rank_affine_bound(table(x), table(y), table(c), rank, intercept=intercept)
    truth = squares(affine(x, *best_affine(x, y, c, rank, intercept=intercept)), y, exact(c))
    assert found is not None
    assert Fraction(found.bound) <= truth
    assert found.bound >= (1 - 1e-9) * float(truth)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e8])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7])
def test_a_small_residual_far_from_the_origin(offset: float, size: float) -> None:
    """Nothing cancels: the bound is good while the residual is above the rounding of the targets."""
    x = draw(1, 20, 1)
    y = 3 * x + size * draw(2, 20, 1) + offset
    found = low_rank_affine_bound(table(x), table(y), torch.ones(20, dtype=torch.float64), 1, intercept=True)
    truth = straight(x[:, 0], y, [Fraction(1)] * 20)
    assert found is not None
    assert Fraction(found.bound) <= truth
    if size > 1e-12 * offset:
        assert found.bound >= (1 - 1e-2) * float(truth)


@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("seed", SEEDS)
def test_nearly_dependent_columns_cost_accuracy_not_truth(condition: float, seed: int) -> None:
    x = draw(seed, 10, 3)
    x[:, 2] = x[:, 0] - x[:, 1] + draw(seed + 1, 10) / condition
    y, c = draw(seed + 2, 10, 2), np.ones(10)
    found = low_rank_affine_bound(table(x), table(y), table(c), 2, intercept=True)
    truth = squares(affine(x, *best_affine(x, y, c, 2, intercept=True)), y, exact(c))
    assert found is not None
    assert Fraction(found.bound) <= truth
    assert found.bound >= (1 - 1e-15 * condition**1.5 - 1e-9) * float(truth)


def test_a_span_that_rounding_hides_is_not_told() -> None:
    """The third column is the sum of two others but for rounding: its exact span is that of the rounding errors."""
    x = draw(0, 30, 3)
    x[:, 2] = x[:, 0] / 3 + x[:, 1] / 7
    ones = torch.ones(30, dtype=torch.float64)
    assert low_rank_affine_bound(table(x), table(draw(1, 30, 1)), ones, 1, intercept=True) is None


def test_dependent_columns_are_left_out_where_that_is_exact() -> None:
    code = np.eye(3)[np.arange(12) % 3]  # with a constant, one column too many
    values = np.round(4 * draw(3, 12, 1)) / 4
    x = np.concatenate([code, values, values, 0 * values, 1.5 * values + code[:, :1]], 1)
    kept = independent_columns(table(x), intercept=True)
    assert kept.shape[1] == 4
    assert bool((kept[:, 0] == 1).all())
    y = draw(4, 12, 2)
    found = low_rank_affine_bound(table(x), table(y), torch.ones(12, dtype=torch.float64), 2, intercept=True)
    truth = squares(affine(x, *best_affine(x, y, np.ones(12), 2, intercept=True)), y, [Fraction(1)] * 12)
    assert found is not None
    assert Fraction(found.bound) <= truth
    assert found.bound >= (1 - 1e-9) * float(truth)


def test_as_many_columns_as_rows_fit_everything() -> None:
    x, y = draw(0, 4, 6), draw(1, 4, 2)
    ones = torch.ones(4, dtype=torch.float64)
    for intercept in (False, True):
        found = low_rank_affine_bound(table(x), table(y), ones, 2, intercept=intercept)
        assert found is not None
        assert found.bound == 0
    assert low_rank_bound(table(y), ones, 2, intercept=False).bound == 0
    nothing = low_rank_affine_bound(table(0 * x), table(y), ones, 2, intercept=False)
    assert nothing is not None
    assert nothing.bound == pytest.approx(float((y**2).sum()), rel=1e-12)


def test_powers_of_two_are_exact_or_refused() -> None:
    wide = torch.tensor([1e200, 1e-200], dtype=torch.float64)
    with pytest.raises(NotApplicableError, match="300 orders of magnitude"):
        scaled_exactly(wide * torch.tensor([1.0, 1e-120], dtype=torch.float64), -power_of_two(wide))
    assert torch.equal(scaled_exactly(scaled_exactly(wide, -60), 60), wide)
    assert scaled_below(0.0, 5) == 0
    assert scaled_below(1.0, -1070) <= 2.0**-1070
    assert scaled_below(1.0, 2000) == float("inf")


def test_features_are_the_inputs_or_not() -> None:
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert as_given(x, x.reshape(4, 6))
    assert as_given({"a": x}, x.reshape(8, 3))
    assert not as_given(x, x.reshape(4, 6) * 1.5)
    assert not as_given((x, x), x.reshape(4, 6))
    assert not as_given(x.long(), x.long().double().reshape(4, 6))
