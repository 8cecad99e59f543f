"""Parameters as a layer uses them: whole, transposed, cut out of a larger block, or computed from others.

Every coordinate of every parameter of a module has a number, its *full coordinate*, in the order of
``named_parameters``. A weight matrix that only moves parameters about (a transpose, one third of an attention's input
projection) is described by the full coordinates of its entries, found by running the same operations on these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.structure.program import Program, Value

__all__ = ["WeightReader", "Weights", "evaluate_weights", "full_vector"]


@dataclass(frozen=True, eq=False)
class Weights:
    """A tensor of parameters as one layer uses it.

    Attributes:
        names: the parameters it is made of.
        shape: as the layer uses it.
        kind: ``"whole"`` is one parameter as it stands (perhaps in another shape), ``"transposed"`` one matrix
            transposed, ``"gathered"`` any other arrangement of coordinates, ``"computed"`` a function of them (weight
            normalisation).
        value: its number in the program.
        index: full coordinates for ``"gathered"``.
        start: first full coordinate for ``"whole"`` and ``"transposed"``.
        flipped: for ``"computed"``, whether the layer uses the transpose of the program's value.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Literal["whole", "transposed", "gathered", "computed"]
    value: int
    index: Tensor | None = None
    start: int = 0
    flipped: bool = False

    def coordinates(self) -> Int[Tensor, "..."] | None:
        """Full coordinates of the entries, shaped as the layer uses them; None for a computed tensor."""
        if self.kind == "computed":
            return None
        if self.kind == "gathered":
            return self.index
        count = int(torch.Size(self.shape).numel())
        numbers = torch.arange(self.start, self.start + count)
        if self.kind == "transposed":
            return numbers.reshape(self.shape[::-1]).T
        return numbers.reshape(self.shape)


class WeightReader:
    """Reads the weights of one program.

    Args:
        program: the forward pass.
        space: all parameters of the module, in the order of ``named_parameters``.
    """

    def __init__(self, program: Program, space: ParameterSpace) -> None:
        self._program = program
        self._space = space
        self._memo: dict[int, Any] = {}

    def read(self, value: int, shape: tuple[int, ...] | None = None, transpose: bool = False) -> Weights:
        """Describe a value that depends on parameters only.

        Args:
            value: its number.
            shape: view it in this shape, where it is an arrangement of coordinates with that many different entries.
            transpose: describe the transposed matrix.
        """
        numbers = self.moved(value)
        if not isinstance(numbers, Tensor):
            own = self._program.values[value].shape or ()
            return Weights(self._names(value), own[::-1] if transpose else own, "computed", value, flipped=transpose)
        if shape is not None:
            numbers = numbers.reshape(shape)
        if transpose:
            numbers = numbers.T
        return self.describe(numbers, value)

    def describe(self, numbers: Tensor, value: int) -> Weights:
        """Describe an arrangement of full coordinates that belongs to a value."""
        used = tuple(name for name in self._names(value) if self._touches(name, numbers))
        shape = tuple(numbers.shape)
        if len(used) == 1:
            block = self._space[used[0]]
            whole = torch.arange(block.start, block.stop).reshape(block.shape)
            if torch.equal(whole.reshape(-1), numbers.reshape(-1)):
                return Weights(used, shape, "whole", value, start=block.start)
            if whole.dim() == 2 and whole.T.shape == numbers.shape and torch.equal(whole.T, numbers):
                return Weights(used, shape, "transposed", value, start=block.start)
        return Weights(used, shape, "gathered", value, numbers.contiguous())

    def _names(self, value: int) -> tuple[str, ...]:
        sources = (self._program.values[i] for i in sorted(self._program.reachable([value])))
        return tuple(str(source.key) for source in sources if source.kind == "parameter")

    def _touches(self, name: str, numbers: Tensor) -> bool:
        block = self._space[name]
        return bool(((numbers >= block.start) & (numbers < block.stop)).any())

    def moved(self, value: int) -> Any:
        """Full coordinates of a value whose making only moves parameters about, else None."""
        if value not in self._memo:
            self._memo[value] = self._compute(self._program.values[value])
        return self._memo[value]

    def _compute(self, value: Value) -> Any:
        if value.kind == "parameter":
            block = self._space[str(value.key)]
            return torch.arange(block.start, block.stop).reshape(block.shape)
        if not value.moves:
            return None
        arguments = {index: self.moved(index) for index in value.reads}
        if any(a is None for a in arguments.values()):
            return None
        return value.run(arguments.__getitem__)


def evaluate_weights(weights: Weights, parameters: Mapping[str, Tensor], space: ParameterSpace) -> Tensor:
    """The values of weights that are not computed, ``(*batch, *weights.shape)``.

    Args:
        weights: what is wanted.
        parameters: all parameters by name, ``(*batch, *shape)``.
        space: their full coordinates.
    """
    if weights.kind == "gathered":
        assert weights.index is not None
        return full_vector(parameters, space)[..., weights.index]
    value = parameters[weights.names[0]]
    if weights.kind == "transposed":
        return value.mT
    lead = value.dim() - len(space[weights.names[0]].shape)
    return value.reshape(*value.shape[:lead], *weights.shape)


def full_vector(parameters: Mapping[str, Tensor], space: ParameterSpace) -> Tensor:
    """All parameters, ``(*batch, *shape)`` each, laid one after another in full coordinates."""
    parts = []
    for block in space:
        value = parameters[block.name]
        parts.append(value.reshape(*value.shape[: value.dim() - len(block.shape)], block.size))
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], dim=-1)
