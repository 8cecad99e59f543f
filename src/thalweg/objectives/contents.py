"""What defines a function written in Python, for fingerprints: code, settings and tensors, never an address.

Two processes that build the same objective must get the same fingerprint, and any change of what is computed must
change it. So a callable is described by its code with its constants, its defaults and what it closes over; a module by
the code of its class, its settings, its hooks and its tensors.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["content_of", "content_of_module", "digest_of"]

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def digest_of(parts: Iterable[object]) -> str:
    """SHA-256 of texts, numbers and tensors in order, the same in every process.

    >>> digest_of(["a", 1.0, torch.ones(2)])[:12]
    '41cec6bbb963'
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            tensor = part.detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def content_of(thing: Any, seen: AbstractSet[int] = frozenset()) -> Iterator[object]:
    """Texts, numbers and tensors that define a value or a callable.

    >>> def scaled(factor):
    ...     return lambda outputs, targets: factor * (outputs - targets).abs()
    >>> list(content_of(scaled(2.0))) == list(content_of(scaled(2.0)))
    True
    >>> list(content_of(scaled(2.0))) == list(content_of(scaled(3.0)))
    False
    """
    if isinstance(thing, _SIMPLE):
        yield repr(thing)
    elif isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, np.ndarray | np.generic):
        array = np.asarray(thing)
        yield f"array {array.dtype} {array.shape}"
        plain = array.dtype.kind in "biufcSU" and array.dtype.char not in "gG"  # others pad their bytes, with anything
        yield array.tobytes() if plain else repr(array.tolist())
    elif id(thing) in seen:
        yield "again"
    else:
        yield from _compound(thing, seen | {id(thing)})


def _compound(thing: Any, seen: AbstractSet[int]) -> Iterator[object]:
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from content_of(key, seen)
            yield from content_of(value, seen)
    elif isinstance(thing, AbstractSet):
        yield f"set {sorted(map(repr, thing))}"
    elif isinstance(thing, range | slice | Enum):
        yield repr(thing)
    elif isinstance(thing, tuple | list | deque):
        yield f"{type(thing).__name__} {len(thing)}"
        for part in thing:
            yield from content_of(part, seen)
    elif isinstance(thing, nn.Module):
        yield from content_of_module(thing, seen=seen)
    elif isinstance(thing, functools.partial):
        yield from content_of((thing.func, thing.args, thing.keywords), seen)
    elif isinstance(thing, types.MethodType):
        yield from content_of((thing.__func__, thing.__self__), seen)
    elif isinstance(thing, types.FunctionType):
        yield from _content_of_function(thing, seen)
    elif isinstance(thing, type):
        yield from _content_of_class(thing, seen)
    elif _is_foreign(thing):
        yield _name(thing)
    elif not hasattr(thing, "__dict__"):  # a path, a date, a fraction, an object with slots: as it would be pickled
        yield _name(thing)
        yield from content_of(_pickled_parts(thing), seen)
    else:  # an object of a class of the user's own
        yield from _content_of_class(type(thing), seen)
        yield from content_of({k: v for k, v in vars(thing).items() if not k.startswith("__")}, seen)


def _pickled_parts(thing: Any) -> tuple[Any, ...]:
    try:
        parts = thing.__reduce_ex__(2)
    except (TypeError, AttributeError):  # such as a lock: nothing of it defines what is computed
        return ()
    return tuple(parts[1:3]) if isinstance(parts, tuple) else ()


def content_of_module(
    module: nn.Module, skip: AbstractSet[str] = frozenset(), seen: AbstractSet[int] = frozenset()
) -> Iterator[object]:
    """Code, settings, hooks, parameters and buffers of a module, all but the parameters named in `skip`."""
    for name, part in module.named_modules():
        yield name
        yield from _content_of_class(type(part), seen)
        for key, value in sorted(vars(part).items()):
            if key in ("_forward_hooks", "_forward_pre_hooks"):
                yield from content_of(list(value.values()), seen)  # their keys count all hooks that were ever made
            elif not key.startswith("_"):
                yield key
                yield from content_of(value, seen)
    for name, parameter in module.named_parameters():
        if name not in skip:
            yield name
            yield parameter
    for name, buffer in module.named_buffers():
        yield name
        yield buffer


def _content_of_function(function: types.FunctionType, seen: AbstractSet[int]) -> Iterator[object]:
    yield function.__qualname__
    if _is_foreign(function):
        yield _name(function)
        return
    yield from _content_of_code(function.__code__)
    yield from content_of((function.__defaults__, function.__kwdefaults__), seen)
    for cell in function.__closure__ or ():
        try:
            yield from content_of(cell.cell_contents, seen)
        except ValueError:  # a cell that nothing was put into yet
            yield "empty"
    for name in function.__code__.co_names:  # globals that the code may read: numbers, tensors, functions beside it
        value = function.__globals__.get(name)
        beside = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if beside or isinstance(value, (*_SIMPLE, Tensor)):
            yield name
            yield from content_of(value, seen)


def _content_of_code(code: types.CodeType) -> Iterator[object]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _content_of_code(constant)
        else:
            yield repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)


def _content_of_class(cls: type, seen: AbstractSet[int]) -> Iterator[object]:
    """Its name, and the code of its own methods and those of its bases that belong neither to torch nor to Python."""
    for base in cls.__mro__:
        yield _name(base)
        if _is_foreign(base):
            continue
        yield from _source_of(base)


@functools.lru_cache(maxsize=1024)
def _source_of(cls: type) -> tuple[object, ...]:
    found: list[object] = []
    for name, value in sorted(vars(cls).items()):
        value = inspect.unwrap(value) if callable(value) else value
        for function in _functions_in(value):
            found += [name, *_content_of_code(function.__code__), repr(function.__defaults__)]
        if isinstance(value, _SIMPLE) and not name.startswith("__"):
            found += [name, repr(value)]
    return tuple(found)


def _functions_in(value: Any) -> list[types.FunctionType]:
    parts = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
    return [part for part in parts if isinstance(part, types.FunctionType)]


def _is_foreign(thing: Any) -> bool:
    """Whether something belongs to torch, NumPy or Python itself: its version then stands for its code."""
    home = str(getattr(thing, "__module__", None) or getattr(type(thing), "__module__", "")).split(".")[0]
    return home in ("torch", "builtins", "numpy", "math", "functools", "operator", "collections", "abc", "typing")


def _name(thing: Any) -> str:
    owner = thing if hasattr(thing, "__qualname__") else type(thing)
    name = f"{owner.__module__}.{owner.__qualname__}"
    return f"{name} {torch.__version__.split('+')[0]}" if name.startswith("torch.") else name
