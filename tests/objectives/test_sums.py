"""Sums show their terms and add up; penalties are what weight decay is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, MemoryLimitError, NotApplicableError, ParameterSpace, memory_limit
from thalweg.objectives import L2, EmpiricalRisk, Penalty, SumObjective

SOURCE = torch.Generator().manual_seed(0)
X, Y = torch.randn(9, 3, generator=SOURCE), torch.randn(9, 2, generator=SOURCE)


def risk() -> EmpiricalRisk:
    torch.manual_seed(0)
    return EmpiricalRisk(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), nn.MSELoss(), X, Y)


def product(p: Any) -> Tensor:
    return (p["2.bias"] ** 3).prod()


def test_a_sum_adds_values_derivatives_and_curvatures() -> None:
    base = risk()
    l2, penalty = L2(base, 0.3, parameters="*weight"), Penalty(base, product, "product")
    total = base + l2 + penalty
    assert isinstance(total, SumObjective)
    assert total.terms == (base, l2, penalty)  # opened: no sum inside a sum
    assert repr(total) == f"{base!r} + L2(0.3) + Penalty(product)"
    thetas = base.initial + torch.randn(2, 2, base.space.size, generator=SOURCE)
    for order in (0, 1, 2):
        found = total.evaluate(thetas, order)
        parts = [term.evaluate(thetas, order) for term in total.terms]
        for k in range(3):
            if found[k] is None:
                assert k > order
            else:
                torch.testing.assert_close(found[k], sum(part[k] for part in parts), rtol=1e-12, atol=1e-12)
    theta, v = thetas[0, 0], thetas[0, 1]
    matrix = sum(term.hessian(theta) for term in total.terms)
    torch.testing.assert_close(total.hessian_product(theta, v), matrix @ v)
    for keep in (None, True, False):
        torch.testing.assert_close(total.hessian_operator(theta, keep=keep).dense(), matrix)
    with pytest.raises(NotApplicableError, match="Gauss-Newton"):
        total.gauss_newton(theta)
    squares = base + l2
    torch.testing.assert_close(squares.gauss_newton(thetas), base.gauss_newton(thetas) + l2.gauss_newton(thetas))
    torch.testing.assert_close(squares.gauss_newton_operator(theta).dense(), squares.gauss_newton(theta))
    # the generic way of the base class, over chunks of all terms, gives the same
    generic = super(SumObjective, total).evaluate(thetas, 2)
    for a, b in zip(generic, total.evaluate(thetas, 2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    assert pickle.loads(pickle.dumps(total)).fingerprint() == total.fingerprint()


def test_the_graphs_of_all_terms_share_one_limit() -> None:
    base = risk()
    total = base + base
    needed = base.kept_bytes()
    assert total.kept_bytes() == 2 * needed
    with memory_limit(int(1.5 * needed)):
        base.hessian_operator(base.initial, keep=True)
        with pytest.raises(MemoryLimitError, match="the kept graphs of all terms"):
            total.hessian_operator(base.initial, keep=True)
        product = total.hessian_operator(base.initial) @ base.initial
    torch.testing.assert_close(product, 2 * base.hessian(base.initial) @ base.initial)


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


def test_sums_that_make_no_sense() -> None:
    base = risk()
    with pytest.raises(InvalidInputError, match="at least one term"):
        SumObjective([])
    with pytest.raises(InvalidInputError, match="terms of a sum need one space and dtype"):
        base + L2(ParameterSpace({"x": (26,)}), 1.0)
    with pytest.raises(InvalidInputError, match="terms of a sum need one space and dtype"):
        base + L2(base, 1.0, dtype=torch.float32)
    for strength in (-1.0, float("inf"), float("nan")):
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
