"""Intervals that hold the loss and its gradient, and the claim that no critical point is near."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Level, Scope
from thalweg.certificates.intervals.activations import AtKinkError
from thalweg.certificates.intervals.arithmetic import (
    BITS,
    Row,
    around,
    at_least,
    at_most,
    ball,
    half_width,
    lower,
    precision,
    upper,
)
from thalweg.certificates.intervals.network import IntervalLoss, check_enclosable
from thalweg.certificates.intervals.prediction import predict
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.work import Work

__all__ = ["Interval", "IntervalGradient", "gradient_interval", "loss_interval"]

GROWTHS = 3


class Interval(NamedTuple):
    """Bounds from below and from above."""

    low: Float[Tensor, "..."]
    high: Float[Tensor, "..."]


def loss_interval(case: Case, radius: float = 0.0, *, bits: int = BITS) -> Interval:
    """Numbers between which the loss provably lies.

    Args:
        case: a multilayer perceptron of known activations under a known loss.
        radius: over all parameters that differ from theta by at most this in every coordinate.
        bits: of the interval arithmetic.

    Returns:
        Scalars; infinite where numbers overflow.

    Raises:
        NotApplicableError: for other networks and losses, or without python-flint.

    >>> from torch import nn
    >>> from thalweg.objectives import EmpiricalRisk
    >>> risk = EmpiricalRisk(nn.Linear(1, 1), nn.MSELoss(), torch.ones(3, 1), torch.full((3, 1), 2.0))
    >>> low, high = loss_interval(Case(risk, torch.zeros(2)))
    >>> bool(low <= 4 <= high), float(high - low) < 1e-14
    (True, True)
    """
    with precision(bits):
        found = IntervalLoss(case).value(_cube(case, radius))
        return Interval(*(torch.tensor(end(found), dtype=torch.float64) for end in (lower, upper)))


def gradient_interval(case: Case, radius: float = 0.0, *, bits: int = BITS) -> Interval:
    """Numbers between which each coordinate of the gradient provably lies, ``(P,)``.

    Args:
        case: as for `loss_interval`.
        radius: as for `loss_interval`.
        bits: of the interval arithmetic.

    Raises:
        NotApplicableError: as for `loss_interval`, and where a pre-activation lies at a kink.
    """
    with precision(bits):
        found = IntervalLoss(case).gradient(_cube(case, radius))
        return Interval(*(torch.tensor([end(x) for x in found], dtype=torch.float64) for end in (lower, upper)))


def _between(low: float, high: float) -> str:
    return f"the loss here lies in [{at_least(low, 12)}, {at_most(high, 12)}]"


def _cube(case: Case, radius: float) -> Row:
    return [around(x, radius) if radius else ball(x) for x in case.theta.tolist()]


@dataclass(frozen=True)
class IntervalGradient(Certifier):
    """No critical point, so no local minimum, lies within the bound of this point.

    Some coordinate of the gradient keeps its sign over a whole cube of parameters, which is enlarged from the rounding
    of theta as far as that can be shown. The evidence holds the interval in which the loss at the point lies.

    Args:
        bits: of the interval arithmetic.
    """

    name: ClassVar[str] = "interval gradient"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.BALL
    source: ClassVar[str] = "Fermat's theorem on stationary points, in interval arithmetic (Moore 1966)"
    stage: ClassVar[int] = 30

    bits: int = BITS

    def work(self, case: Case) -> Work:
        """Some gradients in interval arithmetic."""
        check_enclosable(case)
        return predict(case, gradients=GROWTHS + 1) + Work(gradients=5)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Evaluate the gradient over cubes of growing size."""
        with precision(self.bits):
            loss = IntervalLoss(case)
            hypotheses = [case.described]
            try:
                value, gradient = loss.value_and_gradient(_cube(case, 0.0))
                radius = self._grow(loss, case) if self._exceeds_rounding(gradient, case) else None
            except AtKinkError as error:
                return self.undecided(f"the loss is not differentiable everywhere near: {error}", hypotheses)
            low, high = lower(value), upper(value)
            evidence: dict[str, Tensor | float | str] = {"least value": low, "largest value": high}
            if radius is None:
                text = f"the gradient is no larger than rounding explains; {_between(low, high)}"
                return self.undecided(text, hypotheses, evidence)
            evidence["direction"] = -torch.tensor([float(x) for x in gradient], dtype=torch.float64)
        return self.claimed(
            f"no critical point lies within {at_least(radius)}; {_between(low, high)}",
            level=Level.RIGOROUS,
            bound=radius,
            hypotheses=hypotheses,
            evidence=evidence,
        )

    @staticmethod
    def _exceeds_rounding(gradient: Row, case: Case) -> bool:
        """Whether float64 can see the gradient; no point of float64 is critical to all digits."""
        noise = case.gradient_error.tolist()
        return any(lower(abs(x)) > error for x, error in zip(gradient, noise, strict=True))

    @staticmethod
    def _grow(loss: IntervalLoss, case: Case) -> float | None:
        """The largest of a few radii of cubes over which some coordinate of the gradient keeps its sign."""
        best = None
        radius = max(8 * UNIT * float(case.theta.abs().max()), 2.0**-500)
        for _ in range(GROWTHS):
            try:
                found = loss.gradient(_cube(case, radius))
            except AtKinkError:
                if best is None:
                    raise
                break
            if not any(x > 0 or x < 0 for x in found):
                break
            best = radius
            # how wide the enclosures are grows about in proportion to the radius
            slack = max(abs(float(x)) / half_width(x) for x in found if x > 0 or x < 0)
            if not slack > 1.5 or not math.isfinite(slack):
                break
            radius = best * min(0.7 * slack, 1e12)
        return best


register_certifier(IntervalGradient())
