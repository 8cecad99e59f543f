"""From whatever holds parameters to a vector, and back into a live model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives.objective import Objective
from thalweg.objectives.restriction import RestrictedObjective
from thalweg.objectives.risk import EmpiricalRisk
from thalweg.objectives.sums import SumObjective

__all__ = ["as_theta", "find_risk", "load_into_model"]


def as_theta(source: Any, objective: Objective) -> Float[Tensor, "*batch P"]:
    """The parameter vector held by a tensor, a module, a state dict, a solution, or a list of these (a batch).

    Args:
        source: a tensor ``(*batch, P)``; an `nn.Module` or state dict with the parameters that the space of `objective`
            names; anything with an attribute ``theta``; or a list or tuple of those, for instance the checkpoints of a
            run.
        objective: whose space, dtype and device are meant.

    Raises:
        InvalidInputError: for a missing or misshapen parameter, a wrong size, or NaN.

    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import L2
    >>> objective = L2(ParameterSpace({"weight": (1, 2), "bias": (1,)}), 1.0)
    >>> as_theta(nn.Linear(2, 1), objective).shape
    torch.Size([3])
    """
    theta = _convert(source, objective)
    if theta.dim() == 0 or theta.shape[-1] != objective.space.size:
        raise InvalidInputError(f"theta has shape {tuple(theta.shape)}, expected (*batch, {objective.space.size})")
    if not bool(torch.isfinite(theta).all()):
        raise InvalidInputError(
            f"theta holds {int((~torch.isfinite(theta)).sum())} NaN or infinite entries; start elsewhere"
        )
    return theta


def _convert(source: Any, objective: Objective) -> Tensor:
    if isinstance(source, Tensor):
        if not source.is_floating_point():
            raise InvalidInputError(f"theta must be a floating tensor, got {source.dtype}")
        return source.detach().to(dtype=objective.dtype, device=objective.device)
    if isinstance(source, nn.Module):
        # named_parameters gives a tied parameter once, under the name that the space has too
        return _from_names(dict(source.named_parameters()) | dict(source.state_dict()), objective)
    if isinstance(source, Mapping):
        return _from_names(source, objective)
    if isinstance(getattr(source, "theta", None), Tensor):
        return _convert(source.theta, objective)
    if isinstance(source, Sequence) and not isinstance(source, str | bytes) and len(source) > 0:
        points = [as_theta(one, objective) for one in source]
        shapes = {tuple(point.shape) for point in points}
        if len(shapes) > 1:
            raise InvalidInputError(
                f"points of shapes {', '.join(map(str, sorted(shapes)))} make no batch; give points of one shape"
            )
        return torch.stack(points)
    raise InvalidInputError(
        f"cannot read parameters from {type(source).__name__}; give a tensor, an nn.Module, a state dict, a Solution "
        "or a list of them"
    )


def _from_names(values: Mapping[str, Any], objective: Objective) -> Tensor:
    missing = [name for name in objective.space.names if name not in values]
    if missing:
        shown = ", ".join(map(repr, list(values)[:6]))
        raise InvalidInputError(
            f"no parameter {', '.join(map(repr, missing[:6]))} among {shown}: other weights than this model's?"
        )
    tensors = {name: torch.as_tensor(values[name]).detach() for name in objective.space.names}
    return objective.space.flatten(
        {n: t.to(dtype=objective.dtype, device=objective.device) for n, t in tensors.items()}
    )


def find_risk(objective: Objective) -> EmpiricalRisk | None:
    """The empirical risk inside a sum or a restriction, if there is exactly one."""
    if isinstance(objective, EmpiricalRisk):
        return objective
    if isinstance(objective, RestrictedObjective):
        return find_risk(objective.base)
    if isinstance(objective, SumObjective):
        found = [risk for risk in map(find_risk, objective.terms) if risk is not None]
        return found[0] if len(found) == 1 else None
    return None


def load_into_model(objective: Objective, theta: Any, model: nn.Module) -> float:
    """Write a parameter vector of any objective built on an empirical risk into a live model, in its own dtype.

    Args:
        objective: a risk, a sum that holds one, or a restriction of either; its `project` leads back to the risk.
        theta: anything that `as_theta` reads, one point.
        model: the model to be changed.

    Returns:
        The maximum norm of the objective's gradient at what the model holds after the cast.

    Raises:
        NotApplicableError: if no single empirical risk stands behind the objective.
        InvalidInputError: if the model does not fit.
    """
    risk = find_risk(objective)
    if risk is None:
        raise NotApplicableError(f"{objective!r} is not built on one EmpiricalRisk, so there is no model to load into")
    point = objective._single(as_theta(theta, objective))
    base, inside = point, objective
    while isinstance(inside, RestrictedObjective):
        base, inside = inside.project(base), inside.base
    risk.load_into_model(base, model)
    held = as_theta(model, inside)
    walked = held if inside is objective else _embed(objective, held)
    return float(objective.gradient(walked).abs().max())


def _embed(objective: Objective, base: Tensor) -> Tensor:
    if isinstance(objective, RestrictedObjective):
        return objective.embed(_embed(objective.base, base))
    return base
