"""Objectives whose infimum lies at infinity: where descent runs away, slowly, with a gradient as small as one likes."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Escape", "RunsAway"]

Escape = Literal["channel", "saturation", "separable", "plateau"]
"""How parameters escape: two neurons merge while their output weights diverge; units saturate; a separating direction
is scaled up; the loss flattens out without any structure to blame."""


@runtime_checkable
class RunsAway(Protocol):
    """An objective without the minimum that a small gradient may suggest.

    From every point of `starts`, descent lowers the value towards the limit given by `limits` and never reaches it,
    while the parameters grow without bound. Nothing on the way is a minimum, and no search that ends there has
    converged.

    Attributes:
        escape: how the parameters escape.
        infimum: the greatest lower bound of all values; attained nowhere.
        why: the reason, in a sentence.
    """

    escape: Escape
    infimum: float
    why: str

    def starts(self) -> Float[Tensor, "n P"]:
        """Points from which descent runs away."""

    def limits(self) -> Float[Tensor, " n"]:
        """The value that descent from each start approaches; `infimum` or above."""
