"""A study: the headline results of one paper, computed anew and held against it part by part."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from thalweg.display import format_duration
from thalweg.foundation import InvalidInputError
from thalweg.studies.keeping import keep, kept
from thalweg.studies.result import Part, StudyResult, make_folder

__all__ = ["Study", "run_study"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """How a study is run.

    Attributes:
        name: what it is called on the command line.
        title: of the paper.
        source: authors, venue, number.
        about: what the paper claims, in a few sentences.
        presets: settings by name, frozen dataclasses of one type: ``"quick"`` for at most 90 seconds on two cores,
            ``"full"`` for the paper's own scale.
        parts: computed one after the other, each from the settings and a folder of its own for what it keeps.
    """

    name: str
    title: str
    source: str
    about: str
    presets: Mapping[str, Any]
    parts: tuple[Callable[[Any, Path], Part], ...]

    def settings(self, preset: str, changes: Mapping[str, Any]) -> Any:
        """Those of a preset with some changed; texts are read as what they replace.

        Raises:
            InvalidInputError: for a preset or a setting that is not there, or a text that cannot be read.
        """
        if preset not in self.presets:
            raise InvalidInputError(f"the presets are {', '.join(self.presets)}; got {preset!r}")
        settings = self.presets[preset]
        known = {one.name: getattr(settings, one.name) for one in fields(settings)}
        for name in changes:
            if name not in known:
                raise InvalidInputError(f"study {self.name} has no setting {name!r}; it has {', '.join(known)}")
        return replace(settings, **{name: _read(name, value, known[name]) for name, value in changes.items()})


def run_study(
    study: Study,
    preset: str = "quick",
    *,
    folder: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    say: Say | None = None,
    **changes: Any,
) -> StudyResult:
    """Compute a study, or what is left of it.

    Args:
        study: which.
        preset: ``"quick"`` or ``"full"``.
        folder: where finished parts and surveys are kept; with the same code and the same settings, those that a part
            reads, they are not computed again. None keeps nothing.
        fresh: compute all parts anew, surveys too.
        say: told what happens.
        changes: settings that differ from the preset's.

    Raises:
        InvalidInputError: for a preset or setting that is not there, or a folder that cannot be written.
        KeyboardInterrupt: on Ctrl-C; parts that are finished are kept.
    """
    settings = study.settings(preset, changes)
    say, code = say or (lambda _: None), _code()
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(str(folder)) as place:
        own = Path(place) / study.name / ".parts" / code[:12]
        if fresh:
            shutil.rmtree(own, ignore_errors=True)
        parts = []
        for number, compute in enumerate(study.parts, 1):
            label = str(getattr(compute, "__name__", "part")).strip("_")
            told = f"{study.name}, part {number} of {len(study.parts)}: {label.replace('_', ' ')}"
            there = sorted(own.glob(f"{number}-*.json"))
            mine = f"{code} {_source(compute)}"
            part = next((one for file in there if (one := kept(file, mine, settings)) is not None), None)
            if part is None:
                say(f"{told} ...")
                make_folder(own)
                part, read = _computed(compute, settings, own)
                keep(own / f"{number}-{label}-{_digest(repr(sorted(read.items())))[:8]}.json", mine, read, part)
                say(f"{told}: {format_duration(part.seconds)}")
            else:
                say(f"{told}: there already ({format_duration(part.seconds)})")
            parts.append(part)
    changed = "".join(f", {name} = {value}" for name, value in changes.items())
    how = f"preset {preset}{changed}"
    return StudyResult(study.name, study.title, study.source, study.about, how, asdict(settings), tuple(parts))


class _Watched:
    """Settings that remember which of them were read: a part is computed anew only where one of those changes."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._seen: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        self._seen[name] = value
        return value


def _computed(compute: Callable[[Any, Path], Part], settings: Any, folder: Path) -> tuple[Part, dict[str, Any]]:
    """A part, and the settings that it read.

    Raises:
        KeyboardInterrupt: where that was asked for. Searches inside end early then and say so, and what is made of
            them is no part.
    """
    watched, begun = _Watched(settings), time.perf_counter()
    with _told_of_interrupts() as asked:
        part = compute(watched, folder)
    if asked:
        raise KeyboardInterrupt
    return replace(part, seconds=time.perf_counter() - begun, machine=_machine()), watched._seen


@contextmanager
def _told_of_interrupts() -> Iterator[list[int]]:
    """A list that is not empty once Ctrl-C was pressed; in the main thread, which alone is told."""
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None: not Python's to change
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def _code() -> str:
    """Of the library and torch: changes with any of their sources."""
    import torch

    root = Path(__file__).parents[1]
    texts = [path.read_bytes() for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256(torch.__version__.encode() + b"".join(texts)).hexdigest()


def _source(compute: Callable[..., Part]) -> str:
    """Of a part, which need not be the library's."""
    try:
        return _digest(inspect.getsource(sys.modules[compute.__module__]))
    except (OSError, TypeError, AttributeError, KeyError):
        return repr(compute)  # typed at a prompt: known by its name and place in memory


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(name: str, value: Any, old: Any) -> Any:
    if not isinstance(value, str) or isinstance(old, str):
        return value
    if isinstance(old, bool):
        if value.lower() not in ("true", "false"):
            raise InvalidInputError(f"the setting {name} is true or false; cannot read {value!r}")
        return value.lower() == "true"
    try:
        if isinstance(old, tuple):
            kind = type(old[0]) if old else str
            return tuple(kind(one) for one in value.split(",") if one.strip())
        return typing.cast(Callable[[str], Any], type(old))(value)
    except ValueError:
        wanted = "numbers with commas between" if isinstance(old, tuple) else type(old).__name__
        raise InvalidInputError(f"the setting {name} is like {old!r} ({wanted}); cannot read {value!r}") from None


def _machine() -> str:
    import torch

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
