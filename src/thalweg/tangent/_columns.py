"""A block's share of the kernel by columns of its Jacobian, a few coordinates at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import MemoryLimitError, ParameterSpace, Progress, current_limit
from thalweg.foundation.memory import WORKING_SET
from thalweg.objectives import Capability, OutputObjective, samples
from thalweg.objectives.paths import quiet

__all__ = ["add_columns"]

_FEW = 8
"""Samples of a pass that is pulled back once for each of its outputs."""

PartialOutputs = Callable[[Tensor, Any], Tensor]


def add_columns(
    sides: Sequence[OutputObjective],
    point: Tensor,
    blocks: Sequence[str],
    room: int,
    total: Tensor,
    shares: Mapping[str, Tensor],
    bar: Progress,
) -> int:
    """Add the blocks' kernels to `total` ``(N, C, M, D)`` and to their own `shares`; returns the bytes planned for."""
    rows = sum(side.n_samples * side.n_outputs for side in (sides[:1] if sides[0] is sides[1] else sides))
    planned = 0
    for name in blocks:
        block = sides[0].space[name]
        width = min(block.size, max(0, min(room, 2 * WORKING_SET) // (2 * 8 * rows)))
        if width == 0:
            raise MemoryLimitError(
                f"columns of the Jacobian with {rows} rows",
                current_limit() - room + 2 * 8 * rows,
                current_limit(),
                "Use a subset of the samples.",
            )
        planned = max(planned, 2 * 8 * rows * width)
        for start in range(0, block.size, width):
            bar.update(description=f"tangent kernel: columns of {name}")
            part = slice(start, min(start + width, block.size))
            left = _columns(sides[0], point, name, part)
            right = left if sides[0] is sides[1] else _columns(sides[1], point, name, part)
            product = (left @ right.T).reshape(total.shape)
            total += product
            if name in shares:
                shares[name] += product
    return planned


def _columns(objective: OutputObjective, point: Tensor, name: str, part: slice) -> Tensor:
    """Columns `part` of one block's Jacobian, ``(N*C, k)``, float64."""
    space, item = objective.space, point.element_size()
    outputs = _outputs_of_part(objective, point, name, part)
    here = point[space.slice(name)][part]
    per_sample = objective.n_outputs * (objective.cost.bytes_per_sample + 3 * item * space[name].size)
    most = max(1, min(objective.n_samples, WORKING_SET // max(1, per_sample)))
    batched = objective.path.samples == "vmap"
    pieces: list[Tensor] = []
    with objective.execution_context(), quiet():
        for chunk in objective.chunks(most if batched else min(most, _FEW)):
            if batched:
                found = samples.sample_jacobians(outputs, here, chunk)
            else:
                n = samples.chunk_length(chunk) * objective.n_outputs
                signals = torch.eye(n, dtype=here.dtype, device=here.device).reshape(n, -1, objective.n_outputs)
                found = samples.pull(partial(_of_chunk, outputs, chunk), here, signals)
            pieces.append(found.detach().double().reshape(-1, here.numel()))
    return torch.cat(pieces)


def _outputs_of_part(objective: OutputObjective, point: Tensor, name: str, part: slice) -> PartialOutputs:
    """Outputs as a function of some coordinates of one block; the others stay out of differentiation where they can."""
    space: ParameterSpace = objective.space
    block = space[name]
    if Capability.MODEL not in objective.capabilities:
        first, last = block.start + part.start, block.start + part.stop
        return lambda t, chunk: objective.chunk_outputs(torch.cat([point[:first], t, point[last:]]), chunk)
    named, flat = space.unflatten(point), point[block.slice]

    def outputs(t: Tensor, chunk: Any) -> Tensor:
        whole = torch.cat([flat[: part.start], t, flat[part.stop :]]).reshape(block.shape)
        found = objective.call({**named, name: whole}, chunk.inputs)  # type: ignore[attr-defined]  # MODEL promises it
        leaves = pytree.tree_leaves(found)
        return torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves], dim=1)

    return outputs


def _of_chunk(outputs: PartialOutputs, chunk: Any, t: Tensor) -> Tensor:
    return outputs(t, chunk)
