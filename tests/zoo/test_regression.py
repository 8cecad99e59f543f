"""Least squares against NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from thalweg.foundation import InvalidInputError
from thalweg.objectives import L2, EmpiricalRisk
from thalweg.zoo import LinearRegression, RidgeRegression


def data(samples: int, inputs: int, outputs: int, seed: int = 0):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=source, dtype=torch.float64)
    return x, torch.randn(samples, outputs, generator=source, dtype=torch.float64)


@pytest.mark.parametrize(("samples", "inputs", "outputs"), [(20, 3, 1), (20, 3, 2), (4, 6, 2), (5, 5, 3)])
def test_minimum_is_that_of_lstsq(samples, inputs, outputs) -> None:
    x, y = data(samples, inputs, outputs)
    objective = LinearRegression(x, y)
    (point,) = objective.critical_points()
    weights, _, rank, _ = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)
    np.testing.assert_allclose(objective.minimizer().numpy(), weights.T, atol=1e-11)
    assert point.nullity == outputs * (inputs - rank)
    error = ((x.numpy() @ weights - y.numpy()) ** 2).sum() / (2 * samples)
    np.testing.assert_allclose(point.value, error, atol=1e-13)
    hessian = np.kron(np.eye(outputs), x.numpy().T @ x.numpy() / samples)
    np.testing.assert_allclose(objective.hessian(torch.zeros(inputs * outputs)).numpy(), hessian, atol=1e-13)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), point.spectrum.numpy(), atol=1e-12)
    if point.nullity:
        np.testing.assert_allclose(hessian @ point.tangent.numpy(), 0, atol=1e-13)


def test_it_is_half_the_mean_squared_error_of_a_linear_module() -> None:
    x, y = data(9, 3, 2)
    risk = EmpiricalRisk(nn.Linear(3, 2, bias=False), nn.MSELoss(), x, y)
    theta = torch.linspace(-1, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(LinearRegression(x, y).value(theta), risk.value(theta))  # a mean over 2 outputs
    assert LinearRegression(x, y).space == risk.space


def test_one_output_may_be_a_vector() -> None:
    x, y = data(9, 3, 1)
    assert LinearRegression(x, y[:, 0]).fingerprint() == LinearRegression(x, y).fingerprint()


def test_inputs_of_zero_leave_everything_flat() -> None:
    (point,) = LinearRegression(torch.zeros(4, 2), torch.ones(4, 1)).critical_points()
    assert (point.nullity, point.value) == (2, 0.5)
    torch.testing.assert_close(point.tangent.T @ point.tangent, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("strength", [1e-6, 0.1, 30.0])
@pytest.mark.parametrize(("samples", "inputs", "outputs"), [(20, 3, 2), (4, 6, 1)])
def test_ridge_is_that_of_scikit_learn(samples, inputs, outputs, strength) -> None:
    x, y = data(samples, inputs, outputs, seed=1)
    objective = RidgeRegression(x, y, strength)
    (point,) = objective.critical_points()
    theirs = Ridge(alpha=samples * strength, fit_intercept=False, solver="svd").fit(x.numpy(), y.numpy()).coef_
    np.testing.assert_allclose(point.theta.numpy(), theirs.reshape(-1), atol=1e-9)
    assert (point.index, point.nullity, point.kind) == (0, 0, "strict minimum")
    hessian = objective.hessian(point.theta)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian.numpy()), point.spectrum.numpy(), atol=1e-12 * (1 + strength))
    torch.testing.assert_close(objective.gauss_newton(point.theta), hessian)


def test_the_terms_of_a_ridge_are_visible() -> None:
    x, y = data(6, 2, 1)
    objective = RidgeRegression(x, y, 0.5)
    risk, penalty = objective.terms
    assert isinstance(risk, LinearRegression)
    assert isinstance(penalty, L2)
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(objective.value(theta), risk.value(theta) + 0.25 * (theta**2).sum())


def test_a_subset_is_normalised_anew() -> None:
    x, y = data(8, 3, 2)
    some = LinearRegression(x, y).subset([1, 4, 5])
    assert isinstance(some, LinearRegression)
    assert some.fingerprint() == LinearRegression(x[[1, 4, 5]], y[[1, 4, 5]]).fingerprint()


def test_unusable_data_are_refused() -> None:
    x, y = data(8, 3, 2)
    for inputs, targets, message in (
        (x, y[:5], "8 inputs but 5 targets"),
        (x[:0], y[:0], "non-empty"),
        (x * float("nan"), y, "finite"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            LinearRegression(inputs, targets)
    with pytest.raises(InvalidInputError, match="must be positive"):
        RidgeRegression(x, y, 0.0)
