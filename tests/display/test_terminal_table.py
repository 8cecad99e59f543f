from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.display import Report, Section, Table
from thalweg.display.terminal_table import GAP, column_widths

HEADS = ["step", "predicted gain", "measured gain", "length", "remark"]
ROWS = [
    ("Gauss-Newton", 0.2009, 0.1766, 1.223, "met negative curvature on the way"),
    ("negative curvature", 0.04075, 0.03463, 1.235e-12, ""),
]


def shown(width: int) -> str:
    return Report(
        "t", [Section("s", [Table(HEADS, ROWS, "A caption of some length that may need a second line.")])]
    ).to_text(width)


@pytest.mark.parametrize("width", [25, 40, 60, 80, 120])
def test_no_number_and_no_word_is_broken_at_any_width(width):
    words = shown(width).split()
    for value in (
        "0.2009",
        "0.1766",
        "1.223",
        "0.04075",
        "0.03463",
        "1.235e-12",
        "Gauss-Newton",
        "curvature",
        "predicted",
    ):
        assert value in words


def test_where_columns_do_not_fit_each_row_stands_by_itself():
    lines = [line.strip() for line in shown(40).splitlines()]
    at = lines.index("Gauss-Newton")
    assert lines[at + 1].split() == ["predicted", "gain", "0.2009"]
    assert lines.index("negative curvature") > at


def test_where_they_fit_they_stand_in_columns():
    assert any("Gauss-Newton" in line and "0.2009" in line and "0.1766" in line for line in shown(80).splitlines())


texts = st.lists(st.text("ab ", max_size=12), min_size=2, max_size=2)


@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=5), st.integers(1, 60))
def test_widths_fit_the_room_and_hold_every_word(columns, room):
    cells, whole = [texts for texts, _ in columns], [kept for _, kept in columns]
    least = [
        max(1, *(len(word) for text in texts for word in ["", *text.split()]), *([len(texts[1])] if kept else []))
        for texts, kept in columns
    ]
    widths = column_widths(cells, whole, room)
    assert (widths is None) == (sum(least) > room)
    if widths is not None:
        assert sum(widths) <= room
        assert all(width >= need for width, need in zip(widths, least, strict=True))
        wished = [max(need, *map(len, texts)) for need, texts in zip(least, cells, strict=True)]
        assert sum(widths) == min(room, sum(wished))


def test_the_gap_is_what_is_drawn_between_columns():
    lines = Report("t", [Section("s", [Table(["aa", "bb"], [("x", "y")])])]).to_text(80).splitlines()
    heading = next(line for line in lines if "aa" in line)
    assert heading.index("bb") - heading.index("aa") == 2 + GAP
