"""Losses of outputs: objectives that see their data through one row of outputs per sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import (
    Cost,
    InvalidInputError,
    LinearOperator,
    NotApplicableError,
    current_limit,
    first_line,
    plan_passes,
    require_memory,
)
from thalweg.objectives import paths, samples
from thalweg.objectives.capabilities import Capability
from thalweg.objectives.objective import Objective
from thalweg.objectives.samples import chunk_length

__all__ = ["OutputObjective", "Piece"]

OutputFunction = Callable[[Tensor], Tensor]

AT_ONCE = 8
"""Samples in one pass where each needs passes back of its own: a larger graph would only make every pass dearer."""


class Piece(NamedTuple):
    """One pass: which parameter vectors, which chunk, and where its samples stand among all."""

    rows: slice
    chunk: Any
    samples: slice


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
        """Outputs of every sample.

        Raises:
            MemoryLimitError: if they would not fit.
        """
        return self._over_samples(theta, lambda outputs, _: outputs, self.n_outputs)

    def sample_values(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N"]:
        """Contribution of each sample; their sum is the value."""

        def contributions(outputs: Tensor, chunk: Any) -> Tensor:
            return paths.values(
                lambda row: samples.sample_losses(self.chunk_loss, row, chunk), outputs, self.path
            ).unsqueeze(-1)

        return self._over_samples(theta, contributions, 1).squeeze(-1)

    def losses_of(self, outputs: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
        """What each sample would contribute if the outputs were these; their sum is the value.

        Raises:
            InvalidInputError: for another shape.
        """
        if outputs.shape != (self.n_samples, self.n_outputs):
            raise InvalidInputError(
                f"outputs have shape {tuple(outputs.shape)}, expected ({self.n_samples}, {self.n_outputs})"
            )
        found, start = [], 0
        with torch.no_grad(), self.execution_context():
            for chunk in self.chunks(self._samples_at_once()):
                stop = start + chunk_length(chunk)
                found.append(samples.sample_losses(self.chunk_loss, outputs[start:stop].to(self.device), chunk))
                start = stop
        return torch.cat(found)

    def output_gradient(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N C"]:
        """Gradient of the value with respect to the outputs."""
        return self._over_samples(theta, self._slopes, self.n_outputs)

    def output_hessian(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch N C C"]:
        """Hessian of the value with respect to the outputs: one C x C block per sample, all others vanish.

        Raises:
            MemoryLimitError: if the blocks would not fit.
        """
        width = self.n_outputs
        flat = self._over_samples(theta, lambda outputs, chunk: self._blocks(outputs, chunk).flatten(2), width**2)
        return flat.reshape(*flat.shape[:-1], width, width)

    # -- Jacobians -----------------------------------------------------------------------------------------------------

    def jacobian(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch NC P"]:
        """Jacobian of all outputs, samples outer, outputs inner.

        Raises:
            MemoryLimitError: if it would not fit; `jacobian_operator` then serves.
        """
        rows, batch = self._rows(theta)
        n, width, size = self.n_samples, self.n_outputs, self.space.size
        require_memory(
            len(rows) * n * width * size * self._item_bytes,
            f"{len(rows)} dense Jacobian(s) of {n * width} x {size}",
            "Use jacobian_operator(theta), or a subset of the samples.",
        )
        result = rows.new_zeros(len(rows), n, width, size)
        for piece, jacobian, _ in self._jacobians(rows):
            result[piece.rows, piece.samples] = jacobian
        return result.reshape(*batch, n * width, size)

    def sample_gradients(
        self, theta: Float[Tensor, "*batch P"], indices: Tensor | Sequence[int] | None = None
    ) -> Float[Tensor, "*batch n P"]:
        """Gradient of each sample's contribution; over all samples their sum is the gradient.

        Args:
            theta: ``(*batch, P)``.
            indices: ``(n,)`` sample numbers, or a mask ``(N,)`` of booleans; None takes all N.

        Raises:
            InvalidInputError: for sample numbers outside 0..N-1.
            MemoryLimitError: if they would not fit.
        """
        rows, batch = self._rows(theta)
        size = self.space.size
        index = self._sample_numbers(indices)
        require_memory(
            len(rows) * len(index) * size * self._item_bytes,
            f"{len(index)} gradients of {size} coordinates for {len(rows)} parameter vector(s)",
            "Ask for fewer samples with indices=.",
        )
        per_sample = self.cost.bytes_per_sample + 4 * size * self._item_bytes
        passes = plan_passes(Cost(max(1, len(index)), per_sample, self.cost.bytes_fixed), max(1, len(rows)))
        result = rows.new_zeros(len(rows), len(index), size)
        with self.execution_context(), paths.quiet():
            for first in range(0, len(index), passes.samples):
                some = slice(first, first + passes.samples)
                find = partial(self._gradients_of, chunk=self._chunk_at(index[some]))
                for start in range(0, len(rows), passes.copies):
                    these = slice(start, start + passes.copies)
                    result[these, some] = self._by_row(find, rows[these])
        return result.reshape(*batch, len(index), size)

    def _gradients_of(self, row: Tensor, *, chunk: Any) -> Tensor:
        return samples.sample_gradients(self.chunk_value, row, chunk, by_vmap=self.path.samples == "vmap")

    def _by_row(self, find: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """``find`` at every row: all at once only where both rows and samples go by vmap."""
        if self.path.samples == "vmap":
            return paths.values(find, rows, self.path).detach()
        return torch.stack([find(row) for row in rows.unbind()]).detach()

    def jacobian_operator(self, theta: Float[Tensor, " P"]) -> LinearOperator:
        """The Jacobian at one parameter vector, known by its products and those of its transpose."""
        point = self._single(theta)
        at_once = self._samples_to_push()
        width, shape = self.n_outputs, (self.n_samples * self.n_outputs, self.space.size)

        def forward(columns: Tensor) -> Tensor:
            with self.execution_context():
                parts = [self._push(point, chunk, columns) for chunk in self.chunks(at_once)]
            return torch.cat(parts).detach()

        def backward(columns: Tensor) -> Tensor:
            result, start = columns.new_zeros(columns.shape[1], shape[1]), 0
            with self.execution_context():
                for chunk in self.chunks(at_once):
                    stop = start + chunk_length(chunk)
                    signals = columns[start * width : stop * width].T.reshape(columns.shape[1], -1, width)
                    result += samples.pull(self._outputs_of(chunk), point, signals)
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
        size = self.space.size
        self._require_matrices(2 * len(rows), f"{len(rows)} Gauss-Newton matrix(ces)", "gauss_newton_operator")
        total = rows.new_zeros(len(rows), size, size)
        for piece, jacobian, outputs in self._jacobians(rows):
            blocks = self._blocks(outputs, piece.chunk)
            weighted = torch.einsum("bncd,bndp->bncp", blocks, jacobian)
            total[piece.rows] += jacobian.flatten(1, 2).mT @ weighted.flatten(1, 2)
        for matrix in total.unbind():  # one by one: the sum of all with all transposes would be a third copy
            matrix.add_(matrix.mT.clone()).div_(2)
        return total.reshape(*batch, size, size)

    def gauss_newton_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """The Gauss-Newton matrix at one parameter vector, known by its products.

        Args:
            theta: ``(P,)``.
            keep: keep the graph of the outputs in memory; None keeps it where the predicted memory fits.

        Raises:
            MemoryLimitError: if ``keep=True`` does not fit.
            NotApplicableError: if ``keep=True`` does not work.
        """
        point = self._single(theta)
        needed = self.kept_bytes()
        if keep:
            if not self.path.keep:
                raise NotApplicableError(
                    f"the graph of the outputs cannot be kept here ({'; '.join(self.path.notes)}); use keep=False"
                )
            require_memory(needed, "a kept graph of the outputs", "Use keep=False: products by chunks, twice the time.")
        keep = self.path.keep and needed <= current_limit() if keep is None else keep
        at_once = self._samples_to_push()
        make = self._kept_gauss_newton if keep else self._fresh_gauss_newton
        kept = []
        if keep:
            with self.execution_context():
                kept = [make(point, chunk) for chunk in self.chunks(at_once)]

        def matmat(columns: Tensor) -> Tensor:
            total = torch.zeros_like(columns)
            with self.execution_context():
                products = kept if keep else (make(point, chunk) for chunk in self.chunks(at_once))
                for product in products:
                    total += product(columns)
            return total

        size = self.space.size
        return LinearOperator((size, size), matmat, symmetric=True, dtype=self.dtype, device=self.device)

    def _fresh_gauss_newton(self, point: Tensor, chunk: Any) -> OutputFunction:
        f = self._outputs_of(chunk)
        with torch.no_grad():
            outputs = f(point)
        curvature = self._curvature(outputs, chunk)

        def product(columns: Tensor) -> Tensor:
            pushed = self._push(point, chunk, columns)  # (n * C, k)
            signals = torch.stack([curvature(v.reshape(outputs.shape)) for v in pushed.T.unbind()])
            return samples.pull(f, point, signals).T

        return product

    def _kept_gauss_newton(self, point: Tensor, chunk: Any) -> OutputFunction:
        outputs, backward, forwards = samples.keep_outputs(self._outputs_of(chunk), point)
        curvature = self._curvature(outputs, chunk)
        return lambda columns: torch.stack([backward(curvature(forwards(v))) for v in columns.T.unbind()], dim=1)

    # -- how it is done ------------------------------------------------------------------------------------------------

    def _outputs_of(self, chunk: Any) -> OutputFunction:
        return lambda theta: self.chunk_outputs(theta, chunk)

    def _push(self, point: Tensor, chunk: Any, columns: Tensor) -> Tensor:
        """``J @ columns`` over a chunk; by the rows of J where neither forward mode nor a second pass back works."""
        if self.path.forward or self.path.second != "none":
            return samples.push(self._outputs_of(chunk), point, columns, forward=self.path.forward)
        return self._rows_of_jacobian(point, chunk).flatten(0, 1) @ columns

    def _samples_at_once(self) -> int:
        return plan_passes(self.cost, 1).samples

    def _samples_to_push(self) -> int:
        cost = self.cost
        by_rows = not self.path.forward and self.path.second == "none"
        extra = self._jacobian_bytes() if by_rows else 0
        # pushing forward and pulling back hold about two passes
        fit = plan_passes(Cost(self.n_samples, cost.bytes_per_sample + extra, cost.bytes_fixed), 2).samples
        return min(fit, AT_ONCE) if by_rows and self.path.samples == "loop" else fit

    def _jacobian_bytes(self) -> int:
        """What a sample's Jacobian takes besides one pass, while it is made and multiplied."""
        width, size = self.n_outputs, self.space.size
        return self.cost.bytes_per_sample * width + (5 * width * size + width**2) * self._item_bytes

    def _chunk_at(self, indices: Tensor) -> Any:
        """The chunk that holds these samples, in this order."""
        chunks = list(self.chunks(self.n_samples))
        return pytree.tree_map(
            lambda *leaves: (
                torch.cat([leaf.to(self.device) for leaf in leaves])[indices]
                if isinstance(leaves[0], Tensor)
                else leaves[0]
            ),
            *chunks,
        )

    def _some_samples(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Numbers of the samples of a subset, at least one."""
        index = self._sample_numbers(indices)
        if len(index) == 0:
            raise InvalidInputError("a subset needs at least one sample")
        return index

    def _sample_numbers(self, indices: Tensor | Sequence[int] | None) -> Tensor:
        """Sample numbers from a list or tensor of them, from a mask of all samples, or all of them for None."""
        if indices is None:
            return torch.arange(self.n_samples, device=self.device)
        try:
            index = torch.as_tensor(indices, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(f"indices must be a vector of sample numbers ({first_line(error)})") from None
        if index.dtype == torch.bool:
            if index.shape != (self.n_samples,):
                raise InvalidInputError(f"the mask has shape {tuple(index.shape)}, expected ({self.n_samples},)")
            return index.nonzero().squeeze(1)
        if index.numel() == 0:  # an empty list has no type of its own
            index = index.long()
        if index.dim() != 1 or index.is_floating_point() or index.is_complex():
            raise InvalidInputError(
                f"indices must be a vector of sample numbers, got {index.dtype} of shape {tuple(index.shape)}"
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.n_samples:
            raise InvalidInputError(f"indices must lie in 0..{self.n_samples - 1}")
        return index

    def _outputs_at(self, rows: Tensor, chunk: Any) -> Tensor:
        """``(b, n, C)``, without a graph."""
        with torch.no_grad():
            return paths.values(self._outputs_of(chunk), rows, self.path)

    def _slopes(self, outputs: Tensor, chunk: Any) -> Tensor:
        """``(b, n, C)``: gradients of the loss at outputs of that shape, all parameter vectors in one pass."""
        return paths.gradients(lambda row: self.chunk_loss(row, chunk), outputs, self.path)[1]

    def _blocks(self, outputs: Tensor, chunk: Any) -> Tensor:
        """``(b, n, C, C)``: Hessians of the loss at outputs ``(b, n, C)``."""
        return samples.loss_hessians(
            lambda all_rows: paths.values(lambda row: self.chunk_loss(row, chunk), all_rows, self.path).sum(), outputs
        )

    def _curvature(self, outputs: Tensor, chunk: Any) -> OutputFunction:
        return samples.loss_curvature(lambda row: self.chunk_loss(row, chunk), outputs)

    def _over_samples(self, theta: Tensor, function: Callable[[Tensor, Any], Tensor], width: int) -> Tensor:
        """Lay ``function(outputs (b, n, C), chunk)``, each ``(b, n, width)``, into ``(*batch, N, width)``."""
        rows, batch = self._rows(theta)
        require_memory(
            len(rows) * self.n_samples * width * self._item_bytes,
            f"{width} numbers for each of {self.n_samples} samples and {len(rows)} parameter vector(s)",
            "Use fewer parameter vectors at once, or a subset of the samples.",
        )
        result = rows.new_zeros(len(rows), self.n_samples, width)
        extra = 4 * (width + self.n_outputs) * self._item_bytes
        with self.execution_context():
            for piece in self._pieces(rows, extra):
                outputs = self._outputs_at(rows[piece.rows], piece.chunk)
                result[piece.rows, piece.samples] = function(outputs, piece.chunk).detach()
        return result.reshape(*batch, self.n_samples, width)

    def _pieces(self, rows: Tensor, extra: int, most: int | None = None) -> Iterator[Piece]:
        """Cut parameter vectors and samples so that a pass fits, with `extra` bytes a sample besides its own."""
        cost = self.cost
        passes = plan_passes(Cost(self.n_samples, cost.bytes_per_sample + extra, cost.bytes_fixed), max(1, len(rows)))
        for first in range(0, len(rows), passes.copies):
            start = 0
            for chunk in self.chunks(min(passes.samples, most or passes.samples)):
                stop = start + chunk_length(chunk)
                yield Piece(slice(first, first + passes.copies), chunk, slice(start, stop))
                start = stop

    def _jacobians(self, rows: Tensor) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Piece by piece the Jacobians ``(b, n, C, P)`` and outputs ``(b, n, C)``, so that no more is held at once."""
        size, width = self.space.size, self.n_outputs
        forward = self.path.samples == "loop" and self.path.forward and size <= 2 * AT_ONCE * width
        most = AT_ONCE if self.path.samples == "loop" and not forward else None
        with self.execution_context(), paths.quiet():
            for piece in self._pieces(rows, self._jacobian_bytes(), most):
                some = rows[piece.rows]
                outputs = self._outputs_at(some, piece.chunk)
                find = self._columns_of_jacobian if forward else self._rows_of_jacobian
                yield piece, self._by_row(partial(find, chunk=piece.chunk), some), outputs

    def _rows_of_jacobian(self, row: Tensor, chunk: Any) -> Tensor:
        """``(n, C, P)`` by passes back, for each sample by itself where vmap over samples works."""
        if self.path.samples == "vmap":
            return samples.sample_jacobians(self.chunk_outputs, row, chunk)
        n, width = chunk_length(chunk), self.n_outputs
        signals = torch.eye(n * width, dtype=self.dtype, device=self.device).reshape(n * width, n, width)
        return samples.pull(self._outputs_of(chunk), row, signals).reshape(n, width, -1)

    def _columns_of_jacobian(self, row: Tensor, chunk: Any) -> Tensor:
        """``(n, C, P)`` in forward mode, one coordinate after another."""
        units = torch.eye(self.space.size, dtype=self.dtype, device=self.device)
        pushed = samples.push(self._outputs_of(chunk), row, units, forward=True)
        return pushed.reshape(chunk_length(chunk), self.n_outputs, -1)
