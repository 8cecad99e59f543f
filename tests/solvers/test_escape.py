"""Ways to infinity: told from minima, and called by the name the evidence supports."""

from __future__ import annotations

import math

import pytest
import torch
from solver_functions import function, normal
from torch import nn

from thalweg.foundation import ParameterSpace
from thalweg.objectives import L2, EmpiricalRisk, Penalty
from thalweg.solvers import Status, find_critical_point, minimize
from thalweg.solvers.naming import Evidence, cancelling, decay_law, name_escape
from thalweg.zoo import all_infinities

EXPECTED = {
    "channel": {Status.CHANNEL},
    "saturation": {Status.SATURATING},
    "separable": {Status.SEPARABLE},
    "plateau": {Status.GROWTH},
}


@pytest.mark.parametrize("exhibit", all_infinities(), ids=lambda exhibit: exhibit.name)
def test_names_of_the_infinities(exhibit) -> None:
    found = minimize(exhibit.objective, exhibit.objective.starts())
    assert set(found.statuses) <= EXPECTED[exhibit.objective.escape], found.summary()


@pytest.mark.parametrize("start", [-1.0, -5.0, -20.0, -100.0, -1000.0])
def test_deep_plateaus_where_nothing_is_left_of_the_gradient(start: float) -> None:
    """At -1000 value, gradient and Hessian are exact constants in floating point; still it is no minimum."""
    for formula, name in ((torch.tanh, "tanh"), (torch.sigmoid, "sigmoid"), (torch.erf, "erf")):
        sigmoid = function(1, lambda x, f=formula: f(x[0]), name)
        assert minimize(sigmoid, torch.tensor([start])).status.escapes
        assert not bool(find_critical_point(sigmoid, torch.tensor([start])).converged)


def test_separable_data_becomes_a_minimum_with_a_ridge() -> None:
    x = normal(30, 2, seed=1)
    y = (x @ torch.tensor([1.0, -2.0]).double() > 0).long()
    with torch.random.fork_rng():
        model = nn.Linear(2, 2).double()
    risk = EmpiricalRisk(model, nn.CrossEntropyLoss(), x, y)
    starts = 0.1 * normal(2, risk.space.size)
    assert set(minimize(risk, starts).statuses) == {Status.SEPARABLE}
    ridged = minimize(risk + L2(risk, 1e-3), starts)
    assert bool(ridged.converged.all())
    assert float((ridged.theta[0] - ridged.theta[1]).abs().max()) < 1e-6


def test_a_finite_minimum_far_along_a_valley_is_no_escape() -> None:
    """c / s^2 looks like a channel until s = 50, where a minimum waits."""
    valley = function(2, lambda x: 1 / (1 + x[0] ** 2) + 1e-7 * x[0] ** 2 + x[1] ** 2, "far minimum")
    found = minimize(valley, torch.tensor([2.0, 1.0]))
    assert found.status is Status.CONVERGED
    assert float(found.theta[0]) == pytest.approx(math.sqrt(1e3 * math.sqrt(10) - 1), rel=1e-6)


def test_curved_channel_without_outputs_is_followed() -> None:
    """x grows, y must follow 1 / x on a floor that falls like x^-2; one coordinate grows: no pair, no channel."""

    def formula(p: dict[str, torch.Tensor]) -> torch.Tensor:
        x, y = p["x"][0], p["y"][0]
        return 1 / (1 + x**2) + x**2 * (y - 1 / (1 + x)) ** 2

    curved = Penalty(ParameterSpace({"x": (1,), "y": (1,)}), formula, name="curved")
    found = minimize(curved, torch.tensor([[2.0, 1.0], [5.0, 0.0]]))
    assert found.statuses == [Status.GROWTH] * 2
    assert "-2" in found.messages[0]


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_decay_law_is_read_off_values(power: float) -> None:
    sizes = [0.25, 0.5, 0.75, 1.0, 1.25, 2.0, 4.0]
    law, exponent = decay_law(sizes, [3 + 5 * s**-power for s in sizes], [1e-15] * 7)
    assert law == "power"
    assert exponent == pytest.approx(-power, abs=0.06)
    assert decay_law(sizes, [3 + 5 * math.exp(-9 * s) for s in sizes], [1e-15] * 7)[0] == "exponential"
    assert decay_law(sizes, [3.0] * 7, [1e-15] * 7)[0] == "unknown"


def test_cancelling_growth() -> None:
    space = ParameterSpace({"w": (3, 2), "a": (2, 3)})
    growth = torch.zeros(12)
    growth[6:] = torch.tensor([1.0, -1.0, 0.0, 0.5, -0.5, 0.0])
    assert cancelling(space, growth)
    growth[6:] = torch.tensor([1.0, 1.0, 0.0, 0.5, 0.5, 0.0])
    assert not cancelling(space, growth)
    assert cancelling(space, growth, any_sign=True)
    growth[6:] = torch.tensor([1.0, -1.0, 0.0, 0.5, -0.5, 0.0])
    growth[:6] = 1.0
    assert not cancelling(space, growth)


def test_names_need_their_evidence() -> None:
    def named(**changes: object) -> Status:
        facts = {
            "law": "power",
            "exponent": -2.0,
            "outputs": "settle",
            "cancels": True,
            "pairs": True,
            "bent": True,
            "block": "a",
        }
        return name_escape(Evidence(**(facts | changes)))

    assert named() is Status.CHANNEL
    assert named(bent=False) is Status.GROWTH
    assert named(law="exponential", cancels=False, pairs=False) is Status.SATURATING
    assert named(law="exponential", cancels=False, outputs="unknown") is Status.GROWTH
    assert named(law="exponential", outputs="grow") is Status.SEPARABLE
    assert named(outputs="grow") is Status.GROWTH
