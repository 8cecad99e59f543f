"""Derivatives along a line, in closed form, by fits of polynomials, and where torch's own rules are wrong."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, NotApplicableError, ParameterSpace
from thalweg.objectives import L2, DerivativePath, EmpiricalRisk, Objective, Penalty, SumObjective, taylor

SOURCE = torch.Generator().manual_seed(0)
X, Y = torch.randn(9, 3, generator=SOURCE), torch.randn(9, 2, generator=SOURCE)
SPACE = ParameterSpace({"x": (2,)})

FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "polynomial": (lambda p: p["x"][0] ** 4 * p["x"][1] - p["x"][1] ** 3, lambda x, y: x**4 * y - y**3),
    "exponential": (lambda p: torch.exp(p["x"][0] - 2 * p["x"][1]), lambda x, y: mpmath.exp(x - 2 * y)),
    "trigonometric": (lambda p: torch.sin(p["x"][0]) * torch.tanh(p["x"][1]),
                      lambda x, y: mpmath.sin(x) * mpmath.tanh(y)),
    "logistic": (lambda p: F.softplus(3 * p["x"][0] + p["x"][1]), lambda x, y: mpmath.log(1 + mpmath.exp(3 * x + y))),
    "linear": (lambda p: 2 * p["x"][0] - p["x"][1], lambda x, y: 2 * x - y),
}  # fmt: skip
PATHS = {
    "forward, batched": DerivativePath(),
    "forward": DerivativePath(batch="loop"),
    "reverse": DerivativePath(forward=False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_functions_in_closed_form(name: str, path: str) -> None:
    function, exact = FUNCTIONS[name]
    objective = Penalty(SPACE, function, name)
    objective.path = PATHS[path]
    points = torch.tensor([[0.3, -0.7], [1.1, 0.4], [-0.2, 0.9]], dtype=torch.float64)
    step = torch.tensor([0.8, -0.5], dtype=torch.float64)
    found = taylor(objective, points, step)
    mpmath.mp.dps = 40
    for i, (x, y) in enumerate(points.tolist()):

        def line(t: Any, x: float = x, y: float = y) -> Any:
            return exact(x + t * mpmath.mpf(step[0].item()), y + t * mpmath.mpf(step[1].item()))

        for k in range(5):
            assert float(found[i, k]) == pytest.approx(float(mpmath.diff(line, 0, k)), rel=1e-10, abs=1e-10)


class Attention(nn.Module):
    """Attention and layer normalisation, whose fused kernels torch differentiates wrongly from the third order on."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(1, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.unsqueeze(-1))
        h = self.norm(h + self.attend(h, h, h, need_weights=False)[0])
        return self.head(F.gelu(h).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.unsqueeze(-1))[0][:, -1])


def grouped() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.SiLU(), nn.Linear(8, 2))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))


NETWORKS = {
    "plain": plain,
    "attention": Attention,
    "recurrent": Recurrent,
    "group norm": grouped,
    "weight norm": normed,
}
LOSSES = {
    "mse": nn.MSELoss(),
    "huber": nn.HuberLoss(delta=50.0),
    "soft margin": nn.SoftMarginLoss(),
}


def by_fit(objective: Objective, theta: Tensor, direction: Tensor, reach: float = 0.25) -> np.ndarray:
    """Derivatives of a Chebyshev interpolant of degree 20 along the line: about ten digits of the fourth."""
    nodes = np.cos(np.pi * (np.arange(21) + 0.5) / 21)
    points = theta + reach * torch.tensor(nodes)[:, None] * direction
    fit = np.polynomial.Chebyshev.fit(nodes, objective.value(points).numpy(), 20)
    return np.array([fit.deriv(k)(0.0) / reach**k if k else fit(0.0) for k in range(5)])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("loss", LOSSES)
def test_networks_by_fits_of_polynomials(network: str, loss: str) -> None:
    torch.manual_seed(1)
    targets = torch.sign(Y) if loss == "soft margin" else Y
    risk = EmpiricalRisk(NETWORKS[network](), LOSSES[loss], X, targets, batch_size=4)
    noise = torch.randn(3, risk.space.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    thetas, direction = risk.initial + 0.1 * noise[:2], noise[2] / noise[2].norm()
    found = taylor(risk, thetas, direction)
    for i in range(2):
        fitted = by_fit(risk, thetas[i], direction, 0.1 if network == "group norm" else 0.25)
        np.testing.assert_allclose(found[i].numpy(), fitted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[i, 1], risk.gradient(thetas[i]) @ direction, rtol=1e-9, atol=1e-10)
        second = direction @ risk.hessian_product(thetas[i], direction)
        torch.testing.assert_close(found[i, 2], second, rtol=1e-8, atol=1e-10)


def test_relu_networks_are_polynomials_between_kinks() -> None:
    torch.manual_seed(0)
    risk = EmpiricalRisk(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), nn.MSELoss(), X, Y)
    direction = torch.randn(risk.space.size, generator=SOURCE, dtype=torch.float64)
    found = taylor(risk, risk.initial, direction)
    reach = 1e-3 * float(risk.kink_margin(risk.initial))
    for t in (-reach, reach):  # quartic along every line, so the series is exact
        series = sum(found[k] * t**k / math.factorial(k) for k in range(5))
        torch.testing.assert_close(series, risk.value(risk.initial + t * direction), rtol=1e-13, atol=0)


def test_sums_add_up_and_shapes_broadcast() -> None:
    torch.manual_seed(0)
    risk = EmpiricalRisk(plain(), nn.MSELoss(), X, Y)
    total = risk + L2(risk, 0.3)
    assert isinstance(total, SumObjective)
    thetas = torch.randn(3, 1, risk.space.size, generator=SOURCE, dtype=torch.float64)
    steps = torch.randn(2, risk.space.size, generator=SOURCE, dtype=torch.float64)
    found = taylor(total, thetas, steps, 3)
    assert found.shape == (3, 2, 4)
    torch.testing.assert_close(found, taylor(risk, thetas, steps, 3) + taylor(L2(risk, 0.3), thetas, steps, 3))
    torch.testing.assert_close(found[2, 1], taylor(total, thetas[2, 0], steps[1], 3))
    torch.testing.assert_close(taylor(total, thetas, 2 * steps, 3), found * torch.tensor([1.0, 2, 4, 8]))
    assert taylor(total, thetas[:0], steps[0], 2).shape == (0, 1, 3)
    assert taylor(total, thetas[0, 0], steps[0], 0).shape == (1,)
    zero = taylor(total, thetas[0, 0], torch.zeros_like(steps[0]))
    torch.testing.assert_close(zero[0], total.value(thetas[0, 0]))
    assert not zero[1:].any()


class Sine(torch.autograd.Function):
    """A wrong second derivative, by hand, hidden from the probe at the door by a right first and second one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * Cosine.apply(*ctx.saved_tensors)


class Cosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.cos(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -slope * torch.sin(x.detach())


class Handmade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(Sine.apply(self.first(x)))


def test_derivatives_that_torch_would_give_wrongly_are_declined() -> None:
    torch.manual_seed(0)
    risk = EmpiricalRisk(Handmade(), nn.MSELoss(), X, Y)
    assert risk.path.second == "double-backward"
    step = torch.randn(risk.space.size, generator=SOURCE, dtype=torch.float64)
    np.testing.assert_allclose(taylor(risk, risk.initial, step, 2).numpy(), by_fit_short(risk, step), rtol=1e-6)
    with pytest.raises(NotApplicableError, match=r"no derivatives of order 3 along a line: .*other numbers than diff"):
        taylor(risk, risk.initial, step, 3)


def by_fit_short(risk: EmpiricalRisk, step: Tensor) -> np.ndarray:
    return by_fit(risk, risk.initial, step)[:3]


def test_an_error_without_a_word_is_named_by_its_kind() -> None:
    class Mute(Objective):
        space = SPACE

        def chunk_value(self, theta: Tensor, chunk: Any) -> Tensor:
            raise RuntimeError

        def content(self) -> list[object]:
            return ["mute"]

    point = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(NotApplicableError, match=r"forward: RuntimeError; reverse: RuntimeError$"):
        taylor(Mute(), point, point)


def test_what_makes_no_sense() -> None:
    objective = L2(SPACE, 1.0)
    theta = torch.zeros(2, dtype=torch.float64)
    for order in (-1, 5, 2.5):
        with pytest.raises(InvalidInputError, match="order must be 0 to 4"):
            taylor(objective, theta, theta, order)
    with pytest.raises(InvalidInputError, match=r"theta has shape \(3,\), expected \(\*batch, 2\)"):
        taylor(objective, theta, torch.zeros(3))
    with pytest.raises(InvalidInputError, match=r"theta \(3, 2\) and direction \(2, 2\) have batches that do not fit"):
        taylor(objective, torch.zeros(3, 2), torch.zeros(2, 2))
