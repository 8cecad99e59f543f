"""The first look: value, gradient, its rounding floor, kinks, and the blocks one by one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.inspection.records import Layer, Point
from thalweg.objectives import EmpiricalRisk, Objective, RestrictedObjective, SumObjective, find_risk
from thalweg.solvers.local import measure_rounding

__all__ = ["measure_point"]


def measure_point(objective: Objective, theta: Float[Tensor, " P"]) -> Point:
    """Evaluate value and gradient, and what rounding does to them.

    Args:
        objective: the loss.
        theta: ``(P,)``.

    Raises:
        InvalidInputError: if either is NaN or infinite: nothing can be said of such a point.
    """
    found = objective.evaluate(theta, 1)
    assert found.gradient is not None
    gradient = found.gradient
    if not bool(torch.isfinite(found.value)):
        raise InvalidInputError(f"the loss is {float(found.value)} at this point; take parameters from before it broke")
    if not bool(torch.isfinite(gradient).all()):
        count = int((~torch.isfinite(gradient)).sum())
        raise InvalidInputError(
            f"the loss is {float(found.value):.4g} at this point, but {count} of {len(theta)} entries of its gradient "
            "are NaN or infinite: some operation has no derivative here, such as the root of zero; keep away from it, "
            "for instance with sqrt(x + 1e-12)"
        )
    rounding = measure_rounding(objective, theta[None], found.value[None], gradient[None])
    return Point(
        value=float(found.value),
        gradient_norm=float(gradient.abs().max()),
        gradient_length=float(gradient.norm()),
        gradient_floor=float(rounding.floor[0]),
        value_noise=float(rounding.value[0]),
        theta_norm=float(theta.norm()),
        infimum=_infimum(objective),
        kinks=objective.kinks(theta),
        layers=_layers(objective, theta, gradient),
        gradient=gradient,
    )


def _layers(objective: Objective, theta: Tensor, gradient: Tensor) -> tuple[Layer, ...]:
    return tuple(
        Layer(block.name, block.size, float(theta[block.slice].norm()), float(gradient[block.slice].norm()))
        for block in objective.space
        if block.size
    )


def _infimum(objective: Objective) -> float | None:
    """Sum of the samples' infima over free outputs; other terms that are not negative can only add to it."""
    if isinstance(objective, EmpiricalRisk):
        return objective.output_infimum()
    if isinstance(objective, RestrictedObjective):
        return _infimum(objective.base)
    if not isinstance(objective, SumObjective):
        return None
    data = [term for term in objective.terms if find_risk(term) is not None]
    others = [term for term in objective.terms if find_risk(term) is None]
    if len(data) != 1 or not all(getattr(term, "nonnegative", False) for term in others):
        return None
    return _infimum(data[0])
