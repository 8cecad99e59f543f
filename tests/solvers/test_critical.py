"""Critical points of any kind: saddles keep their index, a wanted index is found, infinity is not a saddle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from solver_functions import function, normal, well
from torch import Tensor

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import Objective
from thalweg.solvers import (
    LBFGS,
    EigenvectorFollowing,
    IndexPreservingNewton,
    NewtonMinres,
    Solution,
    Status,
    find_critical_point,
)
from thalweg.zoo import CriticalPoint, all_infinities, all_known, critical_points_of

NAMES = (
    "quadratic-saddle",
    "quadratic-degenerate-saddle",
    "quadratic-maximum",
    "quadratic-tiny",
    "linear-network-narrow",
    "linear-network-square",
    "linear-network-equal-values",
    "sampled-linear-network",
    "duplicated-neuron-plateau",
    "duplicated-neuron-outside",
    "double-well-tilted",
    "rosenbrock",
    "bump-top",
)
KNOWN = [
    pytest.param(exhibit.objective, point, id=f"{exhibit.name}-{i}")
    for exhibit in all_known()
    if exhibit.name in NAMES
    for i, point in enumerate(critical_points_of(exhibit.objective)[:3])
    if "degenerate" not in point.kind
]


def near(point: CriticalPoint, distance: float, count: int = 3) -> Tensor:
    return point.theta + distance * normal(count, len(point.theta), seed=4)


def assert_found(found: Solution, point: CriticalPoint) -> None:
    assert bool(found.converged.all()), found.summary()
    assert float(found.gradient_norm.max()) <= 1e-10
    torch.testing.assert_close(found.value, torch.full_like(found.value, point.value), rtol=1e-9, atol=1e-9)
    assert bool((found.index <= point.index).all())
    assert bool((point.index <= found.index + found.undecided).all())
    assert bool((found.undecided <= point.nullity).all())


@pytest.mark.parametrize(("objective", "point"), KNOWN)
def test_saddles_stay_saddles(objective: Objective, point: CriticalPoint) -> None:
    assert_found(find_critical_point(objective, near(point, 1e-3)), point)


@pytest.mark.parametrize(("objective", "point"), KNOWN)
def test_a_wanted_index_is_found_from_nearby(objective: Objective, point: CriticalPoint) -> None:
    assert_found(find_critical_point(objective, near(point, 1e-3), index=point.index), point)


@pytest.mark.parametrize("exhibit", all_infinities(), ids=lambda exhibit: exhibit.name)
def test_infinity_is_no_critical_point(exhibit) -> None:
    found = find_critical_point(exhibit.objective, exhibit.objective.starts(), max_iterations=150)
    assert not bool(found.converged.any()) or _finite_points(exhibit.objective, found)


def _finite_points(objective: Objective, found: Solution) -> bool:
    """Some of these objectives do have critical points, which a search for any kind may find."""
    points = found.theta[found.converged]
    known = [p.theta for p in critical_points_of(objective)] if hasattr(objective, "critical_points") else []
    return all(any(float((p - k).abs().max()) < 1 for k in known) for p in points)


def test_eigenvector_following_climbs_out_of_a_minimum() -> None:
    """From just inside a minimum up to the saddle between the wells, and from a saddle up to a maximum."""
    wells = function(2, lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + 2 * torch.cos(x[1]), "wells and waves")
    found = find_critical_point(wells, torch.tensor([[0.0, 3.0], [0.0, -3.0]]), index=2)
    assert bool(found.converged.all()), found.summary()
    assert found.index.tolist() == [2, 2]
    found = find_critical_point(well(), torch.tensor([[0.97, 0.0], [-0.97, 0.0]]), index=1)
    assert bool(found.converged.all()), found.summary()
    torch.testing.assert_close(found.theta, torch.zeros(2, 2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert found.index.tolist() == [1, 1]


def test_all_indices_of_a_sum_of_wells() -> None:
    """sum (x_i^2 - 1)^2 has critical points at {-1, 0, 1}^3, of index the number of zeros."""
    wells = function(3, lambda x: ((x**2 - 1) ** 2).sum(), "wells")
    start = torch.tensor([0.6, -0.75, 0.8])
    for index in range(4):
        found = find_critical_point(wells, start, index=index)
        assert found.status is Status.CONVERGED, found.message
        assert int(found.index) == index
        assert int((found.theta.abs() < 1e-6).sum()) == index


def test_index_is_kept_far_from_the_point() -> None:
    """A pure Newton step from here lands beyond the inflection; the damped one stays in the basin of index 0."""
    wells = function(2, lambda x: ((x**2 - 1) ** 2).sum(), "wells")
    found = find_critical_point(wells, torch.tensor([0.62, 0.7]))
    assert int(found.index) == 0
    torch.testing.assert_close(found.theta, torch.ones(2, dtype=torch.float64))


def test_matrix_free_newton_agrees_with_the_dense_one() -> None:
    matrix = normal(40, 40, seed=1)
    matrix = matrix + matrix.mT
    objective = function(40, lambda x: x @ matrix @ x / 2 + (x**4).sum() / 40 + x.sum(), "quartic saddle")
    start = 0.1 * normal(2, 40, seed=2)
    dense = find_critical_point(objective, start)
    free = find_critical_point(objective, dense.theta + 1e-3 * normal(2, 40, seed=3), method=NewtonMinres())
    assert bool(dense.converged.all() & free.converged.all()), free.summary()
    torch.testing.assert_close(free.theta, dense.theta, atol=1e-8, rtol=0)
    spectrum = np.linalg.eigvalsh(objective.hessian(dense.theta).numpy())
    assert dense.index.tolist() == (spectrum < 0).sum(-1).tolist()
    assert free.index.tolist() == [-1, -1]


def test_large_problems_choose_the_matrix_free_method() -> None:
    signs = torch.where(torch.arange(2000) % 2 == 0, 1.0, -2.0).double()
    objective = function(2000, lambda x: (signs * (x - 0.5) ** 2).sum(), "alternating")
    found = find_critical_point(objective, normal(2000))
    assert found.method.startswith("NewtonMinres")
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.theta, torch.full((2000,), 0.5, dtype=torch.float64))
    with pytest.raises(NotApplicableError, match="a wanted index needs dense Hessians"):
        find_critical_point(objective, normal(2000), index=3)


def test_a_batch_without_matrices_gives_what_each_start_gives_alone() -> None:
    """Starts near and far: how exactly a Newton step is solved follows each row's own gradient, not the smallest."""
    signs = torch.where(torch.arange(30) % 2 == 0, 1.0, -2.0).double()
    saddle = function(30, lambda x: (signs * (x - 0.5) ** 2 + x**4 / 40 + x.sin()).sum(), "saddle")
    starts = 0.4 + torch.logspace(0, -6, 4, dtype=torch.float64)[:, None] * normal(4, 30, seed=2)
    together = find_critical_point(saddle, starts, method=NewtonMinres())
    for number, start in enumerate(starts):
        alone = find_critical_point(saddle, start, method=NewtonMinres())
        assert alone.status is together.statuses[number]
        assert int(alone.hessians) == int(together.hessians[number])
        torch.testing.assert_close(alone.theta, together.theta[number], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "newton"}, "method must be an object of IndexPreservingNewton"),
        ({"method": LBFGS()}, "method must be an object of IndexPreservingNewton"),
        ({"method": EigenvectorFollowing(1), "index": 0}, "do not fit together"),
        ({"method": EigenvectorFollowing(5)}, "do not fit together in 2 dimensions"),
        ({"method": NewtonMinres(), "index": 1}, "NewtonMinres cannot see the index"),
    ],
)
def test_methods_that_contradict_the_index_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_critical_point(well(), torch.zeros(2), **settings)


def test_misuse_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="index must be between 0 and 2"):
        find_critical_point(well(), torch.zeros(2), index=3)
    with pytest.raises(InvalidInputError, match="NaN"):
        find_critical_point(well(), torch.full((2,), float("nan")))
    for make in (
        lambda: IndexPreservingNewton(radius=-1),
        lambda: EigenvectorFollowing(-1),
        lambda: NewtonMinres(inner=0),
    ):
        with pytest.raises(InvalidInputError):
            make()
