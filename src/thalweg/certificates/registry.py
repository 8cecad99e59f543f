"""The registry of certificates, and the runner that asks those which can be afforded."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Outcome, Scope
from thalweg.certificates.work import Work
from thalweg.foundation import (
    InvalidInputError,
    MemoryLimitError,
    NotApplicableError,
    RunControl,
    current_limit,
    format_bytes,
    parse_duration,
    progress_bar,
)
from thalweg.objectives import Objective

__all__ = ["AFFORDABLE", "Certifier", "certify", "register_certifier", "registered_certifiers"]

AFFORDABLE = 60.0
"""Seconds that all certificates may take by prediction where no budget was given, or one that was asked for by name."""


class Certifier(ABC):
    """A theorem that can be asked whether it applies, what that costs, and what it says.

    A subclass declares what it claims and writes `prove`; it raises `NotApplicableError` where a hypothesis that can
    be seen without effort is missing, and returns `declined` with all hypotheses where one fails on the way.
    Instances hold settings only, and are registered with `register_certifier`.

    Attributes:
        name: short, in words.
        kind: what it claims.
        scope: over what.
        source: paper and theorem, or the textbook argument.
        stage: place in the order of asking; lower bounds come before the gaps that use them.
    """

    name: ClassVar[str]
    kind: ClassVar[ClaimKind]
    scope: ClassVar[Scope]
    source: ClassVar[str]
    stage: ClassVar[int] = 50

    def work(self, case: Case) -> Work:
        """Predicted cost; raises `NotApplicableError` where it can be seen that the theorem does not apply.

        Args:
            case: the problem.
        """
        return Work()

    @abstractmethod
    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Try it.

        Args:
            case: the problem.
            earlier: certificates of the same point made before this one.

        Raises:
            NotApplicableError: where the theorem does not apply.
            MemoryLimitError: where it does not fit.
        """

    # -- what it may return --------------------------------------------------------------------------------------------

    def claimed(
        self,
        claim: str,
        *,
        level: Level,
        bound: float | None = None,
        rounding: float | None = None,
        hypotheses: Iterable[Hypothesis] = (),
        evidence: Mapping[str, Tensor | float | str] | None = None,
        scope: Scope | None = None,
    ) -> Certificate:
        """The claim is established; if a hypothesis is not met after all, it is declined instead."""
        conditions = tuple(hypotheses)
        if not all(hypothesis.met for hypothesis in conditions):
            return self.declined(conditions)
        return self._made(
            Outcome.ESTABLISHED,
            claim=claim,
            level=level,
            bound=bound,
            rounding=rounding,
            hypotheses=conditions,
            evidence=evidence or {},
            scope=scope or self.scope,
        )

    def declined(self, hypotheses: Iterable[Hypothesis], reason: str = "") -> Certificate:
        """A hypothesis does not hold."""
        conditions = tuple(hypotheses)
        missing = [_missing(hypothesis) for hypothesis in conditions if not hypothesis.met]
        why = reason or f"it needs that {'; and that '.join(missing)}"
        return self._made(Outcome.NOT_APPLICABLE, reason=why, hypotheses=conditions)

    def undecided(
        self,
        reason: str,
        hypotheses: Iterable[Hypothesis] = (),
        evidence: Mapping[str, Tensor | float | str] | None = None,
    ) -> Certificate:
        """The theorem applies, and does not decide."""
        return self._made(Outcome.UNDECIDED, reason=reason, hypotheses=tuple(hypotheses), evidence=evidence or {})

    def not_attempted(self, reason: str, work: Work | None = None) -> Certificate:
        """It was not tried."""
        return self._made(Outcome.NOT_ATTEMPTED, reason=reason, work=work or Work())

    def _made(self, outcome: Outcome, **fields: object) -> Certificate:
        fields.setdefault("scope", self.scope)
        return Certificate(name=self.name, kind=self.kind, source=self.source, outcome=outcome, **fields)  # type: ignore[arg-type]  # passed through by name


def _missing(hypothesis: Hypothesis) -> str:
    return f"{hypothesis.statement} ({hypothesis.note})" if hypothesis.note else hypothesis.statement


_REGISTERED: dict[str, Certifier] = {}


def register_certifier(certifier: Certifier) -> Certifier:
    """Add a certifier, one's own for example; it is then asked at every inspection.

    Raises:
        InvalidInputError: if the name is taken by another class.
    """
    taken = _REGISTERED.get(certifier.name)
    if taken is not None and type(taken) is not type(certifier):
        raise InvalidInputError(f"there is a certifier named {certifier.name!r} already, a {type(taken).__name__}")
    _REGISTERED[certifier.name] = certifier
    return certifier


def registered_certifiers() -> tuple[Certifier, ...]:
    """All certifiers, in the order in which they are asked."""
    return tuple(sorted(_REGISTERED.values(), key=lambda certifier: (certifier.stage, certifier.name)))


def certify(
    objective: Objective,
    theta: Float[Tensor, " P"],
    certificates: Iterable[str | Certifier] | None = None,
    *,
    budget: float | str | None = None,
    seed: int = 0,
    control: RunControl | None = None,
    hessian: Float[Tensor, "P P"] | None = None,
    show_progress: bool | None = None,
) -> tuple[Certificate, ...]:
    """Ask certifiers what can be proved of a loss at a point.

    Ctrl-C ends the asking early; what was proved until then is returned, the rest is named as not attempted.

    Args:
        objective: the loss, in float64.
        theta: ``(P,)``.
        certificates: names of registered certifiers, or certifiers; None asks all.
        budget: seconds for all, or a text such as ``"2m"``. None gives a minute, or as long as the run that this is
            part of has taken. Of all certifiers none is begun that would take more than half of what is left, by
            prediction; one asked for by name may take a minute, or all that is left of a budget.
        seed: of random choices.
        control: of a longer run that this is part of.
        hessian: ``(P, P)`` at theta, where it is known already.
        show_progress: None shows a bar in a terminal.

    Returns:
        One certificate for each that was asked, in the order of asking; also those not established, with the reason.

    Raises:
        InvalidInputError: for an unknown name, a batch of points, or an objective in single precision.

    >>> from thalweg.zoo import Quadratic
    >>> found = certify(Quadratic([1.0, 2.0]), torch.ones(2), ["gradient"])
    >>> found[0].established, found[0].kind.value
    (True, 'not a minimum')
    """
    chosen = _chosen(certificates)
    running = control or RunControl(parse_duration(budget), None)
    case = Case(objective, theta, seed=seed, control=running, hessian=hessian)
    purse = _Purse(running, everything=certificates is None)
    found: list[Certificate] = []
    with progress_bar("certifying", total=len(chosen), show=show_progress) as bar:
        for number, certifier in enumerate(chosen):
            bar.update(number, description=f"certifying: {certifier.name}")
            try:
                found.append(_ask(certifier, case, found, purse))
            except KeyboardInterrupt:
                found.extend(each.not_attempted("interrupted") for each in chosen[number:])
                break
    return tuple(found)


def _chosen(certificates: Iterable[str | Certifier] | None) -> list[Certifier]:
    if certificates is None:
        return list(registered_certifiers())
    if isinstance(certificates, str):
        certificates = [certificates]
    found = []
    for each in certificates:
        if isinstance(each, str) and each not in _REGISTERED:
            raise InvalidInputError(f"no certificate is named {each!r}; there are {', '.join(sorted(_REGISTERED))}")
        found.append(_REGISTERED[each] if isinstance(each, str) else each)
    return sorted(found, key=lambda certifier: certifier.stage)


class _Purse:
    """How long the next certificate may take: half of what is left, so that a dear one leaves something for others."""

    def __init__(self, control: RunControl, *, everything: bool) -> None:
        self.control, self.everything = control, everything
        self.end = control.elapsed() + max(AFFORDABLE, control.elapsed())

    def allows(self) -> float:
        """Seconds."""
        if self.control.budget is not None:
            left = self.control.remaining()
        elif self.everything:
            left = max(0.0, self.end - self.control.elapsed())
        else:
            return AFFORDABLE
        return left / 2 if self.everything else left


def _ask(certifier: Certifier, case: Case, earlier: Sequence[Certificate], purse: _Purse) -> Certificate:
    started = time.perf_counter()
    work = Work()
    try:
        why = case.control.why_stop()
        if why is not None:
            return certifier.not_attempted(why)
        work = certifier.work(case)
        too_dear = _too_dear(work, case, purse)
        case.begin()
        found = certifier.not_attempted(too_dear, work) if too_dear else certifier.prove(case, earlier)
        if found.established and case.rests_on_description:
            found = _with_description(found, case)
    except NotApplicableError as error:
        found = certifier.declined((), str(error))
    except MemoryLimitError as error:
        found = certifier.not_attempted(str(error), work)
    return replace(found, work=work, seconds=time.perf_counter() - started)


def _with_description(found: Certificate, case: Case) -> Certificate:
    """What rests on the description of the network says so."""
    if any(hypothesis.statement == case.described.statement for hypothesis in found.hypotheses):
        return found
    return replace(found, hypotheses=(*found.hypotheses, case.described))


def _too_dear(work: Work, case: Case, purse: _Purse) -> str:
    if work.bytes > current_limit():
        limit = format_bytes(current_limit())
        return f"it would take {work.describe()}, and requests are limited to {limit} (THALWEG_MEMORY sets the limit)"
    if not work.gradients and not work.flops:
        return ""
    seconds = work.seconds(case.gradient_seconds if work.gradients else 0.0, flops_per_second())
    allowed = purse.allows()
    if seconds <= allowed:
        return ""
    return f"it would take about {seconds:.2g} s ({work.describe()}), and no more than {allowed:.2g} s may go to it"


_SPEED: list[float] = []


def flops_per_second() -> float:
    """Speed of matrix products here, measured once."""
    if not _SPEED:
        size = 256
        matrix = torch.ones(size, size, dtype=torch.float64)
        times = []
        for _ in range(8):  # the fastest of several: other work slows some of them down
            started = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - started)
        _SPEED.append(2 * size**3 / max(min(times), 1e-9))
    return _SPEED[0]
