"""Forecasts against the loss itself, and in little memory."""

from __future__ import annotations

import pytest
import torch

import thalweg as tw
from thalweg.foundation import LinearOperator
from thalweg.inspection import groups
from thalweg.inspection.forecast import krylov_path, line_candidates, try_steps
from thalweg.zoo import Quadratic

SPECTRUM = torch.logspace(-3, 1, 30, dtype=torch.float64)


def far() -> torch.Tensor:
    return torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_on_a_quadratic_every_iterate_gains_what_it_promises():
    quadratic = Quadratic(SPECTRUM)
    theta = far()
    path = krylov_path(quadratic.hessian_operator(theta), quadratic.gradient(theta), 12, 1.0)
    steps = path.candidates.steps(slice(None))
    assert steps.shape == (24, 30)
    gained = quadratic.value(theta) - quadratic.value(theta + steps)
    torch.testing.assert_close(path.candidates.predicted, gained, rtol=1e-9, atol=1e-12)


def test_ritz_values_and_weights_integrate_powers_exactly():
    """Gauss quadrature of m nodes is exact for g^T H^k g with k < 2 m (Golub & Meurant)."""
    quadratic = Quadratic(SPECTRUM)
    theta = far()
    gradient, hessian = quadratic.gradient(theta), quadratic.hessian(theta)
    path = krylov_path(quadratic.hessian_operator(theta), gradient, 5, 1.0)
    power = gradient
    for k in range(10):
        assert float((path.weights * path.ritz**k).sum()) == pytest.approx(float(gradient @ power), rel=1e-7)
        power = hessian @ power


def test_iterates_fit_into_a_quarter_of_the_limit():
    size, calls = 2000, []

    def product(columns: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.linspace(1, 2, size, dtype=torch.float64)[:, None] * columns

    operator = LinearOperator((size, size), product, symmetric=True)
    with tw.memory_limit(4 * 3 * 8 * size):
        krylov_path(operator, torch.ones(size, dtype=torch.float64), 24, 1.0)
    assert len(calls) == 3


def test_groups_give_what_all_at_once_gives(monkeypatch):
    quadratic = Quadratic(SPECTRUM)
    theta = far()
    gradient = quadratic.gradient(theta)
    unit = gradient / gradient.norm()
    candidates = line_candidates(unit, float(gradient.norm()), float(unit @ quadratic.hessian(theta) @ unit), 10.0)
    whole = try_steps(quadratic, theta, float(quadratic.value(theta)), "gradient", candidates)
    monkeypatch.setattr(groups, "BYTES", 1)
    parts = try_steps(quadratic, theta, float(quadratic.value(theta)), "gradient", candidates)
    assert whole.verified
    assert parts.measured == whole.measured
    assert torch.equal(parts.step, whole.step)
