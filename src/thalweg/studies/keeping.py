"""Finished parts of a study on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thalweg.display import (
    Axis,
    Caption,
    Column,
    Figure,
    Mark,
    Paragraph,
    Series,
    Surface,
    Table,
    write_text_atomically,
)
from thalweg.studies.claims import Claim
from thalweg.studies.result import Part

__all__ = ["keep", "kept"]

_KINDS = {
    kind.__name__: kind
    for kind in (Axis, Caption, Claim, Column, Figure, Mark, Paragraph, Part, Series, Surface, Table)
}
"""What a part is made of. A file may name nothing else."""
_KIND = "a record of"


def keep(place: Path, key: str, part: Part) -> None:
    """Write a part under a key, whole or not at all.

    Raises:
        InvalidInputError: if it cannot be written.
    """
    write_text_atomically(place, json.dumps({"key": key, "part": _encoded(part)}))


def kept(place: Path, key: str) -> Part | None:
    """The part that was written under this key; None where there is none, or not a whole one."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        if found["key"] != key:
            return None
        part = _decoded(found["part"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # computed anew
    return part if isinstance(part, Part) else None


def _encoded(value: Any) -> Any:
    if type(value) in _KINDS.values():
        return {_KIND: type(value).__name__, **{name: _encoded(one) for name, one in vars(value).items()}}
    if isinstance(value, list | tuple):
        return [_encoded(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(one) for one in value)
    if isinstance(value, dict):
        fields = {name: _decoded(one) for name, one in value.items() if name != _KIND}
        return _KINDS[value[_KIND]](**fields)
    return value
