"""A description held against the module it describes.

The description is computed again at the module's own parameters and at random ones, on the given inputs and on random
ones, and compared with the module: values, and the gradient along a random direction of the output. What disagrees is
not believed. The gradient matters because a forward may stop it (``detach``, ``no_grad``, straight-through tricks):
then it is not the derivative of the function that the steps describe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import first_line
from thalweg.structure.capture import plain_execution
from thalweg.structure.source import Source

__all__ = ["disagreement", "samples_are_independent"]

VALUE_TOLERANCE = 1e-10
"""Largest difference of an output, relative to the largest entry of that output."""
GRADIENT_TOLERANCE = 1e-8
"""Largest difference of a gradient, relative to the largest entry of the whole gradient."""

Rebuilt = Callable[[dict[str, Tensor], list[Any]], list[Tensor]]


@dataclass(frozen=True)
class _Case:
    what: str
    parameters: dict[str, Tensor]
    leaves: list[Any]
    gradients: bool = False


def disagreement(source: Source, inputs: Any, rebuilt: Rebuilt, seed: int) -> str | None:
    """Why the description is not the module, or None where both agree.

    Args:
        source: the module.
        inputs: the example inputs, floating-point ones in float64.
        rebuilt: computes the flattened outputs from all parameters by name and the flattened inputs.
        seed: of the random parameters and inputs.
    """
    leaves, spec = pytree.tree_flatten(inputs)
    compared = 0
    with plain_execution():
        for case in _cases(source.parameters(), leaves, seed):
            try:
                expected = pytree.tree_leaves(source.call(case.parameters, pytree.tree_unflatten(case.leaves, spec)))
            except Exception:  # the user's code may refuse random inputs; then these are no test
                continue
            if not all(_finite(t) for t in expected):
                continue
            problem = _compare(source, case, spec, rebuilt, expected)
            if problem is not None:
                return f"{problem} at {case.what}"
            compared += 1
    return None if compared >= 2 else "its outputs are not finite, or it fails, at random parameters"


def _compare(source: Source, case: _Case, spec: pytree.TreeSpec, rebuilt: Rebuilt, expected: list[Any]) -> str | None:
    try:
        found = rebuilt(case.parameters, case.leaves)
    except (RuntimeError, ValueError, IndexError) as error:
        return f"the description fails ({first_line(error)})"
    if len(found) != len(expected):
        return f"the description has {len(found)} outputs, the module {len(expected)}"
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            return f"the description gives shape {tuple(ours.shape)}, the module {tuple(theirs.shape)}"
        gap = float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0
        size = float(theirs.double().abs().max()) if ours.numel() else 0.0
        if not gap <= VALUE_TOLERANCE * size:
            return f"the description differs from the module by {gap:.1e} (outputs up to {size:.1e})"
    return _compare_gradients(source, case, spec, rebuilt) if case.gradients else None


def _compare_gradients(source: Source, case: _Case, spec: pytree.TreeSpec, rebuilt: Rebuilt) -> str | None:
    generator = torch.Generator().manual_seed(1)

    def slope(of: Callable[[dict[str, Tensor]], list[Tensor]]) -> list[Tensor] | None:
        generator.manual_seed(1)
        leaves = {name: p.clone().requires_grad_() for name, p in case.parameters.items()}
        total = torch.zeros((), dtype=torch.float64)
        for output in of(leaves):
            if output.is_floating_point() and output.requires_grad:
                weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.device)
                total = total + (output.double() * weights).sum().cpu()
        if not total.requires_grad:
            return None
        slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        return [s.to_dense() for s in slopes]  # embeddings may give sparse ones

    with torch.enable_grad():
        try:
            ours = slope(lambda p: rebuilt(p, case.leaves))
        except RuntimeError as error:  # an operation as it was recorded need not have a derivative of its own
            return f"the description cannot be differentiated ({first_line(error)})"
        try:
            theirs = slope(lambda p: pytree.tree_leaves(source.call(p, pytree.tree_unflatten(case.leaves, spec))))
        except RuntimeError as error:
            return f"the module cannot be differentiated ({first_line(error)})"
    if ours is None or theirs is None:
        return None if ours is theirs else "gradients do not flow through the module as through what it computes"
    size = max(float(t.abs().max()) for t in theirs if t.numel())
    gap = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True) if a.numel())
    if gap <= GRADIENT_TOLERANCE * max(size, max(float(t.abs().max()) for t in ours if t.numel())):
        return None
    return "its gradients are not the derivatives of what it computes (a detach or a custom backward?)"


def _cases(parameters: dict[str, Tensor], leaves: list[Any], seed: int) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(seed)
    yield _Case("its own parameters", parameters, leaves, gradients=True)
    for gradients in (False, True):
        drawn = {name: _draw(p, generator) for name, p in parameters.items()}
        yield _Case("random parameters", drawn, leaves, gradients)
        if gradients:
            yield _Case("random parameters and inputs", drawn, [_like(leaf, generator) for leaf in leaves])
    nearby = {name: p + 0.1 * _draw(p, generator) for name, p in parameters.items()}
    yield _Case("nearby parameters and reordered inputs", nearby, [_reordered(leaf, generator) for leaf in leaves])


def _draw(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers of the tensor's own size, so that a random network has outputs of ordinary size."""
    size = float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    return (size if size > 0 else 0.3) * noise


def _like(leaf: Any, generator: torch.Generator) -> Any:
    if not (isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 1):
        return _reordered(leaf, generator)
    centre, spread = float(leaf.mean()), float(leaf.std())
    noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.device)
    return centre + (spread if spread > 0 else 1.0) * noise


def _reordered(leaf: Any, generator: torch.Generator) -> Any:
    if not isinstance(leaf, Tensor) or leaf.dim() == 0 or len(leaf) < 2:
        return leaf
    return leaf[torch.randperm(len(leaf), generator=generator).to(leaf.device)]


def _finite(output: Any) -> bool:
    return isinstance(output, Tensor) and bool(output.isfinite().all())


def samples_are_independent(source: Source, inputs: Any) -> bool | None:
    """Whether each sample's output depends on that sample alone.

    Half of the samples must give the first half of the outputs; a module that cannot take fewer samples, or single
    tensors without a common leading dimension, leave it open (None).
    """
    leaves, spec = pytree.tree_flatten(inputs)
    count = leading_dimension(leaves)
    if count is None or count < 2:
        return None
    half = (count + 1) // 2
    fewer = pytree.tree_unflatten(some_samples(leaves, slice(half)), spec)
    parameters = source.parameters()
    with plain_execution(), torch.no_grad():
        try:
            whole = pytree.tree_leaves(source.call(parameters, inputs))
            part = pytree.tree_leaves(source.call(parameters, fewer))
        except Exception:  # the user's code may insist on one number of samples
            return None
    if any(t.dim() == 0 or len(t) != count for t in whole) or any(len(t) != half for t in part):
        return False
    pairs = zip(whole, part, strict=True)
    return all(float((a[:half] - b).abs().max()) <= 1e-9 * max(1e-300, float(a.abs().max())) for a, b in pairs)


def leading_dimension(leaves: Sequence[Any]) -> int | None:
    """The number of samples: the first dimension of the first tensor that has one."""
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            return len(leaf) if leaf.dim() else None
    return None


def some_samples(leaves: Sequence[Any], which: slice) -> list[Any]:
    """Some samples of all tensors that share the leading dimension."""
    total = leading_dimension(leaves)

    def part(leaf: Any) -> Any:
        return leaf[which] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == total else leaf

    return [part(leaf) for leaf in leaves]
