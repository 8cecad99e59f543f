"""``thalweg inspect``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thalweg.commands.loading import load_target
from thalweg.foundation import InvalidInputError, ThalwegError
from thalweg.inspection import Course, Verdict, follow_course, inspect

__all__ = ["check_outputs", "deliver", "run_inspect"]


def run_inspect(target: str, weights: list[Path], **settings: Any) -> Verdict | Course:
    """Load and inspect.

    Args:
        target: ``FILE.py:FUNCTION``.
        weights: files with parameters; several give the course of a run.
        settings: keywords of `inspect`.
    """
    points = load_target(target).points(weights)
    if len(weights) > 1:
        return follow_course(points, _labels(weights), **settings)
    objective, theta = next(points)
    return inspect(objective, theta=theta, **settings)


def check_outputs(*paths: Path | None) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        InvalidInputError: for a folder, a missing folder, or one that may not be written to.
    """
    for path in filter(None, paths):
        folder = path.expanduser().resolve().parent
        if path.is_dir():
            raise InvalidInputError(f"cannot write {path}: it is a folder; give the name of a file in it")
        if not folder.is_dir():
            raise InvalidInputError(f"cannot write {path}: there is no folder {folder}")
        if not os.access(path if path.exists() and not path.is_file() else folder, os.W_OK):
            raise InvalidInputError(f"cannot write {path}: choose a folder you may write to")


def deliver(result: Verdict | Course, show: Callable[[], None], *, json: Path | None, html: Path | None) -> None:
    """Show and save a result; where one of these fails, the others are done all the same.

    Args:
        result: what was found.
        show: prints it.
        json: file to write it to.
        html: file to write the page to.

    Raises:
        InvalidInputError: naming all that failed, after the rest is done.
    """
    problems: list[str] = []
    try:
        show()
    except BrokenPipeError:
        raise  # whoever read along has seen enough
    except OSError as error:
        problems.append(f"cannot print the result: {error.strerror or error}")
    finally:  # also where the pipe is closed
        for path, save in ((json, result.save_json), (html, result.save_html)):
            try:
                if path is not None:
                    save(path)
            except ThalwegError as error:
                problems.append(str(error))
    if problems:
        raise InvalidInputError("; ".join(problems))


def _labels(files: list[Path]) -> list[str]:
    names = [path.name for path in files]
    return names if len(set(names)) == len(names) else [str(path) for path in files]
