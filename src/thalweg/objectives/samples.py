"""What is taken apart by samples: Jacobians, gradients and curvatures of a loss whose samples do not interact.

Everything here acts on two pure functions of an objective: its outputs ``(theta, chunk) -> (n, C)`` and its loss
``(outputs, chunk) -> scalar``. A chunk is a tree of tensors with one leading row per sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils import _pytree as pytree

from thalweg.foundation import NotApplicableError
from thalweg.objectives.paths import quiet

__all__ = [
    "chunk_length",
    "keep_outputs",
    "loss_curvature",
    "loss_hessians",
    "pull",
    "push",
    "sample_gradients",
    "sample_jacobians",
    "sample_losses",
]

Outputs = Callable[[Tensor, Any], Tensor]
Loss = Callable[[Tensor, Any], Tensor]
OutputFunction = Callable[[Tensor], Tensor]

WIDEST_BLOCK = 32
"""Outputs up to which a sample's curvature is kept as a C x C block; beyond, products through the loss are cheaper."""


def chunk_length(chunk: Any) -> int:
    """Number of samples of a chunk."""
    return len(next(leaf for leaf in pytree.tree_leaves(chunk) if isinstance(leaf, Tensor)))


def _map(function: Callable[[Tensor], Tensor], chunk: Any) -> Any:
    return pytree.tree_map_only(Tensor, function, chunk)


def _alone(sample: Any) -> Any:
    """A sample cut out of a chunk by ``vmap``, as a chunk of one."""
    return _map(lambda leaf: leaf.unsqueeze(0), sample)


def _singles(chunk: Any) -> list[Any]:
    return [_map(lambda leaf, i=i: leaf[i : i + 1], chunk) for i in range(chunk_length(chunk))]  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def _over_chunk(function: Callable[..., Tensor], chunk: Any, *rest: Tensor) -> Tensor:
    """``vmap`` of ``function(sample, *rest_row)`` over the samples of a chunk; entries that are no tensors stay."""
    leaves, spec = pytree.tree_flatten(chunk)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def of_one(sample: list[Tensor], *row: Tensor) -> Tensor:
        those = iter(sample)
        filled = [next(those) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return function(_alone(pytree.tree_unflatten(filled, spec)), *row)

    with quiet():
        result: Tensor = torch.func.vmap(of_one)(tensors, *rest)
    return result


# -- by parameters -----------------------------------------------------------------------------------------------------


def sample_jacobians(outputs: Outputs, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C P"]:
    """Jacobian of each sample by itself under ``vmap``: C passes back for the whole chunk instead of n * C."""
    return _over_chunk(lambda one: torch.func.jacrev(lambda t: outputs(t, one).squeeze(0))(theta), chunk)


def sample_gradients(
    value: Loss, theta: Float[Tensor, " P"], chunk: Any, *, by_vmap: bool = True
) -> Float[Tensor, "n P"]:
    """Gradient of ``value(theta, chunk)`` for each sample as a chunk of one."""
    if by_vmap:
        return _over_chunk(lambda one: torch.func.grad(lambda t: value(t, one))(theta), chunk)
    found = []
    for one in _singles(chunk):
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            result = value(leaf, one)
            found.append(
                torch.autograd.grad(result, leaf, materialize_grads=True)[0]
                if result.requires_grad
                else torch.zeros_like(leaf)
            )
    return torch.stack(found)


def push(f: OutputFunction, point: Float[Tensor, " P"], columns: Float[Tensor, "P k"], *, forward: bool) -> Tensor:
    """``J @ columns`` as ``(n * C, k)``: in forward mode, or as the transpose of the transpose."""
    if forward:
        with quiet(), torch.no_grad():
            parts = [torch.func.jvp(f, (point,), (v,))[1].reshape(-1) for v in columns.T.unbind()]
        return torch.stack(parts, dim=1)
    _, _, forwards = keep_outputs(f, point)
    return torch.stack([forwards(v).reshape(-1) for v in columns.T.unbind()], dim=1)


def pull(f: OutputFunction, point: Float[Tensor, " P"], signals: Float[Tensor, "k n C"]) -> Float[Tensor, "k P"]:
    """``J^T`` times each signal."""
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        outputs = f(leaf)
        if not outputs.requires_grad:
            return point.new_zeros(len(signals), len(point))
        parts = [
            torch.autograd.grad(outputs, leaf, signal, retain_graph=True, materialize_grads=True)[0]
            for signal in signals.unbind()
        ]
    return torch.stack(parts)


def keep_outputs(
    f: OutputFunction, point: Float[Tensor, " P"]
) -> tuple[Float[Tensor, "n C"], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """One pass forward whose graph is kept: the outputs, ``signal -> J^T signal`` and ``v -> J v``.

    Pulling back is linear in the signal, so the derivative of the pulled signal with respect to the signal, which
    reverse mode gives, is the Jacobian itself.
    """
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        outputs = f(leaf)
        if not outputs.requires_grad:
            return outputs, lambda _: torch.zeros_like(point), lambda _: torch.zeros_like(outputs)
        signal = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, leaf, signal, create_graph=True, materialize_grads=True)

    # one number a parameter need not be held for each chunk: its place in the graph is enough
    edge = get_gradient_edge(pulled) if pulled.requires_grad else None

    def backward(weights: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, leaf, weights, retain_graph=True, materialize_grads=True)[0]

    def forwards(vector: Tensor) -> Tensor:
        if edge is None:
            return torch.zeros_like(outputs)
        return torch.autograd.grad(edge, signal, vector, retain_graph=True, materialize_grads=True)[0]

    return outputs.detach(), backward, forwards


# -- by outputs --------------------------------------------------------------------------------------------------------


def sample_losses(loss: Loss, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, " n"]:
    """The loss of each sample as a chunk of one."""
    try:
        return _over_chunk(lambda one, row: loss(row.unsqueeze(0), one), chunk, outputs)
    except RuntimeError:  # a loss that vmap cannot batch (a data-dependent branch): one by one
        pairs = zip(outputs.split(1), _singles(chunk), strict=True)
        return torch.stack([loss(row, one) for row, one in pairs])


def _products(value: OutputFunction, outputs: Tensor) -> OutputFunction:
    """The Hessian of ``value`` at `outputs`, by its products with tensors of the same shape."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        found = value(leaf)
        if not found.requires_grad:
            return torch.zeros_like
        (slope,) = torch.autograd.grad(found, leaf, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:
        return torch.zeros_like

    def product(v: Tensor) -> Tensor:
        try:
            return torch.autograd.grad(slope, leaf, v, retain_graph=True, materialize_grads=True)[0]
        except RuntimeError as error:  # torch has losses whose second derivative nobody wrote
            raise NotApplicableError(f"the loss cannot be differentiated twice in the outputs: {error}") from error

    return product


def loss_hessians(value: OutputFunction, outputs: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n C C"]:
    """Hessian blocks of a scalar function of outputs whose rows do not interact: C products serve all rows at once."""
    product = _products(value, outputs)
    units = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    return torch.stack([product(unit.expand_as(outputs).contiguous()) for unit in units.unbind()], dim=-2)


def loss_curvature(value: OutputFunction, outputs: Float[Tensor, "n C"]) -> OutputFunction:
    """The map ``(n, C) -> (n, C)`` of the Hessian in the outputs, by the cheaper way to hold it."""
    if outputs.shape[1] > WIDEST_BLOCK:
        return _products(value, outputs)
    blocks = loss_hessians(value, outputs)
    return lambda v: torch.einsum("ncd,nd->nc", blocks, v)
