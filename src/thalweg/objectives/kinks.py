"""Kinks, found in what a computation does rather than in the names of its modules.

A dispatch mode watches every elementary operation of a forward pass and, for those that are not smooth, measures how
far their arguments lie from the nearest point of non-smoothness. A class with ``F.relu`` in its forward, a ``clamp`` in
a user's loss and an ``nn.MaxPool2d`` are all seen by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["KinkReport", "record_kinks"]


@dataclass(frozen=True)
class KinkReport:
    """What was seen of non-smoothness in one evaluation.

    Attributes:
        margin: smallest distance of an argument to a kink of its operation; infinite where there is no kink.
        operations: for each non-smooth operation seen, the number of scalar arguments that passed through it.
        order: the lowest order of derivative that jumps at a kink (1: a corner, as in ReLU; 2: a jump of curvature, as
            in the Huber loss); 0 without kinks.
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


Margin = Callable[..., Tensor]


def _distance_to(*points: float) -> Margin:
    def margin(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.stack([(x - point).abs() for point in points]).amin(0)

    return margin


def _clamp(x: Tensor, low: Any = None, high: Any = None, **kwargs: Any) -> Tensor:
    bounds = [b for b in (kwargs.get("min", low), kwargs.get("max", high)) if b is not None]
    gaps = [(x - b).abs().expand(x.shape) for b in bounds]
    return torch.stack(gaps).amin(0) if gaps else torch.full_like(x, math.inf)


def _pair(x: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
    return (x - y).abs()


def _threshold(x: Tensor, level: float, *_: Any, **__: Any) -> Tensor:
    return (x - level).abs()


def _huber(x: Tensor, y: Tensor, reduction: int = 1, delta: float = 1.0, **_: Any) -> Tensor:
    return ((x - y).abs() - delta).abs()


def _leaky(x: Tensor, slope: float = 0.01, *_: Any, **__: Any) -> Tensor:
    return x.abs() if slope != 1 else torch.full_like(x, math.inf)


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> tuple[int, Tensor]:
    """ELU with unit alpha joins its two pieces with equal slopes, any other (SELU too) with a corner."""
    return (_CURVATURE if alpha * input_scale == 1 else _CORNER), x.abs()


def _runner_up(x: Tensor, dim: Any = None, *_: Any, **__: Any) -> Tensor:
    """Gap between the largest entry and the next along the reduced dimensions."""
    if dim is None or dim == []:
        flat = x.reshape(1, -1)
    else:
        dims = [dim] if isinstance(dim, int) else list(dim)
        flat = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    if flat.shape[-1] < 2:
        return torch.full(flat.shape[:-1], math.inf, dtype=x.dtype, device=x.device)
    top = flat.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def _smallest_runner_up(x: Tensor, dim: Any = None, *rest: Any, **kwargs: Any) -> Tensor:
    return _runner_up(-x, dim)


def _pooled(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, *_: Any) -> Tensor:
    """Gap between the two largest entries of every pooling window."""
    kernel, stride, padding, dilation = (
        [v, v] if isinstance(v, int) else list(v) * (2 // len(v)) for v in (kernel, stride or kernel, padding, dilation)
    )
    planes = x.reshape(-1, 1, *x.shape[-2:])
    padded = torch.nn.functional.pad(planes, (padding[1], padding[1], padding[0], padding[0]), value=-math.inf)
    windows = torch.nn.functional.unfold(padded, kernel, dilation=dilation, stride=stride)
    top = windows.topk(min(2, windows.shape[1]), dim=1).values
    gap = top[:, 0] - top[:, -1] if top.shape[1] == 2 else torch.full_like(top[:, 0], math.inf)
    return torch.nan_to_num(gap, nan=math.inf, posinf=math.inf)


_CORNER, _CURVATURE = 1, 2

_KINKS: dict[str, tuple[int, Margin]] = {
    "relu": (_CORNER, _distance_to(0.0)),
    "relu6": (_CORNER, _distance_to(0.0, 6.0)),
    "threshold": (_CORNER, _threshold),
    "leaky_relu": (_CORNER, _leaky),
    "prelu": (_CORNER, _distance_to(0.0)),
    "_prelu_kernel": (_CORNER, _distance_to(0.0)),
    "rrelu_with_noise": (_CORNER, _distance_to(0.0)),
    "hardtanh": (_CORNER, lambda x, low=-1.0, high=1.0: _clamp(x, low, high)),
    "hardsigmoid": (_CORNER, _distance_to(-3.0, 3.0)),
    "hardswish": (_CORNER, _distance_to(-3.0, 3.0)),
    "hardshrink": (_CORNER, lambda x, level=0.5: (x.abs() - level).abs()),
    "softshrink": (_CORNER, lambda x, level=0.5: (x.abs() - level).abs()),
    "abs": (_CORNER, _distance_to(0.0)),
    "sign": (_CORNER, _distance_to(0.0)),
    "sgn": (_CORNER, _distance_to(0.0)),
    "round": (_CORNER, lambda x, *_, **__: ((x - 0.5).round() + 0.5 - x).abs()),
    "floor": (_CORNER, lambda x: (x - x.round()).abs()),
    "ceil": (_CORNER, lambda x: (x - x.round()).abs()),
    "trunc": (_CORNER, lambda x: (x - x.round()).abs()),
    "clamp": (_CORNER, _clamp),
    "clamp_min": (_CORNER, _clamp),
    "clamp_max": (_CORNER, lambda x, high: _clamp(x, None, high)),
    "maximum": (_CORNER, _pair),
    "minimum": (_CORNER, _pair),
    "max": (_CORNER, _runner_up),
    "min": (_CORNER, _smallest_runner_up),
    "amax": (_CORNER, _runner_up),
    "amin": (_CORNER, _smallest_runner_up),
    "max_pool2d_with_indices": (_CORNER, _pooled),
    "huber_loss": (_CURVATURE, _huber),
    "smooth_l1_loss": (_CURVATURE, _huber),
}
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
_BRANCHES = {"_local_scalar_dense", "is_nonzero", "item"}


class _Recorder(TorchDispatchMode):
    """Follows what depends on theta and measures it where it enters a non-smooth operation.

    Dependence is followed by storage: an operation with a dependent argument makes its results dependent. Comparisons
    and absolute values of the data alone are therefore not taken for kinks of the loss.
    """

    def __init__(self, theta: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.margin = math.inf
        self.operations: dict[str, int] = {}
        self.order = 0
        self.branches = False
        self._dependent = {theta.untyped_storage().data_ptr()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__
        name = packet if packet.startswith("_") else packet.rstrip("_")
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        dependent = any(self._pointer(t) in self._dependent for t in tensors)
        if dependent:
            if name in _BRANCHES:
                self.branches = True
            elif isinstance(args[0], Tensor) and args[0].is_floating_point():
                self._measure(name, args, kwargs)  # before the call: in place, the argument is gone afterwards
        result = func(*args, **kwargs)
        pointers = {self._pointer(t) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)} - {0}
        if dependent:
            self._dependent |= pointers
        else:
            self._dependent -= pointers  # freed memory is used again
        return result

    @staticmethod
    def _pointer(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def _measure(self, name: str, args: Any, kwargs: Any) -> None:
        if name in _COMPARISONS:
            order, gaps = _CORNER, (args[0] - args[1]).abs()
            name = "comparison"
        elif name == "elu":
            order, gaps = _elu(*args, **kwargs)
        elif name in _KINKS:
            order, margin_of = _KINKS[name]
            gaps = margin_of(*args, **kwargs)
        else:
            return
        if gaps.numel() == 0:
            return
        self.margin = min(self.margin, float(gaps.min()))
        self.operations[name] = self.operations.get(name, 0) + gaps.numel()
        self.order = min(self.order or order, order)


def record_kinks(value: Callable[[Tensor, Any], Tensor], theta: Tensor, chunks: Iterable[Any]) -> KinkReport:
    """Evaluate ``value(theta, chunk)`` over all chunks and report the kinks it came near."""
    theta = theta.clone()  # a storage of its own, so that nothing else counts as depending on it
    recorder = _Recorder(theta)
    with torch.no_grad(), recorder:
        for chunk in chunks:
            value(theta, chunk)
    return KinkReport(recorder.margin, recorder.operations, recorder.order, recorder.branches)
