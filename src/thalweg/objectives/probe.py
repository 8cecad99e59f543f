"""Finding out, once and by trying, which derivative paths a forward pass supports and what it costs in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.objectives import paths
from thalweg.objectives.paths import DerivativePath

__all__ = ["bytes_saved", "operations_of", "probe_path", "uses_attention"]


def probe_path(f: Callable[[Tensor], Tensor], theta: Tensor) -> DerivativePath:
    """Try the transforms from the fastest to the plainest on ``f`` near `theta`, each against a plainer one.

    Args:
        f: the pure value of a small chunk.
        theta: ``(P,)``.
    """
    generator = torch.Generator().manual_seed(0)
    scale = 1e-3 * float(theta.abs().max().clamp_min(1e-3))
    noise = torch.randn(2, len(theta), generator=generator, dtype=torch.float64).to(theta)
    thetas, vectors = theta + scale * noise, noise.flip(0)
    notes: list[str] = []
    plain = DerivativePath(batch="loop", columns="loop")

    path = plain
    _, slope = paths.gradients(f, thetas, plain)
    batched = replace(plain, batch="vmap")
    if _works(notes, "vmap over parameters", lambda: paths.gradients(f, thetas, batched)[1], slope):
        path = batched
    product = _attempt(notes, "double backward", lambda: paths.hessian_products(f, thetas, vectors, plain))
    forward = replace(plain, second="jvp")
    forward_works = _works(notes, "forward mode", lambda: paths.hessian_products(f, thetas, vectors, forward), product)
    path = replace(path, forward=forward_works)
    if product is None:
        if not forward_works:
            return replace(path, second="none", columns="loop", keep=False, notes=tuple(notes))
        product = paths.hessian_products(f, thetas, vectors, forward)
        path = replace(path, second="jvp")
    return _probe_second(f, thetas, vectors, product, path, notes)


def _probe_second(
    f: Callable[[Tensor], Tensor],
    thetas: Tensor,
    vectors: Tensor,
    product: Tensor,
    path: DerivativePath,
    notes: list[str],
) -> DerivativePath:
    """Settle how Hessian products are batched and whether the graph can be kept."""
    if path.batch == "vmap" and not _works(
        notes, "vmap of Hessian products", lambda: paths.hessian_products(f, thetas, vectors, path), product
    ):
        path = replace(path, batch="loop")
    columns = replace(path, columns="vmap")

    def diagonal() -> Tensor:
        return paths.hessian_columns(f, thetas, vectors, columns).diagonal(dim1=0, dim2=1).T

    path = columns if _works(notes, "vmap over columns", diagonal, product) else replace(path, columns="loop")

    def kept() -> Tensor:
        return paths.kept_hessian_product(f, thetas[0], path)(vectors[0])

    keep = path.second == "double-backward" and _works(notes, "kept graph", kept, product[0])
    return replace(path, keep=keep, notes=tuple(notes))


def _attempt(notes: list[str], name: str, attempt: Callable[[], Tensor]) -> Tensor | None:
    try:
        return attempt()
    except Exception as error:  # anything a foreign module may raise means: this route is closed
        notes.append(f"{name} fails: {_first_line(error)}")
        return None


def _works(notes: list[str], name: str, attempt: Callable[[], Tensor], expected: Tensor | None) -> bool:
    found = _attempt(notes, name, attempt)
    if found is None:
        return False
    if expected is None:
        return bool(torch.isfinite(found).all())
    if paths.agree(found, expected):
        return True
    notes.append(
        f"{name} gives other numbers than the plain route (off by {float((found - expected).abs().max()):.1e})"
    )
    return False


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line if len(line) <= 140 else line[:137] + "..."


def bytes_saved(f: Callable[[Tensor], Tensor], theta: Tensor) -> int:
    """Bytes that a pass forward keeps for the pass back, each storage once, theta left out."""
    seen: dict[int, int] = {}
    leaf = theta.detach().requires_grad_()
    own = leaf.untyped_storage().data_ptr()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = f(leaf)
        if result.requires_grad:
            torch.autograd.grad(result, leaf, allow_unused=True)
    return sum(seen.values())


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


def uses_attention(operations: frozenset[str]) -> bool:
    """Whether a fused attention kernel is among them, which has no forward mode and no second derivative on a CPU."""
    fused = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")
    return any(part in name for name in operations for part in fused)
