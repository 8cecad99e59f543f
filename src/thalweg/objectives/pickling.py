"""What cannot be pickled, said before pickle says it in its own words."""

from __future__ import annotations

import functools
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from thalweg.foundation import UnsupportedModelError

__all__ = ["require_findable"]


def require_findable(**things: Any) -> None:
    """Refuse functions and classes that were made inside of a function: pickle stores where they are found, by name.

    Args:
        things: functions, modules and objects, by what they are called in the message (underscores become spaces).

    Raises:
        UnsupportedModelError: naming the first one that another process could not find.

    >>> require_findable(the_loss=nn.MSELoss())
    >>> require_findable(the_loss=lambda outputs, targets: (outputs - targets).mean())
    Traceback (most recent call last):
        ...
    thalweg.foundation.errors.UnsupportedModelError: the loss is <lambda>, which another process could not find ...
    """
    for name, thing in things.items():
        hidden = _hidden_name(thing)
        if hidden is not None:
            raise UnsupportedModelError(
                f"{name.replace('_', ' ')} is {hidden}, which another process could not find by this name; to pickle "
                "the objective, define it at the top level of a module"
            )


def _hidden_name(thing: Any) -> str | None:
    """The name that gives away what is defined inside of a function, or has none; None for everything else."""
    if isinstance(thing, functools.partial):
        return _hidden_name(thing.func)
    if isinstance(thing, MethodType):
        return _hidden_name(thing.__self__)
    if isinstance(thing, nn.Module):
        return next((name for name in map(_hidden_class, thing.modules()) if name is not None), None)
    if isinstance(thing, FunctionType):
        return thing.__qualname__ if "<" in thing.__qualname__ else None
    return _hidden_class(thing)


def _hidden_class(thing: Any) -> str | None:
    kind = type(thing)
    reduces = any({"__reduce__", "__reduce_ex__"} & vars(base).keys() for base in kind.__mro__[:-1])  # its own way
    return kind.__qualname__ if "<" in kind.__qualname__ and not reduces else None
