"""Flat directions: every kind that is there is found, whatever other kinds are there, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.foundation import ParameterSpace
from thalweg.inspection.flat import FlatCandidate, verify_flat
from thalweg.inspection.point import measure_point


def relu_classifier(scale: float = 1.0) -> tw.EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=generator) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, torch.randint(0, 3, (40,), generator=generator))


def found(risk: tw.EmpiricalRisk) -> dict[str, int]:
    return {group.kind: group.dimension for group in tw.inspect(risk).flat}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rescalings_and_the_softmax_shift_are_found_side_by_side(scale):
    """A bias and four features to shift, four units to rescale; in whatever units the inputs are measured."""
    assert found(relu_classifier(scale)) == {"softmax shift": 5, "rescaled unit": 4}


def test_directions_of_straight_kinds_are_null_vectors_of_the_hessian_at_any_point():
    risk = relu_classifier()
    verdict = tw.inspect(risk)
    hessian = risk.hessian(verdict.theta)
    for group in verdict.flat:
        if group.straight:
            assert float((hessian @ group.directions).abs().max()) < 1e-14
    assert verdict.curvature.inertia.explained == 5


def product(p: dict[str, torch.Tensor]) -> torch.Tensor:
    return (p["x"][0] * p["x"][1] * p["x"][2]) ** 2 + 0 * p["x"].sum()


def test_what_is_level_one_by_one_but_not_together_is_not_flat():
    objective = tw.Penalty(ParameterSpace({"x": (3,)}), product, name="three factors")
    theta = torch.zeros(3, dtype=torch.float64)
    axes = [FlatCandidate("axis", f"x{i}", row) for i, row in enumerate(torch.eye(3, dtype=torch.float64))]
    point = measure_point(objective, theta)
    assert verify_flat(objective, theta, point, axes) == ()
    (one,) = verify_flat(objective, theta, point, axes[:1])
    assert one.dimension == 1


def test_a_short_direction_accepted_first_does_not_reject_a_long_one():
    """The first coordinate is level within 0.01 of its value only, the second everywhere."""

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.relu((p["x"][0] - 1).abs() - 0.01) ** 2 + 0 * p["x"][1] + 1

    objective = tw.Penalty(ParameterSpace({"x": (2,)}), loss, name="a trough")
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64)
    short = FlatCandidate("short", "", torch.tensor([1.0, 0.0], dtype=torch.float64), short=True)
    long = FlatCandidate("long", "", torch.tensor([0.0, 1.0], dtype=torch.float64))
    groups = verify_flat(objective, theta, measure_point(objective, theta), [short, long])
    assert [group.kind for group in groups] == ["short", "long"]


def test_weight_decay_that_left_next_to_nothing_makes_no_flat_direction() -> None:
    """Weights of an input that is always zero decay towards nothing; along them the penalty still rises."""
    inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[:, 2] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight[:, 2] = 1e-9
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), inputs, inputs[:, :1])
    plain = tw.inspect(risk, certificates=[])
    assert sum(group.dimension for group in plain.flat if group.kind == "unused input") == 4
    assert tw.inspect(risk + tw.L2(risk, 1e-3), risk.initial, certificates=[]).flat == ()
