"""The lowest loss of linear networks: against explicit fits, training, and everything that must withdraw it."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from lower_bound_truths import affine, best_affine, exact, squares
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, LinearNetwork, Outcome, certify
from thalweg.certificates.linear_network import affine_maps
from thalweg.structure import trace

SEEDS = range(3)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def chain(*widths: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths))).double()


def ask(objective: tw.Objective) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    return certify(objective, risk.initial, [LinearNetwork()])[0]  # type: ignore[attr-defined]


WIDTHS = [(4, 3), (4, 5, 3), (4, 2, 3), (4, 1, 6, 3), (4, 3, 2, 2, 3), (2, 8, 5), (5, 1)]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_bound_is_the_minimum(widths: tuple[int, ...], bias: bool, weighted: bool) -> None:
    x, y = draw(0, 30, widths[0]) + 1, draw(1, 30, widths[-1]) + 2
    w = draw(2, 30).abs() if weighted else None
    found = ask(tw.EmpiricalRisk(chain(*widths, bias=bias), nn.MSELoss(), x, y, sample_weight=w))
    c = [Fraction(v) / (30 * widths[-1]) for v in (w.tolist() if w is not None else [1] * 30)]
    maps = best_affine(x.numpy(), y.numpy(), np.array([float(v) for v in c]), min(widths), intercept=bias)
    truth = squares(affine(x.numpy(), *maps), y.numpy(), c)
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    assert found.bound is not None
    assert Fraction(found.bound) <= truth
    assert found.bound == pytest.approx(float(truth), rel=1e-9)
    assert found.claim.startswith("the lowest loss of all is")


@pytest.mark.parametrize("seed", SEEDS)
def test_training_reaches_the_bound_and_goes_no_lower(seed: int) -> None:
    x, y = draw(seed, 25, 3), draw(seed + 1, 25, 3)
    model = chain(3, 1, 4, 3)
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(draw(seed + 10 + number, *p.shape))
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    bound = ask(risk).bound
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_grad=1e-10, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.mse_loss(model(x), y)
        value.backward()
        return value

    optimizer.step(closure)
    trained = float(closure().detach())
    assert bound is not None
    assert bound <= trained <= bound * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales_of_inputs_and_targets(scale: float) -> None:
    x, y = draw(0, 20, 3), draw(1, 20, 2)
    plain, scaled = (ask(tw.EmpiricalRisk(chain(3, 1, 2), nn.MSELoss(), a, b)).bound
                     for a, b in ((x, y), (x / scale, y * scale)))  # fmt: skip
    assert plain is not None
    assert scaled == pytest.approx(plain * scale**2, rel=1e-9)


def test_the_figure_of_the_diabetes_data() -> None:
    """Half the mean squared error of a linear model, targets standardised."""
    from sklearn import datasets

    data = datasets.load_diabetes()
    y = torch.from_numpy((data.target - data.target.mean()) / data.target.std()).unsqueeze(1)
    found = ask(tw.EmpiricalRisk(chain(10, 1), nn.MSELoss(), torch.from_numpy(data.data), y))
    assert found.bound is not None
    assert found.bound / 2 == pytest.approx(0.24112579, abs=1e-8)


class Sequences(nn.Module):
    """One map for every position, inputs ``(N, T, d)``."""

    def __init__(self) -> None:
        super().__init__()
        self.map = chain(3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


def test_every_position_of_a_sequence_is_a_row() -> None:
    x, y, w = draw(0, 10, 4, 3), draw(1, 10, 4, 2), draw(2, 10).abs()
    found = ask(tw.EmpiricalRisk(Sequences(), nn.MSELoss(), x, y, sample_weight=w))
    c = [Fraction(v) / 80 for v in w.tolist() for _ in range(4)]
    rows, targets = x.reshape(40, 3).numpy(), y.reshape(40, 2).numpy()
    maps = best_affine(rows, targets, np.array([float(v) for v in c]), 1, intercept=True)
    assert found.bound == pytest.approx(float(squares(affine(rows, *maps), targets, c)), rel=1e-9)


def test_a_bias_before_the_narrowest_layer_counts_towards_the_rank() -> None:
    """``B x + b`` with B and b together of rank one: between the fits with and without a free bias."""
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 4, bias=False)).double()
    x, y = draw(0, 20, 3), draw(1, 20, 4) + torch.tensor([3.0, -3.0, 1.0, 0.0])
    dense = trace(model, x).as_dense()  # type: ignore[union-attr]
    assert dense is not None
    assert [maps.bias for maps in affine_maps(dense)] == ["free", "inside"]
    found = ask(tw.EmpiricalRisk(model, nn.MSELoss(), x, y))
    with_one = np.concatenate([x.numpy(), np.ones((20, 1))], 1)
    truth = squares(affine(with_one, *best_affine(with_one, y.numpy(), np.ones(20), 1, intercept=False)),
                    y.numpy(), exact(np.ones(20))) / 80  # fmt: skip
    assert found.bound is not None
    assert Fraction(found.bound) <= truth
    assert found.bound == pytest.approx(float(truth), rel=1e-9)


# -- what must withdraw or weaken it -----------------------------------------------------------------------------------


def test_a_bend_withdraws_it() -> None:
    x, y = draw(0, 12, 3), draw(1, 12, 2)
    bent = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    found = ask(tw.EmpiricalRisk(bent, nn.MSELoss(), x, y))
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "is followed by tanh" in found.reason
    assert "needs squared errors" in ask(tw.EmpiricalRisk(chain(3, 2), nn.L1Loss(), x, y)).reason


def test_penalties() -> None:
    x, y = draw(0, 12, 3), draw(1, 12, 2)
    risk = tw.EmpiricalRisk(chain(3, 2), nn.MSELoss(), x, y)
    decayed = ask(risk + tw.L2(risk, 0.1))
    assert decayed.bound == ask(risk).bound
    assert decayed.claim.startswith("no parameters have a loss below")  # the minimum itself is higher
    reward = ask(risk + tw.Penalty(risk, lambda p: -(p["0.weight"] ** 2).sum(), name="reward"))
    assert reward.outcome is Outcome.NOT_APPLICABLE
    assert "all other terms of the loss are not negative" in reward.reason


def test_frozen_and_shared_parameters_leave_a_bound_but_no_minimum() -> None:
    x, y = draw(0, 12, 3), draw(1, 12, 3)
    risk = tw.EmpiricalRisk(chain(3, 3, 3), nn.MSELoss(), x, y, parameters="1.*")
    assert ask(risk).claim.startswith("no parameters")
    model = chain(3, 3, 3)
    model[1].weight = model[0].weight
    assert ask(tw.EmpiricalRisk(model, nn.MSELoss(), x, y)).claim.startswith("no parameters")


class Sized(nn.Module):
    """Linear on few samples, bent on many: what was traced on few is not what is minimised."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) if len(x) <= 4 else torch.tanh(self.map(x))


def test_a_network_that_is_not_as_described_withdraws_it() -> None:
    found = ask(tw.EmpiricalRisk(Sized(), nn.MSELoss(), draw(0, 12, 3), draw(1, 12, 2), batch_size=12))
    assert not found.established
    assert "the network is as its description says" in found.reason


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map((x - 0.3) / 1.7)


def test_features_computed_from_the_inputs_are_declined() -> None:
    found = ask(tw.EmpiricalRisk(Standardised(), nn.MSELoss(), draw(0, 12, 3), draw(1, 12, 2)))
    assert "a first layer that sees the inputs themselves" in found.reason


def test_what_can_be_fitted_or_not_told_is_undecided() -> None:
    x = draw(0, 12, 3)
    exact_fit = ask(tw.EmpiricalRisk(chain(3, 2), nn.MSELoss(), x, x[:, :2]))
    assert exact_fit.outcome is Outcome.UNDECIDED
    x[:, 2] = x[:, 0] / 3 + x[:, 1] / 7
    hidden = ask(tw.EmpiricalRisk(chain(3, 2), nn.MSELoss(), x, draw(1, 12, 2)))
    assert "nearly dependent" in hidden.reason
    large = ask(tw.EmpiricalRisk(chain(3, 2), nn.MSELoss(), draw(0, 12, 3), 1e150 * draw(1, 12, 2)))
    assert "targets and weights below" in large.reason
