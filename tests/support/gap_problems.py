"""Small problems for certificates of gaps and existence, and independent ways to their truth."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Certificate, Certifier
from thalweg.foundation import NotApplicableError


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perceptron(
    widths: tuple[int, ...], activation: nn.Module | None = None, seed: int = 0, bias: bool = True
) -> nn.Module:
    """Dense layers with an activation between them, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after, bias=bias).double(), activation or nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def ask(
    certifier: Certifier, objective: tw.Objective, theta: Tensor, earlier: tuple[Certificate, ...] = ()
) -> Certificate:
    """What a certifier says, without the runner's limits."""
    case = Case(objective, theta)
    try:
        certifier.work(case)
        return certifier.prove(case, earlier)
    except NotApplicableError as error:
        return certifier.declined((), str(error))


def fitted(risk: tw.EmpiricalRisk, theta: Tensor, targets: Tensor, steps: int = 60) -> Tensor:
    """Gauss-Newton with minimum-norm steps to ``f = targets``."""
    for _ in range(steps):
        residual = (risk.outputs(theta) - targets.reshape(risk.n_samples, -1)).reshape(-1)
        step = torch.linalg.pinv(risk.jacobian(theta), rtol=1e-13) @ residual
        size, factor = float(residual.norm()), 1.0
        while factor > 1e-4:
            moved = theta - factor * step
            if float((risk.outputs(moved) - targets.reshape(risk.n_samples, -1)).norm()) < size:
                break
            factor /= 2
        else:
            return theta
        theta = moved
    return theta


def descended(objective: tw.Objective, theta: Tensor, steps: int) -> Tensor:
    """That many iterations of L-BFGS."""

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        found = objective.evaluate(torch.from_numpy(flat), 1)
        return float(found.value), found.gradient.numpy()

    options = {"maxiter": steps, "ftol": 0.0, "gtol": 0.0}
    return torch.from_numpy(
        scipy.optimize.minimize(both, theta.numpy(), jac=True, method="L-BFGS-B", options=options).x
    )


def settled(objective: tw.Objective, theta: Tensor, steps: int = 40) -> Tensor:
    """Damped Newton steps to a minimum."""
    damping = 1e-2
    value = float(objective.value(theta))
    for _ in range(steps):
        found = objective.evaluate(theta, 2)
        values, vectors = torch.linalg.eigh(found.hessian)
        shares = vectors.T @ found.gradient
        moved = theta - vectors @ (shares / (values.abs() + damping * float(values.abs().max())))
        lower = float(objective.value(moved))
        if lower <= value:
            theta, value, damping = moved, lower, damping / 5
        else:
            damping *= 8
        if damping > 1e8 or float(found.gradient.norm()) < 1e-13:
            break
    return theta


def critical(objective: tw.Objective, theta: Tensor, steps: int = 6) -> Tensor:
    """Plain Newton steps to a critical point of any index."""
    for _ in range(steps):
        found = objective.evaluate(theta, 2)
        theta = theta - torch.linalg.solve(found.hessian, found.gradient)
    return theta
