"""Units that are linear, always or on the data at hand, and what they leave flat.

Linear units can be mixed; a ReLU unit (leaky ReLU, absolute value) whose weighted sums never change sign on the data is
a linear unit there. Where the weights out of linear units are linearly dependent, the weights into them are free along
the dependence, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.structure.duplicates import TOLERANCE
from thalweg.structure.flat_directions import Extent, FlatDirection
from thalweg.structure.unit_ranges import UnitRange, known_ranges
from thalweg.structure.units import UnitGroup

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["dependent_unit_directions", "one_sided_unit_directions"]


@dataclass(frozen=True, eq=False)
class _Linear:
    """Units of a group with value ``slope * weighted sum``.

    Attributes:
        group: where they are.
        units: their numbers, ``(u,)``.
        slopes: ``(u,)``.
        extent: how far a straight move keeps them linear.
    """

    group: UnitGroup
    units: Tensor
    slopes: Tensor
    extent: Extent

    @property
    def inside(self) -> Tensor:
        """Coordinates of incoming weights and biases, ``(u, d + b)``."""
        return torch.cat([self.group.incoming, self.group.bias], 1)[self.units]

    @property
    def outside(self) -> Tensor:
        """Coordinates of outgoing weights, ``(u, k)``."""
        return self.group.outgoing[self.units]


def one_sided_unit_directions(
    structure: NetworkStructure, theta: Float[Tensor, " P"], inputs: Any
) -> list[FlatDirection]:
    """Directions left flat by units whose weighted sums never change sign on the data.

    The bias of such a unit can be traded for the biases of the next layer, and two of them can be mixed.

    Args:
        structure: of the network.
        theta: one parameter vector.
        inputs: all inputs, or what `unit_ranges` found on them.
    """
    theta = structure.one_theta(theta)
    return [
        direction
        for linear in _one_sided(structure, theta, inputs)
        for direction in (*_traded(structure, linear, theta), *_mixed(structure, linear, theta))
    ]


def dependent_unit_directions(
    structure: NetworkStructure, theta: Float[Tensor, " P"], inputs: Any = None, tolerance: float = TOLERANCE
) -> list[FlatDirection]:
    """Directions left flat by linear dependences between the weights of linear units.

    If some combination of the outgoing weights of linear units vanishes, each incoming weight can be moved along it
    (more linear units than outputs always have such combinations); if one of the incoming weights vanishes, each
    outgoing weight can. In a deep linear network only dependences inside one layer are found, not those of products
    of layers.

    Args:
        structure: of the network.
        theta: one parameter vector.
        inputs: all inputs, or what `unit_ranges` found on them; None looks at units that are linear everywhere only.
        tolerance: singular values of a table of weights below this part of the largest count as zero.
    """
    theta = structure.one_theta(theta)
    linear = [
        _Linear(group, torch.arange(group.size), torch.ones(group.size, dtype=torch.float64), "line")
        for group in structure.unit_groups
        if "mixing" in group.symmetries
    ]
    if inputs is not None:
        linear += _one_sided(structure, theta, inputs)
    return [direction for some in linear for direction in _dependent(structure, some, theta, tolerance)]


# -- which units are linear --------------------------------------------------------------------------------------------


def _one_sided(structure: NetworkStructure, theta: Tensor, inputs: Any) -> list[_Linear]:
    able = {group.name for group in structure.unit_groups if _has_one_corner(structure, group)}
    found = []
    for reach in known_ranges(structure, theta, inputs) if able else ():
        if reach.group.name in able:
            slopes = _slopes(reach)
            units = slopes.nonzero().reshape(-1)
            found.append(_Linear(reach.group, units, slopes[units], "segment"))
    return found


def _has_one_corner(structure: NetworkStructure, group: UnitGroup) -> bool:
    """Plain units with an activation that is linear on each side of zero, read once by each of some dense layers."""
    corner = group.plain and len(group.layers) == len(group.activations) == 1 and not group.frozen
    if not corner or group.activations[0].homogeneity != 1 or group.activations[0].kinks != (0.0,):
        return False
    readers = [structure.steps[reader] for reader in group.readers]
    once = all(places.shape[1] == 1 for places in group.read_at)
    return once and all(reader.kind == "dense" for reader in readers)


def _slopes(reach: UnitRange) -> Tensor:
    """The slope of each unit on the data, zero where it has several (or is zero)."""
    side = torch.where(reach.low > 0, 1.0, torch.where(reach.high < 0, -1.0, 0.0)).to(torch.float64)
    return torch.where(side == 0, 0.0, reach.group.activations[0].derivative(side))


# -- what they leave flat ----------------------------------------------------------------------------------------------


def _traded(structure: NetworkStructure, linear: _Linear, theta: Tensor) -> Iterator[FlatDirection]:
    """A larger bias of the unit, smaller biases of what reads it."""
    biases = _reader_biases(structure, linear.group)
    if biases is None or linear.group.bias.shape[1] != 1:
        return
    for unit, slope in zip(linear.units.tolist(), linear.slopes, strict=True):
        coordinates = torch.cat([linear.group.bias[unit], biases])
        values = torch.cat([torch.ones(1), -slope * theta[linear.group.outgoing[unit]]])
        yield FlatDirection("one-sided unit", _text(linear, unit), structure.space.size, coordinates, values, "segment")


def _mixed(structure: NetworkStructure, linear: _Linear, theta: Tensor) -> Iterator[FlatDirection]:
    inside, outside, slopes = linear.inside, linear.outside, linear.slopes
    names: Sequence[int] = linear.units.tolist()
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            coordinates = torch.cat([inside[i], outside[j]])
            values = torch.cat([theta[inside[j]], -slopes[i] / slopes[j] * theta[outside[i]]])
            if i != j and bool(values.any()):
                text = f"{_text(linear, one)}, and so is unit {other}"
                yield FlatDirection("one-sided unit", text, structure.space.size, coordinates, values, "curve")


def _text(linear: _Linear, unit: int) -> str:
    return f"unit {unit} of {linear.group.name!r} is on one side of its kink on all inputs"


def _reader_biases(structure: NetworkStructure, group: UnitGroup) -> Tensor | None:
    """Coordinates of the readers' biases in the order of the outgoing weights; None unless all have one in theta."""
    found = []
    for reader in group.readers:
        bias = structure.steps[reader].bias
        if bias is None or bias.kind == "computed":
            return None
        found.append(structure.coordinates(bias))
    together = torch.cat(found)
    return together if bool((together >= 0).all()) else None


def _dependent(
    structure: NetworkStructure, linear: _Linear, theta: Tensor, tolerance: float
) -> Iterator[FlatDirection]:
    if len(linear.units) < 2:
        return
    size, name = structure.space.size, linear.group.name
    for vector in _vanishing(theta[linear.outside] * linear.slopes.unsqueeze(1), tolerance):
        text = f"weights out of linear units of {name!r} are dependent"
        for column in linear.inside.T:
            yield FlatDirection("dependent linear units", text, size, column, vector, linear.extent)
    for vector in _vanishing(theta[linear.inside] * linear.slopes.unsqueeze(1), tolerance):
        text = f"weights into linear units of {name!r} are dependent"
        for column in linear.outside.T:
            yield FlatDirection("dependent linear units", text, size, column, vector, "line")


def _vanishing(table: Tensor, tolerance: float) -> Tensor:
    """Orthonormal combinations of the rows that vanish, as rows."""
    left, lengths, _ = torch.linalg.svd(table, full_matrices=True)
    rank = int((lengths > tolerance * lengths[0]).sum()) if len(lengths) and float(lengths[0]) > 0 else 0
    return left.T[rank:]
