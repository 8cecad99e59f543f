"""When two parameter vectors are one and the same point: equal up to the symmetries of the network.

Two means are combined. A *canonical form* is the same for every member of an orbit, up to rounding: units are scaled to
balance, their signs fixed and the units sorted, layer by layer. It is cheap for thousands of points at once, but where
two units nearly agree, or a sign hangs on a number near zero, rounding may tip it either way. The last word has an
*alignment* of two points by optimal assignment (`alignment`), which has no such edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.catalogue.alignment import aligned_distance
from thalweg.catalogue.units import UnitSymmetry, checked_units
from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective

__all__ = ["Symmetries", "default_tolerance", "symmetries_of"]

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference of a parameter between two copies of one point, relative to one plus the largest parameter."""
SWEEPS = 3
"""How often scales are balanced. The result is canonical after any number, since it starts from a normal form."""
FLOOR = 1e-8
"""Outgoing weights of a unit count as no smaller than this part of the largest of its layer when scales are balanced:
so the form stays continuous where a unit fades out."""


@dataclass(frozen=True, eq=False)
class Symmetries:
    """What may be done to the parameters of an objective without changing any of its terms; made by `symmetries_of`.

    Attributes:
        units: the layers whose units have symmetries, in order.
        size: number P of parameters.
        dtype: of the objective, which decides the default tolerance.
        reason: why there is nothing, or not everything that the network alone would allow; empty otherwise.

    >>> from torch import nn
    >>> from thalweg.objectives import EmpiricalRisk
    >>> x = torch.linspace(-1, 1, 8, dtype=torch.float64).unsqueeze(1)
    >>> risk = EmpiricalRisk(nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)), nn.MSELoss(), x, x.sin())
    >>> found = symmetries_of(risk)
    >>> found
    <Symmetries of 7 parameters: '0' (2 units: permutation, sign)>
    >>> theta = torch.tensor([1.0, 2.0, 0.3, -0.4, 5.0, 6.0, 0.1])
    >>> other = torch.tensor([2.0, -1.0, -0.4, -0.3, 6.0, -5.0, 0.1])  # units exchanged, and one sign changed
    >>> found.same(theta, other), torch.equal(found.canonical(theta), found.canonical(other))
    (True, True)
    """

    units: tuple[UnitSymmetry, ...]
    size: int
    dtype: torch.dtype
    reason: str = ""

    def canonical(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P"]:
        """One member of each orbit: scales balanced, signs fixed, units sorted, layer by layer, in float64.

        Units are sorted by a generic combination of their weights rather than entry by entry: entries that agree, such
        as zeros, are common, and rounding would decide.

        Raises:
            InvalidInputError: for another number of parameters.
        """
        result = self.balanced(theta)
        for number, units in enumerate(self.units):
            into = _generic(units.incoming.shape[1], 2 * number)
            out = _generic(units.outgoing.shape[1], 2 * number + 1)
            known = self._read_by_outputs[number]
            if units.parity is not None:
                odd = known & (units.parity < 0)
                key = result[..., units.incoming] @ into + result[..., units.outgoing] @ torch.where(odd, out, 0.0)
                result = units.flipped(result, torch.where(key < 0, -1.0, 1.0))
            if units.permutation:
                outgoing = result[..., units.outgoing]
                key = result[..., units.incoming] @ into + outgoing @ torch.where(known, out, 0.0)
                key = key + torch.where(known, 0.0, outgoing).norm(dim=-1)  # whatever becomes of the next layer
                result = units.permuted(result, key.argsort(dim=-1, stable=True))
        return result

    def balanced(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P"]:
        """Theta with every unit that may be scaled brought to a scale that does not depend on where it started.

        First incoming weights get length one, from the first layer to the last, which leaves no freedom; from there
        weights into and out of each unit are brought to the same length, which keeps numbers of one size.

        Raises:
            InvalidInputError: for another number of parameters.
        """
        if theta.shape[-1:] != (self.size,):
            raise InvalidInputError(f"theta has shape {tuple(theta.shape)}, expected (*batch, {self.size})")
        result = theta.detach().to("cpu", torch.float64)
        scaling = [units for units in self.units if units.degree is not None]
        for units in scaling:
            length = result[..., units.incoming].norm(dim=-1)
            result = units.scaled(result, torch.where(length > 0, 1 / length, 1.0))
        for _ in range(SWEEPS if scaling else 0):
            for units in scaling:
                result = units.scaled(result, _balance(units, result))
        return result

    def invariant(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
        """One number that all copies of a point share and other points hardly do: what points are searched by.

        It is a sum of lengths that neither the order nor the signs of units change: of all balanced parameters, and for
        each layer of generic combinations of those weights whose columns keep their places.
        """
        balanced = self.balanced(theta)
        total = balanced.norm(dim=-1) + balanced[..., self._rest] @ _unit(len(self._rest), -1)
        for number, units in enumerate(self.units):
            pairs = ((units.incoming, self._read_from_inputs), (units.outgoing, self._read_by_outputs))
            for side, (table, known) in enumerate(pairs):
                columns = table[:, known[number]]
                total = total + (balanced[..., columns] @ _unit(columns.shape[1], 2 * number + side)).norm(dim=-1)
        return total

    def invariant_error(self, difference: float) -> float:
        """How far the `invariant` may change if no parameter changes by more than this."""
        return difference * self.size**0.5 * (2 + 2 * len(self.units))

    def distance(self, first: Float[Tensor, " P"], second: Float[Tensor, " P"]) -> float:
        """Largest difference of a parameter after the second point was brought as near to the first as is found.

        Zero up to rounding for two copies of one point; for different points an upper bound of the least distance.

        Raises:
            InvalidInputError: for another number of parameters, or several parameter vectors at once.
        """
        for theta in (first, second):
            if theta.shape != (self.size,):
                raise InvalidInputError(f"two parameter vectors ({self.size},) are compared, got {tuple(theta.shape)}")
        return aligned_distance(self.units, self._read_by_outputs, self.canonical(first), self.canonical(second))

    def same(self, first: Float[Tensor, " P"], second: Float[Tensor, " P"], tolerance: float | None = None) -> bool:
        """Whether two parameter vectors are copies of one point.

        Args:
            first: one of them.
            second: the other.
            tolerance: largest difference of a parameter, relative to one plus the largest (balanced) parameter; None
                for 1e-6, or 1e-3 for objectives in float32.

        Raises:
            InvalidInputError: as `distance`; or for a tolerance that is not positive.
        """
        tolerance = default_tolerance(self.dtype) if tolerance is None else tolerance
        if not tolerance > 0:
            raise InvalidInputError(f"a tolerance must be positive, got {tolerance!r}")
        return self.distance(first, second) <= tolerance * (1 + float(self.balanced(first).abs().max()))

    def same_forms(self, first: Float[Tensor, " P"], second: Float[Tensor, " P"], allowed: float) -> bool:
        """Like `same`, for canonical forms and an absolute difference; quick where the forms agree already."""
        if float((first - second).abs().max()) <= allowed:
            return True
        return aligned_distance(self.units, self._read_by_outputs, first, second) <= allowed

    def moved(self, theta: Float[Tensor, "*batch P"], seed: int) -> Float[Tensor, "*batch P"]:
        """Theta moved by a random element of the group (scales between 1/2 and 3/2): another copy of the same point."""
        generator = torch.Generator().manual_seed(seed)
        for units in self.units:
            for kind in units.kinds:
                theta = units.moved(kind, theta, generator)
        return theta

    def __repr__(self) -> str:
        what = ", ".join(f"{units.name!r} ({units.size} units: {', '.join(units.kinds)})" for units in self.units)
        return f"<Symmetries of {self.size} parameters: {what or f'only the identity ({self.reason})'}>"

    @cached_property
    def _read_by_outputs(self) -> tuple[Tensor, ...]:
        """For each layer which outgoing weights ``(k,)`` go to no other units of these: their columns keep places."""
        return tuple(
            self._elsewhere(units.outgoing, [other.incoming for other in self.units if other is not units])
            for units in self.units
        )

    @cached_property
    def _read_from_inputs(self) -> tuple[Tensor, ...]:
        """For each layer which incoming weights ``(d,)`` come from no other units of these."""
        return tuple(
            self._elsewhere(units.incoming, [other.outgoing for other in self.units if other is not units])
            for units in self.units
        )

    @cached_property
    def _rest(self) -> Tensor:
        """Coordinates that no symmetry moves."""
        tables = [table for units in self.units for table in (units.incoming, units.outgoing)]
        return torch.arange(self.size)[self._elsewhere(torch.arange(self.size).unsqueeze(0), tables)]

    @staticmethod
    def _elsewhere(table: Tensor, others: list[Tensor]) -> Tensor:
        """Which columns of a table hold no coordinate of the others."""
        listed = torch.cat([torch.zeros(0, dtype=torch.long), *(other.reshape(-1) for other in others)])
        return ~torch.isin(table, listed).any(0)


def symmetries_of(objective: Objective) -> Symmetries:
    """The permutations, sign changes and scalings of hidden units that leave every term of an objective unchanged.

    What the network's description allows is tried at random parameters, term by term: so a weight decay strikes off the
    scaling of ReLU units and keeps their permutation. Where the network has no description, and for weights that are
    tied or frozen, only the identity is left; `Symmetries.reason` says why. Linear units may be mixed by any
    invertible matrix: of that only permutations, signs and scales are used.

    Args:
        objective: an empirical or population risk, or a sum that holds one.
    """
    units, reason = checked_units(objective)
    return Symmetries(units, objective.space.size, objective.dtype, reason)


def default_tolerance(dtype: torch.dtype) -> float:
    """The tolerance for points of an objective in this dtype."""
    return TOLERANCES.get(dtype, 1e-3)


def _balance(units: UnitSymmetry, theta: Tensor) -> Tensor:
    """Factors ``(*batch, m)`` after which weights into and out of each unit have one length."""
    assert units.degree is not None
    incoming, outgoing = theta[..., units.incoming].norm(dim=-1), theta[..., units.outgoing].norm(dim=-1)
    degree = float(units.degree[0]) if units.size else 1.0
    if degree <= 0 or bool((units.degree != degree).any()):
        return torch.ones_like(incoming)
    outgoing = torch.maximum(outgoing, FLOOR * outgoing.amax(dim=-1, keepdim=True))
    positive = (incoming > 0) & (outgoing > 0)
    ratio = torch.where(positive, outgoing, 1.0) / torch.where(positive, incoming, 1.0)
    return ratio ** (1 / (1 + degree))


def _generic(count: int, seed: int) -> Tensor:
    """Fixed numbers ``(count,)`` that no data know of."""
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _unit(count: int, seed: int) -> Tensor:
    """A fixed generic direction ``(count,)`` of length one."""
    direction = _generic(count, 1000 + seed)
    return direction / direction.norm() if count else direction
