"""Ctrl-C held back over the few lines that must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupts_held"]


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Deliver an interrupt that comes inside the block at its end, to whoever handles interrupts otherwise.

    Only the main thread receives interrupts; in any other the block simply runs. It does so, too, where the handler was
    not set from Python and could not be put back.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is None:
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    if usual != signal.SIG_IGN:  # jobs in the background ignore interrupts, and go on doing so
        signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        signal.raise_signal(signal.SIGINT)
