"""A private copy of a user's module, called with other parameters and left after every call as it was before."""

from __future__ import annotations

import copy
import fnmatch
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils import _pytree as pytree

from thalweg.foundation import InvalidInputError, UnsupportedModelError
from thalweg.structure.caller import Caller, Forward, aliases_of, deep_copy

__all__ = ["Forward", "PrivateModel", "free_parameters"]


class PrivateModel:
    """The copy, the user's way of calling it, and how to call it without traces.

    Many modules keep something of a forward pass: a recurrent layer its flattened weights, weight normalisation by
    hooks the weight it computed, others their attention map. Such an attribute would hold a graph, or a tensor of a
    transform that has ended, until the next call. Modules that were seen to do so are put back after each call.
    Likewise inputs are copied for a model that was seen to write into them.

    Args:
        model: the user's; it is copied.
        forward: ``forward(model, batch)``, or None to call the model with the batch, a dictionary as keywords, a tuple
            or list as arguments.
        dtype: of parameters and floating buffers.
    """

    def __init__(self, model: nn.Module, forward: Forward | None, dtype: torch.dtype) -> None:
        self.model = _copy_of(model).to(dtype)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.user_forward = forward
        self._writes_inputs = True
        self._keeping = [name for name, _ in self.model.named_modules()]  # the worst, until the habits are known
        self._prepare()

    def _prepare(self) -> None:
        self._called = Caller(self.model, self.user_forward)
        self._aliases = aliases_of(self.model)
        self._lock = threading.RLock()  # while it runs, a call holds other parameters than its own

    def __call__(self, named: Mapping[str, Tensor], inputs: Any) -> Any:
        """Raw outputs with some parameters replaced."""
        if self._writes_inputs:
            inputs = _cloned(inputs)
        replaced = {f"module.{alias}": value for name, value in named.items() for alias in self._aliases[name]}
        with self._lock, self._as_found(self._keeping):
            # Tied weights are replaced by name: torch's own tying leaves a module that occurs twice changed behind.
            return torch.func.functional_call(self._called, replaced, (inputs,), tie_weights=False)

    def call_bare(self, inputs: Any) -> Any:
        """Raw outputs with the copy's own parameters, whatever it keeps of the call."""
        return self._called(_cloned(inputs))

    @contextmanager
    def as_found(self) -> Iterator[None]:
        """Put the attributes of all modules back at the end of the block."""
        with self._as_found([name for name, _ in self.model.named_modules()]):
            yield

    @contextmanager
    def _as_found(self, names: Iterable[str]) -> Iterator[None]:
        before = [_Attributes(self.model.get_submodule(name)) for name in names]
        try:
            yield
        finally:
            for attributes in before:
                attributes.restore()

    def learn_habits(self, inputs: Any) -> None:
        """See on a few samples whether inputs are written into and which modules keep something of a call."""
        given = _cloned(inputs)
        before = {name: _Attributes(module) for name, module in self.model.named_modules()}
        own = dict(self.model.named_parameters())
        others = {f"module.{alias}": own[name].clone() for name in own for alias in self._aliases[name]}
        with torch.no_grad(), self.as_found():
            torch.func.functional_call(self._called, others, (given,), tie_weights=False)
            self._keeping = [name for name, attributes in before.items() if attributes.changed()]
        pairs = zip(pytree.tree_leaves(inputs), pytree.tree_leaves(given), strict=True)
        self._writes_inputs = any(not torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))

    def trainable_copy(self, names: Iterable[str]) -> nn.Module:
        """A copy in which just these parameters require a gradient."""
        free = set(names)
        twin = _copy_of(self.model)
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(name in free)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> PrivateModel:
        twin = PrivateModel.__new__(PrivateModel)
        vars(twin).update(self._state() | {"model": _copy_of(self.model)})
        memo[id(self.model)] = twin.model
        twin._prepare()
        return twin

    def _state(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_called", "_aliases", "_lock")}

    def __getstate__(self) -> dict[str, Any]:
        held = [name or "itself" for name, part in self.model.named_modules() if is_parametrized(part)]
        if held:
            raise UnsupportedModelError(
                f"torch cannot pickle a model with parametrised modules ({', '.join(held)}); make the objective in "
                "each process, or remove the parametrisations with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        return self._state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()


def _copy_of(model: nn.Module) -> nn.Module:
    try:
        return deep_copy(model)
    except Exception as error:  # whatever the parts of a foreign module may raise
        raise UnsupportedModelError(
            f"the model cannot be copied ({error}), and the live one is never touched; take out of it what "
            "copy.deepcopy cannot copy"
        ) from error


def free_parameters(model: nn.Module, patterns: str | Iterable[str] | None) -> list[str]:
    """Names of the parameters that are free, in the model's order.

    Raises:
        InvalidInputError: for a glob that matches no parameter.
    """
    if patterns is None:
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    names = [name for name, _ in model.named_parameters()]
    globs = [patterns] if isinstance(patterns, str) else list(patterns)
    idle = [glob for glob in globs if not fnmatch.filter(names, glob)]
    if idle or not globs:
        raise InvalidInputError(f"parameters={idle or globs} matches none of {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatch(name, glob) for glob in globs)]


def _cloned(tree: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, tree)


class _Attributes:
    """The attributes of one module as they stand, and the entries of those that are plain lists or dictionaries."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._values = dict(vars(module))
        self._entries = {
            name: copy.copy(value)
            for name, value in self._values.items()
            if type(value) in (dict, list) and name not in ("_parameters", "_buffers", "_modules")
        }

    def changed(self) -> bool:
        now = vars(self.module)
        if not _same(now, self._values):
            return True
        return any(not _same(now[name], entries) for name, entries in self._entries.items())

    def restore(self) -> None:
        vars(self.module).clear()
        vars(self.module).update(self._values)
        for name, entries in self._entries.items():
            container = self._values[name]
            container.clear()
            container.update(entries) if isinstance(entries, dict) else container.extend(entries)


def _same(now: Any, before: Any) -> bool:
    """Whether two dictionaries or lists hold the same objects."""
    if isinstance(before, dict):
        return now.keys() == before.keys() and all(now[key] is before[key] for key in before)
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))
