"""How to get to a critical point: batched minimisers, index-preserving Newton, and honest statuses."""

from thalweg.solvers.critical import find_critical_point
from thalweg.solvers.flow import Trajectory, gradient_flow
from thalweg.solvers.flow_method import GradientFlow
from thalweg.solvers.lbfgs import LBFGS
from thalweg.solvers.limit_point import LimitPoint
from thalweg.solvers.loop import Snapshot
from thalweg.solvers.method import Method
from thalweg.solvers.minimize import Resolution, Resolved, Resolver, minimize
from thalweg.solvers.newton import LevenbergMarquardt, NewtonTrustRegion
from thalweg.solvers.newton_cg import NewtonCG
from thalweg.solvers.saddle_methods import EigenvectorFollowing, IndexPreservingNewton, NewtonMinres
from thalweg.solvers.solution import Solution
from thalweg.solvers.starts import random_starts
from thalweg.solvers.status import Status

__all__ = [
    "EigenvectorFollowing",
    "GradientFlow",
    "IndexPreservingNewton",
    "LBFGS",
    "LevenbergMarquardt",
    "LimitPoint",
    "Method",
    "NewtonCG",
    "NewtonMinres",
    "NewtonTrustRegion",
    "Resolution",
    "Resolved",
    "Resolver",
    "Snapshot",
    "Solution",
    "Status",
    "Trajectory",
    "find_critical_point",
    "gradient_flow",
    "minimize",
    "random_starts",
]
