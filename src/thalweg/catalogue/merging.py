"""Which runs of a batch ended at one point, and which of these points are in the catalogue already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from sqlalchemy import Connection, bindparam, select
from torch import Tensor

from thalweg.catalogue.blobs import from_blob, to_blob
from thalweg.catalogue.canonical import Symmetries
from thalweg.catalogue.storage import now
from thalweg.catalogue.tables import points
from thalweg.solvers import Solution

__all__ = ["Found", "Judge", "distinct_points", "kind_of", "merge", "write_point"]

VALUES = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest difference of the values of two copies of one point, relative to the value plus the objective's scale."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Says whether two points of one objective are the same.

    Attributes:
        objective: its fingerprint.
        symmetries: of the objective.
        tolerance: of parameters, relative to one plus the largest.
        value_scale: typical size of the objective's values.
    """

    objective: str
    symmetries: Symmetries
    tolerance: float
    value_scale: float

    def value_error(self, value: float) -> float:
        """How much the values of two copies may differ."""
        return VALUES.get(self.symmetries.dtype, 1e-5) * (abs(value) + self.value_scale)


@dataclass(frozen=True, eq=False)
class Found:
    """A point that runs of one batch ended at.

    Attributes:
        form: ``(P,)`` its canonical form.
        invariant: the number it is searched by.
        allowed: largest difference of a parameter between two copies of it.
        best: place in the batch of the run with the smallest gradient.
        members: ``(n,)`` places in the batch of all runs that ended here.
    """

    form: Float[Tensor, " P"]
    invariant: float
    allowed: float
    best: int
    members: Int[Tensor, " n"]


def distinct_points(judge: Judge, solution: Solution) -> list[Found]:
    """The distinct points among the converged runs of a batch, in the order in which seeds came to them.

    First runs whose canonical forms agree are put together, for all runs at once; then the points that are left are
    compared one by one, where value and invariant leave it open.
    """
    symmetries = judge.symmetries
    finite = torch.isfinite(solution.theta).all(-1) & torch.isfinite(solution.value)
    places = (solution.converged & finite).nonzero().reshape(-1)
    theta = solution.theta[places]
    forms, invariants = symmetries.canonical(theta), symmetries.invariant(theta)
    values = solution.value[places].to(torch.float64)
    allowed = judge.tolerance * (1 + forms.abs().amax(-1)) if len(places) else values
    width = symmetries.invariant_error(1.0) * allowed

    def near(run: int) -> Tensor:
        """Which runs have the value and the invariant of this one, ``(n,)``."""
        close = (values - values[run]).abs() <= judge.value_error(float(values[run]))
        return close & ((invariants - invariants[run]).abs() <= width[run])

    label = torch.full((len(places),), -1)
    for run in range(len(places)):
        if label[run] < 0:
            others = (near(run) & (label < 0)).nonzero().reshape(-1)
            label[others[(forms[others] - forms[run]).abs().amax(-1) <= allowed[run]]] = run
    leads = torch.zeros(len(places), dtype=torch.bool)
    for leader in label.unique().tolist():
        candidates = (near(leader) & leads).nonzero().reshape(-1).tolist()
        same = (c for c in candidates if symmetries.same_forms(forms[c], forms[leader], float(allowed[c])))
        earlier = next(same, None)
        if earlier is None:
            leads[leader] = True
        else:
            label[label == leader] = earlier

    found = []
    gradients = solution.gradient_norm[places].to(torch.float64)
    for leader in label.unique().tolist():
        members = (label == leader).nonzero().reshape(-1)
        best = int(members[gradients[members].argmin()])
        one = Found(forms[best], float(invariants[best]), float(allowed[best]), int(places[best]), places[members])
        found.append(one)
    return found


def merge(
    connection: Connection, judge: Judge, found: Sequence[Found], solution: Solution, survey: int, first_seed: int
) -> dict[int, int]:
    """Put the points of a batch among those of the catalogue, inside of a transaction that holds the writer's lock.

    Args:
        connection: in a transaction.
        judge: of the objective.
        found: the points.
        solution: whose runs they were.
        survey: to which it belongs.
        first_seed: number of the first run's seed.

    Returns:
        For the place of each converged run the number of its point.
    """
    ends: dict[int, int] = {}
    for one in found:
        known = _search(connection, judge, one, float(solution.value[one.best]))
        members = one.members.tolist()
        number = write_point(connection, judge, known, _measured(one, solution), members, survey, first_seed)
        ends |= dict.fromkeys(members, number)
    return ends


_CANDIDATES = select(points.c.id, points.c.value, points.c.gradient_norm, points.c.theta).where(
    points.c.objective == bindparam("objective"),
    points.c.invariant.between(bindparam("low"), bindparam("high")),
    points.c.value.between(bindparam("least"), bindparam("most")),
).order_by(points.c.id)  # fmt: skip


def _search(connection: Connection, judge: Judge, one: Found, value: float) -> Any | None:
    """The row of the catalogue's point that is the same as this one, None where there is none."""
    width, spread = judge.symmetries.invariant_error(one.allowed), judge.value_error(value)
    window = {
        "objective": judge.objective,
        "low": one.invariant - width,
        "high": one.invariant + width,
        "least": value - spread,
        "most": value + spread,
    }
    rows = connection.execute(_CANDIDATES, window).all()
    if not rows:
        return None
    forms = judge.symmetries.canonical(torch.stack([from_blob(row.theta) for row in rows]))
    nearest_first = (forms - one.form).abs().amax(-1).argsort(stable=True).tolist()
    for place in nearest_first:
        if judge.symmetries.same_forms(one.form, forms[place], one.allowed):
            return rows[place]
    return None


def write_point(
    connection: Connection,
    judge: Judge,
    known: Any | None,
    measured: dict[str, Any],
    members: Sequence[int],
    survey: int,
    first_seed: int,
) -> int:
    """Insert a point, or count runs to the row that it has, with what the best of all runs measured; its number."""
    if known is None:
        row = {
            "objective": judge.objective,
            "multiplicity": len(members),
            "first_survey": survey,
            "first_seed": first_seed + min(members),
            "created": now(),
        }
        key = connection.execute(points.insert(), row | measured).inserted_primary_key
        assert key is not None
        return int(key[0])
    changes: dict[str, Any] = {"multiplicity": points.c.multiplicity + len(members)}
    if measured["gradient_norm"] < known.gradient_norm:
        changes |= measured
    connection.execute(points.update().where(points.c.id == known.id).values(changes))
    return int(known.id)


def _measured(one: Found, solution: Solution) -> dict[str, Any]:
    """What is known of a point from the run that came nearest to it."""
    negative, undecided = int(solution.index[one.best]), int(solution.undecided[one.best])
    return {
        "value": float(solution.value[one.best]),
        "gradient_norm": float(solution.gradient_norm[one.best]),
        "negative": negative,
        "undecided": undecided,
        "kind": kind_of(negative, undecided, solution.theta.shape[-1]),
        "invariant": one.invariant,
        "theta": to_blob(solution.theta[one.best]),
    }


def kind_of(negative: int, undecided: int, parameters: int) -> str:
    """What a critical point is, as far as counts of eigenvalues say.

    >>> kind_of(0, 0, 5), kind_of(2, 1, 5), kind_of(0, 1, 5), kind_of(-1, -1, 5)
    ('minimum', 'saddle', 'undecided', 'unclassified')
    """
    if negative < 0:
        return "unclassified"
    if negative == 0:
        return "minimum" if undecided == 0 else "undecided"
    return "maximum" if negative == parameters else "saddle" if negative + undecided < parameters else "undecided"
