"""Units that a network could do without, and what they leave flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.structure.duplicates import TOLERANCE
from thalweg.structure.flat_directions import FlatDirection, axes
from thalweg.structure.unit_ranges import UnitRange, known_ranges
from thalweg.structure.units import UnitGroup

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["dead_unit_directions"]


def dead_unit_directions(
    structure: NetworkStructure, theta: Float[Tensor, " P"], inputs: Any = None, tolerance: float = TOLERANCE
) -> list[FlatDirection]:
    """Directions that units without effect leave flat.

    A unit whose outgoing weights are all zero has free incoming weights; a unit whose value is zero on all inputs
    has free outgoing weights; and if moreover its weighted sums lie strictly inside the interval where its activation
    is constant, its incoming weights are free as long as they stay there.

    Args:
        structure: of the network.
        theta: one parameter vector.
        inputs: all inputs, or what `unit_ranges` found on them; None looks for zero outgoing weights only.
        tolerance: outgoing weights below this part of the group's largest count as zero. Values of units must be
            exactly 0.
    """
    theta = structure.one_theta(theta)
    found: list[FlatDirection] = []
    groups = [group for group in structure.unit_groups if not group.frozen and group.outgoing.shape[1]]
    silent = {group.name: _silent(group, theta, tolerance) for group in groups}
    for group in groups:
        found.extend(_free_incoming(structure, group, silent[group.name]))
    if inputs is None or not groups:
        return found
    for reach in known_ranges(structure, theta, inputs):
        if reach.group.name in silent:
            found.extend(_dead(structure, reach, silent[reach.group.name]))
    return found


def _silent(group: UnitGroup, theta: Tensor, tolerance: float) -> Tensor:
    sizes = theta[group.outgoing].abs().amax(1)
    return sizes <= tolerance * float(sizes.max())


def _free_incoming(structure: NetworkStructure, group: UnitGroup, which: Tensor) -> Iterator[FlatDirection]:
    for unit in which.nonzero().reshape(-1).tolist():
        inside = torch.cat([group.incoming[unit], group.bias[unit], group.scale[unit]]).tolist()
        free = sorted(set(inside) - set(group.outgoing[unit].tolist()))
        text = f"unit {unit} of {group.name!r} has no outgoing weights"
        yield from axes("silent unit", text, structure.space.size, free)


def _dead(structure: NetworkStructure, reach: UnitRange, silent: Tensor) -> Iterator[FlatDirection]:
    group = reach.group
    asleep = reach.always_zero & _inside_constant_piece(reach)
    for unit in reach.always_zero.nonzero().reshape(-1).tolist():
        text = f"unit {unit} of {group.name!r} is zero on all inputs"
        yield from axes("dead unit", text, structure.space.size, group.outgoing[unit].tolist())
        if bool(asleep[unit]) and not bool(silent[unit]):
            inside = [*group.incoming[unit].tolist(), *group.bias[unit].tolist()]
            yield from axes("dead unit", text, structure.space.size, inside, "segment")


def _inside_constant_piece(reach: UnitRange) -> Tensor:
    """Whether all weighted sums of each unit lie strictly where its one activation is constant."""
    group = reach.group
    piece = group.activations[0].constant_on if group.plain and len(group.activations) == 1 else None
    if piece is None:
        return torch.zeros(group.size, dtype=torch.bool)
    return (reach.low > piece[0]) & (reach.high < piece[1])
