"""What a step would gain: predicted by a local model, then tried.

A prediction counts only after the loss was evaluated at the end of the step. Steps of many lengths are tried at once,
and of those whose prediction came true within `AGREEMENT` the one that gained most is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import LinearOperator, current_limit
from thalweg.inspection.groups import values_in_groups
from thalweg.inspection.records import Forecast
from thalweg.objectives import Objective
from thalweg.solvers.subproblem import trust_region_step

__all__ = ["AGREEMENT", "Candidates", "KrylovPath", "dense_candidates", "krylov_path", "line_candidates", "try_steps"]

AGREEMENT = 0.2
"""A prediction is verified when it misses the measured decrease by less than this fraction of it."""
RADII = 24
"""Trust radii tried, each half of the one before."""
VISIBLE = 64.0
"""A decrease below this many units of rounding of the value counts as none."""


@dataclass(frozen=True)
class Candidates:
    """Steps, made when they are asked for, and the decrease that a model predicts for each.

    Attributes:
        predicted: ``(k,)``.
        steps: from a range of numbers to those steps, ``(m, P)``.
    """

    predicted: Float[Tensor, " k"]
    steps: Callable[[slice], Tensor]


def try_steps(
    objective: Objective,
    theta: Float[Tensor, " P"],
    value: float,
    name: str,
    candidates: Candidates,
    remark: str = "",
) -> Forecast | None:
    """Evaluate the loss at the end of every candidate step and report the best one whose prediction came true.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        value: the loss there.
        name: for the report.
        candidates: steps and predictions.
        remark: for the report.

    Returns:
        None where no step lowers the loss visibly. Where steps gain but none as predicted, the best one, not verified.
    """
    predicted = candidates.predicted
    if not len(predicted):
        return None
    ends = values_in_groups(objective, len(predicted), lambda some: theta + candidates.steps(some))
    measured = torch.nan_to_num(value - ends, nan=-torch.inf, neginf=-torch.inf)
    gains = measured > VISIBLE * torch.finfo(theta.dtype).eps * abs(value)
    if not bool(gains.any()):
        return None
    honest = gains & ((predicted - measured).abs() <= AGREEMENT * measured)
    pool = honest if bool(honest.any()) else gains
    best = int(torch.where(pool, measured, torch.full_like(measured, -torch.inf)).argmax())
    step = candidates.steps(slice(best, best + 1))[0]
    length = float(step.norm())
    return Forecast(
        name=name,
        predicted=float(predicted[best]),
        measured=float(measured[best]),
        length=length,
        relative_length=length / max(float(theta.norm()), torch.finfo(theta.dtype).tiny),
        verified=bool(honest[best]),
        remark=remark,
        step=step,
    )


def dense_candidates(
    eigenvalues: Float[Tensor, " P"], vectors: Float[Tensor, "P P"], gradient: Float[Tensor, " P"], widest: float
) -> Candidates:
    """Exact trust-region steps of a quadratic model for radii from `widest` downwards."""
    radii = widest * 0.5 ** torch.arange(RADII, dtype=eigenvalues.dtype, device=eigenvalues.device)
    slopes = vectors.T @ gradient
    found = trust_region_step(eigenvalues.expand(RADII, -1), slopes.expand(RADII, -1), radii)
    steps = found.step @ vectors.T
    return Candidates(found.predicted, lambda some: steps[some])


def line_candidates(direction: Float[Tensor, " P"], slope: float, curvature: float, longest: float) -> Candidates:
    """Steps downhill along one direction, from `longest` downwards by halves.

    Args:
        direction: ``(P,)``.
        slope: gradient times direction.
        curvature: direction times Hessian times direction.
        longest: largest multiple of the direction.
    """
    t = longest * 0.5 ** torch.arange(RADII, dtype=direction.dtype, device=direction.device)
    t = -t if slope > 0 else t
    return Candidates(-(slope * t + curvature * t**2 / 2), lambda some: t[some, None] * direction)


@dataclass(frozen=True)
class KrylovPath:
    """Iterates of conjugate gradients on ``H p = -g`` and what they tell of the gradient's own spectrum.

    Attributes:
        candidates: every iterate, and shorter multiples of the last.
        ritz: ``(m,)``, Ritz values of the Krylov space of the gradient.
        weights: ``(m,)``, squared share of the gradient on each; they sum to its squared norm.
        negative: whether negative curvature was met, which ends the path.
    """

    candidates: Candidates
    ritz: Float[Tensor, " m"]
    weights: Float[Tensor, " m"]
    negative: bool


def krylov_path(
    operator: LinearOperator,
    gradient: Float[Tensor, " P"],
    iterations: int,
    longest: float,
    stop: Callable[[], bool] = lambda: False,
) -> KrylovPath:
    """Run conjugate gradients from zero and keep the iterates; each minimises the model on its Krylov space.

    Args:
        operator: the model's matrix.
        gradient: ``(P,)``.
        iterations: at most this many products; fewer where not all iterates fit into a quarter of `current_limit`.
        longest: length of the step along negative curvature, where it is met.
        stop: asked before each product.
    """
    iterations = min(iterations, max(1, current_limit() // 4 // (gradient.numel() * gradient.element_size())))
    step, image = torch.zeros_like(gradient), torch.zeros_like(gradient)
    residual, direction = gradient.clone(), -gradient
    square = float(residual @ residual)
    steps, predicted = [], []
    alphas: list[float] = []
    betas: list[float] = []
    negative = False
    for _ in range(iterations):
        if stop() or square <= (torch.finfo(gradient.dtype).eps * float(gradient.norm())) ** 2:
            break
        product = operator @ direction
        bend = float(direction @ product)
        if bend <= 0:
            negative = True
            far = longest / float(direction.norm())
            step, image = step + far * direction, image + far * product
        else:
            length = square / bend
            alphas.append(length)
            step, image = step + length * direction, image + length * product
        steps.append(step)
        predicted.append(-(gradient @ step) - step @ image / 2)
        if negative:
            break
        residual = residual + (square / bend) * product
        new = float(residual @ residual)
        betas.append(new / square)
        direction = -residual + (new / square) * direction
        square = new
    ritz, weights = _gradient_spectrum(alphas, betas, gradient)
    return KrylovPath(_with_shorter(steps, predicted, gradient, step, image), ritz, weights, negative)


def _with_shorter(
    steps: list[Tensor], predicted: list[Tensor], gradient: Tensor, last: Tensor, image: Tensor
) -> Candidates:
    """The iterates, then halves, quarters, ... of the last."""
    if not steps:
        return Candidates(gradient.new_zeros(0), lambda _: gradient.new_zeros(0, len(gradient)))
    factors = [1.0] * len(steps) + [0.5**k for k in range(1, 13)]
    rows = steps + [last] * 12
    shorter = torch.tensor(factors[len(steps) :], dtype=gradient.dtype, device=gradient.device)
    more = -((gradient @ last) * shorter + (last @ image) * shorter**2 / 2)

    def some_of(some: slice) -> Tensor:
        return torch.stack([factor * row for factor, row in zip(factors[some], rows[some], strict=True)])

    return Candidates(torch.cat([torch.stack(predicted), more]), some_of)


def _gradient_spectrum(alphas: list[float], betas: list[float], gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Lanczos matrix of the Krylov space from the coefficients of conjugate gradients (Golub & Van Loan, 11.3)."""
    m = len(alphas)
    if m == 0:
        return gradient.new_zeros(0), gradient.new_zeros(0)
    matrix = torch.zeros(m, m, dtype=torch.float64)
    for k in range(m):
        matrix[k, k] = 1 / alphas[k] + (betas[k - 1] / alphas[k - 1] if k else 0.0)
        if k + 1 < m:
            matrix[k, k + 1] = matrix[k + 1, k] = betas[k] ** 0.5 / alphas[k]
    values, vectors = torch.linalg.eigh(matrix)
    return values, float(gradient @ gradient) * vectors[0] ** 2
