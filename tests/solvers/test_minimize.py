"""The verb: known minima, batches, limits, misuse."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from solver_functions import beale, function, normal, powell, rosenbrock, well
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, MemoryLimitError, NotApplicableError, memory_limit
from thalweg.objectives import L2, EmpiricalRisk, Objective, Penalty
from thalweg.solvers import (
    LBFGS,
    LevenbergMarquardt,
    NewtonCG,
    NewtonTrustRegion,
    Snapshot,
    Solution,
    Status,
    find_critical_point,
    minimize,
)

METHODS = ["newton", "newton-cg", "l-bfgs"]


def regression() -> EmpiricalRisk:
    """A 2-3-1 tanh network on 40 noisy samples."""
    x = normal(40, 2, seed=1)
    y = torch.sin(x[:, :1]) + 0.3 * x[:, 1:] ** 2 + 0.1 * normal(40, 1, seed=2)
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        for parameter, seed in zip(model.parameters(), range(4), strict=True):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return EmpiricalRisk(model, nn.MSELoss(), x, y)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("objective", "start", "minimum"),
    [
        (rosenbrock(), [-1.2, 1.0], [1.0, 1.0]),
        (rosenbrock(6), [-1.2, 1.0, -1.2, 1.0, -1.2, 1.0], None),
        (beale(), [1.0, 1.0], [3.0, 0.5]),
        (powell(), [3.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]),
        (well(), [0.3, 2.0], [1.0, 0.0]),
    ],
    ids=["rosenbrock", "rosenbrock-6", "beale", "powell", "well"],
)
def test_classical_problems(method: str, objective: Penalty, start: list[float], minimum: list[float] | None) -> None:
    found = minimize(objective, torch.tensor(start), method=method)
    assert found.status is Status.CONVERGED, found.message
    assert float(objective.gradient(found.theta).abs().max()) <= 1e-10
    assert float(objective.value(found.theta)) == float(found.value)
    if minimum is not None:
        accuracy = 2e-3 if objective.name == "powell" else 1e-8  # quartic at the bottom: 1e-10^(1/3)
        torch.testing.assert_close(found.theta, torch.tensor(minimum, dtype=torch.float64), atol=accuracy, rtol=0)


@pytest.mark.parametrize("method", [*METHODS, "lm"])
def test_network_reaches_the_same_point_as_scipy(method: str) -> None:
    risk = regression()
    objective = risk + L2(risk, 1e-2)
    start = normal(risk.space.size, seed=5)

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = objective.evaluate(torch.from_numpy(x), 1)
        return float(found.value), found.gradient.numpy()

    found = minimize(objective, start, method=method)
    assert found.status is Status.CONVERGED, found.message
    assert float(found.gradient_norm) <= 1e-10
    theirs = scipy_minimize(both, found.theta.numpy() + 1e-3, jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(theirs.x, found.theta.numpy(), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_batch_gives_what_each_start_gives_alone(method: str) -> None:
    starts = normal(2, 3, 2, seed=3)
    together = minimize(rosenbrock(), starts, method=method)
    assert together.theta.shape == (2, 3, 2)
    assert together.value.shape == (2, 3)
    assert together.status.shape == (2, 3)
    for i, start in enumerate(starts.reshape(6, 2)):
        alone = minimize(rosenbrock(), start, method=method)
        assert alone.status is together.statuses[i]
        assert int(alone.iterations) == int(together.iterations.reshape(-1)[i])
        torch.testing.assert_close(alone.theta, together.theta.reshape(6, 2)[i], atol=1e-9, rtol=0)


def test_finished_starts_are_dropped_from_the_batch() -> None:
    sizes = []

    class Watched(Penalty):
        def evaluate(self, theta: Tensor, order: int = 0) -> Any:
            if order == 2:
                sizes.append(len(theta.reshape(-1, 2)))
            return super().evaluate(theta, order)

    plain = rosenbrock()
    watched = Watched(plain.space, plain.function, name="watched")
    minimize(watched, torch.tensor([[1.0, 1.0], [-1.2, 1.0], [1.001, 1.0]]))
    assert sizes[0] == 3
    assert sizes[-1] == 1


def test_strict_saddle_is_left() -> None:
    for method in METHODS:
        found = minimize(well(), torch.zeros(2), method=method)
        assert found.status is Status.CONVERGED
        assert abs(float(found.theta[0])) == pytest.approx(1)


def test_start_of_the_objective_itself() -> None:
    risk = regression()
    objective = risk + L2(risk, 1e-2)
    given, own = minimize(objective, risk.initial), minimize(objective)
    assert torch.equal(given.theta, own.theta)


def test_random_starts_leave_the_global_state_alone(untouched_random_state: None) -> None:
    risk = regression()
    objective = risk + L2(risk, 1e-2)
    found, again = (minimize(objective, starts=4, seed=3, max_iterations=3) for _ in range(2))
    assert torch.equal(found.theta, again.theta)
    assert found.seed == 3
    assert found.theta.shape == (4, risk.space.size)
    other = minimize(objective, starts=4, seed=4, max_iterations=3)
    assert not torch.equal(found.theta, other.theta)


def test_tolerance_below_the_rounding_floor_counts_the_floor() -> None:
    steep = function(2, lambda x: 1e9 * ((x[0] - 0.1) ** 2 + (x[1] + 0.7) ** 4 + (x[1] + 0.7) ** 2), "steep")
    found = minimize(steep, torch.tensor([3.0, 4.0]), tolerance=1e-14)
    assert found.status is Status.CONVERGED
    assert float(found.gradient_floor) > 1e-14
    assert float(found.gradient_norm) <= 2 * float(found.gradient_floor)
    torch.testing.assert_close(found.theta, torch.tensor([0.1, -0.7], dtype=torch.float64), atol=1e-12, rtol=0)


def test_single_precision_converges_to_its_own_floor() -> None:
    plain = rosenbrock()
    single = Penalty(plain.space, plain.function, name="single", dtype=torch.float32)
    found = minimize(single, torch.tensor([-1.2, 1.0]))
    assert found.theta.dtype == torch.float32
    assert found.status is Status.CONVERGED
    assert float((found.theta - 1).abs().max()) < 1e-3


# -- how a search may end early ----------------------------------------------------------------------------------------


def test_iteration_limit() -> None:
    found = minimize(rosenbrock(), torch.tensor([-1.2, 1.0]), max_iterations=3)
    assert found.status is Status.ITERATION_LIMIT
    assert int(found.iterations) == 3
    assert "3 iterations" in found.message
    assert float(found.value) < float(rosenbrock().value(torch.tensor([-1.2, 1.0])))


def test_callback_sees_the_running_and_may_stop() -> None:
    seen: list[Snapshot] = []

    def callback(snapshot: Snapshot) -> bool:
        seen.append(snapshot)
        return snapshot.iteration == 4

    found = minimize(rosenbrock(), torch.tensor([[1.0, 1.0], [-1.2, 1.0]]), callback=callback)
    assert found.statuses == [Status.CONVERGED, Status.INTERRUPTED]
    assert [s.iteration for s in seen] == [1, 2, 3, 4]
    assert seen[-1].running.tolist() == [1]
    assert torch.equal(seen[-1].theta[0], found.theta[1])


def test_stop_event_and_time_budget() -> None:
    event = threading.Event()
    event.set()
    start = torch.tensor([-1.2, 1.0])
    assert minimize(rosenbrock(), start, stop_event=event).status is Status.INTERRUPTED

    def slow(_: Snapshot) -> None:
        time.sleep(0.02)

    found = minimize(rosenbrock(), start, time_budget=0.03, callback=slow)
    assert found.status is Status.TIME_LIMIT
    assert bool(torch.isfinite(found.value))


def test_interrupt_from_the_keyboard_loses_nothing() -> None:
    def interrupt(snapshot: Snapshot) -> None:
        if snapshot.iteration == 5:
            raise KeyboardInterrupt

    starts = torch.tensor([[1.0, 1.0], [-1.2, 1.0]])
    found = minimize(rosenbrock(), starts, callback=interrupt)
    assert found.statuses == [Status.CONVERGED, Status.INTERRUPTED]
    assert float(found.value[1]) < 4
    assert float(rosenbrock().value(found.theta[1])) == float(found.value[1])


def test_start_where_the_value_is_not_finite() -> None:
    objective = function(1, lambda x: torch.log(x[0]) ** 2, "log")
    found = minimize(objective, torch.tensor([[-1.0], [0.5]]))
    assert found.statuses == [Status.NOT_FINITE, Status.CONVERGED]
    assert float(found.theta[1]) == pytest.approx(1)


def test_values_that_are_not_numbers_are_backed_away_from() -> None:
    objective = function(1, lambda x: x[0] - torch.log(x[0]), "barrier")
    for method in METHODS:
        found = minimize(objective, torch.tensor([8.0]), method=method)
        assert found.status is Status.CONVERGED
        assert float(found.theta) == pytest.approx(1)


def test_a_value_without_bound_is_growth() -> None:
    objective = function(2, lambda x: x[1] ** 2 - x[0], "slope")
    for method in METHODS:
        assert minimize(objective, torch.tensor([0.0, 1.0]), method=method).status is Status.GROWTH


def test_a_kink_is_named_where_a_search_stalls_on_it() -> None:
    objective = function(2, lambda x: torch.maximum(x[0] - 0.3, 0.6 - 2 * x[0]) + x[1] ** 2, "kink")
    found = minimize(objective, torch.tensor([1.0, 1.0]))
    assert found.status is Status.STALLED
    assert "not smooth: maximum" in found.message


# -- the resolver ------------------------------------------------------------------------------------------------------


def test_resolver_renames_what_did_not_converge() -> None:
    asked: list[tuple[Tensor, Solution]] = []

    def resolver(objective: Objective, thetas: Tensor, so_far: Solution) -> list[Any]:
        asked.append((thetas, so_far))
        return [(Status.CHANNEL, "seen through"), None]

    starts = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [-1.0, 2.0]])
    found = minimize(rosenbrock(), starts, resolver=resolver, max_iterations=2)
    assert found.statuses == [Status.CHANNEL, Status.CONVERGED, Status.ITERATION_LIMIT]
    assert found.messages[0] == "seen through"
    ((thetas, so_far),) = asked
    assert torch.equal(thetas, found.theta[[0, 2]])
    assert so_far.statuses == [Status.ITERATION_LIMIT] * 2


def test_resolver_must_answer_for_each() -> None:
    with pytest.raises(InvalidInputError, match="0 answers for 1 starts"):
        minimize(rosenbrock(), torch.tensor([-1.2, 1.0]), resolver=lambda *_: [], max_iterations=2)


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": torch.tensor([float("nan"), 1.0])}, "NaN"),
        ({"theta": torch.zeros(3)}, "expected"),
        ({"theta": torch.zeros(0, 2)}, "no start"),
        ({"method": "adam"}, "'newton', 'newton-cg', 'lm', 'l-bfgs'"),
        ({"method": ["newton"]}, "no method"),
        ({"method": NewtonCG}, r"make one of it, NewtonCG\(\)"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"theta": None}, "pass theta of shape"),
        ({"starts": 3}, "either theta or starts"),
        ({"theta": None, "starts": 0}, "starts must be at least 1"),
        ({"seed": 3}, "seed= belongs to starts="),
        ({"time_budget": -2}, "time budget must be positive"),
    ],
)
def test_misuse_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        minimize(rosenbrock(), **({"theta": torch.tensor([-1.2, 1.0])} | changes))


@pytest.mark.parametrize(
    "make",
    [
        lambda: NewtonTrustRegion(radius=0),
        lambda: NewtonCG(inner=0),
        lambda: LevenbergMarquardt(widest=-1),
        lambda: LBFGS(memory=0),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_a_model_is_no_objective() -> None:
    for verb in (minimize, find_critical_point):
        with pytest.raises(InvalidInputError, match=r"got Linear: make one with thalweg\.EmpiricalRisk"):
            verb(nn.Linear(2, 1))  # type: ignore[operator]  # two verbs of different signatures


def test_levenberg_marquardt_declines_by_name() -> None:
    with pytest.raises(NotApplicableError, match="Levenberg-Marquardt does not apply to Penalty"):
        minimize(rosenbrock(), torch.tensor([-1.2, 1.0]), method="lm")


def test_dense_methods_predict_their_memory() -> None:
    wide = function(2000, lambda x: (x**2).sum(), "wide")
    with memory_limit("100MB"), pytest.raises(MemoryLimitError, match="newton-cg"):
        minimize(wide, torch.ones(2000))


def test_many_parameters_are_solved_without_matrices() -> None:
    """2500 parameters, above the limit of dense spectra: the matrix-free endgame decides."""
    curvature = torch.logspace(0, 3, 2500, dtype=torch.float64)
    wide = function(2500, lambda x: (curvature * (x - 1) ** 2).sum() + ((x - 1) ** 4).sum(), "wide")
    for method in ("newton-cg", "l-bfgs"):
        found = minimize(wide, 1 + normal(2, 2500), method=method)
        assert bool(found.converged.all()), found.summary()
        assert float(found.gradient_norm.max()) <= 1e-10
        assert float((found.theta - 1).abs().max()) < 1e-9
        assert found.index.tolist() == [-1, -1]


def test_many_parameters_on_the_way_to_infinity() -> None:
    wide = function(2500, lambda x: torch.exp(-x[0]) + (x[1:] ** 2).sum(), "tail")
    found = minimize(wide, normal(2500), method="newton-cg")
    assert found.status.escapes
