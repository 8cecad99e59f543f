"""Weights files: what they hold, and whether that is all of this model and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.foundation import InvalidInputError, first_line

__all__ = ["read_weights"]

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that parallel, compiled and wrapped models put before every name."""
DEPTH = 2
"""How far down a checkpoint is searched for the state dict."""
SHOWN = 4


def read_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a state dict without running any code that a file might carry.

    Args:
        path: a ``.safetensors`` file, or one written by `torch.save` (read with ``weights_only=True``): the state dict
            itself, or a checkpoint that holds one.
        wanted: what the model holds, parameters and buffers: every one must be in the file, with its shape, and nothing
            else beside them. Of tied parameters one is enough; counters (integers) may be missing.

    Raises:
        InvalidInputError: for a missing or unreadable file, and for one that does not fit; it says what differs.
    """
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; give the weights file in it")
    if not path.is_file():
        raise InvalidInputError(f"there is no weights file {path}")
    states = _candidates(_read(path))
    if not states:
        raise InvalidInputError(f"{path} holds no state dict; save torch.save(model.state_dict(), ...)")
    state = min(states, key=lambda one: len(_missing(one, wanted)))
    missing = _missing(state, wanted)
    if missing:
        holds = f"among its {len(state)} entries are {_shown(state)}" if state else "it is empty"
        raise InvalidInputError(f"{path} holds no {_shown(missing)}: weights of another model? ({holds})")
    more = [name for name in state if name not in wanted]
    if more:
        raise InvalidInputError(f"{path} holds {_shown(more)}, which this model has not: weights of another model?")
    for name, value in state.items():
        _check(path, name, value, wanted[name])
    return dict(state) | _tied(state, wanted)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidInputError(
            f"{path} cannot be read as weights ({_reason(error)}). Save them with torch.save(model.state_dict(), ...) "
            "or safetensors; files that hold other objects are not loaded, for they could run code"
        ) from error


def _reason(error: Exception) -> str:
    """Torch's own advice is to load the file all the same, which is not passed on."""
    first = first_line(error)
    if "weights_only" in first or "Weights only" in first:
        return "it holds something else than tensors"
    return first if " " in first else f"{type(error).__name__}, as for a file that is cut off or of another kind"


def _candidates(content: Any, depth: int = DEPTH) -> list[dict[str, Any]]:
    """Mappings at the top or further down that hold tensors; names of wrappers are taken off."""
    if not isinstance(content, Mapping):
        return []
    found = []
    if not content or any(isinstance(value, Tensor) for value in content.values()):
        named = {str(name): value for name, value in content.items()}
        inside = [{n.removeprefix(w): v for n, v in named.items() if n.startswith(w)} for w in WRAPPERS]
        found = [named, *(one for one in inside if one)]
    if depth:
        for value in content.values():
            found += _candidates(value, depth - 1)
    return found


def _missing(state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> list[str]:
    """Names that the model has and the file has not, though no tensor tied to it is there either."""
    held = {wanted[name].data_ptr() for name in state if name in wanted and wanted[name].numel()}
    return [
        name
        for name, value in wanted.items()
        if name not in state and value.is_floating_point() and value.data_ptr() not in held
    ]


def _tied(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied parameters that the file holds under another of their names."""
    by_place = {wanted[name].data_ptr(): value for name, value in state.items() if wanted[name].numel()}
    left = {name: value.data_ptr() for name, value in wanted.items() if name not in state and value.numel()}
    return {name: by_place[place] for name, place in left.items() if place in by_place}


def _check(path: Path, name: str, value: Any, like: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InvalidInputError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor")
    if value.shape != like.shape:
        raise InvalidInputError(
            f"{path}: {name!r} has shape {tuple(value.shape)}, in this model {tuple(like.shape)}; is it of another?"
        )
    if value.is_complex() and not like.is_complex():
        raise InvalidInputError(f"{path}: {name!r} is complex, this model's is real")
    broken = int((~torch.isfinite(value)).sum()) if value.is_floating_point() or value.is_complex() else 0
    if broken:
        raise InvalidInputError(
            f"{path}: {broken} of {value.numel()} entries of {name!r} are NaN or infinite: training had broken down by "
            "then; take an earlier checkpoint"
        )


def _shown(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(map(repr, every[:SHOWN])) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
