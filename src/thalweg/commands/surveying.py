"""What `thalweg survey` and `thalweg catalogue` do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.catalogue import Catalogue, Survey, survey
from thalweg.commands.loading import load_target
from thalweg.display import Facts, Report, Section, Table
from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Objective

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["export", "listing", "point_report", "run_survey"]

_SHOWN = 20


def run_survey(target: str, **settings: Any) -> Survey:
    """Survey what a function in a file returns.

    Raises:
        InvalidInputError: as `load_target` and `thalweg.survey`.
    """
    made = load_target(target)
    folder = str(Path(target.rpartition(":")[0]).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # workers import the file by its name
    objective: Objective = next(iter(made.points([])))[0]
    return survey(objective, **settings)


def listing(storage: str) -> Report:
    """Objectives and surveys of a catalogue."""
    with Catalogue(storage, create=False) as catalogue:
        objectives, surveys = catalogue.objectives(), catalogue.surveys()
        progress = {int(number): catalogue.progress(int(number)) for number in surveys["survey"]}
        name = repr(catalogue)
    kept = [(row.fingerprint[:12], row.description, row.parameters, row.points) for row in objectives.itertuples()]
    rows = []
    for row in surveys.itertuples():
        now = progress[row.survey]
        how = f"{row.settings.get('method', '')}, {row.settings.get('initializer', '')}"
        rows.append((row.survey, row.objective[:12], how, now.seeds, now.converged, now.points, now.best))
    return Report(
        name,
        [
            Section("Objectives", [Table(["fingerprint", "objective", "parameters", "points"], kept)]),
            Section(
                "Surveys",
                [Table(["survey", "objective", "method", "runs", "converged", "points", "lowest value"], rows)],
            ),
        ],
    )


def point_report(storage: str, point: int | None, survey_number: int | None) -> Report:
    """A point with its parameters, or the points of lowest value.

    Raises:
        InvalidInputError: if there is no such point or survey.
    """
    with Catalogue(storage, create=False) as catalogue:
        points = catalogue.points()
        if point is not None:
            theta = catalogue.theta(point)
            row = points[points["point"] == point].iloc[0]
            objectives = catalogue.objectives()
            home = objectives[objectives["fingerprint"] == row["objective"]].iloc[0]
            blocks = catalogue.limit_point(point).form["blocks"] if row["at_infinity"] else home["blocks"]
            return _one_point(row, home, ParameterSpace(blocks), theta.tolist())
        if survey_number is not None:
            catalogue.progress(survey_number)
            runs = catalogue.runs(survey=survey_number)
            points = points[points["point"].isin(runs["point"].dropna().astype(int))]
    ordered = points.sort_values("value").head(_SHOWN)
    rows = [
        (r.point, f"{r.value:.12g}", r.gradient_norm, r.index_, r.undecided, r.kind, r.multiplicity)
        for r in ordered.rename(columns={"index": "index_"}).itertuples(index=False)
    ]
    caption = f"The lowest {_SHOWN} of {len(points):,}." if len(points) > _SHOWN else ""
    columns = ["point", "value", "gradient", "index", "undecided", "kind", "runs"]
    return Report(f"{len(points):,} points", [Section("Lowest first", [Table(columns, rows, caption)])])


def _one_point(row: pd.Series, home: pd.Series, space: ParameterSpace, theta: list[float]) -> Report:
    facts = {name: row[name] for name in ("objective", "value", "gradient_norm", "index", "undecided", "kind")}
    facts |= {"runs that ended here": row["multiplicity"], "first found by": f"survey {row['first_survey']}"}
    facts["objective"] = f"{home['description']} ({row['objective'][:12]})"
    blocks = []
    for block in space:
        text = ", ".join(f"{number:.6g}" for number in theta[block.slice][:_SHOWN])
        blocks.append((block.name, str(block.shape), text + (", ..." if block.size > _SHOWN else "")))
    return Report(
        f"Point {row['point']}",
        [Section("What it is", [Facts(facts)]), Section("Parameters", [Table(["block", "shape", "values"], blocks)])],
    )


def export(storage: str, place: Path, say: Callable[[str], None]) -> None:
    """Write Parquet files."""
    if place.suffix and place.suffix != ".parquet":
        raise InvalidInputError(f"{place} ends neither in .parquet nor is it a folder: only Parquet is written")
    with Catalogue(storage, create=False) as catalogue:
        for path in catalogue.export(place):
            say(f"wrote {path}")
