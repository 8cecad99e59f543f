"""A restriction is its base composed with an affine map: the chain rule with explicit matrices."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, MemoryLimitError, NotApplicableError, memory_limit
from thalweg.objectives import (
    L2,
    EmpiricalRisk,
    Objective,
    Penalty,
    RestrictedObjective,
    as_theta,
    find_risk,
    load_into_model,
    restrict,
    taylor,
)

SOURCE = torch.Generator().manual_seed(0)
X, Y = torch.randn(9, 3, generator=SOURCE), torch.randn(9, 2, generator=SOURCE)


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def risk() -> EmpiricalRisk:
    return EmpiricalRisk(model(), nn.MSELoss(), X, Y)


def restricted(kind: str, base: Objective) -> tuple[RestrictedObjective, Tensor]:
    """A restriction and the matrix of its affine map."""
    size = base.space.size
    origin = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = torch.eye(size, dtype=torch.float64)
    if kind == "basis":
        basis = torch.randn(size, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return restrict(base, basis, origin), basis
    globs: Any = {"glob": "2.*", "globs": ["2.bias", "0.weight"]}[kind]
    return restrict(base, globs, origin), whole[:, base.space.select(globs)]


KINDS = ["basis", "glob", "globs"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_rule(kind: str) -> None:
    base = risk()
    inner, basis = restricted(kind, base)
    z = torch.randn(2, 3, inner.space.size, generator=SOURCE, dtype=torch.float64)
    full = inner.project(z)
    origin = inner.origin if kind == "basis" else inner.origin - basis @ (basis.T @ inner.origin)
    torch.testing.assert_close(full, origin + z @ basis.T)
    found, wanted = inner.evaluate(z, 2), base.evaluate(full, 2)
    torch.testing.assert_close(found.value, wanted.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gradient, wanted.gradient @ basis)
    torch.testing.assert_close(found.hessian, basis.T @ wanted.hessian @ basis)
    torch.testing.assert_close(inner.hessian_product(z, z), (found.hessian @ z.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(inner.hessian_operator(z[0, 0]).dense(), found.hessian[0, 0])
    torch.testing.assert_close(inner.gauss_newton(z), basis.T @ base.gauss_newton(full) @ basis)
    torch.testing.assert_close(inner.lift(z), z @ basis.T)
    torch.testing.assert_close(taylor(inner, z, z[0, 0], 3), taylor(base, full, basis @ z[0, 0], 3))
    assert torch.equal(inner.kink_margin(z), base.kink_margin(full))
    assert pickle.loads(pickle.dumps(inner)).fingerprint() == inner.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [None, True, False])
def test_gauss_newton_by_products_is_that_of_the_base(kind: str, keep: bool | None) -> None:
    base = risk()
    total = base + L2(base, 0.3)
    inner, basis = restricted(kind, total)
    z = torch.randn(inner.space.size, generator=SOURCE, dtype=torch.float64)
    operator = inner.gauss_newton_operator(z, keep=keep)
    torch.testing.assert_close(operator.dense(), basis.T @ total.gauss_newton(inner.project(z)) @ basis)
    assert operator.device == inner.device


def test_the_graphs_kept_are_those_of_all_terms_of_the_base() -> None:
    base = risk()
    twice, theta = restrict(base + base, "2.*", base.initial), torch.zeros(10)
    assert twice.kept_bytes() >= 2 * base.kept_bytes()
    with memory_limit(int(1.5 * base.kept_bytes())):
        for operator in (twice.hessian_operator, twice.gauss_newton_operator):
            with pytest.raises(MemoryLimitError, match="kept graph"):
                operator(theta, keep=True)


@pytest.mark.parametrize("kind", KINDS)
def test_points_and_directions_of_another_precision_or_length(kind: str) -> None:
    inner, _ = restricted(kind, risk())
    size, whole = inner.space.size, inner.base.space.size
    z = torch.randn(2, size, generator=SOURCE)
    assert torch.equal(inner.project(z), inner.project(z.double()))
    assert torch.equal(inner.lift(z), inner.lift(z.double()))
    assert inner.embed(inner.project(z).float()).dtype == torch.float64
    for call, wrong, length in ((inner.project, size, size), (inner.lift, size, size), (inner.embed, whole, whole)):
        for point in (torch.zeros(wrong + 1), torch.zeros(wrong, dtype=torch.int64), torch.tensor(0.0)):
            with pytest.raises(InvalidInputError, match=rf"must be a floating tensor \(\*batch, {length}\), got shape"):
                call(point)
        with pytest.raises(InvalidInputError, match="got list"):
            call([0.0] * wrong)  # type: ignore[arg-type]  # misuse is what is tested


def test_loading_through_a_sum_of_restrictions() -> None:
    base = risk()
    head = restrict(base, "2.*", base.initial)
    total = head + L2(head, 0.3)
    assert find_risk(total) is base
    live = model()
    z = head.embed(base.initial) + 0.25
    norm = load_into_model(total, z, live)
    torch.testing.assert_close(as_theta(live, base), head.project(z), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm, float(total.gradient(z).abs().max()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_is_the_nearest_point(kind: str) -> None:
    inner, basis = restricted(kind, risk())
    z = torch.randn(4, inner.space.size, generator=SOURCE, dtype=torch.float64)
    torch.testing.assert_close(inner.embed(inner.project(z)), z)
    away = torch.randn(4, len(basis), generator=SOURCE, dtype=torch.float64)
    rest = away - inner.project(inner.embed(away))
    torch.testing.assert_close(rest @ basis, torch.zeros(4, inner.space.size, dtype=torch.float64))


def test_restrictions_of_sums_and_of_restrictions() -> None:
    base = risk()
    total = base + L2(base, 0.2)
    theta = base.initial
    once = restrict(total, "2.*", theta)
    twice = restrict(once, "2.bias", once.embed(theta))
    assert once.space.names == ("2.weight", "2.bias")
    assert twice.space.names == ("2.bias",)
    z = twice.embed(once.embed(theta)) + 0.5
    moved = theta.clone()
    moved[base.space.slice("2.bias")] += 0.5
    torch.testing.assert_close(twice.value(z), total.value(moved))
    torch.testing.assert_close(twice.gradient(z), total.gradient(moved)[base.space.slice("2.bias")])
    assert find_risk(twice) is base
    live = model()
    norm = load_into_model(twice, z, live)
    torch.testing.assert_close(as_theta(live, base), moved, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm, float(twice.gradient(z).abs().max()), rtol=1e-4, atol=1e-6)
    assert find_risk(base + base) is None
    with pytest.raises(NotApplicableError, match="not built on one EmpiricalRisk"):
        load_into_model(L2(base, 1.0), theta, live)


def test_loading_from_a_subspace() -> None:
    base = risk()
    inner, basis = restricted("basis", base)
    live = model()
    z = torch.randn(5, generator=SOURCE, dtype=torch.float64)
    load_into_model(inner, z, live)
    torch.testing.assert_close(as_theta(live, base), inner.origin + basis @ z, rtol=1e-6, atol=1e-6)


def test_restrictions_that_make_no_sense() -> None:
    base = risk()
    size, theta = base.space.size, base.initial
    for basis, message in (
        (torch.zeros(size - 1, 2), rf"shape \({size - 1}, 2\), expected \({size}, k\)"),
        (torch.zeros(size), rf"shape \({size},\), expected \({size}, k\)"),
        (torch.zeros(size, 0), rf"shape \({size}, 0\), expected"),
        (torch.ones(size, 2), "the 2 columns of the basis have rank 1; give independent ones"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            restrict(base, basis, theta)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match="the basis holds 2 NaN or infinite entries"):
            restrict(base, torch.full((size, 1), bad).index_fill_(0, torch.arange(2, size), 1.0), theta)
        with pytest.raises(InvalidInputError, match="the origin holds 1 NaN or infinite entries"):
            restrict(base, "2.*", theta.index_fill(0, torch.tensor([3]), bad))
    with pytest.raises(InvalidInputError, match="globs of block names"):
        restrict(base, [[1.0] * size], theta)  # type: ignore[list-item]  # misuse is what is tested
    with pytest.raises(InvalidInputError, match="'head' matches no block"):
        restrict(base, "head", theta)
    with pytest.raises(InvalidInputError, match="one parameter vector"):
        restrict(base, "2.*", theta.expand(2, -1))
    penalty = Penalty(base, lambda p: p["2.bias"].sum(), "sum")
    with pytest.raises(NotApplicableError, match="Gauss-Newton"):
        restrict(penalty, "2.*", theta).gauss_newton_operator(torch.zeros(10))


def test_the_origin_is_the_restriction_s_own() -> None:
    base = risk()
    origin = base.initial.clone()
    inner = restrict(base, "2.*", origin)
    z = inner.embed(origin)
    before = inner.value(z)
    origin += 1
    assert torch.equal(inner.value(z), before)
