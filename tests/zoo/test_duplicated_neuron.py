"""The line of a duplicated neuron: exactly critical, and of the inertia that the theorem says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import EmpiricalRisk
from thalweg.zoo import DuplicatedNeuron, critical_points_of


def inertia(problem: DuplicatedNeuron, theta: torch.Tensor) -> tuple[int, int]:
    spectrum = torch.linalg.eigvalsh(problem.hessian(theta))
    level = 1e-12 * float(spectrum.abs().max())
    return int((spectrum < -level).sum()), int((spectrum.abs() <= level).sum())


@pytest.mark.parametrize(
    ("curvature", "inside", "outside"),
    [([0.002, 0.004], 0, 2), ([-0.002, -0.004], 2, 0), ([-0.002, 0.004], 1, 1), ([0.002, 0.004, -0.001], 1, 2)],
)
def test_theorem_3_for_two_copies(curvature, inside, outside) -> None:
    d = len(curvature)
    problem = DuplicatedNeuron.random(inputs=d, samples=80, curvature=curvature, seed=d)
    for gamma in (0.5, 0.1, 0.97):
        point = problem.critical_point([gamma, 1 - gamma])
        assert (point.index, point.nullity) == (inside, 1)
        assert point.kind == ("saddle" if inside else "degenerate minimum")
    for gamma in (2.0, -0.3, 1.1):
        point = problem.critical_point([gamma, 1 - gamma])
        assert (point.index, point.nullity) == (outside, 1)
        assert point.kind == ("saddle" if outside else "degenerate minimum")
    for gamma in (0.0, 1.0):
        point = problem.critical_point([gamma, 1 - gamma])
        assert (point.index, point.nullity, point.kind) == (0, 1 + d, "degenerate saddle")


@given(
    shares=st.lists(st.sampled_from([-1.5, -0.4, 0.0, 0.3, 0.8, 2.0]), min_size=1, max_size=3),
    curvature=st.lists(st.sampled_from([-0.004, -0.002, 0.002, 0.004]), min_size=1, max_size=2),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_inertia_and_gradient_against_dense_eigenvalues(shares, curvature) -> None:
    shares = [*shares, 1 - sum(shares)]
    shares[-1] = 0.0 if abs(shares[-1]) < 1e-12 else shares[-1]
    d = len(curvature)
    problem = DuplicatedNeuron.random(neurons=d, inputs=d, curvature=curvature, copies=len(shares), seed=11)
    point = problem.critical_point(shares)
    assert inertia(problem, point.theta) == (point.index, point.nullity)
    assert float(problem.gradient(point.theta).abs().max()) < 1e-14
    assert float((problem.hessian(point.theta) @ point.tangent).abs().max()) < 1e-14
    assert point.tangent.shape[1] == len(shares) - 1


def test_the_smaller_network_is_a_strict_minimum_and_b_is_what_was_asked_for() -> None:
    problem = DuplicatedNeuron.random(neurons=2, inputs=3, samples=90, curvature=[0.004, -0.002, 0.001], seed=3)
    weights, outputs = problem.minimum[:6].reshape(2, 3), problem.minimum[6:]

    def loss(theta: torch.Tensor) -> torch.Tensor:
        predicted = torch.tanh(problem.inputs @ theta[:6].reshape(2, 3).T) @ theta[6:]
        return ((predicted - problem.targets[:, 0]) ** 2).mean() / 2

    assert float(torch.autograd.functional.jacobian(loss, problem.minimum).abs().max()) < 1e-15
    assert float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, problem.minimum))[0]) > 1e-3
    x, e = problem.inputs.numpy(), (torch.tanh(problem.inputs @ weights.T) @ outputs - problem.targets[:, 0]).numpy()
    for i in range(2):
        t = np.tanh(x @ weights[i].numpy())
        b = np.einsum("n,ni,nj->ij", e * float(outputs[i]) * -2 * t * (1 - t**2), x, x) / len(x)
        np.testing.assert_allclose(b, np.diag([0.004, -0.002, 0.001]) if i == 0 else 0, atol=1e-15)


def test_it_is_half_the_mean_squared_error_of_a_module() -> None:
    problem = DuplicatedNeuron.random(neurons=2, inputs=3, samples=60, curvature=[0.002] * 3)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False))
    risk = EmpiricalRisk(model, nn.MSELoss(), problem.inputs, problem.targets)
    assert problem.space == risk.space
    torch.testing.assert_close(problem.value(risk.initial), risk.value(risk.initial) / 2)


def test_the_function_is_the_same_all_along_the_line() -> None:
    problem = DuplicatedNeuron.random(copies=3, curvature=[0.002, 0.002])
    lines = torch.stack([problem.on_line(s) for s in ([1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [4.0, -7.0, 4.0])])
    outputs = problem.outputs(lines)
    torch.testing.assert_close(outputs[1:], outputs[:1].expand(2, -1, -1), atol=1e-13, rtol=0)


@pytest.mark.parametrize("curvature", [[0.002, 0.004], [-0.002, -0.004], [-0.002, 0.004]])
def test_degenerate_saddles_have_lower_values_arbitrarily_near(curvature) -> None:
    """The way down: a small step along the line to a strict saddle, then along its negative curvature."""
    problem = DuplicatedNeuron.random(curvature=curvature, seed=2)
    point = problem.critical_point([0.0, 1.0])
    assert point.kind == "degenerate saddle"
    for distance in (0.3, 0.03):
        best = float("inf")
        for gamma in (distance, -distance):
            beside = problem.on_line([gamma, 1 - gamma])
            values, vectors = torch.linalg.eigh(problem.hessian(beside))
            if float(values[0]) > -1e-8:
                continue
            steps = torch.logspace(-4, 0, 60, dtype=torch.float64).unsqueeze(1) * distance
            for sign in (1, -1):
                best = min(best, float(problem.value(beside + sign * steps * vectors[:, 0]).min()))
        assert best < point.value - 1e-13


def test_plateaus_are_minima_and_exact_targets_make_them_global() -> None:
    plateau = DuplicatedNeuron.random(curvature=[0.002, 0.004]).critical_point([0.4, 0.6])
    assert plateau.is_minimum
    assert not plateau.is_global
    exact = DuplicatedNeuron.random(curvature=[0.0, 0.0]).critical_point([0.4, 0.6])
    assert (exact.value, exact.is_global, exact.nullity) == (pytest.approx(0.0, abs=1e-28), True, 3)


def test_other_data_know_no_critical_points() -> None:
    problem = DuplicatedNeuron.random()
    some = problem.subset(range(10))
    assert isinstance(some, DuplicatedNeuron)
    assert some.n_samples == 10
    with pytest.raises(NotApplicableError, match="critical_points_of does not apply"):
        critical_points_of(some)
    assert len(critical_points_of(problem)) == 4


def test_the_seed_decides() -> None:
    assert DuplicatedNeuron.random(seed=1).fingerprint() == DuplicatedNeuron.random(seed=1).fingerprint()
    assert DuplicatedNeuron.random(seed=1).fingerprint() != DuplicatedNeuron.random(seed=2).fingerprint()
    assert DuplicatedNeuron.random(copies=2).fingerprint() != DuplicatedNeuron.random(copies=3).fingerprint()


def test_what_cannot_be_is_refused() -> None:
    problem = DuplicatedNeuron.random()
    for shares, message in (([0.5, 0.6], "must sum to one"), ([1.0], "2 copies need"), ([0.2] * 5, "2 copies need")):
        with pytest.raises(InvalidInputError, match=message):
            problem.critical_point(shares)
    with pytest.raises(InvalidInputError, match="makes the smaller network a saddle"):
        DuplicatedNeuron.random(curvature=[-10.0, -10.0])
    with pytest.raises(InvalidInputError, match="5 inputs cannot meet 12 conditions"):
        DuplicatedNeuron.random(samples=5)
    with pytest.raises(InvalidInputError, match="3 neurons cannot be orthogonal in 2 inputs"):
        DuplicatedNeuron.random(neurons=3)
    with pytest.raises(InvalidInputError, match="zero throughout or nowhere"):
        DuplicatedNeuron.random(curvature=[0.0, 0.1])
    w, a, x = torch.ones(1, 2), torch.ones(1), torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    for arguments, message in (
        ((w, 0 * a, x, [0.01, 0.01]), "output weights other than zero"),
        ((w, a, x[:, :1], [0.01, 0.01]), "weights have 2 inputs, inputs 1"),
        ((w, a, x.sum(1, keepdim=True).expand(-1, 2), [0.01, 0.01]), "30 inputs cannot meet 6 conditions"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            DuplicatedNeuron(*arguments)
    with pytest.raises(InvalidInputError, match="two or more copies"):
        DuplicatedNeuron(w, a, x, [0.01, 0.01], copies=1)
