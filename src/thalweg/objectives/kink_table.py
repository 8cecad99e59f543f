"""Which elementary operations are not smooth, and how far their arguments lie from where they are not.

Each entry takes the arguments of one operation as torch dispatches it and gives the distances of the scalars that enter
to the nearest point of non-smoothness. Singularities that show by themselves, as infinity or NaN (a division by zero, a
logarithm or root of zero), are not in the table; nor is the clamp of ``binary_cross_entropy`` at a logarithm of -100,
which a probability must fall below 1e-43 to reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["CORNER", "CURVATURE", "distances"]

CORNER, CURVATURE = 1, 2
"""The order of derivative that jumps: one for a corner (or a jump of the value itself), two for one of curvature."""

Margin = Callable[..., Tensor]


def distances(name: str, args: Any, kwargs: Any) -> tuple[int, Tensor] | None:
    """Order of the kink and the distance of every argument to it; None for an operation that is smooth.

    Args:
        name: of the operation, without overload and without the underscore of in-place variants.
        args: as dispatched.
        kwargs: as dispatched.
    """
    if name == "_to_copy":
        return _cast(args[0], kwargs.get("dtype"))
    if name == "div" and kwargs.get("rounding_mode") is not None:
        return CORNER, _to_integer(args[0] / args[1])
    if name in _BY_SETTING:
        return _BY_SETTING[name](*args, **kwargs)
    if name not in _KINKS:
        return None
    order, margin = _KINKS[name]
    return order, margin(*args, **kwargs)


def _infinite(x: Tensor) -> Tensor:
    return torch.full_like(x, math.inf)


def _distance_to(*points: float) -> Margin:
    def margin(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.stack([(x - point).abs() for point in points]).amin(0)

    return margin


def _to_integer(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return (x - x.round()).abs()


def _rounded(x: Tensor, *, decimals: int = 0) -> Tensor:
    """``round`` jumps at the halves of its last digit."""
    scaled = x * 10.0**decimals
    return ((scaled - 0.5).round() + 0.5 - scaled).abs() / 10.0**decimals


def _remainder(x: Any, y: Any) -> Tensor:
    ratio = torch.as_tensor(x / y)
    return _to_integer(ratio) * torch.as_tensor(y).abs()


def _cast(x: Tensor, dtype: torch.dtype | None) -> tuple[int, Tensor] | None:
    """A cast to whole numbers or truth values jumps."""
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        return None
    return CORNER, x.abs() if dtype == torch.bool else _to_integer(x)


def _clamp(x: Tensor, low: Any = None, high: Any = None, **kwargs: Any) -> Tensor:
    bounds = [b for b in (kwargs.get("min", low), kwargs.get("max", high)) if b is not None]
    gaps = torch.broadcast_tensors(*[(x - bound).abs() for bound in bounds])
    return torch.stack(gaps).amin(0) if gaps else _infinite(x)


def _pair(x: Any, y: Any, *_: Any, **__: Any) -> Tensor:
    return torch.as_tensor(x - y).abs()


def _shrink(x: Tensor, level: float = 0.5) -> Tensor:
    return (x.abs() - level).abs()


def _huber(x: Tensor, y: Tensor, reduction: int = 1, delta: float = 1.0, **_: Any) -> Tensor:
    return ((x - y).abs() - delta).abs()


def _leaky(x: Tensor, slope: float = 0.01, *_: Any, **__: Any) -> Tensor:
    return x.abs() if slope != 1 else _infinite(x)


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> tuple[int, Tensor]:
    """ELU with unit alpha joins its two pieces with equal slopes, any other (SELU too) with a corner."""
    return (CURVATURE if math.isclose(alpha * input_scale, 1.0) else CORNER), x.abs()


def _celu(x: Tensor, alpha: float = 1.0) -> tuple[int, Tensor]:
    return CURVATURE, x.abs()


# -- selections: a kink where the choice changes -----------------------------------------------------------------------


def _over(x: Tensor, dim: Any) -> Tensor:
    """The reduced dimensions last and laid into one; all of them for None."""
    if dim is None or dim == [] or x.dim() == 0:
        return x.reshape(1, -1)
    dims = [dim] if isinstance(dim, int) else list(dim)
    return x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))


def _runner_up(x: Tensor, dim: Any = None, *_: Any, **kwargs: Any) -> Tensor:
    """Gap between the largest entry and the next along the reduced dimensions."""
    flat = _over(x, kwargs.get("dim", dim))
    if flat.shape[-1] < 2:
        return _infinite(flat[..., 0])
    top = flat.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def _smallest_runner_up(x: Tensor, dim: Any = None, *_: Any, **kwargs: Any) -> Tensor:
    return _runner_up(-x, kwargs.get("dim", dim))


def _extremes(x: Tensor, *, dim: Any = None, **_: Any) -> Tensor:
    return torch.minimum(_runner_up(x, dim), _smallest_runner_up(x, dim))


def _neighbours(x: Tensor, dim: Any) -> Tensor:
    """Gaps between neighbours in sorted order."""
    ranked = _over(x, dim).sort(-1).values
    return ranked.diff(dim=-1)


def _ranked(x: Tensor, dim: int = -1, *_: Any, **kwargs: Any) -> Tensor:
    return _neighbours(x, kwargs.get("dim", dim))


def _stable_sort(x: Tensor, *_: Any, dim: int = -1, **__: Any) -> Tensor:
    return _neighbours(x, dim)


def _largest(x: Tensor, k: int, dim: int = -1, largest: bool = True, *_: Any, **__: Any) -> Tensor:
    ranked = _over(x, dim).sort(-1, descending=largest).values
    return ranked[..., : k + 1].diff(dim=-1).abs()


def _kth(x: Tensor, k: int, dim: int = -1, *_: Any) -> Tensor:
    return _neighbours(x, dim)


def _middle(x: Tensor, dim: Any = None, *_: Any) -> Tensor:
    return _neighbours(x, dim)


def _running(sign: float) -> Margin:
    """Distance of each entry to the largest (smallest) before it."""

    def margin(x: Tensor, dim: int) -> Tensor:
        moved = sign * x.movedim(dim, -1)
        best = moved.cummax(-1).values
        return (moved[..., 1:] - best[..., :-1]).abs()

    return margin


def _between(boundaries: Tensor, values: Any) -> Tensor:
    values = torch.as_tensor(values, dtype=boundaries.dtype)
    return (values.reshape(-1, 1) - boundaries.reshape(1, -1)).abs()


# -- pooling -----------------------------------------------------------------------------------------------------------


def _pooled(dimensions: int) -> Margin:
    def margin(
        x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
    ) -> Tensor:
        k, s, p, d = (_each(v, dimensions) for v in (kernel, stride or kernel, padding, dilation))
        windows = x
        for i in range(dimensions):
            windows = _windows(windows, -dimensions, k[i], s[i], p[i], d[i], ceil)
        return _gap(windows.flatten(-dimensions))

    return margin


def _each(value: Any, dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


def _windows(x: Tensor, dim: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Tensor:
    """Windows along one dimension, their entries in a new last one; outside the input stands minus infinity."""
    reach = dilation * (kernel - 1) + 1
    length = x.shape[dim]
    count = (length + 2 * padding - reach + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= length + padding:  # torch lets no window start beyond the input
        count -= 1
    right = max(0, (count - 1) * stride + reach - length - padding)
    moved = torch.nn.functional.pad(x.movedim(dim, -1), (padding, right), value=-math.inf)
    cut = moved.unfold(-1, reach, stride)[..., :count, ::dilation]
    return cut.movedim(-2, dim - 1)


def _adaptive(dimensions: int) -> Margin:
    def margin(x: Tensor, size: Any) -> Tensor:
        out = _each(size, dimensions)
        lengths = x.shape[-dimensions:]
        edges = [[(i * n // m, -((-(i + 1) * n) // m)) for i in range(m)] for n, m in zip(lengths, out, strict=True)]
        gaps = []
        for cell in torch.cartesian_prod(*[torch.arange(m) for m in out]).reshape(-1, dimensions).tolist():
            window = x
            for axis, position in enumerate(cell):
                start, stop = edges[axis][position]
                window = window.narrow(axis - dimensions, start, stop - start)
            gaps.append(_gap(window.flatten(-dimensions)).reshape(-1))
        return torch.cat(gaps)

    return margin


def _gap(windows: Tensor) -> Tensor:
    """Gap between the two largest entries of the last dimension; infinite where there is but one."""
    if windows.shape[-1] < 2:
        return _infinite(windows[..., 0])
    top = windows.topk(2, dim=-1).values
    return torch.nan_to_num(top[..., 0] - top[..., 1], nan=math.inf, posinf=math.inf)


# -- norms and losses --------------------------------------------------------------------------------------------------


def _norm(x: Tensor, p: Any = 2, dim: Any = None, *_: Any, **__: Any) -> Tensor:
    """A Euclidean norm has its corner at the zero vector, a sum of absolute values wherever an entry vanishes."""
    flat, power = _over(x, dim), 2.0 if p is None else float(p)
    if power == math.inf:
        return torch.minimum(_runner_up(flat.abs(), -1), flat.abs().amax(-1))
    return flat.square().sum(-1).sqrt() if power > 1 else flat.abs()


def _pairwise(x: Tensor, y: Tensor, p: float = 2.0, *_: Any) -> Tensor:
    return _norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _multi_margin(x: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, *_: Any, **__: Any) -> tuple[int, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    index = target.reshape(-1, 1)
    gaps = (margin - rows.gather(1, index) + rows).abs()
    gaps = gaps.scatter(1, index, math.inf)
    return (CORNER if p == 1 else CURVATURE), gaps


def _multi_label_margin(x: Tensor, target: Tensor, *_: Any) -> Tensor:
    """Corners where a label's output leads a non-label's by exactly one; labels end at the first -1."""
    rows, labels = x.reshape(-1, x.shape[-1]), target.reshape(-1, x.shape[-1])
    listed = (labels >= 0).cumprod(1).bool().unsqueeze(-1)
    chosen = (torch.nn.functional.one_hot(labels.clamp_min(0), rows.shape[1]).bool() & listed).any(1)
    pairs = (1 - (rows.unsqueeze(2) - rows.unsqueeze(1))).abs()
    return torch.where(chosen.unsqueeze(2) & ~chosen.unsqueeze(1), pairs, torch.full_like(pairs, math.inf))


_BY_SETTING: dict[str, Callable[..., tuple[int, Tensor]]] = {
    "elu": _elu,
    "celu": _celu,
    "multi_margin_loss": _multi_margin,
}
"""Operations whose kink is a corner or a jump of curvature depending on a setting."""

_KINKS: dict[str, tuple[int, Margin]] = {
    # activations
    "relu": (CORNER, _distance_to(0.0)),
    "relu6": (CORNER, _distance_to(0.0, 6.0)),
    "threshold": (CORNER, lambda x, level, *_: (x - level).abs()),
    "leaky_relu": (CORNER, _leaky),
    "prelu": (CORNER, _distance_to(0.0)),
    "_prelu_kernel": (CORNER, _distance_to(0.0)),
    "rrelu_with_noise": (CORNER, _distance_to(0.0)),
    "hardtanh": (CORNER, lambda x, low=-1.0, high=1.0: _clamp(x, low, high)),
    "hardsigmoid": (CORNER, _distance_to(-3.0, 3.0)),
    "hardswish": (CORNER, _distance_to(-3.0, 3.0)),
    "hardshrink": (CORNER, _shrink),
    "softshrink": (CORNER, _shrink),
    # elementary functions
    "abs": (CORNER, _distance_to(0.0)),
    "sign": (CORNER, _distance_to(0.0)),
    "sgn": (CORNER, _distance_to(0.0)),
    "signbit": (CORNER, _distance_to(0.0)),
    "heaviside": (CORNER, _distance_to(0.0)),
    "logical_not": (CORNER, _distance_to(0.0)),
    "nonzero": (CORNER, _distance_to(0.0)),
    "copysign": (CORNER, lambda x, y: torch.minimum(x.abs(), torch.as_tensor(y).abs())),
    "round": (CORNER, _rounded),
    "floor": (CORNER, _to_integer),
    "ceil": (CORNER, _to_integer),
    "trunc": (CORNER, _to_integer),
    "frac": (CORNER, _to_integer),
    "floor_divide": (CORNER, lambda x, y: _to_integer(x / y)),
    "remainder": (CORNER, _remainder),
    "fmod": (CORNER, _remainder),
    "clamp": (CORNER, _clamp),
    "clamp_min": (CORNER, _clamp),
    "clamp_max": (CORNER, lambda x, high: _clamp(x, None, high)),
    # comparisons
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), (CORNER, _pair)),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), (CORNER, _pair)),
    # selections
    "max": (CORNER, _runner_up),
    "min": (CORNER, _smallest_runner_up),
    "amax": (CORNER, _runner_up),
    "amin": (CORNER, _smallest_runner_up),
    "argmax": (CORNER, _runner_up),
    "argmin": (CORNER, _smallest_runner_up),
    "aminmax": (CORNER, _extremes),
    "sort": (CORNER, _ranked),
    "sort.stable": (CORNER, _stable_sort),
    "argsort": (CORNER, _ranked),
    "topk": (CORNER, _largest),
    "kthvalue": (CORNER, _kth),
    "median": (CORNER, _middle),
    "nanmedian": (CORNER, _middle),
    "cummax": (CORNER, _running(1.0)),
    "cummin": (CORNER, _running(-1.0)),
    "bucketize": (CORNER, lambda x, boundaries, **_: _between(boundaries, x)),
    "searchsorted": (CORNER, lambda boundaries, x, **_: _between(boundaries, x)),
    "max_pool2d_with_indices": (CORNER, _pooled(2)),
    "max_pool3d_with_indices": (CORNER, _pooled(3)),
    "adaptive_max_pool2d": (CORNER, _adaptive(2)),
    "adaptive_max_pool3d": (CORNER, _adaptive(3)),
    # norms and losses
    "linalg_vector_norm": (CORNER, _norm),
    "norm": (CORNER, _norm),
    "dist": (CORNER, lambda x, y, p=2: _norm(x - y, p)),
    "_cdist_forward": (CORNER, _pairwise),
    "huber_loss": (CURVATURE, _huber),
    "smooth_l1_loss": (CURVATURE, _huber),
    "multilabel_margin_loss_forward": (CORNER, _multi_label_margin),
}
