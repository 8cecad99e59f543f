"""Budgets, interrupts and memory: what was found stays, what was not done is named."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.inspection import inspector
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

    monkeypatch.setattr(inspector._Job, part, interrupted)
    verdict = tw.inspect(problem())
    assert not verdict.complete
    assert verdict.value > 0
    assert any("interrupted" in one.why for one in verdict.skipped)
    assert "partial" in str(verdict)
    assert verdict.to_dict()["complete"] is False


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
    monkeypatch.setattr(inspector.curved, "DENSE_BELOW", 10)
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
    monkeypatch.setattr(inspector.curved, "DENSE_BELOW", 1)
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
        (lambda: tw.inspect(Quadratic([1.0]), torch.zeros(1), budget="soon"), "cannot read 'soon' as a time"),
        (lambda: tw.inspect(Quadratic([1.0]), torch.zeros(1), reduction="sum"), "belong to a module"),
    ],
)
def test_misuse_is_answered_with_what_to_do(call, message):
    with pytest.raises(tw.InvalidInputError, match=message):
        call()
