"""Bounds of parts of the data, added up: no parameters do better on all samples than the best do on each part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier, registered_certifiers
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, MemoryLimitError, NotApplicableError
from thalweg.objectives import EmpiricalRisk

__all__ = ["DisjointSubsets"]

_FIRM = (Level.RIGOROUS, Level.NUMERIC, Level.HEURISTIC)
_GLOBAL = (Scope.FUNCTIONS, Scope.ARCHITECTURE)
_LOOSE = (State.PROVED, State.CHECKED, State.ASSUMED)


class _Part(NamedTuple):
    """What was proved of one part: its bound in the units of the whole loss, and by which certificate."""

    bound: float
    by: Certificate | None


@dataclass(frozen=True, eq=False)
class DisjointSubsets(Certifier):
    """The sum of lower bounds over disjoint parts of the data.

    The least sum is no smaller than the sum of the least parts. Each part is bounded by the other certificates, with
    the weights that its samples have in the whole.

    Args:
        partition: ``(N,)``, the number of each sample's part; only the user knows a good one.
        by: certifiers that bound the parts; None takes the registered ones for lower bounds of a data term.
    """

    name: ClassVar[str] = "disjoint subsets"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "the infimum of a sum is no smaller than the sum of the infima (elementary)"
    stage: ClassVar[int] = 10

    partition: Tensor | Sequence[int] | None = None
    by: tuple[Certifier, ...] | None = None

    def work(self, case: Case) -> Work:
        """What the other certificates take, part by part."""
        risk = case.data_term()
        parts = self._parts(risk)
        if risk.factors is None:
            raise NotApplicableError(
                f"it needs a loss that gives one number for each sample, not {risk.loss_facts.name}"
            )
        total = Work(gradients=10.0 * len(parts))
        for certifier in self._certifiers():
            try:
                total = total + certifier.work(case)
            except NotApplicableError:
                continue
        return total

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Bound each part by the best of the certificates."""
        risk = case.data_term()
        found = []
        for part in self._parts(risk):
            why = case.control.why_stop()
            if why is not None:
                return self.not_attempted(why)
            found.append(self._bound(case, part))
        missing = sum(part is None for part in found)
        if missing:
            return self.undecided(f"no bound is known of {missing} of {len(found)} parts")
        parts = [part for part in found if part is not None]
        used = [part.by for part in parts if part.by is not None]
        total = math.fsum(part.bound for part in parts)
        bound = total - 4 * UNIT * abs(total)
        trivial = risk.output_infimum()
        if not used or (trivial is not None and bound <= trivial):
            return self.undecided("no part costs more than its samples do one by one")
        names = ", ".join(sorted({certificate.name for certificate in used}))
        level = max((c.level for c in used if c.level is not None), key=_FIRM.index)
        return self.claimed(
            f"no parameters have a loss below {bound:.8g}: the sum over {len(parts)} parts of the data, by {names}",
            level=level,
            bound=bound,
            rounding=math.fsum(c.rounding or 0.0 for c in used) + 4 * UNIT * abs(total),
            hypotheses=[*self._hypotheses(case, len(parts)), *_joined(used)],
            evidence={"parts": float(len(parts)), "parts with a bound": float(len(used))},
        )

    def _parts(self, risk: EmpiricalRisk) -> list[Tensor]:
        if self.partition is None:
            raise NotApplicableError(
                "it needs the parts; pass DisjointSubsets(partition=...), a number for each sample"
            )
        numbers = torch.as_tensor(self.partition)
        if numbers.shape != (risk.n_samples,) or numbers.is_floating_point():
            raise InvalidInputError(
                f"partition= must hold one whole number for each of the {risk.n_samples} samples, got {numbers.dtype} "
                f"of shape {tuple(numbers.shape)}"
            )
        return [(numbers == number).nonzero().squeeze(1) for number in numbers.unique()]

    def _certifiers(self) -> tuple[Certifier, ...]:
        if self.by is not None:
            return self.by
        return tuple(
            each
            for each in registered_certifiers()
            if each.kind is ClaimKind.LOWER_BOUND and each.stage <= self.stage and not isinstance(each, DisjointSubsets)
        )

    def _bound(self, case: Case, part: Tensor) -> _Part | None:
        """The best bound of one part; None where nothing is known, not even the sign."""
        risk = case.data_term()
        assert risk.factors is not None
        weights = risk.factors[part.to(risk.device)]
        if not bool((weights > 0).any()):
            return _Part(0.0, None)
        try:
            alone = risk.subset(part.to(risk.device))
        except InvalidInputError as error:
            raise NotApplicableError(f"it needs parts that are losses by themselves: {error}") from None
        assert alone.factors is not None
        place = int(weights.argmax())
        ratio = float(weights[place]) / float(alone.factors[place])  # means are taken over the part alone
        inner = case.of(alone)
        best = max((c for c in (_asked(one, inner) for one in self._certifiers()) if c), key=_bound, default=None)
        if best is not None:
            value = _bound(best) * ratio
            return _Part(value - 16 * UNIT * abs(value), best)
        least = alone.output_infimum()
        if least is None:
            return None
        return _Part(ratio * (least - 1e-12 * abs(least)), None)

    @staticmethod
    def _hypotheses(case: Case, parts: int) -> list[Hypothesis]:
        return [
            Hypothesis("the data term is a sum over samples", State.PROVED, note=case.data_term().loss_facts.name),
            Hypothesis("every sample is in exactly one part", State.PROVED, note=f"{parts} parts"),
            case.others_not_negative,
        ]


def _asked(certifier: Certifier, case: Case) -> Certificate | None:
    try:
        certifier.work(case)
        found = certifier.prove(case, ())
    except (NotApplicableError, MemoryLimitError):
        return None
    usable = found.kind is ClaimKind.LOWER_BOUND and found.scope in _GLOBAL
    return found if usable and found.established and found.bound is not None else None


def _bound(certificate: Certificate) -> float:
    assert certificate.bound is not None
    return certificate.bound


def _joined(used: Sequence[Certificate]) -> list[Hypothesis]:
    """What the bounds of the parts rest on, each hypothesis once, in its loosest state."""
    found: dict[str, Hypothesis] = {}
    for hypothesis in (h for certificate in used for h in certificate.hypotheses):
        held: Any = found.get(hypothesis.statement)
        if held is None or _LOOSE.index(hypothesis.state) > _LOOSE.index(held.state):
            found[hypothesis.statement] = hypothesis
    own = {"all other terms of the loss are not negative"}
    return [hypothesis for statement, hypothesis in found.items() if statement not in own]


register_certifier(DisjointSubsets())
