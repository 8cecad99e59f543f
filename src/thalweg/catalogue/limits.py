"""Ends at infinity as points of a catalogue: which runs ended at one, and which of them are there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, select

from thalweg.catalogue.blobs import from_blob, to_blob
from thalweg.catalogue.merging import Judge, write_point
from thalweg.catalogue.tables import points
from thalweg.foundation import InvalidInputError
from thalweg.solvers import LimitPoint, Solution

__all__ = ["FoundLimit", "distinct_limits", "limit_of", "merge_limits"]


@dataclass(frozen=True, eq=False)
class FoundLimit:
    """An end at infinity, and the places in the batch of the runs that lead there."""

    end: LimitPoint
    members: tuple[int, ...]

    def without(self, skip: int) -> FoundLimit:
        """Without the runs before a place."""
        return replace(self, members=tuple(place for place in self.members if place >= skip))


def distinct_limits(judge: Judge, solution: Solution) -> list[FoundLimit]:
    """The distinct ends of the runs of a batch, in the order in which seeds came to them."""
    found: list[FoundLimit] = []
    for place, end in enumerate(solution.ends):
        if end is None:
            continue
        known = next((k for k, one in enumerate(found) if _same(judge, one.end, end)), None)
        if known is None:
            found.append(FoundLimit(end, (place,)))
        else:
            best = min(found[known].end, end, key=lambda one: one.gradient_norm)
            found[known] = FoundLimit(best, (*found[known].members, place))
    return found


def merge_limits(
    connection: Connection, judge: Judge, found: Sequence[FoundLimit], survey: int, first_seed: int
) -> dict[int, int]:
    """Put them among the points of the catalogue, as `thalweg.catalogue.merging.merge` does with other points."""
    ends: dict[int, int] = {}
    for one in found:
        known = _search(connection, judge, one.end)
        number = write_point(connection, judge, known, _measured(one.end), one.members, survey, first_seed)
        ends |= dict.fromkeys(one.members, number)
    return ends


def limit_of(row: Row[Any]) -> LimitPoint:
    """A limit point from its row.

    Raises:
        InvalidInputError: for a point that is not at infinity.
    """
    if row.form is None:
        raise InvalidInputError(f"point {row.id} is not at infinity: it is a {row.kind} with finite parameters")
    return LimitPoint(
        row.value,
        row.gradient_norm,
        row.undecided,
        row.kind,
        from_blob(row.theta),
        json.loads(row.form),
        from_blob(row.signature),
    )


def _same(judge: Judge, one: LimitPoint, other: LimitPoint) -> bool:
    if one.kind != other.kind or one.signature.shape != other.signature.shape:
        return False
    apart = (one.signature - other.signature).abs().max()
    alike = bool(apart <= judge.tolerance * (1 + other.signature.abs().max()))
    return alike and abs(one.value - other.value) <= judge.value_error(other.value)


def _search(connection: Connection, judge: Judge, end: LimitPoint) -> Row[Any] | None:
    spread = judge.value_error(end.value)
    query = select(points).where(
        points.c.objective == judge.objective,
        points.c.form.is_not(None),
        points.c.value.between(end.value - spread, end.value + spread),
    )
    rows = connection.execute(query.order_by(points.c.id)).all()
    return next((row for row in rows if _same(judge, limit_of(row), end)), None)


def _measured(end: LimitPoint) -> dict[str, Any]:
    return {
        "value": end.value,
        "gradient_norm": end.gradient_norm,
        "negative": 0,
        "undecided": end.undecided,
        "kind": end.kind,
        "invariant": float(end.signature.sum()),
        "theta": to_blob(end.theta),
        "form": json.dumps(dict(end.form)),
        "signature": to_blob(end.signature),
    }
