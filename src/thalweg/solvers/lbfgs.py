"""L-BFGS for a batch of starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.solvers.line_search import strong_wolfe
from thalweg.solvers.method import Method, State

__all__ = ["LBFGS"]

_FAILURES = 4


@dataclass(frozen=True)
class LBFGS(Method):
    """Limited-memory BFGS (Liu and Nocedal 1989) with a line search for the strong Wolfe conditions.

    It needs gradients only. A line search that fails empties the memory; a second failure in a row without any progress
    ends the start, and so does a fourth with some (at a kink there is always a little more to gain).

    Args:
        memory: pairs of steps and gradient differences kept.

    >>> LBFGS(memory=5).alias
    'l-bfgs'
    """

    memory: int = 20
    alias: ClassVar[str] = "l-bfgs"
    max_iterations: ClassVar[int] = 20_000
    hands_over: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise InvalidInputError(f"memory must be at least 1, got {self.memory}")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Value and gradient at the starting points."""
        found = objective.evaluate(theta, 1)
        assert found.gradient is not None
        pairs = theta.new_zeros(len(theta), self.memory, theta.shape[-1])
        nothing = theta.new_zeros(len(theta))
        return State.fresh(
            theta, found.value, found.gradient, 0, steps=pairs, changes=pairs.clone(), scale=nothing, failures=nothing
        )

    def step(self, objective: Objective, state: State) -> State:
        """One line search per row."""
        steps, changes, scale = (state.memory[name] for name in ("steps", "changes", "scale"))
        direction = -_two_loops(steps, changes, scale, state.gradient)
        downhill = (direction * state.gradient).sum(-1) < 0
        direction = torch.where(downhill[:, None], direction, -state.gradient)
        unscaled = (scale == 0) | ~downhill
        size = direction.norm(dim=-1).clamp(min=torch.finfo(direction.dtype).tiny)
        first = torch.where(
            unscaled, (0.1 * (1 + state.theta.norm(dim=-1)) / size).clamp(max=1.0), torch.ones_like(size)
        )
        line = strong_wolfe(objective, state.theta, direction, state.value, state.gradient, first)
        moved = line.length > 0
        step = line.length[:, None] * direction
        change = line.gradient - state.gradient
        product = (step * change).sum(-1)
        useful = moved & (product > 1e-12 * step.norm(dim=-1) * change.norm(dim=-1))
        failures = torch.where(line.found, torch.zeros_like(scale), state.memory["failures"] + 1)
        new_scale = torch.where(useful, product / (change**2).sum(-1).clamp(min=torch.finfo(product.dtype).tiny), scale)
        keep = (failures == 0)[:, None, None]
        memory = {
            "steps": torch.where(keep, _push(steps, step, useful), torch.zeros_like(steps)),
            "changes": torch.where(keep, _push(changes, change, useful), torch.zeros_like(changes)),
            "scale": torch.where(failures == 0, new_scale, torch.zeros_like(scale)),
            "failures": failures,
        }
        theta = state.theta + step
        return State(
            theta,
            line.value,
            line.gradient,
            failures >= 2,
            state.evaluations + line.evaluations,
            state.hessians,
            memory,
        )


def _push(kept: Tensor, new: Tensor, useful: Tensor) -> Tensor:
    """The oldest pair leaves where the new one is useful."""
    return torch.where(useful[:, None, None], torch.cat([kept[:, 1:], new[:, None]], dim=1), kept)


def _two_loops(steps: Tensor, changes: Tensor, scale: Tensor, gradient: Tensor) -> Tensor:
    """The inverse Hessian of the memory times the gradient; empty places of the memory are zero and do nothing."""
    product = (steps * changes).sum(-1)
    weight = torch.where(product > 0, 1 / torch.where(product > 0, product, torch.ones_like(product)), product)
    result = gradient.clone()
    shares = []
    for i in reversed(range(steps.shape[1])):
        share = weight[:, i] * (steps[:, i] * result).sum(-1)
        result = result - share[:, None] * changes[:, i]
        shares.append(share)
    result = torch.where((scale > 0)[:, None], scale[:, None] * result, result)
    for i, share in zip(range(steps.shape[1]), reversed(shares), strict=True):
        back = weight[:, i] * (changes[:, i] * result).sum(-1)
        result = result + (share - back)[:, None] * steps[:, i]
    return result
