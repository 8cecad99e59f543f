"""Parts of a program that are one scalar function applied to every entry.

``sigmoid(4z) + softplus(z)`` is four operations in torch's graph and one activation in a network's description. A
region is a set of pointwise operations, without parameters, between one tensor and one result of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.structure.program import Program, Ref, Value

__all__ = ["Region", "ScalarFunction", "find_regions"]


@dataclass(frozen=True)
class ScalarFunction:
    """A region as a function of a tensor of any shape; pickles.

    Attributes:
        program: the whole forward pass.
        root: number of the value it starts from.
        result: number of the value it ends in.
    """

    program: Program
    root: int
    result: int

    def __call__(self, z: Tensor) -> Any:
        """The result for a tensor of any shape."""

        def source(value: Value) -> Any:
            constant = self.program.constants[int(value.key)]
            return constant.reshape(()).cpu()  # one number, whatever its shape and device were

        return self.program.evaluate([self.result], source, {self.root: z})[0]

    def numbers(self) -> list[float]:
        """The numbers that occur in the computation."""
        found: list[float] = []
        stack, seen = [self.result], {self.root}
        while stack:
            index = stack.pop()
            if index in seen:
                continue
            seen.add(index)
            value = self.program.values[index]
            stack.extend(value.reads)
            if value.kind == "constant":
                found.append(float(self.program.constants[int(value.key)].reshape(())))
            found.extend(_plain_numbers((value.args, value.kwargs)))
        return found


@dataclass(frozen=True)
class Region:
    """One elementwise function inside a program: the value it reads, the value it makes."""

    root: int
    result: int


def find_regions(program: Program, live: Sequence[int], mixed: set[int], alias: Mapping[int, int]) -> dict[int, Region]:
    """All regions whose result is used outside of them, by the number of their result.

    Args:
        program: the forward pass.
        live: numbers of the values that the outputs depend on, in order.
        mixed: those that depend on parameters and on inputs.
        alias: values that are mere copies, and of what.
    """
    finder = _Finder(program, mixed, alias)
    roots = {index: finder.root(index, frozenset()) for index in live if index in mixed}
    ends = _used_outside(program, live, roots, alias)
    regions: dict[int, Region] = {}
    for index in live:
        root = roots.get(index, index)
        if index not in ends or root == index:
            continue
        inner = frozenset(e for e in ends if e != index)
        nearest = finder.root(index, inner)
        regions[index] = Region(root if nearest == index else nearest, index)
    return regions


def _used_outside(
    program: Program, live: Sequence[int], roots: Mapping[int, int], alias: Mapping[int, int]
) -> set[int]:
    """Values read by something that does not belong to the same region, or returned."""
    used = {alias.get(output, output) for output in program.outputs}
    for index in live:
        if index in alias:
            continue
        for read in (alias.get(r, r) for r in program.values[index].reads):
            if read in roots and roots.get(index, index) != roots[read]:
                used.add(read)
    return used


class _Finder:
    """Traces pointwise operations back to the one tensor they start from."""

    def __init__(self, program: Program, mixed: set[int], alias: Mapping[int, int]) -> None:
        self._program, self._mixed, self._alias = program, mixed, alias

    def root(self, index: int, stops: frozenset[int]) -> int:
        """The value that the result is an elementwise function of: itself where there is no other.

        Args:
            index: number of the result.
            stops: values that count as starting points.
        """
        memo: dict[int, int] = {}
        stack = [index]
        while stack:
            at = stack[-1]
            if at in memo:
                stack.pop()
                continue
            sources = self._sources(at) if at == index or at not in stops else None
            if sources is None:
                memo[at] = at
                continue
            waiting = [s for s in sources if s not in memo]
            if waiting:
                stack.extend(waiting)
                continue
            found = {memo[s] for s in sources}
            memo[at] = found.pop() if len(found) == 1 else at
        return memo[index]

    def _sources(self, index: int) -> list[int] | None:
        """The mixed values a pointwise operation reads; None where it is not one tensor's business."""
        value = self._program.values[index]
        if value.kind != "result" or not self._pointwise(value):
            return None
        sources = []
        for read in (self._alias.get(r, r) for r in value.reads):
            other = self._program.values[read]
            if read in self._mixed:
                if other.shape != value.shape and None not in (other.shape, value.shape):
                    return None
                sources.append(read)
            elif not self._single_number(read):
                return None
        return sources or None

    def _pointwise(self, value: Value) -> bool:
        if value.base == "getitem":  # this one operation gives a pair of which the second is a buffer
            return value.args[1] == 0 and self._program.values[value.reads[0]].base == "log_sigmoid_forward"
        if value.base == "log_sigmoid_forward":
            return True
        return value.operation is not None and value.shape is not None and value.operation.pointwise

    def _single_number(self, index: int) -> bool:
        value = self._program.values[index]
        if value.kind == "constant":
            return self._program.constants[int(value.key)].numel() == 1 and int(value.key) not in self._program.buffers
        return (
            value.kind == "result"
            and value.base in {"lift_fresh_copy", "lift_fresh", "detach", "clone", "alias", "scalar_tensor", "full"}
            and (value.shape is not None and all(n == 1 for n in value.shape))
            and all(self._single_number(r) for r in value.reads)
        )


def _plain_numbers(arguments: Any) -> list[float]:
    if isinstance(arguments, bool) or arguments is None or isinstance(arguments, Ref | str):
        return []
    if isinstance(arguments, int | float):
        return [float(arguments)]
    if isinstance(arguments, list | tuple):
        return [number for argument in arguments for number in _plain_numbers(argument)]
    return []
