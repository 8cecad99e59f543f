"""A study: the headline results of one paper, computed anew and held against it part by part."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
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
        folder: where finished parts and surveys are kept; with the same settings and version they are not computed
            again. None keeps nothing.
        fresh: compute all parts anew.
        say: told what happens.
        changes: settings that differ from the preset's.

    Raises:
        InvalidInputError: for a preset or setting that is not there, or a folder that cannot be written.
    """
    settings = study.settings(preset, changes)
    say = say or (lambda _: None)
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(str(folder)) as place:
        parts = []
        for number, compute in enumerate(study.parts, 1):
            name = compute.__name__.strip("_")
            own = Path(place) / study.name / ".parts" / preset
            file, key = own / f"{name}.json", _key(compute, settings)
            part = None if fresh else kept(file, key)
            told = f"{study.name}, part {number} of {len(study.parts)}: {name.replace('_', ' ')}"
            if part is None:
                say(f"{told} ...")
                begun = time.perf_counter()
                make_folder(own)
                part = replace(compute(settings, own), seconds=time.perf_counter() - begun)
                keep(file, key, part)
                say(f"{told}: {format_duration(part.seconds)}")
            else:
                say(f"{told}: there already ({format_duration(part.seconds)})")
            parts.append(part)
    changed = "".join(f", {name} = {value}" for name, value in changes.items())
    return StudyResult(
        study.name,
        study.title,
        study.source,
        study.about,
        f"preset {preset}{changed}",
        asdict(settings),
        tuple(parts),
        _machine(),
    )


def _key(compute: Callable[..., Part], settings: Any) -> str:
    """Changes whenever the settings, the library or the part's own code do."""
    source = inspect.getsource(sys.modules[compute.__module__])
    return hashlib.sha256(f"{version('thalweg')}\n{settings!r}\n{source}".encode()).hexdigest()


def _read(name: str, value: Any, old: Any) -> Any:
    if not isinstance(value, str) or isinstance(old, str):
        return value
    try:
        if isinstance(old, tuple):
            kind = type(old[0]) if old else str
            return tuple(kind(one) for one in value.split(",") if one.strip())
        return typing.cast(Callable[[str], Any], type(old))(value)
    except ValueError:
        raise InvalidInputError(f"the setting {name} is like {old!r}; cannot read {value!r}") from None


def _machine() -> str:
    import torch

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
