"""The shapes in public signatures, checked while the tests run.

`jaxtyping` can rewrite every function of a package as it is imported, and ask a type checker about the arguments before
the call, and about arguments and result after it. Two things are different here.

Only the second question is put. A function refuses misuse with a message of its own, and the tests of those messages
have to see them. So a wrong shape shows in one of two ways: as the function's own refusal, or, if the function let it
pass, as a `jaxtyping.TypeCheckError` afterwards.

Only public functions and records whose signature names a shape are checked, and of these only the shapes: other types
are for mypy. What is private is called most, and checking it would make the tests half as long again.
"""

from __future__ import annotations

import inspect
import random
import re
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])

CHECKER = "shape_checks.check_after_the_call"
"""The name under which `jaxtyping.install_import_hook` is told of the checker."""

SHAPE = re.compile(r"\b(Float|Int|UInt|Integer|Bool|Complex|Inexact|Real|Num|Shaped)\d*\[")
"""How a shape begins in an annotation that is still a text."""

_everything = jaxtyping.jaxtyped
_DRAWS = random.Random(0)


def install(package: str) -> Any:
    """Check the shapes of a package that is not imported yet.

    Returns:
        The hook: a context manager that takes itself out again.
    """
    jaxtyping.jaxtyped = _where_shapes_are_public
    return jaxtyping.install_import_hook(package, CHECKER)


def check_after_the_call(function: F) -> F:
    """Check the shapes of a signature made by jaxtyping, if it holds a result and at least one shape."""
    before_the_call = inspect.signature(function).return_annotation is Any
    shapes = {name: hint for name, hint in function.__annotations__.items() if _names_a_shape(hint)}
    if before_the_call or not shapes:
        return function
    function.__annotations__ = shapes
    checked = beartype(function)
    # of a list it looks at one item drawn at random; the tests watch Python's own generator
    if "__beartype_getrandbits" in (checked.__kwdefaults__ or {}):
        checked.__kwdefaults__["__beartype_getrandbits"] = _DRAWS.getrandbits
    return typing.cast("F", checked)


def _where_shapes_are_public(target: Any = None, *, typechecker: Any = None) -> Any:
    """What the rewritten modules call for every function and class, in place of `jaxtyping.jaxtyped`."""
    if target is None:
        return lambda function: _where_shapes_are_public(function, typechecker=typechecker)
    inside = target
    while isinstance(inside, property | staticmethod | classmethod):
        inside = inside.fget if isinstance(inside, property) else inside.__func__
    hints = getattr(inside, "__annotations__", {}).values()
    if getattr(inside, "__name__", "_").startswith("_") or not any(SHAPE.search(str(hint)) for hint in hints):
        return target
    return _everything(target, typechecker=typechecker)


def _names_a_shape(annotation: object) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(_names_a_shape(inner) for inner in typing.get_args(annotation))
