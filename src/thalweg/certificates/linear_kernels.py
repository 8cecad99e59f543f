"""Moves of a linear layer within the kernel of the linear layer that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.structure import NetworkStructure, Step
from thalweg.structure.weights import evaluate_weights

__all__ = ["KernelMove", "kernel_moves"]


@dataclass(frozen=True, eq=False)
class KernelMove:
    """Columns in a kernel that may be added to a matrix.

    Attributes:
        text: which layers they are.
        kernel: ``(m, r)``.
        table: coordinates of the matrix, ``(m, d)``.
        size: P.
    """

    text: str
    kernel: Tensor
    table: Tensor
    size: int

    def draw(self, generator: torch.Generator, scale: float) -> Tensor:
        """A random move ``(P,)`` whose entries are about that size."""
        mixing = torch.randn(self.kernel.shape[1], self.table.shape[1], generator=generator, dtype=torch.float64)
        move = torch.zeros(self.size, dtype=torch.float64)
        move[self.table.reshape(-1)] = scale * (self.kernel @ mixing).reshape(-1)
        return move


def _values(structure: NetworkStructure, step: Step, theta: Tensor) -> Tensor | None:
    """The weight matrix of a layer; None where it is computed from others."""
    if step.weight is None or step.weight.kind == "computed":
        return None
    return evaluate_weights(step.weight, structure.named(theta.cpu()), structure.parameters)


def kernel_moves(structure: NetworkStructure, theta: Tensor, loose: Tensor) -> Iterator[KernelMove]:
    """Pairs of dense layers with nothing between them, or only sums."""
    for last in structure.steps:
        if last.kind != "dense" or last.left:
            continue
        for first in _fed_by(structure, last):
            matrix = _values(structure, last, theta)
            shared = set(structure.tied) & {*first.parameters, *last.parameters}
            if matrix is None or shared or first.left or first.weight is None or first.weight.kind == "computed":
                continue
            kernel = _kernel(matrix)
            table = structure.coordinates(first.weight)
            if kernel.shape[1] and bool((table >= 0).all()) and bool(loose.cpu()[table].all()):
                text = f"{first.name!r} may move in the kernel of {last.name!r}"
                yield KernelMove(text, kernel, table, len(loose))


def _fed_by(structure: NetworkStructure, last: Step) -> list[Step]:
    """Dense layers whose results reach a layer directly or through sums, and reach nothing else."""
    readers: dict[int, int] = dict.fromkeys(structure.outputs, 2)  # what is returned is read from outside
    for step in structure.steps:
        for read in step.reads:
            readers[read] = readers.get(read, 0) + 1
    found, waiting = [], list(last.reads)
    while waiting:
        step = structure.steps[waiting.pop()]
        if readers[step.index] > 1:
            continue
        if step.kind == "dense":
            found.append(step)
        elif step.kind == "add":
            waiting.extend(step.reads)
    return found


def _kernel(matrix: Tensor) -> Tensor:
    """Vectors that a matrix ``(k, m)`` certainly maps to zero, ``(m, r)``: more columns than rows, or zero ones."""
    columns = matrix.shape[1]
    zero = (matrix == 0).all(0)
    units = torch.eye(columns, dtype=matrix.dtype)[:, zero]
    rest = matrix[:, ~zero]
    rest = rest[(rest != 0).any(1)]
    if rest.shape[1] <= rest.shape[0]:
        return units
    _, _, right = torch.linalg.svd(rest)
    null = torch.zeros(columns, rest.shape[1] - rest.shape[0], dtype=matrix.dtype)
    null[~zero] = right[rest.shape[0] :].T
    return torch.cat([units, null], 1)
