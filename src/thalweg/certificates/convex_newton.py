"""Newton's method for a convex loss, safeguarded: it never goes up, and says how it ended."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import RunControl, current_limit
from thalweg.objectives import Objective

__all__ = ["NewtonEnd", "minimise"]

ITERATIONS = 60
"""Most Newton steps."""

ENOUGH = 1e-14
"""Decrement, relative to the loss, at which no more is to be gained."""

FLOOR = 1e-13
"""What is added to the diagonal of the Hessian, scaled to ones, so that directions without curvature do not matter."""

DENSE = 1500
"""Parameters up to which the Hessian is formed."""

PRODUCTS = 200
"""Products with the Hessian in one step beyond."""

ARMIJO = 1e-4
"""Part of the decrease that the slope promises and a step must bring."""


class NewtonEnd(NamedTuple):
    """Where it ended.

    Attributes:
        theta: ``(P,)``, the best point.
        value: of the loss there.
        iterations: Newton steps.
        ended: in words.
    """

    theta: Tensor
    value: float
    iterations: int
    ended: str


def minimise(
    objective: Objective, start: Float[Tensor, " P"], *, gone: float = 0.0, control: RunControl | None = None
) -> NewtonEnd:
    """Minimise a convex objective.

    Each step solves with the Hessian and a multiple of the identity that grows where a step fails and shrinks where it
    succeeds (Levenberg), and is halved until the loss falls as the slope promises (Armijo). Where the infimum is not
    attained, as for separable classes, the iterates go on until the loss is gone or the steps allowed are used up.

    Args:
        objective: convex and twice differentiable.
        start: ``(P,)``.
        gone: a loss at which no more is wanted.
        control: time budget and stop event.

    >>> from thalweg.zoo import Quadratic
    >>> end = minimise(Quadratic([1.0, 4.0]), torch.tensor([3.0, -2.0], dtype=torch.float64))
    >>> bool(end.theta.abs().max() < 1e-7)
    True
    """
    control = control or RunControl(None, None)
    theta, damping = start, 0.0
    value, gradient = _evaluate(objective, theta)
    for iteration in range(ITERATIONS):
        why = control.why_stop()
        if why is not None:
            return NewtonEnd(theta, value, iteration, f"stopped: {why}")
        if abs(value) <= gone:
            return NewtonEnd(theta, value, iteration, f"the loss is down to {value:.2g}")
        if not bool(gradient.any()):
            return NewtonEnd(theta, value, iteration, "converged")
        step = _step(objective, theta, gradient, damping)
        decrement = -float(gradient @ step)
        if not decrement > ENOUGH * abs(value):
            return NewtonEnd(theta, value, iteration, "converged")
        length = _length(objective, theta, step, value, decrement)
        if length == 0:
            if damping > 1e6 * (1 + float(gradient.abs().max())):
                return NewtonEnd(theta, value, iteration, "no step lowers the loss")
            damping = max(10 * damping, 1e-8 * float(gradient.abs().max()))
            continue
        damping = damping / 10 if length == 1 else damping
        theta = theta + length * step
        value, gradient = _evaluate(objective, theta)
    return NewtonEnd(theta, value, ITERATIONS, "the steps allowed were used up")


def _evaluate(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    found = objective.evaluate(theta, 1)
    assert found.gradient is not None
    return float(found.value), found.gradient


def _length(objective: Objective, theta: Tensor, step: Tensor, value: float, decrement: float) -> float:
    length = 1.0
    for _ in range(30):
        there = float(objective.value(theta + length * step))
        if math.isfinite(there) and there < value - ARMIJO * length * decrement:
            return length
        length /= 2
    return 0.0


def _step(objective: Objective, theta: Tensor, gradient: Tensor, damping: float) -> Tensor:
    size = len(theta)
    if size <= DENSE and 4 * 8 * size**2 <= current_limit():
        return _solved(objective.hessian(theta), gradient, damping)
    return _conjugate_gradients(objective, theta, gradient, damping)


def _solved(hessian: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """``-(H + damping)^-1 gradient`` in coordinates that make the diagonal of H one, whatever their units."""
    diagonal = hessian.diagonal() + damping
    scale = diagonal.clamp_min(1e-300 + 1e-30 * float(diagonal.max())).rsqrt()
    scaled = scale.unsqueeze(1) * hessian * scale
    added = damping * scale**2 + FLOOR
    for _ in range(20):
        factor, failed = torch.linalg.cholesky_ex(scaled + torch.diag(added))
        if not int(failed):
            break
        added = 10 * added
    return -scale * torch.cholesky_solve((scale * gradient).unsqueeze(1), factor).squeeze(1)


def _conjugate_gradients(objective: Objective, theta: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """The Newton step by products with the Hessian; a truncated one is a descent direction too."""
    operator = objective.hessian_operator(theta)
    step, residual = torch.zeros_like(gradient), -gradient
    direction, square = residual.clone(), float(gradient @ gradient)
    goal = square * min(1e-4, math.sqrt(square)) ** 2
    for number in range(PRODUCTS):
        product = operator @ direction + damping * direction
        curvature = float(direction @ product)
        if not curvature > 0:
            return step if number else -gradient
        ahead = square / curvature
        step, residual = step + ahead * direction, residual - ahead * product
        after = float(residual @ residual)
        if after <= goal:
            break
        direction, square = residual + after / square * direction, after
    return step
