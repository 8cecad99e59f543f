"""The spectrum of the Hessian: all of it where it fits, both ends where it does not."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Progress, RunControl
from thalweg.inspection.records import Curvature, FlatGroup, Layer, Point
from thalweg.objectives import Objective
from thalweg.tangent import RayleighQuotient, extreme_eigenpairs, inertia

__all__ = ["DENSE_BELOW", "PRODUCTS", "add_block_curvature", "dense_curvature", "extreme_curvature", "hessian_shift"]

DENSE_BELOW = 3000
"""Up to this many parameters the Hessian is formed and diagonalised."""
PRODUCTS = 160
"""Hessian products spent on both ends of a larger spectrum, unless a budget says otherwise."""
PAIRS = 4
"""Eigenpairs sought at each end."""
FAR = 1e-10
"""A shift beyond this part of the largest eigenvalue is more than the rounding of a gradient explains: what lies within
it may be small as well as zero."""


def dense_curvature(
    objective: Objective,
    theta: Float[Tensor, " P"],
    samples: int,
    *,
    hessian: Float[Tensor, "P P"] | None = None,
    shift: float = 0.0,
    flat: Sequence[FlatGroup] = (),
) -> tuple[Curvature, Float[Tensor, "P P"]]:
    """All eigenvalues, counted by sign with an error bar.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        samples: number the loss sums over, for the rounding of the Hessian.
        hessian: where it was computed before.
        shift: how far the Hessian at the critical point meant may differ in norm. Beyond `FAR` no eigenvalue counts as
            zero for being small here: only flat directions explain zeros then.
        flat: directions found not to change the loss.

    Returns:
        The curvature, and the Hessian itself.
    """
    matrix = objective.hessian(theta) if hessian is None else hessian
    values, vectors = torch.linalg.eigh(matrix)
    spanned = torch.cat([group.directions for group in flat], dim=1) if flat else None
    counts = inertia(matrix, samples=max(1, samples), shift=shift, flat=spanned)
    scale = float(values.abs().max())
    if shift > FAR * scale:
        counts = inertia(matrix, samples=max(1, samples), shift=shift, flat=spanned, infer_zeros=False)
    unit = torch.finfo(values.dtype).eps / 2
    lowest = RayleighQuotient(
        value=float(values[0]),
        residual=float((matrix @ vectors[:, 0] - values[0] * vectors[:, 0]).norm()),
        rounding=max(10 * unit * len(theta) ** 0.5 * scale, counts.error.hessian),
    )
    found = Curvature(
        dense=True,
        highest=float(values[-1]),
        lowest=lowest,
        eigenvalues=values,
        inertia=counts,
        pairs=None,
        vectors=vectors,
        products=len(theta),
    )
    return found, matrix


def extreme_curvature(
    objective: Objective,
    theta: Float[Tensor, " P"],
    *,
    seed: int,
    control: RunControl,
    progress: Progress | None,
) -> Curvature | None:
    """Both ends of the spectrum by products, in at most half of the time left.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        seed: of the starting vector.
        control: time budget and stop event.
        progress: told the products used.

    Returns:
        None where it was stopped before the first product.
    """
    pairs = extreme_eigenpairs(
        objective.hessian_operator(theta),
        smallest=PAIRS,
        largest=PAIRS,
        max_products=_affordable_products(objective, theta, control),
        dense_below=0,
        seed=seed,
        control=control,
        progress=progress,
    )
    if len(pairs.values) == 0:
        return None
    return Curvature(
        dense=False,
        highest=float(pairs.values[-1]),
        lowest=pairs.lowest,
        eigenvalues=pairs.values,
        inertia=None,
        pairs=pairs,
        vectors=pairs.vectors,
        products=pairs.products,
    )


def _affordable_products(objective: Objective, theta: Tensor, control: RunControl) -> int:
    """Products that half of the time left pays for."""
    if control.budget is None:
        return PRODUCTS
    started = time.monotonic()
    objective.hessian_product(theta, theta)
    each = max(time.monotonic() - started, 1e-6)
    return int(max(8, min(PRODUCTS, control.remaining() / 2 / each)))


def hessian_shift(
    objective: Objective,
    theta: Float[Tensor, " P"],
    point: Point,
    curvature: Curvature,
    hessian: Float[Tensor, "P P"],
) -> float:
    """How much the Hessian may change on the way to the critical point that a Newton step points at, in norm.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        point: the gradient there.
        curvature: all eigenvalues.
        hessian: at theta.

    Returns:
        Twice the change from here to the end of the step; beyond all bounds where it is not finite.
    """
    values, vectors = curvature.eigenvalues, curvature.vectors
    slopes = vectors.T @ point.gradient
    firm = values.abs() > 1e-9 * curvature.scale
    step = vectors @ torch.where(firm, -slopes / torch.where(firm, values, torch.ones_like(values)), 0 * slopes)
    if not bool(step.any()):
        return 0.0
    change = objective.hessian(theta + step) - hessian
    if not bool(torch.isfinite(change).all()):
        return sys.float_info.max / 4
    return 2 * float(torch.linalg.matrix_norm(change, ord=2))


def add_block_curvature(point: Point, objective: Objective, hessian: Float[Tensor, "P P"]) -> Point:
    """The same point with the mean curvature of every block."""
    diagonal = hessian.diagonal()
    layers: list[Layer] = [
        replace(layer, curvature=float(diagonal[objective.space.slice(layer.name)].mean())) for layer in point.layers
    ]
    return replace(point, layers=tuple(layers))
