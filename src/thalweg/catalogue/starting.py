"""Where the searches of a survey begin: every seed has a start of its own, whatever batch it is run in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Objective
from thalweg.objectives.contents import content_of, digest_of
from thalweg.solvers import random_starts

__all__ = ["INITIALIZERS", "Initializer", "label_of", "named_initializer", "starts_of"]

Initializer = Callable[[ParameterSpace, torch.Generator], Tensor]
"""Maps the space and a seeded generator to one start ``(P,)``."""


def _glorot(space: ParameterSpace, generator: torch.Generator) -> Float[Tensor, " P"]:
    theta = random_starts(space, 1, generator)[0]
    for block in space:
        if len(block.shape) < 2:
            theta[block.slice] = 0
    return theta


def _normal(space: ParameterSpace, generator: torch.Generator) -> Float[Tensor, " P"]:
    return random_starts(space, 1, generator)[0]


INITIALIZERS: dict[str, Initializer] = {"glorot": _glorot, "normal": _normal}
"""``"glorot"``: matrices with Glorot's standard deviation, biases zero (Glorot and Bengio 2010). ``"normal"``: the
same, but biases and other vectors standard normal."""


def named_initializer(initializer: str | Initializer) -> tuple[str, Initializer]:
    """An initializer with a name that tells it from others: for a function of the user's, with a digest of its code.

    Raises:
        InvalidInputError: listing those there are.
    """
    if isinstance(initializer, str) and initializer in INITIALIZERS:
        return initializer, INITIALIZERS[initializer]
    if not callable(initializer):
        raise InvalidInputError(
            f"no initializer {initializer!r}; there are {', '.join(map(repr, INITIALIZERS))}, and functions "
            "(space, generator) -> start (P,)"
        )
    return label_of(initializer), initializer


def label_of(thing: Callable[..., Any]) -> str:
    """A name for a function or object of the user's that changes when its code, settings or what it closes over do."""
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    return f"{name} {digest_of(content_of(thing))[:16]}"


def starts_of(objective: Objective, initializer: Initializer, seed: int, first: int, count: int) -> Tensor:
    """The starts of consecutive seeds, ``(count, P)``.

    Args:
        objective: what is searched.
        initializer: draws one start.
        seed: of the survey; with the number of each start it seeds that start's own generator.
        first: the first start's number.
        count: of starts.

    Raises:
        InvalidInputError: where the initializer returns something else than finite numbers ``(P,)``.
    """
    rows = []
    for number in range(first, first + count):
        key = hashlib.sha256(f"{seed}:{number}".encode()).digest()
        row: Any = initializer(objective.space, torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1))
        shape = tuple(row.shape) if isinstance(row, Tensor) else type(row).__name__
        if not isinstance(row, Tensor) or shape != (objective.space.size,) or not bool(torch.isfinite(row).all()):
            raise InvalidInputError(
                f"the initializer must return finite numbers of shape ({objective.space.size},), got {shape}"
                + (" with NaN or infinite entries" if isinstance(row, Tensor) else "")
            )
        rows.append(row.detach().to("cpu", objective.dtype))
    return torch.stack(rows)
