"""What each hidden unit does on the data: its weighted sums, and what those see that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.structure.steps import Step
from thalweg.structure.units import UnitGroup

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["UnitRange", "features_of", "known_ranges", "unit_activations", "unit_ranges"]


@dataclass(frozen=True, eq=False)
class UnitRange:
    """What the m units of a group do on all inputs.

    Attributes:
        group: the units.
        low: smallest weighted sum (what enters the activation), ``(m,)``; NaN for units that several layers make.
        high: largest weighted sum, ``(m,)``; NaN for units that several layers make.
        always_zero: whether everything that reads a unit sees exactly zero, ``(m,)``.
    """

    group: UnitGroup
    low: Float[Tensor, " m"]
    high: Float[Tensor, " m"]
    always_zero: Bool[Tensor, " m"]


def unit_activations(
    structure: NetworkStructure, group: UnitGroup, theta: Float[Tensor, " P"], inputs: Any
) -> list[Float[Tensor, "M m r"]]:
    """What the readers of a group see of each unit, one tensor for each of ``group.readers``.

    Rows are samples (and positions), r is how often a reader meets the unit: once for a dense layer, once for each
    place where an image was flattened.
    """
    wanted = [structure.steps[reader].reads[0] for reader in group.readers]
    return _seen(structure, group, dict(zip(wanted, structure.record(theta, inputs, wanted), strict=True)))


def unit_ranges(structure: NetworkStructure, theta: Float[Tensor, " P"], inputs: Any) -> list[UnitRange]:
    """What the units of every group do on all inputs, computed in one pass, a part of the samples at a time.

    Args:
        structure: of the network.
        theta: one parameter vector.
        inputs: all inputs.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> (found,) = unit_ranges(trace(net, x), torch.tensor([3.0, -1.0, 1.0, 1.0]), x)
    >>> found.low.tolist(), found.high.tolist(), found.always_zero.tolist()
    ([3.0, -2.0], [6.0, -1.0], [False, True])
    """
    groups = structure.unit_groups
    low = [torch.full((group.size,), torch.inf, dtype=torch.float64) for group in groups]
    high = [-bound for bound in low]
    zero = [torch.ones(group.size, dtype=torch.bool) for group in groups]
    read = {structure.steps[reader].reads[0] for group in groups for reader in group.readers}
    made = {group.layers[0] for group in groups if len(group.layers) == 1}
    wanted = sorted(read | made)
    for part in structure.record_parts(theta, inputs, wanted) if groups else ():
        results = {step: tensor.detach().cpu() for step, tensor in zip(wanted, part, strict=True)}
        for number, group in enumerate(groups):
            for values in _seen(structure, group, results):
                zero[number] &= (values == 0).all(0).all(-1)
            if len(group.layers) == 1:
                sums = _sums(structure.steps[group.layers[0]], results[group.layers[0]])[:, group.made_at[0]]
                low[number] = torch.minimum(low[number], sums.amin((0, 2)))
                high[number] = torch.maximum(high[number], sums.amax((0, 2)))
    found = []
    for group, a, b, z in zip(groups, low, high, zero, strict=True):
        known = a <= b
        found.append(UnitRange(group, torch.where(known, a, torch.nan), torch.where(known, b, torch.nan), z))
    return found


def known_ranges(structure: NetworkStructure, theta: Tensor, inputs: Any) -> list[UnitRange]:
    """The ranges on all inputs, where `inputs` may be these ranges already."""
    known = isinstance(inputs, list) and all(isinstance(item, UnitRange) for item in inputs)
    return inputs if known else unit_ranges(structure, theta, inputs)


def _seen(structure: NetworkStructure, group: UnitGroup, results: dict[int, Tensor]) -> list[Tensor]:
    """`unit_activations`, given the results that the readers read."""
    found = []
    for reader, places in zip(group.readers, group.read_at, strict=True):
        step = structure.steps[reader]
        found.append(features_of(step, results[step.reads[0]])[:, places])
    return found


def features_of(layer: Step, tensor: Tensor) -> Tensor:
    """What a dense layer or a convolution reads, with its features (channels) as columns."""
    assert layer.weight is not None
    if layer.kind == "convolution":
        tensor = tensor.movedim(tensor.dim() - (len(layer.weight.shape) - 2) - 1, -1)
    elif layer.left:
        tensor = tensor.T
    return tensor.reshape(-1, tensor.shape[-1])


def _sums(layer: Step, result: Tensor) -> Tensor:
    """What a layer makes, with its units as columns."""
    if layer.kind == "convolution":
        assert layer.weight is not None
        result = result.movedim(result.dim() - (len(layer.weight.shape) - 2) - 1, -1)
    elif layer.left:
        result = result.T
    result = result.unsqueeze(-1) if layer.squeezed else result
    return result.reshape(-1, result.shape[-1])
