"""Enclosures of activations against 40 digits: at points, and over wide balls."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.certificates import Case
from thalweg.certificates.intervals.activations import AtKinkError, enclosure_of
from thalweg.certificates.intervals.arithmetic import Ball, around, ball, precision
from thalweg.foundation import NotApplicableError
from thalweg.structure import (
    ActivationFacts,
    activation_facts,
    elu_facts,
    leaky_relu_facts,
    match_activation,
    power_facts,
    registered_activations,
    softplus_facts,
)

mp = mpmath.mp
Exact = Callable[[mpmath.mpf], mpmath.mpf]


def normal(z: mpmath.mpf) -> mpmath.mpf:
    return mpmath.erfc(-z / mpmath.sqrt(2)) / 2


def logistic(z: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-z))


def ramp(z: mpmath.mpf) -> mpmath.mpf:
    return z + mpmath.log1p(mpmath.exp(-z)) if z > 0 else mpmath.log1p(mpmath.exp(z))


def torch_ramp(z: mpmath.mpf) -> mpmath.mpf:
    return z if z > 20 else ramp(z)


def tanh_gelu(z: mpmath.mpf) -> mpmath.mpf:
    return z / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3)))


def elu(alpha: float, scale: float) -> Exact:
    return lambda z: mpmath.mpf(scale) * (z if z > 0 else mpmath.mpf(alpha) * mpmath.expm1(z))


REGISTERED: dict[str, Exact] = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, mpmath.mpf(0)),
    "tanh": mpmath.tanh,
    "sigmoid": logistic,
    "erf(z/sqrt2)": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
    "erf": mpmath.erf,
    "arctan": mpmath.atan,
    "gaussian": lambda z: mpmath.exp(-z * z),
    "normal_cdf": normal,
    "softplus": torch_ramp,
    "log(1+exp(z))": ramp,
    "sigmoid(4z)+softplus(z)": lambda z: logistic(4 * z) + torch_ramp(z),
    "gelu": lambda z: z * normal(z),
    "gelu(tanh)": tanh_gelu,
    "silu": lambda z: z * logistic(z),
    "mish": lambda z: z * mpmath.tanh(ramp(z)),
    "leaky_relu": lambda z: max(z, mpmath.mpf(0.01) * z),
    "abs": abs,
    "elu": elu(1.0, 1.0),
    "selu": elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946),
    "square": lambda z: z * z,
    "cube": lambda z: z**3,
    "exp": mpmath.exp,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "softsign": lambda z: z / (1 + abs(z)),
    "hardtanh": lambda z: min(max(z, mpmath.mpf(-1)), mpmath.mpf(1)),
    "relu6": lambda z: min(max(z, mpmath.mpf(0)), mpmath.mpf(6)),
    "hardswish": lambda z: z * min(max(z + 3, mpmath.mpf(0)), mpmath.mpf(6)) / 6,
}


def polynomial(z: torch.Tensor) -> torch.Tensor:
    return 0.5 - 2 * z + z**3 / 4


FAMILIES: dict[str, tuple[ActivationFacts, Exact]] = {
    "1.7159 tanh(2z/3)": (
        match_activation(lambda z: 1.7159 * torch.tanh(2 * z / 3), [1.7159, 2, 3]),
        lambda z: mpmath.mpf(1.7159) * mpmath.tanh(2 * z / 3),
    ),
    "sin(30z)": (activation_facts("sin").rescaled(30.0), lambda z: mpmath.sin(30 * z)),
    "-sigmoid(-z/2) twice": (
        activation_facts("sigmoid").rescaled(-0.5).rescaled(1.0, -1.0),
        lambda z: -logistic(-z / 2),
    ),
    "leaky relu": (leaky_relu_facts(0.2), lambda z: max(z, mpmath.mpf(0.2) * z)),
    "leaky relu below": (leaky_relu_facts(-0.5), lambda z: z if z > 0 else -z / 2),
    "elu": (elu_facts(0.7, 1.5), elu(0.7, 1.5)),
    "softplus(3)": (softplus_facts(3.0), lambda z: torch_ramp(3 * z) / 3),
    "softplus(3, no threshold)": (softplus_facts(3.0, math.inf), lambda z: ramp(3 * z) / 3),
    "z**5": (power_facts(5), lambda z: z**5),
    "polynomial": (match_activation(polynomial, [0.5, 2, 4]), lambda z: mpmath.mpf(0.5) - 2 * z + z**3 / 4),
    "constant": (match_activation(lambda z: torch.full_like(z, 2.5)), lambda z: mpmath.mpf(2.5)),
    "squared relu": (match_activation(lambda z: torch.relu(z) ** 2), lambda z: max(z, mpmath.mpf(0)) ** 2),
    "|z|**3": (match_activation(lambda z: z.abs() ** 3), lambda z: abs(z) ** 3),
}
ALL = {name: (activation_facts(name), exact) for name, exact in REGISTERED.items()} | FAMILIES
POINTS = (-31.0, -7.3, -2.5, -1.25, -0.6, -1e-6, 1e-9, 0.3, 0.9, 1.75, 5.5, 8.0, 25.0)
KINKED = {"relu", "leaky_relu", "abs", "elu", "selu", "softsign", "hardtanh", "relu6", "hardswish", "leaky relu",
          "leaky relu below", "squared relu"}  # fmt: skip


def holds(found: Ball, truth: mpmath.mpf, slack: float = 1e-25) -> bool:
    """Whether a ball holds a number that is known to about 40 digits (a derivative: to 25)."""
    gap = abs(mpmath.mpf(str(found.mid().str(60, radius=False))) - truth)
    return bool(
        gap <= mpmath.mpf(str(found.rad().str(10, radius=False))) * (1 + mpmath.mpf(1e-6)) + slack * (1 + abs(truth))
    )


def test_every_smooth_activation_of_the_register_has_an_enclosure() -> None:
    names = {facts.name for facts in registered_activations() if not facts.name.startswith("doctest")}
    assert names == set(REGISTERED)
    for name in ALL:
        enclosure_of(ALL[name][0])


@pytest.mark.parametrize("name", ALL)
def test_value_and_derivatives_at_points(name: str) -> None:
    facts, exact = ALL[name]
    assert facts.recognised
    rule = enclosure_of(facts)
    with mpmath.workdps(60), precision(160):
        for point in POINTS:
            jet = rule(ball(point))
            z = mpmath.mpf(point)
            for order, found in enumerate(jet):
                truth = mpmath.diff(exact, z, order, h=mpmath.mpf(10) ** -20) if order else exact(z)
                assert holds(found, truth, 1e-17 if order else 1e-38), (point, order, found, truth)
                assert float(found.rad()) <= 1e-10 * (1 + abs(float(found)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", [1e-9, 1e-2, 0.5])
def test_over_a_ball_every_value_is_held(name: str, radius: float) -> None:
    facts, exact = ALL[name]
    rule = enclosure_of(facts)
    with mpmath.workdps(50), precision():
        for point in (-7.3, -1.6, 0.1, 2.2):
            try:
                jet = rule(around(point, radius))
            except AtKinkError:
                assert name in KINKED or abs(point) > 6
                continue
            for part in (-1.0, -0.37, 0.0, 0.61, 1.0):
                z = mpmath.mpf(point) + mpmath.mpf(part) * mpmath.mpf(radius)
                assert holds(jet.value, exact(z), 1e-38)
                for order in (1, 2):
                    if abs(z) > 1e-8:  # differences across a kink mean nothing
                        truth = mpmath.diff(exact, z, order, h=mpmath.mpf(10) ** -16)
                        assert holds(jet[order], truth, 1e-14)


@pytest.mark.parametrize("name", sorted(KINKED))
def test_a_ball_across_a_kink_is_refused(name: str) -> None:
    facts, _ = ALL[name]
    corner = (facts.kinks or (0.0,))[-1]
    with precision(), pytest.raises(AtKinkError, match="may meet the kink"):
        enclosure_of(facts)(around(corner + 1e-6, 1e-5))
    with precision():
        enclosure_of(facts)(around(corner + 1e-6, 1e-7))


def test_softplus_is_refused_where_torch_changes_its_formula() -> None:
    rule = enclosure_of(activation_facts("softplus"))
    with precision():
        with pytest.raises(AtKinkError, match="torch goes over from softplus"):
            rule(around(20.0, 1e-9))
        assert float(rule(ball(20.5)).slope) == 1.0
        assert float(rule(ball(19.5)).slope) < 1.0


def test_kinks_that_are_smooth_to_second_order_are_no_kinks() -> None:
    with precision():
        jet = enclosure_of(FAMILIES["|z|**3"][0])(around(0.0, 1e-3))
    for found in jet:
        assert found.contains(0)


def test_what_is_unknown_is_declined_by_name() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x) * x

    risk = tw.EmpiricalRisk(
        nn.Sequential(nn.Linear(2, 2), Odd(), nn.Linear(2, 1)), nn.MSELoss(), torch.ones(2, 2), torch.ones(2, 1)
    )
    layer = Case(risk, risk.initial).dense().layers[0]
    with pytest.raises(NotApplicableError, match="no interval enclosure is written for the activation"):
        enclosure_of(layer.activation)
