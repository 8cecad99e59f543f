"""Names that explain themselves."""

from __future__ import annotations

from enum import Enum
from typing import Self

__all__ = ["Told"]


class Told(Enum):
    """An enumeration of named outcomes: `value` is the name people read, `sentence` says what it means.

    >>> class Light(Told):
    ...     GREEN = ("green", "Go.")
    >>> Light("green"), Light.GREEN.sentence
    (<green>, 'Go.')
    """

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Self:  # noqa: D102 (Python's own protocol for enum members)
        member = object.__new__(cls)
        member._value_ = value
        member.sentence = sentence
        return member

    def __repr__(self) -> str:
        return f"<{self.value}>"
