"""What a survey found: shares, levels and points, as tables, pictures and a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import binomtest

from thalweg.catalogue.catalogue import Catalogue
from thalweg.catalogue.records import Progress
from thalweg.display import Axis, Caption, Facts, Figure, Item, Notice, Report, Section, Table, bars, points, stems
from thalweg.objectives import Objective
from thalweg.solvers import Status
from thalweg.solvers.minimize import at_once, dense_endgame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Survey", "confidence_interval"]

LEVEL = 1e-8
"""Points whose values differ by less than this, relative to the spread of all, are on one level."""

MOST_SPECTRA = 1000
"""Points whose curvature is measured for the pictures, those of lowest value."""

_SHOWN = 12


def confidence_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a share.

    >>> [round(end, 4) for end in confidence_interval(8, 10)]
    [0.4902, 0.9433]
    """
    found = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _smallest_eigenvalues(catalogue: Catalogue, objective: Objective, numbers: list[int]) -> list[float]:
    """Of the Hessians at the points of lowest value; NaN for the rest, and where matrices are too large."""
    found = [math.nan] * len(numbers)
    if not dense_endgame(objective):
        return found
    for first in range(0, min(len(numbers), MOST_SPECTRA), at_once(objective)):
        some = numbers[first : first + min(at_once(objective), MOST_SPECTRA - first)]
        theta = torch.stack([catalogue.theta(number) for number in some]).to(objective.device, objective.dtype)
        found[first : first + len(some)] = torch.linalg.eigvalsh(objective.hessian(theta))[:, 0].tolist()
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Survey:
    """The runs of a survey, and the points they ended at.

    Attributes:
        storage: the catalogue.
        number: of the survey in it.
        objective: what was minimised, in words.
        settings: of the survey.
        starts: asked for.
        progress: counts.
        runs: a pandas DataFrame, one row a run: status, value, gradient_norm, point, ...
        points: a pandas DataFrame, one row a distinct point where runs of this survey ended, lowest value first;
            `multiplicity` counts the runs of this survey, `smallest_eigenvalue` is that of the Hessian.
        stopped: why it ended before all starts were searched from; None where it is complete.
        seconds: wall time of this call.
    """

    storage: str
    number: int
    objective: str
    settings: dict[str, Any]
    starts: int
    progress: Progress
    runs: pd.DataFrame
    points: pd.DataFrame
    stopped: str | None
    seconds: float

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        number: int,
        objective: Objective,
        starts: int,
        stopped: str | None = None,
        seconds: float = 0.0,
    ) -> Survey:
        """Read a survey from its catalogue."""
        runs = catalogue.runs(survey=number)
        everything = catalogue.points(objective)
        counts = runs["point"].dropna().astype(int).value_counts()
        mine = everything[everything["point"].isin(counts.index)].copy()
        mine["multiplicity"] = mine["point"].map(counts).astype(int)
        here = ~mine["at_infinity"]
        mine["smallest_eigenvalue"] = math.nan
        numbers = mine["point"][here].tolist()
        mine.loc[here, "smallest_eigenvalue"] = _smallest_eigenvalues(catalogue, objective, numbers)
        rows = catalogue.surveys(objective)
        settings = dict(rows[rows["survey"] == number].iloc[0]["settings"])
        return cls(
            storage=catalogue.name,
            number=number,
            objective=repr(objective),
            settings=settings,
            starts=starts,
            progress=catalogue.progress(number),
            runs=runs,
            points=mine.reset_index(drop=True),
            stopped=stopped,
            seconds=seconds,
        )

    @cached_property
    def shares(self) -> pd.DataFrame:
        """How many runs ended how: `status`, `runs`, `share`, and Wilson's 95 % interval `low`, `high`."""
        import pandas as pd

        total = len(self.runs)
        rows = []
        for status, count in self.runs["status"].value_counts().items():
            low, high = confidence_interval(int(count), total)
            rows.append({"status": status, "runs": int(count), "share": count / total, "low": low, "high": high})
        return pd.DataFrame(rows, columns=["status", "runs", "share", "low", "high"])

    @cached_property
    def levels(self) -> pd.DataFrame:
        """The distinct values of points, ascending: `value`, `points`, `runs`, `share`, `low`, `high`, `kind`.

        The share is that among all runs of the survey.
        """
        import pandas as pd

        columns = ["value", "points", "runs", "share", "low", "high", "kind"]
        if not len(self.points):
            return pd.DataFrame(columns=columns)
        ordered = self.points.sort_values("value")
        values = ordered["value"].to_numpy()
        gap = LEVEL * max(float(values[-1] - values[0]), float(np.abs(values).max()) * LEVEL)
        level = np.concatenate([[0], np.cumsum(np.diff(values) > gap)])
        rows = []
        for _, group in ordered.groupby(level):
            runs = int(group["multiplicity"].sum())
            low, high = confidence_interval(runs, len(self.runs))
            kinds = ", ".join(sorted(set(group["kind"])))
            found = (group["value"].iloc[0], len(group), runs, runs / len(self.runs), low, high, kinds)
            rows.append(dict(zip(columns, found, strict=True)))
        return pd.DataFrame(rows, columns=columns)

    # -- pictures ------------------------------------------------------------------------------------------------------

    @property
    def _on(self) -> str:
        return f"{len(self.runs):,} starts, {self.settings['initializer']}, {self.settings['method']}."

    def levels_figure(self) -> Figure:
        """Loss levels with the number of runs that ended at each."""
        series = [
            stems(kind or "point", group["value"], group["runs"], [f"{n} points" for n in group["points"]])
            for kind, group in self.levels.groupby("kind")
        ]
        away = self.runs[self.runs["status"].isin([status.value for status in Status if status.escapes])]
        away = away[away["point"].isna()]
        if len(away):
            rounded = away["value"].round(4).value_counts()
            series.append(stems("on the way to infinity (to 4 places)", rounded.index.to_numpy(), rounded.to_numpy()))
        caption = Caption(
            "Values of the distinct points where runs ended, and how many runs ended there.",
            self._on,
            "Values as exact as rounding allows, at infinity too; runs whose end is not known lie above it.",
        )
        runs = Axis("runs", scale="log" if self.progress.seeds > 50 else "linear")
        return Figure("Loss levels", caption, Axis("loss"), runs, series)

    def curvature_figure(self) -> Figure:
        """Gradient norm against the smallest eigenvalue of the Hessian, at the distinct points."""
        known = self.points[np.isfinite(self.points["smallest_eigenvalue"])]
        series = [
            points(str(kind), group["smallest_eigenvalue"], group["gradient_norm"].clip(lower=1e-18))
            for kind, group in known.groupby("kind")
        ]
        caption = Caption(
            "Maximum norm of the gradient against the smallest eigenvalue of the Hessian at each distinct point.",
            self._on,
            "Eigenvalues are known to about P units in the last place of the largest.",
        )
        return Figure(
            "Gradient and smallest curvature",
            caption,
            Axis("smallest eigenvalue", scale="symlog"),
            Axis("gradient", scale="log"),
            series,
        )

    def shares_figure(self) -> Figure:
        """The share of each status, with confidence intervals."""
        table = self.shares
        half = (table["high"] - table["low"]) / 2
        series = [bars("share", list(table["status"]), table["share"], half)]
        caption = Caption("How runs ended.", self._on, "Half the width of Wilson's interval of 95 %.")
        return Figure("How runs ended", caption, Axis("status"), Axis("share of runs"), series)

    def figures(self) -> list[Figure]:
        """Those for which there are data."""
        found = [self.shares_figure()]
        if self.runs["value"].notna().any() and (len(self.points) or len(self.runs) > self.progress.converged):
            with_levels = len(self.levels) or self.runs["status"].isin([s.value for s in Status if s.escapes]).any()
            found = [self.levels_figure(), *found] if with_levels else found
        if len(self.points) and np.isfinite(self.points["smallest_eigenvalue"]).any():
            found.append(self.curvature_figure())
        return found

    # -- in words ------------------------------------------------------------------------------------------------------

    def report(self, *, figures: bool = True) -> Report:
        """Everything on one page."""
        now = self.progress
        items: list[Item | str] = []
        if self.stopped:
            items.append(
                Notice(
                    "warn",
                    f"{now.seeds:,} of {self.starts:,} starts were searched from: {self.stopped}.",
                    "The same call goes on from here.",
                )
            )
        items.append(
            Facts(
                {
                    "objective": self.objective,
                    "runs": now.seeds,
                    "converged": now.converged,
                    "distinct points": now.points,
                    "lowest value": now.best,
                    "time of all workers (s)": round(now.seconds, 1),
                    "catalogue": f"{self.storage}, survey {self.number}",
                    **{name: str(value) for name, value in self.settings.items() if value is not None},
                }
            )
        )
        shares = [
            (row.status, row.runs, f"{100 * row.share:.1f} %", f"{100 * row.low:.1f} to {100 * row.high:.1f} %")
            for row in self.shares.itertuples()
        ]
        ends = Table(["how runs ended", "runs", "share", "95 % interval"], shares)
        levels = [
            (f"{row.value:.12g}", row.points, row.runs, f"{100 * row.share:.1f} %", row.kind)
            for row in self.levels.head(_SHOWN).itertuples()
        ]
        more = len(self.levels) - len(levels)
        caption = f"The lowest {_SHOWN} of {len(self.levels)} levels." if more else ""
        table = Table(["value", "points", "runs", "share of all runs", "kind"], levels, caption)
        sections = [Section("How runs ended", [ends]), Section("Levels", [table] if levels else ["No run converged."])]
        if figures and len(self.runs):
            sections.append(Section("Pictures", self.figures()))
        return Report(f"Survey of {now.seeds:,} starts", sections, summary=items)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write the report with its pictures as one self-contained page."""
        self.report().save_html(path)

    def summary(self, width: int = 100) -> str:
        """The report as text."""
        return self.report(figures=False).to_text(width)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def __repr__(self) -> str:
        now = self.progress
        ends = ", ".join(f"{count} {status}" for status, count in now.statuses.items())
        head = "complete" if self.stopped is None else f"NOT COMPLETE ({self.stopped})"
        found = f"{now.seeds} of {self.starts} starts, {now.points} points, best {now.best:.10g}"
        return f"<Survey {head}: {found}; {ends}>"
