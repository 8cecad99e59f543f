"""Elementwise functions are recognised by what they compute, and only then."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from thalweg.foundation import ThalwegWarning
from thalweg.structure import (
    ActivationFacts,
    activations,
    contradictions,
    match_activation,
    register_activation,
    registered_activations,
)

ROOT3 = math.sqrt(3)


BUILT_IN = [f for f in registered_activations() if "doctest" not in f.name]


@pytest.mark.parametrize("facts", BUILT_IN, ids=lambda f: f.name)
def test_every_registered_activation_finds_itself(facts):
    assert match_activation(facts.function).name == facts.name


@pytest.mark.parametrize(
    ("function", "numbers", "name"),
    [
        (lambda z: torch.clamp(z, min=0), [0], "relu"),
        (lambda z: z * (z > 0), [0], "relu"),
        (lambda z: 0.5 * (z + z.abs()), [0.5], "relu"),
        (lambda z: z * torch.sigmoid(z), [], "silu"),
        (lambda z: 0.5 * (1 + torch.tanh(z / 2)), [0.5, 1, 2], "sigmoid"),
        (lambda z: 1 / (1 + torch.exp(-z)), [1], "sigmoid"),
        (lambda z: 2 * torch.sigmoid(2 * z) - 1, [2, 1], "tanh"),
        (lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))), [0.5, 1, math.sqrt(2)], "gelu"),
        (lambda z: torch.log(1 + torch.exp(z)), [1], "log(1+exp(z))"),
        (lambda z: torch.sigmoid(4 * z) + functional.softplus(z), [4, 1, 20], "sigmoid(4z)+softplus(z)"),
        (lambda z: torch.tanh(z / ROOT3), [ROOT3], "tanh(0.57735z)"),
        (lambda z: 1.7159 * torch.tanh(2 * z / 3), [1.7159, 2, 3], "1.7159 tanh(0.666667z)"),
        (lambda z: torch.sin(30 * z), [30], "sin(30z)"),
        (lambda z: functional.relu(z) * math.sqrt(2), [math.sqrt(2)], "1.41421 relu"),
        (lambda z: functional.relu(-z), [], "relu(-z)"),
        (lambda z: torch.where(z > 0, z, 0.2 * z), [0, 0.2], "leaky_relu(0.2)"),
        (lambda z: 0.3 * z.abs() + z, [0.3], "1.3 leaky_relu(0.538462)"),
        (lambda z: functional.elu(z, 0.5), [0.5], "elu(0.5)"),
        (lambda z: functional.softplus(z, beta=3.0), [3, 20], "0.333333 softplus(3z)"),
        (lambda z: functional.relu(z) ** 2, [2], "1 z**2 (z>0), 0 |z|**2 (z<0)"),
        (lambda z: z * z / 2, [2], "0.5 square"),
        (lambda z: 1 + z + 3 * z**2, [1, 3, 2], "polynomial +1 +1 z**1 +3 z**2"),
        (lambda z: z**3 - 3 * z, [3], "polynomial -3 z**1 +1 z**3"),
        (lambda z: z / 7, [7], "0.142857 identity"),
        (lambda z: z + 1, [1], "1 z + 1"),
        (lambda z: z * 0 + 3, [0, 3], "constant 3"),
    ],
)
def test_compositions_are_recognised(function, numbers, name):
    facts = match_activation(function, numbers)
    assert facts.recognised
    assert facts.name == name
    assert contradictions(facts) == []
    z = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert torch.allclose(facts(z), function(z), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda z: torch.sin(z) * z, []),
        (lambda z: torch.where(z > 1000, z * 0, functional.relu(z)), [1000]),  # departs beyond a threshold
        (lambda z: torch.where(4 * z > 1000, z * 0, functional.relu(z)), [1000, 4]),  # ... made of two numbers
        (lambda z: functional.relu(z) + 1e-9 * (z > 300), [300.0, 1e-9]),
        (lambda z: torch.tanh(z) + 1e-9 * z, [1e-9]),
        (lambda z: torch.where(z.abs() < 1e-3, z * 0, z), [1e-3]),
        (lambda z: torch.sigmoid(z) * 0.1 + 2 * z, [0.1, 2]),
        (lambda z: functional.gelu(z, approximate="tanh") * (1 + 1e-8), [1 + 1e-8, 1.0 + 2e-8, 5.0]),
    ],
)
def test_what_only_resembles_a_known_function_is_not_taken_for_it(function, numbers):
    facts = match_activation(function, numbers, "mine")
    known = {f.name for f in registered_activations()}
    assert facts.name not in known
    z = torch.linspace(-3, 3, 11, dtype=torch.float64)
    assert torch.allclose(facts(z), function(z), rtol=1e-12)


def test_an_unknown_function_has_no_facts_but_derivatives():
    facts = match_activation(lambda z: torch.sin(z) * z, name="mine")
    assert (facts.name, facts.recognised, facts.parity) == ("mine", False, "unknown")
    assert (facts.kinks, facts.bounded, facts.smooth) == (None, None, None)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    assert torch.allclose(facts.derivative(z), torch.cos(z) * z + torch.sin(z))
    assert torch.allclose(facts.derivative(z, 2), 2 * torch.cos(z) - z * torch.sin(z))


@pytest.mark.parametrize("function", [lambda z: z.sum(), lambda z: z > 0, lambda z: z.reshape(2, -1).sum(0)])
def test_what_is_no_elementwise_function_is_not_recognised(function):
    assert not match_activation(function).recognised


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 3))
def test_piecewise_linear_functions(left, right):
    facts = match_activation(lambda z: torch.where(z > 0, right * z, left * z), [left, right])
    assert facts.recognised
    assert facts.homogeneity == 1
    assert math.isclose(facts.lipschitz, max(abs(left), abs(right)), rel_tol=1e-12)
    assert contradictions(facts) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 3).filter(lambda c: c == 0 or abs(c) > 0.01), min_size=3, max_size=6))
def test_polynomials(coefficients):
    def function(z):
        return sum(c * z**k for k, c in enumerate(coefficients)) + 0 * z

    facts = match_activation(function)
    assert facts.recognised
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)
    leaf = z.clone().requires_grad_()
    slope = torch.autograd.grad(function(leaf).sum(), leaf)[0]
    assert torch.allclose(facts.derivative(z), slope, rtol=1e-8, atol=1e-8)
    assert contradictions(facts) == []


def test_a_registered_function_that_fails_stops_no_other_network(monkeypatch):
    """A name it uses may be gone by the time it is called: the notebook's cell was deleted."""
    monkeypatch.setattr(activations, "_REGISTRY", dict(activations._REGISTRY))
    register_activation(ActivationFacts("test gone", lambda z: gone(z)), check=False)  # noqa: F821
    with pytest.warns(ThalwegWarning, match="'test gone' raised NameError: name 'gone' is not defined"):
        assert match_activation(lambda z: 2 * torch.tanh(z), [2]).name == "2 tanh"
