"""Trust-region Newton with the exact dense Hessian, and Levenberg-Marquardt with the Gauss-Newton matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, require_memory
from thalweg.objectives import Capability, Evaluation, Objective, require
from thalweg.solvers.method import Method, State
from thalweg.solvers.subproblem import trust_region_step
from thalweg.solvers.trust import Advance, Proposal, advance

__all__ = ["LevenbergMarquardt", "NewtonTrustRegion", "decompose", "predict_memory"]

_STEEPER = 30.0
"""Directions this many times more curved than the step itself lie across the valley that the step follows."""


@dataclass(frozen=True)
class NewtonTrustRegion(Method):
    """Newton's method with the exact Hessian in a ball of trust (Moré and Sorensen 1983), all starts in one batch.

    Each iteration takes one Hessian and one eigendecomposition per start; a rejected step costs one value, since the
    decomposition serves for every radius. Negative curvature is used, saddles are left (hard case included), and the
    last steps are pure Newton steps.

    Args:
        radius: of the first ball, in units of ``1 + |theta|``; ten steps of steepest descent where that is less.
        widest: no step is longer than this.

    >>> NewtonTrustRegion().alias
    'newton'
    """

    radius: float = 0.5
    widest: float = 1e10
    alias: ClassVar[str] = "newton"
    max_iterations: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        _positive(self)

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Evaluate and decompose at the starting points."""
        predict_memory(objective, len(theta))
        found = objective.evaluate(theta, 2)
        return _first(theta, found, self.radius)

    def step(self, objective: Objective, state: State) -> State:
        """One Hessian, one eigendecomposition, as many trials as it takes."""
        values, vectors = state.memory["eigenvalues"], state.memory["vectors"]
        slopes = (vectors.mT @ state.gradient[:, :, None]).squeeze(-1)

        def propose(rows: Tensor, radius: Tensor) -> Proposal:
            return _proposal(_some(values, rows), _some(vectors, rows), _some(slopes, rows), radius)

        tried = advance(objective, state, state.memory["radius"], propose, widest=self.widest)
        return _moved(objective, state, tried)


@dataclass(frozen=True)
class LevenbergMarquardt(Method):
    """Gauss-Newton with damping adapted through a ball of trust (Levenberg 1944, Marquardt 1963, Moré 1978).

    The matrix is ``J^T B J`` with B the Hessian of the loss in the outputs: for squared error the classical method, for
    other losses of outputs, such as cross-entropy, its generalised form (Schraudolph 2002). Negative curvature, which
    comes with a loss that is not convex in the outputs, counts as none. Parameters are scaled by the largest diagonal
    seen. Where residuals are large it converges linearly, and the Newton steps that end every search do the rest.

    Args:
        radius: of the first ball, in units of the scaled ``1 + |theta|``.
        widest: no scaled step is longer than this.

    >>> LevenbergMarquardt().alias
    'lm'
    """

    radius: float = 0.5
    widest: float = 1e12
    alias: ClassVar[str] = "lm"
    max_iterations: ClassVar[int] = 2000
    hands_over: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        _positive(self)

    def check(self, objective: Objective) -> None:
        """Needs the capability GAUSS_NEWTON."""
        require(objective, Capability.GAUSS_NEWTON, "Levenberg-Marquardt")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Evaluate at the starting points."""
        predict_memory(objective, len(theta))
        found = objective.evaluate(theta, 1)
        matrix = objective.gauss_newton(theta)
        scale = _diagonal_scale(matrix)
        assert found.gradient is not None
        values, vectors = decompose(matrix / scale[:, :, None] / scale[:, None, :])
        radius = self.radius * (1 + (theta * scale).norm(dim=-1))
        return State.fresh(
            theta, found.value, found.gradient, 1, eigenvalues=values, vectors=vectors, radius=radius, scale=scale
        )

    def step(self, objective: Objective, state: State) -> State:
        """One Gauss-Newton matrix, one eigendecomposition, as many trials as it takes."""
        memory = state.memory
        values, vectors, scale = memory["eigenvalues"], memory["vectors"], memory["scale"]
        slopes = (vectors.mT @ (state.gradient / scale)[:, :, None]).squeeze(-1)

        def propose(rows: Tensor, radius: Tensor) -> Proposal:
            own = _some(vectors, rows), _some(slopes, rows)
            return _proposal(_some(values, rows).clamp(min=0), *own, radius, _some(scale, rows))

        tried = advance(objective, state, memory["radius"], propose, widest=self.widest, scale=scale)
        rows = tried.moved.nonzero().squeeze(-1)
        value, gradient = state.value.clone(), state.gradient.clone()
        values, vectors, scale = values.clone(), vectors.clone(), scale.clone()
        if len(rows):
            found = objective.evaluate(tried.theta[rows], 1)
            assert found.gradient is not None
            value[rows], gradient[rows] = found.value, found.gradient
            matrix = objective.gauss_newton(tried.theta[rows])
            scale[rows] = torch.maximum(scale[rows], _diagonal_scale(matrix))
            scaled = matrix / scale[rows][:, :, None] / scale[rows][:, None, :]
            values[rows], vectors[rows] = decompose(scaled)
        return State(
            theta=tried.theta,
            value=value,
            gradient=gradient,
            stuck=~tried.moved,
            evaluations=state.evaluations + tried.evaluations + tried.moved,
            hessians=state.hessians + tried.moved,
            memory={"eigenvalues": values, "vectors": vectors, "radius": tried.radius, "scale": scale},
        )


def _positive(method: NewtonTrustRegion | LevenbergMarquardt) -> None:
    if not (method.radius > 0 and method.widest > 0):
        raise InvalidInputError(f"radius and widest must be positive, got {method.radius} and {method.widest}")


def predict_memory(objective: Objective, starts: int) -> None:
    """A matrix, its eigenvectors and the working copies of both, for every start: ten at the peak, as measured."""
    size = objective.space.size
    item = torch.empty((), dtype=objective.dtype).element_size()
    require_memory(
        10 * starts * size**2 * item,
        f"dense curvature of {starts} start(s) in {size} dimensions",
        "Use method='newton-cg' or 'l-bfgs', or fewer starts at once.",
    )


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues and eigenvectors; a matrix that is not finite counts as the unit matrix."""
    healthy = torch.isfinite(matrix).all(-1).all(-1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    values, vectors = torch.linalg.eigh(torch.where(healthy[:, None, None], matrix, identity))
    return values, vectors


def _proposal(values: Tensor, vectors: Tensor, slopes: Tensor, radius: Tensor, scale: Tensor | None = None) -> Proposal:
    """The minimiser of the model in the ball, and how to take back what the model did not foresee."""
    found = trust_region_step(values, slopes, radius)
    units = torch.ones_like(slopes) if scale is None else scale
    # only across the valley: along its floor, a share of the wall's slope over a small curvature would undo the step
    # itself
    along = (found.shifted * found.step**2).sum(-1) / (found.step**2).sum(-1)
    across = found.shifted > _STEEPER * along[:, None]

    def correct(rows: Tensor, gradient: Tensor) -> Tensor:
        actual = _turned(vectors.mT, rows, gradient / units[rows])
        foreseen = slopes[rows] + values[rows] * found.step[rows]
        back = torch.where(across[rows], (foreseen - actual) / found.shifted[rows], torch.zeros_like(actual))
        return _turned(vectors, rows, back) / units[rows]

    step = (vectors @ found.step[:, :, None]).squeeze(-1) / units
    return Proposal(step, found.predicted, found.boundary, correct)


def _some(batch: Tensor, rows: Tensor) -> Tensor:
    """Rows in ascending order; not copied where they are all."""
    return batch if len(rows) == len(batch) else batch[rows]


def _turned(matrices: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
    """Some of the matrices times a vector each; reading most of them twice costs less than copying many."""
    if 2 * len(rows) < len(matrices):
        return (matrices[rows] @ vectors[:, :, None]).squeeze(-1)
    every = vectors.new_zeros(len(matrices), vectors.shape[1])
    every[rows] = vectors
    return (matrices @ every[:, :, None]).squeeze(-1)[rows]


def _diagonal_scale(matrix: Tensor) -> Tensor:
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    largest = diagonal.amax(-1, keepdim=True)
    return torch.where(largest > 0, diagonal.clamp(min=1e-6 * largest), torch.ones_like(diagonal))


def _first(theta: Tensor, found: Evaluation, radius: float) -> State:
    assert found.gradient is not None
    assert found.hessian is not None
    values, vectors = decompose(found.hessian)
    slopes = (vectors.mT @ found.gradient[:, :, None]).squeeze(-1)
    length = found.gradient.norm(dim=-1)
    shares = slopes / length.clamp(min=torch.finfo(theta.dtype).tiny)[:, None]  # slopes alone may overflow when squared
    # ten steps of steepest descent: near a minimum the first steps stay near, where a flat direction would lead away
    descent = length / (values.abs() * shares**2).sum(-1).clamp(min=torch.finfo(theta.dtype).tiny)
    widest = radius * (1 + theta.norm(dim=-1))
    first = torch.minimum(widest, (10 * descent).clamp(min=1e-3 * widest))
    return State.fresh(theta, found.value, found.gradient, 1, eigenvalues=values, vectors=vectors, radius=first)


def _moved(objective: Objective, state: State, tried: Advance) -> State:
    """Evaluate to second order where a step was taken; keep the rest."""
    rows = tried.moved.nonzero().squeeze(-1)
    value, gradient = state.value.clone(), state.gradient.clone()
    values, vectors = state.memory["eigenvalues"], state.memory["vectors"]
    if len(rows):
        found = objective.evaluate(tried.theta[rows], 2)
        assert found.gradient is not None
        assert found.hessian is not None
        value[rows], gradient[rows] = found.value, found.gradient
        new_values, new_vectors = decompose(found.hessian)
        if len(rows) == len(value):
            values, vectors = new_values, new_vectors
        else:
            values, vectors = values.clone(), vectors.clone()
            values[rows], vectors[rows] = new_values, new_vectors
    return State(
        theta=tried.theta,
        value=value,
        gradient=gradient,
        stuck=~tried.moved,
        evaluations=state.evaluations + tried.evaluations + tried.moved,
        hessians=state.hessians + tried.moved,
        memory={"eigenvalues": values, "vectors": vectors, "radius": tried.radius},
    )
