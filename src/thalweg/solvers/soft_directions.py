"""Where a candidate might escape to, and the walks that show whether it does."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thalweg.foundation import current_limit
from thalweg.objectives import Objective
from thalweg.solvers.local import NEAR
from thalweg.solvers.polish import Polished
from thalweg.solvers.ruling import Candidates
from thalweg.solvers.valley import Valley, walk

__all__ = ["directions", "roughly", "turns", "walk_in_groups"]

_FAR = 0.05
"""Far from a critical point, a direction is soft only where that point lies farther than this, relatively."""


def roughly(polished: Polished, small: Tensor, *, saddle: bool = False) -> Polished:
    """Where the gradient is not small yet, only the directions along which the critical point is far count as soft."""
    # far from the point the step foretells nothing about the eigenvalues there: what they are here is what counts
    here = replace(polished.model, drift=torch.zeros_like(polished.model.drift))
    _, _, far = here.newton_step(both_signs=saddle, near=_FAR)
    return replace(polished, soft=torch.where(small[:, None], polished.soft, far))


def directions(
    polished: Polished, given: Candidates, rows: list[int], *, saddle: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a row might escape: its own soft part, its Newton step, its trend; else its softest eigenvector.

    Returns:
        For m directions: the row of each ``(m,)``, unit vectors ``(m, P)``, and units of distance ``(m,)``.
    """
    model = polished.model
    step, _, _ = model.newton_step(both_signs=saddle)
    softest = model.eigenvalues.abs().argmin(-1) if saddle else torch.zeros_like(model.value, dtype=torch.int64)
    last = model.vectors.gather(-1, softest[:, None, None].expand(-1, model.vectors.shape[-1], 1)).squeeze(-1)
    onto = polished.soft
    trend = model.theta - given.anchor
    grew = (trend.norm(dim=-1) > 0.2 * model.theta.norm(dim=-1))[:, None]
    far = (step.norm(dim=-1) > NEAR * (1 + model.theta.abs().amax(-1)))[:, None]
    offers = [
        model.project(model.theta, onto),
        torch.where(far, model.project(step, onto), torch.zeros_like(step)),
        torch.where(grew, model.project(trend, onto), torch.zeros_like(trend)),
    ]
    owner, chosen, sizes = [], [], []
    for r in rows:
        unit = 1 + float(model.theta[r].abs().max())
        kept: list[Tensor] = []
        for vectors in (*offers, last):
            if vectors is last and kept:
                continue
            length = float(vectors[r].norm())
            direction = vectors[r] / max(length, 1e-300)
            fresh = all(abs(float(direction @ other)) < 0.9 for other in kept)
            if vectors is last or (length > 1e-6 * unit and fresh):
                kept.append(direction)
                owner.append(r)
                chosen.append(direction)
                sizes.append(max(abs(float(model.theta[r] @ direction)), 0.1 * unit))
    device = model.theta.device
    return (
        torch.tensor(owner, device=device),
        torch.stack(chosen),
        torch.tensor(sizes, dtype=model.theta.dtype, device=device),
    )


def turns(row: Tensor) -> list[Tensor]:
    """Numbers of the first direction of each row, then of the second of each that has one, and so on."""
    met: dict[int, int] = {}
    found: list[list[int]] = []
    for number, owner in enumerate(row.tolist()):
        rank = met.get(owner, 0)
        met[owner] = rank + 1
        found += [[]] if rank == len(found) else []
        found[rank].append(number)
    return [torch.tensor(numbers, device=row.device) for numbers in found]


def walk_in_groups(
    objective: Objective,
    polished: Polished,
    row: Tensor,
    direction: Tensor,
    size: Tensor,
    noise: Tensor,
    *,
    saddle: bool = False,
) -> list[Valley]:
    """Walk along as many directions at once as memory allows."""
    model, soft = polished.model, polished.soft
    one = 60 * model.theta.element_size() * model.theta.shape[-1] ** 2
    group = max(1, current_limit() // 2 // one)
    return [
        walk(objective, model, soft, row[part], direction[part], size[part], noise, saddle=saddle)
        for part in (slice(i, i + group) for i in range(0, len(row), group))
    ]
