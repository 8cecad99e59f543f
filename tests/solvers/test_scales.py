"""Units must not decide: the loss or the parameters multiplied by any constant are the same problem."""

from __future__ import annotations

import pytest
import torch
from solver_functions import function, normal
from torch import Tensor, nn

from thalweg.foundation import ParameterSpace
from thalweg.objectives import EmpiricalRisk, Penalty
from thalweg.solvers import LBFGS, NewtonCG, NewtonTrustRegion, Status, find_critical_point, minimize

METHODS = ["newton", "newton-cg", "l-bfgs"]


def network_loss(scale: float) -> Penalty:
    """A 2-2-1 tanh regression, its squared error times a constant."""
    x = normal(25, 2, seed=1)
    y = torch.sin(x[:, 0]) + 0.3 * x[:, 1] ** 2 + 0.1 * normal(25, seed=2)

    def loss(p: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(x @ p["w"].T + p["b"])
        penalty = 1e-3 * sum(block.square().sum() for block in p.values())
        return scale * ((hidden @ p["v"] + p["c"] - y).square().mean() + penalty)

    space = ParameterSpace({"w": (2, 2), "b": (2,), "v": (2,), "c": (1,)})
    return Penalty(space, loss, name=f"network times {scale:g}")


@pytest.mark.parametrize("method", ["newton", "l-bfgs"])
@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e8])
def test_a_loss_times_a_constant_has_the_same_minima(method: str, scale: float) -> None:
    """The tolerance is absolute, so that of the small losses every point has a small gradient, minimum or not."""
    starts = normal(4, 9, seed=3)
    plain, scaled = (minimize(network_loss(factor), starts, method=method) for factor in (1.0, scale))
    assert bool(plain.converged.all()), plain.summary()
    assert bool(scaled.converged.all()), scaled.summary()
    refined = minimize(network_loss(1.0), scaled.theta)  # from a minimum nothing lower is near
    torch.testing.assert_close(scaled.value / scale, refined.value, rtol=1e-7, atol=0)
    if method == "newton":
        torch.testing.assert_close(scaled.value / scale, plain.value, rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4])
def test_a_tail_times_a_constant_is_still_an_escape(scale: float) -> None:
    tail = function(2, lambda x: scale * (torch.exp(-x[0]) + x[1] ** 2), "tail")
    for method in METHODS:
        assert minimize(tail, torch.tensor([0.0, 1.0]), method=method).status.escapes


def test_a_valley_of_a_small_loss_is_walked_to_its_end() -> None:
    """At x = 6 the gradient is below 1e-10 already; from there to four times as far the loss falls ever more slowly."""
    valley = function(2, lambda x: 1e-8 * (1 / (1 + x[0] ** 2) + 1e-6 * x[0] ** 2 + x[1] ** 2), "small valley")
    for method in METHODS:
        found = minimize(valley, torch.tensor([2.0, 1.0]), method=method)
        assert found.status is Status.CONVERGED, found.message
        assert float(found.theta[0]) == pytest.approx((1e3 - 1) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6, 1e8])
def test_an_exact_saddle_is_left_whatever_the_units_of_the_parameters(method: str, scale: float) -> None:
    well = function(2, lambda x: (scale * x[0]) ** 4 - (scale * x[0]) ** 2 + (scale * x[1]) ** 2, "well")
    found = minimize(well, torch.zeros(2), method=method)
    assert found.status is Status.CONVERGED, found.message
    assert scale * abs(float(found.theta[0])) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_inputs_times_a_constant_stay_separable(scale: float) -> None:
    x = normal(20, 2, seed=3)
    y = (x @ torch.tensor([1.0, -2.0]).double() > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(2, 2, bias=False).double()
    risk = EmpiricalRisk(model, nn.CrossEntropyLoss(), scale * x, y)
    for method in [*METHODS, "lm"]:
        assert minimize(risk, method=method).status.escapes


def test_far_out_a_flat_direction_is_looked_along() -> None:
    """Parameters of 1e7, and a coordinate that is zero and does nothing."""
    far = function(2, lambda x: 1e-7 * (x[0] - 1e7) ** 2 + 0 * x[1], "far")
    for start in (torch.zeros(2), torch.tensor([1e7, 0.0])):
        found = minimize(far, start)
        assert found.status is Status.CONVERGED
        assert int(found.undecided) == 1
        assert float(found.theta[0]) == pytest.approx(1e7)


def test_a_loss_without_any_curvature_runs_away() -> None:
    """The Hessian is exactly zero, and the slope lies along its last eigenvector."""
    line = function(3, lambda x: x[2] + 0 * x[0], "line")
    for method in METHODS:
        assert minimize(line, torch.zeros(3), method=method).status is Status.GROWTH


@pytest.mark.parametrize("scale", [1e-10, 1e10, 1e14, 1e18])
def test_single_precision_far_from_one(scale: float) -> None:
    """The square of such a gradient overflows in single precision."""
    space = ParameterSpace({"x": (2,)})
    bowl = Penalty(
        space, lambda p: scale * ((p["x"][0] - 1) ** 2 + 3 * (p["x"][1] + 2) ** 2), name="bowl", dtype=torch.float32
    )
    for method in (NewtonTrustRegion(), NewtonCG(), LBFGS()):
        found = minimize(bowl, torch.zeros(2), method=method)
        assert found.status is Status.CONVERGED, found.message
        torch.testing.assert_close(found.theta, torch.tensor([1.0, -2.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-20, 1e18, 1e20])
def test_saddles_in_single_precision_far_from_one(scale: float) -> None:
    space = ParameterSpace({"x": (2,)})
    saddle = Penalty(
        space, lambda p: scale * (torch.cosh(p["x"][0] - 1) - (p["x"][1] + 2) ** 2), name="saddle", dtype=torch.float32
    )
    for index in (None, 1):
        found = find_critical_point(saddle, torch.tensor([0.5, -1.7]), index=index)
        assert found.status is Status.CONVERGED, found.message
        assert int(found.index) == 1
        torch.testing.assert_close(found.theta, torch.tensor([1.0, -2.0]), atol=1e-3, rtol=0)


# -- where the Hessian cannot be had -----------------------------------------------------------------------------------


def test_where_the_hessian_is_not_finite_nothing_is_claimed() -> None:
    """|x|^1.5 has a gradient at zero but no curvature; its negative has a maximum there."""
    hill = function(1, lambda x: x[0] ** 2 - x[0].abs() ** 1.5, "hill")
    found = minimize(hill, torch.zeros(1))
    assert found.status is Status.CONVERGED
    assert abs(float(found.theta)) == pytest.approx(0.5625)
    cusp = function(2, lambda x: (x.abs() ** 1.5).sum(), "cusp")
    at_cusp = minimize(cusp, torch.zeros(2))
    assert at_cusp.status is Status.STALLED
    assert "Hessian is not finite" in at_cusp.message
    assert find_critical_point(cusp, torch.zeros(2)).status is Status.STALLED


# -- saddles that the gradient does not show ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton-cg", "l-bfgs"])
def test_a_saddle_of_many_parameters_is_left_from_its_very_top(method: str) -> None:
    """With the gradient exactly zero conjugate gradients make no step; 1600 parameters have no dense endgame."""
    wells = function(1600, lambda x: (x[:50] ** 4 - x[:50] ** 2).sum() + (x[50:] ** 2).sum(), "wells")
    found = minimize(wells, torch.zeros(1600), method=method)
    assert found.status is Status.CONVERGED, found.message
    assert float(found.value) == pytest.approx(-50 / 4)


def test_a_saddle_that_symmetry_hides_from_the_gradient_is_left() -> None:
    """Two equal halves stay equal under every gradient and every product with it, yet a fall lies between them."""
    half = 800

    def formula(x: Tensor) -> Tensor:
        left, right = x[:half], x[half:]
        gap = (left - right).square().sum()
        return (left + right - 1).square().sum() - gap + gap**2

    mirror = function(2 * half, formula, "mirror")
    found = minimize(mirror, torch.full((2 * half,), 0.3), method="newton-cg")
    assert found.status is Status.CONVERGED, found.message
    assert float(found.value) == pytest.approx(-0.25)
