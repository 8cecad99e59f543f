"""What is refused at the door: modules and forward passes from which no honest objective can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from thalweg.foundation import InvalidInputError, StochasticModelError, UnsupportedModelError
from thalweg.objectives.data import take

__all__ = ["check_forward", "check_module"]


def check_module(model: object) -> None:
    """Refuse what cannot be copied and differentiated here.

    Raises:
        UnsupportedModelError: for anything but a plain, initialised, unquantised `nn.Module` with trainable parameters.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError("a scripted or traced module hides its code; pass the nn.Module it was made from")
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the model must be an nn.Module, got {type(model).__name__}")
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise UnsupportedModelError(
            f"lazy parameters have no shape yet: {', '.join(lazy)}; run the model once on a batch, then pass it"
        )
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.is_quantized for t in tensors) or any("quantized" in type(m).__module__ for m in model.modules()):
        raise UnsupportedModelError("a quantised module has no derivatives; pass the floating-point model")
    if any(t.is_complex() for t in tensors):
        raise UnsupportedModelError("complex parameters are not supported; write them as real and imaginary parts")
    if not any(p.requires_grad for p in model.parameters()):
        raise UnsupportedModelError(
            "the model has no trainable parameter (none with requires_grad=True); unfreeze some, or name them with "
            "parameters="
        )
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InvalidInputError(f"parameter {name!r} holds NaN or infinite entries; load sound weights first")


def check_forward(model: nn.Module, forward: Callable[[Any], Any], inputs: Any, samples: int) -> None:
    """Run the forward pass a few times and refuse what is not a function of parameters and each sample alone.

    Args:
        model: the private copy, whose buffers must not change.
        forward: maps a batch of inputs to raw outputs.
        inputs: tensors with `samples` rows.
        samples: at most a few dozen are used.

    Raises:
        StochasticModelError: for dropout, batch statistics or any other randomness or memory.
        InvalidInputError: for outputs that are not finite or have no row per sample.
    """
    few = take(inputs, slice(0, min(samples, 16)))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = forward(few)
        torch.manual_seed(1)
        second = forward(few)
    changed = [name for name, b in model.named_buffers() if name in before and not torch.equal(b, before[name])]
    if changed:
        raise StochasticModelError(
            f"the forward pass changes the buffers {', '.join(changed)}{_blame(model)}; call model.eval() first"
        )
    _check_rows(first, min(samples, 16))
    if not _agree(first, second):
        raise StochasticModelError(
            f"two forward passes on the same samples differ{_blame(model)}; call model.eval() first, or remove the "
            f"randomness"
        )
    with torch.no_grad():
        half = forward(take(few, slice(0, max(1, min(samples, 16) // 2))))
    if not _agree(take(first, slice(0, max(1, min(samples, 16) // 2))), half, 1e-6):
        raise StochasticModelError(
            f"a sample's output depends on the other samples of its batch{_blame(model)}; a loss over samples needs "
            f"outputs "
            "of each sample alone: call model.eval() first"
        )


def _check_rows(outputs: Any, samples: int) -> None:
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    if not leaves:
        raise InvalidInputError(f"the forward pass returned {type(outputs).__name__} without a tensor")
    for leaf in leaves:
        if leaf.dim() == 0 or len(leaf) != samples:
            raise InvalidInputError(
                f"the model returned a tensor of shape {tuple(leaf.shape)} for {samples} samples; the first dimension "
                f"must "
                "count the samples (pass forward= to select and permute outputs)"
            )
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            raise InvalidInputError(
                "the model returned NaN or infinite outputs on finite data; check weights and inputs"
            )


def _agree(first: Any, second: Any, tolerance: float = 1e-9) -> bool:
    for a, b in zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=True):
        if isinstance(a, Tensor) and a.is_floating_point():
            loose = tolerance if a.dtype == torch.float64 else max(tolerance, 1e-4)
            scale = float(a.abs().max()) if a.numel() else 0.0
            if a.shape != b.shape or float((a - b).abs().max() if a.numel() else 0.0) > loose * max(scale, 1e-300):
                return False
    return True


def _blame(model: nn.Module) -> str:
    """Name the modules that are the usual cause."""
    culprits = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.training
        and (
            (isinstance(module, _DropoutNd) and module.p > 0)
            or (isinstance(module, _NormBase) and not type(module).__name__.startswith("Instance"))
            or (
                getattr(module, "dropout", 0.0) not in (0.0, None)
                and isinstance(getattr(module, "dropout", None), float)
            )
        )
    ]
    return f" (in train mode: {', '.join(culprits)})" if culprits else ""
