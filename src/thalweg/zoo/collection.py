"""Small ready exhibits, for tests of whatever works on objectives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.zoo._samples import generator
from thalweg.zoo.channel import ErfChannel
from thalweg.zoo.degenerate import CubicInflection, MonkeySaddle, Quartic
from thalweg.zoo.duplicated_neuron import DuplicatedNeuron
from thalweg.zoo.linear_network import LinearNetwork
from thalweg.zoo.plateau import Bump, ExponentialTail
from thalweg.zoo.quadratic import Quadratic
from thalweg.zoo.regression import LinearRegression, RidgeRegression
from thalweg.zoo.relu_teacher import ReluTeacherStudent
from thalweg.zoo.sampled_linear_network import SampledLinearNetwork, whitened_samples
from thalweg.zoo.saturation import SaturatingUnit
from thalweg.zoo.separable import SeparableLogistic
from thalweg.zoo.valleys import CrossedValleys, DoubleWell, HyperbolicValley, ProductChain, Rosenbrock

__all__ = ["Exhibit", "all_infinities", "all_known"]


class Exhibit(NamedTuple):
    """An objective with a name of its own, for reports and test identifiers."""

    name: str
    objective: Objective


def all_known() -> list[Exhibit]:
    """Objectives that know critical points of their own, at most about 40 parameters each.

    >>> len(all_known()) > 20
    True
    """
    return [*_quadratics(), *_regressions(), *_linear_networks(), *_networks(), *_small_functions()]


def all_infinities() -> list[Exhibit]:
    """Objectives from whose `starts` descent runs away: nothing found there is a minimum, or has converged.

    >>> sorted({exhibit.objective.escape for exhibit in all_infinities()})
    ['channel', 'plateau', 'saturation', 'separable']
    """
    x = torch.tensor([[1.0], [2.0], [-1.0]])
    signs = torch.tensor([1.0, 1.0, -1.0])
    return [
        Exhibit("erf-channel", ErfChannel()),
        Exhibit("saturating-unit-one-sided", SaturatingUnit(x[:2], signs[:2], torch.tensor([1.0, 1.0]))),
        Exhibit("saturating-unit-two-sided", SaturatingUnit(x, signs, torch.tensor([1.0, 0.0]))),
        Exhibit("separable-logistic", SeparableLogistic.random()),
        Exhibit("bump", Bump(2)),
        Exhibit("exponential-tail", ExponentialTail()),
    ]


def _quadratics() -> list[Exhibit]:
    center = torch.tensor([1.0, -2.0, 3.0, 0.5])
    return [
        Exhibit("quadratic-minimum", Quadratic([0.5, 1.0, 3.0, 10.0], center, offset=-2.0)),
        Exhibit("quadratic-saddle", Quadratic([-2.0, -0.1, 1.0, 5.0], center, seed=1)),
        Exhibit("quadratic-valley", Quadratic([0.0, 0.0, 1.0, 5.0], center, seed=2)),
        Exhibit("quadratic-degenerate-saddle", Quadratic([-1.0, 0.0, 2.0, 5.0], center, seed=3)),
        Exhibit("quadratic-maximum", Quadratic([-3.0, -1.0], seed=4)),
        Exhibit("quadratic-ill-conditioned", Quadratic([1e-4, 1.0, 1e4], seed=5)),
        Exhibit("quadratic-far-from-origin", Quadratic([1.0, 2.0], torch.tensor([1e4, -1e4]), seed=6)),
        Exhibit("quadratic-tiny", Quadratic([1e-9, 3e-9, -2e-9], seed=7)),
    ]


def _gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def _regressions() -> list[Exhibit]:
    x, y = _gaussian(20, 3, seed=0), _gaussian(20, 2, seed=1)
    dependent = torch.cat([x, x[:, :1] - x[:, 1:2]], dim=1)
    return [
        Exhibit("linear-regression", LinearRegression(x, y)),
        Exhibit("linear-regression-dependent-inputs", LinearRegression(dependent, y)),
        Exhibit("linear-regression-fewer-samples-than-inputs", LinearRegression(_gaussian(3, 5, seed=2), y[:3, 0])),
        Exhibit("ridge-regression", RidgeRegression(dependent, y, strength=0.1)),
    ]


def _linear_networks() -> list[Exhibit]:
    s = [3.0, 2.0, 0.5]
    correlated = _gaussian(30, 2, seed=4) @ torch.tensor([[1.0, 0.8], [0.0, 0.5]], dtype=torch.float64)
    white = whitened_samples(_gaussian(2, 3, seed=3), 12, noise=0.5)
    return [
        Exhibit("linear-network-narrow", LinearNetwork.from_singular_values(s, 2, inputs=4)),
        Exhibit("linear-network-square", LinearNetwork.from_singular_values(s, 3)),
        Exhibit("linear-network-wide", LinearNetwork.from_singular_values(s, 4, outputs=5)),
        Exhibit("linear-network-equal-values", LinearNetwork.from_singular_values([2.0, 2.0, 1.0], 2)),
        Exhibit("linear-network-rank-deficient", LinearNetwork.from_singular_values([2.0, 1.0, 0.0], 2)),
        Exhibit("linear-network-deep", LinearNetwork.from_singular_values([2.0, 1.0], [2, 3], inputs=3)),
        Exhibit("linear-network-deeper", LinearNetwork.from_singular_values([1.5, 1.0], [2, 2, 2])),
        Exhibit("sampled-linear-network", SampledLinearNetwork(*white, 2)),
        Exhibit("sampled-linear-network-correlated", SampledLinearNetwork(correlated, _gaussian(30, 2, seed=5), 3)),
    ]


def _networks() -> list[Exhibit]:
    return [
        Exhibit("duplicated-neuron-plateau", DuplicatedNeuron.random(curvature=[0.002, 0.004])),
        Exhibit("duplicated-neuron-outside", DuplicatedNeuron.random(curvature=[-0.002, -0.004], seed=1)),
        Exhibit("duplicated-neuron-indefinite", DuplicatedNeuron.random(curvature=[-0.002, 0.004], seed=2)),
        Exhibit("duplicated-neuron-three-copies", DuplicatedNeuron.random(curvature=[0.004, 0.002], copies=3, seed=3)),
        Exhibit("duplicated-neuron-exact", DuplicatedNeuron.random(curvature=[0.0, 0.0], seed=4)),
        Exhibit("relu-teacher-student", ReluTeacherStudent(torch.eye(4))),
        Exhibit("relu-teacher-student-spare-neuron", ReluTeacherStudent(_gaussian(2, 3, seed=6), width=3)),
        Exhibit("erf-duplicated-neuron", ErfChannel()),
    ]


def _small_functions() -> list[Exhibit]:
    return [
        Exhibit("chain-2", ProductChain(2)),
        Exhibit("chain-3", ProductChain(3)),
        Exhibit("chain-5", ProductChain(5)),
        Exhibit("hyperbolic-valley", HyperbolicValley()),
        Exhibit("crossed-valleys", CrossedValleys()),
        Exhibit("double-well", DoubleWell()),
        Exhibit("double-well-tilted", DoubleWell(0.2)),
        Exhibit("rosenbrock", Rosenbrock()),
        Exhibit("quartic", Quartic(2)),
        Exhibit("decoy-tiny-gradients", Quartic(2, scale=1e-6, center=1.0)),
        Exhibit("monkey-saddle", MonkeySaddle()),
        Exhibit("cubic-inflection", CubicInflection()),
        Exhibit("bump-top", Bump(3)),
    ]
