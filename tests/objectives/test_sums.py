"""Sums show their terms and add up."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import (
    InvalidInputError,
    MemoryLimitError,
    NotApplicableError,
    ParameterSpace,
    memory_limit,
)
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


def test_gauss_newton_of_a_sum_by_products_kept_or_not() -> None:
    base = risk()
    total = base + L2(base, 0.3) + base
    matrix = 2 * base.gauss_newton(base.initial) + 0.3 * torch.eye(base.space.size, dtype=torch.float64)
    for keep in (None, True, False):
        torch.testing.assert_close(total.gauss_newton_operator(base.initial, keep=keep).dense(), matrix)
    with memory_limit(int(1.5 * base.kept_bytes())):
        with pytest.raises(MemoryLimitError, match="the kept graphs of all terms"):
            total.gauss_newton_operator(base.initial, keep=True)
        product = total.gauss_newton_operator(base.initial) @ base.initial
    torch.testing.assert_close(product, matrix @ base.initial)


def test_dense_matrices_of_a_sum_are_refused_before_the_first_is_made() -> None:
    base = risk()
    total, theta = base + L2(base, 0.3), base.initial.expand(100, -1)
    one = 100 * 8 * base.space.size**2
    with memory_limit(int(1.5 * one)):
        base.hessian(theta)
        with pytest.raises(MemoryLimitError, match=r"100 dense Hessian\(s\) of a sum of 26 x 26 would need"):
            total.hessian(theta)
    with memory_limit(int(2.5 * one)):
        base.gauss_newton(theta)
        with pytest.raises(MemoryLimitError, match=r"100 Gauss-Newton matrix\(ces\) of a sum of 26 x 26 would need"):
            total.gauss_newton(theta)


def test_sums_that_make_no_sense() -> None:
    base = risk()
    with pytest.raises(InvalidInputError, match="at least one term"):
        SumObjective([])
    with pytest.raises(InvalidInputError, match="terms of a sum need one space, dtype and device"):
        base + L2(ParameterSpace({"x": (26,)}), 1.0)
    with pytest.raises(InvalidInputError, match="terms of a sum need one space, dtype and device"):
        base + L2(base, 1.0, dtype=torch.float32)
    elsewhere = L2(base, 1.0)
    elsewhere.device = torch.device("meta")
    with pytest.raises(InvalidInputError, match=r"one space, dtype and device; got .*cpu.*meta"):
        base + elsewhere
    with pytest.raises(InvalidInputError, match="the terms of a sum are objectives, got int"):
        SumObjective([base, 3])  # type: ignore[list-item]  # misuse is what is tested
    with pytest.raises(TypeError, match="unsupported operand"):
        base + 3  # type: ignore[operator]  # misuse is what is tested
