from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.display import Report, to_json, write_json
from thalweg.foundation import InvalidInputError


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    first: int
    second: float


@dataclass(frozen=True)
class Inner:
    point: torch.Tensor
    colour: Colour


@dataclass(frozen=True)
class Outer:
    inner: Inner
    pair: Pair
    names: frozenset[str]
    where: Path
    day: date


def test_a_nested_record() -> None:
    inner = Inner(torch.tensor([[1.0, math.nan]], requires_grad=True), Colour.RED)
    outer = Outer(inner, Pair(1, -math.inf), frozenset({"b", "a"}), Path("a") / "b", date(2026, 11, 21))
    assert to_json(outer, schema="s", version=3) == {
        "schema": "s",
        "schema_version": 3,
        "inner": {"point": [[1.0, "NaN"]], "colour": "red"},
        "pair": {"first": 1, "second": "-Infinity"},
        "names": ["a", "b"],
        "where": str(Path("a") / "b"),
        "day": "2026-11-21",
    }


@given(st.floats())
def test_every_float_survives(number: float) -> None:
    text = json.dumps(to_json({"x": number}, schema="s", version=1), allow_nan=False)
    back = float(json.loads(text)["x"])
    assert back == number or (math.isnan(back) and math.isnan(number))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(2), 2),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (torch.tensor([True]), [True]),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (1 + 2j, {"re": 1.0, "im": 2.0}),
        (torch.tensor([1j]), [{"re": 0.0, "im": 1.0}]),
        (None, None),
    ],
)
def test_values(value: object, expected: object) -> None:
    assert to_json({"x": value}, schema="s", version=1)["x"] == expected
    json.dumps(to_json({"x": value}, schema="s", version=1), allow_nan=False)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": [{"b": object()}]}, r"a\[0\]\.b is a object, which has no form in JSON"),
        ({"a": {1: 2}}, "a has the key 1; the keys of a JSON object are texts"),
        ([1], "a record is a dataclass or a mapping, got list"),
        ({"schema": 1}, "fields of its own named schema"),
    ],
)
def test_misuse_is_refused(record: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        to_json(record, schema="s", version=1)


def test_a_report_is_a_record(report: Report, tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", report, schema="thalweg.report", version=1)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["schema"] == "thalweg.report"
    assert [section["title"] for section in read["sections"]] == ["Point", "Tables", "Pictures", "Next"]
    assert read["sections"][2]["items"][0]["series"][0]["y"] == [5.0, 0.0, -0.001]
