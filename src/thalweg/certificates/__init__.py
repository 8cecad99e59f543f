"""Certificates: what can be proved about a loss at a point.

Each is one statement with its source, its hypotheses one by one, and a bound with the rounding error inside. One that
cannot be established says why; none ever guesses. `certify` asks all that can be afforded; `register_certifier` adds
one's own.
"""

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Outcome, Scope, State
from thalweg.certificates.collisions import LabelCollisions
from thalweg.certificates.convex_gaps import ConvexGap, LastLayerGap, TangentGap
from thalweg.certificates.critical_point import CriticalPointNearby, MinimumNearby
from thalweg.certificates.decrement import GaussNewtonDecrement
from thalweg.certificates.escape import EscapeStep
from thalweg.certificates.exact_fit import ExactFit
from thalweg.certificates.fibre_search import FibreSearch
from thalweg.certificates.fibres import FibreDescent
from thalweg.certificates.figure import Figure
from thalweg.certificates.gap import GapToLowerBound
from thalweg.certificates.gradient import NonzeroGradient
from thalweg.certificates.gradient_gap import ErrorsByGradient, SquaresByGradient
from thalweg.certificates.identities import HomogeneousUnits, LastLayerGradient
from thalweg.certificates.intervals import IntervalGradient, IntervalNewton
from thalweg.certificates.last_layer_refit import LastLayerRefit
from thalweg.certificates.layer_gap import LossByLayerGradient
from thalweg.certificates.layer_refit import LayerRefit
from thalweg.certificates.linear_network import LinearNetwork
from thalweg.certificates.linear_pieces import LinearPieces
from thalweg.certificates.near_collisions import NearCollisions
from thalweg.certificates.negative_curvature import NegativeCurvature
from thalweg.certificates.output_rank import OutputRank
from thalweg.certificates.parameter_box import ParameterBox
from thalweg.certificates.parameter_count import ParameterCount
from thalweg.certificates.registry import Certifier, certify, register_certifier, registered_certifiers
from thalweg.certificates.residual_refit import ResidualRefit
from thalweg.certificates.separated import SeparatedData
from thalweg.certificates.silent_units import SilentUnits
from thalweg.certificates.stationary_identities import BalancedUnits, CalibratedOutputs
from thalweg.certificates.subsets import DisjointSubsets
from thalweg.certificates.transfer import Transfer
from thalweg.certificates.weight_decay import WeightDecay
from thalweg.certificates.work import Work

__all__ = [
    "BalancedUnits",
    "CalibratedOutputs",
    "Case",
    "Certificate",
    "Certifier",
    "ClaimKind",
    "ConvexGap",
    "CriticalPointNearby",
    "DisjointSubsets",
    "ErrorsByGradient",
    "EscapeStep",
    "ExactFit",
    "FibreDescent",
    "FibreSearch",
    "Figure",
    "GapToLowerBound",
    "GaussNewtonDecrement",
    "HomogeneousUnits",
    "Hypothesis",
    "IntervalGradient",
    "IntervalNewton",
    "LabelCollisions",
    "LastLayerGap",
    "LastLayerGradient",
    "LastLayerRefit",
    "LayerRefit",
    "Level",
    "LinearNetwork",
    "LinearPieces",
    "LossByLayerGradient",
    "MinimumNearby",
    "NearCollisions",
    "NegativeCurvature",
    "NonzeroGradient",
    "Outcome",
    "OutputRank",
    "ParameterBox",
    "ParameterCount",
    "ResidualRefit",
    "Scope",
    "SeparatedData",
    "SilentUnits",
    "SquaresByGradient",
    "State",
    "TangentGap",
    "Transfer",
    "WeightDecay",
    "Work",
    "certify",
    "register_certifier",
    "registered_certifiers",
]
