"""How a user's module is copied, and called on other parameters than its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["Caller", "Forward", "aliases_of", "deep_copy"]

Forward = Callable[[Any, Any], Any]


class Caller(nn.Module):
    """A module and the way to call it, as one module, so that its parameters can be replaced during the call.

    Args:
        module: the module.
        forward: ``forward(module, inputs)``; None calls ``module(inputs)``, ``module(*inputs)`` for a tuple or list,
            ``module(**inputs)`` for a dictionary.
    """

    def __init__(self, module: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self.user_forward = forward

    def forward(self, inputs: Any) -> Any:
        """Call the module."""
        if self.user_forward is not None:
            return self.user_forward(self.module, inputs)
        if isinstance(inputs, tuple | list):
            return self.module(*inputs)
        return self.module(**inputs) if isinstance(inputs, Mapping) else self.module(inputs)


def aliases_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """For the first name of each parameter and buffer, a name for every place that holds it, one for each place."""
    named: list[tuple[str, Tensor]] = [*module.named_parameters(remove_duplicate=False)]
    named += module.named_buffers(remove_duplicate=False)
    first: dict[int, str] = {}
    places: set[tuple[int, str]] = set()
    aliases: dict[str, tuple[str, ...]] = {}
    for name, tensor in named:
        path, _, own = name.rpartition(".")
        place = (id(module.get_submodule(path)), own)
        if place not in places:
            places.add(place)
            known = first.setdefault(id(tensor), name)
            aliases[known] = (*aliases.get(known, ()), name)
    return aliases


def deep_copy(model: nn.Module) -> nn.Module:
    """A deep copy, also where a module holds a computed tensor, as weight normalisation by hooks does.

    Raises:
        Exception: whatever the parts of a foreign module raise when they are copied.
    """
    computed = [
        leaf
        for module in model.modules()
        for leaf in pytree.tree_leaves(dict(vars(module)))
        if isinstance(leaf, Tensor) and not leaf.is_leaf
    ]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
