"""A step away from a point that is no local minimum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Scope
from thalweg.certificates.fibres import FibreDescent
from thalweg.certificates.gradient import NonzeroGradient
from thalweg.certificates.last_layer_refit import lower_or_undecided
from thalweg.certificates.lower_point import LowerPoint, compared, lowest_along
from thalweg.certificates.negative_curvature import DENSE, NegativeCurvature
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work
from thalweg.foundation import MemoryLimitError, NotApplicableError

__all__ = ["EscapeStep"]


@dataclass(frozen=True)
class EscapeStep(Certifier):
    """The loss can be lowered by a step along a direction that another certificate has found.

    The line is searched both ways, and from the best point of it further down against the gradient. Where no other
    certificate has found a direction, those that can are asked.

    Args:
        steps: line searches against the gradient after the first.
    """

    name: ClassVar[str] = "escape step"
    kind: ClassVar[ClaimKind] = ClaimKind.SUBOPTIMAL
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "line search along a direction of descent"
    stage: ClassVar[int] = 35

    steps: int = 4

    def work(self, case: Case) -> Work:
        """A few lines, and what the certificates asked may cost."""
        total = Work(gradients=25.0 * (self.steps + 4))
        for certifier in _sources(case):
            try:
                total = total + certifier.work(case)
            except NotApplicableError:
                continue
        return total

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Take the best of what all directions lead to."""
        best: LowerPoint | None = None
        whence = ""
        for source in self._sources(case, earlier):
            for start in _starts(case, source):
                if case.control.why_stop():
                    break
                found = compared(case, self._down(case, start))
                if best is None or found.bound > best.bound:
                    best, whence = found, source.name
        if best is None:
            return self.undecided("no direction of descent is known")
        return lower_or_undecided(self, case, best, [], f"a step from what the certificate {whence!r} shows")

    def _sources(self, case: Case, earlier: Sequence[Certificate]) -> Iterator[Certificate]:
        known = [
            each
            for each in earlier
            if each.established
            and each.kind is ClaimKind.NOT_A_MINIMUM
            and {"direction", "theta"} & each.evidence.keys()
        ]
        yield from known
        for certifier in () if known else _sources(case):
            try:
                certifier.work(case)
                found = certifier.prove(case, earlier)
            except (NotApplicableError, MemoryLimitError):
                continue
            if found.established:
                yield found

    def _down(self, case: Case, start: Tensor) -> Tensor:
        for _ in range(self.steps):
            if case.control.why_stop():
                break
            there = lowest_along(case, start, -case.objective.gradient(start))
            if there is start:
                break
            start = there
        return start


def _starts(case: Case, source: Certificate) -> Iterator[Tensor]:
    """The better point that a certificate shows, or the lowest on either side along its direction."""
    theta = source.evidence.get("theta")
    if isinstance(theta, Tensor):
        yield theta
        return
    direction = source.evidence["direction"]
    assert isinstance(direction, Tensor)
    for sign in (1.0, -1.0):
        end = lowest_along(case, case.theta, sign * direction)
        if end is not case.theta:
            yield end


def _sources(case: Case) -> list[Certifier]:
    """Whom to ask where nobody has been asked before; curvature only where it is cheap."""
    cheap: list[Certifier] = [NonzeroGradient(), FibreDescent()]
    return [*cheap, NegativeCurvature()] if case.theta.numel() <= DENSE else cheap


register_certifier(EscapeStep())
