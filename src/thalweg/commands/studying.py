"""What `thalweg study` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from thalweg.display import Code, Report, Section, Table, print_report
from thalweg.foundation import InvalidInputError
from thalweg.studies import find_study, gallery, names, run_study

__all__ = ["listing", "run_studies"]


def listing() -> Report:
    """The studies there are."""
    found = [find_study(name) for name in names()]
    rows = [(one.name, one.title, one.source) for one in found]
    table = Table(["study", "paper", "source"], rows)
    return Report("Studies", [Section("All of them", [table, Code(f"thalweg study {found[0].name}")])])


def run_studies(
    name: str | None,
    preset: str,
    *,
    folder: Path,
    changes: Sequence[str],
    fresh: bool,
    say: Callable[[str], None],
) -> bool:
    """Compute one study, or all, write their pages; whether all claims hold.

    Raises:
        InvalidInputError: for a study, preset or setting that is not there, or a folder that cannot be written.
    """
    wanted = dict(_parted(change) for change in changes)
    if name is None and wanted:
        raise InvalidInputError("settings belong to one study: name it, or leave --set out")
    results = []
    for one in names() if name is None else [name]:
        try:
            result = run_study(find_study(one), preset, folder=folder, fresh=fresh, say=say, **wanted)
        except KeyboardInterrupt:
            say(f"Stopped. What is finished lies in {folder / one}; the same command goes on from there.")
            raise
        print_report(result.report(figures=False))
        say(f"The page: {result.save(folder)}\n")
        results.append(result)
    if name is None:
        say(f"The gallery: {gallery(results, folder)}")
    return all(result.holds for result in results)


def _parted(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals or not name.strip():
        raise InvalidInputError(f"a setting is changed by NAME=VALUE, got {change!r}")
    return name.strip(), value.strip()
