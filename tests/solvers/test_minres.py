"""MINRES against dense solves."""

from __future__ import annotations

import pytest
import torch

from thalweg.solvers.minres import minres


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_solves_indefinite_systems(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    matrices = torch.randn(5, size, size, generator=generator, dtype=torch.float64)
    matrices = matrices + matrices.mT
    right = torch.randn(5, size, generator=generator, dtype=torch.float64)
    x, residual, products = minres(
        lambda rows, v: (matrices[rows] @ v[:, :, None]).squeeze(-1), right, tolerance=1e-12, limit=10 * size
    )
    expected = torch.linalg.solve(matrices, right)
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-9)
    true = ((matrices @ x[:, :, None]).squeeze(-1) - right).norm(dim=-1) / right.norm(dim=-1)
    torch.testing.assert_close(residual, true, rtol=0.2, atol=1e-12)
    assert bool((products >= 1).all())


def test_least_norm_solution_of_a_singular_system() -> None:
    matrix = torch.diag(torch.tensor([3.0, -1.0, 0.0, 0.0], dtype=torch.float64))
    x, _, _ = minres(lambda rows, v: v @ matrix, torch.tensor([[3.0, 2.0, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(x, torch.tensor([[1.0, -2.0, 0.0, 0.0]], dtype=torch.float64))


def test_tolerances_of_their_own_and_a_zero_right_side() -> None:
    matrix = torch.diag(torch.linspace(1, 100, 40, dtype=torch.float64))
    right = torch.ones(3, 40, dtype=torch.float64)
    right[2] = 0
    tolerance = torch.tensor([1e-1, 1e-10, 1e-10], dtype=torch.float64)
    x, residual, products = minres(lambda rows, v: v @ matrix, right, tolerance=tolerance)
    assert bool((residual <= tolerance).all())
    assert int(products[0]) < int(products[1])
    assert int(products[2]) == 0
    assert float(x[2].norm()) == 0
