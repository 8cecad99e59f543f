"""Units that compute the same as another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.structure.flat_directions import FlatDirection
from thalweg.structure.units import UnitGroup

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["TOLERANCE", "DuplicateUnits", "duplicate_directions", "duplicate_units"]

TOLERANCE = 1e-8
"""Two weight vectors are equal if they differ by less than this part of the longer one; the default of all
functions."""
ROWS_AT_ONCE = 1024
"""Units compared with all others at once."""


@dataclass(frozen=True, eq=False)
class DuplicateUnits:
    """Units of one group that compute the same, up to known factors.

    Attributes:
        group: where they are.
        units: ``(s,)`` their numbers in the group, s >= 2.
        factors: ``(s,)`` the value of each unit is its factor times the value of the first (1 for equal weights; -1 for
            opposite ones with an odd activation; a positive number for parallel ones with a homogeneous activation).
        distance: largest relative distance of their weight vectors, after the factors.
        tolerance: the relative distance that was allowed.
    """

    group: UnitGroup
    units: Int[Tensor, " s"]
    factors: Float[Tensor, " s"]
    distance: float
    tolerance: float


def duplicate_units(
    structure: NetworkStructure, theta: Float[Tensor, " P"], tolerance: float = TOLERANCE
) -> list[DuplicateUnits]:
    """Units with the same incoming weights and biases, group by group.

    In a deep network incoming weights are compared after those from duplicates in earlier groups have been added up,
    since only their sum matters. Opposite weights count for odd and even activations, parallel ones for homogeneous
    activations. Clusters are made transitively: a chain of neighbours within the tolerance is one cluster, and
    `distance` tells.

    Args:
        structure: of the network.
        theta: one parameter vector.
        tolerance: largest difference of two weight vectors, relative to the longer one.

    Raises:
        InvalidInputError: for a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise InvalidInputError(f"a tolerance must be positive, got {tolerance!r}")
    theta = structure.one_theta(theta).clone()
    found: list[DuplicateUnits] = []
    for group in structure.unit_groups:
        if group.frozen or group.scale.shape[1] or group.size < 2:
            continue
        clusters = list(_clusters(group, theta, tolerance))
        found.extend(clusters)
        for cluster in clusters:
            _gather(cluster, theta)
    return found


def _clusters(group: UnitGroup, theta: Tensor, tolerance: float) -> Iterator[DuplicateUnits]:
    vectors = theta[torch.cat([group.incoming, group.bias], 1)]
    lengths = vectors.norm(dim=1)
    sizes = lengths.clamp(min=tolerance * float(lengths.max()))
    if not bool(lengths.any()):
        sizes = torch.ones_like(sizes)
    scaling = "scaling" in group.symmetries and len(group.degree.unique()) == 1
    normal = vectors / sizes.unsqueeze(1) if scaling else vectors
    signs = (1.0, -1.0) if "sign" in group.symmetries and len(group.parity.unique()) == 1 else (1.0,)
    allowed = tolerance * (torch.ones_like(sizes) if scaling else sizes)
    pairs = torch.cat([_near(normal, sign, allowed) for sign in signs]).numpy()
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(group.size, group.size))
    labels = torch.as_tensor(connected_components(links, directed=False)[1])
    for label in labels.unique().tolist():
        units = (labels == label).nonzero().reshape(-1)
        if len(units) > 1:
            yield _cluster(group, units, normal, sizes, scaling, tolerance)


def _near(rows: Tensor, sign: float, allowed: Tensor) -> Tensor:
    """Pairs i < j with ``|rows[i] - sign rows[j]|`` at most the larger of what both allow, ``(n, 2)``.

    Candidates come from inner products, whose rounding is allowed for; then their distance is computed itself.
    """
    squares = rows.square().sum(1)
    found = [torch.zeros(0, 2, dtype=torch.long)]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        sums = squares[part, None] + squares[None, :]
        limit = torch.maximum(allowed[part, None], allowed[None, :])
        close = sums - 2 * sign * rows[part] @ rows.T <= limit.square() + 1e-10 * sums
        i, j = close.nonzero().T
        i, j = (i + start)[i + start < j], j[i + start < j]
        near = (rows[i] - sign * rows[j]).norm(dim=1) <= torch.maximum(allowed[i], allowed[j])
        found.append(torch.stack([i[near], j[near]], dim=1))
    return torch.cat(found)


def _cluster(
    group: UnitGroup, units: Tensor, normal: Tensor, sizes: Tensor, scaling: bool, tolerance: float
) -> DuplicateUnits:
    own = normal[units]
    signs = torch.where((own @ own[0]) < 0, -1.0, 1.0).to(torch.float64)
    gaps = (signs.unsqueeze(1) * own - own[0]).norm(dim=1)
    length = 1.0 if scaling else float(sizes[units].max())
    parity, degree = (int(group.parity[0]), float(group.degree[0])) if len(group.parity) else (1, 1.0)
    factors = torch.ones_like(signs) if parity == 1 else signs
    if scaling:
        factors = factors * (sizes[units] / sizes[units[0]]) ** degree
    return DuplicateUnits(group, units, factors, float(gaps.max()) / length, tolerance)


def _gather(cluster: DuplicateUnits, theta: Tensor) -> None:
    """Move, in place, all outgoing weights of a cluster onto its first unit."""
    table = cluster.group.outgoing[cluster.units]
    total = (cluster.factors.unsqueeze(1) * theta[table]).sum(0)
    theta[table] = 0.0
    theta[table[0]] = total


def duplicate_directions(structure: NetworkStructure, clusters: list[DuplicateUnits]) -> list[FlatDirection]:
    """For s duplicates with k outgoing weights each, (s - 1) k directions: more on one, less on another."""
    found: list[FlatDirection] = []
    for cluster in clusters:
        first = int(cluster.units[0])
        for unit, factor in zip(cluster.units[1:].tolist(), cluster.factors[1:].tolist(), strict=True):
            text = f"units {first} and {unit} of {cluster.group.name!r} have the same weights to {cluster.distance:.1e}"
            values = torch.tensor([factor, -1.0], dtype=torch.float64)
            pairs = torch.stack([cluster.group.outgoing[first], cluster.group.outgoing[unit]], 1)
            found.extend(FlatDirection("duplicate units", text, structure.space.size, pair, values) for pair in pairs)
    return found
