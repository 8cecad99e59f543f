"""How wrong a computed Hessian is: its rounding error, and how far the critical point that is meant may be.

Rounding errors of a network's passes act like relative changes of the parameters by units in the last place (backward
error). So the Hessian is computed once more with every coordinate moved by one such unit, up or down at random: the
difference holds both the sensitivity to such changes and the noise of the arithmetic, drawn anew. Errors that are the
same in both, as of a long sum of equal terms, do not show in it, and coordinates that are zero do not move; a quarter
of the rule `hessian_rounding` is therefore the least.

In float32, where the truth is known from float64, the result was 4 to 140 times the true error on twelve networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, progress_bar
from thalweg.objectives import Objective
from thalweg.tangent.inertia import hessian_rounding
from thalweg.tangent.lanczos import extreme_eigenpairs

__all__ = ["HessianError", "hessian_error"]

SAFETY = 4.0
"""The rounding error is taken this many times larger than the difference seen in one draw."""

SHIFT_SAFETY = 2.0
"""The change along a Newton step is taken this many times larger: the step ends near the critical point, not on it."""


@dataclass(frozen=True)
class HessianError:
    """Two parts of an error bar for `inertia`, both norms of a difference of matrices.

    Attributes:
        rounding: for ``inertia(error=)``.
        shift: for ``inertia(shift=)``; 0 where no step was given.
    """

    rounding: float
    shift: float


def hessian_error(
    objective: Objective,
    theta: Float[Tensor, " P"],
    hessian: Float[Tensor, "P P"],
    *,
    step: Float[Tensor, " P"] | None = None,
    seed: int | torch.Generator = 0,
) -> HessianError:
    """Measure the error of a computed Hessian, by one or two more Hessians.

    Args:
        objective: the objective.
        theta: ``(P,)``.
        hessian: its Hessian there, as computed.
        step: the Newton step ``(P,)`` from theta to the critical point that is meant; the Hessian's change along it,
            doubled, bounds the shift of the eigenvalues to first order.
        seed: of the directions of rounding.

    Raises:
        InvalidInputError: for a Hessian, theta or step of another size, and where the Hessian is not finite at one of
            the points: a step that leads out of the domain says nothing of a shift.
        MemoryLimitError: if another Hessian would not fit.

    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import Penalty
    >>> bowl = Penalty(ParameterSpace({"x": (3,)}), lambda p: p["x"].cosh().sum(), name="cosh")
    >>> theta = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    >>> error = hessian_error(bowl, theta, bowl.hessian(theta), step=-bowl.gradient(theta))
    >>> error.rounding < 1e-14, 0.01 < error.shift < 1
    (True, True)
    """
    size = objective.space.size
    if hessian.shape != (size, size):
        raise InvalidInputError(f"the Hessian has shape {tuple(hessian.shape)}, expected ({size}, {size})")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (size,), generator=generator) - 1
    unit = torch.finfo(objective.dtype).eps
    point = objective._single(theta)
    moved = point * (1 + unit * signs.to(point))
    least = hessian_rounding(hessian, objective.cost.samples) / 4
    rounding = max(SAFETY * _distance(objective.hessian(moved), hessian, "beside theta"), least)
    if step is None:
        return HessianError(rounding, 0.0)
    there = point + objective._single(step)
    return HessianError(rounding, SHIFT_SAFETY * _distance(objective.hessian(there), hessian, "at the end of the step"))


def _distance(left: Tensor, right: Tensor, where: str) -> float:
    """Spectral norm of the difference."""
    difference = (left - right.to(left)).double()
    if not bool(torch.isfinite(difference).all()):
        raise InvalidInputError(f"the Hessian at theta or {where} has entries that are NaN or infinite")
    if not bool(difference.any()):
        return 0.0
    largest = float(difference.abs().max())
    scaled = difference / largest  # differences may be tiny: keep them clear of underflow
    operator = LinearOperator(
        (len(scaled), len(scaled)), lambda v: scaled @ v, symmetric=True, dtype=scaled.dtype, device=scaled.device
    )
    with progress_bar("", show=False) as silent:  # whoever asks may be showing a bar already
        pairs = extreme_eigenpairs(operator, 1, 1, tolerance=0.05, dense_below=500, progress=silent)
    return largest * pairs.scale
