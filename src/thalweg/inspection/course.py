"""Several points of one run, inspected one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from thalweg.display import (
    Axis,
    Caption,
    Figure,
    Notice,
    Paragraph,
    Report,
    Section,
    Table,
    line,
    to_json,
    to_page,
    write_json,
)
from thalweg.display import write_text_atomically as write_text
from thalweg.foundation import InvalidInputError, RunControl, ThalwegError, parse_duration
from thalweg.inspection.inspector import inspect
from thalweg.inspection.verdict import SCHEMA_VERSION, Verdict
from thalweg.objectives import Objective, as_theta

__all__ = ["Course", "follow_course", "inspect_course"]


@dataclass(frozen=True, repr=False)
class Course:
    """The verdicts on the checkpoints of a run, in order.

    Attributes:
        names: of the checkpoints.
        verdicts: one each; fewer where the course was stopped.
        stopped: why it ended before the last checkpoint; empty where it did not.
    """

    names: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Whether every checkpoint was inspected to the end."""
        return len(self.names) == len(self.verdicts) and all(v.complete for v in self.verdicts)

    def report(self, *, figures: bool = True) -> Report:
        """The course as a table and two pictures, then the last verdict in full."""
        heads = ["checkpoint", "loss", "gradient", "largest curvature", "lowest", "verdict", "best step gains"]
        rows = [_row(name, verdict) for name, verdict in zip(self.names, self.verdicts, strict=False)]
        table = Table(heads, rows, "One row for each checkpoint, in the order given.")
        title = f"Course of {len(self.names)} checkpoints"
        notes = [Notice("warn", f"Stopped after {len(self.verdicts)} of them: {self.stopped}")] if self.stopped else []
        if not self.verdicts:
            return Report(title, [Section("Course", [table])], summary=notes)
        last, name = self.verdicts[-1].report(figures=figures), self.names[len(self.verdicts) - 1]
        below = Paragraph(f"All that follows is about the last of them, `{name}`.")
        sections = [Section("Course", [table, *(self._figures() if figures else []), below]), *last.sections]
        summary = [*notes, Paragraph(f"At the last checkpoint, `{name}`:"), *last.summary]
        return Report(title, sections, summary=summary, footer=last.footer)

    def _figures(self) -> list[Figure]:
        if len(self.verdicts) < 2:
            return []
        numbers = list(range(1, len(self.verdicts) + 1))
        on = self.verdicts[-1].objective
        loss = Caption("The loss at every checkpoint.", on, "Exact up to rounding.")
        figures = [
            Figure(
                "Loss",
                loss,
                Axis("checkpoint"),
                Axis("loss"),
                [line("loss", numbers, [v.value for v in self.verdicts])],
            )
        ]
        curved = [(i, v.curvature) for i, v in zip(numbers, self.verdicts, strict=True) if v.curvature is not None]
        if len(curved) > 1:
            caption = Caption(
                "Both ends of the Hessian's spectrum.",
                on,
                "The lower end is an upper bound unless all eigenvalues are known.",
            )
            series = [
                line("largest", [i for i, _ in curved], [c.highest for _, c in curved]),
                line("lowest", [i for i, _ in curved], [c.lowest.value for _, c in curved]),
            ]
            figures.append(Figure("Curvature", caption, Axis("checkpoint"), Axis("eigenvalue", scale="symlog"), series))
        return figures

    def to_dict(self) -> dict[str, Any]:
        """All verdicts, ready for `json.dumps`."""
        return to_json(self._record(), schema="thalweg.course", version=SCHEMA_VERSION)

    def _record(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "stopped": self.stopped,
            "names": self.names,
            "verdicts": [v.to_dict() for v in self.verdicts],
        }

    def save_json(self, path: str | PathLike[str]) -> None:
        """Write `to_dict` to a file, whole or not at all."""
        write_json(path, self._record(), schema="thalweg.course", version=SCHEMA_VERSION)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write a self-contained page to a file, whole or not at all."""
        write_text(path, to_page(self.report()))

    def __str__(self) -> str:
        return self.report(figures=False).to_text(width=100)

    def __repr__(self) -> str:
        return f"<Course of {len(self.verdicts)} checkpoints>"

    def _repr_html_(self) -> str:
        from thalweg.display import to_fragment

        return to_fragment(self.report())


def inspect_course(
    objective: Objective, checkpoints: Sequence[Any], names: Sequence[str] | None = None, **settings: Any
) -> Course:
    """Inspect the checkpoints of a run one after another.

    Args:
        objective: the loss.
        checkpoints: anything `as_theta` reads, in order; all are read before the first is inspected.
        names: for the table; numbers where None.
        settings: keywords of `inspect`; a budget is for all of them together and shared evenly.

    Returns:
        What was inspected; after Ctrl-C the checkpoints until then.

    Raises:
        InvalidInputError: for no checkpoint, or one that does not fit the objective.
    """
    labels = tuple(names) if names is not None else tuple(str(i + 1) for i in range(len(checkpoints)))
    if len(labels) != len(checkpoints):
        raise InvalidInputError(f"{len(labels)} names for {len(checkpoints)} checkpoints")
    points = [as_theta(checkpoint, objective) for checkpoint in checkpoints]
    return follow_course(((objective, point) for point in points), labels, **settings)


def follow_course(
    points: Iterable[tuple[Objective, Any]],
    names: Sequence[str],
    *,
    budget: float | str | None = None,
    **settings: Any,
) -> Course:
    """Inspect points of objectives that may differ, such as networks with other running statistics.

    Args:
        points: an objective and a point of it for each name, made as they are needed.
        names: for the table.
        budget: for all together; what one leaves over goes to the others.
        settings: keywords of `inspect`.

    Returns:
        What was inspected; after Ctrl-C, or where a later point cannot be inspected, those before it.

    Raises:
        InvalidInputError: for no point, or a first one that cannot be inspected.
    """
    if not names:
        raise InvalidInputError("a course needs at least one checkpoint")
    control = RunControl(parse_duration(budget))
    verdicts: list[Verdict] = []
    stopped = ""
    given = iter(points)
    for number, name in enumerate(names):
        try:
            objective, point = next(given)
            share = None if budget is None else max(control.remaining() / (len(names) - number), 1e-3)
            verdicts.append(inspect(objective, theta=point, budget=share, **settings))
        except KeyboardInterrupt:
            stopped = "interrupted"
        except ThalwegError as error:
            if not verdicts:
                raise
            stopped = f"{name} cannot be inspected: {error}"
        if not stopped and any("interrupted" in one.why for one in verdicts[-1].skipped) and number + 1 < len(names):
            stopped = "interrupted"
        if stopped:
            break
    if not verdicts:
        raise KeyboardInterrupt
    return Course(tuple(names), tuple(verdicts), stopped)


def _row(name: str, verdict: Verdict) -> tuple[Any, ...]:
    curvature, best = verdict.curvature, verdict.best_step
    return (
        name,
        verdict.value,
        verdict.gradient_norm,
        curvature.highest if curvature is not None else None,
        curvature.lowest.value if curvature is not None else None,
        verdict.kind.value,
        best.measured if best is not None else None,
    )
