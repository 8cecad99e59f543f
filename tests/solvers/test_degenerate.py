"""Degenerate minima are minima: zero eigenvalues with bounded parameters are no escape; their number is reported."""

from __future__ import annotations

import pytest
import torch
from solver_functions import function, normal
from torch import nn

from thalweg.objectives import EmpiricalRisk, Objective
from thalweg.solvers import Status, minimize
from thalweg.zoo import CriticalPoint, all_known, critical_points_of

DEGENERATE = [
    pytest.param(exhibit.objective, point, id=f"{exhibit.name}-{i}")
    for exhibit in all_known()
    for i, point in enumerate(critical_points_of(exhibit.objective))
    if point.kind == "degenerate minimum" and exhibit.name != "linear-network-wide"
]


@pytest.mark.parametrize(("objective", "point"), DEGENERATE)
def test_degenerate_minima_of_the_zoo_are_reached(objective: Objective, point: CriticalPoint) -> None:
    found = minimize(objective, point.theta + 1e-3 * normal(2, len(point.theta), seed=1))
    assert bool(found.converged.all()), found.summary()
    assert float(found.gradient_norm.max()) <= 1e-10
    assert float((found.value - point.value).abs().max()) <= 1e-9 * (1 + abs(point.value))
    assert bool((found.index == 0).all())


@pytest.mark.parametrize("power", [4, 6, 8])
def test_flat_bottoms_are_converged(power: int) -> None:
    flat = function(3, lambda x: ((x - 2) ** power).sum() + 1, f"power {power}")
    for method in ("newton", "newton-cg", "l-bfgs"):
        found = minimize(flat, 2 + normal(3, seed=power), method=method)
        assert found.status is Status.CONVERGED, found.message
        assert float((found.theta - 2).abs().max()) < 0.2


def test_a_valley_has_as_many_flat_directions_as_dimensions() -> None:
    """(|x|^2 - 1)^2 in five dimensions: a sphere of minima, four flat directions."""
    sphere = function(5, lambda x: ((x**2).sum() - 1) ** 2, "sphere")
    found = minimize(sphere, normal(4, 5, seed=2))
    assert bool(found.converged.all())
    assert found.undecided.tolist() == [4] * 4
    torch.testing.assert_close(found.theta.norm(dim=-1), torch.ones(4, dtype=torch.float64))


def test_inflections_and_monkey_saddles_are_left() -> None:
    inflection = function(1, lambda x: x[0] ** 3 + x[0] ** 6, "inflection")
    found = minimize(inflection, torch.zeros(1))
    assert found.status is Status.CONVERGED
    assert float(found.theta) == pytest.approx(-(0.5 ** (1 / 3)))
    monkey = function(2, lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2 + (x**2).sum() ** 2, "monkey")
    found = minimize(monkey, torch.zeros(2))
    assert found.status is Status.CONVERGED
    assert float(found.value) < -0.1


@pytest.mark.parametrize("method", ["newton", "l-bfgs", "lm"])
def test_an_overparametrised_network_that_interpolates_converges(method: str) -> None:
    """Six tanh units fit five samples exactly: 25 parameters, 5 equations, at least 20 flat directions."""
    x, y = normal(5, 2, seed=3), normal(5, 1, seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    risk = EmpiricalRisk(model, nn.MSELoss(), x, y)
    found = minimize(risk, method=method)
    assert found.status is Status.CONVERGED, found.message
    assert float(found.value) < 1e-18
    assert int(found.undecided) == 20
    assert int(found.index) == 0
