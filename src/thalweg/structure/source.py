"""A user's module as a function of named parameters and inputs, called on a private copy that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from thalweg.foundation import first_line
from thalweg.structure.caller import Caller, Forward, aliases_of, deep_copy

__all__ = ["ForwardFailedError", "NotTraceableError", "Source"]


class NotTraceableError(Exception):
    """Why a forward pass cannot be written down; caught by `explain_trace`, which hands the sentence on."""


class ForwardFailedError(NotTraceableError):
    """The module's own code failed; perhaps it does not take so few samples."""


class Source:
    """A private copy of a module in float64, and the way to call it.

    Args:
        model: the user's; it is copied.
        forward: how it is called: ``forward(model, inputs)``; None calls ``model(inputs)``, ``model(*inputs)`` for a
            tuple or list, ``model(**inputs)`` for a dict.

    Raises:
        NotTraceableError: if it cannot be copied.
    """

    def __init__(self, model: nn.Module, forward: Forward | None = None) -> None:
        held = (*model.parameters(), *model.buffers())
        if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in held):
            raise NotTraceableError("it is lazy and has no shapes yet; call it once on a batch")
        scripted = [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
        if scripted:
            name = repr(scripted[0]) if scripted[0] else "the module"
            raise NotTraceableError(f"{name} is scripted, which hides what it computes; use the original module")
        self.caller = Caller(_copy_of(model), forward)
        self._aliases = aliases_of(self.caller.module)

    def parameters(self) -> dict[str, Tensor]:
        """The copy's own parameters by name, detached."""
        return {name: p.detach() for name, p in self.caller.module.named_parameters()}

    def buffers(self) -> dict[str, Tensor]:
        """Clones of its buffers by name."""
        return {name: b.detach().clone() for name, b in self.caller.module.named_buffers()}

    def call(self, parameters: Mapping[str, Tensor], inputs: Any, buffers: Mapping[str, Tensor] | None = None) -> Any:
        """The module's output with other parameters.

        Buffers and inputs that it writes to are clones, and tensors that it keeps from the call are taken out again.
        """
        state = {**(self.buffers() if buffers is None else buffers), **parameters}
        replaced = {f"module.{alias}": value for name, value in state.items() for alias in self._aliases[name]}
        given = pytree.tree_map_only(Tensor, torch.clone, inputs)
        with _without_keepsakes(self.caller):
            # Tied weights are replaced by name: torch's own tying leaves a module that occurs twice changed behind.
            return torch.func.functional_call(self.caller, replaced, (given,), tie_weights=False)


def _copy_of(model: nn.Module) -> nn.Module:
    try:
        return deep_copy(model).double()
    except Exception as error:  # any error: copying runs the user's code
        raise NotTraceableError(f"the module cannot be copied ({first_line(error)})") from error


@contextmanager
def _without_keepsakes(caller: nn.Module) -> Iterator[None]:
    """Put back, after the block, every plain attribute of a module that has become or was a tensor."""
    before = {module: dict(vars(module)) for module in caller.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            now = vars(module)
            for name in set(attributes) | set(now):
                old, new = attributes.get(name), now.get(name)
                if old is new or not any(_holds_tensor(value) for value in (old, new)):
                    continue
                if name in attributes:
                    now[name] = old
                else:
                    del now[name]


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
