"""The bound of a narrow last layer: against explicit tables, training, and what must withdraw it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from lower_bound_truths import Mlp, best_table, squares
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, Outcome, OutputRank, certify
from thalweg.certificates.output_rank import bottlenecks
from thalweg.foundation import NotApplicableError
from thalweg.structure import trace


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def ask(objective: tw.Objective) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    return certify(objective, risk.initial, [OutputRank()])[0]  # type: ignore[attr-defined]


def narrow(k: int = 2, q: int = 5, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, k), nn.Tanh(), nn.Linear(k, q, bias=bias)).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_bound_is_that_of_the_best_table(bias: bool, weighted: bool, scale: float) -> None:
    x, y = draw(0, 20, 3), scale * (draw(1, 20, 5) + 2)
    w = draw(2, 20).abs() if weighted else None
    found = ask(tw.EmpiricalRisk(narrow(bias=bias), nn.MSELoss(reduction="sum"), x, y, sample_weight=w))
    c = [Fraction(v) for v in (w.tolist() if w is not None else [1] * 20)]
    truth = squares(best_table(y.numpy(), np.array([float(v) for v in c]), 2, intercept=bias), y.numpy(), c)
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    assert found.bound is not None
    assert Fraction(found.bound) <= truth
    assert found.bound == pytest.approx(float(truth), rel=1e-9)


def lowest_trained(x: np.ndarray, y: np.ndarray, restarts: int, iterations: int) -> float:
    """A 3-2-5 network with a tanh layer, trained from many points."""
    rng = np.random.default_rng(0)
    size = 3 * 2 + 2 + 2 * 5 + 5

    def loss(f: np.ndarray) -> tuple[float, np.ndarray]:
        return float(((f - y) ** 2).mean()), 2 * (f - y) / y.size

    net = Mlp((3, 2, 5), True, lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2), x, loss)
    return net.lowest([rng.standard_normal(size) * s for s in rng.uniform(0.3, 3, restarts)], iterations=iterations)


@pytest.mark.parametrize("n", [4, 30])
def test_no_trained_network_is_below(n: int) -> None:
    x, y = draw(3, n, 3), draw(4, n, 5)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 5)).double()
    bound = ask(tw.EmpiricalRisk(model, nn.MSELoss(), x, y)).bound
    trained = lowest_trained(x.numpy(), y.numpy(), 20, 400)
    assert bound is not None
    assert bound <= trained
    if n == 4:  # weights and bias of a unit then give any values of a feature, and the bound is reached
        assert trained <= (1 + 1e-3) * bound


class Residual(nn.Module):
    """No multilayer perceptron, but a dense layer at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.head = nn.Linear(2, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.relu(self.inside(x)))


class Positions(nn.Module):
    """Four outputs for each of three positions, channels last or first."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.head, self.first = nn.Linear(2, 4), first

    def forward(self, x: Tensor) -> Tensor:
        found = self.head(torch.tanh(x))
        return found.transpose(1, 2) if self.first else found


def test_other_networks_with_a_dense_layer_at_the_end() -> None:
    x, y = draw(0, 15, 2), draw(1, 15, 4)
    truth = squares(best_table(y.numpy(), np.ones(15), 2, intercept=True), y.numpy(), [Fraction(1, 60)] * 15)
    assert ask(tw.EmpiricalRisk(Residual(), nn.MSELoss(), x, y)).bound == pytest.approx(float(truth), rel=1e-9)
    x, y = draw(0, 8, 3, 2), draw(1, 8, 3, 4)
    rows = y.reshape(24, 4).numpy()
    truth = squares(best_table(rows, np.ones(24), 2, intercept=True), rows, [Fraction(1, 96)] * 24)
    assert ask(tw.EmpiricalRisk(Positions(False), nn.MSELoss(), x, y)).bound == pytest.approx(float(truth), rel=1e-9)
    turned = ask(tw.EmpiricalRisk(Positions(True), nn.MSELoss(), x, y.transpose(1, 2).contiguous()))
    assert "one row after another" in turned.reason


def test_linear_layers_at_the_end_make_one() -> None:
    """The narrowest of them counts, and a bias in any; each such reading gives a bound."""

    def read(*layers: nn.Module, inputs: Tensor | None = None) -> tuple[tuple[int, int, bool], ...]:
        structure = trace(nn.Sequential(*layers).double(), draw(0, 4, 3) if inputs is None else inputs)
        assert structure is not None
        return tuple((b.width, b.outputs, b.bias) for b in bottlenecks(structure))

    first = read(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 4), nn.Linear(4, 5, bias=False))
    assert first == ((4, 5, False), (1, 5, True))
    # rows of two numbers from two positions are joined into one row of four: the ranks are not comparable
    joined = read(nn.Linear(1, 2), nn.Flatten(), nn.Linear(6, 8), inputs=draw(0, 4, 3, 1))
    assert joined == ((6, 8, True),)
    with pytest.raises(NotApplicableError, match="the result of a dense layer"):
        read(nn.Linear(3, 4), nn.ReLU())


# -- what must withdraw it ---------------------------------------------------------------------------------------------


def test_a_wider_layer_or_a_nonlinear_end_withdraws_it() -> None:
    x, y = draw(0, 20, 3), draw(1, 20, 5)
    assert "fewer features before the last layer" in ask(tw.EmpiricalRisk(narrow(5), nn.MSELoss(), x, y)).reason
    bent = nn.Sequential(narrow(), nn.Tanh())
    assert "the result of a dense layer" in ask(tw.EmpiricalRisk(bent, nn.MSELoss(), x, y)).reason
    labels = tw.EmpiricalRisk(narrow(), nn.CrossEntropyLoss(), x, torch.arange(20) % 5)
    assert "needs squared errors" in ask(labels).reason


def test_targets_of_the_rank_are_undecided() -> None:
    y = draw(0, 20, 2) @ draw(1, 2, 5)
    found = ask(tw.EmpiricalRisk(narrow(bias=False), nn.MSELoss(), draw(2, 20, 3), y))
    assert found.outcome is Outcome.UNDECIDED or (found.bound is not None and found.bound < 1e-28)
    y[0, 0] += 1e-3
    assert ask(tw.EmpiricalRisk(narrow(bias=False), nn.MSELoss(), draw(2, 20, 3), y)).established


def test_penalties() -> None:
    risk = tw.EmpiricalRisk(narrow(), nn.MSELoss(), draw(0, 20, 3), draw(1, 20, 5))
    assert ask(risk + tw.L2(risk, 0.1)).bound == ask(risk).bound
    reward = ask(risk + tw.Penalty(risk, lambda p: -(p["0.weight"] ** 2).sum(), name="reward"))
    assert reward.outcome is Outcome.NOT_APPLICABLE


class Skipping(nn.Module):
    """A way around the narrow layer, on batches larger than those traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.head, self.around = nn.Linear(3, 2), nn.Linear(2, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.head(torch.tanh(self.inside(x)))
        return found if len(x) <= 4 else found + self.around(x)


def test_a_network_that_is_not_as_described_withdraws_it() -> None:
    found = ask(tw.EmpiricalRisk(Skipping(), nn.MSELoss(), draw(0, 20, 3), draw(1, 20, 5), batch_size=20))
    assert not found.established


@pytest.mark.soak
def test_no_trained_network_is_below_in_many_restarts(soak_figure) -> None:  # type: ignore[no-untyped-def]
    x, y = draw(3, 8, 3), draw(4, 8, 5)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 5)).double()
    bound = ask(tw.EmpiricalRisk(model, nn.MSELoss(), x, y)).bound
    trained = lowest_trained(x.numpy(), y.numpy(), 500, 2000)
    assert bound is not None
    assert bound <= trained
    soak_figure("lowest of 500 trained networks over the bound", trained / bound)
