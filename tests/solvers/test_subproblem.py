"""The trust-region subproblem against SciPy's and against the conditions that define its solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize

from thalweg.foundation import InvalidInputError
from thalweg.solvers.subproblem import trust_region_step


def model(eigenvalues: torch.Tensor, slopes: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (slopes * step + eigenvalues * step**2 / 2).sum(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(-3, 3), st.floats(-2, 2))
def test_optimality_conditions(seed: int, size: int, shift: float, log_radius: float) -> None:
    """p is a global solution iff (L + mu) p = -c with L + mu >= 0, mu >= 0, and mu = 0 inside the ball."""
    generator = torch.Generator().manual_seed(seed)
    eigenvalues = (torch.randn(4, size, generator=generator, dtype=torch.float64) + shift).sort(-1).values
    slopes = torch.randn(4, size, generator=generator, dtype=torch.float64)
    radius = torch.full((4,), 10**log_radius, dtype=torch.float64)
    found = trust_region_step(eigenvalues, slopes, radius)
    length = found.step.norm(dim=-1)
    assert bool((length <= 1.0101 * radius).all())
    assert bool((found.shifted > 0).all())
    torch.testing.assert_close(found.shifted * found.step, -slopes, rtol=1e-8, atol=1e-8)
    inside = ~found.boundary
    assert bool((found.shifted - eigenvalues)[inside].abs().max() < 1e-12) if bool(inside.any()) else True
    assert bool((length[found.boundary] > 0.97 * radius[found.boundary]).all())
    torch.testing.assert_close(found.predicted, -model(eigenvalues, slopes, found.step))


def test_beats_random_points_of_the_ball() -> None:
    generator = torch.Generator().manual_seed(3)
    eigenvalues = torch.tensor([[-2.0, -0.5, 0.1, 3.0]], dtype=torch.float64)
    slopes = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    found = trust_region_step(eigenvalues, slopes, torch.tensor([1.5], dtype=torch.float64))
    points = torch.randn(20_000, 4, generator=generator, dtype=torch.float64)
    shares = torch.rand(20_000, 1, generator=generator, dtype=torch.float64)
    points *= 1.485 * shares / points.norm(dim=-1, keepdim=True)
    assert float(-found.predicted) <= float(model(eigenvalues, slopes, points).min())


def test_hard_case_leaves_along_the_lowest_direction() -> None:
    """Nothing of the slope lies along the negative direction: the solution of the rest, then out to the boundary."""
    eigenvalues = torch.tensor([[-1.0, 1.0, 4.0]], dtype=torch.float64)
    slopes = torch.tensor([[0.0, 2.0, 5.0]], dtype=torch.float64)
    found = trust_region_step(eigenvalues, slopes, torch.tensor([3.0], dtype=torch.float64))
    expected = torch.tensor([np.sqrt(9 - 1 - 1), -1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(found.step[0].abs(), expected.abs())
    assert float(found.step[0, 1]) < 0


def test_zero_slope_at_a_saddle_and_at_a_minimum() -> None:
    eigenvalues = torch.tensor([[-1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    found = trust_region_step(eigenvalues, torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    assert float(found.step[0].abs()[0]) == pytest.approx(1)
    assert float(found.step[1].norm()) == 0
    assert found.boundary.tolist() == [True, False]


def test_agrees_with_a_general_constrained_solver() -> None:
    eigenvalues, slopes = np.array([-0.3, 0.7, 2.0]), np.array([0.4, -1.0, 0.3])
    best = min(
        scipy_minimize(
            lambda p: slopes @ p + eigenvalues @ p**2 / 2,
            start,
            constraints={"type": "ineq", "fun": lambda p: 1 - p @ p},
            method="SLSQP",
            options={"ftol": 1e-14},
        ).fun
        for start in ([0.9, 0, 0], [-0.9, 0, 0])
    )
    found = trust_region_step(
        torch.tensor(eigenvalues)[None], torch.tensor(slopes)[None], torch.tensor([1.0], dtype=torch.float64)
    )
    assert float(-found.predicted) == pytest.approx(best, rel=0.02)  # the radius is kept to one per cent


def test_refuses_a_radius_that_is_not_positive() -> None:
    with pytest.raises(InvalidInputError, match="trust radius must be positive"):
        trust_region_step(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1))
