"""Studies: the headline results of published papers, computed anew, claim by claim."""

from __future__ import annotations

import importlib
from os import PathLike
from typing import Any

from thalweg.foundation import InvalidInputError
from thalweg.studies.claims import Claim
from thalweg.studies.gallery import gallery
from thalweg.studies.result import Part, StudyResult
from thalweg.studies.study import Say, Study, run_study

__all__ = ["Claim", "Part", "Study", "StudyResult", "find_study", "gallery", "names", "run", "run_study"]

NAMES = ("channels",)
"""One room of this package each."""


def names() -> tuple[str, ...]:
    """The studies there are.

    >>> names()
    ('channels',)
    """
    return NAMES


def find_study(name: str) -> Study:
    """A study by its name.

    Raises:
        InvalidInputError: if there is none.
    """
    if name not in NAMES:
        raise InvalidInputError(f"there is no study {name!r}; there are: {', '.join(NAMES)}")
    found: Study = importlib.import_module(f"{__name__}.{name}").STUDY
    return found


def run(
    name: str,
    preset: str = "quick",
    *,
    folder: str | PathLike[str] | None = None,
    fresh: bool = False,
    say: Say | None = None,
    **changes: Any,
) -> StudyResult:
    """Compute a study by its name; arguments as for `run_study`.

    Raises:
        InvalidInputError: if there is no such study, preset or setting, or the folder cannot be written.
    """
    return run_study(find_study(name), preset, folder=folder, fresh=fresh, say=say, **changes)
