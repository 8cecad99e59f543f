"""Trial points of one iteration, for methods that look at gradients instead of values."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.method import State
from thalweg.solvers.newton import decompose

__all__ = ["Trials"]


class Trials:
    """Rows that still look for a step, and what was measured at the points tried."""

    def __init__(self, state: State) -> None:
        self.theta, self.value, self.gradient = state.theta.clone(), state.value.clone(), state.gradient.clone()
        memory = state.memory
        self.eigenvalues = memory["eigenvalues"].clone() if "eigenvalues" in memory else state.value
        self.vectors = memory["vectors"].clone() if "vectors" in memory else state.value
        self.trial_theta = self.theta.clone()
        self.moved = torch.zeros_like(state.stuck)
        self.evaluations, self.hessians = torch.zeros_like(state.evaluations), torch.zeros_like(state.hessians)

    @property
    def pending(self) -> Tensor:
        """Rows that have not moved yet."""
        return (~self.moved).nonzero().squeeze(-1)

    def count(self, rows: Tensor) -> None:
        """A gradient each."""
        self.evaluations[rows] += 1

    def measure(self, objective: Objective, rows: Tensor, theta: Tensor) -> Tensor:
        """Second order at the trial points; True where all of it is finite."""
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=theta.device)
        found = objective.evaluate(theta, 2)
        assert found.gradient is not None
        assert found.hessian is not None
        self.hessians[rows] += 1
        self.trial_theta[rows], self.value[rows], self.gradient[rows] = theta, found.value, found.gradient
        self.eigenvalues[rows], self.vectors[rows] = decompose(found.hessian)
        return torch.isfinite(found.hessian).all(-1).all(-1) & torch.isfinite(found.value)

    def settle(self, rows: Tensor) -> None:
        """Take the points last measured."""
        self.theta[rows], self.moved[rows] = self.trial_theta[rows], True

    def keep(self, rows: Tensor, accepted: Tensor, theta: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Take points that were measured to first order."""
        done = rows[accepted]
        self.theta[done], self.value[done], self.gradient[done] = theta[accepted], value[accepted], gradient[accepted]
        self.moved[done] = True

    def state(self, state: State, radius: Tensor) -> State:
        """The next state: rows that found no step keep what they had and are stuck."""
        stay = ~self.moved
        value = torch.where(stay, state.value, self.value)
        gradient = torch.where(stay[:, None], state.gradient, self.gradient)
        memory: dict[str, Tensor] = {"radius": radius}
        if "eigenvalues" in state.memory:
            old, kept = state.memory, stay[:, None]
            memory["eigenvalues"] = torch.where(kept, old["eigenvalues"], self.eigenvalues)
            memory["vectors"] = torch.where(kept[:, :, None], old["vectors"], self.vectors)
        return State(
            theta=self.theta,
            value=value,
            gradient=gradient,
            stuck=stay,
            evaluations=state.evaluations + self.evaluations,
            hessians=state.hessians + self.hessians,
            memory=memory,
        )
