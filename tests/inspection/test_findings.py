"""Each sentence is said where it is true, and not where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.inspection.findings import SMALL, Evidence, collect_findings, suggested_method
from thalweg.inspection.records import Forecast, Layer, Noise, Pace, Point
from thalweg.inspection.verdict import Kind
from thalweg.objectives.kinks import KinkReport


def point(value: float = 2.0, *, kinks: KinkReport | None = None, **layers: float) -> Point:
    """A point with one block of ten parameters per gradient norm given."""
    return Point(
        value=value,
        gradient_norm=1.0,
        gradient_length=1.0,
        gradient_floor=1e-15,
        value_noise=1e-15,
        theta_norm=3.0,
        infimum=None,
        kinks=kinks or KinkReport(float("inf"), {}, 0, False),
        layers=tuple(Layer(name, 10, 1.0, norm) for name, norm in layers.items()),
        gradient=torch.ones(1, dtype=torch.float64),
    )


def step(predicted: float, measured: float, verified: bool = True) -> Forecast:
    return Forecast(
        name="Newton",
        predicted=predicted,
        measured=measured,
        length=1.0,
        relative_length=1.0,
        verified=verified,
        remark="",
        step=torch.ones(1, dtype=torch.float64),
    )


def said(**given: Any) -> list[str]:
    fields: dict[str, Any] = {
        "kind": Kind.NOT_STATIONARY,
        "point": point(),
        "curvature": None,
        "steps": (),
        "pace": None,
        "noise": None,
        "units": (),
        "learning_rate": None,
        "batch_size": None,
    }
    found = collect_findings(Evidence(**(fields | given)))
    return [f"{f.level}: {f.text} {f.advice} {f.code}" for f in found]


def test_shares_and_losses_are_written_so_that_they_say_something() -> None:
    (text,) = said(steps=(step(1.99, 1.98),))
    assert "(100 % of the parameters)" in text
    assert "from 2 to 0.02 (99 %)" in text
    (text,) = said(point=point(0.11390001), steps=(step(2e-8, 2e-8),))
    assert "from 0.11390001 to 0.11389999" in text
    assert text.startswith("ok")


def test_what_to_type_fits_what_was_given() -> None:
    (text,) = said(steps=(step(1.0, 1.0),))
    assert 'tw.minimize(objective, verdict.suggested_theta, method="newton")' in text
    assert "EmpiricalRisk" not in text
    (text,) = said(steps=(step(1.0, 1.0),), module=True)
    assert "tw.EmpiricalRisk(model, loss, inputs, targets)" in text
    assert "load_into_model(solution.theta, model)" in text


def test_the_code_of_the_advice_runs() -> None:
    """As typed: in a namespace that holds what a user has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
        inputs, targets = torch.randn(30, 2), torch.randn(30, 1)
    loss = nn.MSELoss()
    verdict = tw.inspect(model, loss, inputs, targets)
    (code,) = [finding.code for finding in verdict.findings if finding.code]
    before = float(loss(model(inputs), targets).detach())
    names = {"tw": tw, "model": model, "loss": loss, "inputs": inputs, "targets": targets, "verdict": verdict}
    exec(code, names)
    assert float(loss(model(inputs), targets).detach()) < before


def test_the_method_suits_the_size() -> None:
    assert suggested_method(point(a=1.0)) == "newton"
    large = tuple(Layer(str(i), SMALL // 2 + 1, 1.0, 1.0) for i in range(2))
    assert suggested_method(Point(**{**vars(point()), "layers": large})) == "newton-cg"


def test_a_step_size_is_compared_with_the_limit() -> None:
    pace = Pace(largest_step=0.5, steps_to_half=10.0, promised=1.0, stiff_share=1.0, exact=False)
    assert any("unstable here for step sizes above 0.5" in text for text in said(pace=pace))
    assert any(text.startswith("bad: The step size 1 is 2 times") for text in said(pace=pace, learning_rate=1.0))
    assert any(text.startswith("ok: The step size 0.4 is 80 %") for text in said(pace=pace, learning_rate=0.4))
    assert any(text.startswith("warn: The step size 0.001 is 0.2 %") for text in said(pace=pace, learning_rate=0.001))


def test_noise_is_told_with_its_error_and_nothing_impossible_is_advised() -> None:
    (text,) = said(noise=Noise(critical_batch=8500.0, error=0.0, samples=200), batch_size=8)
    assert "standard error" not in text
    assert "enlarge" not in text
    assert text.startswith("warn")
    (text,) = said(noise=Noise(critical_batch=85.0, error=3.0, samples=100), batch_size=64)
    assert "85 samples (standard error 3)" in text
    assert text.startswith("ok")


def test_only_blocks_without_any_gradient_are_cut_off() -> None:
    assert not said(point=point(a=1e-300, b=1.0))
    (text,) = said(point=point(a=0.0, b=1.0))
    assert "No gradient reaches `a`." in text
    assert not said(point=point(a=0.0, b=1.0), kind=Kind.STRICT_MINIMUM)


def test_a_kink_that_holds_the_steps_up_is_named() -> None:
    kinks = KinkReport(1e-9, {"relu": 40}, 1, False)
    steps = (step(1e-4, 1e-4), step(1.0, 0.0, verified=False))
    assert any(
        "A kink of the loss keeps the steps short" in text for text in said(steps=steps, point=point(kinks=kinks))
    )
    assert not any("keeps the steps short" in text for text in said(steps=steps))
    pace = Pace(largest_step=0.5, steps_to_half=10.0, promised=1.0, stiff_share=1.0, exact=True)
    alone = said(steps=(step(1e-4, 1e-4),), point=point(kinks=kinks), pace=pace)
    assert any("A kink of the loss keeps the steps short" in text for text in alone)
    kept = (step(1.0, 0.9), step(1.0, 0.0, verified=False))
    assert not any("keeps the steps short" in text for text in said(steps=kept, point=point(kinks=kinks)))


@pytest.mark.parametrize("verified", [True, False])
def test_without_a_step_that_came_true_none_is_advised(verified: bool) -> None:
    texts = said(steps=(step(1.0, 0.5, verified=verified),))
    assert any("No step kept its promise" in text for text in texts) is not verified
