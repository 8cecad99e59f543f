"""Reading what a user calls their data into tensors held in memory, and checking it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from thalweg.foundation import InvalidInputError

__all__ = ["cast_floats", "count_samples", "read_data", "take"]


def read_data(data: Any, targets: Any = None) -> tuple[Any, Any]:
    """Turn data into a pytree of input tensors and one of targets, each with one leading row per sample.

    Args:
        data: a tensor; a tuple, list or dictionary of tensors; a `Dataset`; or a `DataLoader`, read in fixed order
            whatever its sampler. The items of the last two are ``(inputs, targets)`` pairs or dictionaries.
        targets: a tensor or a pytree of them; the key of the targets inside dictionary data; or None for a dataset of
            pairs, and for a loss that takes the whole batch.

    Raises:
        InvalidInputError: for two passes that disagree, an empty set, unequal lengths, NaN or infinite numbers.
    """
    if isinstance(data, Dataset | DataLoader):
        inputs, found = _read_twice(data)
    else:
        inputs, found = _tensors(data, "data"), None
    if isinstance(targets, str):
        if not isinstance(inputs, Mapping) or targets not in inputs:
            keys = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else "none, for the data is no dictionary"
            raise InvalidInputError(f"targets={targets!r} names no entry of the data; its entries: {keys}")
        found = inputs[targets]
        inputs = {key: value for key, value in inputs.items() if key != targets}
    elif targets is not None:
        found = _tensors(targets, "targets")
    n = count_samples(inputs, "data")
    if found is not None and count_samples(found, "targets") != n:
        raise InvalidInputError(
            f"{n} samples but {count_samples(found, 'targets')} targets; give one target per sample"
        )
    _check_finite(inputs, "data")
    _check_finite(found, "targets")
    return inputs, found


def count_samples(tree: Any, what: str) -> int:
    """Common leading length of all tensors of a tree.

    Raises:
        InvalidInputError: if there is no tensor, the lengths differ, or the length is zero.
    """
    leaves = pytree.tree_leaves(tree)
    lengths = {len(leaf) if leaf.dim() else None for leaf in leaves}
    if not leaves or None in lengths or len(lengths) != 1:
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise InvalidInputError(
            f"the tensors of the {what} need one common leading length (samples), got shapes {shapes}"
        )
    n = cast(int, lengths.pop())
    if n == 0:
        raise InvalidInputError(f"the {what} are empty: there are no samples to sum over")
    return n


def cast_floats(tree: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The same tree with floating tensors in `dtype`; integers and booleans stay."""

    def convert(leaf: Tensor) -> Tensor:
        return leaf.detach().to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return pytree.tree_map(convert, tree)


def take(tree: Any, index: slice | Tensor) -> Any:
    """Some samples of a tree."""
    return pytree.tree_map(lambda leaf: leaf[index], tree)


def _tensors(tree: Any, what: str) -> Any:
    def convert(leaf: Any) -> Tensor:
        if isinstance(leaf, Tensor):
            return leaf.detach()
        try:
            return torch.as_tensor(leaf)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"the {what} hold a {type(leaf).__name__}, which is no tensor; give tensors, arrays, a Dataset or a "
                f"DataLoader ({error})"
            ) from None

    if tree is None:
        raise InvalidInputError(f"no {what} given")
    if hasattr(tree, "__array__") and not isinstance(tree, Tensor):
        return convert(tree)
    return pytree.tree_map(convert, tree)


def _read_twice(source: Any) -> tuple[Any, Any]:
    with torch.random.fork_rng(devices=[]):  # reading must not move the user's random state
        torch.manual_seed(0)
        first = _read_once(source)
        torch.manual_seed(1)
        second = _read_once(source)
    a, b = pytree.tree_leaves(first), pytree.tree_leaves(second)
    same = len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))
    if not same and not any(bool(torch.isnan(x).any()) for x in a if x.is_floating_point()):
        raise InvalidInputError(
            "two passes over the data disagree: the dataset is random (augmentation?) or its order is. An objective "
            "needs "
            "fixed data: switch the augmentation off, or read it once into tensors and pass those"
        )
    if isinstance(first, tuple | list) and len(first) == 2:
        return first[0], first[1]
    return first, None


def _read_once(source: Any) -> Any:
    batches = list(_in_order(source))
    if not batches:
        raise InvalidInputError("the data are empty: there are no samples to sum over")
    try:
        return pytree.tree_map(lambda *parts: torch.cat([torch.as_tensor(p) for p in parts]), *batches)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the batches cannot be joined into tensors of one shape ({error}); pad them in the dataset"
        ) from None


def _in_order(source: Any) -> Any:
    if isinstance(source, DataLoader):
        if isinstance(source.sampler, RandomSampler) and source.batch_size is not None:
            return DataLoader(
                source.dataset,
                batch_size=source.batch_size,
                sampler=SequentialSampler(cast(Any, source.dataset)),
                collate_fn=source.collate_fn,
            )
        return source
    if isinstance(source, IterableDataset):
        return (default_collate([item]) for item in source)
    length = len(cast(Any, source))
    return (
        default_collate([source[i] for i in range(start, min(start + 1024, length))])
        for start in range(0, length, 1024)
    )


def _check_finite(tree: Any, what: str) -> None:
    for leaf in pytree.tree_leaves(tree):
        if leaf.is_complex():
            raise InvalidInputError(f"the {what} are complex; real tensors are needed")
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            bad = ~torch.isfinite(leaf)
            row = int(bad.reshape(len(leaf), -1).any(1).nonzero()[0])
            raise InvalidInputError(
                f"the {what} hold {int(bad.sum())} NaN or infinite entries, the first in sample {row}; remove or "
                f"impute them"
            )
