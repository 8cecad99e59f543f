"""The measured error of a Hessian, against the truth in a higher precision."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from designed_spectra import normal
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import EmpiricalRisk, Penalty
from thalweg.tangent import hessian_error, hessian_rounding, inertia

NETWORKS = [((4, 5, 1), 20, 10.0), ((4, 5, 1), 2000, 10.0), ((6, 8, 8, 2), 100, 1.0)]


@pytest.mark.parametrize(("widths", "samples", "scale"), NETWORKS)
def test_it_covers_the_true_error_of_single_precision(widths: tuple[int, ...], samples: int, scale: float) -> None:
    torch.manual_seed(0)
    layers = [x for a, b in pairwise(widths) for x in (nn.Linear(a, b), nn.Tanh())][:-1]
    model = nn.Sequential(*layers)
    inputs = scale * normal(samples, widths[0]).float()
    targets = normal(samples, widths[-1], seed=1).float()
    single = EmpiricalRisk(model, nn.MSELoss(), inputs, targets, dtype=torch.float32)
    double = EmpiricalRisk(model, nn.MSELoss(), inputs, targets)
    theta = single.initial
    hessian = single.hessian(theta)
    truth = float(torch.linalg.matrix_norm(hessian.double() - double.hessian(theta.double()), 2))
    for seed in range(3):
        measured = hessian_error(single, theta, hessian, seed=seed)
        assert truth <= measured.rounding <= 300 * truth
        assert measured.shift == 0


def test_cancellation_that_no_rule_foresees_is_measured() -> None:
    """1e8 times cosh, computed in two ways and subtracted: the curvature is that of x^2, and a large noise."""

    def cancelling(p: dict[str, Tensor]) -> Tensor:
        x = p["x"]
        return (1e8 * (x.cosh() - (x.exp() + (-x).exp()) / 2) + x**2).sum()

    objective = Penalty(ParameterSpace({"x": (6,)}), cancelling, name="cancelling")
    for seed in range(5):
        theta = 2 * normal(6, seed=seed)
        hessian = objective.hessian(theta)
        truth = float(torch.linalg.matrix_norm(hessian - 2 * torch.eye(6, dtype=torch.float64), 2))
        assert truth > 1e5 * hessian_rounding(hessian)
        assert truth <= hessian_error(objective, theta, hessian, seed=seed).rounding <= 100 * truth


def test_the_shift_covers_the_way_to_the_critical_point() -> None:
    """A double well: from a point beside its bottom the eigenvalue there lies within the bar."""

    def well(p: dict[str, Tensor]) -> Tensor:
        return ((p["x"] ** 2 - 1) ** 2).sum() + 1e-3 * (p["x"].prod())

    objective = Penalty(ParameterSpace({"x": (2,)}), well, name="double well")
    bottom = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for _ in range(30):
        bottom = bottom - torch.linalg.solve(objective.hessian(bottom), objective.gradient(bottom))
    truth = torch.linalg.eigvalsh(objective.hessian(bottom))
    for seed in range(5):
        theta = bottom + 1e-3 * normal(2, seed=seed)
        hessian = objective.hessian(theta)
        step = -torch.linalg.solve(hessian, objective.gradient(theta))
        measured = hessian_error(objective, theta, hessian, step=step)
        found = inertia(hessian, error=measured.rounding, shift=measured.shift)
        off = float((found.eigenvalues - truth).abs().max())
        assert 1e-4 < off <= found.threshold < 20 * off


def test_a_quadratic_has_no_shift_and_a_wrong_size_is_refused() -> None:
    bowl = Penalty(ParameterSpace({"x": (3,)}), lambda p: (p["x"] ** 2).sum(), name="bowl")
    theta = normal(3)
    measured = hessian_error(bowl, theta, bowl.hessian(theta), step=-theta)
    assert measured.shift == 0
    assert measured.rounding < 1e-14
    for wrong in (
        {"hessian": torch.eye(2, dtype=torch.float64)},
        {"theta": theta[None]},
        {"step": theta[:2]},
    ):
        with pytest.raises(InvalidInputError):
            hessian_error(**({"objective": bowl, "theta": theta, "hessian": bowl.hessian(theta)} | wrong))  # type: ignore[arg-type]  # what is tested


def test_a_step_out_of_the_domain_is_refused_by_name() -> None:
    barrier = Penalty(ParameterSpace({"x": (1,)}), lambda p: (p["x"] - p["x"].log()).sum(), name="barrier")
    theta = torch.tensor([0.5], dtype=torch.float64)
    with pytest.raises(InvalidInputError, match="at the end of the step has entries"):
        hessian_error(barrier, theta, barrier.hessian(theta), step=torch.tensor([-0.5], dtype=torch.float64))
