"""Gradient flow as a minimiser: it stays on the floor of narrow curved valleys where a trust region must creep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.solvers.method import Method, State, finite
from thalweg.solvers.newton import decompose, predict_memory
from thalweg.solvers.rosenbrock import RODAS3, Spectrum, next_length, root_mean_square, rosenbrock_step, steepest
from thalweg.solvers.watch import checkpoint

__all__ = ["GradientFlow"]

_ATTEMPTS = 12
"""Trials of one iteration; a rejected one divides the length by up to ten."""


@dataclass(frozen=True)
class GradientFlow(Method):
    """Gradient flow by stiff steps with error control (RODAS3), all starts in one batch.

    It goes where gradient descent with infinitely small steps would go, in a few hundred steps: each takes one Hessian,
    one eigendecomposition and two gradients. Towards the end steps become Newton steps. `thalweg.gradient_flow` returns
    the trajectory.

    Args:
        rtol: tolerance of the error of one step, relative to each parameter and to their root mean square. Loose ones
            take fewer steps, and may end in another valley than the flow itself.

    >>> GradientFlow().alias
    'flow'
    """

    rtol: float = 0.03
    alias: ClassVar[str] = "flow"
    max_iterations: ClassVar[int] = 1000
    hands_over: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise InvalidInputError(f"rtol must lie between 0 and 1, got {self.rtol}")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Evaluate and decompose at the starting points."""
        predict_memory(objective, len(theta))
        found = objective.evaluate(theta, 2)
        assert found.gradient is not None
        assert found.hessian is not None
        values, vectors = decompose(found.hessian)
        length = steepest(theta, found.gradient, root_mean_square(theta).clamp(min=1e-3))
        return State.fresh(theta, found.value, found.gradient, 1, eigenvalues=values, vectors=vectors, length=length)

    def step(self, objective: Objective, state: State) -> State:
        """One step of the flow for every row, with lengths cut until its error is small and the value has not risen."""
        state = state.take(torch.arange(len(state.theta), device=state.theta.device))  # a copy, to be written over
        state.stuck[:] = True
        pending = torch.arange(len(state.theta), device=state.theta.device)
        for _ in range(_ATTEMPTS):
            checkpoint()
            state, moved = self._attempt(objective, state, pending)
            pending = pending[~moved]
            if not len(pending):
                break
        return state

    def _attempt(self, objective: Objective, state: State, rows: Tensor) -> tuple[State, Tensor]:
        """Try some rows; the state with those that went put in place, and which did."""
        here = state.take(rows)
        spectrum = Spectrum(here.memory["eigenvalues"], here.memory["vectors"])
        length = torch.minimum(here.memory["length"], spectrum.longest())
        trial = rosenbrock_step(RODAS3, objective.gradient, here.theta, here.gradient, spectrum, length)
        floor = self.rtol * torch.maximum(root_mean_square(here.theta), root_mean_square(trial.theta)).unsqueeze(1)
        misfit = trial.misfit(self.rtol, floor)
        state.memory["length"][rows] = next_length(length, misfit, RODAS3.order)
        state.evaluations[rows] += RODAS3.gradients
        moved = misfit <= 1
        if bool(moved.any()):
            moved[moved.clone()] = self._settle(objective, state, rows[moved], trial.theta[moved], length[moved])
        return state, moved

    def _settle(self, objective: Objective, state: State, rows: Tensor, theta: Tensor, length: Tensor) -> Tensor:
        """Put rows where their steps ended; False where the value rose, which a step of the flow must not do."""
        found = objective.evaluate(theta, 2)
        assert found.gradient is not None
        assert found.hessian is not None
        old = state.value[rows]
        blur = 64 * torch.finfo(old.dtype).eps * old.abs()
        down = finite(found.value) <= old + blur
        state.memory["length"][rows[~down]] = length[~down] / 4
        state.evaluations[rows] += 1
        state.hessians[rows] += 1
        kept = rows[down]
        state.theta[kept], state.value[kept] = theta[down], found.value[down]
        state.gradient[kept], state.stuck[kept] = found.gradient[down], False
        values, vectors = decompose(found.hessian[down])
        state.memory["eigenvalues"][kept], state.memory["vectors"][kept] = values, vectors
        return down
