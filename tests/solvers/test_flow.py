"""Gradient flow against closed forms, SciPy and the definition of order."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.solvers import GradientFlow, gradient_flow, random_starts
from thalweg.solvers.newton import decompose
from thalweg.solvers.rosenbrock import RODAS3, RODAS4, Spectrum, Tableau, rosenbrock_step


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student(width: int = 4, samples: int = 40) -> tw.EmpiricalRisk:
    x = draw(samples, 2)
    y = torch.tanh(2 * x[:, :1] - x[:, 1:]) + 0.1 * draw(samples, 1, seed=1)
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1)).double()
    return tw.EmpiricalRisk(model, nn.MSELoss(), x, y)


def reference(risk: tw.Objective, theta: Tensor, times: list[float], rates: Tensor | float = 1.0) -> np.ndarray:
    """By SciPy's Radau at a tight tolerance."""

    def slope(_: float, at: np.ndarray) -> np.ndarray:
        return -(rates * risk.gradient(torch.from_numpy(at))).numpy()

    found = solve_ivp(slope, (0, times[-1]), theta.numpy(), "Radau", times, rtol=1e-11, atol=1e-13)
    return found.y.T


@pytest.mark.parametrize(("tableau", "order"), [(RODAS3, 3), (RODAS4, 4)])
def test_order_of_the_methods(tableau: Tableau, order: int) -> None:
    risk = student()
    start = random_starts(risk.space, 1, 3)
    exact = torch.from_numpy(reference(risk, start[0], [2.0]))
    errors = []
    for count in (10, 20, 40, 80):
        theta = start
        for _ in range(count):
            found = risk.evaluate(theta, 2)
            assert found.gradient is not None
            assert found.hessian is not None
            length = torch.full((1,), 2.0 / count, dtype=torch.float64)
            spectrum = Spectrum(*decompose(found.hessian))
            theta = rosenbrock_step(tableau, risk.gradient, theta, found.gradient, spectrum, length).theta
        errors.append(float((theta - exact).norm()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] > order - 0.3


def test_values_inside_a_step_are_of_third_order() -> None:
    risk = student()
    start = random_starts(risk.space, 1, 3)
    found = risk.evaluate(start, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    errors = []
    for length in (0.2, 0.1, 0.05):
        exact = torch.from_numpy(reference(risk, start[0], [0.3 * length, length])[0])
        step = rosenbrock_step(
            RODAS4, risk.gradient, start, found.gradient, Spectrum(*decompose(found.hessian)),
            torch.tensor([length], dtype=torch.float64),
        )  # fmt: skip
        errors.append(float((step.at(torch.tensor([0.3], dtype=torch.float64)) - exact).norm()))
    assert errors[1] / errors[2] > 2**3.5  # the local error of a third-order formula falls like the fourth power


def test_a_stiff_linear_flow_is_the_matrix_exponential() -> None:
    """Least squares with curvatures from 1e-4 to 1e4, against exp(-H t)."""
    basis = torch.linalg.qr(draw(6, 6))[0]
    curvature = torch.logspace(-4, 4, 6, dtype=torch.float64)
    hessian = basis @ torch.diag(curvature) @ basis.T

    def bowl(p: dict[str, Tensor]) -> Tensor:
        return p["x"] @ hessian @ p["x"] / 2

    start, times = draw(6, seed=2), torch.tensor([1e-3, 1.0, 30.0, 1e4], dtype=torch.float64)
    path = gradient_flow(tw.Penalty(ParameterSpace({"x": (6,)}), bowl, name="bowl"), start, times=times, rtol=1e-10)
    exact = torch.stack([basis @ (torch.exp(-curvature * t) * (basis.T @ start)) for t in path.times])
    assert float((path.theta - exact).abs().max()) < 1e-8
    assert path.ended == "end of time"
    assert int(path.steps) < 2000


def test_error_falls_with_the_tolerance() -> None:
    risk = student()
    start = random_starts(risk.space, 1, 5)[0]
    times = torch.tensor([0.5, 5.0, 20.0], dtype=torch.float64)
    exact = torch.from_numpy(reference(risk, start, times.tolist()))
    errors = [
        float((gradient_flow(risk, start, times=times, rtol=rtol).theta[1:] - exact).abs().max())
        for rtol in (1e-4, 1e-6, 1e-8)
    ]
    assert errors[0] < 1e-2
    assert errors[1] < 1e-4
    assert errors[2] < 1e-6
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_batches_follow_each_flow_by_itself() -> None:
    risk = student()
    starts = random_starts(risk.space, 6, 0).reshape(2, 3, -1)
    whole = gradient_flow(risk, starts, 3.0, samples=7)
    assert whole.theta.shape == (2, 3, 8, risk.space.size)
    alone = gradient_flow(risk, starts[1, 2], 3.0, samples=7)
    assert torch.allclose(whole.theta[1, 2], alone.theta, rtol=1e-12, atol=1e-13)
    assert torch.equal(whole.theta[..., 0, :], starts)
    assert bool((whole.value.diff(dim=-1) < 0).all())
    assert torch.allclose(whole.value, risk.value(whole.theta))
    assert torch.allclose(whole.gradient_norm, risk.gradient(whole.theta).abs().amax(-1))


@pytest.mark.parametrize("as_mapping", [True, False])
def test_inverse_time_constants_freeze_and_weigh(as_mapping: bool) -> None:
    risk = student()
    rates = torch.ones(risk.space.size, dtype=torch.float64)
    rates[risk.space.slice("0.weight")], rates[risk.space.slice("2.bias")] = 0.0, 3.0
    given = {"0.weight": 0.0, "2.bias": 3.0} if as_mapping else rates
    start = random_starts(risk.space, 1, 1)[0]
    path = gradient_flow(risk, start, 4.0, samples=60, inverse_time_constants=given, rtol=1e-9)
    frozen = risk.space.slice("0.weight")
    assert torch.equal(path.theta[:, frozen], start[frozen].expand(61, -1))
    exact = torch.from_numpy(reference(risk, start, path.times[1:].tolist(), rates))
    assert float((path.theta[1:] - exact).abs().max()) < 1e-7


def test_a_flow_that_comes_to_rest_stays() -> None:
    risk = student() + tw.L2(student(), 0.1)
    path = gradient_flow(risk, random_starts(risk.space, 3, 0), 1e6, stationary=1e-9)
    assert list(path.ended) == ["stationary"] * 3
    assert bool((path.gradient_norm[:, -1] <= 1e-9).all())
    assert bool(torch.isfinite(path.theta).all())


def test_what_is_not_reached_is_not_made_up() -> None:
    risk = student()
    path = gradient_flow(risk, random_starts(risk.space, 2, 0), 1e3, samples=20, max_steps=8)
    assert list(path.ended) == ["step limit"] * 2
    late = path.times > path.reached.max()
    assert bool(late.any())
    assert bool(torch.isnan(path.theta[:, late]).all())
    assert bool(torch.isnan(path.value[:, late]).all())
    assert "step limit" in repr(path)


def test_what_makes_no_sense() -> None:
    risk = student()
    start = risk.initial
    for settings, message in (
        ({}, "either time=100.0 or times="),
        ({"time": 1.0, "times": torch.ones(1)}, "either time=100.0 or times="),
        ({"time": -1.0}, "time must be positive"),
        ({"times": torch.tensor([1.0, 0.5])}, "ascending"),
        ({"time": 1.0, "rtol": 0.0}, "rtol must lie between 0 and 1"),
        ({"time": 1.0, "inverse_time_constants": -1.0}, "finite and not negative"),
        ({"time": 1.0, "inverse_time_constants": torch.ones(3)}, "shape (3,), expected (17,)"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            gradient_flow(risk, start, **settings)
        assert message in str(caught.value)


def test_the_minimiser_ends_where_the_flow_does() -> None:
    risk = student() + tw.L2(student(), 0.05)
    starts = random_starts(risk.space, 5, 2)
    found = tw.minimize(risk, starts, method=GradientFlow(rtol=1e-4))
    path = gradient_flow(risk, starts, 1e6, stationary=1e-10)
    assert bool(found.converged.all())
    assert torch.allclose(found.theta, path.end, atol=1e-6)


def test_population_and_quadrature_flow_alike() -> None:
    """The same student by closed-form integrals and by Gauss-Hermite nodes, to T = 20."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).unsqueeze(1)

    class Erf(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.erf(z / math.sqrt(2))

    def net(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(1, width, bias=False), Erf(), nn.Linear(width, 1, bias=False)).double()

    teacher, model = net(2), net(2)
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[1.5], [-0.7]]))
        teacher[2].weight.copy_(torch.tensor([[1.0, 0.8]]))
    exact = tw.population_risk(model, teacher, x.shape[1])
    nodes = tw.objectives.gauss_hermite_risk(model, teacher, 1, nodes=200)
    start = torch.tensor([0.9, 1.4, 2.0, -0.3], dtype=torch.float64)
    both = [gradient_flow(each, start, 20.0, samples=10, rtol=1e-8) for each in (exact, nodes)]
    assert float((both[0].theta - both[1].theta).abs().max()) < 1e-5
