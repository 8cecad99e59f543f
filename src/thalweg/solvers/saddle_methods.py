"""Methods that go to critical points of any kind: Newton on the gradient, and eigenvector following."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.solvers.method import Method, State
from thalweg.solvers.minres import minres
from thalweg.solvers.newton import decompose, predict_memory
from thalweg.solvers.newton_cg import products_at
from thalweg.solvers.subproblem import trust_region_step
from thalweg.solvers.trials import Trials
from thalweg.solvers.watch import checkpoint

__all__ = ["EigenvectorFollowing", "IndexPreservingNewton", "NewtonMinres"]

_TRIALS = 12
_FORESEEN = 0.7
"""Above this share of the decrease foreseen, the Hessian described the whole step."""


@dataclass(frozen=True)
class IndexPreservingNewton(Method):
    """Newton's method on the gradient, with the dense Hessian: to a critical point near the start, of whatever kind.

    A step minimises ``|g + H p|`` inside a ball, so the norm of the gradient falls. A step that changes the number of
    negative eigenvalues is shortened, unless the gradient fell as foreseen: then the eigenvalues that changed sign are
    those of a nearly flat direction. Where `patience` shortenings do not help, a change of index is let through.

    Args:
        radius: of the first ball, in units of ``1 + |theta|``.
        patience: shortenings before the index may change.

    >>> IndexPreservingNewton().alias
    'index-preserving newton'
    """

    radius: float = 0.1
    patience: int = 4
    alias: ClassVar[str] = "index-preserving newton"
    max_iterations: ClassVar[int] = 500

    def __post_init__(self) -> None:
        if not (self.radius > 0 and self.patience >= 0):
            raise InvalidInputError(f"radius must be positive and patience not negative, got {self}")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Evaluate and decompose at the starting points."""
        return _dense_start(objective, theta, self.radius)

    def step(self, objective: Objective, state: State) -> State:
        """Trials until the gradient has fallen, and, with patience, the index has stayed."""
        values, vectors = state.memory["eigenvalues"], state.memory["vectors"]
        slopes = (vectors.mT @ state.gradient[:, :, None]).squeeze(-1)
        index = _count_negative(values)
        radius, trials = state.memory["radius"].clone(), Trials(state)
        tiny = torch.finfo(values.dtype).tiny
        unit = values.abs().amax(-1).clamp(min=tiny)  # of slopes and curvatures: their squares may leave the range
        merit = ((state.gradient / unit[:, None]) ** 2).sum(-1) / 2
        for attempt in range(_TRIALS):
            rows = trials.pending
            if not len(rows):
                break
            checkpoint()
            scale = unit[rows, None]
            move, predicted, boundary = _gradient_step(values[rows] / scale, slopes[rows] / scale, radius[rows])
            step = (vectors[rows] @ move[:, :, None]).squeeze(-1)
            gradient = objective.gradient(state.theta[rows] + step)
            ratio = (merit[rows] - ((gradient / scale) ** 2).sum(-1) / 2) / predicted.clamp(min=tiny)
            fine = (ratio > 1e-4) & torch.isfinite(gradient).all(-1)
            trials.count(rows)
            kept = trials.measure(objective, rows[fine], state.theta[rows[fine]] + step[fine])
            if attempt < self.patience:
                same = _count_negative(trials.eigenvalues[rows[fine]]) == index[rows[fine]]
                kept &= same | (ratio[fine] > _FORESEEN)
            accepted = fine.clone()
            accepted[fine] = kept
            length = step.norm(dim=-1)
            wider = accepted & (ratio > 0.75) & boundary
            grown = torch.where(wider, 2.5 * radius[rows], radius[rows])
            shrunk = torch.where(accepted, 0.5, 0.3).to(radius) * length
            radius[rows] = torch.where(accepted & (ratio > 0.25), grown, shrunk).clamp(min=tiny)
            trials.settle(rows[accepted])
        return trials.state(state, radius)


@dataclass(frozen=True)
class EigenvectorFollowing(Method):
    """Uphill along the lowest `index` eigenvectors, downhill along all others, to a critical point of that index.

    Along every mode the step is the shifted Newton step ``2 c / (|l| + sqrt(l^2 + 4 c^2))`` of slope c and curvature l
    (Cerjan and Miller 1981, in the form of Wales 1994), cut to a ball whose radius follows from how well the gradient
    was foreseen. From a point that is critical already, but of another index, it sets out along the modes of the wrong
    sign.

    Args:
        index: negative eigenvalues wanted.
        radius: of the first ball, in units of ``1 + |theta|``.

    >>> EigenvectorFollowing(2).index
    2
    """

    index: int
    radius: float = 0.05
    alias: ClassVar[str] = "eigenvector following"
    max_iterations: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        if not (self.index >= 0 and self.radius > 0):
            raise InvalidInputError(f"index must not be negative and radius must be positive, got {self}")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Evaluate and decompose at the starting points."""
        return _dense_start(objective, theta, self.radius)

    def step(self, objective: Objective, state: State) -> State:
        """Trials until the Hessian foresaw the gradient well enough."""
        values, vectors = state.memory["eigenvalues"], state.memory["vectors"]
        slopes = (vectors.mT @ state.gradient[:, :, None]).squeeze(-1)
        radius, trials = state.memory["radius"].clone(), Trials(state)
        for _ in range(_TRIALS):
            rows = trials.pending
            if not len(rows):
                break
            checkpoint()
            move = self._move(values[rows], slopes[rows], radius[rows])
            step = (vectors[rows] @ move[:, :, None]).squeeze(-1)
            foreseen = (vectors[rows] @ (slopes[rows] + values[rows] * move)[:, :, None]).squeeze(-1)
            trials.count(rows)
            fine = trials.measure(objective, rows, state.theta[rows] + step)
            scale = torch.maximum((foreseen - state.gradient[rows]).norm(dim=-1), state.gradient[rows].norm(dim=-1))
            error = (trials.gradient[rows] - foreseen).norm(dim=-1) / scale.clamp(min=torch.finfo(scale.dtype).tiny)
            accepted = fine & (error < 0.75)
            bound = step.norm(dim=-1) > 0.99 * radius[rows]
            change = torch.where(error < 0.25, torch.where(bound, 2.0, 1.0), torch.where(accepted, 0.7, 0.3)).to(radius)
            radius[rows] = change * torch.where(accepted, radius[rows], torch.minimum(radius[rows], step.norm(dim=-1)))
            trials.settle(rows[accepted])
        return trials.state(state, radius)

    def _move(self, values: Tensor, slopes: Tensor, radius: Tensor) -> Tensor:
        """The step in the eigenbasis."""
        size = values.shape[-1]
        sign = torch.where(torch.arange(size, device=values.device) < self.index, 1.0, -1.0).to(values)
        tiny = torch.finfo(values.dtype).tiny
        move = sign * 2 * slopes / (values.abs() + (values**2 + 4 * slopes**2).sqrt()).clamp(min=tiny)
        wrong = (values * sign > 0) & (values.abs() > _noise(values))
        asleep = wrong & (move.abs() < 1e-3 * radius[:, None])
        away = torch.where(move < 0, -1.0, 1.0).to(values) * 0.5 * radius[:, None]
        move = torch.where(asleep, away, move)
        length = move.norm(dim=-1, keepdim=True)
        return move * (radius[:, None] / length.clamp(min=tiny)).clamp(max=1)


@dataclass(frozen=True)
class NewtonMinres(Method):
    """Newton's method on the gradient for many parameters: MINRES on Hessian products, damped by the gradient's norm.

    It goes to a critical point near the start; whether the index stays cannot be seen without eigenvalues.

    Args:
        radius: longest first step, in units of ``1 + |theta|``.
        inner: products at most per iteration; None allows ``2 P``, at most 1000.

    >>> NewtonMinres().alias
    'newton-minres'
    """

    radius: float = 0.1
    inner: int | None = None
    alias: ClassVar[str] = "newton-minres"
    max_iterations: ClassVar[int] = 500

    def __post_init__(self) -> None:
        if not (self.radius > 0 and (self.inner is None or self.inner > 0)):
            raise InvalidInputError(f"radius and inner must be positive, got {self}")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Value and gradient at the starting points."""
        found = objective.evaluate(theta, 1)
        assert found.gradient is not None
        radius = self.radius * (1 + theta.norm(dim=-1))
        return State.fresh(theta, found.value, found.gradient, 0, radius=radius, first=found.gradient.norm(dim=-1))

    def step(self, objective: Objective, state: State) -> State:
        """One linear solve, then halvings until the gradient falls."""
        length = state.gradient.norm(dim=-1)
        exactness = length / state.memory["first"].clamp(min=torch.finfo(length.dtype).tiny)  # each row by its own
        limit = self.inner if self.inner is not None else min(2 * state.theta.shape[-1], 1000)
        product = products_at(objective, state.theta)
        full, _, products = minres(product, -state.gradient, tolerance=exactness.clamp(min=1e-10, max=0.1), limit=limit)
        radius, trials = state.memory["radius"].clone(), Trials(state)
        for _ in range(_TRIALS):
            rows = trials.pending
            if not len(rows):
                break
            checkpoint()
            size = full[rows].norm(dim=-1)
            share = (radius[rows] / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1)
            point = state.theta[rows] + share[:, None] * full[rows]
            found = objective.evaluate(point, 1)
            assert found.gradient is not None
            trials.count(rows)
            accepted = found.gradient.norm(dim=-1) < (1 - 1e-4 * share) * length[rows]
            foreseen = found.gradient.norm(dim=-1) < (1 - 0.7 * share) * length[rows]
            grown = torch.where(foreseen, 2.5 * radius[rows], radius[rows])
            radius[rows] = torch.where(accepted, grown, 0.4 * share * size)
            trials.keep(rows, accepted, point, found.value, found.gradient)
        result = trials.state(state, radius)
        memory = {"radius": radius, "first": state.memory["first"]}
        return State(
            result.theta,
            result.value,
            result.gradient,
            result.stuck,
            result.evaluations,
            state.hessians + products,
            memory,
        )


def _dense_start(objective: Objective, theta: Tensor, radius: float) -> State:
    predict_memory(objective, len(theta))
    found = objective.evaluate(theta, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    values, vectors = decompose(found.hessian)
    first = radius * (1 + theta.norm(dim=-1))
    return State.fresh(theta, found.value, found.gradient, 1, eigenvalues=values, vectors=vectors, radius=first)


def _gradient_step(values: Tensor, slopes: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise ``|slopes + values * p|^2 / 2`` in the ball: again a trust-region problem, with squared eigenvalues."""
    order = values.abs().argsort(dim=-1)
    curved, slope = values.gather(-1, order), slopes.gather(-1, order)
    found = trust_region_step(curved**2, curved * slope, radius)
    return torch.zeros_like(found.step).scatter(-1, order, found.step), found.predicted, found.boundary


def _noise(values: Tensor) -> Tensor:
    eps = torch.finfo(values.dtype).eps
    return eps * max(10, values.shape[-1]) * values.abs().amax(-1, keepdim=True)


def _count_negative(values: Tensor) -> Tensor:
    return (values < -_noise(values)).sum(-1)
