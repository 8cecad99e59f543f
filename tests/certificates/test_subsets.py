"""Sums of bounds over parts of the data: each part's weight in the whole, and what must withdraw them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from lower_bound_truths import affine, best_affine, squares
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import (
    Certificate,
    DisjointSubsets,
    LabelCollisions,
    Level,
    LinearNetwork,
    NearCollisions,
    Outcome,
    ParameterBox,
    State,
    certify,
)
from thalweg.foundation import InvalidInputError


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def ask(objective: tw.Objective, partition: object, *by: object) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    certifier = DisjointSubsets(partition, by or None)  # type: ignore[arg-type]
    return certify(objective, risk.initial, [certifier])[0]  # type: ignore[attr-defined]


HALVES = torch.arange(12) % 2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
def test_parts_keep_the_weights_they_have_in_the_whole(reduction: str, weighted: bool) -> None:
    x, y = draw(0, 12, 2), draw(1, 12, 2)
    w = draw(2, 12).abs() if weighted else None
    risk = tw.EmpiricalRisk(nn.Linear(2, 2).double(), nn.MSELoss(reduction=reduction), x, y, sample_weight=w)
    found = ask(risk, HALVES, LinearNetwork())
    count = 1 if reduction == "sum" else 24
    total = Fraction(0)
    for part in range(2):
        some = (part == HALVES).numpy()
        c = [Fraction(v) / count for v in (w[some].tolist() if w is not None else [1] * 6)]
        maps = best_affine(x.numpy()[some], y.numpy()[some], np.array([float(v) for v in c]), 2, intercept=True)
        total += squares(affine(x.numpy()[some], *maps), y.numpy()[some], c)
    assert found.level is Level.RIGOROUS
    assert found.bound is not None
    assert Fraction(found.bound) <= total
    assert found.bound == pytest.approx(float(total), rel=1e-9)
    whole = certify(risk, risk.initial, [LinearNetwork()])[0].bound
    assert whole is not None
    assert found.bound < whole  # each part has a fit of its own


def test_class_weights_change_the_mean_of_a_part() -> None:
    """The mean of weighted cross-entropy divides by the weights of the labels in it."""
    x = torch.zeros(4, 1, dtype=torch.float64)
    x[2:] = 1
    weight = torch.tensor([1.0, 4.0], dtype=torch.float64)
    risk = tw.EmpiricalRisk(nn.Linear(1, 2).double(), nn.CrossEntropyLoss(weight=weight), x, torch.tensor([0, 1, 0, 0]))
    found = ask(risk, [0, 0, 1, 1], LabelCollisions())
    entropy = -(1 / 5 * math.log(1 / 5) + 4 / 5 * math.log(4 / 5))
    assert found.bound == pytest.approx(entropy * 5 / 7, rel=1e-12)


def test_collisions_are_the_same_however_the_data_are_parted_between_them() -> None:
    x, y = draw(0, 4, 2)[torch.arange(12) // 3], draw(1, 12, 1)
    risk = tw.EmpiricalRisk(nn.Linear(2, 1).double(), nn.MSELoss(), x, y)
    whole = certify(risk, risk.initial, ["label collisions"])[0].bound
    assert ask(risk, torch.arange(12) // 6, LabelCollisions()).bound == pytest.approx(whole, rel=1e-12)
    cut = ask(risk, torch.arange(12) % 3, LabelCollisions())
    assert cut.outcome is Outcome.UNDECIDED


def test_the_registered_certificates_are_asked_by_themselves() -> None:
    x, y = draw(0, 12, 2), draw(1, 12, 2)
    found = ask(tw.EmpiricalRisk(nn.Linear(2, 2).double(), nn.MSELoss(), x, y), HALVES)
    assert found.established
    assert "linear network" in found.claim
    statements = {h.statement for h in found.hypotheses}
    assert statements >= {"every activation is linear", "every sample is in exactly one part"}


def test_what_a_part_rests_on_the_whole_rests_on() -> None:
    x, y = torch.zeros(4, 1, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64).unsqueeze(1)
    layer = nn.Linear(1, 1).double()
    nn.init.zeros_(layer.weight)
    risk = tw.EmpiricalRisk(layer, nn.MSELoss(), x, y)
    found = ask(risk, [0, 0, 1, 1], NearCollisions(2.0))
    assert found.bound == pytest.approx(2 * 0.5 / 4, rel=1e-9)
    assert any(h.state is State.ASSUMED for h in found.hypotheses)


def test_a_bound_near_the_point_is_none_of_the_whole() -> None:
    """A part bounded over a box only: not over all parameters, and not taken."""
    risk = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.MSELoss(), draw(0, 12, 1), draw(1, 12, 1))
    assert certify(risk, risk.initial, [ParameterBox(0.1, boxes=2000)])[0].established
    assert ask(risk, HALVES, ParameterBox(0.1, boxes=2000)).outcome is Outcome.UNDECIDED


# -- what must withdraw it ---------------------------------------------------------------------------------------------


def test_hypotheses_broken_one_by_one() -> None:
    x, y = draw(0, 12, 2), draw(1, 12, 2)
    risk = tw.EmpiricalRisk(nn.Linear(2, 2).double(), nn.MSELoss(), x, y)
    assert "it needs the parts" in ask(risk, None).reason
    own = tw.EmpiricalRisk(nn.Linear(2, 2).double(), lambda f, t: ((f - t) ** 2).mean(), x, y, reduction="mean")
    assert "one number for each sample" in ask(own, HALVES).reason
    reward = risk + tw.Penalty(risk, lambda p: -(p["weight"] ** 2).sum(), name="reward")
    assert ask(reward, HALVES, LinearNetwork()).outcome is Outcome.NOT_APPLICABLE
    assert ask(risk + tw.L2(risk, 0.1), HALVES, LinearNetwork()).bound == ask(risk, HALVES, LinearNetwork()).bound
    bent = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    assert ask(tw.EmpiricalRisk(bent, nn.MSELoss(), x, y), HALVES, LinearNetwork()).outcome is Outcome.UNDECIDED


def test_samples_without_weight_and_losses_below_zero() -> None:
    x, y = draw(0, 12, 2), draw(1, 12, 2)
    w = HALVES.double()
    risk = tw.EmpiricalRisk(nn.Linear(2, 2).double(), nn.MSELoss(), x, y, sample_weight=w)
    some = certify(risk, risk.initial, [LinearNetwork()])[0].bound
    assert ask(risk, HALVES, LinearNetwork()).bound == pytest.approx(some, rel=1e-12)
    counts = torch.tensor([[50.0], [60.0], [50.0], [70.0]], dtype=torch.float64)
    places = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    poisson = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.PoissonNLLLoss(), places, counts)
    whole = certify(poisson, poisson.initial, ["label collisions"])[0].bound
    found = ask(poisson, [0, 0, 1, 1], LabelCollisions()).bound
    assert whole is not None
    assert found is not None
    assert whole < 0
    assert whole - 1e-9 * abs(whole) <= found <= whole + 1e-12 * abs(whole)


def test_labels_that_are_ignored_throughout_a_part() -> None:
    labels = torch.tensor([0, 1, -100, -100])
    risk = tw.EmpiricalRisk(nn.Linear(1, 2).double(), nn.CrossEntropyLoss(), torch.zeros(4, 1), labels)
    assert "losses by themselves" in ask(risk, [0, 0, 1, 1], LabelCollisions()).reason


def test_partitions_are_checked() -> None:
    risk = tw.EmpiricalRisk(nn.Linear(2, 2).double(), nn.MSELoss(), draw(0, 12, 2), draw(1, 12, 2))
    for bad in (torch.zeros(5, dtype=torch.int64), torch.zeros(12)):
        with pytest.raises(InvalidInputError, match="one whole number for each of the 12 samples"):
            ask(risk, bad)
