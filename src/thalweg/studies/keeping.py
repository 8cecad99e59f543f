"""Finished parts of a study on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
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


def keep(place: Path, code: str, read: Mapping[str, Any], part: Part) -> None:
    """Write a part with the code that computed it and the settings that it read, whole or not at all.

    Raises:
        InvalidInputError: if it cannot be written.
    """
    found = {"code": code, "settings": _told(read), "part": _encoded(part)}
    write_text_atomically(place, json.dumps(found))


def kept(place: Path, code: str, settings: Any) -> Part | None:
    """The part in a file, if this code made it with these settings; None where it did not, or the file is damaged."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        same = {name: getattr(settings, name) for name in found["settings"]}
        if found["code"] != code or found["settings"] != _told(same):
            return None
        part = _decoded(found["part"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # computed anew
    whole = isinstance(part, Part) and all(isinstance(claim, Claim) for claim in part.claims)
    return part if whole and isinstance(part.seconds, float) else None


def _told(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in settings.items()}


def _encoded(value: Any) -> Any:
    if type(value) in _KINDS.values():
        return {_KIND: type(value).__name__, **{one.name: _encoded(getattr(value, one.name)) for one in fields(value)}}
    if isinstance(value, list | tuple):
        return [_encoded(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(one) for one in value)
    if isinstance(value, dict):
        told = {name: _decoded(one) for name, one in value.items() if name != _KIND}
        return _KINDS[value[_KIND]](**told)
    return value
