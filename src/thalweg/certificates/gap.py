"""How far the loss here is above the lowest it can be: its value less the best lower bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.figure import Figure
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError

__all__ = ["GapToLowerBound"]

_NEVER_NEGATIVE = (
    nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.SoftMarginLoss,
    nn.MultiLabelSoftMarginLoss, nn.MultiMarginLoss, nn.BCELoss,
)  # fmt: skip
"""Losses none of whose samples can have a negative loss, with weights that are not negative."""


@dataclass(frozen=True)
class GapToLowerBound(Certifier):
    """The value less the largest lower bound that was established, or less zero for a loss that is never negative."""

    name: ClassVar[str] = "gap"
    kind: ClassVar[ClaimKind] = ClaimKind.GAP
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "the value less a lower bound (elementary)"
    stage: ClassVar[int] = 60

    def work(self, case: Case) -> Work:
        """A few evaluations of the loss."""
        return Work(gradients=5 if case.bounded else 30)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Take the best of the lower bounds."""
        candidates = [
            _Floor(each.bound, each.level, each.name, each.hypotheses)
            for each in earlier
            if each.established
            and each.kind is ClaimKind.LOWER_BOUND
            and each.scope in (Scope.FUNCTIONS, Scope.ARCHITECTURE)
            and each.bound is not None
            and each.level is not None
        ]
        if _never_negative(case):
            candidates.append(_Floor(0.0, Level.RIGOROUS, "the loss is never negative", ()))
        if not candidates:
            raise NotApplicableError("it needs a lower bound of the loss, none was established")
        value = case.value
        if not math.isfinite(value.above):
            return self.undecided(f"the loss here is {value.value}")
        best = max(candidates, key=lambda floor: floor.bound)
        gap = max(0.0, value.above - best.bound)
        gap += 4 * UNIT * (abs(value.above) + abs(best.bound))
        level = _weaker(value, best)
        hypothesis = Hypothesis(f"the loss is nowhere below {best.bound:.8g}", _STATES[level], note=best.origin)
        return self.claimed(
            f"the loss, {value.value:.8g}, is at most {gap:.6g} above the lowest of all parameters",
            level=level,
            bound=gap,
            rounding=value.error,
            hypotheses=[hypothesis, *best.hypotheses],  # what the bound rests on, its gap rests on
            evidence={"lower bound": best.bound, "from": best.origin},
        )


@dataclass(frozen=True)
class _Floor:
    bound: float
    level: Level
    origin: str
    hypotheses: tuple[Hypothesis, ...]


_ORDER = (Level.RIGOROUS, Level.NUMERIC, Level.HEURISTIC)
_STATES = {Level.RIGOROUS: State.PROVED, Level.NUMERIC: State.CHECKED, Level.HEURISTIC: State.ASSUMED}


def _weaker(value: Figure, floor: _Floor) -> Level:
    return max(value.level, floor.level, key=_ORDER.index)


def _never_negative(case: Case) -> bool:
    """Whether every term is known not to be negative anywhere."""
    if not case.others_not_negative.met:
        return False
    risk = case.risk
    if risk is None:
        return all(getattr(term, "nonnegative", False) for term in case.terms)
    weights = (getattr(risk.loss, name, None) for name in ("weight", "pos_weight"))
    return type(risk.loss) in _NEVER_NEGATIVE and all(w is None or bool((w >= 0).all()) for w in weights)


register_certifier(GapToLowerBound())
