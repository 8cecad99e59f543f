"""What is written for surveys: objectives, surveys, batches of runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from sqlalchemy import Connection, Row, func, select
from sqlalchemy.dialects import postgresql, sqlite

from thalweg.catalogue.blobs import to_blob
from thalweg.catalogue.canonical import default_tolerance
from thalweg.catalogue.limits import distinct_limits, merge_limits
from thalweg.catalogue.merging import Found, Judge, distinct_points, merge
from thalweg.catalogue.records import Batch
from thalweg.catalogue.storage import library_version, now
from thalweg.catalogue.tables import batches, objectives, runs, surveys
from thalweg.catalogue.units import probe_points
from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective

__all__ = ["Recording", "canonical_json", "inserted_objective", "objective_row", "survey_number", "value_scale"]


def canonical_json(settings: Mapping[str, Any]) -> str:
    """Settings as one text, the same for equal settings.

    Raises:
        InvalidInputError: for what JSON does not hold, NaN and infinities among it.

    >>> canonical_json({"b": 1, "a": [True, None, "x"]})
    '{"a":[true,null,"x"],"b":1}'
    """
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise InvalidInputError(f"the settings of a survey are a mapping with texts as keys, got {settings!r}")
    try:
        return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the settings of a survey hold numbers, texts, lists and mappings only: {error}"
        ) from error


def value_scale(objective: Objective) -> float:
    """Typical size of an objective's values: the median at random parameters, 1 where it is not finite there."""
    try:
        sizes = objective.value(probe_points(objective)).abs().to("cpu", torch.float64)
    except Exception:  # the function need not be defined at these points, and may say so in any way
        return 1.0
    sizes = sizes[torch.isfinite(sizes) & (sizes > 0)]
    return float(sizes.median()) if len(sizes) else 1.0


def objective_row(objective: Objective, fingerprint: str, symmetries: str) -> dict[str, Any]:
    """What is recorded of an objective."""
    return {
        "fingerprint": fingerprint,
        "description": repr(objective),
        "parameters": objective.space.size,
        "dtype": str(objective.dtype).removeprefix("torch."),
        "blocks": json.dumps([[block.name, list(block.shape)] for block in objective.space]),
        "tolerance": default_tolerance(objective.dtype),
        "value_scale": value_scale(objective),
        "symmetries": symmetries,
        "library": library_version(),
        "created": now(),
    }


def locked(connection: Connection, fingerprint: str) -> Row[Any]:
    """The row of an objective, held until the end of the transaction: who merges points of it waits for the others.

    On SQLite the transaction holds the lock of the whole file already.
    """
    return connection.execute(select(objectives).where(objectives.c.fingerprint == fingerprint).with_for_update()).one()


def inserted_objective(connection: Connection, values: Mapping[str, Any]) -> Row[Any]:
    """The row of an objective, inserted unless another process was quicker."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(insert(objectives).values(dict(values)).on_conflict_do_nothing())
    return locked(connection, values["fingerprint"])


def survey_number(connection: Connection, fingerprint: str, settings: str, batch_size: int) -> int:
    """The number of the survey with these settings, which is made where it is missing."""
    locked(connection, fingerprint)
    digest = hashlib.sha256(settings.encode()).hexdigest()
    same = (
        (surveys.c.objective == fingerprint)
        & (surveys.c.settings_digest == digest)
        & (surveys.c.batch_size == batch_size)
    )
    number = connection.scalar(select(surveys.c.id).where(same))
    if number is None:
        row = {
            "objective": fingerprint,
            "settings": settings,
            "settings_digest": digest,
            "batch_size": batch_size,
            "library": library_version(),
            "created": now(),
        }
        key = connection.execute(surveys.insert(), row).inserted_primary_key
        assert key is not None
        number = key[0]
    return int(number)


class Recording:
    """One batch on its way into the catalogue. What takes time is done here, before the transaction begins."""

    def __init__(self, judge: Judge, survey: int, number: int, batch_size: int, result: Batch) -> None:
        first, count = int(result.seeds[0]), len(result.seeds)
        parameters = judge.symmetries.size
        self._offset = first - number * batch_size  # where this batch was begun before, it may be the rest of it
        if not 0 <= self._offset <= batch_size - count:
            raise InvalidInputError(
                f"batch {number} of survey {survey} holds up to {batch_size} seeds from {number * batch_size}, got "
                f"{count} from {first}"
            )
        if result.solution.theta.shape[-1] != parameters:
            raise InvalidInputError(
                f"the survey is about {parameters} parameters, the batch has {result.solution.theta.shape[-1]}"
            )
        self._judge, self._survey, self._number, self._result = judge, survey, number, result
        self._found = distinct_points(judge, result.solution)
        self._limits = distinct_limits(judge, result.solution)

    def __call__(self, connection: Connection) -> bool:
        """Write what is not there yet; False where all of it is."""
        locked(connection, self._judge.objective)
        mine = (batches.c.survey == self._survey) & (batches.c.number == self._number)
        there = int(connection.scalar(select(func.coalesce(func.sum(batches.c.seeds), 0)).where(mine)) or 0)
        if there < self._offset:
            raise InvalidInputError(
                f"batch {self._number} of survey {self._survey} holds {there} seeds: those from {self._offset} on "
                "would leave a gap"
            )
        there -= self._offset
        if there >= len(self._result.seeds):
            return False
        first = int(self._result.seeds[0])
        left = [one for one in (_without(one, there) for one in self._found) if len(one.members)]
        ends = merge(connection, self._judge, left, self._result.solution, self._survey, first)
        limits = [one for one in (one.without(there) for one in self._limits) if one.members]
        ends |= merge_limits(connection, self._judge, limits, self._survey, first)
        connection.execute(batches.insert(), self._batch_row(there))
        connection.execute(runs.insert(), self._run_rows(there, ends))
        return True

    def _batch_row(self, skip: int) -> dict[str, Any]:
        result = self._result
        return {
            "survey": self._survey,
            "number": self._number,
            "first_seed": int(result.seeds[skip]),
            "seeds": len(result.seeds) - skip,
            "method": result.solution.method,
            "seconds": float(result.seconds) * (1 - skip / len(result.seeds)),
            "worker": result.worker,
            "theta": to_blob(result.solution.theta[skip:]),
            "created": now(),
        }

    def _run_rows(self, skip: int, ends: Mapping[int, int]) -> list[dict[str, Any]]:
        solution = self._result.solution
        reals = ("value", "gradient_norm", "gradient_floor", "newton_decrement")
        counts = {"negative": "index", **{n: n for n in ("undecided", "iterations", "evaluations", "hessians")}}
        columns: dict[str, list[Any]] = {
            "seed": self._result.seeds.tolist(),
            "status": [status.value for status in solution.statuses],
            "message": solution.messages,
            **{name: getattr(solution, name).to(torch.float64).tolist() for name in reals},
            **{name: getattr(solution, source).tolist() for name, source in counts.items()},
            "point": [ends.get(place) for place in range(len(solution))],
        }
        rows = zip(*columns.values(), strict=True)
        return [{"survey": self._survey, **dict(zip(columns, row, strict=True))} for row in rows][skip:]


def _without(one: Found, skip: int) -> Found:
    """A point without those runs of the batch that are in the catalogue already."""
    return replace(one, members=one.members[one.members >= skip]) if skip else one
