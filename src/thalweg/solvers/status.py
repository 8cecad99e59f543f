"""How a search ended, in a word and a sentence."""

from __future__ import annotations

from thalweg.foundation import Told

__all__ = ["Status"]


class Status(Told):
    """How one start ended. `value` is the name people read, `sentence` says what it means.

    >>> Status.CONVERGED.value, Status("separable data") is Status.SEPARABLE
    ('converged', True)
    >>> print(Status.STALLED.sentence)
    No step that rounding can tell from noise lowers the value, yet the gradient is above its tolerance.
    """

    CONVERGED = (
        "converged",
        "A critical point: the gradient is at its tolerance or rounding floor, the Newton decrement is small, and no "
        "direction leads to infinity.",
    )
    CHANNEL = (
        "diverging along a channel",
        "Parameters grow while the slope falls like a power of their size, in opposite pairs or, of units that become "
        "hard, alone: the infimum along this valley lies at infinity.",
    )
    SATURATING = (
        "saturating units",
        "Parameters grow while the outputs settle exponentially fast, as when units saturate: the infimum lies at "
        "infinity.",
    )
    SEPARABLE = (
        "separable data",
        "Scaling the outputs up lowers the loss for ever, as when every sample is classified rightly: no finite "
        "minimum.",
    )
    GROWTH = (
        "unexplained growth",
        "Parameters grow without bound while the value falls, in a way that has no name here.",
    )
    STALLED = (
        "stalled",
        "No step that rounding can tell from noise lowers the value, yet the gradient is above its tolerance.",
    )
    ITERATION_LIMIT = ("iteration limit", "The number of iterations allowed was used up.")
    TIME_LIMIT = ("time limit", "The time budget was used up.")
    INTERRUPTED = ("interrupted", "Stopped from outside before the end.")
    NOT_FINITE = ("not finite", "The value or its gradient is infinite or not a number here.")

    @property
    def escapes(self) -> bool:
        """True for the four ways to infinity."""
        return self in (Status.CHANNEL, Status.SATURATING, Status.SEPARABLE, Status.GROWTH)
