"""The rows of a solution while it is being found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.solvers.method import max_norm
from thalweg.solvers.solution import Solution, in_batch_shape
from thalweg.solvers.status import Status

__all__ = ["Records"]


@dataclass
class Records:
    """One row per start, filled in as starts end."""

    theta: Tensor
    value: Tensor
    gradient: Tensor
    floor: Tensor
    decrement: Tensor
    index: Tensor
    undecided: Tensor
    iterations: Tensor
    evaluations: Tensor
    hessians: Tensor
    kicks: Tensor
    status: list[Status | None]
    message: list[str]

    @classmethod
    def empty(cls, theta: Tensor) -> Records:
        """Nothing known but the starts."""
        b = len(theta)
        blank = torch.full((b,), torch.nan, dtype=theta.dtype, device=theta.device)
        whole = torch.zeros(b, dtype=torch.int64, device=theta.device)
        return cls(
            theta=theta.clone(),
            value=blank,
            gradient=torch.full_like(theta, torch.nan),
            floor=torch.full_like(blank, torch.inf),
            decrement=blank.clone(),
            index=whole - 1,
            undecided=whole - 1,
            iterations=whole,
            evaluations=whole.clone(),
            hessians=whole.clone(),
            kicks=whole.clone(),
            status=[None] * b,
            message=[""] * b,
        )

    def solution(self, batch: torch.Size, seconds: float, method: str, seed: int | None) -> Solution:
        """The frozen record, in the batch shape of the starts."""
        return Solution(
            theta=self.theta.reshape(*batch, -1),
            value=self.value.reshape(batch),
            gradient_norm=max_norm(self.gradient).reshape(batch),
            gradient_floor=self.floor.reshape(batch),
            newton_decrement=self.decrement.reshape(batch),
            index=self.index.reshape(batch),
            undecided=self.undecided.reshape(batch),
            iterations=self.iterations.reshape(batch),
            evaluations=self.evaluations.reshape(batch),
            hessians=self.hessians.reshape(batch),
            status=in_batch_shape(list(self.status), batch),
            message=in_batch_shape(list(self.message), batch),
            end=in_batch_shape([None] * len(self.status), batch),
            seconds=seconds,
            method=method,
            seed=seed,
        )
