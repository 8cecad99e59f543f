"""From ``FILE.py:FUNCTION`` and weights files to an objective and points."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, ThalwegError
from thalweg.objectives import EmpiricalRisk, Objective

__all__ = ["load_objective", "load_weights"]

_SHOWN = "FUNCTION must return (model, loss, inputs, targets) or an Objective"


def load_objective(target: str) -> Objective:
    """Run a function in a file and make an objective of what it returns.

    Args:
        target: ``path/to/file.py:function``; the function takes no argument.

    Raises:
        InvalidInputError: for a missing file or function, a failing one, or a wrong return value.
    """
    path_text, colon, name = target.rpartition(":")
    if not colon or not name or not path_text:
        raise InvalidInputError(f"cannot read {target!r}; write FILE.py:FUNCTION, for example train.py:setup")
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
    except Exception as error:
        raise InvalidInputError(f"{name}() in {path} failed: {type(error).__name__}: {error}") from error
    if isinstance(made, Objective):
        return made
    if isinstance(made, tuple) and 3 <= len(made) <= 4 and isinstance(made[0], nn.Module):
        return EmpiricalRisk(*made)
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
    except Exception as error:
        raise InvalidInputError(f"{path} does not run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def load_weights(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Read a state dict without running any code that a file might carry.

    Args:
        path: a ``.safetensors`` file, or one written by `torch.save` (read with ``weights_only=True``).
        names: parameters wanted, which tell a state dict from a checkpoint that holds one.

    Raises:
        InvalidInputError: for a missing or unreadable file, or one without these parameters.
    """
    if not path.is_file():
        raise InvalidInputError(f"there is no weights file {path}")
    try:
        content = _read(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"{path} cannot be read as weights ({reason}). Save them with torch.save(model.state_dict(), ...) or "
            f"safetensors; "
            "files that hold other objects are not loaded, for they could run code"
        ) from error
    state = _find_state(content, names)
    if state is None:
        raise InvalidInputError(f"{path} holds no {names[0]!r}: weights of another model?")
    return state


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _find_state(content: Any, names: Sequence[str]) -> dict[str, Tensor] | None:
    """The mapping that holds the names, at the top or one level down; prefixes of wrappers are taken off."""
    if not isinstance(content, Mapping):
        return None
    for candidate in (content, *(value for value in content.values() if isinstance(value, Mapping))):
        for prefix in ("", "module.", "_orig_mod.", "model."):
            if all(prefix + name in candidate for name in names):
                return {name: candidate[prefix + name] for name in names}
    return None
