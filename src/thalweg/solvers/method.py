"""What a method is: settings, a first state, and one step on a batch of starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.objectives import Objective

__all__ = ["Method", "State"]


@dataclass(frozen=True)
class State:
    """The starts that are still running; every tensor has one row for each.

    Attributes:
        theta: ``(b, P)``, the best point so far.
        value: ``(b,)``.
        gradient: ``(b, P)``.
        stuck: ``(b,)``, True where the method has no step left that would do better.
        evaluations: ``(b,)``, values and gradients computed.
        hessians: ``(b,)``, Hessians or products computed.
        memory: what the method keeps from step to step; every tensor with b rows.
    """

    theta: Float[Tensor, "b P"]
    value: Float[Tensor, " b"]
    gradient: Float[Tensor, "b P"]
    stuck: Bool[Tensor, " b"]
    evaluations: Int[Tensor, " b"]
    hessians: Int[Tensor, " b"]
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def fresh(cls, theta: Tensor, value: Tensor, gradient: Tensor, hessians: int, **memory: Tensor) -> State:
        """The state after the first evaluation."""
        count = torch.ones(len(theta), dtype=torch.int64, device=theta.device)
        return cls(theta, value, gradient, torch.zeros_like(count, dtype=torch.bool), count, count * hessians, memory)

    def take(self, rows: Tensor) -> State:
        """Some rows, by numbers or by mask."""
        parts: dict[str, Tensor] = {name: getattr(self, name)[rows] for name in _ROWS}
        return replace(self, **parts, memory={key: kept[rows] for key, kept in self.memory.items()})

    def put(self, rows: Tensor, other: State) -> State:
        """The same state with some rows replaced; counts of work are added up."""

        def replaced(old: Tensor, new: Tensor) -> Tensor:
            result = old.clone()
            result[rows] = new
            return result

        parts = {name: replaced(getattr(self, name), getattr(other, name)) for name in _ROWS}
        for name in ("evaluations", "hessians"):
            parts[name] = getattr(self, name).clone()
            parts[name][rows] += getattr(other, name)
        return State(**parts, memory={k: replaced(v, other.memory[k]) for k, v in self.memory.items()})

    @property
    def gradient_norm(self) -> Float[Tensor, " b"]:
        """Maximum norm of the gradient, infinite where it is not finite."""
        return max_norm(self.gradient)


_ROWS = ("theta", "value", "gradient", "stuck", "evaluations", "hessians")


class Method(ABC):
    """An algorithm with its settings: a small frozen dataclass.

    A method knows nothing of tolerances, limits or statuses: the loop asks it for steps as long as there are starts
    that have not ended.
    """

    alias: ClassVar[str]
    max_iterations: ClassVar[int]
    hands_over: ClassVar[float] = 0.0
    """Fraction of the first gradient below which pure Newton steps are tried: positive for methods that end slowly."""

    def check(self, objective: Objective) -> None:  # noqa: B027 (most methods apply everywhere: nothing to decline)
        """Decline by name where the objective lacks something.

        Raises:
            NotApplicableError: saying what is missing.
        """

    @abstractmethod
    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """The first state at some starting points."""

    @abstractmethod
    def step(self, objective: Objective, state: State) -> State:
        """One iteration for every row; a row that could not move is marked `stuck`."""


def max_norm(gradient: Tensor) -> Tensor:
    """Largest absolute entry along the last dimension; infinite where an entry is not finite."""
    size = gradient.abs().amax(-1)
    return torch.where(torch.isfinite(gradient).all(-1), size, torch.full_like(size, torch.inf))


def finite(value: Tensor) -> Tensor:
    """The value, infinite where it is not a number: a trial point there is never taken."""
    return torch.where(torch.isnan(value), torch.full_like(value, torch.inf), value)
