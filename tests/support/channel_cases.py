"""Problems whose channels are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import thalweg as tw


class Field(nn.Module):
    """``sigmoid(4 z) + softplus(z)``."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(4 * z) + nn.functional.softplus(z)


def erf(z: Tensor) -> Tensor:
    return torch.erf(z / math.sqrt(2))


def toy() -> tw.EmpiricalRisk:
    """Two erf units on one normal input against two of slope 5, averaged over inputs by the trapezoidal rule."""
    x = torch.linspace(-9, 9, 3601, dtype=torch.float64).unsqueeze(1)
    mass = torch.exp(-x.squeeze(1).square() / 2)
    y = erf(5 * x + 2.5) + erf(5 * x - 2.5)

    class Erf(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return erf(z)

    model = nn.Sequential(nn.Linear(1, 2, bias=False), Erf(), nn.Linear(2, 1, bias=False)).double()
    return tw.EmpiricalRisk(model, nn.MSELoss(), x, y, sample_weight=mass / mass.sum() * len(x))


def grid(width: int) -> tw.EmpiricalRisk:
    """The Rosenbrock-like target on 101 x 101 points, without biases."""
    axis = torch.linspace(-math.sqrt(3), math.sqrt(3), 101, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    y = torch.log10(0.1 + 3 * (x[:, 1] + 1 - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2)
    model = nn.Sequential(nn.Linear(2, width, bias=False), Field(), nn.Linear(width, 1, bias=False)).double()
    return tw.EmpiricalRisk(model, nn.MSELoss(), x, ((y - y.mean()) / y.std()).unsqueeze(1))


def split(w: float, c: float, a: float, epsilon: float) -> Tensor:
    """Parameters of the toy inside a channel."""
    return torch.tensor(
        [w + epsilon, w - epsilon, c / 2 + a / (2 * epsilon), c / 2 - a / (2 * epsilon)], dtype=torch.float64
    )
