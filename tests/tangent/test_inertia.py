"""Signs are never wrongly decided; zeros are explained or inferred with room to spare; the rest is undecided."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from designed_spectra import normal, rotated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thalweg.foundation import InvalidInputError, MemoryLimitError, memory_limit
from thalweg.tangent import hessian_rounding, inertia
from thalweg.tangent.inertia import FLOOR, GAP


def counts(spectrum: Tensor) -> tuple[int, int, int]:
    return int((spectrum < 0).sum()), int((spectrum == 0).sum()), int((spectrum > 0).sum())


signed_magnitudes = st.tuples(st.sampled_from([-1.0, 1.0]), st.floats(-18, 2)).map(lambda t: t[0] * 10 ** t[1])
eigenvalues = st.one_of(st.just(0.0), signed_magnitudes)


@given(st.lists(eigenvalues, min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_no_sign_is_wrongly_decided(values: list[float], seed: int) -> None:
    spectrum = torch.tensor(values, dtype=torch.float64)
    found = inertia(rotated(spectrum, seed))
    negative, zero, positive = counts(spectrum)
    assert found.negative + found.zero + found.positive + found.undecided == len(values)
    assert found.negative <= negative
    assert found.positive <= positive
    # what is called zero lies below the floor of inference, and nothing else that is not zero does so unseen
    small = int((spectrum.abs() <= 2 * FLOOR * found.threshold + 1e-300).sum())
    assert found.zero <= small
    assert zero <= found.zero + found.undecided
    if not found.zero:
        assert found.negative + found.undecided >= negative
        assert found.positive + found.undecided >= positive


@given(st.lists(eigenvalues, min_size=1, max_size=10))
@settings(max_examples=100, deadline=None)
def test_without_inference_the_undecided_hold_every_truth(values: list[float]) -> None:
    spectrum = torch.tensor(values, dtype=torch.float64)
    found = inertia(rotated(spectrum), infer_zeros=False)
    negative, zero, positive = counts(spectrum)
    assert found.zero == 0
    for decided, truth in ((found.negative, negative), (found.positive, positive), (0, zero)):
        assert decided <= truth <= decided + found.undecided


def test_zeros_far_from_everything_are_inferred() -> None:
    spectrum = torch.cat([torch.zeros(7), torch.tensor([-3.0, -1e-4, 1e-4, 5.0])]).double()
    found = inertia(rotated(spectrum))
    assert (found.negative, found.zero, found.positive, found.undecided) == (2, 7, 2, 0)
    assert (found.index, found.nullity, found.explained) == (2, 7, 0)
    assert "inferred to be zero" in found.reasons[0]


@pytest.mark.parametrize("between", [0.5, 5.0, 0.5 * GAP])
def test_a_value_near_the_bar_leaves_the_zeros_undecided(between: float) -> None:
    exact = torch.tensor([0.0, 0, 1, 2, -1], dtype=torch.float64)
    bar = inertia(torch.diag(exact)).threshold
    near = torch.cat([exact, torch.tensor([-between * bar], dtype=torch.float64)])
    found = inertia(torch.diag(near), error=bar * 0.9)
    assert found.undecided == (3 if between < 1 else 2)
    assert found.zero == 0
    assert found.index is None
    assert found.nullity is None
    assert found.negative <= 2 <= found.negative + found.undecided


def test_flat_directions_explain_zeros_beside_an_undecided_neighbour() -> None:
    spectrum = torch.tensor([0.0, 0, 3e-15, 1, -2], dtype=torch.float64)
    directions = torch.linalg.qr(normal(5, 5, seed=8)).Q
    matrix = (directions * spectrum) @ directions.T
    matrix = (matrix + matrix.T) / 2
    plain = inertia(matrix)
    assert (plain.zero, plain.undecided) == (0, 3)
    mixed = directions[:, :2] @ torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]], dtype=torch.float64)
    told = inertia(matrix, flat=mixed)  # three dependent columns span the two
    assert (told.negative, told.zero, told.positive, told.undecided) == (1, 2, 1, 1)
    assert told.explained == 2
    assert any("explained by flat directions" in reason for reason in told.reasons)


def test_a_direction_wrongly_said_to_be_flat_is_not_counted() -> None:
    matrix = torch.diag(torch.tensor([0.0, 1, -1], dtype=torch.float64))
    found = inertia(matrix, flat=torch.eye(3, dtype=torch.float64)[:, [0, 1]])
    assert (found.negative, found.zero, found.positive) == (1, 1, 1)
    assert found.explained == 1
    assert any("said to be flat" in reason for reason in found.reasons)
    # a direction in which the quadratic form vanishes is not flat where the Hessian does not
    saddle = inertia(matrix[1:, 1:], flat=torch.ones(2, 1, dtype=torch.float64))
    assert (saddle.negative, saddle.zero, saddle.positive, saddle.explained) == (1, 0, 1, 0)


def test_everything_flat_and_nothing_flat() -> None:
    nothing = inertia(torch.zeros(4, 4, dtype=torch.float64))
    assert (nothing.nullity, nothing.index) == (4, 0)
    explained = inertia(torch.zeros(4, 4, dtype=torch.float64), flat=torch.eye(4, dtype=torch.float64))
    assert (explained.zero, explained.explained) == (4, 4)
    unknown = inertia(torch.zeros(4, 4, dtype=torch.float64), error=0.1)
    assert (unknown.zero, unknown.undecided) == (4, 0)
    zero_columns = inertia(torch.eye(3, dtype=torch.float64), flat=torch.zeros(3, 2, dtype=torch.float64))
    assert (zero_columns.positive, zero_columns.explained) == (3, 0)


def test_a_caller_s_error_and_shift_widen_the_bar() -> None:
    matrix = torch.diag(torch.tensor([-1e-6, 1.0, 2.0], dtype=torch.float64))
    assert inertia(matrix).index == 1
    shifted = inertia(matrix, shift=1e-5)
    assert (shifted.negative, shifted.undecided) == (0, 1)
    assert inertia(matrix, error=1e-5).undecided == 1
    bar = inertia(matrix, error=1e-9, shift=2e-9).error
    assert (bar.hessian, bar.shift) == (1e-9, 2e-9)
    assert bar.total == pytest.approx(bar.eigensolver + 3e-9)


def test_eigensolver_bar_holds_against_forty_digits() -> None:
    """Graded matrices, each eigenvalue against mpmath."""
    for seed in range(4):
        scales = 10.0 ** torch.linspace(0, -7, 8, dtype=torch.float64)
        matrix = rotated(normal(8, seed=seed), seed) * scales.unsqueeze(0) * scales.unsqueeze(1)
        matrix = (matrix + matrix.T) / 2
        with mpmath.workdps(40):
            exact = mpmath.eigsy(mpmath.matrix(matrix.tolist()), eigvals_only=True)
            truth = [mpmath.mpf(exact[i]) for i in range(8)]
            found = inertia(matrix, error=0.0)
            worst = max(abs(mpmath.mpf(float(a)) - b) for a, b in zip(found.eigenvalues, sorted(truth), strict=True))
        assert float(worst) <= found.error.eigensolver
        negative = sum(1 for value in truth if value < 0)
        assert found.negative <= negative <= found.negative + found.undecided + found.zero


# -- linear networks: saddles whose index is known ---------------------------------------------------------------------


def linear_network_saddle(values: list[float], used: tuple[int, ...], seed: int) -> tuple[Tensor, int, int]:
    """Hessian at the saddle of a 4-3-3 linear network with whitened inputs that uses these singular directions.

    In singular coordinates the second variation falls into 2 x 2 blocks (Baldi & Hornik 1989): an idle unit and an
    unused direction j give +-s_j, a used direction i and an unused one j give s_i +- s_j, and the rest is zero or
    positive. Hence

        index = (h - r)(m - r) + #{i used, j not used: s_j > s_i},   nullity = r^2 + (h - r)(d + k - 2 (m - r)).

    Returns the Hessian, its index and its nullity.
    """
    d, h, k, samples = 4, 3, 3, 24
    left, right = torch.linalg.qr(normal(k, k, seed=seed)).Q, torch.linalg.qr(normal(d, d, seed=seed + 50)).Q
    whitened = torch.linalg.qr(normal(samples, d, seed=seed + 99)).Q * samples**0.5
    s = torch.tensor(values, dtype=torch.float64)
    targets = whitened @ ((left * s) @ right[:, :k].T).T
    chosen, r, m = list(used), len(used), min(d, k)
    spread = torch.eye(h, dtype=torch.float64)[:, :r]
    first = (spread * s[chosen].sqrt()) @ right[:, chosen].T
    second = (left[:, chosen] * s[chosen].sqrt()) @ spread.T

    def loss(theta: Tensor) -> Tensor:
        w1, w2 = theta[: h * d].reshape(h, d), theta[h * d :].reshape(k, h)
        return ((whitened @ w1.T @ w2.T - targets) ** 2).sum() / (2 * samples)

    theta = torch.cat([first.reshape(-1), second.reshape(-1)])
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(theta)
    above = sum(1 for i in chosen for j in range(m) if j not in chosen and s[j] > s[i])
    index = (h - r) * (m - r) + above
    nullity = r**2 + (h - r) * (d + k - 2 * (m - r))
    return (hessian + hessian.T) / 2, index, nullity


SUBSETS = [used for r in range(4) for used in itertools.combinations(range(3), r)]


@pytest.mark.parametrize("separation", [1e-1, 1e-4])
@pytest.mark.parametrize("used", SUBSETS)
def test_index_and_nullity_of_separated_saddles_are_exact(separation: float, used: tuple[int, ...]) -> None:
    for seed in range(3):
        hessian, index, nullity = linear_network_saddle([3.0, 2.0, 2.0 * (1 - separation)], used, seed)
        found = inertia(hessian, samples=24)
        assert (found.index, found.nullity) == (index, nullity), found.reasons


@pytest.mark.parametrize("separation", [1e-6, 1e-9, 1e-11, 1e-12, 1e-13, 1e-14])
def test_closer_saddles_are_right_or_honestly_undecided(separation: float) -> None:
    undecided = 0
    for used in SUBSETS:
        for seed in range(3):
            hessian, index, _ = linear_network_saddle([3.0, 2.0, 2.0 * (1 - separation)], used, seed)
            found = inertia(hessian, samples=24)
            assert found.negative <= index <= found.negative + found.undecided, (used, found.describe())
            undecided += found.undecided > 0
    if separation <= 1e-12:
        assert undecided  # this close the zeros cannot all be told from the small ones


# -- the rule for rounding, and refusals -------------------------------------------------------------------------------


def test_rounding_rule_grows_with_samples_and_precision_and_sees_asymmetry() -> None:
    matrix = rotated(normal(20))
    assert hessian_rounding(matrix, 100) == pytest.approx(10 * hessian_rounding(matrix, 1))
    assert hessian_rounding(matrix.float().float(), 1) > 1e8 * hessian_rounding(matrix, 1)
    crooked = matrix.clone()
    crooked[0, 1] += 1e-6
    assert hessian_rounding(crooked, 1) == pytest.approx(1e-6 / 2**0.5, rel=1e-6)


def test_refusals() -> None:
    with pytest.raises(InvalidInputError, match="not symmetric"):
        inertia(torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="NaN"):
        inertia(torch.full((2, 2), math.nan, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="error must be finite"):
        inertia(torch.eye(2, dtype=torch.float64), error=-1.0)
    with pytest.raises(InvalidInputError, match="columns"):
        inertia(torch.eye(2, dtype=torch.float64), flat=torch.ones(2, dtype=torch.float64).reshape(1, 2))
    with pytest.raises(InvalidInputError, match="floating tensor"):
        inertia(torch.eye(2, dtype=torch.int64))
    with pytest.raises(InvalidInputError, match="flat directions have entries"):
        inertia(torch.eye(2, dtype=torch.float64), flat=torch.full((2, 1), math.nan, dtype=torch.float64))
    with memory_limit(1000), pytest.raises(MemoryLimitError, match="extreme_eigenpairs"):
        inertia(torch.eye(20, dtype=torch.float64))
