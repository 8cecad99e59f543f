"""The problems of the paper: a toy known by quadrature, a grid in the plane, and targets of chosen roughness."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.objectives import EmpiricalRisk

__all__ = ["Erf", "SigmoidSoftplus", "gaussian_process", "grid", "normal_inputs", "rough", "sobol", "split", "toy"]

HALF = math.sqrt(3)
"""Half the side of the square, or cube, that inputs of unit variance fill evenly."""


class SigmoidSoftplus(nn.Module):
    """``sigmoid(4 z) + softplus(z)``: neither odd nor even, and no linear relation between its values at z and -z."""

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise."""
        return torch.sigmoid(4 * z) + nn.functional.softplus(z)


class Erf(nn.Module):
    """``erf(z / sqrt 2)``."""

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise."""
        return torch.erf(z / math.sqrt(2))


def normal_inputs() -> tuple[Float[Tensor, "n 1"], Float[Tensor, " n"]]:
    """One standard normal input: points, and the weight of each in a mean. The trapezoidal rule, exact to 1e-14."""
    x = torch.linspace(-9, 9, 3601, dtype=torch.float64).unsqueeze(1)
    mass = torch.exp(-x.squeeze(1).square() / 2)
    return x, mass / mass.sum()


def toy(width: int = 2) -> EmpiricalRisk:
    """Erf units on one normal input against two of slope 5; the mean is over the distribution, not a sample."""
    x, mass = normal_inputs()
    erf = Erf()
    model = nn.Sequential(nn.Linear(1, width, bias=False), Erf(), nn.Linear(width, 1, bias=False)).double()
    return EmpiricalRisk(model, nn.MSELoss(), x, erf(5 * x + 2.5) + erf(5 * x - 2.5), sample_weight=mass * len(x))


def split(w: float, c: float, a: float, epsilon: float) -> Float[Tensor, " 4"]:
    """Parameters of the toy inside a channel, from the coordinates of its pair."""
    half = a / (2 * epsilon)
    return torch.tensor([w + epsilon, w - epsilon, c / 2 + half, c / 2 - half], dtype=torch.float64)


def grid(width: int) -> EmpiricalRisk:
    """A Rosenbrock-like target on 101 x 101 points of the square, units without biases."""
    axis = torch.linspace(-HALF, HALF, 101, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    y = torch.log10(0.1 + 3 * (x[:, 1] + 1 - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2)
    model = nn.Sequential(nn.Linear(2, width, bias=False), SigmoidSoftplus(), nn.Linear(width, 1, bias=False)).double()
    return EmpiricalRisk(model, nn.MSELoss(), x, standardised(y))


def sobol(width: int, samples: int = 10_000) -> EmpiricalRisk:
    """Sobol points of the cube in four dimensions, of which the target depends on two, as in the authors' code."""
    x = torch.quasirandom.SobolEngine(4).draw(samples, dtype=torch.float64)
    x = (2 * x - 1) * HALF
    y = torch.log10(0.1 + 3 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2)
    model = nn.Sequential(nn.Linear(4, width), SigmoidSoftplus(), nn.Linear(width, 1)).double()
    return EmpiricalRisk(model, nn.MSELoss(), x, standardised(y))


def rough(
    roughness: float,
    *,
    inputs: int,
    width: int,
    samples: int,
    seed: int,
    activation: Callable[[], nn.Module] = nn.Softplus,
) -> EmpiricalRisk:
    """A Gaussian process of chosen roughness on normal inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
    y = gaussian_process(x, roughness, generator)
    model = nn.Sequential(nn.Linear(inputs, width), activation(), nn.Linear(width, 1)).double()
    return EmpiricalRisk(model, nn.MSELoss(), x, standardised(y))


def gaussian_process(x: Float[Tensor, "n d"], roughness: float, generator: torch.Generator) -> Float[Tensor, " n"]:
    """A draw with the Matern-3/2 kernel ``(1 + sqrt 3 s |x - x'|) exp(-sqrt 3 s |x - x'|)``, s the roughness."""
    distance = math.sqrt(3) * roughness * torch.cdist(x, x)
    kernel = (1 + distance) * torch.exp(-distance)
    factor = torch.linalg.cholesky(kernel + 1e-8 * torch.eye(len(x), dtype=x.dtype))
    drawn: Tensor = factor @ torch.randn(len(x), generator=generator, dtype=x.dtype)
    return drawn


def standardised(y: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    """With mean zero and variance one, as a column."""
    return ((y - y.mean()) / y.std()).unsqueeze(1)
