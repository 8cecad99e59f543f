"""Directions in theta along which the network's function does not change, each with its reason.

Named explanations of zero eigenvalues: continuous symmetries (rescaled ReLU units, mixed linear units), units that are
duplicates of one another or dead, inputs that are never used, and the shift that a softmax ignores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, require_memory
from thalweg.structure.units import UnitGroup

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = [
    "Extent",
    "FlatDirection",
    "output_shifts",
    "span_basis",
    "stack_directions",
    "symmetry_tangents",
    "unused_parameters",
]

Extent = Literal["line", "segment", "curve"]


@dataclass(frozen=True, eq=False)
class FlatDirection:
    """One direction in theta along which the outputs on the given inputs stay as they are.

    Attributes:
        kind: the reason in a word or two, the same for all directions of a kind.
        description: the reason in a sentence.
        size: number P of coordinates of theta.
        coordinates: ``(k,)`` where the direction is not zero.
        values: ``(k,)`` its entries there; together they have length 1.
        extent: ``"line"``: constant along the whole straight line; ``"segment"``: along a piece of it around theta;
            ``"curve"``: along a curve with this tangent.

    A direction of this kind has zero curvature at a critical point (for a line or a segment: anywhere); it need not
    be an eigenvector of the Hessian.

    >>> FlatDirection("example", "an example", 4, torch.tensor([2]), torch.tensor([1.0])).direction
    tensor([0., 0., 1., 0.], dtype=torch.float64)
    """

    kind: str
    description: str
    size: int
    coordinates: Tensor
    values: Tensor
    extent: Extent

    def __init__(
        self, kind: str, description: str, size: int, coordinates: Tensor, values: Tensor, extent: Extent = "line"
    ) -> None:
        coordinates, where = coordinates.unique(return_inverse=True)
        values = torch.zeros(len(coordinates), dtype=torch.float64).index_add_(0, where, values.to(torch.float64))
        length = float(values.norm())
        if not length > 0:
            raise InvalidInputError(f"a direction needs a positive length ({kind}: {description})")
        for name, value in (("kind", kind), ("description", description), ("size", size), ("extent", extent)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "coordinates", coordinates)
        object.__setattr__(self, "values", values / length)

    def __repr__(self) -> str:
        return f"<FlatDirection {self.kind}: {self.description}>"

    @property
    def direction(self) -> Float[Tensor, " P"]:
        """The direction itself, of length 1."""
        dense = torch.zeros(self.size, dtype=torch.float64)
        dense[self.coordinates] = self.values
        return dense


def stack_directions(directions: Sequence[FlatDirection]) -> Float[Tensor, "k P"]:
    """The directions as rows of a matrix.

    Raises:
        MemoryLimitError: if it would not fit.
    """
    if not directions:
        raise InvalidInputError("there is no direction to stack")
    size = directions[0].size
    require_memory(8 * len(directions) * size, f"{len(directions)} dense directions of {size}", "Take fewer of them.")
    matrix = torch.zeros(len(directions), size, dtype=torch.float64)
    for row, direction in zip(matrix, directions, strict=True):
        row[direction.coordinates] = direction.values
    return matrix


def span_basis(directions: Sequence[FlatDirection], tolerance: float = 1e-8) -> Float[Tensor, "k P"]:
    """An orthonormal basis of what the directions span, as rows.

    Args:
        directions: at least one; they may depend on each other.
        tolerance: singular values below this part of the largest count as zero.

    >>> one = FlatDirection("a", "a", 2, torch.tensor([0]), torch.tensor([1.0]))
    >>> span_basis([one, one]).shape
    torch.Size([1, 2])
    """
    _, lengths, basis = torch.linalg.svd(stack_directions(directions), full_matrices=False)
    return basis[lengths > tolerance * lengths[0]]


# -- continuous symmetries ---------------------------------------------------------------------------------------------


def symmetry_tangents(structure: NetworkStructure, theta: Float[Tensor, " P"]) -> list[FlatDirection]:
    """Tangents at theta of the network's continuous symmetries.

    Positive rescaling of units with a homogeneous activation; for linear units every mixture with another; for units
    with the activation ``exp`` the exchange of bias for outgoing weights. At most one direction for each unit (for
    linear units one for each pair), none where it would vanish.

    Args:
        structure: of the network.
        theta: one parameter vector.
    """
    theta = structure.one_theta(theta)
    return [direction for group in structure.unit_groups for direction in _tangents(group, theta)]


def _tangents(group: UnitGroup, theta: Tensor) -> Iterator[FlatDirection]:
    if "scaling" in group.symmetries:
        yield from _scalings(group, theta)
    if "mixing" in group.symmetries:
        yield from _mixtures(group, theta)
    if group.plain and not group.frozen and [a.name for a in group.activations] == ["exp"] and group.bias.shape[1] == 1:
        yield from _exponential_shifts(group, theta)


def _scalings(group: UnitGroup, theta: Tensor) -> Iterator[FlatDirection]:
    """d/dt of incoming weights times exp(t), outgoing ones times exp(-degree t)."""
    inside = torch.cat([group.incoming, group.bias], 1)
    coordinates = torch.cat([inside, group.outgoing], 1)
    values = torch.cat([theta[inside], -group.degree * theta[group.outgoing]], 1)
    for unit in range(group.size):
        if bool(values[unit].any()):
            text = f"unit {unit} of {group.name!r}: larger incoming, smaller outgoing weights"
            yield FlatDirection("rescaled unit", text, len(theta), coordinates[unit], values[unit], "curve")


def _mixtures(group: UnitGroup, theta: Tensor) -> Iterator[FlatDirection]:
    """d/dt of ``(I + t E_ij)`` on the incoming weights, its inverse on the outgoing ones."""
    inside = torch.cat([group.incoming, group.bias], 1)
    for i in range(group.size):
        for j in range(group.size):
            coordinates = torch.cat([inside[i], group.outgoing[j]])
            values = torch.cat([theta[inside[j]], -theta[group.outgoing[i]]])
            if i != j and bool(values.any()):
                text = f"linear unit {i} of {group.name!r} takes on a part of unit {j}"
                yield FlatDirection("mixed linear units", text, len(theta), coordinates, values, "curve")


def _exponential_shifts(group: UnitGroup, theta: Tensor) -> Iterator[FlatDirection]:
    """``a exp(w x + b)`` depends on a and b through ``a exp(b)`` only."""
    coordinates = torch.cat([group.bias, group.outgoing], 1)
    values = torch.cat([torch.ones(group.size, 1, dtype=torch.float64), -theta[group.outgoing]], 1)
    for unit in range(group.size):
        text = f"unit {unit} of {group.name!r}: larger bias, smaller outgoing weights"
        yield FlatDirection("exponential shift", text, len(theta), coordinates[unit], values[unit], "curve")


# -- parameters without effect -----------------------------------------------------------------------------------------


def unused_parameters(structure: NetworkStructure) -> list[FlatDirection]:
    """One direction for each coordinate of a block that no output depends on."""
    found = []
    for name in structure.unused:
        for coordinate in range(structure.space.size)[structure.space.slice(name)]:
            text = f"{name} has no effect on the output"
            found.append(_axis("unused parameter", text, structure.space.size, coordinate))
    return found


def output_shifts(structure: NetworkStructure) -> list[FlatDirection]:
    """Directions that add the same number to all outputs of a sample, which a softmax loss ignores.

    The last dense layer's biases move together, and so do its weights from each feature. The network's outputs do
    change; the loss does not, if it is invariant under such shifts (cross-entropy is). Empty where the output is not
    the plain result of a dense layer whose features are the classes, or where some of its weights are frozen or
    shared.
    """
    last = structure.last_layers[0] if len(structure.last_layers) == 1 else None
    shape = structure.steps[structure.outputs[0]].shape
    if last is None or last.weight is None or last.weight.kind == "computed":
        return []
    weights = structure.coordinates(last.weight)
    shared = any(name in structure.tied for name in last.parameters)
    if shared or len(shape) != 2 or shape[1] != len(weights) or bool((weights < 0).any()):
        return []
    ones, size = torch.ones(len(weights)), structure.space.size
    found = []
    if last.bias is not None and last.bias.kind != "computed":
        biases = structure.coordinates(last.bias)
        if not bool((biases < 0).any()):
            found.append(FlatDirection("softmax shift", f"all biases of {last.name!r} together", size, biases, ones))
    for feature, column in enumerate(weights.T):
        text = f"all weights of {last.name!r} from feature {feature} together"
        found.append(FlatDirection("softmax shift", text, size, column, ones))
    return found


def _axis(kind: str, text: str, size: int, coordinate: int, extent: Extent = "line") -> FlatDirection:
    return FlatDirection(kind, text, size, torch.tensor([coordinate]), torch.ones(1), extent)


def axes(kind: str, text: str, size: int, coordinates: Iterable[int], extent: Extent = "line") -> list[FlatDirection]:
    """One direction along each of some coordinates; frozen ones (-1) are left out."""
    return [_axis(kind, text, size, c, extent) for c in coordinates if c >= 0]
