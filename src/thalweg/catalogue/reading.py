"""What is read of one survey: how far it is, and its runs as a `Solution`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sqlalchemy import Connection, Row, func, select
from torch import Tensor

from thalweg.catalogue.blobs import from_blob
from thalweg.catalogue.frames import frame_of_runs
from thalweg.catalogue.limits import limit_of
from thalweg.catalogue.records import Progress
from thalweg.catalogue.tables import batches, objectives, points, runs, surveys
from thalweg.foundation import InvalidInputError
from thalweg.solvers import Solution, Status

__all__ = ["seeds_in_batches", "finished", "progress_of", "solution_of", "survey_row", "thetas_of"]


def survey_row(connection: Connection, survey: int) -> Row[Any]:
    """A survey, with number and type of its objective's parameters.

    Raises:
        InvalidInputError: if there is none.
    """
    query = select(surveys, objectives.c.parameters, objectives.c.dtype).join_from(surveys, objectives)
    row = connection.execute(query.where(surveys.c.id == survey)).one_or_none()
    if row is None:
        raise InvalidInputError(f"this catalogue has no survey {survey}; `surveys()` lists what it has")
    return row


def seeds_in_batches(connection: Connection, survey: int) -> dict[int, int]:
    """How many seeds of each batch are there; only those with any."""
    survey_row(connection, survey)
    held = select(batches.c.number, func.sum(batches.c.seeds)).where(batches.c.survey == survey)
    return {int(number): int(seeds) for number, seeds in connection.execute(held.group_by(batches.c.number))}


def finished(connection: Connection, survey: int, starts: int | None) -> set[int]:
    """Numbers of the batches that are full, or reach as far as is wanted."""
    size = survey_row(connection, survey).batch_size
    held = seeds_in_batches(connection, survey)
    wanted = {number: size if starts is None else min(size, starts - number * size) for number in held}
    return {number for number, seeds in held.items() if seeds >= wanted[number]}


def thetas_of(connection: Connection, survey: int) -> Float[Tensor, "k P"]:
    """Final parameters of all runs, in the order of seeds."""
    row = survey_row(connection, survey)
    query = select(batches.c.theta).where(batches.c.survey == survey).order_by(batches.c.first_seed)
    parts = [from_blob(blob) for blob in connection.scalars(query)]
    return torch.cat(parts) if parts else torch.zeros(0, row.parameters, dtype=getattr(torch, row.dtype))


def solution_of(connection: Connection, survey: int) -> Solution:
    """All runs as one solution, in the order of seeds."""
    theta, frame = thetas_of(connection, survey), frame_of_runs(connection, survey, None)
    if not len(frame):
        raise InvalidInputError(f"survey {survey} has no runs yet")
    query = select(batches.c.method, batches.c.seconds).where(batches.c.survey == survey)
    rows = connection.execute(query.order_by(batches.c.first_seed)).all()
    reals = ("value", "gradient_norm", "gradient_floor", "newton_decrement")
    counts = ("index", "undecided", "iterations", "evaluations", "hessians")
    columns: dict[str, Any] = {name: torch.tensor(frame[name].to_numpy(np.float64)).to(theta) for name in reals}
    columns |= {name: torch.tensor(frame[name].to_numpy(np.int64)) for name in counts}
    named = {status.value: status for status in Status}
    status, message = np.empty(len(frame), object), np.empty(len(frame), object)
    status[:], message[:] = [named[name] for name in frame["status"]], list(frame["message"])
    mine = select(runs.c.point).where(runs.c.survey == survey)
    limits = select(points).where(points.c.form.is_not(None), points.c.id.in_(mine))
    known = {row.id: limit_of(row) for row in connection.execute(limits)}
    end = np.empty(len(frame), object)
    end[:] = [known.get(number) for number in frame["point"].astype(object).where(frame["point"].notna(), None)]
    seconds = sum(row.seconds for row in rows)
    return Solution(theta, **columns, status=status, message=message, end=end, seconds=seconds, method=rows[0].method)


def progress_of(connection: Connection, survey: int) -> Progress:
    """Counts, by queries that read no parameters."""
    survey_row(connection, survey)
    mine = runs.c.survey == survey
    many = select(func.count(), func.coalesce(func.sum(batches.c.seconds), 0.0)).where(batches.c.survey == survey)
    ended = select(runs.c.status, func.count()).where(mine).group_by(runs.c.status)
    good = select(func.count(points.c.id.distinct()), func.min(points.c.value)).join(runs, runs.c.point == points.c.id)
    good = good.where(mine)
    count, seconds = connection.execute(many).one()
    statuses = sorted(connection.execute(ended).all(), key=lambda row: (-row[1], row[0]))
    distinct, best = connection.execute(good).one()
    return Progress(
        seeds=sum(row[1] for row in statuses),
        batches=count,
        converged=sum(row[1] for row in statuses if row[0] == Status.CONVERGED.value),
        points=distinct,
        best=best,
        statuses=MappingProxyType({row[0]: row[1] for row in statuses}),
        seconds=seconds,
    )
