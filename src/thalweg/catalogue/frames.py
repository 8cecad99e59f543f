"""What is read from a catalogue, as tables of pandas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, func, select

from thalweg.catalogue.tables import batches, objectives, points, runs, surveys

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame_of_objectives", "frame_of_points", "frame_of_runs", "frame_of_surveys"]

_POINT = (
    points.c.id.label("point"),
    points.c.objective,
    points.c.value,
    points.c.gradient_norm,
    points.c.negative.label("index"),
    points.c.undecided,
    points.c.kind,
    points.c.form.is_not(None).label("at_infinity"),
    points.c.multiplicity,
    points.c.first_survey,
    points.c.first_seed,
    points.c.created,
)
_RUN = (
    runs.c.survey,
    runs.c.seed,
    runs.c.status,
    runs.c.message,
    runs.c.value,
    runs.c.gradient_norm,
    runs.c.gradient_floor,
    runs.c.newton_decrement,
    runs.c.negative.label("index"),
    runs.c.undecided,
    runs.c.iterations,
    runs.c.evaluations,
    runs.c.hessians,
    runs.c.point,
)


def frame_of_objectives(connection: Connection) -> pd.DataFrame:
    """One row an objective, in the order in which they came."""
    distinct = select(points.c.objective, func.count().label("points")).group_by(points.c.objective).subquery()
    query = (
        select(objectives, func.coalesce(distinct.c.points, 0).label("points"))
        .join(distinct, distinct.c.objective == objectives.c.fingerprint, isouter=True)
        .order_by(objectives.c.created, objectives.c.fingerprint)
    )
    frame = _frame(connection, query, integers=("parameters", "points"), reals=("tolerance", "value_scale"))
    return frame.assign(blocks=[json.loads(text) for text in frame["blocks"]])


def frame_of_surveys(connection: Connection, objective: str | None) -> pd.DataFrame:
    """One row a survey, with what it holds so far."""
    held = (
        select(
            batches.c.survey,
            func.count().label("batches"),
            func.sum(batches.c.seeds).label("seeds"),
            func.sum(batches.c.seconds).label("seconds"),
        )
        .group_by(batches.c.survey)
        .subquery()
    )
    query = (
        select(
            surveys.c.id.label("survey"),
            surveys.c.objective,
            surveys.c.settings,
            surveys.c.batch_size,
            func.coalesce(held.c.batches, 0).label("batches"),
            func.coalesce(held.c.seeds, 0).label("seeds"),
            func.coalesce(held.c.seconds, 0.0).label("seconds"),
            surveys.c.library,
            surveys.c.created,
        )
        .join(held, held.c.survey == surveys.c.id, isouter=True)
        .order_by(surveys.c.id)
    )
    if objective is not None:
        query = query.where(surveys.c.objective == objective)
    frame = _frame(connection, query, integers=("survey", "batch_size", "batches", "seeds"), reals=("seconds",))
    return frame.assign(settings=[json.loads(text) for text in frame["settings"]])


def frame_of_runs(connection: Connection, survey: int | None, objective: str | None) -> pd.DataFrame:
    """One row a search, in the order of surveys and seeds."""
    query = select(*_RUN).order_by(runs.c.survey, runs.c.seed)
    if survey is not None:
        query = query.where(runs.c.survey == survey)
    if objective is not None:
        query = query.join(surveys, surveys.c.id == runs.c.survey).where(surveys.c.objective == objective)
    counts = ("survey", "seed", "index", "undecided", "iterations", "evaluations", "hessians")
    reals = ("value", "gradient_norm", "gradient_floor", "newton_decrement")
    return _frame(connection, query, integers=counts, reals=reals, optional=("point",))


def frame_of_points(connection: Connection, objective: str | None) -> pd.DataFrame:
    """One row a point, lowest values first; the parameters are left out."""
    query = select(*_POINT).order_by(points.c.objective, points.c.value, points.c.id)
    if objective is not None:
        query = query.where(points.c.objective == objective)
    counts = ("point", "index", "undecided", "multiplicity", "first_survey", "first_seed")
    frame = _frame(connection, query, integers=counts, reals=("value", "gradient_norm"))
    return frame.astype({"at_infinity": "bool"})


def _frame(
    connection: Connection,
    query: Select[Any],
    *,
    integers: Sequence[str] = (),
    reals: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> pd.DataFrame:
    """The result of a query, with the right types of columns whether or not it has rows."""
    import pandas as pd

    result = connection.execute(query)
    names = list(result.keys())
    rows = [tuple(row) for row in result]  # a row with a field named dtype would pass for an array
    frame = pd.DataFrame.from_records(rows, columns=names)
    types: dict[str, str] = dict.fromkeys(integers, "int64")
    types |= dict.fromkeys(reals, "float64") | dict.fromkeys(optional, "Int64")
    if "created" in names:
        types["created"] = "datetime64[us, UTC]"
    return frame.astype(types)
