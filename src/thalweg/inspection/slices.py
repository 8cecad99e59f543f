"""The loss along straight lines through the point, beside its quadratic model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.inspection.records import Curvature, Forecast, Point, Slice
from thalweg.objectives import Objective

__all__ = ["cut_slices"]

POINTS = 41
"""Evaluations along each line."""


def cut_slices(
    objective: Objective,
    theta: Float[Tensor, " P"],
    point: Point,
    curvature: Curvature | None,
    best: Forecast | None,
    points: int = POINTS,
) -> tuple[Slice, ...]:
    """Cut along the stiffest direction, the most negative one, the gradient, and the suggested step."""
    lines: list[tuple[str, str, Tensor, float]] = []
    if curvature is not None:
        lines.append(
            (
                "largest curvature",
                "The stiffest direction sets the largest stable step size of gradient descent.",
                curvature.highest_vector,
                curvature.highest,
            )
        )
        low = curvature.lowest
        if low.negative:
            meaning = "The loss curves downwards here: both ways lead lower, which no minimum allows."
        else:
            meaning = "The softest direction found: where the loss hardly changes, the data hardly decide."
        lines.append(("smallest curvature", meaning, curvature.lowest_vector, low.value))
    if best is not None:
        unit = best.step / best.length
        bend = -2 * (best.predicted + float(point.gradient @ best.step)) / best.length**2
        lines.append((f"suggested step ({best.name})", "From 0 to 1 lies the suggested step.", unit, bend))
    return tuple(_cut(objective, theta, point, *line, best, points) for line in lines)


def _cut(
    objective: Objective,
    theta: Tensor,
    point: Point,
    name: str,
    meaning: str,
    direction: Tensor,
    bend: float,
    best: Forecast | None,
    points: int,
) -> Slice:
    suggested = best is not None and name.startswith("suggested")
    if suggested:
        assert best is not None
        t = best.length * torch.linspace(-0.5, 2.0, points, dtype=theta.dtype, device=theta.device)
    else:
        t = _reach(point, bend) * torch.linspace(-1, 1, points, dtype=theta.dtype, device=theta.device)
    slope = float(point.gradient @ direction)
    values = objective.value(theta + t[:, None] * direction)
    model = point.value + slope * t + bend * t**2 / 2
    shown = t / best.length if suggested and best is not None else t
    return Slice(name, meaning, shown, values, model)


def _reach(point: Point, bend: float) -> float:
    """Distance at which the quadratic model changes the value by about its own size, at most the size of theta."""
    size = max(point.theta_norm, 1e-3)
    if bend == 0:
        return size
    return float(min(size, (2 * max(abs(point.value), 1e-12) / abs(bend)) ** 0.5))
