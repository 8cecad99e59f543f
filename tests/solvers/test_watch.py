"""Time budgets and stop events are heard inside iterations and endgames, and what is known by then is kept."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from solver_functions import function, normal
from torch import Tensor

from thalweg.foundation import RunControl, memory_limit
from thalweg.objectives import Penalty
from thalweg.solvers import NewtonMinres, Status, find_critical_point, minimize
from thalweg.solvers.loop import _Run
from thalweg.solvers.watch import StopSearch, checkpoint, watched, watching


class Slow(Penalty):
    """Every evaluation takes 20 ms; `calls` counts them."""

    calls = 0

    def evaluate(self, theta: Tensor, order: int = 0) -> Any:
        time.sleep(0.02)
        self.calls += 1
        return super().evaluate(theta, order)


def slow(size: int, formula: Any) -> Slow:
    plain = function(size, formula, "slow")
    return Slow(plain.space, plain.function, name="slow")


def test_nobody_watching_nobody_stopped() -> None:
    checkpoint()
    event = threading.Event()
    with watching(RunControl(stop_event=event)):
        checkpoint()
        event.set()
        with pytest.raises(StopSearch, match="interrupted"):
            checkpoint()
    assert watched() is None
    checkpoint()


def test_a_time_budget_is_kept_inside_the_endgame() -> None:
    """Every start is a candidate at once, on a floor that must be followed: dozens of evaluations in one ruling.

    Evaluations are counted: each takes 20 ms at least, so a budget of 0.2 s has room for ten of them, on any machine.
    """
    curved = slow(3, lambda x: (x[1] - x[0] ** 2) ** 2 + (x[2] - x[0] ** 3) ** 2 + 1e-3 * x[0] ** 6)
    starts = torch.zeros(3, 3) + 1e-4 * normal(3, 3)
    whole = minimize(curved, starts)
    needed, curved.calls = curved.calls, 0
    assert needed > 30, "too quick to tell anything"
    assert bool(whole.converged.all())
    found = minimize(curved, starts, time_budget=0.2)
    assert curved.calls <= 15  # a few more than ten, to take stock of where the searches are
    assert Status.TIME_LIMIT in found.statuses
    assert bool(torch.isfinite(found.value).all())
    assert bool((found.value <= curved.value(starts)).all())


@pytest.mark.parametrize("method", ["newton", "newton-cg", "l-bfgs"])
def test_a_stop_event_is_heard_inside_an_iteration(method: str) -> None:
    event, calls = threading.Event(), [0]

    class Counting(Penalty):
        def evaluate(self, theta: Tensor, order: int = 0) -> Any:
            calls[0] += event.is_set()
            return super().evaluate(theta, order)

    plain = function(2, lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, "banana")
    counting = Counting(plain.space, plain.function, name="counting")

    def stop(snapshot: object) -> None:
        event.set()

    found = minimize(counting, torch.tensor([-1.2, 1.0]), method=method, stop_event=event, callback=stop)
    assert found.status is Status.INTERRUPTED
    assert calls[0] == 0
    assert float(plain.value(found.theta)) == float(found.value)


def test_a_search_for_saddles_keeps_its_time_too() -> None:
    signs = torch.where(torch.arange(40) % 2 == 0, 1.0, -2.0).double()
    saddle = slow(40, lambda x: (signs * (x - 0.5) ** 2).sum() + (x**4).sum() / 40)
    for method in (None, NewtonMinres()):
        began = time.monotonic()
        found = find_critical_point(saddle, 10 * normal(2, 40), method=method, time_budget=0.1)
        assert time.monotonic() - began < 0.5
        assert found.statuses == [Status.TIME_LIMIT] * 2


def test_starts_that_had_ended_keep_their_status_when_the_keyboard_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted just after a start was closed, before it was taken out of the batch."""
    bowl = function(2, lambda x: (x**2).sum(), "bowl")
    drop = _Run.drop

    def interrupted(self: _Run, ended: Tensor) -> None:
        if bool(ended.any()):
            raise KeyboardInterrupt
        drop(self, ended)

    monkeypatch.setattr(_Run, "drop", interrupted)
    found = minimize(bowl, torch.tensor([[0.0, 0.0], [3.0, 1.0]]))
    assert found.statuses == [Status.CONVERGED, Status.INTERRUPTED]
    assert bool(torch.isfinite(found.value).all())


def test_candidates_that_do_not_fit_together_are_ruled_on_in_groups() -> None:
    """L-BFGS holds no matrix; two hundred starts that arrive together would ask for two hundred Hessians at once."""
    quartic = function(60, lambda x: ((x - 1) ** 2).sum() + ((x - 1) ** 4).sum(), "quartic")
    starts = normal(60).expand(200, 60)
    with memory_limit("4MB"):
        found = minimize(quartic, starts, method="l-bfgs")
    assert bool(found.converged.all())
    alone = minimize(quartic, starts[0], method="l-bfgs")
    torch.testing.assert_close(found.theta, alone.theta.expand(200, 60), atol=1e-12, rtol=0)
    assert found.hessians.tolist() == [int(alone.hessians)] * 200


def test_a_resolver_keeps_the_time_of_the_search_it_is_part_of() -> None:
    """Searches inside of it end when the time of the whole is over; without time it is not asked."""
    plain = function(2, lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, "banana")
    inner, asked = slow(2, lambda x: (x**4).sum() + 1e-3 * x.sum()), []

    def resolver(objective: Any, theta: Tensor, found: Any) -> list[None]:
        asked.append(minimize(inner, torch.ones(3, 2), tolerance=1e-15))
        return [None] * len(theta)

    minimize(plain, torch.tensor([-1.2, 1.0]), max_iterations=1, resolver=resolver, time_budget=0.5)
    assert Status.TIME_LIMIT in asked[0].statuses
    assert inner.calls <= 40
    event = threading.Event()
    event.set()
    minimize(plain, torch.tensor([-1.2, 1.0]), max_iterations=1, resolver=resolver, stop_event=event)
    assert len(asked) == 1
