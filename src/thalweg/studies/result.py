"""What came of a study: claims, pictures and tables, as text, page and files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from thalweg.display import (
    Facts,
    Figure,
    Notice,
    Paragraph,
    Report,
    Section,
    Table,
    format_duration,
    write_json,
    write_text_atomically,
)
from thalweg.foundation import InvalidInputError
from thalweg.studies.claims import Claim

__all__ = ["Part", "StudyResult", "make_folder"]


@dataclass(frozen=True)
class Part:
    """One part of a study.

    Attributes:
        title: its heading.
        claims: what was held against the paper.
        items: what a reader sees, in order.
        seconds: how long it took.
        machine: what it ran on.
    """

    title: str
    claims: tuple[Claim, ...]
    items: tuple[Paragraph | Figure | Table, ...]
    seconds: float = 0.0
    machine: str = ""


@dataclass(frozen=True)
class StudyResult:
    """What came of a study.

    Attributes:
        name: of the study.
        title: of the paper.
        source: authors, venue, number.
        about: what is claimed, in a few sentences.
        preset: ``"quick"`` or ``"full"``; with changes named.
        settings: all of them, by name.
        parts: in order.
    """

    name: str
    title: str
    source: str
    about: str
    preset: str
    settings: Mapping[str, Any] = field(repr=False)
    parts: tuple[Part, ...] = field(repr=False)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Of all parts."""
        return tuple(claim for part in self.parts for claim in part.claims)

    @property
    def holds(self) -> bool:
        """Whether all claims do."""
        return all(claim.holds for claim in self.claims)

    @property
    def seconds(self) -> float:
        """How long all parts took."""
        return sum(part.seconds for part in self.parts)

    @property
    def verdict(self) -> str:
        """How many claims hold."""
        return f"{sum(claim.holds for claim in self.claims)} of {len(self.claims)} claims hold"

    def tables(self) -> Iterator[tuple[str, Table]]:
        """All tables, each with a name that a file can have."""
        for number, part in enumerate(self.parts):
            few = [item for item in part.items if isinstance(item, Table)]
            for place, table in enumerate(few):
                name = re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-")
                yield f"{number + 1}-{name}" + (f"-{place + 1}" if len(few) > 1 else ""), table

    def report(self, *, figures: bool = True) -> Report:
        """To be shown; without figures for a terminal."""
        failed = [claim for claim in self.claims if not claim.holds]
        detail = "Not: " + "; ".join(claim.text for claim in failed) + "." if failed else ""
        sections = []
        for part in self.parts:
            shown = [item for item in part.items if figures or not isinstance(item, Figure)]
            claims = [_claims(part.claims)] if part.claims else []
            sections.append(Section(part.title, [*claims, *_notes(part.claims), *shown]))
        sections.append(Section("How it was run", [Facts(dict(self.settings) | self._machines())]))
        return Report(
            self.title,
            sections,
            summary=[
                Paragraph(f"{self.source}."),
                Paragraph(self.about),
                Notice("bad" if failed else "ok", f"{self.verdict} ({self.preset}).", detail),
            ],
            footer=f"Study {self.name}, {self.preset}, {format_duration(self.seconds)}.",
        )

    def _machines(self) -> dict[str, str]:
        return {"machine": "; ".join(dict.fromkeys(part.machine for part in self.parts if part.machine))}

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write ``NAME.html``, ``NAME.json`` and the tables as CSV in ``NAME/``; the page's path.

        Raises:
            InvalidInputError: if a file cannot be written.
        """
        folder = Path(folder)
        make_folder(folder / self.name)
        for name, table in self.tables():
            write_text_atomically(folder / self.name / f"{name}.csv", _as_csv(table))
        write_json(folder / f"{self.name}.json", self, schema="thalweg.study", version=1)
        page = folder / f"{self.name}.html"
        self.report().save_html(page)
        return page

    def __str__(self) -> str:
        return self.report(figures=False).to_text()


def make_folder(folder: Path) -> None:
    """Make it, and those it lies in.

    Raises:
        InvalidInputError: if that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot make the folder {folder}: {error.strerror}") from error


def _claims(claims: tuple[Claim, ...]) -> Table:
    rows = [("✓" if one.holds else "✗", one.text, one.expected, one.here, one.tolerance) for one in claims]
    return Table(["", "claim", "expected", "here", "tolerance"], rows)


def _notes(claims: tuple[Claim, ...]) -> list[Paragraph]:
    return [Paragraph(f"{one.text}: {one.note}") for one in claims if one.note]


def _as_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.heading for column in table.columns])
    writer.writerows(table.rows)
    return text.getvalue()
