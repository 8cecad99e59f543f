"""What every clause of the contract is given, and how it complains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Evaluation, Objective
from thalweg.zoo._samples import generator

__all__ = ["Case", "Clause", "ContractError"]


class ContractError(AssertionError):
    """An objective that breaks its contract.

    Attributes:
        clause: name of the clause.
    """

    def __init__(self, clause: str, objective: Objective, what: str) -> None:
        self.clause = clause
        super().__init__(f"{objective!r} breaks the contract, clause '{clause}': {what}")


@dataclass(frozen=True, eq=False)
class Case:
    """One objective under one clause.

    Attributes:
        objective: what is checked.
        thetas: ``(n, P)`` in its dtype, n >= 2.
        others: objectives that differ.
        seed: of random directions.
        clause: name of the clause.
    """

    objective: Objective
    thetas: Tensor
    others: tuple[Objective, ...]
    seed: int
    clause: str

    @property
    def size(self) -> int:
        """P."""
        return self.objective.space.size

    @property
    def eps(self) -> float:
        """Rounding unit of the objective's dtype."""
        return float(torch.finfo(self.objective.dtype).eps)

    @property
    def twice(self) -> bool:
        """Whether the objective has second derivatives."""
        return self.objective.path.second != "none"

    @cached_property
    def dense(self) -> Evaluation:
        """Value, gradient and, where there is one, Hessian at all thetas."""
        return self.objective.evaluate(self.thetas, 2 if self.twice else 1)

    def draw(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same in every run."""
        return torch.randn(*shape, generator=generator(self.seed), dtype=torch.float64).to(self.thetas)

    def fail(self, what: str) -> None:
        """Complain.

        Raises:
            ContractError: always.
        """
        raise ContractError(self.clause, self.objective, what)

    def expect(self, condition: bool, what: str) -> None:
        """Complain unless a condition holds."""
        if not condition:
            self.fail(what)

    def expect_shape(self, tensor: Any, shape: tuple[int, ...], what: str) -> None:
        """Complain unless a tensor has a shape and the objective's dtype."""
        self.expect(isinstance(tensor, Tensor), f"{what} is {type(tensor).__name__}, expected a tensor")
        self.expect(tuple(tensor.shape) == shape, f"{what} has shape {tuple(tensor.shape)}, expected {shape}")
        wanted = self.objective.dtype
        self.expect(tensor.dtype == wanted, f"{what} has dtype {tensor.dtype}, expected {wanted}")

    def expect_close(
        self, found: Tensor, wanted: Tensor, what: str, *, tolerance: float | None = None, scale: float = 0.0
    ) -> None:
        """Complain unless two tensors agree.

        The allowed difference is `tolerance` (1e5 rounding units where None) times the largest entry of either or
        `scale`, whichever is greatest. NaN never agrees.
        """
        shapes = tuple(found.shape), tuple(wanted.shape)
        self.expect(shapes[0] == shapes[1], f"{what}: shapes {shapes[0]} and {shapes[1]} differ")
        if found.numel() == 0:
            return
        size = max(float(found.abs().max()), float(wanted.abs().max()), scale)
        allowed = (1e5 * self.eps if tolerance is None else tolerance) * size
        gap = float((found - wanted).abs().max())
        self.expect(gap <= allowed, f"{what}: largest difference {gap:.3g}, allowed {allowed:.3g}")

    def expect_refusal(self, call: Callable[[], object], what: str, error: type[Exception] = InvalidInputError) -> None:
        """Complain unless a call raises `error`."""
        try:
            call()
        except error:
            return
        except Exception as other:
            self.fail(f"{what} raises {type(other).__name__} ({other}), expected {error.__name__}")
        self.fail(f"{what} is accepted, expected {error.__name__}")


Clause = Callable[[Case], None]
