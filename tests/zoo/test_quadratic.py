"""Quadratics against NumPy and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.foundation import InvalidInputError
from thalweg.zoo import Quadratic


@given(
    spectrum=st.lists(st.sampled_from([-3.0, -1e-3, 0.0, 0.25, 1.0, 100.0]), min_size=1, max_size=6),
    seed=st.one_of(st.none(), st.integers(0, 50)),
)
@settings(max_examples=30, deadline=None)
def test_value_spectrum_and_inertia(spectrum, seed) -> None:
    size = len(spectrum)
    center = torch.arange(size, dtype=torch.float64) - 1.5
    objective = Quadratic(spectrum, center, seed=seed, offset=-0.75)
    basis = objective.basis.numpy()
    np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-14)
    matrix = sum(value * np.outer(v, v) for value, v in zip(spectrum, basis.T, strict=True))
    theta = np.linspace(-1, 2, size)
    step = theta - center.numpy()
    found = float(objective.value(torch.tensor(theta)))
    np.testing.assert_allclose(found, step @ matrix @ step / 2 - 0.75, rtol=1e-12, atol=1e-11)
    (point,) = objective.critical_points()
    assert point.index == sum(value < 0 for value in spectrum)
    assert point.nullity == sum(value == 0 for value in spectrum)
    assert point.is_global == (min(spectrum) >= 0)
    if min(spectrum) < 0:
        assert point.kind == ("maximum" if max(spectrum) <= 0 else "saddle")
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), point.spectrum.numpy(), atol=1e-12 * 100)
    if point.nullity:
        np.testing.assert_allclose(matrix @ point.tangent.numpy(), 0, atol=1e-12)
        along = point.theta + 7 * point.tangent.sum(1)
        np.testing.assert_allclose(float(objective.value(along)), -0.75, atol=1e-10)


def test_numbers_in_a_list_keep_double_precision() -> None:
    assert float(Quadratic([0.1]).spectrum[0]) == 0.1


def test_the_seed_decides_the_basis_and_nothing_else_moves() -> None:
    before = torch.get_rng_state()
    first, again, other = (Quadratic([1.0, 2.0], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(first.basis, again.basis)
    assert torch.equal(Quadratic([1.0, 2.0], seed=None).basis, torch.eye(2, dtype=torch.float64))


def test_bases_are_uniformly_distributed() -> None:
    corners = torch.stack([Quadratic([1.0, 1.0, 1.0], seed=seed).basis for seed in range(400)])
    assert abs(float(corners[:, 0, 0].mean())) < 4 / np.sqrt(3 * 400)  # QR without fixed signs gives only negative ones
    assert abs(float((corners[:, 0, 0] ** 2).mean()) - 1 / 3) < 0.06


@pytest.mark.parametrize("spectrum", [[], [[1.0]], [float("nan")]])
def test_unusable_spectra_are_refused(spectrum) -> None:
    with pytest.raises(InvalidInputError, match="spectrum must be"):
        Quadratic(spectrum)


def test_a_centre_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        Quadratic([1.0, 2.0], torch.zeros(3))
