"""The database of critical points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from sqlalchemy import Connection, func, select
from torch import Tensor

from thalweg.catalogue.blobs import from_blob
from thalweg.catalogue.canonical import Symmetries, symmetries_of
from thalweg.catalogue.export import targets_of, write_points, write_runs
from thalweg.catalogue.frames import frame_of_objectives, frame_of_points, frame_of_runs, frame_of_surveys
from thalweg.catalogue.limits import limit_of
from thalweg.catalogue.merging import Judge
from thalweg.catalogue.reading import (
    finished,
    progress_of,
    seeds_in_batches,
    solution_of,
    survey_row,
    thetas_of,
)
from thalweg.catalogue.recording import Recording, canonical_json, inserted_objective, objective_row, survey_number
from thalweg.catalogue.records import Batch, Progress
from thalweg.catalogue.storage import Storage
from thalweg.catalogue.tables import objectives, points, runs, surveys
from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.solvers import LimitPoint, Solution

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Catalogue"]


class Catalogue:
    """Critical points found by surveys of many seeds, in an SQLite file or a PostgreSQL database.

    Every run is kept, with its final parameters. Runs that converged end at *points*: two of them at the same one if
    their parameters are equal up to the symmetries of the network (`symmetries_of`) and their values agree. So do runs
    whose way to infinity a resolver followed to its end: limit points differ if what the network computes there does.
    A batch of runs is written in one transaction, whole or not at all, and any number of processes may write at the
    same time.

    Args:
        storage: a path, or a URL such as ``sqlite:///file.db``, ``postgresql+psycopg://user@host/name``; ``sqlite://``
            is a catalogue in memory.
        create: make it where it is missing.

    Raises:
        CatalogueError: if it cannot be opened, is missing with ``create=False``, is something else than a catalogue, or
            was made by a newer version. Every method raises it where the storage fails, and says what to do.
        InvalidInputError: for a URL that cannot be meant.

    >>> import torch
    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import Penalty
    >>> from thalweg.solvers import minimize
    >>> wells = Penalty(ParameterSpace({"x": (1,)}), lambda p: (p["x"] ** 2 - 1).square().sum(), name="two wells")
    >>> ends = minimize(wells, torch.tensor([[0.9], [-1.2], [1.1]], dtype=torch.float64))
    >>> with Catalogue("sqlite://") as catalogue:
    ...     survey = catalogue.open_survey(wells, {"method": "auto"}, batch_size=3)
    ...     catalogue.add_batch(survey, 0, Batch(torch.arange(3), ends, seconds=0.1, worker="here:1"))
    ...     catalogue.points()[["value", "kind", "multiplicity"]].to_dict("list")
    ...     catalogue
    True
    {'value': [0.0, 0.0], 'kind': ['minimum', 'minimum'], 'multiplicity': [2, 1]}
    <Catalogue sqlite://: 1 objective, 1 survey, 3 runs, 2 points>
    """

    def __init__(self, storage: str | Path, *, create: bool = True) -> None:
        self._storage = Storage(storage, create=create)
        self._objectives: dict[str, Objective] = {}
        self._symmetries: dict[str, Symmetries] = {}
        self._judges: dict[str, Judge] = {}

    @property
    def name(self) -> str:
        """Where it is stored, without any password."""
        return self._storage.name

    # -- for surveys ---------------------------------------------------------------------------------------------------

    def add_objective(self, objective: Objective, *, tolerance: float | None = None) -> str:
        """Record an objective, if it is not there yet.

        Args:
            objective: what is minimised.
            tolerance: largest difference of a parameter between two copies of one point, relative to one plus the
                largest parameter; None for what is recorded, at first 1e-6 (float64) or 1e-3 (float32).

        Returns:
            Its fingerprint, by which the catalogue knows it.

        Raises:
            InvalidInputError: for a tolerance that is not positive, or not the one recorded.
        """
        if not isinstance(objective, Objective):
            raise InvalidInputError(f"an objective is needed, got {type(objective).__name__}")
        if tolerance is not None and not 0 < tolerance < 1:
            raise InvalidInputError(f"a tolerance lies between 0 and 1, got {tolerance!r}")
        fingerprint = objective.fingerprint()
        query = select(objectives).where(objectives.c.fingerprint == fingerprint)
        row = self._storage.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            self._symmetries[fingerprint] = symmetries_of(objective)
            values = objective_row(objective, fingerprint, repr(self._symmetries[fingerprint]))
            if tolerance is not None:
                values["tolerance"] = tolerance
            row = self._storage.write(lambda connection: inserted_objective(connection, values))
        if tolerance is not None and row.tolerance != tolerance:
            raise InvalidInputError(
                f"points of {objective!r} are compared with tolerance {row.tolerance:g} in this catalogue, which "
                f"cannot change to {tolerance:g}; use another catalogue"
            )
        self._objectives[fingerprint] = objective
        return fingerprint

    def open_survey(self, objective: Objective, settings: Mapping[str, Any], batch_size: int) -> int:
        """The survey of an objective with these settings: begun, or the one there already, to be resumed.

        Args:
            objective: what is minimised.
            settings: everything that decides where a seed leads, as JSON holds it.
            batch_size: seeds in a batch: batch n holds those from n times this number. How many seeds a survey is to
                have is no part of it.

        Returns:
            Its number.

        Raises:
            InvalidInputError: for settings that JSON does not hold, or a batch size below 1.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInputError(f"a batch holds at least 1 seed, got {batch_size!r}")
        text = canonical_json(settings)
        fingerprint = self.add_objective(objective)
        return self._storage.write(lambda connection: survey_number(connection, fingerprint, text, batch_size))

    def finished_batches(self, survey: int, starts: int | None = None) -> set[int]:
        """Numbers of the batches that need not be run.

        Args:
            survey: its number.
            starts: how many seeds the survey is to have; a last batch that reaches so far counts as finished, though it
                may not be full. None: only full batches count.

        Raises:
            InvalidInputError: if there is no such survey.
        """
        return self._storage.read(lambda connection: finished(connection, survey, starts))

    def seeds_in_batches(self, survey: int) -> dict[int, int]:
        """How many seeds of each batch are there, from its first on; only those with any.

        Raises:
            InvalidInputError: if there is no such survey.
        """
        return self._storage.read(lambda connection: seeds_in_batches(connection, survey))

    def add_batch(self, survey: int, number: int, result: Batch) -> bool:
        """Record a batch of runs and merge the points they ended at, in one transaction.

        A batch that is there with fewer seeds is completed: of the seeds that are there nothing is changed.

        Args:
            survey: its number, from `open_survey`.
            number: of the batch.
            result: what a worker found.

        Returns:
            False, with nothing written, if all these seeds are there: another process was first.

        Raises:
            InvalidInputError: if there is no such survey, or the seeds or parameters are not those of this batch.
            CatalogueError: if the storage fails; nothing of the batch was kept then, and it can be tried again.
        """
        row = self._storage.read(lambda connection: survey_row(connection, survey))
        judge = self._judge(row.objective)
        return self._storage.write(Recording(judge, survey, number, row.batch_size, result))

    # -- for people ----------------------------------------------------------------------------------------------------

    def objectives(self) -> pd.DataFrame:
        """One row an objective: fingerprint, description, parameters, blocks, tolerance, number of points."""
        return self._storage.read(frame_of_objectives)

    def surveys(self, objective: Objective | str | None = None) -> pd.DataFrame:
        """One row a survey: settings, batch size, batches and seeds so far, wall time."""
        return self._storage.read(lambda connection: frame_of_surveys(connection, _key(objective)))

    def runs(self, survey: int | None = None, objective: Objective | str | None = None) -> pd.DataFrame:
        """One row a search: how it ended, what was measured there, what it cost, its point (or none)."""
        return self._storage.read(lambda connection: frame_of_runs(connection, survey, _key(objective)))

    def points(self, objective: Objective | str | None = None) -> pd.DataFrame:
        """One row a point, lowest values first: index, undecided eigenvalues, kind, and how many runs ended there."""
        return self._storage.read(lambda connection: frame_of_points(connection, _key(objective)))

    def theta(self, point: int) -> Float[Tensor, " P"]:
        """The parameters of a point, those of the run with the smallest gradient that ended there.

        Those of a limit point are in coordinates of its own, see `limit_point`.

        Raises:
            InvalidInputError: if there is no such point.
        """
        query = select(points.c.theta).where(points.c.id == int(point))
        blob = self._storage.read(lambda connection: connection.scalar(query))
        if blob is None:
            raise InvalidInputError(f"there is no point {point} in {self._storage.name}; `points()` lists them")
        return from_blob(blob)

    def limit_point(self, point: int) -> LimitPoint:
        """A point at infinity; `thalweg.symmetry.limit_objective` makes a loss and a network of it.

        Raises:
            InvalidInputError: if there is no such point, or it is not at infinity.
        """
        query = select(points).where(points.c.id == int(point))
        row = self._storage.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise InvalidInputError(f"there is no point {point} in {self._storage.name}; `points()` lists them")
        return limit_of(row)

    def thetas_of(self, survey: int) -> Float[Tensor, "k P"]:
        """The final parameters of all runs of a survey, converged or not, in the order of seeds (as `runs` gives them).

        Raises:
            InvalidInputError: if there is no such survey.
        """
        return self._storage.read(lambda connection: thetas_of(connection, survey))

    def solution(self, survey: int) -> Solution:
        """All runs of a survey as one `Solution`, in the order of seeds.

        Raises:
            InvalidInputError: if there is no such survey, or it has no runs yet.
        """
        return self._storage.read(lambda connection: solution_of(connection, survey))

    def progress(self, survey: int) -> Progress:
        """How far a survey has come: counts only, quick at any size.

        Raises:
            InvalidInputError: if there is no such survey.
        """
        return self._storage.read(lambda connection: progress_of(connection, survey))

    def export(self, place: str | Path, objective: Objective | str | None = None) -> list[Path]:
        """Write Parquet files, each of them whole or not at all.

        Args:
            place: a folder, for ``points.parquet`` (parameters in the column ``theta``) and ``runs.parquet``; or the
                name of a ``.parquet`` file, for the points alone.
            objective: only what belongs to this one; None for all.

        Returns:
            The files written.

        Raises:
            InvalidInputError: if the folder cannot be made.
            CatalogueError: if a file cannot be written.
        """
        target, beside = targets_of(place)

        def write(connection: Connection) -> list[Path]:
            written = [write_points(connection, _key(objective), target)]
            return [*written, write_runs(connection, _key(objective), beside)] if beside is not None else written

        return self._storage.read(write)

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all connections; further calls open new ones."""
        self._storage.close()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        tables = {"objective": objectives, "survey": surveys, "run": runs, "point": points}
        queries = {name: select(func.count()).select_from(table) for name, table in tables.items()}
        found = self._storage.read(lambda connection: {n: connection.scalar(q) or 0 for n, q in queries.items()})
        counts = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in found.items())
        return f"<Catalogue {self._storage.name}: {counts}>"

    def symmetries(self, objective: Objective) -> Symmetries:
        """What is used to tell whether two points of an objective are the same."""
        return self._judge(self.add_objective(objective)).symmetries

    def _judge(self, fingerprint: str) -> Judge:
        if fingerprint not in self._judges:
            if fingerprint not in self._objectives:
                raise InvalidInputError(
                    "to tell which points are the same the objective itself is needed: call open_survey(objective, "
                    "...) or add_objective(objective) on this catalogue first"
                )
            query = select(objectives.c.tolerance, objectives.c.value_scale)
            query = query.where(objectives.c.fingerprint == fingerprint)
            row = self._storage.read(lambda connection: connection.execute(query).one())
            symmetries = self._symmetries.get(fingerprint) or symmetries_of(self._objectives[fingerprint])
            self._judges[fingerprint] = Judge(fingerprint, symmetries, row.tolerance, row.value_scale)
        return self._judges[fingerprint]


def _key(objective: Objective | str | None) -> str | None:
    return objective.fingerprint() if isinstance(objective, Objective) else objective
