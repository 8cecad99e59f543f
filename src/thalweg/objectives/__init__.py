"""What is minimised: losses as functions of one flat parameter vector."""

from thalweg.objectives.capabilities import Capability, require
from thalweg.objectives.convert import as_theta, find_risk, load_into_model
from thalweg.objectives.kinks import KinkReport
from thalweg.objectives.losses import LossFacts, facts_of, register_loss
from thalweg.objectives.networks import explain_network
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.outputs import OutputObjective
from thalweg.objectives.paths import DerivativePath
from thalweg.objectives.penalties import L2, Penalty
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
    "LossFacts",
    "Objective",
    "OutputObjective",
    "Penalty",
    "RestrictedObjective",
    "SumObjective",
    "as_theta",
    "explain_network",
    "facts_of",
    "find_risk",
    "load_into_model",
    "register_loss",
    "require",
    "restrict",
    "taylor",
]
