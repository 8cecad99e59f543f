"""What each kind of layer makes of its input and of the signals that come back to its output.

A rule turns the input a module was given and the signals at its output into one factor per parameter. By then the
leading dimensions of both have been brought into order: samples n, then (signals only) outputs C, then places L,
which are whatever else the layer broadcasts over; the dimensions of a single call follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.tangent._factors import Factor, Lookup, Outer, Rows

__all__ = ["Rule", "rule_of"]

Factors = dict[str, Factor]


@dataclass(frozen=True)
class Rule:
    """How to read one kind of layer.

    Attributes:
        name: for reports.
        lead: how many dimensions of an output with this many dimensions the layer broadcasts over.
        prepare: from the module and its raw input, the tensor that meets the signals; it has the same lead.
        factors: from the module, the prepared input ``(n, L, ...)`` and the signals ``(n, C, L, ...)``, a factor for
            each parameter the module may have.
    """

    name: str
    lead: Callable[[Any, int], int]
    prepare: Callable[[Any, Tensor], Tensor]
    factors: Callable[[Any, Tensor, Tensor], Factors]


def rule_of(module: nn.Module) -> Rule | None:
    """The rule for a module whose forward is that of a known layer, or None.

    A subclass that keeps the forward (a parametrised layer, for one) counts as the layer; one that replaces it does
    not.
    """
    for kinds, rule in _RULES.items():
        for kind in kinds:
            if isinstance(module, kind) and _computes_as(module, kind):
                return rule if _applies(module) else None
    return None


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    parts = ("forward", "_conv_forward")
    return all(getattr(type(module), part, None) is getattr(kind, part, None) for part in parts)


def _applies(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):  # these change what the table or its gradient is
        return module.max_norm is None and not module.scale_grad_by_freq
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):  # batch statistics tie samples together
        return not module.training and module.running_mean is not None
    return True


def _given(module: Any, inputs: Tensor) -> Tensor:
    return inputs


def _all_but_last(module: Any, dimensions: int) -> int:
    return dimensions - 1


def _batch_only(module: Any, dimensions: int) -> int:
    return 1


# -- linear ------------------------------------------------------------------------------------------------------------


def _linear(module: nn.Linear, inputs: Tensor, signals: Tensor) -> Factors:
    return {"weight": Outer(signals, inputs), "bias": Rows(signals.sum(2))}


# -- convolutions ------------------------------------------------------------------------------------------------------


def _patches(module: Any, inputs: Tensor) -> Tensor:
    """What each output position sees: ``(batch, output positions, channels * kernel)``, channels outermost."""
    spatial = len(module.kernel_size)
    if inputs.dim() != spatial + 2:
        raise ValueError("a convolution called without a batch dimension")
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(inputs, _padding(module), mode=mode)
    for axis in range(spatial):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        padded = padded.unfold(2 + axis, reach, module.stride[axis])[..., :: module.dilation[axis]]
    return padded.movedim(1, 1 + spatial).flatten(1 + spatial).flatten(1, spatial)


def _padding(module: Any) -> list[int]:
    """Padding as `functional.pad` wants it: last dimension first, both sides."""
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "valid":
            sides += [0, 0]
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides += [total // 2, total - total // 2]
        else:
            sides += [module.padding[axis]] * 2
    return sides


def _convolution(module: Any, patches: Tensor, signals: Tensor) -> Factors:
    patches = patches.flatten(1, 2)  # (n, T, channels in * kernel), T = places * output positions
    signals = signals.flatten(4).transpose(3, 4).flatten(2, 3)  # (n, C, T, channels out)
    if module.groups == 1:
        weight: Factor = Outer(signals, patches)
    else:  # groups share nothing: the rows are small
        grouped = signals.unflatten(-1, (module.groups, -1))
        seen = patches.unflatten(-1, (module.groups, -1))
        weight = Rows(torch.einsum("nctkg,ntka->nckga", grouped, seen).flatten(2))
    return {"weight": weight, "bias": Rows(signals.sum(2))}


# -- embedding ---------------------------------------------------------------------------------------------------------


def _all(module: Any, dimensions: int) -> int:
    return dimensions - 1  # of the output; the indices have nothing else


def _embedding(module: nn.Embedding, indices: Tensor, signals: Tensor) -> Factors:
    if module.padding_idx is not None:  # torch gives this row no gradient
        signals = signals * (indices != module.padding_idx)[:, None, :, None]
    return {"weight": Lookup(signals, indices, module.num_embeddings)}


# -- normalisations: a gain and an offset behind something without parameters ------------------------------------------


def _layer_normalised(module: nn.LayerNorm, inputs: Tensor) -> Tensor:
    return functional.layer_norm(inputs, module.normalized_shape, None, None, module.eps)


def _rms_normalised(module: nn.RMSNorm, inputs: Tensor) -> Tensor:
    return functional.rms_norm(inputs, list(module.normalized_shape), None, module.eps)


def _group_normalised(module: nn.GroupNorm, inputs: Tensor) -> Tensor:
    return functional.group_norm(inputs, module.num_groups, None, None, module.eps)


def _batch_normalised(module: Any, inputs: Tensor) -> Tensor:
    return functional.batch_norm(inputs, module.running_mean, module.running_var, None, None, False, 0.0, module.eps)


def _instance_normalised(module: Any, inputs: Tensor) -> Tensor:
    own = module.training or not module.track_running_stats
    mean, variance = (None, None) if own else (module.running_mean, module.running_var)
    return functional.instance_norm(inputs, mean, variance, None, None, own, 0.0, module.eps)


def _before_normalised(module: Any, dimensions: int) -> int:
    return dimensions - len(module.normalized_shape)


def _gain_last(module: Any, normalised: Tensor, signals: Tensor) -> Factors:
    """Gain and offset over the last dimensions."""
    return _gain(signals * normalised.unsqueeze(1), signals)


def _gain_channel(module: Any, normalised: Tensor, signals: Tensor) -> Factors:
    """Gain and offset over the channels, which follow the places; summed over what follows the channels."""
    products = signals * normalised.unsqueeze(1)
    after = tuple(range(4, signals.dim()))
    return _gain(products.sum(after), signals.sum(after)) if after else _gain(products, signals)


def _gain(products: Tensor, signals: Tensor) -> Factors:
    return {"weight": Rows(products.sum(2).flatten(2)), "bias": Rows(signals.sum(2).flatten(2))}


_RULES: dict[tuple[type[nn.Module], ...], Rule] = {
    (nn.Linear,): Rule("linear", _all_but_last, _given, _linear),
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): Rule("convolution", _batch_only, _patches, _convolution),
    (nn.Embedding,): Rule("embedding", _all, _given, _embedding),
    (nn.LayerNorm,): Rule("layer norm", _before_normalised, _layer_normalised, _gain_last),
    (nn.RMSNorm,): Rule("RMS norm", _before_normalised, _rms_normalised, _gain_last),
    (nn.GroupNorm,): Rule("group norm", _batch_only, _group_normalised, _gain_channel),
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d): Rule(
        "batch norm (fixed statistics)", _batch_only, _batch_normalised, _gain_channel
    ),
    (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d): Rule(
        "instance norm", _batch_only, _instance_normalised, _gain_channel
    ),
}
