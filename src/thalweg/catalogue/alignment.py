"""Two points brought as near to each other as the symmetries of the units allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from thalweg.catalogue.units import UnitSymmetry

__all__ = ["aligned_distance"]

SWEEPS = 4
"""How often all layers are gone through: the first time the units of the next layer are not in place yet, so that of
the weights into them only what does not depend on their order counts."""
OPEN = 1e-5
"""A unit whose weights are below this part of the largest parameter says nothing of its sign but by rounding."""


def aligned_distance(
    layers: Sequence[UnitSymmetry],
    read_by_outputs: Sequence[Bool[Tensor, " k"]],
    first: Float[Tensor, " P"],
    second: Float[Tensor, " P"],
) -> float:
    """Largest difference of a parameter between a point and the copy of another that lies nearest to it.

    Layer by layer the units of the second point are assigned to those of the first so that the sum of squared
    differences is least, each with the better of its signs. For one hidden layer that is the least over all copies
    (in the mean square). For several it is found by going through the layers in turn: copies are recognised unless
    several units of a deep network agree in all but the order of their weights into further hidden units; such copies
    may be taken for two points, never two points for one.

    Args:
        layers: where the units lie and what may be done to them; scales are taken to be balanced already.
        read_by_outputs: for each layer, which outgoing weights go to the outputs.
        first: stays as it is.
        second: is permuted, and signs of its units are changed.
    """
    best = _difference(first, second)
    for sweep in range(SWEEPS):
        before = second
        unsure = torch.zeros(len(first), dtype=torch.bool)  # weights whose sign waits for that of a unit
        for units, known in zip(layers, read_by_outputs, strict=True):
            place = _Place(units, torch.ones_like(known) if sweep else known, unsure[units.incoming].any(0))
            second, is_open = _assigned(place, first, second)
            if sweep == 0:
                unsure[units.outgoing[is_open]] = True
        best = min(best, _difference(first, second))
        if sweep and torch.equal(before, second):
            break
    return best


class _Place(NamedTuple):
    """A layer, and what of its weights can be compared.

    Outgoing columns that are ``known`` are in their places; incoming ones that are ``unsure`` may have either sign.
    """

    units: UnitSymmetry
    known: Tensor
    unsure: Tensor


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _assigned(place: _Place, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The second point with one layer's units where they fit the first best; and which signs are open ``(m,)``."""
    units = place.units
    numbers, decided = torch.arange(units.size), torch.zeros(units.size, dtype=torch.bool)
    plus = _costs(place, first, second, torch.ones(units.outgoing.shape[1], dtype=torch.float64), 1.0)
    minus = plus if units.parity is None else _costs(place, first, second, units.parity, -1.0)
    cost = torch.minimum(plus, minus)
    if not bool(torch.isfinite(cost).all()):
        return second, decided
    order = numbers
    if units.permutation:
        order = torch.as_tensor(linear_sum_assignment(cost.numpy())[1])
        second = units.permuted(second, order)
    if units.parity is None:
        return second, decided
    kept, changed = plus[numbers, order], minus[numbers, order]
    least, most = torch.minimum(kept, changed), torch.maximum(kept, changed)
    is_open = (most - least) <= (OPEN * (1 + first.abs().max())) ** 2
    return units.flipped(second, torch.where(changed < kept, -1.0, 1.0)), is_open


def _costs(place: _Place, first: Tensor, second: Tensor, parity: Tensor, sign: float) -> Float[Tensor, "m m"]:
    """Squared distance of every unit of the first point to every one of the second, whose sign is changed or not."""
    units, known, unsure = place
    a_in, b_in = first[units.incoming], sign * second[units.incoming]
    a_out, b_out = first[units.outgoing], second[units.outgoing] * parity
    pairs = [
        (a_in[:, ~unsure], b_in[:, ~unsure]),
        (a_in[:, unsure].abs(), b_in[:, unsure].abs()),
        (a_out[:, known], b_out[:, known]),
        # of weights into units that are not in place yet only the sizes count, in order of size
        (a_out[:, ~known].abs().sort(1).values, b_out[:, ~known].abs().sort(1).values),
    ]
    cost = first.new_zeros(units.size, units.size)
    for a, b in pairs:
        if a.shape[1]:
            cost += torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return cost
