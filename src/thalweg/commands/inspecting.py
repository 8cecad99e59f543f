"""``thalweg inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thalweg.commands.loading import load_objective, load_weights
from thalweg.foundation import InvalidInputError
from thalweg.inspection import Course, Verdict, inspect, inspect_course
from thalweg.objectives import Objective, find_risk

__all__ = ["run_inspect"]


def run_inspect(
    target: str,
    weights: list[Path],
    *,
    json: Path | None,
    html: Path | None,
    **settings: Any,
) -> Verdict | Course:
    """Load, inspect, show and save.

    Args:
        target: ``FILE.py:FUNCTION``.
        weights: files with parameters; several give the course of a run.
        json: file to write the verdict to.
        html: file to write the page to.
        settings: keywords of `inspect`.
    """
    for path in (json, html):
        if path is not None and not path.resolve().parent.is_dir():
            raise InvalidInputError(f"cannot write {path}: there is no folder {path.resolve().parent}")
    objective = load_objective(target)
    points = [load_weights(path, _names(objective)) for path in weights]
    result: Verdict | Course
    if len(points) > 1:
        result = inspect_course(objective, points, [path.name for path in weights], **settings)
    else:
        result = inspect(objective, theta=points[0] if points else None, **settings)
    if json is not None:
        result.save_json(json)
    if html is not None:
        result.save_html(html)
    return result


def _names(objective: Objective) -> tuple[str, ...]:
    risk = find_risk(objective)
    return risk.space.names if risk is not None else objective.space.names
