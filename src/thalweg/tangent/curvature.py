"""Curvature of any objective as matrices known by their products, and the Jacobian of those that have outputs.

At a point theta with outputs f, the Hessian of a loss of outputs splits as ``H = J^T B J + R``: the Gauss-Newton
matrix, with B the Hessian of the loss in the outputs, and the residual part ``R = sum_i g_i Hess f_i``, with g the
loss's gradient in the outputs.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import LinearOperator
from thalweg.objectives import Capability, Objective, OutputObjective, require

__all__ = ["gauss_newton_operator", "hessian_operator", "jacobian", "jacobian_operator", "residual_operator"]


def hessian_operator(objective: Objective, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
    """The Hessian at one point, P x P; see `Objective.hessian_operator`.

    Args:
        objective: any objective.
        theta: ``(P,)``.
        keep: keep the linearised gradient in memory; None does so where it fits.

    Raises:
        MemoryLimitError: if ``keep=True`` does not fit.
        NotApplicableError: for an objective that cannot be differentiated twice.
    """
    return objective.hessian_operator(theta, keep=keep)


def gauss_newton_operator(
    objective: Objective, theta: Float[Tensor, " P"], *, keep: bool | None = None
) -> LinearOperator:
    """The Gauss-Newton matrix ``J^T B J`` at one point, P x P; see `Objective.gauss_newton_operator`.

    Raises:
        NotApplicableError: for an objective that has none.
    """
    require(objective, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
    return objective.gauss_newton_operator(theta, keep=keep)


def residual_operator(objective: Objective, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
    """What the Gauss-Newton matrix leaves of the Hessian, ``H - G = sum_i g_i Hess f_i``, P x P.

    It vanishes where the loss has no slope in the outputs, and carries all negative curvature of a loss convex in the
    outputs.

    Args:
        objective: one with a Gauss-Newton matrix.
        theta: ``(P,)``.
        keep: as for `hessian_operator`.

    Raises:
        NotApplicableError: for an objective that has none.

    >>> import torch
    >>> from thalweg.objectives import EmpiricalRisk
    >>> linear = EmpiricalRisk(torch.nn.Linear(2, 1), torch.nn.MSELoss(), torch.eye(2), torch.ones(2, 1))
    >>> residual = residual_operator(linear, linear.initial)  # a linear model has none
    >>> float(residual.dense().abs().max()) < 1e-15
    True
    """
    return hessian_operator(objective, theta, keep=keep) + (-1.0) * gauss_newton_operator(objective, theta, keep=keep)


def jacobian(objective: OutputObjective, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch NC P"]:
    """The dense Jacobian of the outputs; see `OutputObjective.jacobian`.

    Raises:
        NotApplicableError: for an objective without outputs.
        MemoryLimitError: if it would not fit.
    """
    require(objective, Capability.OUTPUTS, "the Jacobian")
    return objective.jacobian(theta)


def jacobian_operator(objective: OutputObjective, theta: Float[Tensor, " P"]) -> LinearOperator:
    """The Jacobian by its products, N*C x P; see `OutputObjective.jacobian_operator`.

    Raises:
        NotApplicableError: for an objective without outputs.
    """
    require(objective, Capability.OUTPUTS, "the Jacobian")
    return objective.jacobian_operator(theta)
