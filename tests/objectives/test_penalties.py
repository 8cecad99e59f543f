"""Penalties are what weight decay is, and any function of named parameters."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, UnsupportedModelError
from thalweg.objectives import L2, DerivativePath, EmpiricalRisk, Penalty

SOURCE = torch.Generator().manual_seed(0)
X, Y = torch.randn(9, 3, generator=SOURCE), torch.randn(9, 2, generator=SOURCE)


def risk() -> EmpiricalRisk:
    torch.manual_seed(0)
    return EmpiricalRisk(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), nn.MSELoss(), X, Y)


def product(p: Any) -> Tensor:
    return (p["2.bias"] ** 3).prod()


@pytest.mark.parametrize(("parameters", "center"), [(None, None), ("*bias", None), ("2.*", 0.5)])
def test_l2_in_closed_form(parameters: str | None, center: float | None) -> None:
    base = risk()
    size = base.space.size
    middle = None if center is None else torch.full((size,), center)
    penalty = L2(base, 0.7, parameters, middle)
    mask = torch.ones(size) if parameters is None else torch.zeros(size)
    if parameters is not None:
        mask[base.space.select(parameters)] = 1
    theta = torch.randn(4, size, generator=SOURCE, dtype=torch.float64)
    away = mask * (theta - (center or 0.0))
    torch.testing.assert_close(penalty.value(theta), 0.35 * (away**2).sum(1))
    torch.testing.assert_close(penalty.gradient(theta), 0.7 * away)
    matrix = 0.7 * torch.diag(mask.double())
    torch.testing.assert_close(penalty.hessian(theta), matrix.expand(4, size, size))
    torch.testing.assert_close(penalty.hessian_operator(theta[0]).dense(), matrix)
    torch.testing.assert_close(penalty.gauss_newton(theta), matrix.expand(4, size, size))


def test_l2_is_the_weight_decay_of_sgd() -> None:
    model = nn.Linear(3, 2).double()
    base = EmpiricalRisk(model, nn.MSELoss(), X, Y)
    total = base + L2(base, 0.2)
    step = total.initial if hasattr(total, "initial") else base.initial
    slope = total.gradient(step)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.2)
    nn.functional.mse_loss(model(X.double()), Y.double()).backward()
    optimiser.step()
    moved = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(step - moved, slope, rtol=1e-12, atol=1e-13)


def test_l2_that_makes_no_sense() -> None:
    base = risk()
    with pytest.raises(InvalidInputError, match="center holds NaN or infinite entries"):
        L2(base, 1.0, center=torch.full((26,), float("nan")))
    strengths: list[Any] = [-1.0, float("inf"), float("nan"), None, "strong"]
    for strength in strengths:
        with pytest.raises(InvalidInputError, match="must be finite and not negative"):
            L2(base, strength)
    with pytest.raises(InvalidInputError, match=r"center has shape \(2,\), expected \(26,\)"):
        L2(base, 1.0, center=torch.zeros(2))
    with pytest.raises(InvalidInputError, match="matches no block"):
        L2(base, 1.0, parameters="head")


def test_a_penalty_of_named_parameters() -> None:
    base = risk()
    penalty = Penalty(base, product, "product")
    theta = torch.randn(3, base.space.size, generator=SOURCE, dtype=torch.float64)
    bias = theta[:, base.space.slice("2.bias")]
    torch.testing.assert_close(penalty.value(theta), (bias**3).prod(1))
    slope = torch.zeros_like(theta)
    slope[:, base.space.slice("2.bias")] = 3 * (bias**3).prod(1, keepdim=True) / bias
    torch.testing.assert_close(penalty.gradient(theta), slope)


def branching(p: Any) -> Tensor:
    bias = p["2.bias"]
    return (bias**2).sum() if float(bias.sum()) > 0 else (bias**4).sum()


def logarithms(p: Any) -> Tensor:
    if bool((p["2.bias"] <= 0).any()):
        raise ValueError("defined for positive biases only")
    return p["2.bias"].log().sum()


@pytest.mark.parametrize("function", [branching, logarithms])
def test_a_penalty_that_no_transform_takes_goes_one_by_one(function: Any) -> None:
    base = risk()
    penalty = Penalty(base, function, "x")
    assert penalty.path.batch == "loop"
    theta = torch.rand(3, base.space.size, generator=SOURCE, dtype=torch.float64) + 0.1
    bias = theta[:, base.space.slice("2.bias")]
    squares = (bias**2).sum(1), 2 * bias, torch.full_like(bias, 2.0)
    wanted, slope, bend = squares if function is branching else (bias.log().sum(1), 1 / bias, -1 / bias**2)
    value, gradient, hessian = penalty.evaluate(theta, 2)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient[:, base.space.slice("2.bias")], slope)
    torch.testing.assert_close(hessian.diagonal(dim1=1, dim2=2)[:, base.space.slice("2.bias")], bend)
    if function is branching:
        torch.testing.assert_close(penalty.value(-theta), (bias**4).sum(1))


def test_a_penalty_is_probed_where_it_is_defined() -> None:
    base = risk()
    assert Penalty(base, product, "product").path == DerivativePath()
    positive = Penalty(base, lambda p: p["2.bias"].log().sum(), "log")  # NaN where a bias is negative
    assert positive.path == DerivativePath()


def test_penalties_that_make_no_sense() -> None:
    base = risk()
    for function, message in (
        (3, "needs a function of named tensors, got int"),
        (lambda p: p["2.bias"], r"function of Penalty\(x\) must return a tensor with one number, got shape \(2,\)"),
        (lambda p: 3.0, "must return a tensor with one number, got float"),
        (lambda p: p["head"].sum(), r"Penalty\(x\) asks for 'head', but the blocks are 0.weight, 0.bias"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Penalty(base, function, "x")  # type: ignore[arg-type]  # misuse is what is tested
    with pytest.raises(UnsupportedModelError, match=r"the function of Penalty\(x\) is test_pen.*top level"):
        pickle.dumps(Penalty(base, lambda p: p["2.bias"].sum(), "x"))
