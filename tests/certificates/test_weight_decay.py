"""The bound of loss and weight decay together: closed forms, searches, and what must withdraw it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lower_bound_truths import Mlp
from scipy.special import expit
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, Outcome, WeightDecay, certify
from thalweg.certificates.weight_decay import largest_outputs
from thalweg.foundation import NotApplicableError
from thalweg.structure import trace


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def ask(objective: tw.Objective, *before: str) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    return certify(objective, risk.initial, [*before, WeightDecay()])[-1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("decay", [1e-6, 1e-3, 0.1, 1.0, 1e6])
def test_one_weight_in_closed_form(decay: float) -> None:
    """``(w x - y)^2 + mu w^2 / 2`` is least at ``mu y^2 / (2 x^2 + mu)``; the bound sees no more than it should."""
    x, y = torch.full((2, 1), 2.0, dtype=torch.float64), torch.full((2, 1), 3.0, dtype=torch.float64)
    risk = tw.EmpiricalRisk(nn.Linear(1, 1, bias=False).double(), nn.MSELoss(), x, y)
    truth = decay * 9 / (8 + decay)
    found = ask(risk + tw.L2(risk, decay))
    assert found.level is Level.RIGOROUS
    assert found.bound is not None
    assert truth * (1 - 3e-3) <= found.bound <= truth


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_chain_of_weights_in_closed_form(depth: int) -> None:
    """At the minimum all weights are equal: ``(w^D - y)^2 + mu D w^2 / 2``."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(depth))).double()
    one = torch.ones(2, 1, dtype=torch.float64)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), one, 2 * one)
    for decay in (0.01, 0.3, 2.0):
        w = np.linspace(0, 3, 300_001)
        truth = ((w**depth - 2) ** 2 + decay * depth / 2 * w**2).min()
        found = ask(risk + tw.L2(risk, decay))
        assert found.bound is not None
        assert truth * (1 - 3e-3) <= found.bound <= truth * (1 + 1e-12)


ACTIVATIONS = {"relu": (nn.ReLU(), lambda z: (np.maximum(z, 0), (z > 0) * 1.0)),
               "tanh": (nn.Tanh(), lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2)),
               "sigmoid": (nn.Sigmoid(), lambda z: (expit(z), expit(z) * expit(-z)))}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("decay", [0.01, 0.3])
def test_no_search_is_below(name: str, bias: bool, decay: float) -> None:
    module, activation = ACTIVATIONS[name]
    x, y = draw(0, 8, 2), draw(1, 8, 2)
    model = nn.Sequential(nn.Linear(2, 3, bias=bias), module, nn.Linear(3, 2, bias=bias)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    found = ask(risk + tw.L2(risk, decay))

    def loss(f: np.ndarray) -> tuple[float, np.ndarray]:
        return float(((f - y.numpy()) ** 2).mean()), (f - y.numpy()) / 8

    net = Mlp((2, 3, 2), bias, activation, x.numpy(), loss, decay)
    rng, size = np.random.default_rng(0), risk.space.size
    best = net.lowest([np.zeros(size), *(rng.standard_normal(size) for _ in range(10))], iterations=300)
    assert found.bound is not None
    assert 0 < found.bound <= best


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_no_outputs_are_larger_than_told(name: str, bias: bool) -> None:
    module, _ = ACTIVATIONS[name]
    model = nn.Sequential(nn.Linear(3, 4, bias=bias), module, nn.Linear(4, 2, bias=bias), module, nn.Linear(2, 2))
    x = draw(0, 20, 3)
    structure = trace(model.double(), x)
    assert structure is not None
    dense = structure.as_dense()
    assert dense is not None
    reach = largest_outputs(dense, torch.zeros(structure.space.size, dtype=torch.float64))
    closest = 0.0
    for seed in range(200):
        theta = draw(seed, structure.space.size) * 10 ** float(draw(seed + 1000, 1))
        outputs = dense.outputs(theta, x)
        allowed = reach.squared((x**2).sum(1), float(theta @ theta))
        assert bool(((outputs**2).sum(1) <= allowed).all())
        closest = max(closest, float(((outputs**2).sum(1) / allowed).max()))
    assert closest > 1e-4  # and not for being enormous


def test_labels() -> None:
    """Samples at zero: no weight reaches it, and only biases can tell; without any the loss stays at log 2."""
    zero = torch.zeros(2, 2, dtype=torch.float64)
    risk = tw.EmpiricalRisk(nn.Linear(2, 3, bias=False).double(), nn.CrossEntropyLoss(), zero, torch.tensor([1, 1]))
    assert ask(risk + tw.L2(risk, 0.1)).bound == pytest.approx(math.log(3), rel=1e-6)
    bit = tw.EmpiricalRisk(nn.Linear(2, 1).double(), nn.BCEWithLogitsLoss(), zero, torch.ones(2, 1))
    b = np.linspace(0, 10, 1_000_001)
    truth = (np.log1p(np.exp(-b)) + 0.05 * b**2).min()
    found = ask(bit + tw.L2(bit, 0.1)).bound
    assert found is not None
    assert truth * (1 - 3e-3) <= found <= truth


def test_it_adds_to_what_is_known_of_the_data_term() -> None:
    """Two samples at one place far from zero: a collision that no function avoids, and weights that cost besides."""
    x = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([[5.0], [6.0]], dtype=torch.float64)
    risk = tw.EmpiricalRisk(nn.Linear(1, 1, bias=False).double(), nn.MSELoss(), x, y)
    decayed = risk + tw.L2(risk, 0.1)
    w = np.linspace(0, 8, 800_001)
    truth = (((w - 5) ** 2 + (w - 6) ** 2) / 2 + 0.05 * w**2).min()
    alone, together = ask(decayed).bound, ask(decayed, "label collisions").bound
    assert alone is not None
    assert together is not None
    assert 0.25 < alone < together <= truth
    assert together == pytest.approx(truth, rel=0.1)


def test_several_terms_frozen_and_shared_weights() -> None:
    x, y = draw(0, 8, 2), 3 + draw(1, 8, 2)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    one = ask(risk + tw.L2(risk, 0.3)).bound
    two = ask(risk + tw.L2(risk, 0.1) + tw.L2(risk, 0.2)).bound
    assert two == pytest.approx(one, rel=1e-6)
    part = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, parameters="2.*")
    frozen = ask(part + tw.L2(part, 0.3)).bound
    assert frozen is not None
    value = float((part + tw.L2(part, 0.3)).value(torch.zeros(part.space.size, dtype=torch.float64)))
    assert frozen <= value
    model[2].weight = model[0].weight
    shared = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    tied = ask(shared + tw.L2(shared, 0.3)).bound
    assert tied is not None
    assert one is not None
    assert tied < one  # a shared weight is paid for once and used twice


# -- what must withdraw it ---------------------------------------------------------------------------------------------


def test_hypotheses_broken_one_by_one() -> None:
    x, y = draw(0, 8, 2), draw(1, 8, 1)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    assert ask(risk + tw.L2(risk, 0.1)).established
    assert "weight decay towards the origin on all parameters" in ask(risk).reason
    assert not ask(risk + tw.L2(risk, 0.1, "*weight")).established
    center = torch.ones(risk.space.size, dtype=torch.float64)
    assert not ask(risk + tw.L2(risk, 0.1, center=center)).established
    assert not ask(risk + tw.L2(risk, 0.0)).established
    reward = tw.Penalty(risk, lambda p: -(p["0.weight"] ** 2).sum(), name="reward")
    assert ask(risk + tw.L2(risk, 0.1) + reward).outcome is Outcome.NOT_APPLICABLE
    soft = nn.Sequential(nn.Linear(2, 3), nn.Softplus(), nn.Linear(3, 1)).double()
    unbounded = tw.EmpiricalRisk(soft, nn.MSELoss(), x, y)
    assert "vanish at zero or are bounded" in ask(unbounded + tw.L2(unbounded, 0.1)).reason
    other = tw.EmpiricalRisk(model, nn.HuberLoss(), x, y)
    assert not ask(other + tw.L2(other, 0.1)).established


class Sized(nn.Module):
    """A hundred times larger on more samples than are traced."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) if len(x) <= 4 else self.map(x) * 100


def test_a_network_that_is_not_as_described_withdraws_it() -> None:
    risk = tw.EmpiricalRisk(Sized(), nn.MSELoss(), draw(0, 12, 2), draw(1, 12, 1), batch_size=12)
    assert not ask(risk + tw.L2(risk, 0.1)).established


def test_targets_of_zero_add_nothing() -> None:
    zero = tw.EmpiricalRisk(nn.Linear(2, 1).double(), nn.MSELoss(), draw(0, 8, 2), torch.zeros(8, 1))
    assert ask(zero + tw.L2(zero, 0.1)).outcome is Outcome.UNDECIDED


def test_activations_without_a_bound_are_named() -> None:
    structure = trace(nn.Sequential(nn.Linear(1, 2), nn.Softplus(), nn.Linear(2, 1)), torch.ones(3, 1))
    assert structure is not None
    dense = structure.as_dense()
    assert dense is not None
    with pytest.raises(NotApplicableError, match="not softplus"):
        largest_outputs(dense, torch.zeros(structure.space.size, dtype=torch.float64))
