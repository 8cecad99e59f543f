"""The one idea: a loss as a function of one flat parameter vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import (
    Cost,
    InvalidInputError,
    LinearOperator,
    NotApplicableError,
    ParameterSpace,
    current_limit,
    plan_passes,
    require_memory,
)
from thalweg.objectives import paths
from thalweg.objectives.capabilities import Capability, require
from thalweg.objectives.contents import digest_of
from thalweg.objectives.kinks import KinkReport, record_kinks
from thalweg.objectives.paths import DerivativePath

__all__ = ["Evaluation", "Objective"]

SHARES = 4
"""A graph that is kept is cut into passes that each take a fourth of the working set: products are up to a third
cheaper so, and holes of freed results are small."""


class Evaluation(NamedTuple):
    """What `Objective.evaluate` found; orders that were not asked for are None.

    Attributes:
        value: ``(*batch)``.
        gradient: ``(*batch, P)``.
        hessian: ``(*batch, P, P)``, symmetric.
    """

    value: Tensor
    gradient: Tensor | None = None
    hessian: Tensor | None = None


class Objective(ABC):
    """A loss as a function of one flat parameter vector of P coordinates.

    Every public method takes ``theta`` of shape ``(*batch, P)`` and broadcasts over ``*batch``. A subclass writes
    `chunk_value`, the pure value of one chunk of its data at one parameter vector; batching, chunking, derivatives and
    the planning of memory are done here. A subclass overrides `evaluate` or an operator only where a closed form is
    measurably faster, and a test holds the two against each other.

    A subclass sets `space`, and `dtype`, `device`, `path`, `cost` and `capabilities` where they differ from the
    defaults.

    >>> class Bowl(Objective):
    ...     space = ParameterSpace({"x": (2,)})
    ...     def chunk_value(self, theta, chunk):
    ...         return (theta**2).sum() / 2
    ...     def content(self):
    ...         return ["bowl"]
    >>> Bowl().evaluate(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), order=1).gradient
    tensor([[3., 4.],
            [0., 1.]], dtype=torch.float64)
    """

    space: ParameterSpace
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    path: DerivativePath = DerivativePath()
    capabilities: frozenset[Capability] = frozenset()

    # -- what a subclass writes ----------------------------------------------------------------------------------------

    @abstractmethod
    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The part of the value that one chunk contributes, at one parameter vector; pure, differentiable.

        The value is the sum over all chunks, so every normalisation belongs in here.
        """

    @abstractmethod
    def content(self) -> Iterable[object]:
        """Everything that defines this function (tensors, numbers, texts), for `fingerprint`."""

    def chunks(self, samples: int) -> Iterator[Any]:
        """Yield the data cut into pieces of at most `samples`; an objective without data has the one piece None."""
        yield None

    @property
    def cost(self) -> Cost:
        """What one evaluation holds in memory, for the planner."""
        return Cost(bytes_fixed=8 * self.space.size * self._item_bytes)

    def execution_context(self) -> AbstractContextManager[None]:
        """Entered around every evaluation."""
        return nullcontext()

    def higher_order_context(self) -> AbstractContextManager[None]:
        """Entered in its place where derivatives beyond the second are taken."""
        return self.execution_context()

    # -- what everyone uses --------------------------------------------------------------------------------------------

    def evaluate(self, theta: Float[Tensor, "*batch P"], order: int = 0) -> Evaluation:
        """Value, and gradient (order >= 1), and Hessian (order 2).

        Args:
            theta: ``(*batch, P)``.
            order: 0, 1 or 2.

        Raises:
            InvalidInputError: for a wrong shape, type or order.
            MemoryLimitError: if the Hessians would not fit; `hessian_operator` then serves.
        """
        if order not in (0, 1, 2):
            raise InvalidInputError(
                f"order must be 0, 1 or 2, got {order!r}; `taylor` gives higher directional derivatives"
            )
        rows, batch = self._rows(theta)
        if order == 2:  # before anything is computed
            self._require_matrices(len(rows) + 1, f"{len(rows)} dense Hessian(s)", "hessian_operator")
        value, gradient, hessian = self._derivatives(rows, order)
        size = self.space.size
        return Evaluation(
            value.reshape(batch),
            gradient.reshape(*batch, size) if gradient is not None else None,
            hessian.reshape(*batch, size, size) if hessian is not None else None,
        )

    def add_to(self, total: Evaluation, theta: Float[Tensor, "b P"], order: int) -> None:
        """Add what `evaluate` gives to another evaluation at the same points, in place.

        Args:
            total: with value ``(b,)``, gradient ``(b, P)`` and Hessian ``(b, P, P)`` as far as the order asks for them.
            theta: ``(b, P)``.
            order: 0, 1 or 2.
        """
        for whole, part in zip(total, self.evaluate(theta, order), strict=True):
            if whole is not None and part is not None:
                whole += part

    def value(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
        """The loss, ``(*batch)``."""
        return self.evaluate(theta, 0).value

    def gradient(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P"]:
        """The gradient, ``(*batch, P)``."""
        gradient = self.evaluate(theta, 1).gradient
        assert gradient is not None
        return gradient

    def hessian(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """The Hessian, ``(*batch, P, P)``.

        Raises:
            MemoryLimitError: if it would not fit.
        """
        hessian = self.evaluate(theta, 2).hessian
        assert hessian is not None
        return hessian

    def hessian_product(
        self, theta: Float[Tensor, "*batch P"], vector: Float[Tensor, "*#batch P"]
    ) -> Float[Tensor, "*batch P"]:
        """Hessian times vector, for each parameter vector its own, ``(*batch, P)``; nothing of size P x P is formed.

        Args:
            theta: ``(*batch, P)``.
            vector: of the same shape; or with fewer or single batch dimensions, which are then repeated.

        Raises:
            InvalidInputError: for shapes that do not fit.
            NotApplicableError: where the objective cannot be differentiated twice.
        """
        rows, batch = self._rows(theta)
        vectors = self._vectors(vector, batch).reshape(rows.shape)
        passes = plan_passes(self.cost, 2 * len(rows))
        result = torch.zeros_like(rows)
        step = max(1, passes.copies // 2)  # a product holds about twice what a gradient holds
        with self.execution_context():
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                for chunk in self.chunks(passes.samples):
                    result[part] += paths.hessian_products(self._bound(chunk), rows[part], vectors[part], self.path)
        return result.reshape(*batch, self.space.size)

    def hessian_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """The Hessian at one parameter vector, known by its products.

        Args:
            theta: ``(P,)``.
            keep: keep the graph of the gradient in memory, which makes a product about half as dear; None keeps it
                where that works and the predicted memory fits.

        Raises:
            MemoryLimitError: if ``keep=True`` does not fit.
            NotApplicableError: if ``keep=True`` does not work, or there are no second derivatives.
        """
        point = self._single(theta)
        needed = self.kept_bytes()
        if keep:
            if not self.path.keep:
                raise NotApplicableError(
                    f"the graph of the gradient cannot be kept here ({'; '.join(self.path.notes)}); use keep=False"
                )
            require_memory(
                needed, "a kept graph of the gradient", "Use keep=False: products by chunks, twice the time."
            )
        if keep is None:
            keep = self.path.keep and needed <= current_limit()
        if keep:
            return self._kept_operator(point)

        def matmat(columns: Tensor) -> Tensor:
            result = torch.zeros(columns.shape[1], self.space.size, dtype=self.dtype, device=self.device)
            self._add_columns(point.unsqueeze(0), columns.T, result.unsqueeze(0))
            return result.T

        return self._operator(matmat)

    def kept_bytes(self) -> int:
        """Predicted memory of the kept graph of the gradient over all data, what the allocator holds back included.

        That is two passes; between 1.0 and 1.7 were measured, over kinds and sizes of network.
        """
        cost = self.cost
        return cost.bytes_fixed + 2 * cost.samples * cost.bytes_per_sample

    def gauss_newton(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """The Gauss-Newton matrix, ``(*batch, P, P)``, positive semidefinite for a loss convex in the outputs.

        Raises:
            MemoryLimitError: if the matrices would not fit.
            NotApplicableError: where the objective has none (capability GAUSS_NEWTON).
        """
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        rows, batch = self._rows(theta)
        size = self.space.size
        self._require_matrices(len(rows) + 2, f"{len(rows)} Gauss-Newton matrix(ces)", "gauss_newton_operator")
        result = rows.new_empty(len(rows), size, size)
        for row, matrix in zip(rows.unbind(), result.unbind(), strict=True):
            matrix.copy_(self.gauss_newton_operator(row).dense())
        return result.reshape(*batch, size, size)

    def gauss_newton_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """The Gauss-Newton matrix at one parameter vector, known by its products.

        Args:
            theta: ``(P,)``.
            keep: keep what every product shares in memory; None keeps it where that works and the predicted memory
                fits.

        Raises:
            MemoryLimitError: if ``keep=True`` does not fit.
            NotApplicableError: where the objective has none (capability GAUSS_NEWTON), or ``keep=True`` does not work.
        """
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        raise NotImplementedError(f"{type(self).__name__} declares GAUSS_NEWTON and must define gauss_newton_operator")

    def kinks(self, theta: Float[Tensor, " P"]) -> KinkReport:
        """The points of non-smoothness that the computation at one ``theta`` passes near, found in what it computes."""
        point = self._single(theta)
        with self.execution_context():
            return record_kinks(self.chunk_value, point, self.chunks(plan_passes(self.cost, 1).samples))

    def kink_margin(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
        """Smallest distance of any intermediate result to a kink of the operation it enters; infinite without kinks."""
        rows, batch = self._rows(theta)
        margins = [self.kinks(row).margin for row in rows.unbind()]
        return torch.tensor(margins, dtype=self.dtype, device=self.device).reshape(batch)

    def fingerprint(self) -> str:
        """Hash of everything that defines the function: equal for equal objectives, also in another process."""
        kind = type(self)
        return digest_of([kind.__module__, kind.__qualname__, repr(self.space), str(self.dtype), *self.content()])

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        from thalweg.objectives.sums import SumObjective  # a sum is made of objectives: the import goes both ways

        return SumObjective([self, other])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(P={self.space.size})"

    # -- how it is done ------------------------------------------------------------------------------------------------

    @property
    def _item_bytes(self) -> int:
        return torch.empty((), dtype=self.dtype).element_size()

    def _rows(self, theta: Tensor) -> tuple[Tensor, torch.Size]:
        """Check theta and view it as ``(b, P)``; the batch shape goes beside it."""
        if torch.is_inference_mode_enabled():
            raise InvalidInputError("torch.inference_mode() forbids derivatives; use torch.no_grad() around this call")
        if not isinstance(theta, Tensor):
            raise InvalidInputError(
                f"theta must be a tensor, got {type(theta).__name__}; `as_theta` converts modules and state dicts"
            )
        size = self.space.size
        if theta.dim() == 0 or theta.shape[-1] != size:
            raise InvalidInputError(f"theta has shape {tuple(theta.shape)}, expected (*batch, {size})")
        if not theta.is_floating_point():
            raise InvalidInputError(f"theta must be a floating tensor, got {theta.dtype}")
        batch = theta.shape[:-1]
        return theta.detach().to(dtype=self.dtype, device=self.device).reshape(-1, size), batch

    def _single(self, theta: Tensor) -> Tensor:
        rows, batch = self._rows(theta)
        if batch != torch.Size([]):
            raise InvalidInputError(
                f"one parameter vector ({self.space.size},) is needed here, got {tuple(theta.shape)}"
            )
        return rows[0]

    def _vectors(self, vector: Tensor, batch: torch.Size) -> Tensor:
        """Check a direction for every parameter vector and repeat it over the batch."""
        size = self.space.size
        if not isinstance(vector, Tensor) or not vector.is_floating_point():
            found = vector.dtype if isinstance(vector, Tensor) else type(vector).__name__
            raise InvalidInputError(f"the vector must be a floating tensor, got {found}")
        lead = vector.shape[:-1]
        fits = vector.dim() > 0 and vector.shape[-1] == size and len(lead) <= len(batch)
        if not fits or any(n not in (1, m) for n, m in zip(reversed(lead), reversed(batch), strict=False)):
            wanted = f"({', '.join(map(str, [*batch, size]))}{'' if batch else ','})"
            raise InvalidInputError(f"the vector has shape {tuple(vector.shape)}, expected {wanted}")
        return vector.detach().to(dtype=self.dtype, device=self.device).expand(*batch, size)

    def _bound(self, chunk: Any) -> paths.ScalarFunction:
        return lambda theta: self.chunk_value(theta, chunk)

    def _derivatives(self, rows: Tensor, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Value ``(b,)``, gradient ``(b, P)`` and Hessian ``(b, P, P)``, as far as they are asked for."""
        with self.execution_context():
            if order == 0:
                return self._values(rows), None, None
            value, gradient = self._gradients(rows)
            return value, gradient, self._hessians(rows) if order == 2 else None

    def _values(self, rows: Tensor) -> Tensor:
        passes = plan_passes(self.cost, max(1, len(rows)))
        result = torch.zeros(len(rows), dtype=self.dtype, device=self.device)
        with torch.no_grad():
            for start in range(0, len(rows), passes.copies):
                part = slice(start, start + passes.copies)
                for chunk in self.chunks(passes.samples):
                    result[part] += paths.values(self._bound(chunk), rows[part], self.path)
        return result

    def _gradients(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        passes = plan_passes(self.cost, max(1, len(rows)))
        value = torch.zeros(len(rows), dtype=self.dtype, device=self.device)
        gradient = torch.zeros_like(rows)
        for start in range(0, len(rows), passes.copies):
            part = slice(start, start + passes.copies)
            for chunk in self.chunks(passes.samples):
                v, g = paths.gradients(self._bound(chunk), rows[part], self.path)
                value[part] += v
                gradient[part] += g
        return value, gradient

    def _require_matrices(self, held: int, what: str, instead: str) -> None:
        """Refuse what holds so many P x P matrices at once, if they do not fit."""
        size = self.space.size
        require_memory(
            held * size**2 * self._item_bytes,
            f"{what} of {size} x {size}",
            f"Use {instead}(theta), or fewer parameter vectors at once.",
        )

    def _hessians(self, rows: Tensor) -> Tensor:
        size = self.space.size
        hessians = torch.zeros(len(rows), size, size, dtype=self.dtype, device=self.device)
        self._add_columns(rows, None, hessians)
        for hessian in hessians.unbind():  # one by one: the sum of all with all transposes would be a third copy
            hessian.add_(hessian.mT.clone()).div_(2)
        return hessians

    def _add_columns(self, rows: Tensor, vectors: Tensor | None, into: Tensor) -> None:
        """Add H(row) v for every row and every vector (None: every unit vector) into ``(b, k, P)``, cut to fit."""
        k = into.shape[1]
        passes = plan_passes(self.cost, 2 * len(rows) * k)
        copies = max(1, passes.copies // 2)
        columns = min(k, copies)
        seeds = max(1, copies // columns)
        for start in range(0, len(rows), seeds):
            some = slice(start, start + seeds)
            for chunk in self.chunks(passes.samples):
                for first in range(0, k, columns):
                    these = slice(first, min(first + columns, k))
                    part = self._units(these) if vectors is None else vectors[these]
                    into[some, these] += paths.hessian_columns(self._bound(chunk), rows[some], part, self.path)

    def _units(self, these: slice) -> Tensor:
        units = torch.zeros(these.stop - these.start, self.space.size, dtype=self.dtype, device=self.device)
        units[:, these].fill_diagonal_(1)
        return units

    def _kept_operator(self, point: Tensor) -> LinearOperator:
        passes = plan_passes(self.cost, SHARES)
        with self.execution_context():
            kept = [paths.kept_hessian_product(self._bound(c), point, self.path) for c in self.chunks(passes.samples)]

        def matmat(columns: Tensor) -> Tensor:
            return torch.stack([sum_of(apply(v) for apply in kept) for v in columns.T.unbind()], dim=1)

        return self._operator(matmat)

    def _operator(self, matmat: Any) -> LinearOperator:
        if self.path.second == "none":
            raise NotApplicableError(f"this objective has no Hessian: {self.path.why_not_twice()}")
        size = self.space.size

        def inside(columns: Tensor) -> Tensor:
            with self.execution_context():
                result: Tensor = matmat(columns)
            return result

        return LinearOperator((size, size), inside, symmetric=True, dtype=self.dtype, device=self.device)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Sum of at least one tensor."""
    iterator = iter(tensors)
    total = next(iterator)
    for tensor in iterator:
        total = total + tensor
    return total
