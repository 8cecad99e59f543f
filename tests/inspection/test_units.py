"""Dead and saturated units, whose numbers do not depend on the units of the inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thalweg as tw


def risk(activation: nn.Module, biases: list[float], scale: float = 1.0) -> tw.EmpiricalRisk:
    inputs = scale * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, len(biases)), activation, nn.Linear(len(biases), 1))
    with torch.no_grad():
        model[0].bias.copy_(scale * torch.tensor(biases))
    return tw.EmpiricalRisk(model, nn.MSELoss(), inputs, inputs[:, :1] / scale)


def counts(objective: tw.EmpiricalRisk) -> tuple[int, int, int]:
    (units,) = tw.inspect(objective).units
    return units.units, units.dead, units.saturated


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e20])
def test_relu_units_in_any_unit_of_measurement(scale):
    assert counts(risk(nn.ReLU(), [0.0, 0.5, -30.0, 30.0], scale)) == (4, 1, 0)


def test_saturated_units():
    assert counts(risk(nn.Tanh(), [0.0, 0.1, 9.0, -9.0])) == (4, 0, 2)
