"""Hidden units whose exchange, change of sign or scaling leaves an objective as it is, checked term by term."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.objectives import Objective, PopulationRisk, SumObjective, explain_network, find_risk
from thalweg.structure import activation_facts

__all__ = ["UnitSymmetry", "checked_units", "probe_points"]

CHECKED_AT = 3
"""Random parameter vectors at which a symmetry must hold."""
ROUNDING = 2.0**12
"""Units in the last place by which a term's value may differ under a symmetry, relative to the largest value seen."""


@dataclass(frozen=True, eq=False)
class UnitSymmetry:
    """One layer's hidden units, where their weights lie in theta, and what may be done to them.

    Attributes:
        name: of the layer.
        incoming: ``(m, d)`` coordinates of weights into each unit, its bias among them.
        outgoing: ``(m, k)`` coordinates of weights out of each unit.
        permutation: the units may be exchanged.
        parity: ``(k,)`` sign that an outgoing weight takes on when the incoming ones change theirs; None where signs
            may not be changed.
        degree: ``(k,)`` when incoming weights are multiplied by c > 0, outgoing ones are divided by c to this power;
            None where units may not be scaled.
    """

    name: str
    incoming: Int[Tensor, "m d"]
    outgoing: Int[Tensor, "m k"]
    permutation: bool
    parity: Float[Tensor, " k"] | None
    degree: Float[Tensor, " k"] | None

    @property
    def size(self) -> int:
        """Number m of units."""
        return len(self.incoming)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of what may be done."""
        found = {"permutation": self.permutation, "sign": self.parity is not None, "scaling": self.degree is not None}
        return tuple(name for name, holds in found.items() if holds)

    def permuted(self, theta: Float[Tensor, "*batch P"], order: Int[Tensor, "*batch m"]) -> Float[Tensor, "*batch P"]:
        """Theta with unit ``order[i]`` in the place of unit i; every parameter vector has its own order."""
        result = theta.clone()
        for table in (self.incoming, self.outgoing):
            rows = theta[..., table]
            index = order.unsqueeze(-1).expand(*order.shape, table.shape[1])
            result[..., table] = rows.gather(-2, index)
        return result

    def flipped(self, theta: Float[Tensor, "*batch P"], signs: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch P"]:
        """Theta with the incoming weights of each unit multiplied by its sign, 1 or -1."""
        assert self.parity is not None
        column = signs.to(theta).unsqueeze(-1)
        outgoing = torch.where(self.parity < 0, column, 1.0)
        return self._multiplied(theta, column, outgoing)

    def scaled(self, theta: Float[Tensor, "*batch P"], factors: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch P"]:
        """Theta with the incoming weights of each unit multiplied by its positive factor."""
        assert self.degree is not None
        column = factors.to(theta).unsqueeze(-1)
        return self._multiplied(theta, column, column ** -self.degree.to(theta))

    def _multiplied(self, theta: Tensor, incoming: Tensor, outgoing: Tensor) -> Tensor:
        result = theta.clone()
        result[..., self.incoming] = theta[..., self.incoming] * incoming
        result[..., self.outgoing] = theta[..., self.outgoing] * outgoing
        return result

    def moved(
        self, kind: str, theta: Float[Tensor, "*batch P"], generator: torch.Generator
    ) -> Float[Tensor, "*batch P"]:
        """Theta moved by a random element of one of its `kinds`."""
        draws = torch.rand(*theta.shape[:-1], self.size, generator=generator, dtype=torch.float64)
        if kind == "permutation":
            return self.permuted(theta, draws.argsort(-1))
        if kind == "sign":
            return self.flipped(theta, torch.where(draws < 0.5, -1.0, 1.0))
        return self.scaled(theta, 0.5 + draws)

    def without(self, *kinds: str) -> UnitSymmetry:
        """Those that are left when some of the `kinds` do not hold."""
        return replace(
            self,
            permutation=self.permutation and "permutation" not in kinds,
            parity=None if "sign" in kinds else self.parity,
            degree=None if "scaling" in kinds else self.degree,
        )


def checked_units(objective: Objective) -> tuple[tuple[UnitSymmetry, ...], str]:
    """The layers of an objective's network with the symmetries that leave every term unchanged; a reason if none."""
    found, reason = _described(objective)
    if not found:
        return (), reason
    points = probe_points(objective)
    terms = objective.terms if isinstance(objective, SumObjective) else (objective,)
    before = [term.value(points).cpu() for term in terms]
    if not all(bool(torch.isfinite(values).all()) for values in before):
        return (), "the loss is not finite at random parameters, so that no symmetry can be checked"
    generator = torch.Generator().manual_seed(1)

    def holds(units: UnitSymmetry, kind: str) -> bool:
        moved = units.moved(kind, points, generator)
        return all(_equal(term.value(moved).cpu(), old) for term, old in zip(terms, before, strict=True))

    kept, struck = [], []
    for units in found:
        failing = [kind for kind in units.kinds if not holds(units, kind)]
        left = units.without(*failing)
        if left.kinds:
            kept.append(left)
        struck += [f"{kind} of the units of {units.name!r}" for kind in failing]
    return tuple(kept), f"these change the loss: {', '.join(struck)}" if struck else ""


def probe_points(objective: Objective) -> Float[Tensor, "n P"]:
    """Random parameter vectors, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(CHECKED_AT, objective.space.size, generator=generator, dtype=torch.float64)
    return (points / 2).to(objective.dtype)  # on the CPU, where the tables of coordinates are


def _equal(after: Tensor, before: Tensor) -> bool:
    allowed = ROUNDING * torch.finfo(before.dtype).eps * float(before.abs().max())
    return bool(((after - before).abs() <= allowed).all())


def _described(objective: Objective) -> tuple[list[UnitSymmetry], str]:
    """What the network's description says, not checked yet."""
    population = _population(objective)
    if population is not None:
        return _of_population(population)
    report = explain_network(objective)
    if report.structure is None:
        return [], report.reason
    found = []
    for group in sorted(report.structure.unit_groups, key=lambda group: min(group.layers)):
        incoming = torch.cat([group.incoming, group.bias], 1)
        if group.frozen or group.scale.shape[1] or not _apart(incoming, group.outgoing):
            continue
        signs = "sign" in group.symmetries
        scales = "scaling" in group.symmetries and bool((group.degree != 0).all())
        units = UnitSymmetry(
            name=group.name,
            incoming=incoming,
            outgoing=group.outgoing,
            permutation="permutation" in group.symmetries,
            parity=group.parity.to(torch.float64) if signs else None,
            degree=group.degree.to(torch.float64) if scales else None,
        )
        found.append(units)
    pinned = "; ".join(report.structure.pinned)
    return found, "" if found else pinned or "no hidden units of its network may be exchanged (frozen, tied or none)"


def _apart(*tables: Tensor) -> bool:
    """Whether every coordinate is listed once (a residual stream has rows and columns of one matrix)."""
    listed = torch.cat([table.reshape(-1) for table in tables])
    return len(listed.unique()) == len(listed)


def _population(objective: Objective) -> PopulationRisk | None:
    if isinstance(objective, SumObjective) and find_risk(objective) is None:
        found = [term for term in objective.terms if isinstance(term, PopulationRisk)]
        return found[0] if len(found) == 1 else None
    return objective if isinstance(objective, PopulationRisk) else None


def _of_population(objective: PopulationRisk) -> tuple[list[UnitSymmetry], str]:
    units = objective.units
    bias = [] if units.bias is None else [units.bias.unsqueeze(1)]
    incoming = torch.cat([units.incoming, *bias], 1)
    if bool((incoming < 0).any()) or bool((units.outgoing < 0).any()) or not _apart(incoming, units.outgoing):
        return [], "some weights of its network are frozen or tied"
    facts = activation_facts(objective.activation)
    ones = torch.ones(units.outgoing.shape[1], dtype=torch.float64)
    parity = {"odd": -ones, "even": ones}.get(facts.parity)
    degree = facts.homogeneity
    scales = None if not degree else degree * ones
    return [UnitSymmetry("hidden", incoming, units.outgoing, len(incoming) > 1, parity, scales)], ""
