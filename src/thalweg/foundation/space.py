"""The address of every coordinate of a flat parameter vector."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation.errors import InvalidInputError

__all__ = ["Block", "ParameterSpace"]


@dataclass(frozen=True)
class Block:
    """One named tensor inside the flat vector: coordinates ``[start, stop)`` hold it in row-major order."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """First coordinate after the block."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """The coordinates as a slice of the flat vector."""
        return slice(self.start, self.stop)


class ParameterSpace:
    """Named blocks laid one after another in a vector of P coordinates.

    Args:
        shapes: name and shape of every block, in order.

    Raises:
        InvalidInputError: for repeated names, a negative length or no coordinate at all.

    >>> space = ParameterSpace({"weight": (2, 3), "bias": (2,)})
    >>> space.size, space.slice("bias")
    (8, slice(6, 8, None))
    >>> space.address(7)
    ('bias', (1,))
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]] | Iterable[tuple[str, Sequence[int]]]) -> None:
        pairs = list(shapes.items() if isinstance(shapes, Mapping) else shapes)
        blocks, start = [], 0
        for name, shape in pairs:
            block = Block(str(name), tuple(int(n) for n in shape), start)
            blocks.append(block)
            start = block.stop
        self.blocks: tuple[Block, ...] = tuple(blocks)
        self.size: int = start
        self._by_name = {block.name: block for block in blocks}
        if len(self._by_name) != len(blocks):
            raise InvalidInputError(f"block names must differ, got {[name for name, _ in pairs]}")
        if any(length < 0 for block in blocks for length in block.shape):
            raise InvalidInputError(f"shapes have no negative lengths, got {[block.shape for block in blocks]}")
        if start == 0:
            raise InvalidInputError("a parameter space needs at least one coordinate")

    @property
    def names(self) -> tuple[str, ...]:
        """Block names in order."""
        return tuple(block.name for block in self.blocks)

    def __getitem__(self, name: str) -> Block:
        try:
            return self._by_name[name]
        except KeyError:
            raise InvalidInputError(f"no block {name!r}; there are {', '.join(self.names)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterSpace) and self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash(self.blocks)

    def __repr__(self) -> str:
        inside = ", ".join(f"{b.name}: {'x'.join(map(str, b.shape)) or 'scalar'}" for b in self.blocks)
        return f"ParameterSpace(P={self.size}; {inside})"

    def slice(self, name: str) -> slice:
        """Coordinates of one block."""
        return self[name].slice

    def address(self, coordinate: int) -> tuple[str, tuple[int, ...]]:
        """Name of the block that holds a coordinate, and the index inside it."""
        if not -self.size <= coordinate < self.size:
            raise InvalidInputError(f"coordinate {coordinate} outside a space of {self.size}")
        coordinate %= self.size
        block = next(b for b in self.blocks if b.start <= coordinate < b.stop)
        index, rest = [], coordinate - block.start
        for length in reversed(block.shape):
            rest, position = divmod(rest, length)
            index.append(position)
        return block.name, tuple(reversed(index))

    def flatten(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*batch P"]:
        """Lay named tensors, each ``(*batch, *shape)``, into one ``(*batch, P)``.

        Raises:
            InvalidInputError: naming missing, unknown or misshapen blocks, and for batches that do not fit.
        """
        missing = [n for n in self.names if n not in values]
        unknown = [n for n in values if n not in self._by_name]
        if missing or unknown:
            raise InvalidInputError(f"blocks do not match the space: missing {missing}, unknown {unknown}")
        parts = []
        for block in self.blocks:
            value = values[block.name]
            if not isinstance(value, Tensor):
                raise InvalidInputError(f"block {block.name!r} is a {type(value).__name__}, expected a tensor")
            lead = value.dim() - len(block.shape)
            if lead < 0 or tuple(value.shape[lead:]) != block.shape:
                raise InvalidInputError(
                    f"block {block.name!r} has shape {tuple(value.shape)}, expected (*batch, {block.shape})"
                )
            parts.append(value.reshape((*value.shape[:lead], block.size)))
        try:
            batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        except RuntimeError:
            shapes = ", ".join(str(tuple(part.shape[:-1])) for part in parts)
            raise InvalidInputError(f"the batch shapes of the blocks do not fit together: {shapes}") from None
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], dim=-1)

    def unflatten(self, theta: Float[Tensor, "*batch P"]) -> dict[str, Tensor]:
        """Views of ``(*batch, P)`` by block, each ``(*batch, *shape)``."""
        if theta.shape[-1:] != (self.size,):
            raise InvalidInputError(f"theta has shape {tuple(theta.shape)}, expected (*batch, {self.size})")
        lead = theta.shape[:-1]
        return {b.name: theta[..., b.slice].reshape((*lead, *b.shape)) for b in self.blocks}

    def select(self, patterns: str | Iterable[str]) -> Int[Tensor, " k"]:
        """Coordinates of all blocks whose name matches a glob such as ``"layers.0.*"``, in order.

        Raises:
            InvalidInputError: for no pattern at all, for what is no text, and if a pattern matches no block.
        """
        globs = [patterns] if isinstance(patterns, str) else list(patterns)
        if not globs or not all(isinstance(glob, str) for glob in globs):
            raise InvalidInputError(f"give one or more globs of block names, got {patterns!r}")
        chosen: set[str] = set()
        for glob in globs:
            hits = fnmatch.filter(self.names, glob)
            if not hits:
                raise InvalidInputError(f"{glob!r} matches no block; there are {', '.join(self.names)}")
            chosen.update(hits)
        return torch.cat([torch.arange(b.start, b.stop) for b in self.blocks if b.name in chosen])
