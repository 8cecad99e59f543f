"""A claim cannot be made without what it rests on."""

from __future__ import annotations

import math

import pytest

from thalweg.certificates import Certificate, ClaimKind, Hypothesis, Level, Outcome, Scope, State

COMMON = {"name": "x", "kind": ClaimKind.LOWER_BOUND, "scope": Scope.FUNCTIONS, "source": "a book"}
MET, UNMET = Hypothesis("a holds", State.CHECKED, 0.1), Hypothesis("b holds", State.NOT_MET)


def test_a_claim_with_a_hypothesis_not_met_cannot_be_made() -> None:
    made = Certificate(**COMMON, outcome=Outcome.ESTABLISHED, claim="so", level=Level.RIGOROUS, hypotheses=(MET,))
    assert made.established
    assert made.describe() == "so (rigorous; a book)"
    with pytest.raises(ValueError, match="claimed although this does not hold: b holds"):
        Certificate(**COMMON, outcome=Outcome.ESTABLISHED, claim="so", level=Level.RIGOROUS, hypotheses=(MET, UNMET))


@pytest.mark.parametrize("bound", [math.inf, -math.inf, math.nan])
def test_a_bound_is_a_number(bound: float) -> None:
    with pytest.raises(ValueError, match="the bound is"):
        Certificate(**COMMON, outcome=Outcome.ESTABLISHED, claim="so", level=Level.RIGOROUS, bound=bound)


def test_claims_have_a_sentence_and_a_level_and_refusals_a_reason() -> None:
    with pytest.raises(ValueError, match="its level and its sentence"):
        Certificate(**COMMON, outcome=Outcome.ESTABLISHED, claim="so")
    with pytest.raises(ValueError, match="its level and its sentence"):
        Certificate(**COMMON, outcome=Outcome.ESTABLISHED, level=Level.NUMERIC)
    with pytest.raises(ValueError, match="needs a reason"):
        Certificate(**COMMON, outcome=Outcome.UNDECIDED)
    assert Certificate(**COMMON, outcome=Outcome.UNDECIDED, reason="why").describe() == "undecided: why"


def test_every_word_has_a_sentence() -> None:
    for kind in (ClaimKind, Scope, Level, State, Outcome):
        for member in kind:
            assert len(member.sentence) > 10
            assert kind(member.value) is member
