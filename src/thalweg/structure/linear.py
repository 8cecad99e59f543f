"""Dense layers in a program: products of a result with a matrix of parameters, in all the ways torch writes them.

``F.linear`` and ``x @ W.T + b`` become ``addmm``, ``mm`` or ``bmm`` of a reshaped tensor with a transposed matrix;
``h @ a`` with a vector becomes ``mv``; ``(h * a).sum(-1)`` a product and a sum; ``W @ x`` multiplies from the left. A
bias added afterwards belongs to the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thalweg.structure.program import Program, Ref, Value
from thalweg.structure.weights import WeightReader, Weights

__all__ = ["LinearUse", "find_linear"]


@dataclass(frozen=True)
class LinearUse:
    """One dense layer.

    Attributes:
        source: number of the value it multiplies.
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
        left: features along the first axis of a matrix that is multiplied from the left.
        squeezed: one output whose axis is dropped.
    """

    source: int
    weight: Weights
    bias: Weights | None = None
    left: bool = False
    squeezed: bool = False


def find_linear(
    program: Program,
    live: Sequence[int],
    alias: Mapping[int, int],
    on_parameters: set[int],
    on_inputs: set[int],
    reader: WeightReader,
) -> tuple[dict[int, LinearUse], dict[int, int]]:
    """All dense layers.

    Args:
        program: the forward pass.
        live: numbers of the values that the outputs depend on, in order.
        alias: values that are mere copies, and of what.
        on_parameters: values that depend on parameters.
        on_inputs: values that depend on inputs.
        reader: describes tensors of parameters.

    Returns:
        The layers by the number of the value they make; and the additions of a bias that became part of a layer, each
        with the value that now stands for it.
    """
    return _LinearFinder(program, live, alias, on_parameters, on_inputs, reader).find()


class _LinearFinder:
    def __init__(
        self,
        program: Program,
        live: Sequence[int],
        alias: Mapping[int, int],
        on_parameters: set[int],
        on_inputs: set[int],
        reader: WeightReader,
    ) -> None:
        self._program, self._live, self._alias, self._reader = program, live, alias, reader
        self._weights = on_parameters - on_inputs
        self._data = on_inputs
        self._users: dict[int, list[int]] = {}
        for index in live:
            for read in program.values[index].reads:
                self._users.setdefault(read, []).append(index)

    def find(self) -> tuple[dict[int, LinearUse], dict[int, int]]:
        """See `find_linear`."""
        uses: dict[int, LinearUse] = {}
        absorbed: dict[int, int] = {}
        for index in self._live:
            use = self._product(index)
            if use is None:
                continue
            end, bias = self._later_bias(index, use)
            if bias is not None:
                use = replace(use, bias=bias)
                absorbed[end] = self._operand(end)
            uses[index] = use
        return uses, absorbed

    # -- the product ---------------------------------------------------------------------------------------------------

    def _product(self, index: int) -> LinearUse | None:
        value = self._program.values[index]
        base = value.base
        if base in {"mm", "bmm", "mv"}:
            return self._matrix_product(value, value.args[0], value.args[1], None)
        if base in {"addmm", "addmv", "baddbmm"} and not value.kwargs and len(value.args) == 3:
            return self._matrix_product(value, value.args[1], value.args[2], value.args[0])
        return self._product_and_sum(value) if base == "sum" else None

    def _matrix_product(self, value: Value, left: Ref, right: Ref, bias: Ref | None) -> LinearUse | None:
        if left.index in self._data and right.index in self._weights:
            use = self._from_right(value, left.index, right.index)
        elif left.index in self._weights and right.index in self._data and value.base in {"mm", "addmm"}:
            use = LinearUse(right.index, self._reader.read(left.index), left=True)
        else:
            return None
        if use is None or bias is None:
            return use
        described = self._bias(bias.index, use)
        return None if described is None else replace(use, bias=described)

    def _from_right(self, value: Value, source: int, matrix: int) -> LinearUse | None:
        shape = self._program.values[matrix].shape or ()
        if len(shape) == 1:  # a matrix times a vector: one output
            return LinearUse(source, self._reader.read(matrix, (1, shape[0])), squeezed=True)
        if len(shape) == 2:
            return LinearUse(source, self._reader.read(matrix, transpose=True))
        numbers = self._reader.moved(matrix)  # a batch of matrices: a layer if they are all the same
        if not isinstance(numbers, Tensor) or not bool((numbers == numbers[:1]).all()):
            return None
        first = self._reader.describe(numbers[0].T, matrix)
        return LinearUse(source, first)

    def _product_and_sum(self, value: Value) -> LinearUse | None:
        """``(h * a).sum(-1)``: a dense layer with one output."""
        product = self._program.values[value.args[0].index]
        dims = value.args[1] if len(value.args) > 1 else None
        keep = bool(value.args[2]) if len(value.args) > 2 else bool(dict(value.kwargs).get("keepdim", False))
        shape: tuple[int, ...] = product.shape or ()
        if product.base != "mul" or dims not in ([-1], [len(shape) - 1]) or len(product.reads) != 2:
            return None
        one, other = product.reads
        for source, vector in ((one, other), (other, one)):
            if source in self._data and vector in self._weights and self._program.values[source].shape == shape:
                size = self._program.values[vector].shape or ()
                described = self._row(vector, size, shape[-1])
                if described is not None:
                    return LinearUse(source, described, squeezed=not keep)
        return None

    def _row(self, vector: int, size: tuple[int, ...], features: int) -> Weights | None:
        """A vector that multiplies the last axis, as a matrix with one row."""
        along_last = bool(size) and size[-1] == features and all(n == 1 for n in size[:-1])
        if not along_last or not isinstance(self._reader.moved(vector), Tensor):
            return None
        return self._reader.read(vector, (1, features))

    # -- the bias ------------------------------------------------------------------------------------------------------

    def _bias(self, index: int, use: LinearUse) -> Weights | None:
        """A tensor of parameters added to the product, if it is the same for every row."""
        shape = list(self._program.values[index].shape or ())
        out = use.weight.shape[0]
        fits = shape == [out, 1] if use.left else bool(shape) and shape[-1] == out and all(n == 1 for n in shape[:-1])
        readable = index in self._weights and isinstance(self._reader.moved(index), Tensor)
        return self._reader.read(index, (out,)) if readable and (fits or shape == [1] == [out]) else None

    def _later_bias(self, index: int, use: LinearUse) -> tuple[int, Weights | None]:
        """Follow the product through rearrangements to an addition of parameters that is the same for every row."""
        at, features = index, self._features(index, use)
        while use.bias is None:
            users = self._users.get(at, [])
            if len(users) != 1 or at in self._program.outputs:
                break
            user = self._program.values[users[0]]
            if user.moves and user.shape is not None and len(user.reads) == 1:
                at, features = users[0], _rearranged(user, features)
                continue
            plain_sum = user.base == "add" and not user.kwargs and len(set(user.reads)) == 2
            if plain_sum and user.shape == tuple(features.shape):
                other = next(r for r in user.reads if r != at)
                return users[0], self._bias_by_feature(other, features, use.weight.shape[0])
            break
        return index, None

    def _features(self, index: int, use: LinearUse) -> Tensor:
        """For each entry of the product the number of the feature it holds."""
        shape, numbers = self._program.values[index].shape or (), torch.arange(use.weight.shape[0])
        if use.squeezed:
            return torch.zeros(shape, dtype=torch.long)
        return numbers.unsqueeze(1).expand(shape) if use.left else numbers.expand(shape)

    def _bias_by_feature(self, index: int, features: Tensor, out: int) -> Weights | None:
        """A tensor of parameters as a bias, if what it adds to an entry depends on the entry's feature only."""
        numbers = self._reader.moved(index) if index in self._weights else None
        if not isinstance(numbers, Tensor) or features.numel() == 0:
            return None
        added = numbers.expand(features.shape).reshape(-1)
        table = torch.zeros(out, dtype=torch.long).scatter(0, features.reshape(-1), added)
        same = torch.equal(table[features.reshape(-1)], added)
        alone = len(table.unique()) == out  # one number for several units is no bias
        return self._reader.describe(table, index) if same and alone else None

    def _operand(self, addition: int) -> int:
        """The operand of an addition that is not parameters."""
        return next(r for r in self._program.values[addition].reads if r not in self._weights)


def _rearranged(move: Value, entries: Tensor) -> Tensor:
    """What a rearrangement makes of other entries."""
    result: Tensor = move.run(lambda _: entries)
    return result
