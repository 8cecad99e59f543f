"""Better last layers, hidden layers and residual blocks: exact minima, and points that really are lower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, LayerRefit, Level, Outcome, certify
from thalweg.certificates.convex_newton import minimise
from thalweg.foundation import InvalidInputError, RunControl
from thalweg.zoo import Quadratic

DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


def lower(objective: tw.Objective, theta: Tensor, found: Certificate) -> float:
    """The loss at the point in evidence, which must be lower by the bound."""
    there = found.evidence["theta"]
    assert isinstance(there, Tensor)
    assert found.bound is not None
    value = float(objective.value(there))
    here = float(objective.value(theta))
    assert here - value >= found.bound - 1e-15 * (abs(here) + abs(value))
    assert found.bound > 0
    return value


def best_over(objective: tw.Objective, theta: Tensor, blocks: str) -> float:
    """The lowest loss with all but some blocks fixed, by another library."""
    part = tw.objectives.restrict(objective, blocks, theta)

    def both(z: np.ndarray) -> tuple[float, np.ndarray]:
        found = part.evaluate(torch.tensor(z), 1)
        assert found.gradient is not None
        return float(found.value), found.gradient.numpy()

    start = part.embed(theta).numpy()
    return float(scipy.optimize.minimize(both, start, jac=True, method="BFGS", options={"gtol": 1e-11}).fun)


# -- the last layer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("bias", [True, False])
def test_squares_are_refitted_exactly(scale: float, bias: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=bias))
    x, y = drawn(30, 3), drawn(30, 2, seed=1) * scale
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), x, y)
    theta = drawn(risk.space.size, seed=2)
    (found,) = certify(risk, theta, ["last layer refit"])
    assert found.level is Level.RIGOROUS
    w, b = theta[risk.space.slice("0.weight")].reshape(5, 3), theta[risk.space.slice("0.bias")]
    features = torch.tanh(x @ w.T + b)
    design = torch.cat([features, torch.ones(30, 1, dtype=DOUBLE)], 1) if bias else features
    truth = float(((design @ torch.linalg.lstsq(design, y).solution - y) ** 2).mean())
    assert lower(risk, theta, found) == pytest.approx(truth, rel=1e-12)


LOSSES: dict[str, Callable[[], tuple[nn.Module, Tensor, int]]] = {
    "labels": lambda: (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]).double()), labels(30, 3), 3),
    "smoothed labels": lambda: (nn.CrossEntropyLoss(label_smoothing=0.1), labels(30, 3), 3),
    "ignored labels": lambda: (nn.CrossEntropyLoss(ignore_index=2), labels(30, 3), 3),
    "soft labels": lambda: (nn.CrossEntropyLoss(), drawn(30, 3).softmax(1), 3),
    "bits": lambda: (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0).double()), drawn(30, 2).sigmoid(), 2),
    "signs": lambda: (nn.SoftMarginLoss(), drawn(30, 1).sign(), 1),
    "Huber": lambda: (nn.HuberLoss(), drawn(30, 2), 2),
    "summed squares": lambda: (nn.MSELoss(reduction="sum"), drawn(30, 2), 2),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_convex_losses_are_refitted_to_their_minimum(name: str, decay: float) -> None:
    loss, y, outputs = LOSSES[name]()
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, outputs))
    weights = drawn(30, seed=8).abs() + 0.1
    risk = tw.EmpiricalRisk(net, loss, drawn(30, 3, seed=4), y, sample_weight=weights)
    theta = drawn(risk.space.size, seed=2)
    objective = risk + tw.L2(risk, decay, center=0.1 * torch.ones_like(theta)) if decay else risk
    (found,) = certify(objective, theta, ["last layer refit"])
    assert found.established, found.reason
    assert lower(objective, theta, found) == pytest.approx(best_over(objective, theta, "2.*"), rel=1e-7)
    assert found.level is (Level.NUMERIC if name == "Huber" else Level.RIGOROUS)


def test_separable_labels_go_far_and_end() -> None:
    x = drawn(20, 2)
    risk = tw.EmpiricalRisk(nn.Linear(2, 2), nn.CrossEntropyLoss(), x, (x[:, 0] > 0).long())
    (found,) = certify(risk, torch.zeros(risk.space.size).double(), ["last layer refit"])
    assert lower(risk, torch.zeros(risk.space.size).double(), found) < 1e-6


def test_a_refitted_layer_is_not_refitted_again() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    for loss, y in ((nn.MSELoss(), drawn(30, 2)), (nn.CrossEntropyLoss(), labels(30, 2))):
        risk = tw.EmpiricalRisk(net, loss, drawn(30, 3), y)
        (found,) = certify(risk, drawn(risk.space.size, seed=2), ["last layer refit"])
        there = found.evidence["theta"]
        assert isinstance(there, Tensor)
        (again,) = certify(risk, there, ["last layer refit"])
        assert again.outcome is Outcome.UNDECIDED or (again.bound or 0) < 1e-9


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x.unsqueeze(1))).mean(-1))


class Sequence(nn.Module):
    """The same head at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.into(x)))


def test_networks_of_other_forms() -> None:
    risk = tw.EmpiricalRisk(Convolution(), nn.MSELoss(), drawn(20, 6), drawn(20, 2, seed=1))
    (found,) = certify(risk, risk.initial, ["last layer refit"])
    assert found.level is Level.NUMERIC
    assert lower(risk, risk.initial, found) == pytest.approx(best_over(risk, risk.initial, "head.*"), rel=1e-7)
    rows = tw.EmpiricalRisk(Sequence(), nn.MSELoss(), drawn(10, 5, 2), drawn(10, 5, 3, seed=1))
    (found,) = certify(rows, rows.initial, ["last layer refit"])
    assert lower(rows, rows.initial, found) == pytest.approx(best_over(rows, rows.initial, "head.*"), rel=1e-7)


def test_what_makes_the_last_layer_no_convex_problem_withdraws_it() -> None:
    x, y = drawn(9, 2), drawn(9, 2)
    after = tw.EmpiricalRisk(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), nn.MSELoss(), x, y)
    assert "linear last layer" in certify(after, after.initial, ["last layer refit"])[0].reason
    plain = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    unknown = tw.EmpiricalRisk(plain, lambda f, t: ((f - t) ** 4).mean(), x, y, reduction="mean")
    assert "convex in the outputs" in certify(unknown, unknown.initial, ["last layer refit"])[0].reason
    risk = tw.EmpiricalRisk(plain, nn.MSELoss(), x, y)
    penalty = risk + tw.Penalty(risk, lambda p: (p["2.weight"] ** 4).sum(), name="own")
    assert "not Penalty(own)" in certify(penalty, risk.initial, ["last layer refit"])[0].reason
    frozen = tw.EmpiricalRisk(plain, nn.MSELoss(), x, y, parameters="0.*")
    assert "not frozen" in certify(frozen, frozen.initial, ["last layer refit"])[0].reason

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.eye(2))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.tanh(inputs @ self.w.T) @ self.w.T

    tied = tw.EmpiricalRisk(Tied(), nn.MSELoss(), x, y)
    assert "tied" in certify(tied, tied.initial, ["last layer refit"])[0].reason


def test_a_frozen_bias_stays() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), drawn(9, 2), drawn(9, 2, seed=1), parameters="2.weight")
    (found,) = certify(risk, risk.initial, ["last layer refit"])
    assert lower(risk, risk.initial, found) == pytest.approx(best_over(risk, risk.initial, "2.weight"), rel=1e-9)


# -- Newton's method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 1600])
def test_newton_finds_the_minimum_of_a_quadratic(size: int) -> None:
    spectrum = torch.logspace(-3, 3, 3, dtype=DOUBLE).tolist() if size == 3 else [1.0, 4.0, 9.0, 10.0] * (size // 4)
    bowl, start = Quadratic(spectrum), torch.ones(size, dtype=DOUBLE)
    end = minimise(bowl, start, gone=1e-12 * float(bowl.value(start)))  # the minimum is zero: there is no end otherwise
    assert end.value <= 1e-12 * float(bowl.value(start))
    assert end.iterations < 10


def test_newton_stops_when_told_and_never_goes_up() -> None:
    steep = tw.Penalty(tw.ParameterSpace({"x": (2,)}), lambda p: (p["x"] ** 4).sum() + p["x"].exp().sum(), name="steep")
    start = torch.tensor([30.0, -20.0], dtype=DOUBLE)
    end = minimise(steep, start)
    assert end.value < float(steep.value(start))
    assert float(steep.gradient(end.theta).norm()) < 1e-5
    assert minimise(steep, start, control=RunControl(0.0, None)).ended.startswith("stopped")


# -- hidden layers -----------------------------------------------------------------------------------------------------


def deep(activation: nn.Module, decay: float = 0.0) -> tuple[tw.Objective, tw.EmpiricalRisk, Tensor]:
    net = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 3), activation, nn.Linear(3, 2))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), drawn(40, 3), drawn(40, 2, seed=1), sample_weight=drawn(40).abs())
    objective = risk + tw.L2(risk, decay) if decay else risk
    return objective, risk, 0.7 * drawn(risk.space.size, seed=2)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_hidden_layers_of_linear_networks_are_refitted_exactly(layer: int, decay: float) -> None:
    objective, risk, theta = deep(nn.Identity(), decay)
    (found,) = certify(objective, theta, [LayerRefit(layer=layer)])
    assert found.established, found.reason
    name = ("0.*", "1.*", "2.*")[2 * layer]
    assert lower(objective, theta, found) == pytest.approx(best_over(objective, theta, name), rel=1e-7)
    assert float((found.evidence["theta"] - theta)[risk.space.select(name)].norm()) > 0  # type: ignore[operator]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_hidden_layers_of_piecewise_linear_networks_get_better(activation: nn.Module) -> None:
    objective, _, theta = deep(activation)
    (found,) = certify(objective, theta, ["hidden layer refit"])
    assert found.level is Level.RIGOROUS
    lower(objective, theta, found)
    every = [certify(objective, theta, [LayerRefit(layer=number)])[0].bound or 0.0 for number in (0, 1)]
    assert found.bound == max(every)


def test_small_steps_of_least_squares_stay_on_the_pieces() -> None:
    """Where no argument changes its sign the frozen problem is the network's, and its solution is the minimum."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    x = drawn(20, 2)
    base = tw.EmpiricalRisk(net, nn.MSELoss(), x, torch.zeros(20, 2))
    theta = drawn(base.space.size, seed=2)
    theta[base.space.slice("0.bias")] = torch.tensor([20.0, -20.0, 20.0]).double()
    teacher = theta.clone()
    teacher[base.space.slice("0.weight")] += 1e-2 * drawn(6, seed=9)
    teacher[base.space.slice("0.weight")].reshape(3, 2)[1] = theta[base.space.slice("0.weight")].reshape(3, 2)[1]
    risk = base.on(x, base.outputs(teacher))
    (found,) = certify(risk, theta, ["hidden layer refit"])
    assert lower(risk, theta, found) < 1e-25


def test_hidden_layers_that_are_no_convex_problem_are_declined() -> None:
    objective, _, theta = deep(nn.Tanh())
    (found,) = certify(objective, theta, ["hidden layer refit"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "with tanh the loss is not convex" in found.reason
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    crossed = tw.EmpiricalRisk(net, nn.CrossEntropyLoss(), drawn(9, 3), labels(9, 2))
    assert "squared loss" in certify(crossed, crossed.initial, ["hidden layer refit"])[0].reason
    flat = tw.EmpiricalRisk(nn.Linear(3, 2), nn.MSELoss(), drawn(9, 3), drawn(9, 2))
    assert "a hidden layer" in certify(flat, flat.initial, ["hidden layer refit"])[0].reason
    linear, _, there = deep(nn.Identity())
    with pytest.raises(InvalidInputError, match="there are 2 hidden layers"):
        certify(linear, there, [LayerRefit(layer=2)])


# -- residual blocks ---------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, outputs: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.W, self.V = nn.Linear(3, outputs, bias=bias), nn.Linear(2, 3, bias=bias)
        self.U = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.W(x + self.V(torch.tanh(self.U(x))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank_deficient", [False, True])
def test_residual_blocks_reach_the_best_pair(bias: bool, rank_deficient: bool) -> None:
    """From random points to the least squares in x and z, of which the parameters are made."""
    x, y = drawn(40, 3), drawn(40, 2, seed=1)
    if rank_deficient:  # targets of one sign pattern: the fitted matrix of x has rank one
        y = torch.cat([y[:, :1], torch.zeros(40, 1, dtype=DOUBLE)], 1)
    risk = tw.EmpiricalRisk(Residual(bias=bias), nn.MSELoss(), x, y)
    for seed in range(5):
        theta = drawn(risk.space.size, seed=seed)
        u, c = theta[risk.space.slice("U.weight")].reshape(2, 3), theta[risk.space.slice("U.bias")]
        ones = [torch.ones(40, 1, dtype=DOUBLE)] if bias else []
        design = torch.cat([x, torch.tanh(x @ u.T + c), *ones], 1)
        best = float(((design @ torch.linalg.lstsq(design, y).solution - y) ** 2).mean())
        assert float(risk.value(theta)) > best + 0.1
        (found,) = certify(risk, theta, ["residual refit"])
        assert found.established, found.reason
        assert best - 1e-12 <= lower(risk, theta, found) <= best + 1e-6


def test_residual_blocks_under_cross_entropy() -> None:
    risk = tw.EmpiricalRisk(Residual(), nn.CrossEntropyLoss(label_smoothing=0.1), drawn(40, 3), labels(40, 2))
    theta = drawn(risk.space.size)
    (found,) = certify(risk, theta, ["residual refit"])
    assert lower(risk, theta, found) < best_over(risk, theta, "W.*") + 1e-9


def test_what_is_no_such_block_is_declined() -> None:
    x = drawn(9, 3)
    tall = tw.EmpiricalRisk(Residual(outputs=4), nn.MSELoss(), x, drawn(9, 4))
    assert "no more outputs than x has entries" in certify(tall, tall.initial, ["residual refit"])[0].reason
    risk = tw.EmpiricalRisk(Residual(), nn.MSELoss(), x, drawn(9, 2))
    decayed = risk + tw.L2(risk, 0.1)
    assert "without other terms" in certify(decayed, risk.initial, ["residual refit"])[0].reason
    frozen = tw.EmpiricalRisk(Residual(), nn.MSELoss(), x, drawn(9, 2), parameters=["W.*", "U.*"])
    assert "not frozen" in certify(frozen, frozen.initial, ["residual refit"])[0].reason
    plain = tw.EmpiricalRisk(nn.Linear(3, 2), nn.MSELoss(), x, drawn(9, 2))
    assert "W (x + V z)" in certify(plain, plain.initial, ["residual refit"])[0].reason
