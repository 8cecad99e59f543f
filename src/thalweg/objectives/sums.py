"""Sums of objectives whose terms stay visible."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import (
    Cost,
    InvalidInputError,
    LinearOperator,
    current_limit,
    require_memory,
)
from thalweg.objectives.capabilities import Capability, require
from thalweg.objectives.objective import Evaluation, Objective, sum_of
from thalweg.objectives.paths import DerivativePath

__all__ = ["SumObjective"]


class SumObjective(Objective):
    """The sum of objectives over one common space; certificates and reports see each term.

    Args:
        terms: at least one objective; sums inside are opened. All must have the same space and dtype.

    Raises:
        InvalidInputError: if the spaces differ.

    >>> import torch
    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import L2
    >>> space = ParameterSpace({"x": (2,)})
    >>> (L2(space, 2.0) + L2(space, 4.0)).value(torch.ones(2))
    tensor(6., dtype=torch.float64)
    """

    def __init__(self, terms: Sequence[Objective]) -> None:
        opened: list[Objective] = []
        for term in terms:
            opened.extend(term.terms if isinstance(term, SumObjective) else [term])
        if not opened:
            raise InvalidInputError("a sum needs at least one term")
        for term in opened:
            if not isinstance(term, Objective):
                raise InvalidInputError(f"the terms of a sum are objectives, got {type(term).__name__}; see `Penalty`")
        first = opened[0]
        for term in opened[1:]:
            if (term.space, term.dtype, term.device) != (first.space, first.dtype, first.device):
                raise InvalidInputError(
                    f"terms of a sum need one space, dtype and device; got {first.space} ({first.dtype}, "
                    f"{first.device}) and {term.space} ({term.dtype}, {term.device})"
                )
        self.terms: tuple[Objective, ...] = tuple(opened)
        self.space = first.space
        self.dtype = first.dtype
        self.device = first.device
        self.path = _slowest([term.path for term in opened])
        shared = frozenset.intersection(*(term.capabilities for term in opened))
        self.capabilities = shared & {Capability.GAUSS_NEWTON}

    def chunks(self, samples: int) -> Iterator[Any]:
        """Every chunk of every term, with the number of its term."""
        for number, term in enumerate(self.terms):
            for chunk in term.chunks(samples):
                yield number, chunk

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """One chunk of one term."""
        number, inner = chunk
        return self.terms[number].chunk_value(theta, inner)

    def content(self) -> Iterable[object]:
        """The fingerprints of the terms."""
        return [term.fingerprint() for term in self.terms]

    @property
    def cost(self) -> Cost:
        """The dearest of the terms."""
        costs = [term.cost for term in self.terms]
        return Cost(
            samples=max(c.samples for c in costs),
            bytes_per_sample=max(c.bytes_per_sample for c in costs),
            bytes_fixed=max(c.bytes_fixed for c in costs),
        )

    def execution_context(self) -> AbstractContextManager[None]:
        """The contexts of all terms."""
        return _all_of([term.execution_context for term in self.terms])

    def higher_order_context(self) -> AbstractContextManager[None]:
        """The contexts of all terms."""
        return _all_of([term.higher_order_context for term in self.terms])

    def evaluate(self, theta: Float[Tensor, "*batch P"], order: int = 0) -> Evaluation:
        """Sum of the terms' evaluations, each by its own fastest way.

        Raises:
            InvalidInputError: for a wrong shape, type or order.
            MemoryLimitError: if the Hessians would not fit; `hessian_operator` then serves.
        """
        rows, batch = self._rows(theta)
        size, count = self.space.size, len(rows)
        if order == 2:  # those of the sum, and those of one term
            self._require_matrices(2 * count + 1, f"{count} dense Hessian(s) of a sum", "hessian_operator")
        first, *rest = self.terms
        found = first.evaluate(rows, order)
        if type(first).evaluate is not Objective.evaluate:  # the user's own way may hand out what it keeps
            found = copy.deepcopy(found)
        for term in rest:
            term.add_to(found, rows, order)
        value, gradient, hessian = found
        return Evaluation(
            value.reshape(batch),
            None if gradient is None else gradient.reshape(*batch, size),
            None if hessian is None else hessian.reshape(*batch, size, size),
        )

    def hessian_product(
        self, theta: Float[Tensor, "*batch P"], vector: Float[Tensor, "*#batch P"]
    ) -> Float[Tensor, "*batch P"]:
        """Sum of the terms' products."""
        return sum_of(term.hessian_product(theta, vector) for term in self.terms)

    def hessian_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """Sum of the terms' operators; ``keep=None`` keeps the graphs of all terms, or of none where not all fit."""
        keep = self._share_of_memory(keep)
        return _sum_operators([term.hessian_operator(theta, keep=keep) for term in self.terms])

    def _share_of_memory(self, keep: bool | None) -> bool | None:
        """What each term is told to keep, for the graphs of all share one limit."""
        if keep:
            require_memory(
                self.kept_bytes(), "the kept graphs of all terms", "Use keep=False: products by chunks, twice the time."
            )
        return False if keep is None and self.kept_bytes() > current_limit() else keep

    def kept_bytes(self) -> int:
        """Sum over the terms."""
        return sum(term.kept_bytes() for term in self.terms)

    def gauss_newton(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """Sum of the terms' matrices.

        Raises:
            MemoryLimitError: if the matrices would not fit.
            NotApplicableError: where a term has none (capability GAUSS_NEWTON).
        """
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        rows, batch = self._rows(theta)
        size, count = self.space.size, len(rows)
        self._require_matrices(3 * count, f"{count} Gauss-Newton matrix(ces) of a sum", "gauss_newton_operator")
        total = rows.new_zeros(*batch, size, size)
        for term in self.terms:
            total += term.gauss_newton(theta)
        return total

    def gauss_newton_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """Sum of the terms' operators; ``keep=None`` keeps the graphs of all terms, or of none where not all fit."""
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        keep = self._share_of_memory(keep)
        return _sum_operators([term.gauss_newton_operator(theta, keep=keep) for term in self.terms])

    def __repr__(self) -> str:
        return " + ".join(repr(term) for term in self.terms)


def _slowest(routes: Sequence[DerivativePath]) -> DerivativePath:
    return DerivativePath(
        batch="loop" if any(r.batch == "loop" for r in routes) else "vmap",
        second=next(s for s in ("none", "jvp", "double-backward") if any(r.second == s for r in routes)),
        forward=all(r.forward for r in routes),
        columns="loop" if any(r.columns == "loop" for r in routes) else "vmap",
        keep=all(r.keep for r in routes),
        notes=tuple(dict.fromkeys(note for r in routes for note in r.notes)),
    )


def _sum_operators(operators: Sequence[LinearOperator]) -> LinearOperator:
    total = operators[0]
    for operator in operators[1:]:
        total = total + operator
    return total


@contextmanager
def _all_of(contexts: Sequence[Callable[[], AbstractContextManager[None]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield
