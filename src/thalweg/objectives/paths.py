"""By which route a derivative is taken.

Not every network can be differentiated by every transform: recurrent layers have no batching rule, some kernels have no
forward mode, weight normalisation and in-place code stop one transform or another. An objective therefore carries a
`DerivativePath`, probed once when it is made, and everything below takes the route that path names. All functions
here act on ``f``, a pure scalar function of one flat vector ``(P,)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from thalweg.foundation import NotApplicableError

__all__ = [
    "DerivativePath",
    "gradients",
    "hessian_columns",
    "hessian_products",
    "kept_hessian_product",
    "quiet",
    "values",
]

ScalarFunction = Callable[[Tensor], Tensor]
RowFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DerivativePath:
    """The transforms that work for one objective.

    Attributes:
        batch: many parameter vectors at once by ``vmap``, or one after another.
        second: Hessian products by ``double-backward`` (the faster, wherever it works), by forward over reverse
            (``jvp``), or ``none`` where the function cannot be differentiated twice.
        forward: whether forward mode works; products with Jacobians and Taylor coefficients take it.
        columns: many Hessian columns at one point by ``vmap``, or one after another.
        samples: derivatives of each sample by itself by ``vmap`` over the samples, or one after another.
        keep: whether the graph of the gradient can be kept and differentiated again and again (`kept_hessian_product`).
        notes: why a faster route was not taken, one sentence each.
    """

    batch: Literal["vmap", "loop"] = "vmap"
    second: Literal["double-backward", "jvp", "none"] = "double-backward"
    forward: bool = True
    columns: Literal["vmap", "loop"] = "vmap"
    samples: Literal["vmap", "loop"] = "vmap"
    keep: bool = True
    notes: tuple[str, ...] = ()

    def why_not_twice(self) -> str:
        """Why there are no second derivatives, for refusals."""
        reasons = [note for note in self.notes if note.startswith(("double backward", "forward mode"))]
        return f"it cannot be differentiated twice ({'; '.join(reasons) or 'declared so'})"

    def describe(self) -> str:
        """One line for reports.

        >>> DerivativePath(batch="loop").describe()
        'batch: loop, second derivatives: double-backward, columns: vmap, samples: vmap'
        """
        return (
            f"batch: {self.batch}, second derivatives: {self.second}, columns: {self.columns}, samples: {self.samples}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings that torch's own transforms raise about themselves, and no others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*`?torch\.jit\.script`? is (deprecated|not supported).*")
        warnings.filterwarnings("ignore", message=r".*There is a performance drop because we have not yet implemented")
        warnings.filterwarnings("ignore", message=r".*nested tensors is in prototype stage")
        yield


def values(f: RowFunction, thetas: Float[Tensor, "b ..."], path: DerivativePath) -> Float[Tensor, "b ..."]:
    """``f`` at every row; it may return a tensor of any shape."""
    if len(thetas) == 1 or path.batch == "loop":
        return torch.stack([f(theta) for theta in thetas.unbind()])
    with quiet():
        result: Tensor = torch.func.vmap(f)(thetas)
    return result


def gradients(
    f: ScalarFunction, thetas: Float[Tensor, "b ..."], path: DerivativePath, *, differentiable: bool = False
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b ..."]]:
    """``f`` and its gradient at every row, in one pass forward and back.

    Rows do not interact, so the gradient of the sum of all values holds every row's own gradient; that needs no
    transform of the backward pass and works wherever the forward pass does.
    """
    with torch.enable_grad():
        leaf = thetas if differentiable else thetas.detach().requires_grad_()
        result = values(f, leaf, path)
        if not result.requires_grad:
            return result.detach(), torch.zeros_like(thetas)
        with quiet():
            (slope,) = torch.autograd.grad(result.sum(), leaf, create_graph=differentiable, materialize_grads=True)
    return (result, slope) if differentiable else (result.detach(), slope)


def hessian_products(
    f: ScalarFunction, thetas: Float[Tensor, "b P"], vectors: Float[Tensor, "b P"], path: DerivativePath
) -> Float[Tensor, "b P"]:
    """Hessian at each row times the vector of that row."""
    if path.second == "double-backward":
        with torch.enable_grad():
            leaf = thetas.detach().requires_grad_()
            _, slope = gradients(f, leaf, path, differentiable=True)
            return _backward_again(slope, leaf, vectors)
    product = _forward_over_reverse(f, path)
    if len(thetas) == 1 or path.batch == "loop":
        return torch.stack([product(t, v) for t, v in zip(thetas.unbind(), vectors.unbind(), strict=True)])
    with quiet():
        result: Tensor = torch.func.vmap(product)(thetas, vectors)
    return result.detach()


def hessian_columns(
    f: ScalarFunction, thetas: Float[Tensor, "b P"], vectors: Float[Tensor, "k P"], path: DerivativePath
) -> Float[Tensor, "b k P"]:
    """Hessian at each row times every one of the same vectors."""
    if path.second == "double-backward":
        return _double_backward_columns(f, thetas, vectors, path)
    product = _forward_over_reverse(f, path)
    at_one_point: Callable[[Tensor], Tensor]
    if path.columns == "vmap" and len(vectors) > 1:

        def at_one_point(theta: Tensor) -> Tensor:
            columns: Tensor = torch.func.vmap(lambda v: product(theta, v))(vectors)
            return columns
    else:

        def at_one_point(theta: Tensor) -> Tensor:
            return torch.stack([product(theta, v) for v in vectors.unbind()])

    with quiet():
        if len(thetas) == 1 or path.batch == "loop":
            return torch.stack([at_one_point(theta) for theta in thetas.unbind()]).detach()
        result: Tensor = torch.func.vmap(at_one_point)(thetas)
    return result.detach()


def kept_hessian_product(
    f: ScalarFunction, theta: Float[Tensor, " P"], path: DerivativePath
) -> Callable[[Float[Tensor, " P"]], Float[Tensor, " P"]]:
    """Linearise the gradient of ``f`` once and return the map from v to H v.

    The graph of the gradient stays in memory as long as the returned function lives; each product then costs about one
    and a half gradients instead of three. (`torch.func.linearize` would do the same work, but in torch 2.13 it returns
    wrong numbers for recurrent layers and crashes the process on ``mse_loss``.)
    """
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        _, slopes = gradients(f, leaf.unsqueeze(0), path, differentiable=True)
        slope = slopes[0]
    if not slope.requires_grad:
        return torch.zeros_like
    edge = get_gradient_edge(slope)  # the numbers of the gradient themselves need not be held, once for each chunk

    def product(vector: Tensor) -> Tensor:
        with quiet():
            return torch.autograd.grad(edge, leaf, vector, retain_graph=True, materialize_grads=True)[0]

    return product


AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Relative agreement asked between two routes to the same derivative; a wrong rule misses it by orders of magnitude."""


def agree(found: Tensor, expected: Tensor, noise: float = 0.0) -> bool:
    """Whether two routes gave the same numbers, up to rounding.

    Args:
        found: by one route.
        expected: by the other.
        noise: differences below this are rounding whatever the numbers compared, which may vanish exactly.
    """
    if found.shape != expected.shape:
        return False
    scale = max(AGREEMENT[expected.dtype] * float(expected.abs().max()), noise, torch.finfo(expected.dtype).tiny)
    return bool((found - expected).abs().max() <= scale)


def _forward_over_reverse(f: ScalarFunction, path: DerivativePath) -> Callable[[Tensor, Tensor], Tensor]:
    if path.second == "none":
        raise NotApplicableError(f"this objective has no Hessian: {path.why_not_twice()}")
    slope = torch.func.grad(f)

    def product(theta: Tensor, vector: Tensor) -> Tensor:
        with quiet():
            result: Tensor = torch.func.jvp(slope, (theta,), (vector,))[1]
        return result

    return product


def _backward_again(slope: Tensor, leaf: Tensor, vectors: Tensor) -> Tensor:
    if not slope.requires_grad:  # a gradient without dependence on theta: a linear function
        return torch.zeros_like(vectors)
    with quiet():
        (result,) = torch.autograd.grad(slope, leaf, vectors, retain_graph=True, materialize_grads=True)
    return result


def _double_backward_columns(f: ScalarFunction, thetas: Tensor, vectors: Tensor, path: DerivativePath) -> Tensor:
    """One graph for all rows; a column of every row's Hessian per pass back."""
    with torch.enable_grad():
        leaf = thetas.detach().requires_grad_()
        _, slope = gradients(f, leaf, path, differentiable=True)
    signals = vectors.unsqueeze(1).expand(-1, len(thetas), -1)
    if not slope.requires_grad:
        return torch.zeros_like(signals).transpose(0, 1)
    if path.columns == "vmap" and len(vectors) > 1:
        with quiet():
            (columns,) = torch.autograd.grad(
                slope, leaf, signals, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )
    else:
        columns = torch.stack([_backward_again(slope, leaf, signal) for signal in signals.unbind()])
    return columns.transpose(0, 1)
