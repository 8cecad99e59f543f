"""The clock and the stop event, heard also in the middle of an iteration or of an endgame.

A single iteration can take minutes: one trust-region step of many parameters, or a walk along the valleys of many
candidates. Whatever loops over evaluations asks `checkpoint` between two of them. What an unfinished iteration has
found is given up; the search keeps the state of the last finished one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from thalweg.foundation import RunControl

__all__ = ["StopSearch", "checkpoint", "watched", "watching"]

_WATCHED: ContextVar[RunControl | None] = ContextVar("thalweg_watched", default=None)


class StopSearch(Exception):  # noqa: N818  a signal to the loop that drives the search, no error
    """Raised by `checkpoint`; `reason` is that of `RunControl.why_stop`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def watching(control: RunControl) -> Iterator[None]:
    """Let `checkpoint` ask this control while the block runs."""
    token = _WATCHED.set(control)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def watched() -> RunControl | None:
    """The control being watched, for work that can stop by itself and keep what it has."""
    return _WATCHED.get()


def checkpoint() -> None:
    """Give up here if the time is over or a stop was asked for; nothing happens where nobody watches.

    >>> checkpoint()
    >>> with watching(RunControl(budget=1e-9)):
    ...     checkpoint()
    Traceback (most recent call last):
    thalweg.solvers.watch.StopSearch: time limit
    """
    control = _WATCHED.get()
    reason = None if control is None else control.why_stop()
    if reason is not None:
        raise StopSearch(reason)
