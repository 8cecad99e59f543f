"""Fused kernels that cannot be differentiated often enough, and what is computed in their place.

Some operations of torch have a fast kernel whose second derivative is missing or wrong, or whose third is. Where a
forward pass was seen to use one, every evaluation, or every one of higher order, runs in a context that computes the
same numbers by elementary operations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["HIGHER_ORDER", "elementary_operations", "fused_kernels"]

_SIGNS = {
    "attention": ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer"),
    "embedding bag": ("_embedding_bag",),
    "layer norm": ("native_layer_norm",),
    "weight norm": ("_weight_norm",),
}
"""What the names of a fused kernel's elementary operations contain."""

HIGHER_ORDER = frozenset({"layer norm"})
"""Kernels whose second derivatives are sound, so that they are replaced only where third ones are asked for."""


def fused_kernels(operations: frozenset[str]) -> frozenset[str]:
    """Which of the kernels known here a computation uses.

    >>> sorted(fused_kernels(frozenset({"mm", "_weight_norm_interface"})))
    ['weight norm']
    """
    return frozenset(
        kernel for kernel, parts in _SIGNS.items() if any(part in name for part in parts for name in operations)
    )


@contextmanager
def elementary_operations(kernels: frozenset[str]) -> Iterator[None]:
    """Compute these kernels by elementary operations while the block runs."""
    with ExitStack() as stack:
        for kernel in sorted(kernels):
            stack.enter_context(_CONTEXTS[kernel]())
        yield


@contextmanager
def _mathematical_attention() -> Iterator[None]:
    """Attention by plain products and a softmax, which alone has forward mode and second derivatives everywhere."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if torch.backends.cudnn.is_available():
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


class _OpenWeightNorm(TorchFunctionMode):
    """``g v / ||v||`` written out.

    The fused kernel for CPUs has no forward mode, and its second derivative (torch 2.13) treats the norm as a constant:
    the Hessian comes out wrong, and not even symmetric.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _weight_norm(*args, **(kwargs or {})) if func is torch._weight_norm else func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    if dim == -1:
        return v * (g / v.square().sum().sqrt())
    others = [d for d in range(v.dim()) if d != dim % v.dim()]
    return v * (g / v.square().sum(others, keepdim=True).sqrt())


class _OpenLayerNorm(TorchFunctionMode):
    """Layer normalisation written out.

    In torch 2.13 the fused kernel takes mean and variance for constants when its forward mode is differentiated again,
    and when its double backward is: nested forward mode is wrong from the second derivative on, reverse mode from the
    third.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written_out = func is torch.layer_norm or func is torch.nn.functional.layer_norm
        return _layer_norm(*args, **(kwargs or {})) if written_out else func(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,  # noqa: A002  torch's own name, by which it may be passed
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    centred = input - input.mean(dims, keepdim=True)
    normed = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    scaled = normed if weight is None else normed * weight
    return scaled if bias is None else scaled + bias


class _OpenEmbeddingBag(TorchFunctionMode):
    """Bags of equal length as a mean, sum or maximum of embeddings; the fused kernel has no second derivative."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.embedding_bag:
            given = inspect.signature(func).bind(*args, **(kwargs or {}))
            given.apply_defaults()
            if given.arguments["input"].dim() == 2 and given.arguments["max_norm"] is None:
                return _embedding_bag(given.arguments)
        return func(*args, **(kwargs or {}))


def _embedding_bag(given: dict[str, Any]) -> Tensor:
    words, padding, mode = given["input"], given["padding_idx"], given["mode"]
    found = torch.nn.functional.embedding(words, given["weight"])
    kept = torch.ones_like(words, dtype=torch.bool) if padding is None else words != padding % len(given["weight"])
    if mode == "max":
        largest = found.masked_fill(~kept.unsqueeze(-1), -torch.inf).amax(-2)
        return torch.where(kept.any(-1, keepdim=True), largest, torch.zeros_like(largest))
    weights = kept.to(found) if given["per_sample_weights"] is None else kept * given["per_sample_weights"]
    total = (weights.unsqueeze(-1) * found).sum(-2)
    return total / kept.sum(-1, keepdim=True).clamp_min(1) if mode == "mean" else total


_CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "attention": _mathematical_attention,
    "embedding bag": _OpenEmbeddingBag,
    "layer norm": _OpenLayerNorm,
    "weight norm": _OpenWeightNorm,
}
