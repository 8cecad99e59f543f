"""Budgets, interrupts and memory: what was found stays, what was not done is named."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.inspection import job
from thalweg.zoo import Quadratic


def problem(hidden: int = 8) -> tw.EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 6, generator=generator)
    targets = torch.randn(100, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 1))
    return tw.EmpiricalRisk(model, nn.MSELoss(), inputs, targets)


@pytest.mark.parametrize("part", ["_curve", "_find_flat", "_forecast", "_look_at_units", "_listen", "_cut"])
def test_ctrl_c_in_any_part_leaves_a_usable_partial_verdict(monkeypatch, part):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(job.Job, part, interrupted)
    verdict = tw.inspect(problem())
    assert not verdict.complete
    assert verdict.value > 0
    assert any("interrupted" in one.why for one in verdict.skipped)
    assert "partial" in str(verdict)
    assert verdict.to_dict()["complete"] is False


class Interrupting:
    """A method that is interrupted from the keyboard in its n-th call."""

    def __init__(self, monkeypatch, owner, name: str, at: int) -> None:
        self.calls, self.at, self.real = 0, at, getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *words, **settings: self(*words, **settings))

    def __call__(self, *words, **settings):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.real(*words, **settings)


@pytest.mark.parametrize("product", [1, 2, 9, 20])
def test_ctrl_c_within_the_products_of_a_large_network_leaves_a_usable_partial_verdict(monkeypatch, product):
    monkeypatch.setattr(job.curved, "DENSE_BELOW", 10)
    risk = problem()
    operator = risk.hessian_operator(risk.initial)
    Interrupting(monkeypatch, operator, "_matmat", product)
    monkeypatch.setattr(type(risk), "hessian_operator", lambda *_, **__: operator)
    verdict = tw.inspect(risk)
    assert not verdict.complete
    assert any("interrupted" in one.why for one in verdict.skipped)
    assert (verdict.curvature is None) == (product == 1)
    assert "partial" in str(verdict)


@pytest.mark.parametrize("call", range(1, 40))
def test_ctrl_c_in_any_evaluation_is_a_partial_verdict_or_goes_to_the_caller(monkeypatch, call):
    """It is let through only while value and gradient are unknown: the first two evaluations."""
    risk = problem()
    interrupting = Interrupting(monkeypatch, type(risk), "evaluate", call)
    if call <= 2:
        with pytest.raises(KeyboardInterrupt):
            tw.inspect(risk)
        return
    verdict = tw.inspect(risk)
    assert verdict.complete == (interrupting.calls < call)
    assert verdict.value > 0


def test_ctrl_c_while_judging_leaves_it_undecided(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "judge_point", interrupted)
    verdict = tw.inspect(problem())
    assert verdict.kind is tw.inspection.Kind.UNDECIDED
    assert not verdict.complete


def test_after_a_stop_no_time_goes_into_telling_a_minimum_from_a_channel(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(job.Job, "_find_flat", interrupted)
    verdict = tw.inspect(Quadratic([1.0, 2.0]), torch.zeros(2))
    assert verdict.kind is tw.inspection.Kind.UNDECIDED
    assert "no time" in verdict.reasons[0]


def test_polishing_takes_at_most_half_of_the_budget_and_hears_the_stop_event(monkeypatch):
    given = {}
    real = job.find_critical_point

    def recorded(*words, **settings):
        given.update(settings)
        return real(*words, **settings)

    monkeypatch.setattr(job, "find_critical_point", recorded)
    event = threading.Event()
    tw.inspect(problem(), polish=True, budget=40.0, stop_event=event)
    assert given["time_budget"] == pytest.approx(20, rel=0.2)
    assert given["stop_event"] is event
    assert given["progress"] is False  # two bars in one terminal cannot be


def test_an_interrupt_while_polishing_ends_all(monkeypatch):
    event = threading.Event()
    event.set()
    verdict = tw.inspect(problem(), polish=True, stop_event=event)
    assert verdict.polish.status.startswith("interrupted")
    assert verdict.curvature is None
    assert not verdict.complete


def test_a_part_that_meets_nan_is_left_out_and_the_rest_is_done():
    """The second derivative of |x|^1.5 is infinite at zero, its first is not."""
    objective = tw.Penalty(tw.ParameterSpace({"x": (2,)}), lambda p: (p["x"].abs() ** 1.5).sum(), name="cusp")
    verdict = tw.inspect(objective, torch.tensor([0.0, 1.0]))
    assert verdict.complete
    assert any(one.what == "curvature" and "NaN or infinite" in one.why for one in verdict.skipped)


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "the loss is nan at this point"), (0.0, "1 of 1 entries of its gradient")]
)
def test_a_point_without_loss_or_gradient_is_refused(value, message):
    objective = tw.Penalty(tw.ParameterSpace({"x": (1,)}), lambda p: p["x"].sqrt().sum(), name="root")
    with pytest.raises(tw.InvalidInputError, match=message):
        tw.inspect(objective, torch.tensor([value]))


def test_a_stop_event_ends_between_parts():
    event = threading.Event()
    event.set()
    verdict = tw.inspect(problem(), stop_event=event)
    assert not verdict.complete
    assert verdict.curvature is None
    assert {one.what for one in verdict.skipped} >= {"curvature", "slices"}


def test_a_budget_that_is_used_up_names_what_was_left_out():
    verdict = tw.inspect(problem(), budget=1e-6)
    assert not verdict.complete
    assert all("time limit" in one.why for one in verdict.skipped)


def test_what_does_not_fit_into_memory_is_left_out_with_the_figure():
    with tw.memory_limit("40kB"):
        verdict = tw.inspect(problem(20))
    assert verdict.complete
    assert any("would need" in one.why and "limit" in one.why for one in verdict.skipped)


def test_above_the_dense_size_only_products_are_taken(monkeypatch):
    monkeypatch.setattr(job.curved, "DENSE_BELOW", 10)
    risk = problem()
    verdict = tw.inspect(risk)
    exact = torch.linalg.eigvalsh(risk.hessian(risk.initial))
    assert not verdict.curvature.dense
    assert verdict.curvature.highest == pytest.approx(float(exact[-1]), rel=1e-3)
    assert verdict.curvature.lowest.value >= float(exact[0]) - 1e-10  # a Rayleigh quotient never lies below
    assert verdict.index is None
    best = verdict.best_step
    assert best is not None
    gain = float(risk.value(risk.initial) - risk.value(verdict.suggested_theta))
    assert gain == pytest.approx(best.measured, rel=1e-9)
    assert abs(best.predicted - gain) <= 0.2 * gain


def test_a_minimum_is_never_claimed_from_products_alone(monkeypatch):
    monkeypatch.setattr(job.curved, "DENSE_BELOW", 1)
    quadratic = Quadratic([1.0, 2.0, 3.0])
    verdict = tw.inspect(quadratic, torch.zeros(3))
    assert verdict.kind is tw.inspection.Kind.UNDECIDED
    saddle = tw.inspect(Quadratic([-1.0, 2.0, 3.0]), torch.zeros(3))
    assert saddle.kind is tw.inspection.Kind.SADDLE


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tw.inspect("model"), "takes an Objective or an nn.Module"),
        (lambda: tw.inspect(Quadratic([1.0])), "which point"),
        (lambda: tw.inspect(Quadratic([1.0]), torch.zeros(2, 1)), "takes one point"),
        (lambda: tw.inspect(Quadratic([1.0]), torch.tensor([float("nan")])), "NaN or infinite"),
        (lambda: tw.inspect(Quadratic([1.0]), torch.zeros(1), tolerance=0.0), "tolerance must be positive"),
        (lambda: tw.inspect(problem(), learning_rate=-1.0), "a positive number; got -1"),
        (lambda: tw.inspect(problem(), learning_rate=float("nan")), "a positive number; got nan"),
        (lambda: tw.inspect(problem(), batch_size=0), "1 to 100 here; got 0"),
        (lambda: tw.inspect(problem(), batch_size=101), "1 to 100 here; got 101"),
        (lambda: tw.inspect(Quadratic([1.0]), torch.zeros(1), budget="soon"), "cannot read 'soon' as a time"),
        (lambda: tw.inspect(Quadratic([1.0]), torch.zeros(1), reduction="sum"), "belong to a module"),
    ],
)
def test_misuse_is_answered_with_what_to_do(call, message):
    with pytest.raises(tw.InvalidInputError, match=message):
        call()
