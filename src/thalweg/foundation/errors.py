"""The family of errors. Each says what was found, what is needed, and what to do."""

from __future__ import annotations

__all__ = [
    "InvalidInputError",
    "MemoryLimitError",
    "NotApplicableError",
    "StochasticModelError",
    "ThalwegError",
    "ThalwegWarning",
    "UnsupportedModelError",
    "first_line",
    "format_bytes",
]


class ThalwegError(Exception):
    """Base class of every error that Thalweg raises on purpose."""


class InvalidInputError(ThalwegError, ValueError):
    """An argument that cannot be meant: wrong shape, NaN, labels out of range, an empty set."""


class StochasticModelError(InvalidInputError):
    """The forward pass is not a function of parameters and inputs alone (dropout, batch statistics)."""


class UnsupportedModelError(ThalwegError, TypeError):
    """A module that cannot be differentiated here: lazy, scripted, quantised, without parameters."""


class NotApplicableError(ThalwegError):
    """A method that does not apply to this objective; the message names what is missing.

    This is an answer rather than a failure: callers that try several methods catch it and go on.
    """


class MemoryLimitError(ThalwegError, MemoryError):
    """A request whose predicted memory exceeds the limit; nothing was allocated.

    Attributes:
        needed: predicted bytes.
        limit: bytes allowed.
    """

    def __init__(self, what: str, needed: int, limit: int, alternative: str) -> None:
        self.needed = needed
        self.limit = limit
        super().__init__(
            f"{what} would need {format_bytes(needed)}, the limit is {format_bytes(limit)}. "
            f"{alternative} Or raise the limit: thalweg.memory_limit('{_next_gib(needed)}GiB')."
        )


class ThalwegWarning(UserWarning):
    """Base class of every warning that Thalweg gives."""


def first_line(error: BaseException) -> str:
    r"""The beginning of an error's message, short enough to stand inside of another; its kind where it has none.

    >>> first_line(RuntimeError("no rule for sort.\nMore below")), first_line(KeyError())
    ('no rule for sort', 'KeyError')
    """
    text = str(error).strip().splitlines()
    line = text[0].rstrip(".") if text else type(error).__name__
    return line if len(line) <= 140 else line[:137] + "..."


def format_bytes(count: float) -> str:
    """Give a byte count as a person writes it.

    >>> format_bytes(3.8 * 2**30)
    '3.8 GiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _next_gib(count: int) -> int:
    return max(1, -(-count // 2**30))
