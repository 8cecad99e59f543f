"""What is minimised: losses as functions of one flat parameter vector."""

from thalweg.objectives.barriers import MergePenalty, NormBarrier
from thalweg.objectives.by_outputs import OutputMap, OwnDerivatives
from thalweg.objectives.capabilities import Capability, require
from thalweg.objectives.convert import as_theta, find_risk, load_into_model
from thalweg.objectives.gaussian_kernels import (
    arc_cosine_kernel,
    erf_kernel,
    erf_mean,
    relu_kernel,
    relu_mean,
    relu_square,
)
from thalweg.objectives.kinks import KinkReport, seamless
from thalweg.objectives.losses import LossFacts, facts_of, register_loss
from thalweg.objectives.networks import explain_network
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.outputs import OutputObjective
from thalweg.objectives.paths import DerivativePath
from thalweg.objectives.penalties import L2, Penalty
from thalweg.objectives.population import PopulationRisk, gauss_hermite_risk, population_risk
from thalweg.objectives.restriction import RestrictedObjective, restrict
from thalweg.objectives.risk import EmpiricalRisk
from thalweg.objectives.sums import SumObjective
from thalweg.objectives.taylor import taylor

__all__ = [
    "Capability",
    "DerivativePath",
    "EmpiricalRisk",
    "Evaluation",
    "KinkReport",
    "L2",
    "MergePenalty",
    "NormBarrier",
    "LossFacts",
    "Objective",
    "OutputMap",
    "OutputObjective",
    "OwnDerivatives",
    "Penalty",
    "PopulationRisk",
    "RestrictedObjective",
    "SumObjective",
    "arc_cosine_kernel",
    "as_theta",
    "erf_kernel",
    "erf_mean",
    "explain_network",
    "facts_of",
    "find_risk",
    "gauss_hermite_risk",
    "load_into_model",
    "population_risk",
    "register_loss",
    "relu_kernel",
    "relu_mean",
    "relu_square",
    "require",
    "restrict",
    "seamless",
    "taylor",
]
