"""The loss along straight lines through the point, beside its quadratic model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.inspection.groups import values_in_groups
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
            meaning = "At the point the loss curves downwards along this line, which it does at no minimum."
        else:
            meaning = "The softest direction found: along no other do the data decide less."
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
        reach = _reach(point, bend)
        if bend < 0:
            reach = _where_it_falls(objective, theta, point, direction, reach)
        t = reach * torch.linspace(-1, 1, points, dtype=theta.dtype, device=theta.device)
    slope = float(point.gradient @ direction)
    values = _along(objective, theta, direction, t)
    model = point.value + slope * t + bend * t**2 / 2
    shown = t / best.length if suggested and best is not None else t
    return Slice(name, meaning, shown, values, model)


def _along(objective: Objective, theta: Tensor, direction: Tensor, t: Tensor) -> Tensor:
    return values_in_groups(objective, len(t), lambda some: theta + t[some, None] * direction)


def _reach(point: Point, bend: float) -> float:
    """Distance at which the quadratic model changes the value by about its own size, at most the size of theta."""
    sizes = [point.theta_norm] if point.theta_norm > 0 else []
    if bend != 0 and point.value != 0:
        sizes.append((2 * abs(point.value / bend)) ** 0.5)
    return min(sizes, default=1.0)


def _where_it_falls(objective: Objective, theta: Tensor, point: Point, direction: Tensor, reach: float) -> float:
    """The largest of a few distances where the loss is lower on one side: beyond it the picture hides what it shows."""
    shorter = reach * 0.25 ** torch.arange(8, dtype=theta.dtype, device=theta.device)
    ends = _along(objective, theta, direction, torch.cat([shorter, -shorter])).reshape(2, -1)
    lower = torch.nan_to_num(ends, nan=torch.inf).amin(0) < point.value - 4 * point.value_noise
    return float(shorter[lower].max()) if bool(lower.any()) else reach
