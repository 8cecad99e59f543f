"""Points with a lower loss: what they prove, and how they are looked for along a line."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Level
from thalweg.certificates.figure import Figure
from thalweg.certificates.rounding import UNIT

__all__ = ["LowerPoint", "compared", "lowest_along"]

STEPS = 48
"""Steps tried along a line, in a geometric progression."""

ENTRIES = 2**22
"""Numbers in the parameter vectors that are looked at in one go."""


class LowerPoint(NamedTuple):
    """Other parameters, and by how much their loss is lower.

    Attributes:
        theta: ``(P,)``.
        bound: the loss here minus the loss there, at least; negative where nothing is shown.
        rounding: what was taken off for rounding.
        level: proved or estimated.
    """

    theta: Tensor
    bound: float
    rounding: float
    level: Level

    @property
    def shown(self) -> bool:
        """Whether the loss there is lower."""
        return self.bound > 0


def compared(case: Case, theta: Float[Tensor, " P"]) -> LowerPoint:
    """The loss here against the loss at other parameters, both with their errors.

    Args:
        case: the problem.
        theta: the other parameters, ``(P,)``.
    """
    if not bool(torch.isfinite(theta).all()):
        return LowerPoint(theta, -math.inf, math.inf, Level.NUMERIC)
    here, there = _value(case), _value(case.at(theta))
    gained = here.below - there.above
    bound = gained - 4 * UNIT * (abs(here.below) + abs(there.above))
    level = Level.RIGOROUS if {here.level, there.level} == {Level.RIGOROUS} else Level.NUMERIC
    bound = bound if math.isfinite(bound) else -math.inf
    return LowerPoint(theta, bound, here.error + there.error, level)


def _value(case: Case) -> Figure:
    """The loss; an estimated error is at least that of a plain sum over the samples."""
    figure = case.value
    if figure.level is Level.RIGOROUS:
        return figure
    samples = case.risk.n_samples if case.risk is not None else 1
    size = sum(abs(float(term.value(case.theta))) for term in case.terms)
    return figure._replace(error=figure.error + (samples + 16) * UNIT * size)


def lowest_along(
    case: Case, start: Float[Tensor, " P"], direction: Float[Tensor, " P"], longest: float | None = None
) -> Tensor:
    """The best of several steps along a line, refined around it; the start where none is better.

    Args:
        case: the problem.
        start: ``(P,)``, where the line begins.
        direction: ``(P,)``, need not be normalised.
        longest: longest step, as a multiple of the direction; None for ten times the length of theta.
    """
    length = float(direction.norm())
    if length == 0 or not math.isfinite(length):
        return start
    longest = longest or 10 * (1 + float(start.norm())) / length
    steps = longest * torch.logspace(-12, 0, STEPS, dtype=start.dtype, device=start.device)
    best, at = _best(case, start, direction, steps)
    if best is None:
        return start
    around = steps[max(at - 1, 0)] * torch.logspace(0, 2 * 12 / (STEPS - 1), 16, dtype=start.dtype)
    finer, _ = _best(case, start, direction, torch.cat([around.to(start), best.reshape(1)]))
    return start + (best if finer is None else finer) * direction


def _best(case: Case, start: Tensor, direction: Tensor, steps: Tensor) -> tuple[Tensor | None, int]:
    at_once = max(1, ENTRIES // start.numel())
    values = torch.cat([case.objective.value(start + t.unsqueeze(1) * direction) for t in steps.split(at_once)])
    values = torch.where(torch.isfinite(values), values, torch.inf)
    at = int(values.argmin())
    here = case.objective.value(start)
    return (steps[at], at) if bool(values[at] < here) else (None, at)
