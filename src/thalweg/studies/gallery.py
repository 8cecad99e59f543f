"""One page that leads to those of all studies."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from thalweg.display import Notice, Report, Section, Table, format_duration, write_text_atomically
from thalweg.studies.result import StudyResult, make_folder

__all__ = ["gallery"]


def gallery(results: Sequence[StudyResult], folder: str | PathLike[str]) -> Path:
    """Write all pages and ``index.html``; its path.

    Raises:
        InvalidInputError: if a file cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    for result in results:
        result.save(folder)
    rows = [
        (result.name, result.title, result.verdict, result.preset, format_duration(result.seconds))
        for result in results
    ]
    failed = [result.name for result in results if not result.holds]
    told = f"Claims that do not hold: {', '.join(failed)}." if failed else "All claims hold."
    table = Table(["study", "paper", "verdict", "how", "time"], rows, "Studies.")
    report = Report("Studies", [Section("All of them", [table])], summary=[Notice("bad" if failed else "ok", told)])
    page = folder / "index.html"
    text = report.to_html()
    for result in results:  # a table's cell is text: the name becomes a link here
        text = text.replace(f"<td>{result.name}</td>", f'<td><a href="{result.name}.html">{result.name}</a></td>')
    write_text_atomically(page, text)
    return page
