"""Interval Newton: minima and saddles that are proved, and everything that must withdraw the claim."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import mpmath
import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Certificate, Level, Outcome, Scope, State, certify
from thalweg.certificates.intervals import IntervalNewton
from thalweg.certificates.intervals.arithmetic import ball, precision
from thalweg.certificates.intervals.inertia import inertia
from thalweg.certificates.intervals.network import IntervalLoss
from thalweg.certificates.intervals.prediction import predict
from thalweg.certificates.registry import flops_per_second
from thalweg.solvers import find_critical_point


@cache
def campaign() -> ModuleType:
    place = Path(__file__).parents[1] / "campaign" / "intervals.py"
    spec = importlib.util.spec_from_file_location("interval_campaign", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        modules += [nn.Linear(before, after), activation()]
    return nn.Sequential(*modules[:-1]).double()


def data(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """A noisy teacher of three tanh units."""
    x = draw(n, 2, seed=seed)
    clean = torch.tanh(2 * x[:, :1] - 1) - torch.tanh(1.5 * x[:, 1:] + 0.5) + 0.8 * torch.tanh(x.sum(1, keepdim=True))
    return x, clean + 0.1 * draw(n, 1, seed=seed + 1)


@cache
def regression(decay: float = 0.0, activation: Callable[[], nn.Module] = nn.Tanh, n: int = 60) -> tw.Objective:
    x, y = data(n)
    risk = tw.EmpiricalRisk(network(2, 3, 1, activation=activation), nn.MSELoss(), x, y)
    return risk + tw.L2(risk, decay) if decay else risk


@cache
def two_units() -> tw.Objective:
    return tw.EmpiricalRisk(network(2, 2, 1), nn.MSELoss(), *data(40))


def ask(objective: tw.Objective, theta: Tensor, **settings: int) -> Certificate:
    (found,) = certify(objective, theta, [IntervalNewton(**settings)])
    return found


def newton(objective: tw.Objective, theta: Tensor) -> Tensor:
    """Plain Newton iterations in float64, as long as they move."""
    for _ in range(30):
        there = objective.evaluate(theta, 2)
        assert there.hessian is not None
        step = torch.linalg.solve(there.hessian, there.gradient)
        theta = theta - step
        if step.norm() <= 1e-12 * theta.norm():
            break
    return theta


@cache
def minimum(objective: tw.Objective, seed: int = 0) -> Tensor:
    """Quasi-Newton from a random start, a trust region to where Newton's method converges, then Newton."""

    def both(theta: np.ndarray) -> tuple[float, np.ndarray]:
        there = objective.evaluate(torch.as_tensor(theta), 1)
        assert there.gradient is not None
        return float(there.value), there.gradient.numpy()

    def bend(theta: np.ndarray) -> np.ndarray:
        return objective.hessian(torch.as_tensor(theta)).numpy()

    start = 0.7 * draw(objective.space.size, seed=seed).numpy()
    near = scipy.optimize.minimize(both, start, jac=True, options={"gtol": 1e-6}).x
    nearer = scipy.optimize.minimize(
        both, near, jac=True, hess=bend, method="trust-exact", options={"gtol": 1e-8, "maxiter": 5000}
    ).x
    return newton(objective, torch.as_tensor(nearer))


@cache
def teachers_minimum(decay: float = 0.0, units: int = 3, n: int = 60) -> Tensor:
    """A minimum of the tanh regression, by Newton steps in NumPy that go down, from where the teacher is."""
    x, y = data(n)
    problem = campaign().Problem(x.numpy(), y[:, 0].numpy(), units, campaign()._tanh, None, "squares", decay, None)
    weights = np.array([[2.0, 0.0], [0.0, 1.5], [1.0, 1.0]])[:units]
    theta = np.concatenate([weights.ravel(), [-1, 0.5, 0][:units], [1, -1, 0.8][:units], [0]]).astype(float)
    for _ in range(500):
        value, gradient, hessian = problem.derivatives(theta)
        values, vectors = np.linalg.eigh(hessian)
        step = vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(values), 1e-9))
        size = 1.0
        while size > 1e-9 and problem.derivatives(theta - size * step)[0] > value + 1e-16:
            size /= 2
        theta = theta - size * step
        if np.linalg.norm(step) < 1e-13 * np.linalg.norm(theta):
            break
    return torch.as_tensor(theta)


def polished(x: Tensor, y: Tensor, theta: Tensor) -> list[mpmath.mpf]:
    """The critical point of a one-hidden-layer tanh regression, by Newton steps with gradients of 40 digits."""
    (n, d), m = x.shape, (len(theta) - 1) // (x.shape[1] + 2)
    risk = tw.EmpiricalRisk(network(d, m, 1), nn.MSELoss(), x, y)
    hessian = risk.hessian(theta)
    point = [mpmath.mpf(t) for t in theta.tolist()]
    for _ in range(5):
        gradient = [mpmath.mpf(0)] * len(point)
        for row, (target,) in zip(x.tolist(), y.tolist(), strict=True):
            z = [mpmath.fdot(point[d * j : d * j + d], row) + point[d * m + j] for j in range(m)]
            hidden = list(map(mpmath.tanh, z))
            outgoing = point[d * m + m : -1]
            error = 2 * (mpmath.fdot(outgoing, hidden) + point[-1] - mpmath.mpf(target)) / n
            for j in range(m):
                signal = error * outgoing[j] * (1 - hidden[j] ** 2)
                for k in range(d):
                    gradient[d * j + k] += signal * mpmath.mpf(row[k])
                gradient[d * m + j] += signal
                gradient[d * m + m + j] += error * hidden[j]
            gradient[-1] += error
        size = max(map(abs, gradient))
        if size == 0:
            break
        step = torch.linalg.solve(hessian, torch.tensor([float(g / size) for g in gradient], dtype=torch.float64))
        point = [p - size * mpmath.mpf(s) for p, s in zip(point, step.tolist(), strict=True)]
    return point


# -- what is proved ----------------------------------------------------------------------------------------------------


def test_a_strict_minimum_of_a_small_regression_is_proved_in_seconds() -> None:
    x, y = data(60)
    risk = regression()
    theta = teachers_minimum()
    started = time.perf_counter()
    found = ask(risk, theta)
    assert time.perf_counter() - started < 5
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    assert found.scope is Scope.BALL
    assert "a strict local minimum" in found.claim
    assert found.evidence["index"] == 0
    assert found.bound is not None
    assert found.bound < 1e-10 < 1e-7 < found.evidence["alone within"]
    with mpmath.workdps(40):
        truth = polished(x, y, theta)
        gap = mpmath.sqrt(sum((p - mpmath.mpf(t)) ** 2 for p, t in zip(truth, theta.tolist(), strict=True)))
        assert gap <= found.bound
    assert found.evidence["least value"] <= float(risk.value(theta)) + 1e-15
    assert float(risk.value(theta)) - 1e-15 <= found.evidence["largest value"]
    assert [h.state for h in found.hypotheses] == [State.CHECKED, *[State.PROVED] * 4]


@pytest.mark.parametrize("seed", [2, 5])
def test_saddles_of_index_one_are_proved(seed: int) -> None:
    objective = regression(1e-3)
    ended = find_critical_point(objective, draw(13, seed=seed), index=1)
    found = ask(objective, ended.theta)
    assert found.established, found.reason
    assert "a saddle of index 1" in found.claim
    hessian = objective.hessian(ended.theta)
    assert int((torch.linalg.eigvalsh(hessian) < 0).sum()) == found.evidence["index"] == 1


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.Mish])
def test_other_activations(activation: Callable[[], nn.Module]) -> None:
    objective = regression(0.1, activation, n=20)
    theta = minimum(objective)
    found = ask(objective, theta)
    assert found.established, found.reason
    assert found.evidence["index"] == int((torch.linalg.eigvalsh(objective.hessian(theta)) < 0).sum())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_units_of_the_data_do_not_matter(scale: float) -> None:
    """Ridge regression, where the only critical point is known in closed form."""
    x, y = draw(12, 3, seed=4), draw(12, 1, seed=5) * scale
    risk = tw.EmpiricalRisk(nn.Linear(3, 1), nn.MSELoss(), x, y)
    objective = risk + tw.L2(risk, 0.1)
    wide = torch.cat([x, torch.ones(12, 1)], 1).double()
    best = torch.linalg.solve(wide.T @ wide * 2 / 12 + 0.1 * torch.eye(4).double(), 2 / 12 * wide.T @ y)[:, 0]
    for away in (0.0, 1e-3, 10.0):
        there = best + scale * away * draw(4, seed=6)
        found = ask(objective, there)
        assert found.established, found.reason
        assert "a strict local minimum" in found.claim
        truth = float((there - best).norm())
        assert truth - 1e-12 * scale <= found.bound <= truth * (1 + 1e-9) + 1e-12 * scale


def test_a_maximum_is_called_one() -> None:
    """A fixed target that a square output overshoots: with one frozen layer the loss has a maximum between minima."""

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) ** 2

    risk = tw.EmpiricalRisk(Squared(), nn.MSELoss(), torch.ones(2, 1), torch.ones(2, 1))  # (w^2 - 1)^2
    for theta, what in ((1e-3, "a strict local maximum"), (1.001, "a strict local minimum"), (-0.999, "minimum")):
        found = ask(risk, torch.tensor([theta], dtype=torch.float64))
        assert found.established, found.reason
        assert what in found.claim
    assert found.evidence["alone within"] < 1


def test_classes_with_weight_decay() -> None:
    x, y = data(15)
    labels = (y[:, 0] > 0).long() + (y[:, 0] > 1).long()
    risk = tw.EmpiricalRisk(network(2, 2, 3), nn.CrossEntropyLoss(), x, labels)
    objective = risk + tw.L2(risk, 0.05)
    theta = minimum(objective)
    found = ask(objective, theta)
    assert found.established, found.reason
    assert found.evidence["index"] == int((torch.linalg.eigvalsh(objective.hessian(theta)) < 0).sum())
    withdrawn = ask(risk, theta)  # one number added to all outputs changes nothing
    assert withdrawn.outcome is Outcome.UNDECIDED
    assert "singular to rounding" in withdrawn.reason


# -- what withdraws the claim ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_perturbed_point_is_refused_or_the_radius_reaches_the_truth(seed: int) -> None:
    decay = 1e-3 if seed % 2 else 0.0
    objective, theta = regression(decay), teachers_minimum(decay)
    for size in (1e-3, 1e-2, 0.1):
        moved = theta + size * draw(13, seed=seed)
        found = ask(objective, moved)
        if not found.established:
            assert found.outcome is Outcome.UNDECIDED
            continue
        assert found.bound is not None
        near = found.evidence["critical point"]
        assert isinstance(near, Tensor)
        assert float((near - moved).norm()) <= found.bound + 1e-13
        assert float(objective.gradient(near).norm()) < 1e-13
    assert ask(objective, theta + 1e-3 * draw(13, seed=seed)).outcome is Outcome.UNDECIDED


def test_what_is_found_on_the_way_is_shown_though_nothing_is_claimed() -> None:
    objective, theta = regression(), teachers_minimum()
    found = ask(objective, theta + 2e-4 * draw(13, seed=3))
    assert found.outcome is Outcome.UNDECIDED
    assert "ask at a point nearer to it" in found.reason
    near = found.evidence["critical point"]
    assert isinstance(near, Tensor)
    assert ask(objective, near).established


def test_a_random_point_is_undecided() -> None:
    for seed in range(5):
        assert ask(regression(), draw(13, seed=seed)).outcome is Outcome.UNDECIDED


def test_symmetries_and_weight_decay() -> None:
    """Rescaled ReLU units make the Hessian singular; weight decay mends that, and its removal withdraws the claim."""
    x = 1 + draw(20, 1, seed=1).abs()
    y = 2 * x + draw(20, 1, seed=2)
    risk = tw.EmpiricalRisk(network(1, 1, 1, activation=nn.ReLU), nn.MSELoss(), x, y)
    line = np.polyfit(x[:, 0], y[:, 0], 1)  # what a unit computes that is active on all samples
    free = torch.tensor([1.5, 0.1, line[0] / 1.5, line[1] - 0.1 * line[0] / 1.5]).double()
    assert float(risk.gradient(free).norm()) < 1e-12
    withdrawn = ask(risk, free)
    assert withdrawn.outcome is Outcome.UNDECIDED
    assert "singular to rounding, with 2 of 4 eigenvalues zero" in withdrawn.reason
    decayed = risk + tw.L2(risk, 0.01)
    theta = newton(decayed, free)
    found = ask(decayed, theta)
    assert found.established, found.reason
    assert found.evidence["index"] == int((torch.linalg.eigvalsh(decayed.hessian(theta)) < 0).sum())


def test_a_kink_under_a_pre_activation_withdraws_the_claim() -> None:
    x, y = torch.tensor([[0.0], [1.0], [2.0]]).double(), torch.tensor([[0.0], [1.0], [1.5]]).double()
    risk = tw.EmpiricalRisk(nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)), nn.MSELoss(), x, y)
    objective = risk + tw.L2(risk, 0.1)
    found = ask(objective, torch.ones(3).double())
    assert found.outcome is Outcome.UNDECIDED
    assert "the kink at 0" in found.reason


@pytest.mark.parametrize("kind", ["duplicate", "dead", "unused input"])
def test_degenerate_units_withdraw_the_claim(kind: str) -> None:
    """A unit twice, a unit without a say, an input that is always zero: the same minimum, now in a valley."""
    x, y = data(40)
    small = two_units()
    base = teachers_minimum(units=2, n=40)
    assert ask(small, base).established
    w, b, a, c = base[:4].reshape(2, 2), base[4:6], base[6:8], base[8:]
    if kind == "unused input":
        wide = torch.cat([x, torch.zeros(40, 1)], 1)
        risk = tw.EmpiricalRisk(network(3, 2, 1), nn.MSELoss(), wide, y)
        theta = torch.cat([torch.cat([w, torch.zeros(2, 1)], 1).reshape(-1), b, a, c])
    else:
        risk = tw.EmpiricalRisk(network(2, 3, 1), nn.MSELoss(), x, y)
        share = 0.3 * a[:1] if kind == "duplicate" else torch.zeros(1)
        outgoing = torch.cat([a[:1] - share, a[1:], share])
        theta = torch.cat([w.reshape(-1), w[0], b, b[:1], outgoing, c])
    found = ask(risk, theta)
    assert found.outcome is Outcome.UNDECIDED
    assert "singular to rounding" in found.reason


def test_interpolation_with_more_parameters_than_samples_is_undecided() -> None:
    """All samples fitted by the last layer: a global minimum, in a valley of 16 dimensions."""
    x, y = data(5)
    risk = tw.EmpiricalRisk(network(2, 5, 1), nn.MSELoss(), x, y)
    incoming = draw(15, seed=2)
    hidden = torch.tanh(x @ incoming[:10].reshape(5, 2).T + incoming[10:])
    outgoing = torch.linalg.solve(hidden, y)[:, 0]
    found = ask(risk, torch.cat([incoming, outgoing, torch.zeros(1).double()]))
    assert found.outcome is Outcome.UNDECIDED
    assert "singular to rounding" in found.reason


def test_what_does_not_concern_it_is_declined_by_name() -> None:
    risk = regression()
    penalised = risk + tw.Penalty(risk, lambda p: p["0.weight"].pow(4).sum(), "quartic")
    found = ask(penalised, risk.initial)  # type: ignore[attr-defined]
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "Penalty(quartic)" in found.reason


def test_few_bits_withdraw_a_claim_and_never_bend_it() -> None:
    objective, theta = regression(), teachers_minimum()
    assert ask(objective, theta, bits=16).outcome is Outcome.UNDECIDED
    for bits in (40, 53, 64, 300):
        found = ask(objective, theta, bits=bits)
        assert not found.established or found.evidence["index"] == 0


def test_a_budget_that_is_spent_ends_the_attempt() -> None:
    objective, theta = regression(), teachers_minimum()
    case = Case(objective, theta, control=tw.foundation.RunControl(1e-9, None))  # type: ignore[attr-defined]
    assert IntervalNewton().prove(case, ()).outcome is Outcome.NOT_ATTEMPTED


def test_a_large_network_is_not_attempted_and_told_its_cost() -> None:
    x, y = draw(2000, 20), draw(2000, 1)
    risk = tw.EmpiricalRisk(network(20, 60, 60, 1), nn.MSELoss(), x, y)
    started = time.perf_counter()
    found = ask(risk, risk.initial)
    assert found.outcome is Outcome.NOT_ATTEMPTED
    assert "it would take" in found.reason
    assert time.perf_counter() - started < 10


# -- cost and campaign -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "n"), [((2, 3, 1), 200), ((2, 15, 1), 60), ((2, 5, 4, 1), 60), ((3, 6, 3), 50)])
def test_the_predicted_cost_is_about_what_it_takes(sizes: tuple[int, ...], n: int) -> None:
    risk = tw.EmpiricalRisk(network(*sizes), nn.MSELoss(), draw(n, sizes[0]), draw(n, sizes[-1]))
    case = Case(risk, risk.initial)
    predicted = predict(case, hessians=1).flops / flops_per_second()
    spent = []
    with precision():
        loss, box = IntervalLoss(case), list(map(ball, risk.initial.tolist()))
        for _ in range(3):
            started = time.process_time()
            inertia(loss.hessian(box))
            spent.append(time.process_time() - started)
    assert min(spent) / 6 < predicted < 6 * min(spent)


def test_trials_of_the_campaign() -> None:
    trial = campaign().TRIALS["interval newton"]
    outcomes = [trial(seed) for seed in range(60)]
    assert not [found for found, truth in outcomes if truth is False]
    assert sum(found.established for found, _ in outcomes) >= 10


@pytest.mark.parametrize("seed", range(4))
def test_the_truth_in_many_digits_is_that_in_few_where_both_serve(seed: int) -> None:
    problem, theta, _ = campaign().draw(seed)
    _, gradient, hessian = problem.derivatives(theta)
    step, values = problem.in_many_digits(theta)
    few = np.linalg.eigvalsh(hessian)
    assert np.allclose(values, few, rtol=1e-6, atol=1e-8 * np.abs(few).max())
    assert step == pytest.approx(np.linalg.norm(np.linalg.solve(hessian, gradient)), rel=1e-4, abs=1e-9)


@pytest.mark.soak
def test_many_trials(soak_figure: Callable[[str, object], None]) -> None:
    trial = campaign().TRIALS["interval newton"]
    outcomes = [trial(seed) for seed in range(10_000, 12_000)]
    wrong = sum(truth is False for _, truth in outcomes)
    soak_figure("critical points claimed in 2,000 problems", sum(found.established for found, _ in outcomes))
    soak_figure("false claims", wrong)
    assert wrong == 0


@pytest.mark.soak
def test_sixty_parameters_and_two_hundred_samples(soak_figure: Callable[[str, object], None]) -> None:
    x, y = data(200)
    for sizes in ((2, 15, 1), (2, 5, 5, 1)):
        risk = tw.EmpiricalRisk(network(*sizes), nn.MSELoss(), x, y)
        objective = risk + tw.L2(risk, 1e-3)
        theta = minimum(objective, seed=1)
        found = ask(objective, theta)
        soak_figure(f"seconds for {'-'.join(map(str, sizes))}, N = 200", f"{found.seconds:.2g}")
        assert found.established, found.reason
        values = np.linalg.eigvalsh(objective.hessian(theta).numpy())
        assert found.evidence["index"] == (values < 0).sum()
