"""The bound for near collisions: against minimisation over outputs that obey the Lipschitz constant."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, NearCollisions, Outcome, State, certify
from thalweg.certificates.near_collisions import logistic_pair, row_norms
from thalweg.foundation import InvalidInputError


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def flat(d: int, q: int) -> nn.Linear:
    """A network that is constant where it stands, and so obeys every constant."""
    layer = nn.Linear(d, q).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def ask(objective: tw.Objective, constant: float | None) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    return certify(objective, risk.initial, [NearCollisions(constant)])[0]  # type: ignore[attr-defined]


def test_norms_are_enclosed() -> None:
    for scale in (1e-200, 1e-6, 1.0, 1e200):
        rows = scale * draw(0, 5, 7)
        low, high = row_norms(rows)
        with mpmath.workdps(40):
            for row, a, b in zip(rows.tolist(), low.tolist(), high.tolist(), strict=True):
                truth = mpmath.sqrt(sum(mpmath.mpf(v) ** 2 for v in row))
                assert a <= truth <= b
                assert b - a <= 1e-14 * b


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1.0, 1e6])
def test_one_pair_of_squares_in_closed_form(scale: float) -> None:
    """Of 2 x 2 cases: the two outputs move towards each other until they are as far apart as allowed."""
    x = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
    y, w = torch.tensor([[1.0], [-2.0]], dtype=torch.float64), torch.tensor([scale, 3 * scale], dtype=torch.float64)
    found = ask(tw.EmpiricalRisk(flat(1, 1), nn.MSELoss(), x, y, sample_weight=w), 5.0)
    truth = scale / 2 * 3 / 4 * (3 - 0.5) ** 2
    assert found.level is Level.RIGOROUS
    assert found.bound == pytest.approx(truth, rel=1e-13)
    assert found.bound is not None
    assert found.bound <= truth * (1 + 1e-15)


@pytest.mark.parametrize("a", [1.0, 0.3, 1e-6])
@pytest.mark.parametrize("together", [0.0, 0.5, 3.0, 40.0, 700.0, 1e5])
def test_one_pair_of_labels_against_minimisation(a: float, together: float) -> None:
    """``min over u of a log(1 + exp(-u)) + b log(1 + exp(u - t))``, in 40 digits."""
    tensor = [torch.tensor([v], dtype=torch.float64) for v in (together, a, 1.0)]
    found = float(logistic_pair(*tensor))
    with mpmath.workdps(40):
        t, weight = mpmath.mpf(together), mpmath.mpf(a)

        def slope(u: mpmath.mpf) -> mpmath.mpf:
            return -weight / (1 + mpmath.exp(u)) + 1 / (1 + mpmath.exp(t - u))

        low, high = -mpmath.mpf(50), t + 50
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        truth = weight * mpmath.log1p(mpmath.exp(-low)) + mpmath.log1p(mpmath.exp(low - t))
    assert found <= float(truth) + 1e-15 * (1 + a)
    assert found >= float(truth) - 1e-13 * (1 + a)


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_labels_against_minimisation_over_outputs(classes: int, seed: int) -> None:
    """The best of all outputs that obey the constant is no lower; for two samples of two classes it is the bound."""
    n, constant = 4 if classes == 3 else 2, 1.5
    x = draw(seed, n, 2)
    labels = torch.arange(n) % max(2, classes)
    targets = labels.double().unsqueeze(1) if classes == 1 else labels
    loss: nn.Module = nn.BCEWithLogitsLoss() if classes == 1 else nn.CrossEntropyLoss()
    found = ask(tw.EmpiricalRisk(flat(2, classes), loss, x, targets), constant)
    pairs = list(itertools.combinations(range(n), 2))

    def value(f: np.ndarray) -> float:
        return float(loss(torch.from_numpy(f.reshape(n, classes)), targets))

    def room(f: np.ndarray) -> np.ndarray:
        table = f.reshape(n, classes)
        return np.array([constant**2 * float((x[i] - x[j]) @ (x[i] - x[j])) - ((table[i] - table[j]) ** 2).sum()
                         for i, j in pairs])  # fmt: skip

    best = scipy.optimize.minimize(
        value, np.zeros(n * classes), method="SLSQP", constraints={"type": "ineq", "fun": room},
        options={"maxiter": 500, "ftol": 1e-14},
    )  # fmt: skip
    assert found.bound is not None
    assert found.bound <= best.fun + 1e-9
    if n == 2:
        assert found.bound == pytest.approx(best.fun, rel=1e-4)


def test_pairs_do_not_share_samples() -> None:
    """Three samples at one place: only one pair counts, though every pair collides."""
    x, y = torch.zeros(3, 1, dtype=torch.float64), torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    found = ask(tw.EmpiricalRisk(flat(1, 1), nn.MSELoss(reduction="sum"), x, y), 0.0)
    assert found.evidence["pairs"] == 1
    assert found.bound == pytest.approx(25 / 2, rel=1e-12)


def test_without_steepness_it_is_near_the_collision_bound() -> None:
    x, y = draw(0, 6, 2)[torch.arange(12) // 2], draw(1, 12, 3)
    risk = tw.EmpiricalRisk(flat(2, 3), nn.MSELoss(), x, y)
    exact = certify(risk, risk.initial, ["label collisions"])[0].bound
    # far inputs may differ as they like, near ones not at all
    found = ask(risk, 1e6)
    assert found.bound == pytest.approx(exact, rel=1e-9)


def test_frozen_weights_give_the_constant() -> None:
    """Only biases are free: the steepest the network can be is known."""
    x, y = torch.tensor([[0.0, 0.0], [1e-3, 0.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(reduction="sum"), x, y, parameters="*bias")
    found = ask(risk, None)
    product = float(model[0].weight.detach().norm() * model[2].weight.detach().norm())
    assert found.bound == pytest.approx((1 - product * float(x[1, 0])) ** 2 / 2, rel=1e-6)
    assert any(h.state is State.PROVED and "for all parameters" in h.statement for h in found.hypotheses)
    freed = ask(tw.EmpiricalRisk(model, nn.MSELoss(), x, y), None)
    assert "pass NearCollisions(lipschitz=...)" in freed.reason


# -- what must withdraw or weaken it -----------------------------------------------------------------------------------


def colliding(loss: nn.Module | None = None, targets: Tensor | None = None) -> tw.EmpiricalRisk:
    x = torch.tensor([[0.0], [0.01]], dtype=torch.float64)
    y = torch.tensor([[0.0], [1.0]], dtype=torch.float64) if targets is None else targets
    return tw.EmpiricalRisk(flat(1, y.shape[1] if y.dim() == 2 else 2), loss or nn.MSELoss(), x, y)


def test_it_rests_on_the_users_word_and_is_checked() -> None:
    risk = colliding()
    found = ask(risk, 2.0)
    assert found.established
    assert [h.state for h in found.hypotheses if "parameters admitted" in h.statement] == [State.ASSUMED]
    steep = torch.tensor([2.5, 0.0], dtype=torch.float64)
    refused = certify(risk, steep, [NearCollisions(2.0)])[0]
    assert refused.outcome is Outcome.NOT_APPLICABLE
    assert "further apart than that" in refused.reason
    assert certify(risk, steep, [NearCollisions(3.0)])[0].established


def test_moving_targets_or_inputs_withdraws_it() -> None:
    assert ask(colliding(targets=torch.tensor([[0.0], [0.01]], dtype=torch.float64)), 2.0).outcome is Outcome.UNDECIDED
    assert ask(colliding(), 200.0).outcome is Outcome.UNDECIDED
    assert ask(colliding(nn.CrossEntropyLoss(), torch.tensor([1, 1])), 2.0).outcome is Outcome.UNDECIDED
    far = ask(colliding(nn.CrossEntropyLoss(), torch.tensor([0, 1])), 2.0).bound
    assert far == pytest.approx(math.log1p(math.exp(-0.01 / math.sqrt(2) * 2)), rel=1e-9)


def test_losses_and_penalties() -> None:
    soft = colliding(nn.CrossEntropyLoss(label_smoothing=0.1), torch.tensor([0, 1]))
    assert "hard labels" in ask(soft, 2.0).reason
    assert not ask(colliding(nn.HuberLoss()), 2.0).established
    risk = colliding()
    assert ask(risk + tw.L2(risk, 0.1), 2.0).bound == ask(risk, 2.0).bound
    assert not ask(risk + tw.Penalty(risk, lambda p: -(p["weight"] ** 2).sum(), name="reward"), 2.0).established


def test_class_weights_and_ignored_labels() -> None:
    x, labels = torch.zeros(3, 1, dtype=torch.float64), torch.tensor([0, 1, 2])
    weight = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    risk = tw.EmpiricalRisk(flat(1, 3), nn.CrossEntropyLoss(weight=weight, ignore_index=2), x, labels)
    found = ask(risk, 1.0)
    # the entropy of weights 1 and 3 out of a total of 4
    assert found.bound == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), rel=1e-9)


def test_settings_are_checked() -> None:
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(InvalidInputError, match="a Lipschitz constant is finite and not negative"):
            NearCollisions(bad)
