"""The Gauss-Newton decrement against least squares, and points whose small gradients fool nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gap_problems import ask, descended, draw, perceptron
from torch import nn

import thalweg as tw
from thalweg.certificates import GaussNewtonDecrement, NonzeroGradient, Outcome
from thalweg.certificates import tangent_model as module

DECREMENT = GaussNewtonDecrement()


def exact_decrement(risk: tw.EmpiricalRisk, theta: torch.Tensor) -> float:
    """``L - min over delta of the mean squared error of f + J delta``."""
    jacobian = risk.jacobian(theta)
    residual = (risk.outputs(theta) - risk.targets).reshape(-1)
    left = residual - jacobian @ (torch.linalg.pinv(jacobian, rtol=1e-14) @ residual)
    return float(residual @ residual - left @ left) / risk.targets.numel()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_least_squares_gains(seed: int, scale: float) -> None:
    risk = tw.EmpiricalRisk(perceptron((2, 3, 1), seed=seed), nn.MSELoss(), draw(20, 2, seed=seed),
                            draw(20, 1, seed=seed) * scale)  # fmt: skip
    found = ask(DECREMENT, risk, risk.initial)
    truth = exact_decrement(risk, risk.initial)
    assert found.established
    assert (1 - 1e-8) * truth <= found.evidence["decrement"] <= truth * (1 + 1e-9)
    direction = found.evidence["direction"]
    size = float(risk.value(risk.initial))
    steps = torch.logspace(-8, 0, 30, dtype=torch.float64)[:, None] * direction * risk.initial.norm()
    assert float(risk.value(risk.initial + steps).min()) < size


@pytest.mark.parametrize("shrink", [1e-7, 1e-8])
def test_a_tiny_gradient_with_a_large_decrement_is_no_stationary_point(shrink: float) -> None:
    """Inputs so small that the gradient vanishes, while the linear model still fits them."""
    x, y = draw(12, 3) * shrink, draw(12, 1)
    risk = tw.EmpiricalRisk(nn.Linear(3, 1, bias=False), nn.MSELoss(), x, y)
    theta = torch.zeros(3, dtype=torch.float64)
    found = ask(DECREMENT, risk, theta)
    assert float(risk.gradient(theta).norm()) < 1e-6
    assert found.established
    assert found.evidence["decrement"] > 1e-3
    assert found.evidence["decrement"] == pytest.approx(exact_decrement(risk, theta), rel=1e-6)


def test_a_long_run_of_a_network_is_found_out() -> None:
    """Gradient descent stalls where features are all but flat: units saturate, and the gradient is below 1e-6."""
    model = perceptron((1, 3, 1))
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(9, 1), draw(9, 1))
    theta = risk.initial.clone()
    blocks = risk.space.unflatten(theta)
    blocks["2.weight"].mul_(1e-9)
    blocks["0.weight"].mul_(1e-7)
    blocks["0.bias"].zero_()
    blocks["2.bias"].copy_(risk.targets.mean())
    theta = risk.space.flatten(blocks)
    found = ask(DECREMENT, risk, theta)
    assert float(risk.gradient(theta).norm()) < 1e-6
    assert found.established
    assert found.evidence["decrement"] > 1e-3


@pytest.mark.parametrize("loss", ["labels", "bits", "huber"])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_other_convex_losses(loss: str, decay: float) -> None:
    function, targets = {
        "labels": (nn.CrossEntropyLoss(), torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])),
        "bits": (nn.BCEWithLogitsLoss(), draw(8, 2).sigmoid()),
        "huber": (nn.SmoothL1Loss(beta=5.0), draw(8, 2)),
    }[loss]
    risk = tw.EmpiricalRisk(perceptron((2, 2, 2)), function, draw(8, 2), targets)
    objective = risk + tw.L2(risk, decay) if decay else risk
    found = ask(DECREMENT, objective, risk.initial)
    assert found.established
    gradient, curvature = objective.gradient(risk.initial), objective.gauss_newton(risk.initial)
    truth = float(gradient @ (torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True) @ gradient)) / 2
    assert 0.99 * truth <= found.evidence["decrement"] <= truth * (1 + 1e-6)


def test_products_alone_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    risk = tw.EmpiricalRisk(perceptron((2, 3, 1)), nn.MSELoss(), draw(30, 2), draw(30, 1))
    dense = ask(DECREMENT, risk, risk.initial)
    monkeypatch.setattr(module, "DENSE", 0)
    free = ask(DECREMENT, risk, risk.initial)
    assert 0.9 * dense.evidence["decrement"] <= free.evidence["decrement"] <= 1.000001 * dense.evidence["decrement"]


# -- what must withdraw it ---------------------------------------------------------------------------------------------


def least_squares_point(scale: float) -> tuple[tw.EmpiricalRisk, torch.Tensor]:
    x, y = draw(40, 3) * scale, draw(40, 1)
    risk = tw.EmpiricalRisk(nn.Linear(3, 1), nn.MSELoss(), x, y)
    design = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    return risk, torch.linalg.lstsq(design, y).solution[:, 0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_stationary_point_is_never_refuted(scale: float) -> None:
    risk, best = least_squares_point(scale)
    found = ask(DECREMENT, risk, best)
    assert found.outcome is Outcome.UNDECIDED or found.evidence["decrement"] < 1e-20


def test_an_exact_stationary_point_is_never_refuted() -> None:
    """Integers, so that the gradient is zero in exact arithmetic and nothing may be claimed."""
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    y = torch.tensor([[3.0], [-1.0], [1.0], [-3.0]])
    risk = tw.EmpiricalRisk(nn.Linear(1, 1), nn.MSELoss(), x, y)
    for moved in (torch.tensor([2.0, 0.0]), torch.tensor([2.0, 0.0])):
        assert ask(DECREMENT, risk, moved.double()).outcome is Outcome.UNDECIDED
    symmetric = tw.EmpiricalRisk(perceptron((1, 2, 1), bias=False), nn.MSELoss(), x, y)
    assert ask(DECREMENT, symmetric, torch.zeros(4, dtype=torch.float64)).outcome is Outcome.UNDECIDED


def test_corners_and_terms_withdraw_it() -> None:
    risk = tw.EmpiricalRisk(perceptron((2, 3, 1), nn.ReLU()), nn.MSELoss(), draw(9, 2), draw(9, 1))
    assert ask(DECREMENT, risk, risk.initial).established
    at_corner = risk.initial.clone()
    blocks = risk.space.unflatten(at_corner)
    blocks["0.weight"].zero_()
    blocks["0.bias"].zero_()
    assert ask(DECREMENT, risk, risk.space.flatten(blocks)).outcome is Outcome.NOT_APPLICABLE
    quartic = risk + tw.Penalty(risk, lambda p: (p["0.weight"] ** 4).sum(), name="fourth")
    assert "squares of parameters" in ask(DECREMENT, quartic, risk.initial).reason


@pytest.mark.soak
def test_runs_to_small_gradients(soak_figure: Callable[[str, object], None]) -> None:
    """Long runs: wherever the gradient is below 1e-6 and the decrement above 1e-3, the point is refuted."""
    met = 0
    for seed in range(40):
        x, y = draw(10, 2, seed=seed), draw(10, 1, seed=seed + 1)
        risk = tw.EmpiricalRisk(perceptron((2, 3, 1), seed=seed), nn.MSELoss(), x * 10.0 ** -(5 + seed % 4), y)
        theta = descended(risk, risk.initial, 5 + 2 * seed)
        truth = exact_decrement(risk, theta)
        if float(risk.gradient(theta).norm()) < 1e-6 and truth > 1e-3:
            met += 1
            found = ask(DECREMENT, risk, theta)
            assert found.established
            assert ask(NonzeroGradient(), risk, theta).outcome is not Outcome.NOT_APPLICABLE
    soak_figure("points with gradient below 1e-6 and decrement above 1e-3, all refuted", met)
    assert met
