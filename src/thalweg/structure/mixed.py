"""A layer whose units have different activations, as one function of its pre-activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.structure.activations import ActivationFacts

__all__ = ["MixedFacts", "by_activation", "facts_of_units"]


@dataclass(frozen=True, repr=False)
class MixedFacts(ActivationFacts):
    """The activations of a layer's units; units are the last dimension of what it is called with.

    Facts hold for every unit: the widest bounds, the kinks of all. What they do not share is unknown.

    Attributes:
        of_unit: the activation of each unit.
    """

    of_unit: tuple[ActivationFacts, ...] = ()

    def derivative(self, z: Float[Tensor, "... m"], order: int = 1) -> Float[Tensor, "... m"]:
        """The derivative of an order, each unit by its own rule."""
        return by_activation(self.of_unit, z, lambda facts, part: [facts.derivative(part, order)])[0]

    def rescaled(self, inner: float = 1.0, outer: float = 1.0) -> ActivationFacts:
        """Each unit's own activation rescaled."""
        return facts_of_units([facts.rescaled(inner, outer) for facts in self.of_unit])


def facts_of_units(of_unit: Sequence[ActivationFacts]) -> ActivationFacts:
    """One description for a layer, from the activation of each of its units.

    >>> from thalweg.structure import activation_facts
    >>> found = facts_of_units([activation_facts("tanh"), activation_facts("relu"), activation_facts("relu")])
    >>> found, found(torch.tensor([0.0, -1.0, 2.0])).tolist()
    (ActivationFacts('tanh, relu x2'), [0.0, 0.0, 2.0])
    """
    if len({facts.name for facts in of_unit}) == 1:
        return of_unit[0]
    counts = [(name, len(list(run))) for name, run in groupby(facts.name for facts in of_unit)]
    parities = {facts.parity for facts in of_unit}
    kinks = [facts.kinks for facts in of_unit]
    return MixedFacts(
        name=", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts),
        function=partial(_apply, tuple(of_unit)),
        parity=parities.pop() if len(parities) == 1 else "unknown" if "unknown" in parities else "none",
        homogeneity=_shared([facts.homogeneity for facts in of_unit]),
        kinks=None if None in kinks else tuple(sorted({kink for each in kinks for kink in each or ()})),
        smoothness=_extreme(min, [facts.smoothness for facts in of_unit]),
        infimum=_extreme(min, [facts.infimum for facts in of_unit]),
        supremum=_extreme(max, [facts.supremum for facts in of_unit]),
        analytic=_all([facts.analytic for facts in of_unit]),
        lipschitz=_extreme(max, [facts.lipschitz for facts in of_unit]),
        curvature=_extreme(max, [facts.curvature for facts in of_unit]),
        monotone=_all([facts.monotone for facts in of_unit]),
        of_unit=tuple(of_unit),
        recognised=all(facts.recognised for facts in of_unit),
    )


def by_activation(
    of_unit: Sequence[ActivationFacts],
    z: Tensor,
    rule: Callable[[ActivationFacts, Tensor], list[Tensor]],
    dim: int = -1,
) -> list[Tensor]:
    """Apply a rule to the units of each activation and put the results side by side again.

    Args:
        of_unit: the activation of each.
        z: with the units along `dim`.
        rule: from an activation and the part of z that belongs to it to tensors of the same shape.
        dim: of the units.
    """
    places: dict[str, list[int]] = {}
    for number, one in enumerate(of_unit):
        places.setdefault(one.name, []).append(number)
    order = torch.tensor([number for numbers in places.values() for number in numbers], device=z.device)
    found = [
        rule(of_unit[numbers[0]], z.index_select(dim, torch.tensor(numbers, device=z.device)))
        for numbers in places.values()
    ]
    back = order.argsort()
    return [torch.cat(parts, dim).index_select(dim, back) for parts in zip(*found, strict=True)]


def _apply(of_unit: tuple[ActivationFacts, ...], z: Tensor) -> Tensor:
    return by_activation(of_unit, z, lambda facts, part: [facts(part)])[0]


def _shared(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def _extreme(which: Callable[..., float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return which(known) if len(known) == len(values) else None


def _all(values: Sequence[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True
