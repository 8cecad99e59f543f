"""What a user would write in plain PyTorch: the loss of a module on data, and its derivatives one number at a time.

Nothing here is shared with the package. Values come from calling the module, first derivatives from ``backward``,
second ones from `torch.autograd.functional.hessian` or, where torch's own second derivative is missing or wrong, from
differences of gradients.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention without the fused kernels, whose second derivatives do not exist."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def in_dtype(tree: Any, dtype: torch.dtype) -> Any:
    """A copy with floating tensors in `dtype`."""
    return pytree.tree_map_only(
        Tensor, lambda t: t.detach().clone().to(dtype if t.is_floating_point() else t.dtype), tree
    )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a module that holds a tensor with a graph."""
    held = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    return copy.deepcopy(model, {id(v): v.detach().clone() for v in held})


class PlainRun:
    """A user's model, loss and data, differentiated by hand.

    Args:
        model: live module; a deep copy is worked on.
        loss: torch loss or callable.
        data: inputs.
        targets: targets; a key into the data; or None, for a loss of the batch.
        forward: ``forward(model, batch)``.
        names: the free parameters, in order; None for all that require a gradient.
        dtype: computed in.
        finish: applied to what the loss returns (for a loss per sample: its sum).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        data: Any,
        targets: Any = None,
        *,
        forward: Callable[[Any, Any], Any] | None = None,
        names: list[str] | None = None,
        dtype: torch.dtype = torch.float64,
        finish: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.model = copied(model).to(dtype).requires_grad_(True)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        self.loss = copy.deepcopy(loss).to(dtype) if isinstance(loss, nn.Module) else loss
        if isinstance(targets, str):
            data, targets = {k: v for k, v in data.items() if k != targets}, data[targets]
        self.data, self.targets = in_dtype(data, dtype), in_dtype(targets, dtype)
        self.forward, self.dtype, self.finish = forward, dtype, finish
        own = dict(self.model.named_parameters())
        self.names = names if names is not None else [n for n, p in model.named_parameters() if p.requires_grad]
        for name, parameter in own.items():
            parameter.requires_grad_(name in self.names)
        self.parameters = [own[name] for name in self.names]
        self.initial = torch.cat([p.detach().reshape(-1) for p in self.parameters])

    # -- values --------------------------------------------------------------------------------------------------------

    def _load(self, theta: Tensor) -> None:
        with torch.no_grad():
            start = 0
            for parameter in self.parameters:
                stop = start + parameter.numel()
                parameter.copy_(theta[start:stop].reshape(parameter.shape))
                start = stop
            assert start == len(theta)

    def _call(self, model: Callable[..., Any], batch: Any) -> Any:
        batch = pytree.tree_map_only(Tensor, torch.clone, batch)  # a model may write into what it is given
        if self.forward is not None:
            return self.forward(model, batch)
        if isinstance(batch, dict):
            return model(**batch)
        return model(*batch) if isinstance(batch, tuple | list) else model(batch)

    def _value_of(self, outputs: Any) -> Tensor:
        return self.finish(self.loss(outputs, self.data if self.targets is None else self.targets))

    def value(self, theta: Tensor) -> Tensor:
        """The loss as the user's code computes it: fused kernels and all."""
        self._load(theta)
        with torch.no_grad():
            return self._value_of(self._call(self.model, self.data))

    def outputs(self, theta: Tensor) -> Tensor:
        """``(N, C)``."""
        self._load(theta)
        with torch.no_grad():
            return _rows(self._call(self.model, self.data))

    # -- derivatives ---------------------------------------------------------------------------------------------------

    def gradient(self, theta: Tensor) -> Tensor:
        """By ``backward()``."""
        self._load(theta)
        self.model.zero_grad()
        with plain_attention():
            value = self._value_of(self._call(self.model, self.data))
            value.backward()
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([slope.reshape(-1) for slope in slopes]).clone()

    def _functional(self, theta: Tensor) -> Any:
        named, start = {}, 0
        for name, parameter in zip(self.names, self.parameters, strict=True):
            named[name] = theta[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()

        # a copy each time: functional_call leaves a module that occurs twice changed behind
        return self._call(_Wrapped(copied(self.model), named), self.data)

    def hessian(self, theta: Tensor) -> Tensor:
        """Second derivatives of torch where they are those of a symmetric matrix, else differences of gradients."""
        with plain_attention(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = torch.autograd.functional.hessian(lambda t: self._value_of(self._functional(t)), theta)
            except NotImplementedError:  # a kernel without a second derivative
                return self.hessian_by_differences(theta)
        if float((found - found.T).abs().max()) <= 1e-9 * float(found.abs().max()):
            return found
        return self.hessian_by_differences(theta)

    def hessian_by_differences(self, theta: Tensor, step: float = 2e-3) -> Tensor:
        """Central differences of gradients of sixth order: an error of some 1e-11 for a smooth function."""
        weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
        rows = []
        for unit in torch.eye(len(theta), dtype=theta.dtype):
            ends = [
                w * (self.gradient(theta + k * step * unit) - self.gradient(theta - k * step * unit))
                for k, w in weights.items()
            ]
            rows.append(torch.stack(ends).sum(0) / step)
        return torch.stack(rows)

    def jacobian(self, theta: Tensor) -> Tensor:
        """``(N * C, P)``, one row after another."""
        leaf = theta.clone().requires_grad_()
        with plain_attention():
            rows = _rows(self._functional(leaf)).reshape(-1)
            return torch.stack(
                [torch.autograd.grad(r, leaf, retain_graph=True, materialize_grads=True)[0] for r in rows]
            )

    def loss_curvature(self, theta: Tensor) -> Tensor:
        """Hessian of the loss in all outputs at once, ``(N * C, N * C)``, cross terms between samples included."""
        self._load(theta)
        with torch.no_grad():
            raw = self._call(self.model, self.data)
        leaves, spec = pytree.tree_flatten(raw)
        shapes = [leaf.shape for leaf in leaves]
        n = len(leaves[0])

        def of_outputs(flat: Tensor) -> Tensor:
            parts = flat.reshape(n, -1).split([leaf[0].numel() for leaf in leaves], dim=1)
            shaped = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
            return self._value_of(pytree.tree_unflatten(shaped, spec))

        return torch.autograd.functional.hessian(of_outputs, _rows(raw).reshape(-1))


class _Wrapped:
    """A module called with other parameters, for a user's ``forward(model, batch)`` that calls the model once."""

    def __init__(self, model: nn.Module, named: dict[str, Tensor]) -> None:
        self._model, self._named = model, named

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self._model, self._named, args, kwargs)


def _rows(outputs: Any) -> Tensor:
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in pytree.tree_leaves(outputs)], dim=1)
