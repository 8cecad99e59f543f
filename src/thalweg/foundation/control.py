"""How long work is stopped, and how it shows that it is alive."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, SupportsFloat

from thalweg.foundation.errors import InvalidInputError

__all__ = ["Progress", "RunControl", "parse_duration", "progress_bar"]


def parse_duration(text: str | float | None) -> float | None:
    """Read a time in seconds.

    Raises:
        InvalidInputError: for what is no time, and for a time that is not positive.

    >>> parse_duration("2m"), parse_duration("1h30m"), parse_duration("45s"), parse_duration(3), parse_duration(None)
    (120.0, 5400.0, 45.0, 3.0, None)
    """
    if text is None:
        return None
    if not isinstance(text, SupportsFloat | str) or isinstance(text, bool):
        raise InvalidInputError(f"a time is a number of seconds or a text such as '90s', got {type(text).__name__}")
    if not isinstance(text, str) or re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", text):
        seconds = float(text)
    else:
        number = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
        match = re.fullmatch(rf"\s*(?:{number}\s*h)?\s*(?:{number}\s*m)?\s*(?:{number}\s*s)?\s*", text)
        if match is None or not any(match.groups()):
            raise InvalidInputError(f"cannot read {text!r} as a time; write for example '90s', '2m' or '1h30m'")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not seconds > 0:
        raise InvalidInputError(f"a time budget must be positive, got {text!r}")
    return seconds


@dataclass
class RunControl:
    """When work has to stop: a time budget counted from construction, and an event that anyone may set.

    Work that is part of other work stops with it: `parent` is the control of that.

    >>> RunControl().why_stop() is None
    True
    """

    budget: float | None = None
    stop_event: threading.Event | None = None
    started: float = field(default_factory=time.monotonic)
    parent: RunControl | None = None

    def elapsed(self) -> float:
        """Seconds since construction."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds left, infinite where no budget is set."""
        own = float("inf") if self.budget is None else self.budget - self.elapsed()
        return own if self.parent is None else min(own, self.parent.remaining())

    def why_stop(self) -> str | None:
        """``"interrupted"`` or ``"time limit"`` where work must end now, else None."""
        if self.stop_event is not None and self.stop_event.is_set():
            return "interrupted"
        if self.parent is not None and self.parent.why_stop() is not None:
            return self.parent.why_stop()
        return "time limit" if self.remaining() <= 0 else None


class Progress(Protocol):
    """What long work reports to."""

    def update(self, completed: float | None = None, *, description: str | None = None) -> None:
        """Say how much is done."""


class _Silent:
    def update(self, completed: float | None = None, *, description: str | None = None) -> None:
        pass


@contextmanager
def progress_bar(description: str, total: float | None = None, *, show: bool | None = None) -> Iterator[Progress]:
    """Show a bar on standard error while the block runs; it disappears at the end.

    Args:
        description: what is going on.
        total: amount of work, or None where it is not known.
        show: None shows it in a terminal only; True everywhere, with a terminal's control characters.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True, force_terminal=show), transient=True) as rich_progress:
        task = rich_progress.add_task(description, total=total)

        class _Bar:
            def update(self, completed: float | None = None, *, description: str | None = None) -> None:
                rich_progress.update(task, completed=completed, description=description)

        yield _Bar()
