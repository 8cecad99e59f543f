"""Sums of objectives whose terms stay visible, and the penalties that are added to a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import (
    Cost,
    InvalidInputError,
    LinearOperator,
    ParameterSpace,
    current_limit,
    require_memory,
)
from thalweg.objectives.capabilities import Capability, require
from thalweg.objectives.contents import content_of
from thalweg.objectives.objective import Evaluation, Objective, sum_of
from thalweg.objectives.paths import DerivativePath

__all__ = ["L2", "Penalty", "SumObjective"]


class SumObjective(Objective):
    """The sum of objectives over one common space; certificates and reports see each term.

    Args:
        terms: at least one objective; sums inside are opened. All must have the same space and dtype.

    Raises:
        InvalidInputError: if the spaces differ.

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
        first = opened[0]
        for term in opened[1:]:
            if term.space != first.space or term.dtype != first.dtype:
                raise InvalidInputError(
                    f"terms of a sum need one space and dtype; got {first.space} ({first.dtype}) and {term.space} "
                    f"({term.dtype})"
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
        """Sum of the terms' evaluations, each by its own fastest way."""
        parts = [term.evaluate(theta, order) for term in self.terms]
        value = sum_of(p.value for p in parts)
        gradient = sum_of(p.gradient for p in parts if p.gradient is not None) if order >= 1 else None
        hessian = sum_of(p.hessian for p in parts if p.hessian is not None) if order >= 2 else None
        return Evaluation(value, gradient, hessian)

    def hessian_product(
        self, theta: Float[Tensor, "*batch P"], vector: Float[Tensor, "*#batch P"]
    ) -> Float[Tensor, "*batch P"]:
        """Sum of the terms' products."""
        return sum_of(term.hessian_product(theta, vector) for term in self.terms)

    def hessian_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """Sum of the terms' operators; ``keep=None`` keeps the graphs of all terms, or of none where not all fit."""
        if keep is None and self.kept_bytes() > current_limit():
            keep = False
        elif keep:
            require_memory(
                self.kept_bytes(), "the kept graphs of all terms", "Use keep=False: products by chunks, twice the time."
            )
        return _sum_operators([term.hessian_operator(theta, keep=keep) for term in self.terms])

    def kept_bytes(self) -> int:
        """Sum over the terms."""
        return sum(term.kept_bytes() for term in self.terms)

    def gauss_newton(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """Sum of the terms' matrices."""
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        return sum_of(term.gauss_newton(theta) for term in self.terms)

    def gauss_newton_operator(self, theta: Float[Tensor, " P"]) -> LinearOperator:
        """Sum of the terms' operators."""
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        return _sum_operators([term.gauss_newton_operator(theta) for term in self.terms])

    def __repr__(self) -> str:
        return " + ".join(repr(term) for term in self.terms)


class L2(Objective):
    """The penalty ``strength / 2 * ||theta - center||^2`` on all or some blocks.

    Its gradient is ``strength * theta``: the same as ``weight_decay=strength`` of `torch.optim.SGD`.

    Args:
        space: the space, or an objective whose space it is.
        strength: non-negative factor.
        parameters: globs of the blocks penalised, such as ``"*weight"``; None for all.
        center: ``(P,)``, the origin where None.
        dtype: of values, that of the objective where one is given.

    >>> penalty = L2(ParameterSpace({"weight": (2,), "bias": (1,)}), 0.5, parameters="weight")
    >>> penalty.gradient(torch.tensor([2.0, 4.0, 6.0]))
    tensor([1., 2., 0.], dtype=torch.float64)
    """

    capabilities = frozenset({Capability.GAUSS_NEWTON})
    nonnegative = True

    def __init__(
        self,
        space: ParameterSpace | Objective,
        strength: float,
        parameters: str | Iterable[str] | None = None,
        center: Float[Tensor, " P"] | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not (strength >= 0 and strength < float("inf")):
            raise InvalidInputError(f"the strength of a penalty must be finite and not negative, got {strength}")
        self.space = space if isinstance(space, ParameterSpace) else space.space
        self.dtype = dtype or (torch.float64 if isinstance(space, ParameterSpace) else space.dtype)
        self.device = torch.device("cpu") if isinstance(space, ParameterSpace) else space.device
        self.strength = float(strength)
        mask = torch.zeros(self.space.size, dtype=self.dtype, device=self.device)
        mask[self.space.select(parameters if parameters is not None else "*").to(self.device)] = 1
        self.mask = mask
        self.center = torch.zeros_like(mask) if center is None else center.detach().to(mask).clone()
        if self.center.shape != mask.shape:
            raise InvalidInputError(f"center has shape {tuple(self.center.shape)}, expected ({self.space.size},)")

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The penalty."""
        return self.strength / 2 * (self.mask * (theta - self.center) ** 2).sum()

    def content(self) -> Iterable[object]:
        """Strength, mask and center."""
        return [self.strength, self.mask, self.center]

    def hessian_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """A diagonal matrix: no differentiation needed."""
        self._single(theta)
        return self.gauss_newton_operator(theta)

    def kept_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def gauss_newton_operator(self, theta: Float[Tensor, " P"]) -> LinearOperator:
        """The Hessian itself, which is diagonal and constant."""
        diagonal = (self.strength * self.mask).unsqueeze(1)
        size = self.space.size
        return LinearOperator(
            (size, size), lambda columns: diagonal * columns, symmetric=True, dtype=self.dtype, device=self.device
        )

    def __repr__(self) -> str:
        return f"L2({self.strength:g})"


class Penalty(Objective):
    """Any differentiable function of the named parameters, as an objective to be added to a loss.

    Args:
        space: the space, or an objective whose space it is.
        function: maps a dictionary of named tensors to a scalar.
        name: for reports and the fingerprint, which also holds the function's code and what it closes over.

    >>> space = ParameterSpace({"weight": (2,)})
    >>> Penalty(space, lambda p: p["weight"].prod(), name="product").value(torch.tensor([2.0, 3.0]))
    tensor(6., dtype=torch.float64)
    """

    def __init__(
        self,
        space: ParameterSpace | Objective,
        function: Callable[[Mapping[str, Tensor]], Tensor],
        name: str,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.space = space if isinstance(space, ParameterSpace) else space.space
        self.dtype = dtype or (torch.float64 if isinstance(space, ParameterSpace) else space.dtype)
        self.device = torch.device("cpu") if isinstance(space, ParameterSpace) else space.device
        self.function = function
        self.name = name

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The function of the named blocks."""
        return self.function(self.space.unflatten(theta))

    def content(self) -> Iterable[object]:
        """The name and the function."""
        return [self.name, *content_of(self.function)]

    def __repr__(self) -> str:
        return f"Penalty({self.name})"


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
