"""From ``FILE.py:FUNCTION`` and weights files to objectives and points."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.commands.weights import read_weights
from thalweg.foundation import InvalidInputError, ThalwegError
from thalweg.objectives import EmpiricalRisk, Objective, as_theta, find_risk
from thalweg.objectives.door import check_module

__all__ = ["Target", "load_target"]

_SHOWN = "FUNCTION must return (model, loss, inputs, targets) or an Objective"


@dataclass(frozen=True)
class Target:
    """What a user's function returned.

    Attributes:
        made: an objective, or the arguments of `EmpiricalRisk`, the module first.
    """

    made: Objective | tuple[Any, ...]

    def points(self, files: Sequence[Path]) -> Iterator[tuple[Objective, Any]]:
        """An objective and a point of it for each weights file; without files the one with the function's own point.

        A weights file also holds what is not trained (frozen parameters, the running statistics of batch norm). The
        loss as a function of the rest depends on that, so another file may mean another objective. All files are read,
        and refused where they do not fit, before the first objective is made.

        Raises:
            InvalidInputError: as `read_weights`, and where an objective was made with other untrained values.
        """
        if isinstance(self.made, Objective):
            return self._points_of(self.made, files)
        return self._points_of_model(self.made, files)

    def _points_of(self, objective: Objective, files: Sequence[Path]) -> Iterator[tuple[Objective, Any]]:
        risk = find_risk(objective)
        space = objective.space if risk is None else risk.space
        held = space.unflatten(torch.zeros(space.size)) if risk is None else _held(risk.model)
        states = [read_weights(path, held) for path in files]
        for path, state in zip(files, states, strict=True):
            others = [n for n, value in _untrained(state, space.names).items() if not _same(value, held[n])]
            if others:
                raise InvalidInputError(
                    f"{path} holds another {others[0]!r} than the objective was made with, which is not among its "
                    "parameters: load the file inside FUNCTION, or return (model, loss, inputs, targets)"
                )
        if not files:
            yield objective, None
        for state in states:
            yield objective, as_theta(state, objective)

    def _points_of_model(self, made: tuple[Any, ...], files: Sequence[Path]) -> Iterator[tuple[Objective, Any]]:
        model = made[0]
        check_module(model)
        states = [read_weights(path, _held(model)) for path in files]
        if not files:
            yield EmpiricalRisk(*made), None
        risk: EmpiricalRisk | None = None
        before: Mapping[str, Tensor] = {}
        for state in states:
            if any(value.dtype is torch.float64 for value in state.values()):
                model.double()  # nothing of the file is rounded
            model.load_state_dict(state, strict=False)  # what may be missing was checked
            untrained = {} if risk is None else _untrained(state, risk.space.names)
            if risk is None or not all(_same(value, before[name]) for name, value in untrained.items()):
                risk = EmpiricalRisk(*made)
            before = state
            yield risk, as_theta(model, risk)


def _held(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _untrained(state: Mapping[str, Tensor], trained: Sequence[str]) -> dict[str, Tensor]:
    """What else a state dict holds, but for batch norm's counters, which no output depends on."""
    return {n: v for n, v in state.items() if n not in trained and not n.endswith("num_batches_tracked")}


def _same(value: Tensor, other: Tensor) -> bool:
    return torch.equal(value.to(other.dtype).cpu(), other.detach().cpu())


def load_target(text: str) -> Target:
    """Run a function in a file.

    Args:
        text: ``path/to/file.py:function``; the function takes no argument.

    Raises:
        InvalidInputError: for a missing file or function, a failing one, or a wrong return value.
    """
    path_text, colon, name = text.rpartition(":")
    if not colon or not name or not path_text:
        raise InvalidInputError(f"cannot read {text!r}; write FILE.py:FUNCTION, for example train.py:setup")
    path = Path(path_text)
    if not path.is_file():
        raise InvalidInputError(f"there is no file {path}; write FILE.py:FUNCTION with a path from here")
    function = getattr(_run_file(path), name, None)
    if not callable(function):
        raise InvalidInputError(f"{path} defines no function {name!r}")
    try:
        made = function()
    except ThalwegError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidInputError(f"{name}() in {path} failed: {_told(error)}") from error
    if isinstance(made, Objective):
        return Target(made)
    if isinstance(made, tuple) and 3 <= len(made) <= 4 and isinstance(made[0], nn.Module):
        return Target(made)
    found = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
    raise InvalidInputError(f"{name}() in {path} returned {found}; {_SHOWN}")


def _run_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that classes defined there can be pickled and their source found
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidInputError(f"{path} does not run: {_told(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return 'it called sys.exit; put what is meant for a script under `if __name__ == "__main__":`'
    return f"{type(error).__name__}: {error}"
