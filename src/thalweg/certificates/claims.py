"""What a certificate is: one statement about a point, with everything it rests on.

A certificate is *established*, or it says why it is not. It never guesses: what cannot be told is *undecided*, and what
does not concern the problem at hand is *not applicable*, with the hypothesis that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from torch import Tensor

from thalweg.certificates.work import Work

__all__ = ["Certificate", "ClaimKind", "Hypothesis", "Level", "Outcome", "Scope", "State"]


class _Described(Enum):
    """Members with a value and a sentence for people."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> _Described:
        member = object.__new__(cls)
        member._value_ = value
        member.sentence = sentence
        return member


class ClaimKind(Enum):
    """What a certificate claims: a name, what it means, and what it does not mean."""

    sentence: str
    caution: str

    def __new__(cls, value: str, sentence: str, caution: str) -> ClaimKind:
        """A member that carries both sentences."""
        member = object.__new__(cls)
        member._value_ = value
        member.sentence, member.caution = sentence, caution
        return member

    LOWER_BOUND = (
        "lower bound",
        "No parameters whatever bring the loss below the bound.",
        "That any parameters reach it.",
    )
    GAP = (
        "gap",
        "The loss here is above the lowest it can be by no more than the bound.",
        "That this is a minimum: the lowest loss may lie elsewhere, or at infinity.",
    )
    EXISTENCE = (
        "existence",
        "Exact parameters with the property stated lie within the bound, a distance.",
        "That the point itself has the property.",
    )
    NOT_A_MINIMUM = (
        "not a minimum",
        "The point is no local minimum of the loss; the move that lowers it is shown.",
        "That a minimum is near, or that the loss can be lowered by much.",
    )
    SUBOPTIMAL = (
        "suboptimal",
        "Other parameters have a loss lower by at least the bound; they are shown.",
        "That those are a minimum.",
    )
    NOT_ATTAINED = (
        "not attained",
        "No parameters whatever attain the lowest loss: training can go on for ever.",
        "That training fails: accuracy may be perfect.",
    )
    IDENTITY = (
        "identity",
        "An identity holds that must hold, of derivatives or at every critical point.",
        "Anything about optimality: it is a test of the gradient, or of stationarity.",
    )


class Scope(_Described):
    """Over what a claim ranges."""

    FUNCTIONS = ("all functions", "whatever the network: over all functions of its inputs")
    ARCHITECTURE = ("this architecture", "over all parameters of this network, on this data")
    LINEARISED = ("linearised model", "over the model linear in its parameters at this point, not over the network")
    BALL = ("nearby", "within the distance stated of this point")
    POINT = ("this point", "at this point")

    @property
    def ranges_over_network(self) -> bool:
        """Whether what holds over it holds over all parameters of the network."""
        return self in (Scope.FUNCTIONS, Scope.ARCHITECTURE)


class Level(_Described):
    """How firmly the arithmetic of a claim is established."""

    RIGOROUS = ("rigorous", "proved, rounding errors included (IEEE arithmetic, elementary functions within 4 ulp)")
    NUMERIC = ("numeric", "computed in float64 with an error estimated, not proved")
    HEURISTIC = ("heuristic", "by sampling or an asymptotic formula")


class State(_Described):
    """How a hypothesis stands."""

    PROVED = ("proved", "proved here, rounding errors included")
    CHECKED = ("checked", "checked numerically")
    ASSUMED = ("assumed", "taken for granted, or declared by the user")
    NOT_MET = ("not met", "does not hold, or could not be shown to hold")


class Outcome(_Described):
    """What became of an attempt."""

    ESTABLISHED = ("established", "The claim holds.")
    NOT_APPLICABLE = ("not applicable", "A hypothesis of the theorem does not hold here.")
    UNDECIDED = ("undecided", "The theorem applies, but the claim could not be shown with it.")
    NOT_ATTEMPTED = ("not attempted", "It would have taken more time or memory than there is.")


@dataclass(frozen=True)
class Hypothesis:
    """One condition of a theorem, and how it stands here.

    Attributes:
        statement: the condition, as a sentence fragment: ``"the loss is convex in the outputs"``.
        state: how it stands.
        margin: how far the condition is from failing, in its own units; None for yes or no.
        note: what it rests on.
    """

    statement: str
    state: State
    margin: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the claim may rest on it."""
        return self.state is not State.NOT_MET


@dataclass(frozen=True, repr=False, eq=False)
class Certificate:
    """One statement about a point.

    Attributes:
        name: of the certificate, as in the registry.
        kind: what it claims.
        scope: over what.
        source: paper and theorem, or the textbook argument.
        outcome: whether it was established; if not, `reason` says why.
        claim: the statement with its figures, one sentence; empty unless established.
        reason: why it was not established; empty if it was.
        bound: the figure claimed, rounding error already taken off on the safe side: a loss, a difference of losses or
            a distance, by `kind`. None where the claim has none.
        rounding: how much was taken off for rounding.
        level: how firmly; None unless established.
        hypotheses: what it rests on, one by one.
        evidence: what proves it, by name: better parameters, a direction, a spectrum. Flat parameter vectors ``(P,)``
            are named ``theta`` (better parameters) or ``direction``.
        work: what it cost, as predicted.
        seconds: what it took.
    """

    name: str
    kind: ClaimKind
    scope: Scope
    source: str
    outcome: Outcome
    claim: str = ""
    reason: str = ""
    bound: float | None = None
    rounding: float | None = None
    level: Level | None = None
    hypotheses: tuple[Hypothesis, ...] = ()
    evidence: Mapping[str, Tensor | float | str] = field(default_factory=lambda: MappingProxyType({}))
    work: Work = field(default_factory=Work)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.established:
            if not self.reason:
                raise ValueError(f"{self.name}: what is not established needs a reason")
            return
        if self.level is None or not self.claim:
            raise ValueError(f"{self.name}: a claim needs its level and its sentence")
        missing = [hypothesis.statement for hypothesis in self.hypotheses if not hypothesis.met]
        if missing:
            raise ValueError(f"{self.name}: claimed although this does not hold: {'; '.join(missing)}")
        if self.bound is not None and not math.isfinite(self.bound):
            raise ValueError(f"{self.name}: the bound is {self.bound}")

    @property
    def established(self) -> bool:
        """Whether the claim holds."""
        return self.outcome is Outcome.ESTABLISHED

    def describe(self) -> str:
        """One line: the claim, or why there is none."""
        if self.established:
            assert self.level is not None
            return f"{self.claim} ({self.level.value}; {self.source})"
        return f"{self.outcome.value}: {self.reason}"

    def __repr__(self) -> str:
        return f"<Certificate {self.name}: {self.describe()}>"
