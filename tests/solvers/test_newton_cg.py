"""Steihaug's conjugate gradients against dense algebra."""

from __future__ import annotations

import torch
from solver_functions import function, normal

from thalweg.solvers import minimize
from thalweg.solvers.newton_cg import products_at, steihaug


def multiply(matrices: torch.Tensor):
    return lambda rows, v: (matrices[rows] @ v[:, :, None]).squeeze(-1)


def test_interior_solution_is_the_newton_step() -> None:
    root = normal(3, 12, 12, seed=1)
    matrices = root @ root.mT + torch.eye(12, dtype=torch.float64)
    gradient = normal(3, 12, seed=2)
    wide, tight = torch.full((3,), 1e6).double(), torch.full((3,), 1e-12).double()
    found = steihaug(multiply(matrices), gradient, wide, tight, 100)
    expected = -torch.linalg.solve(matrices, gradient)
    torch.testing.assert_close(found.step, expected, rtol=1e-8, atol=1e-8)
    assert not bool(found.boundary.any() | found.negative.any())
    decrease = (gradient * torch.linalg.solve(matrices, gradient)).sum(-1) / 2
    torch.testing.assert_close(found.predicted, decrease)


def test_short_radius_ends_on_the_boundary_with_at_least_the_cauchy_decrease() -> None:
    root = normal(4, 8, 8, seed=3)
    matrices, gradient = root @ root.mT, normal(4, 8, seed=4)
    radius = torch.full((4,), 1e-2, dtype=torch.float64)
    found = steihaug(multiply(matrices), gradient, radius, torch.full((4,), 1e-12).double(), 100)
    torch.testing.assert_close(found.step.norm(dim=-1), radius)
    length = gradient.norm(dim=-1)
    curvature = (gradient * (matrices @ gradient[:, :, None]).squeeze(-1)).sum(-1)
    along = torch.minimum(radius / length, length**2 / curvature)
    cauchy = along * length**2 - along**2 * curvature / 2
    assert bool((found.predicted >= cauchy * (1 - 1e-12)).all())


def test_negative_curvature_is_followed_to_the_boundary() -> None:
    matrix = torch.diag(torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64))[None]
    gradient = torch.tensor([[1.0, 0.5, 1.0]], dtype=torch.float64)
    found = steihaug(multiply(matrix), gradient, torch.tensor([4.0]).double(), torch.zeros(1).double(), 50)
    assert bool(found.negative)
    torch.testing.assert_close(found.step.norm(dim=-1), torch.tensor([4.0], dtype=torch.float64))
    model = found.step[0] @ matrix[0] @ found.step[0] / 2 + found.step[0] @ gradient[0]
    torch.testing.assert_close(-found.predicted[0], model)


def test_products_of_one_point_and_of_many_agree() -> None:
    objective = function(5, lambda x: (x**4).sum() + x.prod(), "quartic")
    theta, vectors = normal(3, 5, seed=5), normal(3, 5, seed=6)
    many = products_at(objective, theta)(torch.arange(3), vectors)
    dense = (objective.hessian(theta) @ vectors[:, :, None]).squeeze(-1)
    torch.testing.assert_close(many, dense)
    one = products_at(objective, theta[1:2])(torch.tensor([0]), vectors[1:2])
    torch.testing.assert_close(one, dense[1:2])


def test_products_are_counted() -> None:
    counted = function(30, lambda x: (torch.arange(1, 31) * x**2).sum(), "diagonal")
    found = minimize(counted, normal(30), method="newton-cg")
    assert 5 < int(found.hessians) < 400
