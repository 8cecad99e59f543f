"""Rounding and the local model: what is noise, what is a direction with curvature, how Newton steps contract."""

from __future__ import annotations

import mpmath
import pytest
import torch
from solver_functions import function, normal

from thalweg.solvers.local import measure, measure_rounding
from thalweg.solvers.polish import polish


def test_rounding_floor_covers_the_error_of_the_gradient() -> None:
    """Against the gradient in fifty digits, at points of very different scale."""
    coefficients = [3.7, -123.4, 1e4, 0.3]
    objective = function(
        1, lambda x: sum(c * torch.sin((k + 1) * x[0]) for k, c in enumerate(coefficients)), "trigonometric"
    )
    for start in (0.3, 1.7, 12.345, 3e3):
        theta = torch.tensor([[start]], dtype=torch.float64)
        found = objective.evaluate(theta, 1)
        floor = float(measure_rounding(objective, theta, found.value, found.gradient).floor)
        with mpmath.workdps(50):
            exact = sum(c * (k + 1) * mpmath.cos((k + 1) * mpmath.mpf(start)) for k, c in enumerate(coefficients))
            error = abs(float(mpmath.mpf(float(found.gradient)) - exact))
        scale = sum(abs(c) * (k + 1) ** 2 for k, c in enumerate(coefficients)) * (1 + start)
        assert error <= 2 * floor + 1e-16 * scale
        assert floor < 1e-14 * scale


def test_soft_directions_are_those_without_curvature() -> None:
    objective = function(4, lambda x: 50 * x[0] ** 2 + x[1] ** 2 + 1e-13 * x[2] ** 2 + 0 * x[3], "spread")
    model = measure(objective, torch.tensor([[1e-9, 1e-9, 1.0, 5.0]], dtype=torch.float64))
    step, decrement, soft = model.newton_step()
    assert soft.tolist() == [[True, True, False, False]]
    torch.testing.assert_close(step[0, :2], torch.full((2,), -1e-9, dtype=torch.float64))
    assert float(step[0, 3]) == 0
    assert float(decrement) == pytest.approx(51e-18, rel=1e-3)


def test_newton_decrement_is_the_decrease_of_a_quadratic() -> None:
    matrix = normal(6, 6, seed=1)
    matrix = matrix @ matrix.mT + torch.eye(6, dtype=torch.float64)
    objective = function(6, lambda x: x @ matrix @ x / 2 + x.sum(), "quadratic")
    theta = normal(3, 6, seed=2)
    model = measure(objective, theta)
    step, decrement, _ = model.newton_step()
    torch.testing.assert_close(objective.value(theta) - objective.value(theta + step), decrement)


@pytest.mark.parametrize(("power", "ratio"), [(4, 2 / 3), (6, 4 / 5), (8, 6 / 7)])
def test_contraction_tells_the_order_of_a_degenerate_minimum(power: int, ratio: float) -> None:
    objective = function(1, lambda x: x[0] ** power, "power")
    found = polish(objective, measure(objective, torch.tensor([[0.3]], dtype=torch.float64)))
    assert float(found.ratio) == pytest.approx(ratio)


def test_on_the_way_to_infinity_steps_do_not_contract() -> None:
    exponential = function(1, lambda x: torch.exp(-x[0]), "exponential")
    found = polish(exponential, measure(exponential, torch.tensor([[5.0]], dtype=torch.float64)))
    assert float(found.ratio) == pytest.approx(1)
    power = function(1, lambda x: x[0] ** -2, "inverse square")
    found = polish(power, measure(power, torch.tensor([[5.0]], dtype=torch.float64)))
    assert float(found.ratio) == pytest.approx(4 / 3)


def test_polish_converges_quadratically_and_keeps_the_kind() -> None:
    saddle = function(2, lambda x: torch.cos(x[0]) + torch.cosh(x[1]) + x[0] * x[1] / 5, "saddle")
    start = torch.tensor([[0.1, -0.1]], dtype=torch.float64)
    found = polish(saddle, measure(saddle, start), saddle=True)
    assert float(found.model.gradient_norm) < 1e-15
    assert int(found.hessians) <= 5
    assert found.model.negative().sum() == 1
    kept = polish(saddle, measure(saddle, start))
    assert torch.equal(kept.model.theta, start), "a minimiser's polish must not walk to a saddle"
