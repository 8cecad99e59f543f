"""Bounds by few straight pieces: against all partitions in fractions, counts of real bends, training."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from lower_bound_truths import Mlp, best_hinges, best_segments, exact
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, LinearPieces, Outcome, certify
from thalweg.certificates.linear_pieces import count_pieces
from thalweg.certificates.segments import segmented_bound
from thalweg.foundation import NotApplicableError
from thalweg.structure import trace


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def ask(objective: tw.Objective) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    return certify(objective, risk.initial, [LinearPieces()])[0]  # type: ignore[attr-defined]


def layered(*widths: int, activation: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation or nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


# -- the dynamic programme ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("kind", ["plain", "ties", "offset", "clusters", "weights"])
def test_the_best_of_all_partitions(pieces: int, outputs: int, kind: str) -> None:
    x, y, c = draw(0, 9), draw(1, 9, outputs), torch.ones(9, dtype=torch.float64)
    if kind == "ties":
        x = x[torch.arange(9) // 2]
    elif kind == "offset":
        x, y = x + 1e8, y + 1e8
    elif kind == "clusters":
        x = torch.arange(9).double() // 3 + 1e-9 * x
    elif kind == "weights":
        c = 10 ** (3 * draw(2, 9))
    truth = best_segments(x.numpy(), y.numpy(), exact(c.numpy()), pieces)
    found = segmented_bound(x, y, c, pieces)
    assert Fraction(found) <= truth
    assert found >= (1 - 1e-13) * float(truth)


@pytest.mark.parametrize("scale_x", [1e-150, 1e-6, 1e6, 1e150])
@pytest.mark.parametrize("scale_y", [1e-100, 1e-6, 1e6, 1e100])
def test_any_scale(scale_x: float, scale_y: float) -> None:
    x, y, c = scale_x * draw(0, 8), scale_y * draw(1, 8, 1), draw(2, 8).abs()
    truth = best_segments(x.numpy(), y.numpy(), exact(c.numpy()), 2)
    found = segmented_bound(x, y, c, 2)
    assert Fraction(found) <= truth
    assert found >= (1 - 1e-13) * float(truth)


def test_two_places_a_piece_are_fitted() -> None:
    x, y, c = draw(0, 20), draw(1, 20, 1), torch.ones(20, dtype=torch.float64)
    assert segmented_bound(x, y, c, 10) == 0
    assert segmented_bound(x, y, c, 9) > 0
    assert segmented_bound(x, y, c, 10**30) == 0
    assert segmented_bound(torch.zeros(20, dtype=torch.float64), y, c, 5) == pytest.approx(
        float((y - y.mean()).square().sum()), rel=1e-12
    )


# -- how many pieces ---------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Two hidden layers, a skip around each, and a bend of the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(1, 2), nn.Linear(2, 2), nn.Linear(4, 1)
        self.around = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        g = h + torch.nn.functional.hardtanh(self.second(h))
        return self.head(torch.cat([g, h], 1)) + self.around(x)


def bends(model: nn.Module) -> int:
    """Bends that a network really has, seen in its second differences."""
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        y = model(x)[:, 0]
    second = (y[2:] - 2 * y[1:-1] + y[:-2]).abs() > 1e-9
    return int((second[1:] & ~second[:-1]).sum()) + int(second[0])


@pytest.mark.parametrize(("make", "pieces"), [
    (lambda: layered(1, 3, 1), 4),
    (lambda: layered(1, 3, 2, 1), 12),
    (lambda: layered(1, 2, 1, activation=nn.Hardtanh()), 5),
    (lambda: layered(1, 2, 2, 1, activation=nn.LeakyReLU(0.1)), 9),
    (lambda: Branches().double(), 3 + 2 * 2 * 3),
])  # fmt: skip
def test_networks_have_no_more_pieces_than_counted(make, pieces: int) -> None:  # type: ignore[no-untyped-def]
    structure = trace(make(), torch.randn(4, 1, dtype=torch.float64))
    assert structure is not None
    assert count_pieces(structure, 4) == pieces
    most = 0
    for seed in range(20):
        model = make()
        with torch.no_grad():
            for number, p in enumerate(model.parameters()):
                p.copy_(draw(100 * seed + number, *p.shape))
        most = max(most, bends(model))
    assert 1 <= most < pieces


def test_steps_that_are_not_piecewise_linear_are_named() -> None:
    for model, named in (
        (layered(1, 3, 1, activation=nn.Tanh()), "tanh is none"),
        (nn.Sequential(nn.Linear(1, 3), nn.LayerNorm(3), nn.Linear(3, 1)).double(), "of kind 'norm'"),
    ):
        structure = trace(model, torch.randn(4, 1, dtype=torch.float64))
        assert structure is not None
        with pytest.raises(NotApplicableError, match=named):
            count_pieces(structure, 4)


# -- the certificate ---------------------------------------------------------------------------------------------------


def lowest_trained(x: np.ndarray, y: np.ndarray, units: int, restarts: int, iterations: int = 300) -> float:
    rng, size = np.random.default_rng(0), 3 * units + 1

    def loss(f: np.ndarray) -> tuple[float, np.ndarray]:
        return float(((f - y) ** 2).sum()), 2 * (f - y)

    net = Mlp((1, units, 1), True, lambda z: (np.maximum(z, 0), (z > 0) * 1.0), x, loss)
    return net.lowest([rng.standard_normal(size) * s for s in rng.uniform(0.5, 3, restarts)], iterations=iterations)


@pytest.mark.parametrize("units", [1, 2, 3])
def test_no_trained_network_is_below(units: int) -> None:
    x, y = draw(0, 20, 1), draw(1, 20, 1)
    found = ask(tw.EmpiricalRisk(layered(1, units, 1), nn.MSELoss(reduction="sum"), x, y))
    assert found.level is Level.RIGOROUS
    assert found.bound is not None
    assert 0 < found.bound <= lowest_trained(x.numpy(), y.numpy(), units, 12)
    if units < 3:
        assert Fraction(found.bound) <= best_hinges(x[:, 0].numpy(), y.numpy(), [Fraction(1)] * 20, units)


def test_many_units_fit_everything() -> None:
    x, y = draw(0, 20, 1), draw(1, 20, 1)
    found = ask(tw.EmpiricalRisk(layered(1, 18, 1), nn.MSELoss(), x, y))
    assert found.outcome is Outcome.UNDECIDED


def test_weights_outputs_and_means_count() -> None:
    x, y, w = draw(0, 10, 1), draw(1, 10, 2), draw(2, 10).abs()
    w[3] = 0
    found = ask(tw.EmpiricalRisk(layered(1, 2, 2), nn.MSELoss(), x, y, sample_weight=w))
    kept = w.numpy() > 0
    c = [Fraction(v) / 20 for v in w.tolist() if v]
    truth = best_segments(x[:, 0].numpy()[kept], y.numpy()[kept], c, 3)
    assert found.bound is not None
    assert Fraction(found.bound) <= truth
    assert found.bound == pytest.approx(float(truth), rel=1e-12)


def test_a_float32_model_and_its_data_are_taken_exactly() -> None:
    x, y = draw(0, 9, 1).float(), draw(1, 9, 1).float()
    found = ask(tw.EmpiricalRisk(layered(1, 1, 1).float(), nn.MSELoss(), x, y))
    truth = best_segments(x[:, 0].double().numpy(), y.double().numpy(), [Fraction(1, 9)] * 9, 2)
    assert found.bound == pytest.approx(float(truth), rel=1e-12)


class Positions(nn.Module):
    """One function of one number at each of three positions."""

    def __init__(self) -> None:
        super().__init__()
        self.map = layered(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


def test_positions_of_a_sequence_are_points_of_one_function() -> None:
    x, y = draw(0, 3, 3, 1), draw(1, 3, 3, 1)
    found = ask(tw.EmpiricalRisk(Positions(), nn.MSELoss(), x, y))
    truth = best_segments(x.reshape(-1).numpy(), y.reshape(-1, 1).numpy(), [Fraction(1, 9)] * 9, 2)
    assert found.bound == pytest.approx(float(truth), rel=1e-12)


def test_a_network_with_skips() -> None:
    x, y = draw(0, 60, 1), draw(1, 60, 1)
    found = ask(tw.EmpiricalRisk(Branches(), nn.MSELoss(), x, y))
    assert found.established
    assert found.evidence["pieces"] == 15


# -- what must withdraw it ---------------------------------------------------------------------------------------------


class Squared(nn.Module):
    """A bend of the data before the first layer: no piecewise-linear function of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.map = layered(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x * x)


class Sized(nn.Module):
    """ReLU on few samples, tanh on many."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.head = nn.Linear(1, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.inside(x)
        return self.head(torch.relu(z) if len(x) <= 4 else torch.tanh(z))


def test_hypotheses_broken_one_by_one() -> None:
    x, y = draw(0, 20, 1), draw(1, 20, 1)
    risk = tw.EmpiricalRisk(layered(1, 2, 1), nn.MSELoss(), x, y)
    assert ask(risk).established
    assert "tanh is none" in ask(tw.EmpiricalRisk(layered(1, 2, 1, activation=nn.Tanh()), nn.MSELoss(), x, y)).reason
    two = tw.EmpiricalRisk(layered(2, 2, 1), nn.MSELoss(), draw(0, 20, 2), y)
    assert "inputs of one real number" in ask(two).reason
    assert "piecewise linear" in ask(tw.EmpiricalRisk(Squared(), nn.MSELoss(), x, y)).reason
    assert "needs squared errors" in ask(tw.EmpiricalRisk(layered(1, 2, 1), nn.HuberLoss(), x, y)).reason
    assert not ask(tw.EmpiricalRisk(Sized(), nn.MSELoss(), x, y, batch_size=20)).established
    reward = risk + tw.Penalty(risk, lambda p: -(p["0.weight"] ** 2).sum(), name="reward")
    assert ask(reward).outcome is Outcome.NOT_APPLICABLE
    assert ask(risk + tw.L2(risk, 0.1)).bound == ask(risk).bound


def test_a_large_sample_is_declined_with_its_cost() -> None:
    n = 40_000
    risk = tw.EmpiricalRisk(layered(1, 2, 1), nn.MSELoss(), draw(0, n, 1), draw(1, n, 1))
    assert ask(risk).outcome is Outcome.NOT_ATTEMPTED


@pytest.mark.soak
def test_no_network_trained_from_many_points_is_below(soak_figure) -> None:  # type: ignore[no-untyped-def]
    for units, seed in itertools.product((1, 2, 3), range(3)):
        x, y = draw(10 * seed, 20, 1), draw(10 * seed + 1, 20, 1)
        bound = ask(tw.EmpiricalRisk(layered(1, units, 1), nn.MSELoss(reduction="sum"), x, y)).bound
        trained = lowest_trained(x.numpy(), y.numpy(), units, 150, 2000)
        assert bound is not None
        assert bound <= trained
        soak_figure(f"{units} units, data {seed}: bound, lowest of 150", f"{bound:.4f}, {trained:.4f}")
