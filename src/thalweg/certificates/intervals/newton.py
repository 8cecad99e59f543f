"""Interval Newton: a critical point that provably lies nearby, and has exactly this index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.intervals.activations import AtKinkError
from thalweg.certificates.intervals.arithmetic import BITS, Row, at_least, at_most, ball, lower, precision, upper
from thalweg.certificates.intervals.inertia import inertia, near_zero_eigenvalues
from thalweg.certificates.intervals.krawczyk import (
    Enclosed,
    Isolated,
    NotShownError,
    StoppedError,
    distance,
    enclose_zero,
    isolate,
    settle,
)
from thalweg.certificates.intervals.network import IntervalLoss, check_enclosable
from thalweg.certificates.intervals.prediction import predict
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work

__all__ = ["IntervalNewton"]

HESSIANS, GRADIENTS = 7, 6
"""What a proof takes, usually; a point that is no good takes fewer."""


@dataclass(frozen=True)
class IntervalNewton(Certifier):
    """Exactly one critical point lies near, and its Hessian has exactly this many negative eigenvalues.

    With index zero it is a strict local minimum. For multilayer perceptrons with smooth activations (or whose
    pre-activations stay away from the kinks) under squared errors, cross-entropy or a logistic loss, with or without L2
    penalties. Where the Hessian is singular, as along a continuous symmetry, nothing is claimed.

    The bound is the distance within which the critical point lies; it is the only one within a larger radius of the
    point asked about. Where that cannot be shown, a claim is made only for points that are critical to rounding, and
    says around what the critical point is alone.

    Args:
        bits: of the interval arithmetic.
    """

    name: ClassVar[str] = "interval newton"
    kind: ClassVar[ClaimKind] = ClaimKind.EXISTENCE
    scope: ClassVar[Scope] = Scope.BALL
    source: ClassVar[str] = "Krawczyk 1969; Neumaier, Interval Methods for Systems of Equations, 1990, chapter 5"
    stage: ClassVar[int] = 40

    bits: int = BITS

    def work(self, case: Case) -> Work:
        """Some Hessians in interval arithmetic."""
        check_enclosable(case)
        return predict(case, hessians=HESSIANS, gradients=GRADIENTS) + Work(gradients=5)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Go to the critical point, enclose it, read its index, and find how far it is alone."""

        def goes_on() -> None:
            why = case.control.why_stop()
            if why is not None:
                raise StoppedError(why)

        with precision(self.bits):
            loss = IntervalLoss(case)
            start = [ball(x) for x in case.theta.tolist()]
            hypotheses = [case.described]
            try:
                center, inverse = settle(loss, start, goes_on)
                enclosed = enclose_zero(loss, center, inverse, goes_on)
                counts = inertia(enclosed.hessian)
                if counts is None:
                    raise NotShownError("the sign of some eigenvalue of the Hessian stays open")
                found = _Found(loss, enclosed, counts[0], start, goes_on)
            except StoppedError as error:
                return self.not_attempted(str(error))
            except AtKinkError as error:
                reason = f"the loss has no second derivative everywhere near: {error}{_if_singular(loss, start)}"
                return self.undecided(reason, hypotheses)
            except NotShownError as error:
                return self.undecided(f"{error}{_if_singular(loss, start)}", hypotheses)
        if not found.centered and not _critical_to_rounding(case):
            why = f"{found.claim()}; that it is the only one so near could not be shown: ask at a point nearer to it"
            return self.undecided(why, hypotheses, found.evidence())
        return self.claimed(
            found.claim(),
            level=Level.RIGOROUS,
            bound=found.away,
            hypotheses=[*hypotheses, *found.hypotheses()],
            evidence=found.evidence(),
        )


class _Found:
    """A critical point that was enclosed, and how far around it is alone.

    Attributes:
        away: it is within this distance of the point asked about.
        near: ``(P,)``, it rounded to float64.
        alone: the cube without other critical points, None where only the box around it is known to hold no other.
        centered: whether that cube is around the point asked about, or around `near`.
    """

    def __init__(
        self, loss: IntervalLoss, enclosed: Enclosed, index: int, start: Row, goes_on: Callable[[], None]
    ) -> None:
        self._enclosed = enclosed
        self._index, self._size = index, loss.size
        self.away = distance(enclosed.box, start)
        self.near = torch.tensor([float(x) for x in enclosed.center], dtype=torch.float64)
        self.centered, self.alone = True, _alone(loss, start, enclosed, goes_on)
        if self.alone is None:
            self.centered, self.alone = False, _alone(loss, list(map(ball, self.near.tolist())), enclosed, goes_on)
        value = loss.value(enclosed.box)
        self._low, self._high = lower(value), upper(value)

    def claim(self) -> str:
        """One sentence."""
        what, away = _kind_of(self._index, self._size), at_most(self.away)
        value = f"its loss lies in [{at_least(self._low, 12)}, {at_most(self._high, 12)}]"
        if self.alone is None:
            return f"{what} lies within {away}; {value}"
        radius = at_least(self.alone.radius)
        if self.centered:
            return f"exactly one critical point lies within {radius}, {what}; it is within {away}, {value}"
        others = f"no other critical point lies within {radius} of it as rounded to float64"
        return f"{what} lies within {away}, {others}; {value}"

    def hypotheses(self) -> list[Hypothesis]:
        """What was proved on the way."""
        found = [
            Hypothesis("the loss is twice differentiable there", State.PROVED, note="no kink is met"),
            Hypothesis("a box is mapped into its inside", State.PROVED, margin=1 - self._enclosed.contraction),
            Hypothesis("the sign of every eigenvalue of the Hessian is known", State.PROVED, note="pivots of L D L^T"),
        ]
        if self.alone is not None:
            statement = "every Hessian within the radius is regular"
            found.append(Hypothesis(statement, State.PROVED, margin=1 - self.alone.contraction))
        return found

    def evidence(self) -> dict[str, Tensor | float | str]:
        """The critical point, rounded, and figures."""
        found: dict[str, Tensor | float | str] = {
            "critical point": self.near,
            "index": float(self._index),
            "least value": self._low,
            "largest value": self._high,
        }
        if self.alone is not None:
            found["alone within"] = self.alone.radius
            found["alone around"] = "the point asked about" if self.centered else "the critical point, rounded"
        return found


def _alone(loss: IntervalLoss, point: Row, enclosed: Enclosed, goes_on: Callable[[], None]) -> Isolated | None:
    """A cube around a point that holds the critical point and no other, None where none could be shown."""
    try:
        return isolate(loss, point, enclosed.inverse, distance(enclosed.box, point), goes_on)
    except StoppedError:
        raise
    except (NotShownError, AtKinkError):
        return None


def _critical_to_rounding(case: Case) -> bool:
    """Whether float64 cannot come much nearer: then a critical point near is one that the point stands for."""
    return bool((case.gradient.abs() <= 8 * case.gradient_error).all())


def _kind_of(index: int, size: int) -> str:
    if index in (0, size):
        return "a strict local minimum" if index == 0 else "a strict local maximum"
    return f"a saddle of index {index}"


def _if_singular(loss: IntervalLoss, start: Row) -> str:
    """What a failure may be due to, at the end of a sentence."""
    try:
        count = near_zero_eigenvalues(loss.hessian(start))
    except AtKinkError:
        return ""
    if not count:
        return ""
    return (
        f" (the Hessian here is singular to rounding, with {count} of {loss.size} eigenvalues zero: a continuous "
        "symmetry, an unused parameter or a degenerate point; weight decay or fixed parameters would mend that)"
    )


register_certifier(IntervalNewton())
