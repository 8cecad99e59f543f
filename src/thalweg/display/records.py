"""Results as JSON, with the version of their schema and without silent losses."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum
from os import PathLike
from typing import Any

from thalweg.display.files import write_text_atomically
from thalweg.foundation import InvalidInputError

__all__ = ["to_json", "write_json"]


def to_json(record: Any, *, schema: str, version: int) -> dict[str, Any]:
    """Turn a record into what `json.dumps` takes, under the name and version of its schema.

    Dataclasses become objects by field, tensors and arrays lists, enumerations their values, sets sorted lists. JSON
    has no NaN and no infinity: they become the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which Python's
    ``float`` and JavaScript's ``Number`` read back. A complex number becomes ``{"re": ..., "im": ...}``.

    Args:
        record: a dataclass, or a mapping with text as keys.
        schema: name of the kind of record, such as ``"thalweg.verdict"``.
        version: raised whenever a field changes its meaning or goes.

    Raises:
        InvalidInputError: for a value with no such form, naming where it stands.

    >>> to_json({"value": float("inf"), "point": (1, 2)}, schema="thalweg.example", version=1)
    {'schema': 'thalweg.example', 'schema_version': 1, 'value': 'Infinity', 'point': [1, 2]}
    """
    encoded = _encode(record, "")
    if not isinstance(encoded, dict):
        raise InvalidInputError(f"a record is a dataclass or a mapping, got {type(record).__name__}")
    taken = {"schema", "schema_version"} & set(encoded)
    if taken:
        raise InvalidInputError(f"the record has fields of its own named {', '.join(sorted(taken))}")
    return {"schema": schema, "schema_version": version, **encoded}


def write_json(path: str | PathLike[str], record: Any, *, schema: str, version: int) -> None:
    """Write `to_json` of a record to a file, whole or not at all.

    Raises:
        InvalidInputError: as `to_json` and `write_text_atomically` do.
    """
    text = json.dumps(to_json(record, schema=schema, version=version), indent=1, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + "\n")


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, Enum):
        return _encode(value.value, where)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value)
    if isinstance(value, complex):
        return {"re": _encode(value.real, where), "im": _encode(value.imag, where)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    if isinstance(value, Mapping):
        return {_key(key, where): _encode(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(inner, f"{where}[{number}]") for number, inner in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_encode(inner, where) for inner in value), key=lambda inner: (str(type(inner)), str(inner)))
    return _encode_foreign(value, where)


def _encode_foreign(value: Any, where: str) -> Any:
    if isinstance(value, PathLike):
        return str(value)
    if hasattr(value, "isoformat"):  # dates and times
        return value.isoformat()
    if hasattr(value, "detach"):  # a tensor, wherever it lives
        return _encode(value.detach().cpu().tolist(), where)
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return _encode(value.tolist(), where)
    place = where.lstrip(".") or "the record itself"
    raise InvalidInputError(f"{place} is a {type(value).__name__}, which has no form in JSON; convert it first")


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _key(key: Any, where: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        place = where.lstrip(".") or "the record"
        raise InvalidInputError(f"{place} has the key {key!r}; the keys of a JSON object are texts")
    return key
