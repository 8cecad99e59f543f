"""From the starts of the zoo of infinities SciPy runs away too, and nothing there is stationary."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import nn

from thalweg.foundation import InvalidInputError
from thalweg.objectives import EmpiricalRisk
from thalweg.zoo import (
    Bump,
    ErfChannel,
    Escape,
    ExponentialTail,
    RunsAway,
    SaturatingUnit,
    SeparableLogistic,
    all_infinities,
)

EXHIBITS = [pytest.param(objective, id=name) for name, objective in all_infinities()]


def test_every_way_of_escape_is_there() -> None:
    assert {objective.escape for _, objective in all_infinities()} == set(get_args(Escape))


@pytest.mark.parametrize("objective", EXHIBITS)
def test_longer_searches_go_lower_and_further(objective) -> None:
    """Gradient descent by SciPy with ever tighter tolerance: lower and lower, further and further, above the limit."""
    assert isinstance(objective, RunsAway)
    for start, limit in zip(objective.starts(), objective.limits().tolist(), strict=True):

        def both(x):
            value, gradient, _ = objective.evaluate(torch.tensor(x), 1)
            return float(value), gradient.numpy()

        runs = [
            minimize(both, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": n, "gtol": 0, "ftol": 0})
            for n in (3, 9, 27)
        ]
        values, sizes = [run.fun for run in runs], [np.abs(run.x).max() for run in runs]
        assert values[0] > values[1] > values[2] >= limit
        if objective.escape != "channel":  # there a few steps relax more than they travel; see `test_channel`
            assert sizes[0] < sizes[2]


@pytest.mark.parametrize("objective", EXHIBITS)
def test_no_bounded_region_holds_a_minimum(objective) -> None:
    """Many searches inside a box: each ends at its wall, or at a critical point that the objective declares itself."""
    plateau = objective.critical_point(0.5).value if isinstance(objective, ErfChannel) else None
    source = np.random.default_rng(0)
    box = 4.0
    for _ in range(12):
        start = source.uniform(-box, box, objective.space.size)

        def both(x):
            value, gradient, _ = objective.evaluate(torch.tensor(x), 1)
            return float(value), gradient.numpy()

        options = {"maxiter": 500, "ftol": 0, "gtol": 0}
        end = minimize(both, start, jac=True, method="L-BFGS-B", bounds=[(-box, box)] * len(start), options=options).x
        at_wall = np.abs(end).max() > box * (1 - 1e-6)
        on_plateau = plateau is not None and abs(float(objective.value(torch.tensor(end))) - plateau) < 1e-4
        assert at_wall or on_plateau, end


# -- saturation ------------------------------------------------------------------------------------------------------


def test_a_saturating_unit_has_no_critical_point() -> None:
    """Along the separating direction every sample's loss falls, at whatever parameters."""
    unit = dict(all_infinities())["saturating-unit-two-sided"]
    thetas = 2 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float((unit.gradient(thetas) @ unit.direction).max()) < 0


def test_a_saturating_unit_is_half_the_mean_squared_error_of_a_module() -> None:
    unit = dict(all_infinities())["saturating-unit-one-sided"]
    risk = EmpiricalRisk(nn.Sequential(nn.Linear(1, 1), nn.Tanh()), nn.MSELoss(), unit.inputs, unit.targets)
    torch.testing.assert_close(unit.value(risk.initial), risk.value(risk.initial) / 2)


def test_targets_inside_the_range_are_refused() -> None:
    x = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(InvalidInputError, match="must be 1 or -1"):
        SaturatingUnit(x, torch.tensor([1.0, 0.5]), torch.ones(2))
    with pytest.raises(InvalidInputError, match="does not separate"):
        SaturatingUnit(x, torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 0.0]))
    with pytest.raises(InvalidInputError, match="must be 1 or -1"):
        SaturatingUnit(x, torch.ones(2, 2), torch.ones(2))


# -- separable data --------------------------------------------------------------------------------------------------


def test_separable_data_are_fitted_better_and_better_by_scikit_learn() -> None:
    problem = SeparableLogistic.random()
    values = []
    for strength in (1e0, 1e3, 1e6):
        model = LogisticRegression(C=strength, fit_intercept=False, tol=1e-10, max_iter=10000)
        model.fit(problem.inputs.numpy(), problem.targets[:, 0].numpy())
        values.append(float(problem.value(torch.tensor(model.coef_[0]))))
    assert values[0] > values[1] > values[2] > 0
    assert values[2] < 1e-4


def test_the_logistic_loss_keeps_its_digits_at_large_margins() -> None:
    problem = SeparableLogistic(torch.ones(1, 1), torch.ones(1), torch.ones(1))
    weights = torch.tensor([[-800.0], [0.0], [30.0], [700.0]], dtype=torch.float64)
    wanted = np.array([800.0, np.log(2), np.log1p(np.exp(-30.0)), np.exp(-700.0)])
    np.testing.assert_allclose(problem.value(weights).numpy(), wanted, rtol=1e-14)
    slopes = -1 / (1 + np.exp(weights[:, 0].numpy()))
    np.testing.assert_allclose(problem.gradient(weights)[:, 0].numpy(), slopes, rtol=1e-13)


def test_the_logistic_loss_is_that_of_torch() -> None:
    problem = SeparableLogistic.random(inputs=4, samples=12)
    model, labels = nn.Linear(4, 1, bias=False), (problem.targets + 1) / 2
    risk = EmpiricalRisk(model, nn.BCEWithLogitsLoss(), problem.inputs, labels)
    torch.testing.assert_close(problem.value(risk.initial), risk.value(risk.initial))


def test_labels_that_are_not_separated_are_refused() -> None:
    x = torch.tensor([[1.0], [2.0]])
    with pytest.raises(InvalidInputError, match="does not separate"):
        SeparableLogistic(x, torch.tensor([1.0, -1.0]), torch.ones(1))
    with pytest.raises(InvalidInputError, match="must be 1 or -1"):
        SeparableLogistic(x, torch.tensor([1.0, 0.0]), torch.ones(1))
    some = SeparableLogistic.random().subset([0, 3, 4])
    assert (some.n_samples, some.escape) == (3, "separable")


# -- plateaus --------------------------------------------------------------------------------------------------------


def test_plateaus_decay_as_they_say() -> None:
    far = torch.tensor([[1e3, 0.0], [1e6, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(Bump(2).value(far).numpy(), [1e-6, 1e-12], rtol=1e-5)
    assert float(Bump(2).gradient(far).abs().max()) < 3e-9
    np.testing.assert_allclose(ExponentialTail().value(far / 100).numpy(), [np.exp(-10), 0], rtol=1e-14)
