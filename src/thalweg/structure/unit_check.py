"""Groups of units held against numbers: a symmetry that changes the network's outputs is struck off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thalweg.structure.units import Symmetry, UnitGroup, find_groups

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["checked_groups"]

TOLERANCE = 1e-8
"""Largest change of an output under a symmetry, relative to the largest entry of that output."""


def checked_groups(structure: NetworkStructure) -> tuple[tuple[UnitGroup, ...], tuple[str, ...]]:
    """The groups of `find_groups` with the symmetries that hold numerically; and why other units are pinned."""
    groups, reasons = find_groups(structure)
    generator = torch.Generator().manual_seed(0)
    size = structure.frozen.square().mean().sqrt().clamp(min=0.1)
    theta = size * torch.randn(structure.space.size, generator=generator, dtype=torch.float64)
    expected = structure.outputs_at(theta, structure.example_inputs)

    def holds(changed: Tensor) -> bool:
        found = structure.outputs_at(changed, structure.example_inputs)
        return all(
            float((a - b).abs().max()) <= TOLERANCE * max(float(b.abs().max()), 1e-300)
            for a, b in zip(found, expected, strict=True) if a.numel()
        )  # fmt: skip

    checked: list[UnitGroup] = list(groups)
    for symmetry in ("permutation", "sign", "scaling", "mixing"):
        having = [g for g in checked if symmetry in g.symmetries]
        together = theta
        for group in having:
            together = _changed(group, symmetry, together, generator)
        if having and not holds(together):  # one of them fails: find out which
            failing = [g for g in having if not holds(_changed(g, symmetry, theta, generator))]
            reasons.extend(f"the units of {g.name!r} have no {symmetry} symmetry after all" for g in failing)
            checked = [replace(g, symmetries=g.symmetries - {symmetry}) if g in failing else g for g in checked]
    return tuple(checked), tuple(reasons)


def _changed(group: UnitGroup, symmetry: Symmetry, theta: Tensor, generator: torch.Generator) -> Tensor:
    """Theta moved by a random element of a symmetry."""
    m = group.size
    moves: dict[str, Callable[[], Tensor]] = {
        "permutation": lambda: group.permuted(theta, torch.randperm(m, generator=generator)),
        "sign": lambda: group.flipped(theta, 1.0 - 2.0 * torch.randint(0, 2, (m,), generator=generator)),
        "scaling": lambda: group.scaled(theta, 0.5 + torch.rand(m, generator=generator, dtype=torch.float64)),
        "mixing": lambda: group.mixed(
            theta, torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64)).Q
        ),
    }
    return moves[symmetry]()
