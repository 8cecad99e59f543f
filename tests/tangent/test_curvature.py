"""Curvature operators against the dense matrices and the splitting H = G + R."""

from __future__ import annotations

import pytest
import torch
from designed_spectra import normal
from torch import nn

from thalweg.foundation import NotApplicableError, ParameterSpace
from thalweg.objectives import L2, EmpiricalRisk, Penalty
from thalweg.tangent import (
    extreme_eigenpairs,
    gauss_newton_operator,
    hessian_operator,
    jacobian,
    jacobian_operator,
    residual_operator,
)


@pytest.fixture
def risk() -> EmpiricalRisk:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return EmpiricalRisk(model, nn.CrossEntropyLoss(), normal(12, 3), torch.arange(12) % 2)


def test_residual_is_the_slope_times_the_outputs_curvature(risk: EmpiricalRisk) -> None:
    theta = risk.initial
    everything = next(iter(risk.chunks(risk.n_samples)))
    slope = risk.output_gradient(theta)
    by_hand = torch.func.jacrev(torch.func.jacrev(lambda t: (slope * risk.chunk_outputs(t, everything)).sum()))(theta)
    for keep in (True, False):
        assert torch.allclose(residual_operator(risk, theta, keep=keep).dense(), by_hand, atol=1e-13)


def test_operators_are_the_matrices(risk: EmpiricalRisk) -> None:
    theta = risk.initial
    assert torch.allclose(hessian_operator(risk, theta).dense(), risk.hessian(theta), atol=1e-13)
    assert torch.allclose(gauss_newton_operator(risk, theta).dense(), risk.gauss_newton(theta), atol=1e-13)
    dense = jacobian(risk, theta)
    assert torch.allclose(jacobian_operator(risk, theta).dense(), dense, atol=1e-13)
    blocks = torch.block_diag(*risk.output_hessian(theta))
    assert torch.allclose(dense.T @ blocks @ dense, risk.gauss_newton(theta), atol=1e-13)


def test_eigenpairs_of_a_network_with_a_penalty(risk: EmpiricalRisk) -> None:
    total = risk + L2(risk, 0.1)
    truth = torch.linalg.eigvalsh(risk.hessian(risk.initial)) + 0.1
    operator = hessian_operator(total, risk.initial)
    pairs = extreme_eigenpairs(operator, 2, 2, dense_below=0, tolerance=1e-9)
    assert torch.allclose(pairs.values, truth[[0, 1, -2, -1]], atol=1e-10)


def test_what_an_objective_lacks_is_declined_by_name() -> None:
    bare = Penalty(ParameterSpace({"x": (2,)}), lambda p: (p["x"] ** 4).sum(), name="quartic")
    theta = normal(2)
    with pytest.raises(NotApplicableError, match="Gauss-Newton"):
        residual_operator(bare, theta)
    with pytest.raises(NotApplicableError, match="Gauss-Newton"):
        gauss_newton_operator(bare, theta)
    for function in (jacobian, jacobian_operator):
        with pytest.raises(NotApplicableError, match="Jacobian"):
            function(bare, theta)
