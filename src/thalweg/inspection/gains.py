"""What steps of each kind would gain from the point, and how fast gradient descent would go."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.inspection.forecast import Candidates, dense_candidates, krylov_path, line_candidates, try_steps
from thalweg.inspection.pace import pace_of
from thalweg.inspection.records import Curvature, Forecast, Pace, Point
from thalweg.inspection.ruling import parameter_size
from thalweg.objectives import Capability, Objective

__all__ = ["forecast_gains", "steepest_gains"]

CG_STEPS = 24
"""Products spent on each Krylov path of the matrix-free forecast."""


def forecast_gains(
    objective: Objective, theta: Float[Tensor, " P"], point: Point, curvature: Curvature, stop: Callable[[], bool]
) -> Iterator[Forecast | Pace]:
    """A Newton and a Gauss-Newton step, each tried, and the pace of gradient descent; one after another.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        point: value and gradient there.
        curvature: the spectrum; all of it gives exact steps, its two ends those of conjugate gradients.
        stop: asked before each product; True ends the path there.
    """
    if curvature.dense:
        yield from _dense(objective, theta, point, curvature)
    else:
        yield from _free(objective, theta, point, curvature, stop)


def steepest_gains(
    objective: Objective, theta: Float[Tensor, " P"], point: Point, curvature: Curvature
) -> Iterator[Forecast | Pace]:
    """The gradient step, and the step along negative curvature; arguments as for `forecast_gains`."""
    if point.gradient_norm > point.gradient_floor and curvature.highest > 0:
        direction = point.gradient / point.gradient_length
        bend = float(direction @ objective.hessian_product(theta, direction))
        longest = 2 * point.gradient_length / curvature.highest
        candidates = line_candidates(direction, point.gradient_length, bend, longest)
        yield from _tried(objective, theta, point, "gradient", candidates)
    if curvature.lowest.negative:
        vector = curvature.lowest_vector
        slope = float(point.gradient @ vector)
        longest = parameter_size(point, curvature) or 1.0
        candidates = line_candidates(vector, slope, curvature.lowest.value, longest)
        yield from _tried(objective, theta, point, "negative curvature", candidates)


def _dense(objective: Objective, theta: Tensor, point: Point, curvature: Curvature) -> Iterator[Forecast | Pace]:
    widest = 2 * (parameter_size(point, curvature) or 1.0)
    newton = dense_candidates(curvature.eigenvalues, curvature.vectors, point.gradient, widest)
    yield from _tried(objective, theta, point, "Newton", newton)
    slopes = curvature.vectors.T @ point.gradient
    pace = pace_of(curvature.eigenvalues, slopes**2, curvature.highest, point.excess, exact=True)
    if pace is not None:
        yield pace
    if Capability.GAUSS_NEWTON in objective.capabilities:
        values, vectors = torch.linalg.eigh(objective.gauss_newton(theta))
        candidates = dense_candidates(values.clamp(min=0), vectors, point.gradient, widest)
        yield from _tried(objective, theta, point, "Gauss-Newton", candidates)


def _free(
    objective: Objective, theta: Tensor, point: Point, curvature: Curvature, stop: Callable[[], bool]
) -> Iterator[Forecast | Pace]:
    longest = 0.1 * (parameter_size(point, curvature) or 1.0)
    path = krylov_path(objective.hessian_operator(theta), point.gradient, CG_STEPS, longest, stop)
    remark = "met negative curvature" if path.negative else ""
    yield from _tried(objective, theta, point, "Newton", path.candidates, remark)
    pace = pace_of(path.ritz, path.weights, curvature.highest, point.excess, exact=False)
    if pace is not None:
        yield pace
    if Capability.GAUSS_NEWTON in objective.capabilities and not stop():
        path = krylov_path(objective.gauss_newton_operator(theta), point.gradient, CG_STEPS, longest, stop)
        yield from _tried(objective, theta, point, "Gauss-Newton", path.candidates)


def _tried(
    objective: Objective, theta: Tensor, point: Point, name: str, candidates: Candidates, remark: str = ""
) -> Iterator[Forecast]:
    found = try_steps(objective, theta, point.value, name, candidates, remark)
    if found is not None:
        yield found
