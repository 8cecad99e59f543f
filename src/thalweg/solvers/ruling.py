"""What the endgame is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.solvers.polish import Polished
from thalweg.solvers.status import Status

__all__ = ["Candidates", "Ruling"]


@dataclass(frozen=True)
class Candidates:
    """Points that may be the end of a search.

    Attributes:
        theta: ``(b, P)``.
        scale: ``(b,)``, the value's scale: the larger of its size and its decrease since the start.
        anchor: ``(b, P)``, where the search was about half its iterations ago.
        stuck: ``(b,)``, the method has no step left; such a row must be given a status.
        slow: ``(b,)``, the value has hardly fallen for half of all iterations: is it on its way to infinity?
        kicks: ``(b,)``, how often it was sent on already.
        tolerance: for the maximum norm of the gradient.
    """

    theta: Float[Tensor, "b P"]
    scale: Float[Tensor, " b"]
    anchor: Float[Tensor, "b P"]
    stuck: Bool[Tensor, " b"]
    slow: Bool[Tensor, " b"]
    kicks: Int[Tensor, " b"]
    tolerance: float

    def take(self, rows: Tensor) -> Candidates:
        """Some rows."""
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ROWS}
        return replace(self, **parts)


_ROWS = ("theta", "scale", "anchor", "stuck", "slow", "kicks")


@dataclass
class Ruling:
    """What the endgame found in each row; rows without a status go on from `theta`.

    `moved` marks rows that were sent elsewhere.
    """

    theta: Float[Tensor, "b P"]
    value: Float[Tensor, " b"]
    gradient: Float[Tensor, "b P"]
    floor: Float[Tensor, " b"]
    decrement: Float[Tensor, " b"]
    index: Int[Tensor, " b"]
    undecided: Int[Tensor, " b"]
    evaluations: Int[Tensor, " b"]
    hessians: Int[Tensor, " b"]
    moved: Bool[Tensor, " b"]
    status: list[Status | None]
    message: list[str]

    @classmethod
    def of(cls, polished: Polished) -> Ruling:
        """The measurements after polishing, nothing ruled yet."""
        model = polished.model
        curved = model.eigenvalues.abs() > model.eigenvalue_noise
        count = len(model.value)
        return cls(
            theta=model.theta.clone(),
            value=model.value,
            gradient=model.gradient,
            floor=model.rounding.floor,
            decrement=polished.decrement,
            index=model.negative().sum(-1),
            undecided=(~curved).sum(-1),
            evaluations=polished.evaluations + 4,
            hessians=polished.hessians + 1,
            moved=torch.zeros(count, dtype=torch.bool, device=model.value.device),
            status=[None] * count,
            message=[""] * count,
        )

    def end(self, row: int, status: Status, message: str) -> None:
        """Give a row its status."""
        self.status[row], self.message[row] = status, message

    def send(self, row: int, theta: Tensor) -> None:
        """Let a row go on elsewhere."""
        self.theta[row], self.moved[row] = theta, True
