"""Reading what a user calls their data into tensors held in memory, and checking it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)

from thalweg.foundation import InvalidInputError, preserved_random_state

__all__ = ["cast_floats", "count_samples", "read_data", "take"]


def read_data(data: Any, targets: Any = None) -> tuple[Any, Any]:
    """Turn data into a pytree of input tensors and one of targets, each with one leading row per sample.

    Args:
        data: a tensor; a tuple, list or dictionary of tensors; a `Dataset`; or a `DataLoader`. The items of the last
            two are ``(inputs, targets)`` pairs or dictionaries. A shuffling loader is read in the order of its dataset,
            all of it: its ``drop_last`` drops others in every epoch. Any other sampler is read as it is.
        targets: a tensor or a pytree of them; the key of the targets inside dictionary data; or None for a dataset of
            pairs, and for a loss that takes the whole batch.

    Raises:
        InvalidInputError: for two passes that disagree, an empty set, unequal lengths, sparse tensors, NaN or infinite
            numbers.
    """
    if isinstance(data, Dataset | DataLoader):
        inputs, found = _in_pairs(_read_twice(data), targets)
    else:
        inputs, found = _tensors(data, "data"), None
    if isinstance(targets, str):
        if not isinstance(inputs, Mapping) or targets not in inputs:
            keys = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else "none, for the data is no dictionary"
            raise InvalidInputError(f"targets={targets!r} names no entry of the data; its entries: {keys}")
        found = inputs[targets]
        inputs = {key: value for key, value in inputs.items() if key != targets}
        if not inputs:
            raise InvalidInputError(f"the data hold nothing but the targets {targets!r}: there are no inputs")
    elif targets is not None:
        found = _tensors(targets, "targets")
    _check_layout(inputs, "data")
    _check_layout(found, "targets")
    n = count_samples(inputs, "data")
    if found is not None and count_samples(found, "targets") != n:
        raise InvalidInputError(
            f"{n} samples but {count_samples(found, 'targets')} targets; give one target per sample"
        )
    _check_finite(inputs, "data")
    if found is not None:
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
    """A copy of the tree with floating tensors in `dtype`; integers and booleans keep theirs.

    A copy also where nothing changes: the objective must stay what it is when the user's tensors are written to.
    """

    def convert(leaf: Tensor) -> Tensor:
        return leaf.detach().to(device=device, dtype=dtype if leaf.is_floating_point() else None, copy=True)

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


def _in_pairs(read: Any, targets: Any) -> tuple[Any, Any]:
    """Split what a dataset gave into inputs and targets, unless the targets are given beside it."""
    if not isinstance(read, tuple | list) or targets is not None:
        return read, None
    if len(read) > 2:
        raise InvalidInputError(
            f"the items of the dataset are tuples of {len(read)}; give pairs (inputs, targets), where inputs may be a "
            "tuple or a dictionary, or dictionaries with targets='key'"
        )
    return (read[0], read[1]) if len(read) == 2 else (read, None)


def _read_twice(source: Any) -> Any:
    with preserved_random_state(0):
        first = _read_once(source)
    with preserved_random_state(1):
        second = _read_once(source)
    a, b = pytree.tree_leaves(first), pytree.tree_leaves(second)
    same = len(a) == len(b) and all(x.shape == y.shape and _equal(x, y) for x, y in zip(a, b, strict=True))
    if not same:
        raise InvalidInputError(
            "two passes over the data disagree: the dataset is random (augmentation?) or its order is. An objective "
            "needs fixed data: switch the augmentation off, or read it once into tensors and pass those"
        )
    return first


def _equal(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x, y) or (x.is_floating_point() and torch.equal(x.nan_to_num(), y.nan_to_num()))


def _read_once(source: Any) -> Any:
    try:
        batches = list(_in_order(source))
        if batches:
            return pytree.tree_map(lambda *parts: torch.cat([torch.as_tensor(p) for p in parts]), *batches)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the items of the dataset cannot be joined into tensors of one shape ({error}); pad them in the dataset, "
            "or read them into tensors and pass those"
        ) from error
    raise InvalidInputError("the data are empty: there are no samples to sum over")


def _in_order(source: Any) -> Any:
    """Batches of a loader or dataset, in an order that does not depend on chance."""
    if isinstance(source, DataLoader):
        order = _fixed_order(source)
        if order is None or source.batch_size is None:
            return source
        return DataLoader(source.dataset, batch_size=source.batch_size, sampler=order, collate_fn=source.collate_fn)
    if isinstance(source, IterableDataset):
        return (default_collate([item]) for item in source)
    length = len(cast(Any, source))
    return (
        default_collate([source[i] for i in range(start, min(start + 1024, length))])
        for start in range(0, length, 1024)
    )


def _fixed_order(loader: DataLoader[Any]) -> Sampler[int] | list[int] | None:
    """What a shuffling sampler draws from, in order; None for a sampler that is read as it is."""
    if isinstance(loader.sampler, RandomSampler):
        return SequentialSampler(cast(Any, loader.dataset))
    if isinstance(loader.sampler, SubsetRandomSampler):
        return list(loader.sampler.indices)
    return None


def _check_layout(tree: Any, what: str) -> None:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor) and (leaf.layout != torch.strided or leaf.is_nested):
            kind = "nested" if leaf.is_nested else str(leaf.layout).removeprefix("torch.")
            raise InvalidInputError(f"the {what} hold a {kind} tensor; pass a dense one (.to_dense(), or padded)")


def _check_finite(tree: Any, what: str) -> None:
    for leaf in pytree.tree_leaves(tree):
        if leaf.is_complex():
            raise InvalidInputError(f"the {what} are complex; real tensors are needed")
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            bad = ~torch.isfinite(leaf)
            row = int(bad.reshape(len(leaf), -1).any(1).nonzero()[0])
            raise InvalidInputError(
                f"the {what} hold {int(bad.sum())} NaN or infinite entries, the first in sample {row}; "
                "remove or impute them"
            )
