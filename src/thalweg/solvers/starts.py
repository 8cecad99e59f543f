"""Where searches begin: checked points, or random ones."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Objective, RestrictedObjective, SumObjective, as_theta

__all__ = ["checked_starts", "random_starts"]


def random_starts(
    space: ParameterSpace, count: int, seed: int | torch.Generator, *, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "count P"]:
    """Normal draws: Glorot's standard deviation ``sqrt(2 / (fan_in + fan_out))`` for matrices and kernels, 1 otherwise.

    Args:
        space: what is drawn.
        count: how many.
        seed: a number or a generator; the global random state is left alone.
        dtype: of the result.

    Raises:
        InvalidInputError: for a count below 1.

    >>> random_starts(ParameterSpace({"weight": (3, 2), "bias": (3,)}), 4, seed=0).shape
    torch.Size([4, 9])
    """
    if count < 1:
        raise InvalidInputError(f"starts must be at least 1, got {count}")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    parts = []
    for block in space:
        width = 1.0
        if len(block.shape) >= 2:
            kernel = math.prod(block.shape[2:])
            width = math.sqrt(2 / max(1, (block.shape[0] + block.shape[1]) * kernel))
        parts.append(width * torch.randn(count, block.size, generator=generator, dtype=torch.float64))
    return torch.cat(parts, dim=-1).to(dtype)


def checked_starts(
    objective: Objective, theta: object, starts: int | None, seed: int | None
) -> tuple[Float[Tensor, "b P"], torch.Size]:
    """The starts as ``(b, P)`` in the objective's dtype, and the batch shape they came in.

    Raises:
        InvalidInputError: for points that are not finite or misshapen, where there is nothing to start from, or where
            what is given is no objective.
    """
    if not isinstance(objective, Objective):
        raise InvalidInputError(
            f"an objective is needed, got {type(objective).__name__}: make one with "
            "thalweg.EmpiricalRisk(model, loss, inputs, targets)"
        )
    if theta is not None and starts is not None:
        raise InvalidInputError("give either theta or starts=..., not both")
    if seed is not None and starts is None:
        raise InvalidInputError("seed= belongs to starts=...: say how many random starts to draw")
    if starts is not None:
        drawn = random_starts(objective.space, starts, 0 if seed is None else seed, dtype=objective.dtype)
        return drawn.to(objective.device), torch.Size([starts])
    source = _own_parameters(objective) if theta is None else theta
    if source is None:
        raise InvalidInputError(
            f"{objective!r} has no parameters of its own to start from: pass theta of shape (*batch, "
            f"{objective.space.size}), or starts=16, seed=0 for random ones"
        )
    points = as_theta(source, objective)
    batch = points.shape[:-1]
    if points.numel() == 0:
        raise InvalidInputError(f"theta has shape {tuple(points.shape)}: there is no start in it")
    return points.reshape(-1, objective.space.size).clone(), batch


def _own_parameters(objective: Objective) -> Tensor | None:
    """The parameters an objective came with, as the loss of a module does; also inside a sum or a restriction."""
    if isinstance(objective, RestrictedObjective):
        return objective.embed(objective.origin)
    for term in objective.terms if isinstance(objective, SumObjective) else (objective,):
        initial = getattr(term, "initial", None)
        if isinstance(initial, Tensor):
            return initial
    return None
