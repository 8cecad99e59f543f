"""How fast gradient descent can go here, read off the quadratic model in the directions the gradient lies in."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.inspection.records import Pace

__all__ = ["pace_of"]

STIFF = 100.0
"""A direction is stiff when its curvature is at least the largest divided by this."""


def pace_of(
    eigenvalues: Float[Tensor, " k"],
    weights: Float[Tensor, " k"],
    highest: float,
    excess: float | None,
    *,
    exact: bool,
) -> Pace | None:
    """Steps that gradient descent needs, from curvature and squared slope along each direction.

    Along a direction of curvature c and slope s the model promises ``s^2 / (2 c)``, of which k steps of size 1 /
    highest gain the share ``1 - (1 - c / highest)^(2 k)``. Directions are counted from the stiffest on, until they
    promise as much as there is to gain at all: softer ones lie beyond the reach of the model.

    Args:
        eigenvalues: curvatures.
        weights: squared slope along each.
        highest: largest curvature.
        excess: the most that can be gained; None where not known.
        exact: whether these are all directions.

    Returns:
        None where no direction curves upwards.
    """
    if highest <= 0:
        return None
    up = eigenvalues > 1e-12 * highest
    curvature, order = eigenvalues[up].double().sort(descending=True)
    promise = weights[up].double()[order] / (2 * curvature)
    if excess is not None:
        reach = promise.cumsum(0) <= excess
        reach[:1] = True
        curvature, promise = curvature[reach], promise[reach]
    total = float(promise.sum())
    if not curvature.numel() or total <= 0 or not math.isfinite(total):
        return None
    rate = torch.log1p(-(curvature / highest).clamp(max=1 - 1e-12))

    def left(steps: float) -> float:
        return float((promise * torch.exp(2 * steps * rate)).sum()) / total

    stiff = float(promise[curvature >= highest / STIFF].sum()) / total
    return Pace(2 / highest, _halving(left), total, stiff, exact)


def _halving(left: object) -> float:
    """Number of steps after which half is left, by bisection on its logarithm."""
    assert callable(left)
    low, high = 0.0, 1.0
    while left(high) > 0.5 and high < 1e15:
        low, high = high, 4 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) > 0.5 else (low, middle)
    return high
