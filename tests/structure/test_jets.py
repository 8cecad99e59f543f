"""Activations with their derivatives, computed together: the declared derivatives, and autograd, are the judges."""

from __future__ import annotations

import pytest
import torch

from thalweg.structure import ActivationFacts, jet, match_activation, registered_activations, softplus_facts

POINTS = torch.cat([torch.linspace(-40, 40, 801), torch.tensor([1e-9, -1e-9, 0.3, 25.0, -25.0])]).double()
SOME = [
    *registered_activations(),
    softplus_facts(beta=3.0),
    *(facts.rescaled(inner=-2.5, outer=0.7) for facts in registered_activations()),
    next(iter(registered_activations())).rescaled(inner=2.0).rescaled(outer=-1.0),
]


@pytest.mark.parametrize("facts", SOME, ids=lambda facts: facts.name)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_jet_is_the_function_and_its_derivatives(facts: ActivationFacts, order: int) -> None:
    z = POINTS if facts.name not in ("exp", "exp(-2.5z)") else POINTS / 2
    if order == 3 and "gelu(tanh)" in facts.name:
        z = z[z.abs() < 8]  # further out torch's own third derivative is not a number
    found = jet(facts, z, order)
    assert len(found) == order + 1
    for k, each in enumerate(found):
        expected = facts.derivative(z, k)
        assert each.dtype == torch.float64
        size = (1 + expected.abs()) * (1 + z.abs())  # what cancels has terms of this size
        assert bool(((each - expected).abs() <= 1e-14 * size).all())


@pytest.mark.parametrize("facts", SOME, ids=lambda facts: facts.name)
def test_a_slope_is_the_derivative_by_autograd(facts: ActivationFacts) -> None:
    z = POINTS[POINTS.abs() < 19].clone().requires_grad_()
    value = facts(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    found = jet(facts, z.detach(), 2)[1]
    assert torch.allclose(found, slope, rtol=1e-12, atol=1e-13 * float(slope.abs().max() + 1))


@pytest.mark.parametrize("facts", [facts for facts in SOME if facts.kinks == ()], ids=lambda facts: facts.name)
def test_a_second_derivative_is_that_by_autograd(facts: ActivationFacts) -> None:
    z = POINTS[POINTS.abs() < 7].clone().requires_grad_()
    (slope,) = torch.autograd.grad(facts(z).sum(), z, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), z, materialize_grads=True) if slope.requires_grad else (0 * z,)
    found, bend = jet(facts, z.detach(), 2)[2], bend.detach()
    assert torch.allclose(found, bend, rtol=1e-10, atol=1e-11 * float(bend.abs().max() + 1))


@pytest.mark.parametrize("facts", [facts for facts in SOME if facts.kinks == ()], ids=lambda facts: facts.name)
def test_a_third_derivative_is_the_slope_of_the_second(facts: ActivationFacts) -> None:
    z = POINTS[POINTS.abs() < 7]
    found = jet(facts, z, 3)[3]
    step = 1e-3
    nodes = torch.tensor([-3, -2, -1, 1, 2, 3], dtype=torch.float64) * step
    weights = torch.tensor([-1, 9, -45, 45, -9, 1], dtype=torch.float64) / (60 * step)
    bends = torch.stack([jet(facts, z + node, 2)[2] for node in nodes])
    expected = (weights.unsqueeze(1) * bends).sum(0)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(1 + bends.abs().max()))


@pytest.mark.parametrize("module", [torch.nn.ELU(), torch.nn.SELU(), torch.nn.ELU(0.7)], ids=repr)
def test_at_its_corner_an_elu_bends_as_torch_has_it(module: torch.nn.Module) -> None:
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(z).sum(), z, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), z)
    assert float(jet(match_activation(module), z.detach(), 2)[2]) == float(bend)


def test_tails_keep_their_digits() -> None:
    """A slope of 1e-11 is known to many digits, though the value is one."""
    by_name = {facts.name: facts for facts in registered_activations()}
    z = torch.tensor([-25.0, 25.0], dtype=torch.float64)
    _, slope, bend = jet(by_name["sigmoid"], z, 2)
    tail = float(torch.exp(torch.tensor(-25.0, dtype=torch.float64)))
    assert slope.tolist() == pytest.approx([tail / (1 + tail) ** 2] * 2, rel=1e-14)
    assert bend.tolist() == pytest.approx([tail * (1 - tail) / (1 + tail) ** 3, -tail * (1 - tail) / (1 + tail) ** 3])
