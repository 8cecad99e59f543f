"""Groups of hidden units that may be exchanged, and what else leaves the network's function as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.structure.activations import ActivationFacts
from thalweg.structure.axes import Record, UnitAxes, follow_units

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["Symmetry", "UnitGroup", "find_groups"]

Symmetry = Literal["permutation", "sign", "scaling", "mixing"]


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """Hidden units (or channels) of one kind: made by the same layers, read by the same layers.

    Coordinates are those of theta, -1 where frozen; a group with frozen coordinates has no symmetries in theta.

    Attributes:
        name: the layers that make the units.
        layers: numbers of the steps that make them (several, where a residual sum joins layers).
        readers: numbers of the layers that read them.
        made_at: for each of `layers` the rows (channels) that are these units, ``(m, r)``.
        read_at: for each of `readers` the features (channels) that hold these units, ``(m, r)``.
        activations: the elementwise functions they pass.
        plain: True if they pass nothing but these (no sum, pooling, norm).
        incoming: ``(m, d)`` weights into each unit.
        bias: ``(m, b)`` biases of each unit, one for each layer that makes it and has a bias.
        scale: ``(m, s)`` entries of norms and depthwise filters that act on each unit.
        outgoing: ``(m, k)`` weights out of each unit.
        degree: ``(k,)`` if the incoming weights and biases are multiplied by c > 0, what the outgoing weight reads
            grows as c to this power; NaN where it does not scale.
        parity: ``(k,)`` -1 if what the outgoing weight reads changes sign with the incoming weights and biases, 1 if it
            stays the same, 0 if neither.
        symmetries: changes of theta that leave the network's function as it is. ``"permutation"`` of the units;
            ``"sign"`` of a unit's incoming weights (with its outgoing ones where parity is -1); ``"scaling"`` of
            incoming weights by c > 0 and of outgoing ones by c to minus the degree; ``"mixing"`` of linear units by
            any invertible matrix.
        theta_size: number P of coordinates of theta.
    """

    name: str
    layers: tuple[int, ...]
    readers: tuple[int, ...]
    made_at: tuple[Tensor, ...]
    read_at: tuple[Tensor, ...]
    activations: tuple[ActivationFacts, ...]
    plain: bool
    incoming: Int[Tensor, "m d"]
    bias: Int[Tensor, "m b"]
    scale: Int[Tensor, "m s"]
    outgoing: Int[Tensor, "m k"]
    degree: Float[Tensor, " k"]
    parity: Int[Tensor, " k"]
    symmetries: frozenset[Symmetry]
    theta_size: int

    @property
    def size(self) -> int:
        """Number m of units."""
        return len(self.incoming)

    @property
    def frozen(self) -> bool:
        """Whether some coordinates are not in theta."""
        return any(bool((table < 0).any()) for table in (self.incoming, self.bias, self.scale, self.outgoing))

    def __repr__(self) -> str:
        return f"<UnitGroup {self.name!r}: {self.size} units; {', '.join(sorted(self.symmetries)) or 'no symmetry'}>"

    def permuted(self, theta: Float[Tensor, "*batch P"], order: Int[Tensor, " m"]) -> Float[Tensor, "*batch P"]:
        """Theta with unit i in the place of unit ``order[i]``: the same function.

        Raises:
            InvalidInputError: if the order is not a permutation, or the units cannot be permuted.
        """
        self._require("permutation", theta)
        if order.is_floating_point() or not torch.equal(order.sort().values, torch.arange(self.size)):
            raise InvalidInputError(f"expected a permutation of 0..{self.size - 1}, got {order.tolist()}")
        result = theta.clone()
        for table in (self.incoming, self.bias, self.scale, self.outgoing):
            before = result.clone()  # a residual stream has rows and columns of the same matrix: one after the other
            result[..., table[order].reshape(-1)] = before[..., table.reshape(-1)]
        return result

    def flipped(self, theta: Float[Tensor, "*batch P"], signs: Float[Tensor, " m"]) -> Float[Tensor, "*batch P"]:
        """Theta with the incoming weights of each unit multiplied by its sign: the same function.

        Raises:
            InvalidInputError: unless there is one sign of 1 or -1 for each unit, or if signs cannot be changed.
        """
        self._require("sign", theta)
        if signs.shape != (self.size,) or not bool((signs.abs() == 1).all()):
            raise InvalidInputError(f"{self.size} signs are needed, each 1 or -1, got {signs.tolist()}")
        outgoing = torch.where(self.parity < 0, signs.unsqueeze(1), 1.0)
        return self._multiplied(theta, signs.unsqueeze(1), outgoing)

    def scaled(self, theta: Float[Tensor, "*batch P"], factors: Float[Tensor, " m"]) -> Float[Tensor, "*batch P"]:
        """Theta with the incoming weights of each unit multiplied by its positive factor: the same function.

        Raises:
            InvalidInputError: unless there is one positive factor for each unit, or if the units cannot be scaled.
        """
        self._require("scaling", theta)
        if factors.shape != (self.size,) or not bool(((factors > 0) & factors.isfinite()).all()):
            raise InvalidInputError(f"{self.size} positive finite factors are needed, got {factors.tolist()}")
        return self._multiplied(theta, factors.unsqueeze(1), factors.unsqueeze(1) ** -self.degree)

    def mixed(self, theta: Float[Tensor, "*batch P"], matrix: Float[Tensor, "m m"]) -> Float[Tensor, "*batch P"]:
        """Theta with the units replaced by their mixtures, ``matrix @ units``: the same function.

        Raises:
            InvalidInputError: if the matrix is not invertible or not m x m, or the units are not linear.
        """
        self._require("mixing", theta)
        inverse, failed = torch.linalg.inv_ex(matrix) if matrix.shape == (self.size, self.size) else (matrix, True)
        if failed:
            found = "a singular one" if matrix.shape == (self.size, self.size) else tuple(matrix.shape)
            raise InvalidInputError(f"an invertible matrix ({self.size}, {self.size}) is needed, got {found}")
        result = theta.clone()
        for table, by in ((self.incoming, matrix), (self.bias, matrix), (self.outgoing, inverse.T)):
            before = result.clone()
            result[..., table] = torch.einsum("ij,...jk->...ik", by.to(theta), before[..., table])
        return result

    def _multiplied(self, theta: Tensor, incoming: Tensor, outgoing: Tensor) -> Tensor:
        result = theta.clone()
        for table, factors in ((self.incoming, incoming), (self.bias, incoming), (self.outgoing, outgoing)):
            result[..., table] = result[..., table] * factors.to(theta)  # each table lists a coordinate once
        return result

    def _require(self, symmetry: Symmetry, theta: Tensor) -> None:
        if theta.shape[-1:] != (self.theta_size,):
            raise InvalidInputError(f"theta has shape {tuple(theta.shape)}, expected (*batch, {self.theta_size})")
        if symmetry not in self.symmetries:
            found = ", ".join(sorted(self.symmetries)) or "no other"
            raise InvalidInputError(f"the units of {self.name!r} have no {symmetry} symmetry ({found})")


def find_groups(structure: NetworkStructure) -> tuple[list[UnitGroup], list[str]]:
    """All groups of exchangeable units, and for every layer whose units are pinned why.

    The result follows from the description alone; `unit_check` holds it against numbers.
    """
    axes = follow_units(structure)
    if axes.count == 0:
        return [], []
    one = _merge(axes)
    pinned, reasons = _pinned(structure, axes, one)
    return [_assemble(structure, axes, one, members) for members in _alike(axes, one, pinned)], reasons


def _merge(axes: UnitAxes) -> Tensor:
    """For each unit number the number of the unit it is one with, ``(count,)``."""
    pairs = torch.cat([torch.zeros(0, 2, dtype=torch.long), *axes.joined]).numpy()
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(axes.count, axes.count))
    return torch.as_tensor(connected_components(graph, directed=False)[1], dtype=torch.long)


def _pinned(structure: NetworkStructure, axes: UnitAxes, one: Tensor) -> tuple[Tensor, list[str]]:
    """Which merged units are pinned, and one sentence for each layer whose units are (outputs apart)."""
    pins = [*axes.pinned, *_shared(structure, axes)]
    pinned = torch.zeros(int(one.max()) + 1, dtype=torch.bool)
    why: dict[int, str] = {}
    for units, reason in pins:
        for root in one[units].unique().tolist():
            why.setdefault(root, reason)
        pinned[one[units]] = True
    reasons: dict[str, None] = {}
    for record in axes.records:
        if record.role == "incoming":
            for root in one[record.units].unique().tolist():
                if why.get(root, "they are outputs") != "they are outputs":
                    reasons[f"the units of {structure.steps[record.step].name!r} keep their places: {why[root]}"] = None
    return pinned, list(reasons)


def _shared(structure: NetworkStructure, axes: UnitAxes) -> list[tuple[Tensor, str]]:
    """Units with a coordinate that the network uses in more than one place."""
    uses = torch.zeros(structure.parameters.size, dtype=torch.long)
    for step in structure.steps:
        tensors = [w.coordinates() for w in (step.weight, step.bias) if w is not None]
        described = {name for w in (step.weight, step.bias) if w is not None for name in w.names}
        for coordinates in tensors:
            if coordinates is not None:
                uses += torch.bincount(coordinates.reshape(-1), minlength=len(uses))
        for name in set(step.parameters) - described:
            uses[structure.parameters.slice(name)] += 1
    found = []
    for record in axes.records:
        twice = (uses[record.coordinates] > 1).any(1)
        if bool(twice.any()):
            found.append((record.units[twice], "their weights are used in more than one place (tied)"))
    return found


def _alike(axes: UnitAxes, one: Tensor, pinned: Tensor) -> list[Tensor]:
    """Merged units that are not pinned, grouped by the steps they deal with and how often."""
    count = int(one.max()) + 1
    signature = np.zeros((len(axes.records), count), dtype=np.int32)
    for row, record in enumerate(axes.records):
        np.add.at(signature[row], one[record.units].numpy(), 1)
    free = np.flatnonzero(~pinned.numpy())
    if not len(free):
        return []
    _, kind = np.unique(signature[:, free], axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    order = list(dict.fromkeys(kind.tolist()))
    return [torch.as_tensor(free[kind == k]) for k in order]


def _assemble(structure: NetworkStructure, axes: UnitAxes, one: Tensor, members: Tensor) -> UnitGroup:
    """Put together what the records say of some units."""
    roles = ("incoming", "bias", "scale", "outgoing", "passes")
    found: dict[str, list[tuple[Record, Tensor]]] = {role: [] for role in roles}
    for record in axes.records:
        rows = _rows(record, one, members)
        if rows is not None:
            found[record.role].append((record, rows))

    def table(role: str) -> Tensor:
        parts = [structure.to_space(r.coordinates[rows].reshape(len(members), -1)) for r, rows in found[role]]
        return torch.cat([torch.zeros(len(members), 0, dtype=torch.long), *parts], 1)

    def of_outgoing(values: Callable[[Record], Tensor]) -> Tensor:
        """One entry for each outgoing weight; units of a group are alike, so the first one tells."""
        parts = [values(r)[rows[0]].repeat_interleave(r.coordinates.shape[1]) for r, rows in found["outgoing"]]
        return torch.cat([values(axes.records[0])[:0], *parts])

    passed = [structure.steps[record.step] for record, _ in found["passes"]]
    group = UnitGroup(
        name=" + ".join(structure.steps[r.step].name for r, _ in found["incoming"]),
        layers=tuple(record.step for record, _ in found["incoming"]),
        readers=tuple(record.step for record, _ in found["outgoing"]),
        made_at=tuple(record.places[rows] for record, rows in found["incoming"]),
        read_at=tuple(record.places[rows] for record, rows in found["outgoing"]),
        activations=tuple(step.activation for step in passed if step.activation is not None),
        plain=all(step.kind == "activation" for step in passed) and not found["scale"],
        incoming=table("incoming"),
        bias=table("bias"),
        scale=table("scale"),
        outgoing=table("outgoing"),
        degree=of_outgoing(lambda r: r.degree),
        parity=of_outgoing(lambda r: r.parity),
        symmetries=frozenset(),
        theta_size=structure.space.size,
    )
    return replace(group, symmetries=_symmetries(group, bool(of_outgoing(lambda r: r.linear).all())))


def _rows(record: Record, one: Tensor, members: Tensor) -> Tensor | None:
    """The rows of a record that are these units, ``(m, repeats)``; None if it does not deal with them."""
    place = torch.full((int(one.max()) + 1,), -1)
    place[members] = torch.arange(len(members))
    where = place[one[record.units]]
    mine = (where >= 0).nonzero().reshape(-1)
    if not len(mine):
        return None
    return mine[where[mine].argsort(stable=True)].reshape(len(members), -1)


def _symmetries(group: UnitGroup, linear: bool) -> frozenset[Symmetry]:
    """What the labels say may be done."""
    found: set[Symmetry] = set()
    if group.frozen:
        return frozenset()
    if group.size > 1:
        found.add("permutation")
    if bool((group.parity != 0).all()):
        found.add("sign")
    if bool(group.degree.isfinite().all()):
        found.add("scaling")
    if linear and group.size > 1:
        found.add("mixing")
    return frozenset(found)
