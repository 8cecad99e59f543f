"""What is refused at the door: modules and forward passes from which no honest objective can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from thalweg.foundation import (
    InvalidInputError,
    StochasticModelError,
    ThalwegError,
    UnsupportedModelError,
    first_line,
    preserved_random_state,
)
from thalweg.objectives.data import take

__all__ = [
    "attempt",
    "check_forward",
    "check_free",
    "check_module",
    "checked_batch_size",
    "checked_dtype",
    "checked_weights",
]

FEW = 16
"""Samples that the forward pass is tried on."""


def check_module(model: object) -> None:
    """Refuse what cannot be copied and differentiated here.

    Raises:
        UnsupportedModelError: for anything but a plain, initialised, unquantised `nn.Module` with parameters.
        InvalidInputError: for parameters that are not finite.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidInputError("torch.inference_mode() forbids derivatives; make the objective outside of it")
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the model must be an nn.Module, got {type(model).__name__}")
    parts = list(model.modules())
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise UnsupportedModelError("a scripted or traced module hides its code; pass the nn.Module it was made from")
    if any(type(part).__name__ == "OptimizedModule" for part in parts):
        raise UnsupportedModelError(
            "a compiled module hides its code; pass the nn.Module it was made from (its attribute _orig_mod)"
        )
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise UnsupportedModelError(
            f"lazy parameters have no shape yet: {', '.join(lazy)}; run the model once on a batch, then pass it"
        )
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.is_quantized for t in tensors) or any(_is_quantised(part) for part in parts):
        raise UnsupportedModelError("a quantised module has no derivatives; pass the floating-point model")
    if any(t.is_complex() for t in tensors):
        raise UnsupportedModelError("complex parameters are not supported; write them as real and imaginary parts")
    devices = sorted({str(t.device) for t in tensors})
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"the model lies on several devices ({', '.join(devices)}); move it to one with model.to(device)"
        )
    if devices == ["meta"]:
        raise UnsupportedModelError("the model is on the meta device and holds no numbers; load its weights first")
    if not list(model.parameters()):
        raise UnsupportedModelError("the model has no parameters: there is nothing to minimise over")
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InvalidInputError(f"parameter {name!r} holds NaN or infinite entries; load sound weights first")


def check_free(model: nn.Module, names: list[str]) -> None:
    """Refuse a model in which nothing is free to move.

    Raises:
        UnsupportedModelError: if `names`, the free parameters, are none.
    """
    if not names:
        raise UnsupportedModelError(
            "the model has no trainable parameter (none with requires_grad=True); "
            "unfreeze some, or name them with parameters="
        )
    own = dict(model.named_parameters())
    whole = [name for name in names if not own[name].is_floating_point()]
    if whole:
        raise UnsupportedModelError(f"the parameters {', '.join(whole)} are no floating numbers and cannot be moved")


def attempt(model: nn.Module, forward: Callable[[Any], Any], inputs: Any) -> Any:
    """Call the forward pass; where it fails, say on what, and what usually helps.

    Raises:
        InvalidInputError: with what the forward pass raised.
    """
    try:
        return forward(inputs)
    except ThalwegError:
        raise
    except Exception as error:  # whatever a foreign module may raise
        leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        given = ", ".join(f"{tuple(leaf.shape)} {leaf.dtype}" for leaf in leaves)
        advice = "check that the data fit the model, or pass forward= to call it otherwise"
        if any(not leaf.is_floating_point() for leaf in leaves):
            advice += "; whole numbers keep their type: pass .float() where measurements are meant"
        if _culprits(model):
            advice = f"call model.eval() first{_blame(model)}"
        raise InvalidInputError(
            f"the forward pass fails on samples of {given}: {type(error).__name__}: {first_line(error)}; {advice}"
        ) from error


def _is_quantised(part: nn.Module) -> bool:
    home = type(part).__module__
    return home.startswith("torch.") and "quantized" in home


def check_forward(model: nn.Module, forward: Callable[[Any], Any], inputs: Any, samples: int) -> None:
    """Run the forward pass a few times and refuse what is not a function of parameters and each sample alone.

    Args:
        model: the private copy, whose parameters and buffers must not change.
        forward: maps a batch of inputs to raw outputs.
        inputs: tensors with `samples` rows.
        samples: at most a few dozen are used.

    Raises:
        StochasticModelError: for dropout, batch statistics or any other randomness or memory.
        InvalidInputError: for outputs that are not finite or have no row per sample.
    """
    n = min(samples, FEW)
    few = take(inputs, slice(0, n))
    watched = dict(model.named_buffers()) | dict(model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in watched.items()}
    with torch.no_grad(), preserved_random_state(0):
        first = forward(few)
    with torch.no_grad(), preserved_random_state(1):
        second = forward(few)
    changed = [name for name, tensor in watched.items() if not _unchanged(tensor, before[name])]
    if changed:
        raise StochasticModelError(
            f"the forward pass changes {', '.join(changed)} of the model{_blame(model)}{_remedy(model)}"
        )
    _check_rows(first, n)
    if not _agree(first, second):
        raise StochasticModelError(
            f"two forward passes on the same samples differ{_blame(model)}"
            f"{_remedy(model, 'remove what is random, or ')}"
        )
    if n == 1:
        return
    with torch.no_grad(), preserved_random_state(0):
        half = forward(take(few, slice(0, n // 2)))
    _check_rows(half, n // 2)
    if not _agree(_first_rows(first, n // 2), half, 1e-6):
        raise StochasticModelError(
            f"a sample's output depends on the other samples of its batch{_blame(model)}; a loss over samples needs "
            f"the outputs of each sample alone{_remedy(model)}"
        )


def _first_rows(tree: Any, count: int) -> Any:
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[:count], tree)


def _unchanged(now: Tensor, before: Tensor) -> bool:
    return torch.equal(now, before) or (now.is_floating_point() and torch.equal(now.nan_to_num(), before.nan_to_num()))


def _check_rows(outputs: Any, samples: int) -> None:
    leaves = pytree.tree_leaves(outputs)
    odd = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
    if odd or not leaves:
        raise InvalidInputError(
            f"the forward pass returned {', '.join(odd) or 'nothing'} where tensors are needed; pass forward= to "
            "select the outputs"
        )
    for leaf in leaves:
        if not leaf.is_floating_point():
            raise InvalidInputError(
                f"the model returned a tensor of {leaf.dtype}, which has no derivative; "
                "pass forward= to select real floating outputs"
            )
        if leaf.dim() == 0 or len(leaf) != samples:
            raise InvalidInputError(
                f"the model returned a tensor of shape {tuple(leaf.shape)} for {samples} samples; the first dimension "
                "must count the samples (pass forward= to select and permute outputs)"
            )
        if not bool(torch.isfinite(leaf).all()):
            raise InvalidInputError(
                "the model returned NaN or infinite outputs on finite data; check weights and inputs"
            )


def _agree(first: Any, second: Any, tolerance: float = 1e-9) -> bool:
    for a, b in zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=True):
        if a.shape != b.shape:
            return False
        loose = tolerance if a.dtype == torch.float64 else max(tolerance, 1e-4)
        scale = float(a.abs().max()) if a.numel() else 0.0
        if float((a - b).abs().max() if a.numel() else 0.0) > loose * max(scale, 1e-300):
            return False
    return True


def _culprits(model: nn.Module) -> list[str]:
    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.training and (_drops(module) or (isinstance(module, _NormBase) and _learns_statistics(module)))
    ]


def _drops(module: nn.Module) -> bool:
    """Whether a module throws activations away at random in train mode."""
    rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
    return isinstance(rate, int | float) and rate > 0


def _learns_statistics(module: _NormBase) -> bool:
    return module.track_running_stats or not type(module).__name__.startswith("Instance")


def _blame(model: nn.Module) -> str:
    """Name the modules that are the usual cause."""
    culprits = _culprits(model)
    return f" (in train mode: {', '.join(culprits)})" if culprits else ""


def _remedy(model: nn.Module, otherwise: str = "") -> str:
    if _culprits(model):
        return "; call model.eval() first"
    first = "call model.eval() first, or " if model.training else ""
    return f"; {first}{otherwise}rewrite it as a function of its parameters and of each sample alone"


# -- settings ----------------------------------------------------------------------------------------------------------


def checked_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in.

    Raises:
        InvalidInputError: for any but double and single precision.
    """
    if dtype not in (torch.float64, torch.float32):
        raise InvalidInputError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    return dtype


def checked_batch_size(size: int | None) -> int | None:
    """The most samples in one pass, or None.

    Raises:
        InvalidInputError: for anything but a positive whole number.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, SupportsIndex) or size < 1):
        raise InvalidInputError(f"batch_size must be a positive whole number of samples, got {size!r}")
    return size


def checked_weights(weights: Tensor | None, samples: int, like: Tensor) -> Float[Tensor, " N"]:
    """What multiplies each sample's contribution, all ones for None; a copy in the type of another tensor.

    Raises:
        InvalidInputError: for another length, and for weights that are negative, not finite or all zero.
    """
    if weights is None:
        return torch.ones(samples, dtype=like.dtype, device=like.device)
    try:
        weights = torch.as_tensor(weights).detach().to(like).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"sample_weight must hold one number per sample ({error})") from None
    if weights.shape != (samples,):
        raise InvalidInputError(f"sample_weight has shape {tuple(weights.shape)}, expected ({samples},)")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InvalidInputError("sample_weight must be finite, not negative and not all zero")
    return weights
