"""The line search: the conditions it promises, on functions for which they are known to be hard."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.objectives import Objective, Penalty
from thalweg.solvers.line_search import Line, strong_wolfe


def scalar(function, name: str) -> Objective:
    return Penalty(ParameterSpace({"x": (1,)}), lambda p: function(p["x"][0]), name=name)


def search(objective: Objective, origin: Tensor, direction: Tensor, first: float) -> Line:
    found = objective.evaluate(origin, 1)
    length = torch.full(origin.shape[:1], first, dtype=torch.float64)
    return strong_wolfe(objective, origin, direction, found.value, found.gradient, length)


LINES = {
    # Moré and Thuente 1994, functions 1 and 2: slope -1/beta at first, then a minimum far out or very sharp
    "more-thuente-1": scalar(lambda x: -x / (x**2 + 2), "mt1"),
    "more-thuente-2": scalar(lambda x: (x + 0.004) ** 5 - 2 * (x + 0.004) ** 4, "mt2"),
    "quartic": scalar(lambda x: (x - 3) ** 4, "quartic"),
    "cosine": scalar(lambda x: torch.cos(x) + 0.1 * x**2, "cosine"),
    "logarithm": scalar(lambda x: x - torch.log(x + 1e-3), "logarithm"),  # not a number beyond its pole
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("first", [1e-6, 1e-2, 1.0, 50.0])
def test_strong_wolfe_conditions_hold(name: str, first: float) -> None:
    objective = LINES[name]
    origin = torch.tensor([[0.05]], dtype=torch.float64)
    found = objective.evaluate(origin, 1)
    direction = -found.gradient.sign()
    slope = float((found.gradient * direction).sum())
    line = search(objective, origin, direction, first)
    assert bool(line.found)
    point = origin + line.length[:, None] * direction
    value, gradient = objective.value(point), objective.gradient(point)
    assert float(value) <= float(found.value) + 1e-4 * float(line.length) * slope
    assert abs(float((gradient * direction).sum())) <= 0.9 * abs(slope)
    torch.testing.assert_close(line.value, value)
    torch.testing.assert_close(line.gradient, gradient)


def test_lines_of_a_batch_do_not_disturb_each_other() -> None:
    objective = LINES["cosine"]
    origins = torch.linspace(0.1, 2.9, 15, dtype=torch.float64)[:, None]
    found = objective.evaluate(origins, 1)
    first = torch.full((15,), 0.3, dtype=torch.float64)
    together = strong_wolfe(objective, origins, -found.gradient, found.value, found.gradient, first)
    for i in range(15):
        one = slice(i, i + 1)
        alone = strong_wolfe(
            objective, origins[one], -found.gradient[one], found.value[one], found.gradient[one], first[one]
        )
        assert float(alone.length) == float(together.length[i])
        assert int(alone.evaluations) == int(together.evaluations[i])


def test_decrease_lost_in_rounding_is_judged_by_slopes() -> None:
    """Beside a constant of 1e8 the value cannot show a decrease of 1e-9; the slopes can."""
    objective = scalar(lambda x: 1e8 + (x - 1) ** 2, "offset")
    origin = torch.tensor([[1 + 1e-5]], dtype=torch.float64)
    found = objective.evaluate(origin, 1)
    line = search(objective, origin, -found.gradient, 0.4)
    assert bool(line.found)
    assert abs(float(line.gradient)) < 0.9 * abs(float(found.gradient))


def test_an_ascent_direction_is_not_followed() -> None:
    objective = LINES["quartic"]
    origin = torch.tensor([[0.0]], dtype=torch.float64)
    found = objective.evaluate(origin, 1)
    line = search(objective, origin, found.gradient, 1.0)
    assert not bool(line.found)
    assert float(line.length) == 0


def test_a_jump_to_infinity_is_backed_away_from() -> None:
    def pole(x: Tensor) -> Tensor:
        return torch.where(x < 1, -torch.log(1 - x) - 2 * x, torch.full_like(x, math.nan))

    objective = scalar(pole, "pole")
    origin = torch.tensor([[0.0]], dtype=torch.float64)
    found = objective.evaluate(origin, 1)
    line = search(objective, origin, -found.gradient, 5.0)
    assert bool(line.found)
    assert 0 < float(line.length) < 1
