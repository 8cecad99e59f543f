"""A number with its error, and rounding errors estimated where none are proved."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.claims import Level
from thalweg.certificates.random_rounding import RandomRounding
from thalweg.certificates.rounding import UNIT
from thalweg.objectives import EmpiricalRisk, Evaluation, Objective

__all__ = ["PATTERNS", "Figure", "cancelling", "moved_a_little", "observed_rounding"]

PATTERNS = 4
"""Copies of theta, moved by a unit in the last place in every coordinate, from which rounding is estimated."""


class Figure(NamedTuple):
    """A number, how far it may be from the exact one, and how firmly that is known."""

    value: float
    error: float
    level: Level

    @property
    def above(self) -> float:
        """An upper bound of the exact number."""
        return self.value + self.error

    @property
    def below(self) -> float:
        """A lower bound of the exact number."""
        return self.value - self.error


def moved_a_little(theta: Float[Tensor, " P"], seed: int) -> Float[Tensor, "k P"]:
    """Copies of theta with every coordinate moved by a unit in the last place."""
    return theta * (1 + 2 * UNIT * _signs((PATTERNS, len(theta)), seed).to(theta))


def observed_rounding(objective: Objective, theta: Float[Tensor, " P"], here: Evaluation, seed: int) -> Evaluation:
    """Largest changes of the value and of each gradient coordinate when theta and every operation err at random.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        here: value and gradient at theta.
        seed: of the errors.
    """
    with RandomRounding(seed):
        moved = objective.evaluate(moved_a_little(theta, seed), 1)
    assert moved.gradient is not None
    assert here.gradient is not None
    return Evaluation((moved.value - here.value).abs().max(), (moved.gradient - here.gradient).abs().amax(0), None)


def cancelling(
    risk: EmpiricalRisk, theta: Float[Tensor, " P"], slopes: Float[Tensor, "N C"], seed: int
) -> Float[Tensor, " P"]:
    """Rounding of the outputs' gradient and of the sum over samples, whose terms may cancel.

    How large the terms are, random signs show. Moving theta does not: coordinates that are zero do not move, and at
    theta = 0 nothing does. The difference of a probability and its target is known to a unit of either.

    Args:
        risk: over N samples.
        theta: ``(P,)``.
        slopes: gradient of the loss with respect to the outputs.
        seed: of the signs.
    """
    size = slopes.abs() + risk.sample_values(theta).abs().clamp_max(1).unsqueeze(1)
    signals = (size.unsqueeze(-1) * _signs((*size.shape, PATTERNS), seed).to(theta)).reshape(-1, PATTERNS)
    spread: Tensor = risk.jacobian_operator(theta).transpose_matmul(signals).abs().amax(1)
    return 8 * UNIT * math.sqrt(risk.n_samples) * spread


def _signs(shape: tuple[int, ...], seed: int) -> Tensor:
    return 2 * torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)) - 1
