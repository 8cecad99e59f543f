"""Inputs that a network could do without, and all flat directions together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.structure.duplicates import TOLERANCE, duplicate_directions, duplicate_units
from thalweg.structure.flat_directions import (
    FlatDirection,
    axes,
    output_shifts,
    symmetry_tangents,
    unused_parameters,
)
from thalweg.structure.idle_units import dead_unit_directions
from thalweg.structure.linear_units import dependent_unit_directions, one_sided_unit_directions
from thalweg.structure.steps import Step
from thalweg.structure.unit_ranges import features_of, unit_ranges

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["flat_directions", "unused_input_directions"]


def unused_input_directions(structure: NetworkStructure, inputs: Any) -> list[FlatDirection]:
    """Directions that inputs without variation leave flat, in the dense layers that read data directly.

    A feature that is zero in all samples has free weights; weights of a feature with one constant value can be traded
    for the bias; and for every other linear dependence between features (and the constant) the weights can be moved
    along it.

    Args:
        structure: of the network.
        inputs: all inputs of the objective.
    """
    found: list[FlatDirection] = []
    for step in structure.steps:
        if step.kind != "dense" or step.weight is None or step.weight.kind == "computed":
            continue
        source = structure.steps[step.reads[0]]
        if (source.kind == "input" or source.from_data) and not any(name in structure.tied for name in step.parameters):
            nothing = torch.zeros(structure.space.size, dtype=torch.float64)
            data = features_of(step, structure.record(nothing, inputs, [source.index])[0].cpu())
            found.extend(_dependent(structure, step, data))
    return found


def _dependent(structure: NetworkStructure, layer: Step, data: Tensor) -> Iterator[FlatDirection]:
    assert layer.weight is not None
    weights = structure.coordinates(layer.weight)
    bias = None if layer.bias is None or layer.bias.kind == "computed" else structure.coordinates(layer.bias)
    table = weights if bias is None else torch.cat([weights, bias.unsqueeze(1)], 1)
    columns = data if bias is None else torch.cat([data, torch.ones(len(data), 1, dtype=data.dtype)], 1)
    if bool((table < 0).any()):
        return
    zero = ~data.any(0)
    for feature in zero.nonzero().reshape(-1).tolist():
        text = f"input feature {feature} of {layer.name!r} is zero in all samples"
        yield from axes("unused input", text, structure.space.size, weights[:, feature].tolist())
    constant = (data == data[:1]).all(0) & ~zero if bias is not None else torch.zeros_like(zero)
    for feature in constant.nonzero().reshape(-1).tolist():
        text = f"input feature {feature} of {layer.name!r} is the same in all samples, like the bias"
        values = torch.tensor([1.0, -float(data[0, feature])], dtype=torch.float64)
        for row in table[:, [feature, -1]]:
            yield FlatDirection("constant input", text, structure.space.size, row, values)
    keep = torch.cat([~(zero | constant), torch.ones(columns.shape[1] - data.shape[1], dtype=torch.bool)])
    for number, dependence in enumerate(_null_space(columns[:, keep])):
        text = f"linear dependence {number} between the input features of {layer.name!r}"
        for row in table[:, keep]:
            yield FlatDirection("dependent inputs", text, structure.space.size, row, dependence)


def _null_space(columns: Tensor) -> Tensor:
    """Independent vectors v with ``columns @ v = 0`` to rounding, as rows."""
    rows, width = columns.shape
    if width == 0:
        return columns[:0]
    if rows > 8 * width and len(_null_space(columns[:: rows // (4 * width)])) == 0:
        return columns[:0, :width]  # a part of the rows rules out what all of them would
    sizes = columns.norm(dim=0).clamp(min=1e-300)  # features of different units must not decide what is zero
    triangle = torch.linalg.qr(columns / sizes, mode="r").R  # same null space, no longer than wide
    _, lengths, basis = torch.linalg.svd(triangle, full_matrices=True)
    tolerance = max(columns.shape) * torch.finfo(columns.dtype).eps * 8
    rank = int((lengths > tolerance * lengths[0]).sum()) if len(lengths) else 0
    return basis[rank:] / sizes


# -- all together ------------------------------------------------------------------------------------------------------


def flat_directions(
    structure: NetworkStructure,
    theta: Float[Tensor, " P"],
    inputs: Any = None,
    *,
    shift_invariant_outputs: bool = False,
    tolerance: float = TOLERANCE,
) -> list[FlatDirection]:
    """All named flat directions at theta. They may depend on each other; `span_basis` gives their span.

    Args:
        structure: of the network.
        theta: one parameter vector.
        inputs: all inputs of the objective; None leaves out what depends on data.
        shift_invariant_outputs: whether the loss ignores a number added to all outputs of a sample (cross-entropy).
        tolerance: for duplicates and zero outgoing weights, relative.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> structure = trace(net, torch.ones(5, 3))
    >>> theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    >>> sorted({d.kind for d in flat_directions(structure, theta, shift_invariant_outputs=True)})
    ['rescaled unit', 'softmax shift']
    """
    found = [*unused_parameters(structure), *symmetry_tangents(structure, theta)]
    found += duplicate_directions(structure, duplicate_units(structure, theta, tolerance))
    if inputs is None:
        found += dead_unit_directions(structure, theta, None, tolerance)
        found += dependent_unit_directions(structure, theta, None, tolerance)
    else:
        ranges = unit_ranges(structure, theta, inputs)
        found += dead_unit_directions(structure, theta, ranges, tolerance)
        found += one_sided_unit_directions(structure, theta, ranges)
        found += dependent_unit_directions(structure, theta, ranges, tolerance)
        found += unused_input_directions(structure, inputs)
    return found + (output_shifts(structure) if shift_invariant_outputs else [])
