"""Finding out, once and by trying, which derivative paths a forward pass supports and what it costs in memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.foundation import UnsupportedModelError, first_line
from thalweg.objectives import paths, samples
from thalweg.objectives.paths import DerivativePath

__all__ = ["bytes_by_sample", "operations_of", "probe_path", "probe_samples"]

_PLAIN = DerivativePath(batch="loop", columns="loop")


def probe_path(f: Callable[[Tensor], Tensor], theta: Tensor, *, smooth: bool = True) -> DerivativePath:
    """Try the transforms from the fastest to the plainest on ``f`` near `theta`, each against a plainer one.

    Args:
        f: the pure value of a small chunk.
        theta: ``(P,)``.
        smooth: whether ``f`` has no kinks, so that differences of gradients tell whether a second derivative is true.

    Raises:
        UnsupportedModelError: if not even one gradient can be taken.
    """
    generator = torch.Generator().manual_seed(0)
    size = 1e-3 * float(theta.abs().max().clamp_min(1e-3))
    noise = torch.randn(2, len(theta), generator=generator, dtype=torch.float64).to(theta)
    thetas, vectors = theta + size * noise, noise.flip(0)
    tried = _Trials()
    plain = _PLAIN
    try:
        _, slope = paths.gradients(f, thetas, plain)
    except Exception as error:  # whatever a foreign module may raise
        raise UnsupportedModelError(f"the loss of this model cannot be differentiated: {first_line(error)}") from error

    path = plain
    batched = replace(plain, batch="vmap")
    if tried.works("vmap over parameters", lambda: paths.gradients(f, thetas, batched)[1], slope):
        path = batched
    tried.noise = 1e-12 * float(slope.abs().max())  # second derivatives may vanish, and are then compared with this
    forward = replace(plain, second="jvp")

    def second(route: DerivativePath) -> Tensor:
        products = paths.hessian_products(f, thetas, vectors, route)
        _check_second(f, thetas[0], vectors, products[0], route, smooth=smooth, noise=tried.noise)
        return products

    product = tried.attempt("double backward", lambda: second(plain))
    forward_works = tried.works("forward mode", lambda: second(forward), product)
    path = replace(path, forward=forward_works)
    if product is None:
        if not forward_works:
            return replace(path, second="none", columns="loop", keep=False, notes=tuple(tried.notes))
        product = paths.hessian_products(f, thetas, vectors, forward)
        path = replace(path, second="jvp")
    path = _probe_second(f, thetas, vectors, product, path, tried)
    return replace(path, notes=tuple(tried.notes))


class _FalseDerivativeError(Exception):
    """A route that returns numbers, but not those of the derivative."""


def _check_second(
    f: Callable[[Tensor], Tensor],
    theta: Tensor,
    vectors: Tensor,
    product: Tensor,
    route: DerivativePath,
    *,
    smooth: bool,
    noise: float,
) -> None:
    """See that products are those of a symmetric matrix, and of the one that differences of gradients give.

    A gradient that a user wrote by hand, or that torch marks as differentiable once, can let a second derivative pass
    without an error and without its own part.
    """
    other = paths.hessian_columns(f, theta.unsqueeze(0), vectors[1:], route)[0, 0]
    crossed = vectors[1] @ product - vectors[0] @ other
    size = (vectors[1].norm() * product.norm() + vectors[0].norm() * other.norm()) / len(theta) ** 0.5
    if float(crossed.abs()) > max(10 * paths.AGREEMENT[theta.dtype] * float(size), noise):
        raise _FalseDerivativeError("the Hessian is not symmetric, so some gradient in it is not differentiable again")
    if not smooth or theta.dtype != torch.float64:
        return
    near, far = (_differences(f, theta, vectors[0], size) for size in (1e-3, 2e-3))
    measured, doubt = (4 * near - far) / 3, 4 * float((near - far).abs().max())
    off = float((measured - product).abs().max())
    if off > doubt + 1e-6 * float(measured.abs().max() + product.abs().max()) + 1e3 * noise:
        raise _FalseDerivativeError("the Hessian is not the derivative of the gradient, which some code gives by hand")


def _differences(f: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor, size: float) -> Tensor:
    """Hessian times direction by central differences of gradients over a step of that size, relative to theta."""
    step = size * float(theta.norm() + 1e-2 * len(theta) ** 0.5) / float(direction.norm())
    _, slopes = paths.gradients(f, torch.stack([theta + step * direction, theta - step * direction]), _PLAIN)
    return (slopes[0] - slopes[1]) / (2 * step)


def _probe_second(
    f: Callable[[Tensor], Tensor],
    thetas: Tensor,
    vectors: Tensor,
    product: Tensor,
    path: DerivativePath,
    tried: _Trials,
) -> DerivativePath:
    """Settle how Hessian products are batched and whether the graph can be kept."""
    if path.batch == "vmap" and not tried.works(
        "vmap of Hessian products", lambda: paths.hessian_products(f, thetas, vectors, path), product
    ):
        path = replace(path, batch="loop")
    columns = replace(path, columns="vmap")

    def diagonal() -> Tensor:
        return paths.hessian_columns(f, thetas, vectors, columns).diagonal(dim1=0, dim2=1).T

    path = columns if tried.works("vmap over columns", diagonal, product) else replace(path, columns="loop")

    def kept() -> Tensor:
        return paths.kept_hessian_product(f, thetas[0], path)(vectors[0])

    keep = path.second == "double-backward" and tried.works("kept graph", kept, product[0])
    return replace(path, keep=keep)


def probe_samples(
    outputs: Callable[[Tensor, Any], Tensor], theta: Tensor, chunk: Any, path: DerivativePath
) -> DerivativePath:
    """Settle whether the samples of a chunk can be differentiated one by one under ``vmap``.

    Args:
        outputs: ``(theta, chunk) -> (n, C)``.
        theta: ``(P,)``.
        chunk: a few samples.
        path: what is known so far.
    """
    tried = _Trials()

    def f(point: Tensor) -> Tensor:
        return outputs(point, chunk)

    with torch.no_grad():
        few = f(theta)
    # one signal that weighs every output differently stands for all rows of the Jacobian
    signal = torch.linspace(1, 2, few.numel(), dtype=few.dtype, device=few.device).reshape(few.shape)
    pulled = samples.pull(f, theta, signal.unsqueeze(0))[0]

    def by_vmap() -> Tensor:
        alone = samples.sample_gradients(lambda t, one: (one[1] * outputs(t, one[0])).sum(), theta, (chunk, signal))
        return alone.sum(0).detach()

    with paths.quiet():
        if tried.works("vmap over samples", by_vmap, pulled):
            return replace(path, samples="vmap")
    return replace(path, samples="loop", notes=(*path.notes, *tried.notes))


class _Trials:
    """Attempts, and a note on each that failed."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.noise = 0.0

    def attempt(self, name: str, attempt: Callable[[], Tensor]) -> Tensor | None:
        try:
            return attempt()
        except Exception as error:  # anything a foreign module may raise means: this route is closed
            self.notes.append(f"{name} fails: {first_line(error)}")
            return None

    def works(self, name: str, attempt: Callable[[], Tensor], expected: Tensor | None) -> bool:
        found = self.attempt(name, attempt)
        if found is None:
            return False
        if expected is None:
            return bool(torch.isfinite(found).all())
        if paths.agree(found, expected, self.noise):
            return True
        off = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
        self.notes.append(f"{name} gives other numbers than the plain route (off by {off:.1e})")
        return False


class _LiveBytes(TorchDispatchMode):
    """Follows how many bytes the results of operations hold while a computation runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.live = 0
        self.trace: list[int] = []
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._held.setdefault(tensor.untyped_storage()._cdata, 0)  # was there before: not counted
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._held:
                self._held[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
        self.trace.append(self.live)
        return result

    def _freed(self, key: int) -> None:
        self.live -= self._held.pop(key, 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def bytes_by_sample(run: Callable[[int], object], few: int, many: int) -> int:
    """How many bytes a sample adds to what a computation holds when it holds most.

    Two runs of different size make the same operations; what grows between them grows with the samples, at whatever
    moment that is, also where the parameters' own share is larger by far.

    Args:
        run: computes over so many samples.
        few: samples of the first run.
        many: samples of the second; the same as `few` where there are no more, and all is then laid on the samples.
    """
    traces = []
    for number in (few, many):
        watch = _LiveBytes()
        with watch:
            run(number)
        traces.append(watch.trace)
    if many == few or len(traces[0]) != len(traces[1]):
        return max(traces[1], default=0) // many
    return max((large - small for small, large in zip(*traces, strict=True)), default=0) // (many - few)


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations_of(run: Callable[[], object]) -> frozenset[str]:
    """Names of the elementary operations of a computation."""
    recorder = _Names()
    with torch.no_grad(), recorder:
        run()
    return frozenset(recorder.names)
