"""What goes into a catalogue, and what it says of a survey in short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Int
from torch import Tensor

from thalweg.foundation import InvalidInputError, ThalwegError
from thalweg.solvers import Solution

__all__ = ["Batch", "CatalogueError", "Progress"]


class CatalogueError(ThalwegError):
    """A catalogue that cannot be opened, read or written: the message says why, what is safe, and what to do."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The searches from a batch of seeds, as a worker sends them back.

    Attributes:
        seeds: ``(b,)`` int64, consecutive numbers.
        solution: how they ended, of batch shape ``(b,)``, with tensors on the CPU.
        seconds: wall time.
        worker: who did it, ``host:process``.

    Raises:
        InvalidInputError: for seeds that are not consecutive, or do not fit the solution; for tensors elsewhere.
    """

    seeds: Int[Tensor, " b"]
    solution: Solution
    seconds: float
    worker: str

    def __post_init__(self) -> None:
        seeds = self.seeds
        if seeds.dtype != torch.int64 or seeds.dim() != 1 or not len(seeds):
            raise InvalidInputError(f"seeds are int64 numbers (b,), got {seeds.dtype} {tuple(seeds.shape)}")
        first = int(seeds[0])
        if first < 0 or not torch.equal(seeds.cpu(), torch.arange(first, first + len(seeds))):
            raise InvalidInputError(f"the seeds of a batch are consecutive and not negative, got {seeds.tolist()[:8]}")
        if self.solution.batch != seeds.shape:
            raise InvalidInputError(f"{len(seeds)} seeds, but a solution of batch shape {tuple(self.solution.batch)}")
        if self.solution.theta.device.type != "cpu" or seeds.device.type != "cpu":
            raise InvalidInputError(f"a batch holds tensors on the CPU, got {self.solution.theta.device}")


@dataclass(frozen=True)
class Progress:
    """How far a survey has come.

    Attributes:
        seeds: searches recorded.
        batches: batches recorded, whole or in part.
        converged: searches that ended at a critical point.
        points: distinct points they ended at.
        best: lowest value among those converged; NaN where there is none.
        statuses: number of searches for each way to end, most frequent first.
        seconds: wall time of all batches together, as the workers measured it.
    """

    seeds: int
    batches: int
    converged: int
    points: int
    best: float
    statuses: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    seconds: float = 0.0
