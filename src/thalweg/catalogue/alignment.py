"""Two points brought as near to each other as the symmetries of the units allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from thalweg.catalogue.units import UnitSymmetry

__all__ = ["aligned_distance"]

SWEEPS = 4
"""How often all layers are gone through: the first time the units of the next layer are not in place yet, so that of
the weights into them only what does not depend on their order counts."""


def aligned_distance(
    layers: Sequence[UnitSymmetry],
    read_by_outputs: Sequence[Bool[Tensor, " k"]],
    first: Float[Tensor, " P"],
    second: Float[Tensor, " P"],
) -> float:
    """Largest difference of a parameter between a point and the copy of another that lies nearest to it.

    Layer by layer the units of the second point are assigned to those of the first so that the sum of squared
    differences is least, each with the better of its signs. For one hidden layer that is the least over all copies
    (in the mean square); for several it is found by going through the layers in turn, and exact copies are found
    unless units of a deep network agree in all their weights but those into equal units.

    Args:
        layers: where the units lie and what may be done to them; scales are taken to be balanced already.
        read_by_outputs: for each layer, which outgoing weights go to the outputs.
        first: stays as it is.
        second: is permuted, and signs of its units are changed.
    """
    best = _difference(first, second)
    for sweep in range(SWEEPS):
        before = second
        for units, known in zip(layers, read_by_outputs, strict=True):
            second = _assigned(units, torch.ones_like(known) if sweep else known, first, second)
        best = min(best, _difference(first, second))
        if torch.equal(before, second):
            break
    return best


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _assigned(units: UnitSymmetry, known: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The second point with one layer's units in the places and with the signs that fit the first best."""
    plus = _costs(units, known, first, second, torch.ones_like(known, dtype=torch.float64), 1.0)
    minus = None
    if units.parity is not None:
        minus = _costs(units, known, first, second, units.parity, -1.0)
    cost = plus if minus is None else torch.minimum(plus, minus)
    if not bool(torch.isfinite(cost).all()):
        return second
    if units.permutation:
        order = torch.as_tensor(linear_sum_assignment(cost.numpy())[1])
        second = units.permuted(second, order)
    else:
        order = torch.arange(units.size)
    if minus is None:
        return second
    place = torch.arange(units.size)
    return units.flipped(second, torch.where(minus[place, order] < plus[place, order], -1.0, 1.0))


def _costs(
    units: UnitSymmetry, known: Tensor, first: Tensor, second: Tensor, parity: Tensor, sign: float
) -> Float[Tensor, "m m"]:
    """Squared distance of every unit of the first point to every one of the second, whose sign is changed or not."""
    a_out, b_out = first[units.outgoing], second[units.outgoing] * parity
    pairs = [(first[units.incoming], sign * second[units.incoming]), (a_out[:, known], b_out[:, known])]
    # of weights into units that are not in place yet only the sizes count, in order of size
    pairs.append((a_out[:, ~known].abs().sort(1).values, b_out[:, ~known].abs().sort(1).values))
    cost = first.new_zeros(units.size, units.size)
    for a, b in pairs:
        if a.shape[1]:
            cost += torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return cost
