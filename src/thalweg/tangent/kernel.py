"""The neural tangent kernel J J^T of a network at a point, computed layer by layer.

``K[(n, c), (m, d)]`` is the inner product of the gradients of output c on sample n and of output d on sample m. It is
a sum over parameter blocks, and for the layers of `_layer_rules` each term comes from activations and backpropagated
signals without forming J (Cai, Gao, Hou et al. 2019, "Gram-Gauss-Newton method", for one dense layer and one output).
What no rule covers is done by columns of J, a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, current_limit, progress_bar, require_memory
from thalweg.objectives import Capability, OutputObjective, require
from thalweg.tangent._columns import add_columns
from thalweg.tangent._factors import TILE_BYTES
from thalweg.tangent._layers import LayerEngine, LayerPlan

__all__ = ["BlockRoute", "TangentKernel", "kernel_operator", "tangent_kernel"]


@dataclass(frozen=True)
class BlockRoute:
    """How the share of one parameter block was computed.

    Attributes:
        block: its name.
        size: its number of coordinates.
        engine: ``"layers"``, from activations and signals, or ``"columns"`` of the Jacobian.
        detail: the kind of layer, or why no layer rule serves.
    """

    block: str
    size: int
    engine: Literal["layers", "columns"]
    detail: str


@dataclass(frozen=True)
class TangentKernel:
    """A kernel matrix and how it was obtained.

    Attributes:
        matrix: ``(N*C, M*D)``, float64, samples outer, outputs inner; symmetric where there is one set of data.
        blocks: the share of each block, where these were asked for; they sum to `matrix`.
        routes: which way each block went.
        samples: N and M.
        outputs: C and D.
        discrepancy: largest relative difference seen between the layers' gradients and autograd's, over all passes.
        predicted_bytes: memory predicted for the whole computation.
    """

    matrix: Float[Tensor, "NC MD"]
    blocks: dict[str, Float[Tensor, "NC MD"]]
    routes: tuple[BlockRoute, ...]
    samples: tuple[int, int]
    outputs: tuple[int, int]
    discrepancy: float
    predicted_bytes: int

    @property
    def by_sample(self) -> Float[Tensor, "N C M D"]:
        """The matrix with samples and outputs apart."""
        return self.matrix.reshape(self.samples[0], self.outputs[0], self.samples[1], self.outputs[1])

    def describe(self) -> str:
        """One line for reports."""
        parts = []
        for engine in ("layers", "columns"):
            sizes = [route.size for route in self.routes if route.engine == engine]
            if sizes:
                parts.append(f"{sum(sizes)} parameters in {len(sizes)} block(s) by {engine}")
        rows, columns = self.matrix.shape
        return f"tangent kernel {rows} x {columns}: " + ", ".join(parts)


def tangent_kernel(
    objective: OutputObjective,
    theta: Float[Tensor, " P"],
    other: OutputObjective | None = None,
    *,
    parameters: str | Iterable[str] | None = None,
    per_block: bool = False,
    engine: Literal["auto", "columns"] = "auto",
) -> TangentKernel:
    """Compute the tangent kernel between all samples, or between the samples of two objectives.

    Each layer's contribution is checked on every pass against autograd's own gradient; a block that fails the check
    (a parameter used outside its module too, say) goes by columns, and `TangentKernel.routes` says so. Everything is
    summed in float64, also for a model in float32.

    Args:
        objective: any loss of outputs; layer rules serve those with a torch module.
        theta: ``(P,)``.
        other: a second objective over the same space, such as ``risk.on(other_data)``.
        parameters: globs of the blocks that count, such as ``"layers.0.*"``; None for all.
        per_block: also keep each block's own kernel.
        engine: ``"columns"`` takes no layer rule, which is slow and needs no trust.

    Raises:
        NotApplicableError: for an objective without outputs.
        InvalidInputError: if the spaces of the two objectives differ, a glob matches nothing, or `engine` is neither.
        MemoryLimitError: if the matrix would not fit; `kernel_operator` then serves.

    >>> from thalweg.objectives import EmpiricalRisk
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> risk = EmpiricalRisk(model, torch.nn.MSELoss(), torch.eye(3), torch.ones(3, 1))
    >>> kernel = tangent_kernel(risk, risk.initial)
    >>> jacobian = risk.jacobian(risk.initial)
    >>> kernel.describe(), torch.allclose(kernel.matrix, jacobian @ jacobian.T)
    ('tangent kernel 3 x 3: 21 parameters in 4 block(s) by layers', True)
    """
    if engine not in ("auto", "columns"):
        raise InvalidInputError(f"engine must be 'auto' or 'columns', got {engine!r}")
    sides = _checked_sides(objective, other)
    point = objective._single(theta)
    blocks = _chosen_blocks(objective, parameters)
    shapes = tuple(side.n_samples for side in sides), tuple(side.n_outputs for side in sides)
    (n, m), (c, d) = shapes
    matrices = 1 + (len(blocks) if per_block else 0)
    matrix_bytes = 8 * n * c * m * d * matrices
    alternative = "Use kernel_operator(objective, theta), a subset of the samples, or per_block=False."
    require_memory(matrix_bytes + 2 * TILE_BYTES, f"{matrices} kernel matrix(ces) of {n * c} x {m * d}", alternative)
    fixed = matrix_bytes + 2 * TILE_BYTES + max(side.cost.bytes_fixed for side in sides)
    room = max(0, current_limit() - fixed)
    layers = LayerEngine(sides, point, blocks if engine == "auto" else [], room)
    total = torch.zeros(n, c, m, d, dtype=torch.float64, device=objective.device)
    shares = {name: torch.zeros_like(total) for name in blocks} if per_block else {}
    with progress_bar("tangent kernel") as bar:
        plan = layers.add_to(total, shares, bar)
        left = [name for name in blocks if name not in plan.rules]
        used = add_columns(sides, point, left, room, total, shares, bar)
    if sides[0] is sides[1]:
        for tensor in (total, *shares.values()):
            _mirror(tensor)
    return TangentKernel(
        matrix=total.reshape(n * c, m * d),
        blocks={name: share.reshape(n * c, m * d) for name, share in shares.items()},
        routes=tuple(_route(objective, name, plan) for name in blocks),
        samples=(n, m),
        outputs=(c, d),
        discrepancy=plan.discrepancy,
        predicted_bytes=fixed + max(plan.predicted_bytes, used),
    )


def kernel_operator(
    objective: OutputObjective, theta: Float[Tensor, " P"], *, parameters: str | Iterable[str] | None = None
) -> LinearOperator:
    """The tangent kernel known by its products ``J (J^T v)``, a reverse and a forward pass each; nothing is formed.

    Args:
        objective: any loss of outputs.
        theta: ``(P,)``.
        parameters: globs of the blocks that count; None for all.

    Raises:
        NotApplicableError: for an objective without outputs.
    """
    require(objective, Capability.OUTPUTS, "the tangent kernel")
    jacobian = objective.jacobian_operator(theta)
    mask: Tensor | None = None
    if parameters is not None:
        mask = torch.zeros(objective.space.size, 1, dtype=objective.dtype, device=objective.device)
        mask[objective.space.select(parameters)] = 1

    def matmat(columns: Tensor) -> Tensor:
        pulled = jacobian.transpose_matmul(columns)
        return jacobian @ (pulled if mask is None else mask * pulled)

    rows = jacobian.shape[0]
    return LinearOperator((rows, rows), matmat, symmetric=True, dtype=objective.dtype, device=objective.device)


def _checked_sides(objective: OutputObjective, other: OutputObjective | None) -> tuple[OutputObjective, ...]:
    sides = (objective, objective if other is None else other)
    for side in sides:
        require(side, Capability.OUTPUTS, "the tangent kernel")
    if sides[0].space != sides[1].space:
        raise InvalidInputError(f"both objectives need one space; got {sides[0].space!r} and {sides[1].space!r}")
    return sides


def _chosen_blocks(objective: OutputObjective, parameters: str | Iterable[str] | None) -> list[str]:
    chosen = set(objective.space.select(parameters if parameters is not None else "*").tolist())
    return [block.name for block in objective.space if block.start in chosen and block.size]


def _route(objective: OutputObjective, name: str, plan: LayerPlan) -> BlockRoute:
    size = objective.space[name].size
    if name in plan.rules:
        return BlockRoute(name, size, "layers", plan.rules[name])
    return BlockRoute(name, size, "columns", plan.reasons.get(name, "columns were asked for"))


def _mirror(matrix: Tensor) -> None:
    """Fill ``(N, C, N, C)`` below the diagonal of samples from above it, in place, and make it symmetric."""
    n, c = matrix.shape[:2]
    flat = matrix.view(n * c, n * c)
    step = max(1, 256 // c) * c
    for start in range(0, n * c, step):
        rows = slice(start, start + step)
        square = flat[rows, rows]
        square.copy_(torch.triu(square) + torch.triu(square, 1).T)
        flat[start + step :, rows] = flat[rows, start + step :].T
