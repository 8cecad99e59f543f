"""A forward pass written down: a list of elementary operations that can be run again, pickled and read.

`capture` writes it from a module; `recognise` reads it. A program is a flat table of values; a value is a parameter, a
constant, an input, or the result of one operation of torch (``aten``) on earlier values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["MOVES", "Operation", "Program", "Ref", "Value", "map_refs", "refs_in", "resolve"]


MOVES = frozenset(
    {
        "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice",
        "select", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "unsafe_chunk", "cat", "stack",
        "clone", "alias", "detach", "contiguous", "flip", "roll", "repeat", "getitem", "lift_fresh",
        "lift_fresh_copy", "narrow", "movedim", "numpy_T"
    }
)  # fmt: skip
"""Operations that only move entries about."""


@dataclass(frozen=True)
class Ref:
    """The value with this number in the table, standing in an argument list."""

    index: int


@dataclass(frozen=True)
class Operation:
    """An elementary operation of torch by name, ``aten.addmm.default``; ``getitem`` picks one of several results."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return resolve(self.name)(*args, **kwargs)

    @property
    def base(self) -> str:
        """The name without namespace and overload: ``addmm``."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else self.name

    @property
    def pointwise(self) -> bool:
        """True if every entry of the result depends on the same entries of the arguments only."""
        if self.base in _POINTWISE_TOO:
            return True
        return self.name != "getitem" and torch.Tag.pointwise in resolve(self.name).tags

    @property
    def random(self) -> bool:
        """True if it draws random numbers."""
        return self.name != "getitem" and torch.Tag.nondeterministic_seeded in resolve(self.name).tags

    @property
    def functional(self) -> Operation:
        """The operation that computes the same as an ordinary function with a derivative; itself where it is one.

        ``add`` for ``add_``, which writes into its argument; and for a bag of embeddings the one that is used where a
        gradient is wanted.
        """
        parts = self.name.split(".")
        if parts[-2:-1] == ["_embedding_bag_forward_only"]:
            return Operation(".".join([parts[0], "_embedding_bag", parts[2]]))
        if self.name == "getitem" or not parts[1].endswith("_") or parts[1] == "copy_":
            return self
        twin = Operation(".".join([parts[0], parts[1][:-1], parts[2]]))
        try:
            resolve(twin.name)
        except AttributeError:
            return self
        return twin

    @property
    def mutates(self) -> bool:
        """True if it writes into an argument."""
        return self.name != "getitem" and bool(resolve(self.name)._schema.is_mutable)


_POINTWISE_TOO = {"hardswish", "special_ndtr", "where", "zeros_like", "ones_like", "full_like"}
"""Pointwise operations that torch does not tag as such."""


@cache
def resolve(name: str) -> Any:
    """The callable behind a name."""
    if name == "getitem":
        return _getitem
    if name in {"aten.view.default", "aten._unsafe_view.default"}:
        name = "aten.reshape.default"  # a view needs the memory layout of the original run, which need not come again
    namespace, operation, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), operation), overload)


def _getitem(values: Sequence[Any], index: int) -> Any:
    return values[index]


@dataclass(frozen=True)
class Value:
    """One row of the table.

    Attributes:
        kind: where it comes from.
        key: name of the parameter, number of the constant or of the input.
        operation: what makes it, for ``"result"``.
        args: its arguments; tensors among them are `Ref`.
        kwargs: its keyword arguments.
        shape: of the tensor, None for anything else (a list of tensors).
        floating: whether it holds floating-point numbers.
    """

    kind: Literal["parameter", "constant", "input", "result"]
    key: str | int = 0
    operation: Operation | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] | None = None
    floating: bool = True

    @property
    def reads(self) -> tuple[int, ...]:
        """Numbers of the values among its arguments, in order."""
        return tuple(refs_in((self.args, self.kwargs)))

    @property
    def base(self) -> str:
        """Name of the operation, empty for a source."""
        return self.operation.base if self.operation else ""

    @property
    def moves(self) -> bool:
        """True if it only moves entries about; seeing bytes as another type is not that."""
        return self.operation is not None and self.base in MOVES and not self.operation.name.endswith(".dtype")

    def run(self, lookup: Callable[[int], Any]) -> Any:
        """The result, given the values of its arguments."""
        assert self.operation is not None
        args = map_refs(self.args, lookup)
        kwargs = {key: map_refs(argument, lookup) for key, argument in self.kwargs}
        return self.operation(*args, **kwargs)


@dataclass(frozen=True)
class Program:
    """A forward pass for one shape of inputs.

    Attributes:
        values: the table, in an order in which it can be run.
        outputs: numbers of the values returned, in the order of the flattened output.
        constants: tensors that are neither parameters nor inputs (buffers and literals).
        buffers: names of the constants that are buffers of the module.
    """

    values: tuple[Value, ...]
    outputs: tuple[int, ...]
    constants: tuple[Tensor, ...]
    buffers: Mapping[int, str]

    def reachable(self, roots: Sequence[int]) -> set[int]:
        """Numbers of all values that the roots depend on, themselves included."""
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            index = stack.pop()
            if index not in seen:
                seen.add(index)
                stack.extend(self.values[index].reads)
        return seen

    def evaluate(self, roots: Sequence[int], source: Callable[[Value], Any], known: Mapping[int, Any]) -> list[Any]:
        """Compute some values.

        Args:
            roots: their numbers.
            source: gives parameters, constants and inputs.
            known: values that are given already.
        """
        computed: dict[int, Any] = dict(known)
        stack = list(reversed(roots))
        while stack:
            index = stack[-1]
            if index in computed:
                stack.pop()
                continue
            value = self.values[index]
            missing = [r for r in value.reads if r not in computed]
            if missing:
                stack.extend(missing)
                continue
            computed[index] = source(value) if value.kind != "result" else value.run(computed.__getitem__)
            stack.pop()
        return [computed[r] for r in roots]


def refs_in(arguments: Any) -> Iterator[int]:
    """Numbers of the values that occur in nested arguments."""
    if isinstance(arguments, Ref):
        yield arguments.index
    elif isinstance(arguments, list | tuple):
        for argument in arguments:
            yield from refs_in(argument)


def map_refs(arguments: Any, lookup: Callable[[int], Any]) -> Any:
    """The same nested arguments with every `Ref` replaced."""
    if isinstance(arguments, Ref):
        return lookup(arguments.index)
    if isinstance(arguments, list):
        return [map_refs(argument, lookup) for argument in arguments]
    if isinstance(arguments, tuple):
        return tuple(map_refs(argument, lookup) for argument in arguments)
    return arguments
