"""Directions that might be flat, proposed for `verify_flat` to try."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import MemoryLimitError
from thalweg.inspection.flat import FlatCandidate
from thalweg.inspection.records import Curvature
from thalweg.objectives import EmpiricalRisk
from thalweg.structure import FlatDirection, NetworkStructure, flat_directions

__all__ = ["level_lines", "structural_candidates"]

MOST = 512
"""Candidates of each origin, at most: each costs a few evaluations."""


def structural_candidates(
    risk: EmpiricalRisk, structure: NetworkStructure, theta: Float[Tensor, " P"]
) -> list[FlatCandidate]:
    """What the structure of the network proposes; where it would propose too much, what does not depend on the data."""
    shifts = risk.loss_facts.shift_invariant
    try:
        found = flat_directions(structure, theta, risk.inputs, shift_invariant_outputs=shifts)
    except MemoryLimitError:
        found = flat_directions(structure, theta, shift_invariant_outputs=shifts)
    return [_candidate(direction, theta) for direction in found[:MOST]]


def _candidate(direction: FlatDirection, theta: Tensor) -> FlatCandidate:
    return FlatCandidate(
        kind=direction.kind,
        description=direction.description,
        direction=direction.direction.to(theta),
        # rescaling is a curve; mixtures of linear units have a nilpotent generator and go straight
        multiplicative=direction.kind == "rescaled unit",
        short=direction.extent == "segment",
    )


def level_lines(curvature: Curvature) -> list[FlatCandidate]:
    """The eigenvectors without visible curvature: perhaps the loss stays the same along straight lines."""
    inertia = curvature.inertia
    if not curvature.dense or inertia is None:
        return []
    soft = (curvature.eigenvalues.abs() <= inertia.threshold).nonzero().squeeze(1)[:MOST]
    vectors = curvature.vectors[:, soft]
    text = "a straight line along which the loss stays the same"
    return [FlatCandidate("level line", text, vector) for vector in vectors.T.unbind()]
