from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from thalweg.display import Code, Facts, Figure, Notice, Report, Section, Table, print_report
from thalweg.foundation import InvalidInputError


@pytest.mark.parametrize("width", [20, 40, 80, 132])
def test_no_line_is_wider_than_asked(report: Report, width: int) -> None:
    short = Report(report.title, report.sections[:3], summary=report.summary, footer=report.footer)  # without code
    for line in short.to_text(width).splitlines():
        assert cell_len(line) <= width


def test_everything_is_said(report: Report, figures: list[Figure]) -> None:
    text = report.to_text(100)
    for piece in (
        "Verdict on model",
        "A saddle.",
        "0.5 ± 0.01",
        "not decided",
        "A plain sentence.",
        "layer[0]",
        "time (s)",
    ):
        assert piece in text
    for figure in figures:
        assert f"Figure: {figure.title}" in text
    assert text.count("Uncertainty: Exact up to rounding.") == len(figures)
    assert "tw.minimize(objective)" in text
    assert "Made for a test." in text


def test_brackets_are_not_mark_up() -> None:
    name = "[bold]layers[0][/bold] [link=x]"
    report = Report(
        name, [Section(name, [name, Facts({name: name}), Table([name], [(name,)], name), Notice("ok", name)])]
    )
    assert report.to_text(120).count(name) == 9


def test_code_is_never_wrapped() -> None:
    long = "x = " + "1 + " * 40 + "1"
    assert long in Report("a", [Section("b", [Code(long)])]).to_text(30)


def test_plain_text_has_no_escape_sequences_and_no_blanks_at_line_ends(report: Report) -> None:
    text = report.to_text(80)
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert str(report) == text


def test_printing_to_a_file_has_no_colours(report: Report) -> None:
    file = io.StringIO()
    print_report(report, file, width=70)
    assert "\x1b" not in file.getvalue()
    assert [line.rstrip() for line in file.getvalue().splitlines()] == report.to_text(70).splitlines()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_is_written_to(encoding: str) -> None:
    report = Report("Länge", [Section("s", [Notice("ok", "good"), Notice("bad", "0.5 ± 0.1"), Table(["∞"], [("a",)])])])
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_report(report, file, width=60)
    file.flush()
    text = raw.getvalue().decode(encoding)
    assert ("✓" if encoding == "utf-8" else "+ good") in text
    assert ("0.5 +- 0.1" if encoding == "ascii" else "0.5") in text
    assert "inf" in text or encoding == "utf-8"


def test_too_narrow_is_refused(report: Report) -> None:
    with pytest.raises(InvalidInputError, match="at least 20 characters, got 5"):
        report.to_text(5)
