"""Objectives that know their own critical points, or that they have none: the truth for all other tests."""

from thalweg.zoo.channel import ChannelEnd, ErfChannel
from thalweg.zoo.collection import Exhibit, all_infinities, all_known
from thalweg.zoo.contract import CLAUSES, ContractError, check_objective
from thalweg.zoo.critical import CriticalPoint, KnowsCriticalPoints, PointKind, critical_points_of
from thalweg.zoo.degenerate import CubicInflection, MonkeySaddle, Quartic
from thalweg.zoo.duplicated_neuron import DuplicatedNeuron
from thalweg.zoo.infinity import Escape, RunsAway
from thalweg.zoo.linear_network import LinearNetwork
from thalweg.zoo.linear_spectrum import subset_spectrum
from thalweg.zoo.plateau import Bump, ExponentialTail
from thalweg.zoo.quadratic import Quadratic
from thalweg.zoo.regression import LinearRegression, RidgeRegression
from thalweg.zoo.relu_teacher import ReluTeacherStudent
from thalweg.zoo.sampled_linear_network import SampledLinearNetwork, whitened_samples
from thalweg.zoo.saturation import SaturatingUnit
from thalweg.zoo.separable import SeparableLogistic
from thalweg.zoo.valleys import CrossedValleys, DoubleWell, HyperbolicValley, ProductChain, Rosenbrock

__all__ = [
    # the contract, and the records
    "check_objective",
    "CLAUSES",
    "ContractError",
    "CriticalPoint",
    "PointKind",
    "KnowsCriticalPoints",
    "critical_points_of",
    "RunsAway",
    "Escape",
    "Exhibit",
    "all_known",
    "all_infinities",
    # linear and quadratic
    "Quadratic",
    "LinearRegression",
    "RidgeRegression",
    "LinearNetwork",
    "SampledLinearNetwork",
    "whitened_samples",
    "subset_spectrum",
    # networks
    "DuplicatedNeuron",
    "ReluTeacherStudent",
    # small functions
    "ProductChain",
    "HyperbolicValley",
    "CrossedValleys",
    "DoubleWell",
    "Rosenbrock",
    "Quartic",
    "MonkeySaddle",
    "CubicInflection",
    # infimum at infinity
    "ErfChannel",
    "ChannelEnd",
    "SaturatingUnit",
    "SeparableLogistic",
    "Bump",
    "ExponentialTail",
]
