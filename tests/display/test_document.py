from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.display import Column, Facts, Notice, Paragraph, Report, Section, Table
from thalweg.display.document import split_code
from thalweg.foundation import InvalidInputError


def test_plain_strings_are_paragraphs() -> None:
    assert Section("a", ["b"]).items == (Paragraph("b"),)
    assert Report("a", summary=["b"]).summary == (Paragraph("b"),)


def test_facts_from_a_mapping_and_from_rows() -> None:
    assert Facts({"a": 1}).rows == Facts([("a", 1)]).rows == Facts([("a", 1, "")]).rows


def test_units_stand_in_the_heading() -> None:
    assert Table([Column("time", "s")], []).columns[0].heading == "time (s)"


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Report("a").title = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Table(["a", "b"], [(1, 2), (1, 2, 3)]), "row 1 of the table has 3 values for 2 columns"),
        (lambda: Table(["a", "b"], [(1,)]), "row 0 of the table has 1 values for 2 columns"),
        (lambda: Notice("fine", "x"), "one of ok, warn, bad, got 'fine'"),
        (lambda: Facts([("a",)]), r"a fact is \(name, value\)"),
        (lambda: Section("a", [3.0]), "a report is made of"),
    ],
)
def test_misuse_is_refused(make, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()


@given(st.text(alphabet="ab` ", max_size=30))
def test_splitting_at_backticks_loses_nothing_but_pairs(text: str) -> None:
    pieces = split_code(text)
    kept = text.count("`") % 2
    assert "".join(piece for piece, _ in pieces).replace("`", "") == text.replace("`", "")
    assert sum(piece.count("`") for piece, _ in pieces) == kept


def test_an_odd_backtick_stays() -> None:
    assert split_code("a `b` c ` d") == [("a ", False), ("b", True), (" c ` d", False)]
    assert split_code("don`t") == [("don`t", False)]
