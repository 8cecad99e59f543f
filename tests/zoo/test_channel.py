"""The erf channel against quadrature, published figures and a scan of all input weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import erf

from thalweg.foundation import InvalidInputError
from thalweg.zoo import ErfChannel

X = np.linspace(-10, 10, 4001)
WEIGHT = np.exp(-(X**2) / 2) / np.sqrt(2 * np.pi) * (X[1] - X[0])
TARGET = erf((5 * X + 2.5) / np.sqrt(2)) + erf((5 * X - 2.5) / np.sqrt(2))


def unit(w: float) -> np.ndarray:
    return erf(w * X / np.sqrt(2))


def slope(w: float) -> np.ndarray:
    return X * np.sqrt(2 / np.pi) * np.exp(-((w * X) ** 2) / 2)


def loss(f: np.ndarray) -> float:
    return float(((f - TARGET) ** 2 * WEIGHT).sum())


def test_the_loss_is_the_average() -> None:
    for w1, w2, a1, a2 in ((0.9, 1.4, 2.0, -0.3), (-3.0, 0.2, 1.0, 1.0), (7.0, 7.1, 40.0, -38.0), (0.0, 1.0, 2.0, 0.5)):
        found = float(ErfChannel().value(torch.tensor([w1, w2, a1, a2], dtype=torch.float64)))
        assert found == pytest.approx(loss(a1 * unit(w1) + a2 * unit(w2)), rel=1e-12, abs=1e-12)
    spot = torch.tensor([0.9, 1.4, 2.0, -0.3], dtype=torch.float64)
    assert float(ErfChannel().value(spot)) == pytest.approx(0.410127415723, abs=1e-12)


@pytest.mark.parametrize(
    ("number", "w", "value", "c", "a"),
    [
        (1, 0.866296124, 0.0423721519592, 1.66755616, 1.49668456),
        (2, 3.150432442, 0.00077333254158, 2.01781544, -6.51111621),
    ],
)
def test_ends_of_the_channels(number, w, value, c, a) -> None:
    end = ErfChannel().channel(number)
    assert end.value == pytest.approx(value, abs=1e-12)
    assert end.w == pytest.approx(w, abs=1e-8)
    assert (end.c, end.a) == (pytest.approx(c, abs=1e-7), pytest.approx(a, abs=1e-7))
    assert end.value == pytest.approx(loss(end.c * unit(end.w) + end.a * slope(end.w)), abs=1e-12)


def test_no_pair_of_input_weights_is_better_than_the_lower_channel() -> None:
    """For given input weights the best output weights solve a 2 x 2 system; signs of input weights do not matter."""
    grid = np.concatenate([np.geomspace(0.02, 0.6, 20), np.linspace(0.7, 6, 70), np.geomspace(6.5, 500, 30)])
    units = np.stack([unit(w) for w in grid])
    gram, overlap = (units * WEIGHT) @ units.T, (units * WEIGHT) @ TARGET
    power = loss(0 * X)
    best = np.inf
    for i in range(len(grid)):
        for j in range(i):
            pair = [i, j]
            best = min(best, power - overlap[pair] @ np.linalg.solve(gram[np.ix_(pair, pair)], overlap[pair]))
    infimum = ErfChannel().infimum
    assert infimum < best < infimum + 1e-4


def test_the_saddle_line_has_the_published_spectra() -> None:
    problem = ErfChannel()
    for gamma, wanted in (
        (0.5, (0.0, 0.0284489, 0.1025281, 2.0388847)),
        (2.0, (-0.0274940, 0.0, 0.4098016, 4.2225956)),
    ):
        point = problem.critical_point(gamma)
        spectrum = torch.linalg.eigvalsh(problem.hessian(point.theta)).numpy()
        np.testing.assert_allclose(spectrum, wanted, atol=1e-7)
        assert (point.index, point.nullity) == (sum(np.array(wanted) < 0), 1)
        np.testing.assert_allclose(point.theta[:2], 1.399554143, atol=1e-9)
        assert point.value == pytest.approx(0.047116027496, abs=1e-12)
    for gamma in (0.0, 1.0):
        point = problem.critical_point(gamma)
        spectrum = torch.linalg.eigvalsh(problem.hessian(point.theta))
        assert int((spectrum.abs() < 1e-13).sum()) == point.nullity == 2
        assert point.kind == "degenerate saddle"


def test_the_end_without_output_weight_has_lower_values_arbitrarily_near() -> None:
    problem = ErfChannel()
    point = problem.critical_point(0.0)
    for gamma in (-0.1, -0.01):
        beside = problem.critical_point(gamma)
        assert beside.kind == "saddle"
        _, vectors = torch.linalg.eigh(problem.hessian(beside.theta))
        steps = torch.logspace(-3, 0, 40, dtype=torch.float64).unsqueeze(1) * abs(gamma) * vectors[:, 0]
        assert float(problem.value(beside.theta + steps).min()) < point.value - 1e-13


@pytest.mark.parametrize(("number", "h"), [(1, 0.00709137554), (2, 0.0010146998996)])
def test_the_loss_rises_with_the_square_of_the_gap(number, h) -> None:
    """L - L_infinity = h eps^2 + O(eps^4), with h at the bottom of the channel."""
    problem = ErfChannel()
    end = problem.channel(number)
    gaps = []
    for epsilon in (0.04, 0.02):
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
        theta = torch.cat([end.w + epsilon * signs, end.c / 2 + end.a / (2 * epsilon) * signs])
        gaps.append((float(problem.value(theta)) - end.value) / epsilon**2)
    assert (4 * gaps[1] - gaps[0]) / 3 == pytest.approx(h, rel=1e-4)


def test_starts_lie_in_the_channels_and_above_their_ends() -> None:
    problem = ErfChannel()
    starts, limits = problem.starts(), problem.limits()
    values = problem.value(starts)
    assert bool((values > limits).all())
    assert float(limits.min()) == problem.infimum
    best = torch.stack([problem.gradient(start)[2:] for start in starts])
    assert float(best.abs().max()) < 1e-11  # the output weights are the best for the input weights


@pytest.mark.parametrize(("start", "number", "h"), [(0, 1, 0.00709137554), (2, 2, 0.0010146998996)])
def test_gradient_flow_goes_on_for_ever(start, number, h) -> None:
    """With s = (a_1 - a_2) / sqrt 2, s(t)^4 = s(0)^4 + 4 h a^2 t, and L - L_infinity = h a^2 / (2 s^2)."""
    problem = ErfChannel()
    end, theta = problem.channel(number), problem.starts()[start]

    def flow(_, y):
        return -problem.gradient(torch.tensor(y)).numpy()

    def jacobian(_, y):
        return -problem.hessian(torch.tensor(y)).numpy()

    times = [1e5, 1e6, 1e7]
    path = solve_ivp(flow, (0, 1e7), theta.numpy(), method="BDF", jac=jacobian, rtol=1e-6, atol=1e-7, t_eval=times)
    assert path.success
    gaps = np.array([float(problem.value(torch.tensor(y))) for y in path.y.T]) - end.value
    s = np.abs(path.y[2] - path.y[3]) / np.sqrt(2)
    assert (gaps > 0).all()
    assert (np.diff(gaps) < 0).all()
    np.testing.assert_allclose(np.diff(s**4), 4 * h * end.a**2 * np.diff(times), rtol=0.02)
    np.testing.assert_allclose(gaps[1:], h * end.a**2 / (2 * s[1:] ** 2), rtol=0.02)


def test_what_is_no_channel_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="channels 1 and 2"):
        ErfChannel().channel(3)
    with pytest.raises(InvalidInputError, match="epsilon must be positive"):
        ErfChannel().in_channel(1, 0.0)
