"""Kinks, found in what a computation does rather than in the names of its modules.

A dispatch mode watches every elementary operation of a forward pass and, for those that are not smooth, measures how
far their arguments lie from the nearest point of non-smoothness. A class with ``F.relu`` in its forward, a ``clamp`` in
a user's loss and an ``nn.MaxPool2d`` are all seen by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.objectives import kink_table

__all__ = ["KinkReport", "record_kinks", "seamless"]

_seamless: ContextVar[bool] = ContextVar("seamless", default=False)


@contextmanager
def seamless() -> Iterator[None]:
    """Operations within are no kinks, whatever they compare: they choose between formulas of one smooth function.

    Such as a series near zero and a quotient elsewhere. What they choose is followed on, and measured after it.

    >>> import torch
    >>> def sinc(z):
    ...     with seamless():
    ...         near = z.abs() < 1e-4
    ...     return torch.where(near, 1 - z**2 / 6, torch.sin(z) / torch.where(near, 1.0, z))
    >>> record_kinks(lambda theta, _: sinc(theta).sum(), torch.zeros(2), [None]).smooth
    True
    """
    token = _seamless.set(True)
    try:
        yield
    finally:
        _seamless.reset(token)


@dataclass(frozen=True)
class KinkReport:
    """What was seen of non-smoothness in one evaluation.

    Attributes:
        margin: smallest distance of an argument to a kink of its operation; infinite where there is no kink.
        operations: for each non-smooth operation seen, the number of scalar arguments that passed through it.
        order: the lowest order of derivative that jumps at a kink (1: a corner, as in ReLU, or a jump; 2: a jump of
            curvature, as in the Huber loss); 0 without kinks.
        branches: True if the computation read a number out of a tensor that depends on theta, as a data-dependent
            ``if`` does. Where it does, the function may jump anywhere, and the margin says nothing about that.
    """

    margin: float
    operations: dict[str, int]
    order: int
    branches: bool

    @property
    def smooth(self) -> bool:
        """True if no kink and no branch was seen."""
        return not self.operations and not self.branches

    def describe(self) -> str:
        """One line for reports.

        >>> KinkReport(0.5, {"relu": 12}, 1, False).describe()
        'relu (12 arguments, corner); nearest argument at distance 0.5'
        """
        if self.smooth:
            return "no kinks"
        kind = {0: "", 1: ", corner", 2: ", jump of curvature"}[self.order]
        parts = [f"{name} ({count} arguments{kind})" for name, count in self.operations.items()]
        text = "; ".join(parts)
        if self.operations:
            text += f"; nearest argument at distance {self.margin:.2g}"
        if self.branches:
            text += ("; " if text else "") + "reads numbers out of tensors (a data-dependent branch?)"
        return text


_BRANCHES = {"_local_scalar_dense", "is_nonzero", "item", "equal"}


class _Recorder(TorchDispatchMode):
    """Follows what depends on theta and measures it where it enters a non-smooth operation.

    Dependence is followed by storage: an operation with a dependent argument makes its results dependent. Comparisons
    and absolute values of the data alone are therefore not taken for kinks of the loss.
    """

    def __init__(self, theta: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.seen: list[_Passage] = []
        self.branches = False
        self._dependent = {theta.untyped_storage().data_ptr()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__
        name = packet if packet.startswith("_") else packet.rstrip("_")
        dependent = any(self._pointer(t) in self._dependent for t in _tensors((args, kwargs)))
        if dependent and not _seamless.get():
            if name in _BRANCHES:
                self.branches = True
            elif any(self._pointer(t) in self._dependent and t.is_floating_point() for t in _tensors((args, kwargs))):
                # before the call: in place, the argument is gone afterwards
                self._measure("sort.stable" if func is torch.ops.aten.sort.stable else name, args, kwargs)
        result = func(*args, **kwargs)
        pointers = {self._pointer(t) for t in _tensors(result)} - {0}
        if dependent:
            self._dependent |= pointers
        else:
            self._dependent -= pointers  # freed memory is used again
        return result

    @staticmethod
    def _pointer(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def follows(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on theta."""
        return self._pointer(tensor) in self._dependent

    def _measure(self, name: str, args: Any, kwargs: Any) -> None:
        found = kink_table.distances(name, args, kwargs)
        if found is None or not bool(torch.isfinite(found[1]).any()):
            return
        order, gaps = found
        name = "comparison" if name in ("gt", "ge", "lt", "le", "eq", "ne") else name.split(".")[0]
        self.seen.append(_Passage(name, order, gaps.numel(), *_nearest(gaps)))


class _Reader(TorchFunctionMode):
    """Sees tensors turned into lists and arrays, which no elementary operation shows."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = func in (Tensor.tolist, Tensor.numpy, Tensor.__array__)
        if reads and not _seamless.get() and self.recorder.follows(args[0]):
            self.recorder.branches = True
        return func(*args, **(kwargs or {}))


class _Passage(NamedTuple):
    """Arguments that went through one non-smooth operation: the smallest distance above zero, and which are at zero."""

    name: str
    order: int
    arguments: int
    margin: float
    touching: Tensor | None


def _nearest(gaps: Tensor) -> tuple[float, Tensor | None]:
    touching = gaps == 0
    if not bool(touching.any()):
        return float(gaps.min()), None
    apart = gaps[~touching]
    return (float(apart.min()) if apart.numel() else math.inf), touching


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def record_kinks(value: Callable[[Tensor, Any], Tensor], theta: Tensor, chunks: Iterable[Any]) -> KinkReport:
    """Evaluate ``value(theta, chunk)`` over all chunks and report the kinks it came near.

    An argument exactly at a kink that stays there when theta is moved a little does not move at all, and is no kink:
    the largest of several zeros that dead units send into a pooling window, a zero that padding sends into a ReLU.
    """
    margin, order, branches = math.inf, 0, False
    operations: dict[str, int] = {}
    for chunk in chunks:
        recorder = _record(value, theta, chunk)
        branches = branches or recorder.branches
        touching = any(passage.touching is not None for passage in recorder.seen)
        moved = _record(value, _moved(theta), chunk).seen if touching else []
        for number, passage in enumerate(recorder.seen):
            operations[passage.name] = operations.get(passage.name, 0) + passage.arguments
            order = min(order or passage.order, passage.order)
            again = moved[number] if number < len(moved) else None
            margin = min(margin, 0.0 if _on_a_kink(passage, again) else passage.margin)
    return KinkReport(margin, operations, order, branches)


def _record(value: Callable[[Tensor, Any], Tensor], theta: Tensor, chunk: Any) -> _Recorder:
    own = theta.clone()  # a storage of its own, so that nothing else counts as depending on it
    recorder = _Recorder(own)
    with torch.no_grad(), _Reader(recorder), recorder:
        value(own, chunk)
    return recorder


def _moved(theta: Tensor) -> Tensor:
    """A point very near, off every coincidence."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(theta), generator=generator, dtype=torch.float64).to(theta)
    return theta + 1e3 * torch.finfo(theta.dtype).eps * (theta.abs() + theta.abs().mean() + 1e-3) * noise


def _on_a_kink(passage: _Passage, again: _Passage | None) -> bool:
    if passage.touching is None:
        return False
    if again is None or (again.name, again.arguments) != (passage.name, passage.arguments):
        return True  # the computation took another way: nothing is known
    return again.touching is None or bool((passage.touching & ~again.touching).any())
