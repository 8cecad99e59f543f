"""The spectrum of the Hessian: all of it where it fits, both ends where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Progress, RunControl
from thalweg.inspection.records import Curvature, FlatGroup, Layer, Point
from thalweg.objectives import Objective
from thalweg.tangent import RayleighQuotient, extreme_eigenpairs, inertia

__all__ = ["DENSE_BELOW", "PRODUCTS", "add_block_curvature", "dense_curvature", "extreme_curvature"]

DENSE_BELOW = 3000
"""Up to this many parameters the Hessian is formed and diagonalised."""
PRODUCTS = 160
"""Hessian products spent on both ends of a larger spectrum, unless a budget says otherwise."""
PAIRS = 4
"""Eigenpairs sought at each end."""


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
        shift: how far the Hessian at the critical point meant may differ in norm.
        flat: directions found not to change the loss.

    Returns:
        The curvature, and the Hessian itself.
    """
    matrix = objective.hessian(theta) if hessian is None else hessian
    values, vectors = torch.linalg.eigh(matrix)
    spanned = torch.cat([group.directions for group in flat], dim=1) if flat else None
    counts = inertia(matrix, samples=max(1, samples), shift=shift, flat=spanned)
    scale = float(values.abs().max())
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
    products: int,
    seed: int,
    control: RunControl,
    progress: Progress | None,
) -> Curvature | None:
    """Both ends of the spectrum by products; None where it was stopped before the first one."""
    pairs = extreme_eigenpairs(
        objective.hessian_operator(theta),
        smallest=PAIRS,
        largest=PAIRS,
        max_products=products,
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


def add_block_curvature(point: Point, objective: Objective, hessian: Float[Tensor, "P P"]) -> Point:
    """The same point with the mean curvature of every block."""
    diagonal = hessian.diagonal()
    layers: list[Layer] = [
        replace(layer, curvature=float(diagonal[objective.space.slice(layer.name)].mean())) for layer in point.layers
    ]
    return replace(point, layers=tuple(layers))
