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
        InvalidInputError: for a missing or misshapen parameter, a wrong size, NaN, or a model whose buffers or frozen
            parameters differ from those of the objective.

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
    _check_fixed(values, objective)
    tensors = {name: torch.as_tensor(values[name]).detach() for name in objective.space.names}
    return objective.space.flatten(
        {n: t.to(dtype=objective.dtype, device=objective.device) for n, t in tensors.items()}
    )


def _check_fixed(values: Mapping[str, Any], objective: Objective) -> None:
    """Refuse weights whose buffers or frozen parameters are not those of the objective: theta does not carry them."""
    risk = find_risk(objective)
    if risk is None:
        return
    own = {name: held for name, held in risk.model.state_dict().items() if name not in risk.space.names}
    other = [
        name
        for name, held in own.items()
        if isinstance(values.get(name), Tensor)
        and held.is_floating_point()
        and not torch.equal(values[name].detach().to(held), held)
    ]
    if other:
        raise InvalidInputError(
            f"{', '.join(map(repr, other[:4]))} {'differs' if len(other) == 1 else 'differ'} from what the objective "
            "was made with, and theta does not carry it (buffers such as running statistics, frozen parameters): make "
            "an EmpiricalRisk of this model instead"
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


def _inside(objective: Objective) -> Objective:
    """The objective one step nearer to the one risk inside, with the same parameters but for a restriction."""
    if isinstance(objective, RestrictedObjective):
        return objective.base
    assert isinstance(objective, SumObjective)
    return next(term for term in objective.terms if find_risk(term) is not None)


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
    risk.load_into_model(_project(objective, objective._single(as_theta(theta, objective))), model)
    return float(objective.gradient(_embed(objective, as_theta(model, risk))).abs().max())


def _project(objective: Objective, point: Tensor) -> Tensor:
    """The risk's parameter vector that a parameter vector of the objective stands for."""
    if isinstance(objective, EmpiricalRisk):
        return point
    there = objective.project(point) if isinstance(objective, RestrictedObjective) else point
    return _project(_inside(objective), there)


def _embed(objective: Objective, held: Tensor) -> Tensor:
    """The objective's parameter vector nearest to one of the risk inside."""
    if isinstance(objective, EmpiricalRisk):
        return held
    there = _embed(_inside(objective), held)
    return objective.embed(there) if isinstance(objective, RestrictedObjective) else there
