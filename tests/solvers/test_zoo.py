"""Every method against the zoo: known minima are reached, nothing that runs to infinity is ever called converged."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import nn

import thalweg as tw
from thalweg.zoo import Quadratic, Rosenbrock, all_infinities, all_known, critical_points_of

METHODS = ["newton", "newton-cg", "l-bfgs"]
EASY = [
    pytest.param(exhibit.objective, point, id=f"{exhibit.name}-{number}")
    for exhibit in all_known()
    for number, point in enumerate(critical_points_of(exhibit.objective)[:4])
    if point.kind == "strict minimum"
]
INFINITE = [pytest.param(exhibit.objective, id=exhibit.name) for exhibit in all_infinities()]


def nearby(point: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, len(point), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return point + 1e-2 * max(1.0, float(point.norm())) / len(point) ** 0.5 * noise


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("objective", "point"), EASY)
def test_a_strict_minimum_is_reached_from_nearby(objective, point, method):
    solution = tw.minimize(objective, nearby(point.theta, 4), method=method)
    assert bool(solution.converged.all()), solution.summary()
    at_floor = torch.maximum(torch.full_like(solution.gradient_norm, 1e-10), solution.gradient_floor)
    assert bool((solution.gradient_norm <= at_floor).all())
    assert torch.allclose(solution.value, torch.full_like(solution.value, point.value), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", INFINITE)
def test_nothing_that_runs_to_infinity_ever_converges(objective, method):
    solution = tw.minimize(objective, objective.starts(), method=method)
    assert not bool(solution.converged.any()), solution.summary()
    assert bool((solution.value >= objective.infimum - 1e-12).all())


def regression() -> tw.EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 3, generator=generator)
    targets = torch.tanh(inputs @ torch.randn(3, 2, generator=generator)).sum(1, keepdim=True)
    targets = targets + 0.1 * torch.randn(80, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    return tw.EmpiricalRisk(model, nn.MSELoss(), inputs, targets)


@pytest.mark.parametrize("method", [*METHODS, "lm"])
def test_from_the_same_start_scipy_finds_nothing_lower_nearby(method):
    """A converged point is a local minimum for an independent solver, too."""
    risk = regression()
    total = risk + tw.L2(risk, 1e-2)
    solution = tw.minimize(total, risk.initial, method=method)
    assert solution.status is tw.Status.CONVERGED, solution.summary()

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = total.evaluate(torch.as_tensor(x), 1)
        return float(found.value), found.gradient.numpy()

    again = scipy_minimize(both, solution.theta.numpy() + 1e-3, jac=True, method="BFGS", options={"gtol": 1e-11})
    assert again.fun >= float(solution.value) - 1e-13
    assert np.abs(again.x - solution.theta.numpy()).max() < 1e-6


def test_a_batch_ends_where_single_starts_end():
    rosenbrock = Rosenbrock()
    starts = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    together = tw.minimize(rosenbrock, starts)
    for number, start in enumerate(starts):
        alone = tw.minimize(rosenbrock, start)
        assert torch.allclose(alone.theta, together.theta[number], atol=1e-12)
        assert alone.status is together.statuses[number]


def test_a_saddle_is_no_minimum_but_a_critical_point():
    saddle = Quadratic([-1.0, 2.0, 5.0], torch.tensor([1.0, 2.0, 3.0]))
    center = critical_points_of(saddle)[0].theta
    found = tw.find_critical_point(saddle, center + 0.1)
    assert found.status is tw.Status.CONVERGED
    assert int(found.index) == 1
    assert torch.allclose(found.theta, center, atol=1e-9)
    away = tw.minimize(saddle, center + 1e-3, max_iterations=50)
    assert away.status is not tw.Status.CONVERGED


def test_what_stops_a_search_is_named_and_nothing_is_lost():
    rosenbrock, start = Rosenbrock(), torch.tensor([-1.2, 1.0])
    before = rosenbrock.value(start)
    short = tw.minimize(rosenbrock, start, max_iterations=3)
    assert short.status is tw.Status.ITERATION_LIMIT
    assert float(short.value) < float(before)
    event = threading.Event()
    event.set()
    assert tw.minimize(rosenbrock, start, stop_event=event).status is tw.Status.INTERRUPTED
    assert tw.minimize(rosenbrock, start, time_budget=1e-9).status is tw.Status.TIME_LIMIT

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    held = tw.minimize(rosenbrock, start, callback=interrupt)
    assert held.status is tw.Status.INTERRUPTED
    assert torch.isfinite(held.theta).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"theta": torch.tensor([float("nan"), 0.0])}, "NaN"),
        ({"theta": torch.zeros(3)}, "expected"),
        ({"theta": torch.zeros(2), "method": "magic"}, "newton"),
        ({"theta": torch.zeros(2), "tolerance": 0.0}, "tolerance"),
        ({}, "start"),
    ],
)
def test_misuse_is_answered_with_what_to_do(settings, message):
    with pytest.raises(tw.InvalidInputError, match=message):
        tw.minimize(Rosenbrock(), **settings)


def test_levenberg_marquardt_declines_by_name():
    with pytest.raises(tw.NotApplicableError, match="Gauss-Newton"):
        tw.minimize(Rosenbrock(), torch.zeros(2), method="lm")
