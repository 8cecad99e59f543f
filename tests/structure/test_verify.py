"""A description that is wrong in any one place is not believed."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.structure import activation_facts, leaky_relu_facts, trace
from thalweg.structure.steps import run_steps
from thalweg.structure.verify import disagreement


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        h = functional.relu(self.first(x))
        return self.third(torch.tanh(self.second(h)) + h)


@pytest.fixture(scope="module")
def traced():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trace(Network(), torch.randn(5, 3))


def check(structure, steps):
    def rebuilt(named, leaves):
        return run_steps(steps, structure._program, structure.parameters, named, leaves, structure.outputs)

    return disagreement(structure._source, structure.example_inputs, rebuilt, seed=0)


def kind(structure, which):
    return [step for step in structure.steps if step.kind == which]


def with_step(structure, step, **changes):
    return tuple(replace(s, **changes) if s.index == step.index else s for s in structure.steps)


def moved(weights, coordinates):
    return replace(weights, kind="gathered", index=coordinates)


def test_the_description_itself_is_believed(traced):
    assert check(traced, traced.steps) is None


def mutations(structure):
    first, second, third = kind(structure, "dense")
    relu, tanh = kind(structure, "activation")
    yield "another activation", with_step(structure, relu, activation=leaky_relu_facts(1e-6))
    nearly = activation_facts("tanh").rescaled(1 + 1e-8)
    yield "almost the same activation", with_step(structure, tanh, activation=nearly)
    yield "tanh in both places", with_step(structure, relu, activation=tanh.activation)
    yield "no bias", with_step(structure, first, bias=None)
    yield "another layer's bias", with_step(structure, first, bias=second.bias)
    yield "another layer's weights", with_step(structure, second, weight=third.weight)
    yield "transposed weights", with_step(structure, second, weight=moved(second.weight, second.weight.coordinates().T))
    rows = second.weight.coordinates().clone()
    rows[[0, 1]] = rows[[1, 0]]
    yield "two rows exchanged", with_step(structure, second, weight=moved(second.weight, rows))
    single = first.weight.coordinates().clone()
    single[2, 1] = single[2, 0]
    yield "one coordinate wrong", with_step(structure, first, weight=moved(first.weight, single))
    yield "another input", with_step(structure, tanh, reads=(first.index,))
    yield "a way left out", with_step(structure, third, reads=(tanh.index,))
    yield "inputs of a layer exchanged", with_step(structure, second, reads=(first.index,))


@pytest.mark.parametrize("number", range(12))
def test_every_mutation_is_rejected(traced, number):
    cases = list(mutations(traced))
    assert len(cases) == 12
    name, steps = cases[number]
    assert check(traced, steps) is not None, name


def test_the_tolerance_is_about_values_of_their_own_size(traced):
    """A network whose outputs are tiny is held to the same relative accuracy."""
    model = Network()
    with torch.no_grad():
        for p in model.third.parameters():
            p.mul_(1e-9)
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    (tanh,) = [s for s in kind(structure, "activation") if s.activation.name == "tanh"]
    wrong = with_step(structure, tanh, activation=activation_facts("tanh").rescaled(1 + 1e-6))
    assert check(structure, structure.steps) is None
    assert check(structure, wrong) is not None
