"""What a report is made of. Plain frozen records: computed once, shown as often and in as many ways as wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import IO, Any, Literal

from thalweg.display.figures import Figure
from thalweg.foundation import InvalidInputError

__all__ = ["Code", "Column", "Facts", "Item", "Level", "Notice", "Paragraph", "Report", "Section", "Table"]

Level = Literal["ok", "warn", "bad"]

LEVELS: dict[Level, tuple[str, str]] = {"ok": ("✓", "Good"), "warn": ("!", "Caution"), "bad": ("✗", "Problem")}
"""Sign and word for each level: colour alone never carries the meaning."""


@dataclass(frozen=True)
class Paragraph:
    """Running text. What stands between `backticks` is shown as code."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to type, kept as they are."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be overlooked, and what it means in a second one.

    Attributes:
        level: ``"ok"``, ``"warn"`` or ``"bad"``.
        text: the sentence.
        detail: why, or what to do.
    """

    level: Level
    text: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InvalidInputError(f"a notice is one of {', '.join(LEVELS)}, got {self.level!r}")


@dataclass(frozen=True, init=False)
class Facts:
    """Names with values: ``Facts({"parameters": 1200, "loss": 0.03})``, or rows of name, value and remark.

    >>> Facts([("step size", 0.1, "below the limit of 0.4")]).rows
    (('step size', 0.1, 'below the limit of 0.4'),)
    """

    rows: tuple[tuple[str, Any, str], ...]

    def __init__(self, rows: Mapping[str, Any] | Iterable[tuple[str, Any] | tuple[str, Any, str]]) -> None:
        found = []
        for row in rows.items() if isinstance(rows, Mapping) else rows:
            if len(row) not in (2, 3):
                raise InvalidInputError(f"a fact is (name, value) or (name, value, remark), got {row!r}")
            found.append((str(row[0]), row[1], str(row[2]) if len(row) == 3 else ""))
        object.__setattr__(self, "rows", tuple(found))


@dataclass(frozen=True)
class Column:
    """Heading of a table's column, with the unit of what stands below it."""

    name: str
    unit: str = ""

    @property
    def heading(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, init=False)
class Table:
    """Rows under headings.

    Args:
        columns: headings, as text or `Column` with a unit.
        rows: as many values in each as there are columns.
        caption: what the table shows.

    Raises:
        InvalidInputError: if a row is longer or shorter than the headings.

    >>> Table(["layer", Column("time", "s")], [("0.weight", 0.2)]).columns[1].heading
    'time (s)'
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str

    def __init__(self, columns: Iterable[str | Column], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        heads = tuple(column if isinstance(column, Column) else Column(str(column)) for column in columns)
        body = tuple(tuple(row) for row in rows)
        for number, row in enumerate(body):
            if len(row) != len(heads):
                raise InvalidInputError(f"row {number} of the table has {len(row)} values for {len(heads)} columns")
        object.__setattr__(self, "columns", heads)
        object.__setattr__(self, "rows", body)
        object.__setattr__(self, "caption", caption)


Item = Paragraph | Code | Notice | Facts | Table | Figure


@dataclass(frozen=True, init=False)
class Section:
    """A heading and what stands under it. A plain string is a `Paragraph`."""

    title: str
    items: tuple[Item, ...]

    def __init__(self, title: str, items: Iterable[Item | str] = ()) -> None:
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "items", _as_items(items))


@dataclass(frozen=True, init=False)
class Report:
    """A result to be shown: in a terminal, in a notebook, or as a page of its own.

    Args:
        title: first line.
        sections: in reading order.
        summary: what a hurried reader must know; stands above the sections.
        footer: where it comes from (version, date, fingerprint of what was examined).

    >>> point = Section("Point", [Facts({"loss": 0.25})])
    >>> report = Report("Verdict", [point], summary=[Notice("ok", "A strict minimum.")])
    >>> print(report.to_text(width=20))
    Verdict
    ────────────────────
    ✓ A strict minimum.
    <BLANKLINE>
    Point
      loss  0.25
    <BLANKLINE>
    """

    title: str
    sections: tuple[Section, ...]
    summary: tuple[Item, ...]
    footer: str

    def __init__(
        self, title: str, sections: Iterable[Section] = (), *, summary: Iterable[Item | str] = (), footer: str = ""
    ) -> None:
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "sections", tuple(sections))
        object.__setattr__(self, "summary", _as_items(summary))
        object.__setattr__(self, "footer", footer)

    def to_text(self, width: int = 80) -> str:
        """The report as plain text, `width` characters wide."""
        from thalweg.display.terminal import to_text

        return to_text(self, width)

    def print(self, file: IO[str] | None = None, width: int | None = None) -> None:
        """Print to a file or to standard output, coloured where that is a terminal."""
        from thalweg.display.terminal import print_report

        print_report(self, file, width)

    def to_html(self) -> str:
        """A page that needs nothing but itself."""
        from thalweg.display.page import to_page

        return to_page(self)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write the page of `to_html` to a file.

        Raises:
            InvalidInputError: if it cannot be written; what stood there before is then still there.
        """
        from thalweg.display.files import write_text_atomically

        write_text_atomically(path, self.to_html())

    def _repr_html_(self) -> str:
        from thalweg.display.fragment import to_fragment

        return to_fragment(self)

    def __str__(self) -> str:
        return self.to_text()


def _as_items(items: Iterable[Item | str]) -> tuple[Item, ...]:
    found = tuple(Paragraph(item) if isinstance(item, str) else item for item in items)
    for item in found:
        if not isinstance(item, Item):
            raise InvalidInputError(f"a report is made of paragraphs, facts, tables, figures and notices, got {item!r}")
    return found


def split_code(text: str) -> list[tuple[str, bool]]:
    """Cut text at `backticks`; True marks the pieces that are code. An odd backtick is just a character.

    >>> split_code("call `tw.inspect` now")
    [('call ', False), ('tw.inspect', True), (' now', False)]
    """
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        pieces[-2:] = ["`".join(pieces[-2:])]
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]
