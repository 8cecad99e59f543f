"""Exact fits nearby: the ball holds where Gauss-Newton arrives, and bad targets make the certificate fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gap_problems import ask, draw, fitted, perceptron
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import ExactFit, Level, Outcome, State
from thalweg.foundation import InvalidInputError


def trained(seed: int, widths: tuple[int, ...] = (3, 20, 1), n: int = 12, off: float = 1e-6, scale: float = 1.0,
            activation: nn.Module | None = None) -> tuple[tw.EmpiricalRisk, Tensor, Tensor]:  # fmt: skip
    """A network that fits its targets, the point moved off by a little."""
    targets = draw(n, widths[-1], seed=seed + 7) * scale
    model = perceptron(widths, activation, seed=seed)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(n, widths[0], seed=seed), targets)
    there = fitted(risk, risk.initial * (1 + 0.5 * draw(risk.space.size, seed=seed)), targets)
    return risk, there + off * draw(risk.space.size, seed=seed + 1), targets


@pytest.mark.parametrize("off", [1e-6, 1e-9])
def test_the_ball_holds_the_limit_of_gauss_newton(off: float) -> None:
    issued = 0
    for seed in range(6):
        risk, theta, targets = trained(seed, off=off)
        found = ask(ExactFit(), risk, theta)
        if not found.established:
            assert float(found.evidence.get("h", 1.0)) > 0.5
            continue
        issued += 1
        limit = fitted(risk, theta, targets)
        assert found.level is Level.RIGOROUS
        assert float((risk.outputs(limit) - targets).norm()) < 1e-12
        assert float((limit - theta).norm()) <= found.bound * (1 + 1e-6) + 1e-13
        assert found.bound < 1e4 * off
    assert issued >= (5 if off < 1e-8 else 3)


@pytest.mark.parametrize("widths", [(2, 9, 9, 1), (2, 8, 6, 2)])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, nn.GELU])
def test_deep_networks(widths: tuple[int, ...], activation: Callable[[], nn.Module]) -> None:
    risk, theta, targets = trained(3, widths, n=5, off=1e-9, activation=activation())
    found = ask(ExactFit(), risk, theta)
    assert found.established, found.reason
    limit = fitted(risk, theta, targets)
    assert float((limit - theta).norm()) <= found.bound * (1 + 1e-6) + 1e-13


@pytest.mark.parametrize("seed", range(4))
def test_corrupted_targets_make_it_fail(seed: int) -> None:
    risk, theta, targets = trained(seed, off=1e-9)
    residual = float((risk.outputs(theta) - targets).norm())
    wrong = targets + nn.functional.normalize(draw(*targets.shape, seed=seed), dim=0) * max(1e4 * residual, 10.0)
    found = ask(ExactFit(), risk.on(risk.inputs, wrong), theta)
    assert found.outcome is Outcome.UNDECIDED
    assert float(found.evidence["h"]) > 0.5


def test_more_outputs_than_parameters_and_repeated_samples_have_none() -> None:
    risk, theta, targets = trained(0)
    x = risk.inputs.clone()
    x[3] = x[2]
    assert ask(ExactFit(), risk.on(x, targets), theta).outcome is Outcome.UNDECIDED
    many = tw.EmpiricalRisk(perceptron((2, 2, 1)), nn.MSELoss(), draw(40, 2), draw(40, 1))
    assert "at least as many parameters" in ask(ExactFit(), many, many.initial).reason


def test_samples_of_weight_zero_do_not_count() -> None:
    risk, theta, targets = trained(0)
    weights = torch.ones(12)
    weights[4] = 0
    wrong = targets.clone()
    wrong[4] += 100
    model = perceptron((3, 20, 1))
    weighted = tw.EmpiricalRisk(model, nn.MSELoss(), risk.inputs, wrong, sample_weight=weights)
    assert ask(ExactFit(), weighted, theta).established
    plain = tw.EmpiricalRisk(model, nn.MSELoss(), risk.inputs, wrong)
    assert not ask(ExactFit(), plain, theta).established


def test_other_losses_and_terms() -> None:
    risk, theta, targets = trained(0)
    model = perceptron((3, 20, 1))
    absolute = tw.EmpiricalRisk(model, nn.L1Loss(), risk.inputs, targets)
    assert ask(ExactFit(), absolute, theta).bound == pytest.approx(ask(ExactFit(), risk, theta).bound, rel=1e-6)
    assert "no term besides" in ask(ExactFit(), risk + tw.L2(risk, 1e-9), theta).reason
    labels = tw.EmpiricalRisk(perceptron((3, 20, 2)), nn.CrossEntropyLoss(), risk.inputs, torch.arange(12) % 2)
    assert "zero where outputs are targets" in ask(ExactFit(), labels, labels.initial).reason


def test_corners_and_other_networks_need_a_constant_of_the_users() -> None:
    relu, theta, _ = trained(1, (3, 20, 1), activation=nn.ReLU())
    found = ask(ExactFit(), relu, theta)
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "pass ExactFit(lipschitz=)" in found.reason
    risk, theta, _ = trained(0)
    given = ask(ExactFit(lipschitz=30.0), risk, theta)
    assert given.established
    assert any(h.state is State.ASSUMED for h in given.hypotheses)
    assert not ask(ExactFit(lipschitz=1e9), risk, theta).established
    with pytest.raises(InvalidInputError, match="finite and not negative"):
        ExactFit(lipschitz=-1.0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales_of_the_targets(scale: float) -> None:
    """A linear model has no curvature: the exact fit is as far as the least-squares step, at any scale."""
    x, y = draw(3, 5), draw(3, 1) * scale
    risk = tw.EmpiricalRisk(nn.Linear(5, 1), nn.MSELoss(), x, y)
    found = ask(ExactFit(), risk, risk.initial)
    step = torch.linalg.pinv(risk.jacobian(risk.initial)) @ (risk.outputs(risk.initial) - y)
    assert float(step.norm()) <= found.bound
    assert float(found.evidence["h"]) == 0


@pytest.mark.soak
def test_fifty_trained_networks(soak_figure: Callable[[str, object], None]) -> None:
    held = issued = 0
    for seed in range(50):
        risk, theta, targets = trained(seed, off=1e-8)
        found = ask(ExactFit(), risk, theta)
        if found.established:
            issued += 1
            limit = fitted(risk, theta, targets)
            held += float((limit - theta).norm()) <= found.bound * (1 + 1e-6) + 1e-13
    soak_figure("exact fits certified, of 50 trained networks", issued)
    soak_figure("of these, with the limit of Gauss-Newton inside", held)
    assert held == issued >= 45
