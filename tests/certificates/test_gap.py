"""The gap to the best lower bound, against infima in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gap_problems import ask, draw, perceptron
from torch import nn

import thalweg as tw
from thalweg.certificates import (
    Certificate,
    ClaimKind,
    GapToLowerBound,
    LabelCollisions,
    Level,
    Outcome,
    Scope,
    certify,
)


def floor(bound: float, **fields: object) -> Certificate:
    common = {"name": "a floor", "kind": ClaimKind.LOWER_BOUND, "scope": Scope.ARCHITECTURE, "source": "a test"}
    common |= {"outcome": Outcome.ESTABLISHED, "claim": "so", "level": Level.RIGOROUS, "bound": bound} | fields
    return Certificate(**common)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_line_through_collisions(scale: float) -> None:
    """Two targets at each input: the lowest loss is their spread, and the gap is what is left above it."""
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([[0.0], [2.0], [1.0], [5.0]], dtype=torch.float64) * scale
    risk = tw.EmpiricalRisk(nn.Linear(1, 1), nn.MSELoss(), x, y)
    theta = torch.tensor([0.5, 0.25], dtype=torch.float64) * scale
    collisions, gap = certify(risk, theta, [LabelCollisions(), GapToLowerBound()])
    lowest = (1 + 1 + 4 + 4) / 4 * scale**2
    assert collisions.bound == pytest.approx(lowest, rel=1e-12)
    assert gap.established
    assert gap.level is Level.RIGOROUS
    truth = float(risk.value(theta)) - lowest
    assert truth <= gap.bound <= truth * (1 + 1e-9)


def test_without_lower_bounds_the_loss_itself_is_the_gap() -> None:
    risk = tw.EmpiricalRisk(nn.Linear(2, 1), nn.HuberLoss(), draw(5, 2), draw(5, 1))
    found = ask(GapToLowerBound(), risk, risk.initial)
    assert found.bound == pytest.approx(float(risk.value(risk.initial)), rel=1e-9)
    assert found.evidence["from"] == "the loss is never negative"
    assert found.level is Level.NUMERIC


def test_the_best_lower_bound_counts_and_a_local_one_does_not() -> None:
    risk = tw.EmpiricalRisk(perceptron((2, 3, 1)), nn.MSELoss(), draw(5, 2), draw(5, 1) + 3)
    value = float(risk.value(risk.initial))
    found = ask(GapToLowerBound(), risk, risk.initial, (floor(0.1), floor(0.3, level=Level.NUMERIC), floor(0.2)))
    assert found.bound == pytest.approx(value - 0.3, rel=1e-9)
    assert found.level is Level.NUMERIC
    useless = (
        floor(0.5, scope=Scope.LINEARISED), floor(0.5, scope=Scope.BALL), floor(0.5, kind=ClaimKind.SUBOPTIMAL),
        replace(floor(0.5), outcome=Outcome.UNDECIDED, reason="unsure"),
    )  # fmt: skip
    found = ask(GapToLowerBound(), risk, risk.initial, useless)
    assert found.bound == pytest.approx(value, rel=1e-9)


def test_a_loss_that_may_be_negative_needs_a_lower_bound() -> None:
    counts = torch.tensor([[1.0], [5.0]])
    risk = tw.EmpiricalRisk(nn.Linear(1, 1), nn.PoissonNLLLoss(), draw(2, 1), counts)
    (alone,) = certify(risk, risk.initial, [GapToLowerBound()])
    assert alone.outcome is Outcome.NOT_APPLICABLE
    assert "a lower bound of the loss" in alone.reason
    _, found = certify(risk, risk.initial, [LabelCollisions(), GapToLowerBound()])
    assert found.established
    best = sum(y - y * math.log(y) for y in (1.0, 5.0)) / 2  # two inputs, two outputs: a line reaches both
    assert found.bound == pytest.approx(float(risk.value(risk.initial)) - best, rel=1e-9)


def test_a_term_of_unknown_sign_withdraws_it_and_weight_decay_does_not() -> None:
    risk = tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), draw(5, 2), draw(5, 1))
    assert ask(GapToLowerBound(), risk + tw.L2(risk, 0.1), risk.initial).established
    signless = risk + tw.Penalty(risk, lambda p: -(p["weight"] ** 2).sum(), name="reward")
    assert ask(GapToLowerBound(), signless, risk.initial).outcome is Outcome.NOT_APPLICABLE
    weighted = tw.EmpiricalRisk(
        nn.Linear(2, 2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, -0.5])), draw(3, 2), torch.tensor([0, 0, 1])
    )
    assert ask(GapToLowerBound(), weighted, weighted.initial).outcome is Outcome.NOT_APPLICABLE
