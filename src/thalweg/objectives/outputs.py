"""Losses of outputs: objectives that see their data through one row of outputs per sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import LinearOperator, current_limit, plan_passes, require_memory
from thalweg.objectives.capabilities import Capability
from thalweg.objectives.objective import Objective
from thalweg.objectives.paths import quiet

__all__ = ["OutputObjective"]

OutputFunction = Callable[[Tensor], Tensor]


class OutputObjective(Objective):
    """A sum over N samples of a loss of C outputs each.

    A subclass writes `chunk_outputs` and `chunk_loss`. Its chunks are trees of tensors whose leading dimension counts
    the samples, so that one sample can be cut out of a chunk; the loss must be a sum over samples.
    """

    capabilities = frozenset({Capability.OUTPUTS, Capability.GAUSS_NEWTON, Capability.DATA})
    n_samples: int
    n_outputs: int

    @abstractmethod
    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """Outputs of the samples of a chunk, all dimensions after the first laid into one."""

    @abstractmethod
    def chunk_loss(self, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, ""]:
        """What the samples of a chunk contribute to the value, given their outputs."""

    @abstractmethod
    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """The same loss over some of the samples, normalised anew."""

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """Loss of outputs."""
        return self.chunk_loss(self.chunk_outputs(theta, chunk), chunk)

    # -- outputs and what the loss makes of them -----------------------------------------------------------------------

    def outputs(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N C"]:
        """Outputs of every sample."""
        return self._over_samples(theta, self.chunk_outputs, self.n_outputs)

    def sample_values(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N"]:
        """Contribution of each sample; their sum is the value."""

        def contributions(row: Tensor, chunk: Any) -> Tensor:
            outputs = self.chunk_outputs(row, chunk)
            return _per_sample(lambda o, c: self.chunk_loss(o, c), outputs, chunk).unsqueeze(1)

        return self._over_samples(theta, contributions, 1).squeeze(-1)

    def output_gradient(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N C"]:
        """Gradient of the value with respect to the outputs."""

        def slope(row: Tensor, chunk: Any) -> Tensor:
            return self._loss_gradient(self.chunk_outputs(row, chunk).detach(), chunk)

        return self._over_samples(theta, slope, self.n_outputs)

    def output_hessian(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N C C"]:
        """Hessian of the value with respect to the outputs: one C x C block per sample, all others vanish."""
        width = self.n_outputs

        def blocks(row: Tensor, chunk: Any) -> Tensor:
            return self._loss_hessian(self.chunk_outputs(row, chunk).detach(), chunk).flatten(1)

        flat = self._over_samples(theta, blocks, width**2)
        return flat.reshape(*flat.shape[:-1], width, width)

    # -- Jacobians -----------------------------------------------------------------------------------------------------

    def jacobian(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N*C P"]:
        """Jacobian of all outputs, samples outer, outputs inner.

        Raises:
            MemoryLimitError: if it would not fit; `jacobian_operator` then serves.
        """
        rows, batch = self._rows(theta)
        n, width, size = self.n_samples, self.n_outputs, self.space.size
        require_memory(
            2 * len(rows) * n * width * size * self._item_bytes,
            f"{len(rows)} dense Jacobian(s) of {n * width} x {size}",
            "Use jacobian_operator(theta), or a subset of the samples.",
        )
        pieces = [piece for _, piece, _ in self._jacobian_pieces(rows)]
        return torch.cat(pieces, dim=1).reshape(*batch, n * width, size)

    def sample_gradients(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N P"]:
        """Gradient of each sample's contribution; their sum is the gradient.

        Raises:
            MemoryLimitError: if they would not fit.
        """
        rows, batch = self._rows(theta)
        n, width, size = self.n_samples, self.n_outputs, self.space.size
        require_memory(
            2 * len(rows) * n * size * self._item_bytes,
            f"{n} gradients of {size} coordinates for {len(rows)} parameter vector(s)",
            "Use a subset of the samples.",
        )
        pieces = []
        for chunk, jacobian, outputs in self._jacobian_pieces(rows):
            slopes = torch.stack([self._loss_gradient(o, chunk) for o in outputs.unbind()])
            by_sample = jacobian.reshape(len(rows), -1, width, size)
            pieces.append(torch.einsum("bnc,bncp->bnp", slopes, by_sample))
        return torch.cat(pieces, dim=1).reshape(*batch, n, size)

    def jacobian_operator(self, theta: Float[Tensor, " P"]) -> LinearOperator:
        """The Jacobian at one parameter vector, known by its products and those of its transpose."""
        point = self._single(theta)
        samples = plan_passes(self.cost, 1).samples
        width, shape = self.n_outputs, (self.n_samples * self.n_outputs, self.space.size)

        def forward(columns: Tensor) -> Tensor:
            with self.execution_context():
                parts = [_push(self._outputs_of(c), point, columns, self.path.forward) for c in self.chunks(samples)]
            return torch.cat(parts).reshape(shape[0], -1)

        def backward(columns: Tensor) -> Tensor:
            result, start = torch.zeros(columns.shape[1], shape[1], dtype=self.dtype, device=self.device), 0
            with self.execution_context():
                for chunk in self.chunks(samples):
                    stop = start + _length(chunk)
                    signals = columns[start * width : stop * width].T.reshape(columns.shape[1], -1, width)
                    result += _pull(self._outputs_of(chunk), point, signals)
                    start = stop
            return result.T

        return LinearOperator(shape, forward, backward, dtype=self.dtype, device=self.device)

    # -- Gauss-Newton --------------------------------------------------------------------------------------------------

    def gauss_newton(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """``J^T B J`` with B the Hessian of the loss in the outputs.

        Raises:
            MemoryLimitError: if the matrices would not fit.
        """
        rows, batch = self._rows(theta)
        width, size = self.n_outputs, self.space.size
        require_memory(
            2 * len(rows) * size**2 * self._item_bytes,
            f"{len(rows)} Gauss-Newton matrix(ces) of {size} x {size}",
            "Use gauss_newton_operator(theta).",
        )
        total = torch.zeros(len(rows), size, size, dtype=self.dtype, device=self.device)
        for chunk, jacobian, outputs in self._jacobian_pieces(rows):
            blocks = torch.stack([self._loss_hessian(o, chunk) for o in outputs.unbind()])
            by_sample = jacobian.reshape(len(rows), -1, width, size)
            weighted = torch.einsum("bncd,bndp->bncp", blocks, by_sample).reshape(jacobian.shape)
            total += jacobian.mT @ weighted
        return ((total + total.mT) / 2).reshape(*batch, size, size)

    def gauss_newton_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """The Gauss-Newton matrix at one parameter vector, known by its products.

        Args:
            theta: ``(P,)``.
            keep: keep the graph of the outputs in memory; None keeps them where the predicted memory fits.
        """
        point = self._single(theta)
        keep = self.path.keep and self.kept_bytes() <= current_limit() if keep is None else keep
        samples = plan_passes(self.cost, 1).samples
        make = self._kept_gauss_newton if keep else self._fresh_gauss_newton
        kept = []
        if keep:
            with self.execution_context():
                kept = [make(point, chunk) for chunk in self.chunks(samples)]

        def matmat(columns: Tensor) -> Tensor:
            total = torch.zeros_like(columns)
            with self.execution_context():
                products = kept if keep else (make(point, chunk) for chunk in self.chunks(samples))
                for product in products:
                    total += product(columns)
            return total

        size = self.space.size
        return LinearOperator((size, size), matmat, symmetric=True, dtype=self.dtype, device=self.device)

    def _fresh_gauss_newton(self, point: Tensor, chunk: Any) -> Callable[[Tensor], Tensor]:
        f = self._outputs_of(chunk)
        with torch.no_grad():
            blocks = self._loss_hessian(f(point), chunk)

        def product(columns: Tensor) -> Tensor:
            pushed = _push(f, point, columns, self.path.forward)  # (n * C, k)
            signals = torch.einsum("ncd,ndk->knc", blocks, pushed.reshape(*blocks.shape[:2], -1))
            return _pull(f, point, signals).T

        return product

    def _kept_gauss_newton(self, point: Tensor, chunk: Any) -> Callable[[Tensor], Tensor]:
        """One forward pass whose graph is retained; pushing forward is the transpose of pulling back."""
        f = self._outputs_of(chunk)
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            outputs = f(leaf)
            signal = torch.zeros_like(outputs, requires_grad=True)
            (pulled,) = torch.autograd.grad(outputs, leaf, signal, create_graph=True)
        blocks = self._loss_hessian(outputs.detach(), chunk)

        def product(columns: Tensor) -> Tensor:
            parts = []
            for v in columns.T.unbind():
                (pushed,) = torch.autograd.grad(pulled, signal, v, retain_graph=True, materialize_grads=True)
                weighted = torch.einsum("ncd,nd->nc", blocks, pushed)
                parts.append(torch.autograd.grad(outputs, leaf, weighted, retain_graph=True, materialize_grads=True)[0])
            return torch.stack(parts, dim=1)

        return product

    # -- how it is done ------------------------------------------------------------------------------------------------

    def _outputs_of(self, chunk: Any) -> OutputFunction:
        return lambda theta: self.chunk_outputs(theta, chunk)

    def _loss_gradient(self, outputs: Tensor, chunk: Any) -> Tensor:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.chunk_loss(leaf, chunk), leaf, materialize_grads=True)
        return slope

    def _loss_hessian(self, outputs: Tensor, chunk: Any) -> Tensor:
        """``(n, C, C)``: samples do not interact, so one product per output index serves all samples at once."""
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(
                self.chunk_loss(leaf, chunk), leaf, create_graph=True, materialize_grads=True
            )
            if not slope.requires_grad:
                return outputs.new_zeros(*outputs.shape, outputs.shape[1])
            rows = [
                torch.autograd.grad(slope[:, c].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
                for c in range(outputs.shape[1])
            ]
        return torch.stack(rows, dim=1)

    def _over_samples(self, theta: Tensor, function: Callable[[Tensor, Any], Tensor], width: int) -> Tensor:
        """Lay ``function(row, chunk)``, each ``(n, width)``, into ``(*batch, N, width)``."""
        rows, batch = self._rows(theta)
        require_memory(
            len(rows) * self.n_samples * width * self._item_bytes,
            f"{width} numbers for each of {self.n_samples} samples and {len(rows)} parameter vector(s)",
            "Use fewer parameter vectors at once, or a subset of the samples.",
        )
        samples = plan_passes(self.cost, 1).samples
        with self.execution_context(), torch.no_grad():
            parts = (
                [torch.stack([function(row, chunk) for row in rows.unbind()]) for chunk in self.chunks(samples)]
                if len(rows)
                else [torch.zeros(0, self.n_samples, width, dtype=self.dtype)]
            )
        return torch.cat(parts, dim=1).reshape(*batch, self.n_samples, width).detach()

    def _jacobian_pieces(self, rows: Tensor) -> list[tuple[Any, Tensor, Tensor]]:
        """Chunk, its Jacobians ``(b, n * C, P)`` and outputs ``(b, n, C)``, chunk by chunk."""
        return list(self._iterate_jacobian(rows))

    def _iterate_jacobian(self, rows: Tensor) -> Any:
        size, width = self.space.size, self.n_outputs
        cost = self.cost
        per_sample = len(rows) * (cost.bytes_per_sample * width + 3 * width * size * self._item_bytes)
        samples = max(1, min(self.n_samples, (384 * 2**20) // max(1, per_sample)))
        with self.execution_context():
            for chunk in self.chunks(samples):
                outputs = torch.stack([self.chunk_outputs(row, chunk).detach() for row in rows.unbind()])
                jacobian = (
                    torch.stack([self._jacobian_of(row, chunk) for row in rows.unbind()])
                    if (self.path.batch == "loop" or len(rows) == 1)
                    else torch.func.vmap(lambda row, c=chunk: _sample_jacobians(self.chunk_outputs, row, c))(rows)
                )
                yield chunk, jacobian.detach().reshape(len(rows), -1, size), outputs

    def _jacobian_of(self, row: Tensor, chunk: Any) -> Tensor:
        """``(n, C, P)`` by the route that works for this objective."""
        if self.path.batch == "vmap":
            return _sample_jacobians(self.chunk_outputs, row, chunk)
        f, n, width = self._outputs_of(chunk), _length(chunk), self.n_outputs
        if self.space.size <= n * width and self.path.forward:
            identity = torch.eye(self.space.size, dtype=self.dtype, device=self.device)
            return _push(f, row, identity, True).reshape(n, width, -1)
        identity = torch.eye(n * width, dtype=self.dtype, device=self.device).reshape(n * width, n, width)
        return _pull(f, row, identity).reshape(n, width, -1)


def _length(chunk: Any) -> int:
    return len(pytree.tree_leaves(chunk)[0])


def _sample_jacobians(outputs: Callable[[Tensor, Any], Tensor], theta: Tensor, chunk: Any) -> Tensor:
    """Jacobian of each sample by itself: C backward passes for the whole chunk instead of n * C."""

    def of_one(sample: Any) -> Tensor:
        alone = pytree.tree_map(lambda leaf: leaf.unsqueeze(0), sample)
        result: Tensor = torch.func.jacrev(lambda t: outputs(t, alone).squeeze(0))(theta)
        return result

    result: Tensor = torch.func.vmap(of_one)(chunk)
    return result


def _per_sample(loss: Callable[[Tensor, Any], Tensor], outputs: Tensor, chunk: Any) -> Tensor:
    """The loss of each sample as a batch of one."""

    def of_one(row: Tensor, sample: Any) -> Tensor:
        return loss(row.unsqueeze(0), pytree.tree_map(lambda leaf: leaf.unsqueeze(0), sample))

    try:
        result: Tensor = torch.func.vmap(of_one)(outputs, chunk)
    except RuntimeError:  # a loss that vmap cannot batch (a data-dependent branch): one by one
        samples = [pytree.tree_map(lambda leaf, i=i: leaf[i], chunk) for i in range(len(outputs))]
        return torch.stack([of_one(row, s) for row, s in zip(outputs.unbind(), samples, strict=True)])
    return result


def _push(f: OutputFunction, point: Tensor, columns: Tensor, forward: bool) -> Tensor:
    """``J @ columns`` as ``(n * C, k)``: forward mode where there is one, else the transpose of the transpose."""
    if forward:
        with quiet(), torch.no_grad():
            parts = [torch.func.jvp(f, (point,), (v,))[1].reshape(-1) for v in columns.T.unbind()]
        return torch.stack(parts, dim=1)
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        outputs = f(leaf)
        signal = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, leaf, signal, create_graph=True)
        parts = [
            torch.autograd.grad(pulled, signal, v, retain_graph=True, materialize_grads=True)[0].reshape(-1)
            for v in columns.T.unbind()
        ]
    return torch.stack(parts, dim=1).detach()


def _pull(f: OutputFunction, point: Tensor, signals: Tensor) -> Tensor:
    """``J^T`` times each of ``(k, n, C)``, as ``(k, P)``."""
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        outputs = f(leaf)
        parts = [
            torch.autograd.grad(outputs, leaf, signal, retain_graph=True, materialize_grads=True)[0]
            for signal in signals.unbind()
        ]
    return torch.stack(parts)
