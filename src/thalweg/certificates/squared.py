"""Squared errors as lower bounds see them: rows of targets, their weights, and what is known of the network."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Hypothesis, State
from thalweg.certificates.rounding import UNIT
from thalweg.foundation import NotApplicableError

__all__ = [
    "SquaredRows",
    "power_of_two",
    "scaled_below",
    "scaled_exactly",
    "squared_loss",
    "squared_rows",
]

LARGEST = 1e140
"""Largest target that is squared without overflow, with room for sums."""
NEGLIGIBLE = 2.0**-900
"""Weights below it count as zero: rounding errors are no longer relative there, and a loss only gets smaller."""


class SquaredRows(NamedTuple):
    """``sum_i weights_i |f_i - targets_i|^2`` over rows of outputs.

    Attributes:
        targets: ``(M, q)``, exact.
        weights: ``(M,)``, positive, each within ``4 u`` of the exact one, relatively.
        kept: ``(M',)`` booleans: which of all rows are here; those without weight are left out.
    """

    targets: Float[Tensor, "M q"]
    weights: Float[Tensor, " M"]
    kept: Tensor


def squared_loss(case: Case) -> Hypothesis:
    """The hypothesis that the data term consists of squared errors.

    Raises:
        NotApplicableError: naming the loss that is none.
    """
    risk = case.data_term()
    facts = risk.loss_facts
    if facts.squared_factor is None or risk.factors is None or not isinstance(risk.targets, Tensor):
        raise NotApplicableError(f"it needs squared errors, the loss is {facts.name}")
    if facts.squared_factor < 0:
        raise NotApplicableError(f"it needs a positive factor before the square, it is {facts.squared_factor:g}")
    known = facts.name == "MSELoss"
    return Hypothesis(
        "the data term is a weighted sum of squared errors",
        State.PROVED if known else State.ASSUMED,
        note=facts.name if known else f"declared of {facts.name}",
    )


def squared_rows(case: Case, width: int) -> SquaredRows:
    """The targets in rows of `width` numbers, those of one sample after another.

    Raises:
        NotApplicableError: where the loss is not squared, or its targets are too large to be squared.
    """
    squared_loss(case)
    risk = case.data_term()
    assert isinstance(risk.targets, Tensor)
    assert risk.factors is not None
    assert risk.loss_facts.squared_factor is not None
    targets = risk.targets.detach().to("cpu", torch.float64).reshape(-1, width)
    per_sample = len(targets) // risk.n_samples
    weights = (risk.factors.detach().cpu() * risk.loss_facts.squared_factor).repeat_interleave(per_sample)
    kept = weights > NEGLIGIBLE
    if not bool(kept.any()):
        raise NotApplicableError("it needs samples with weights above 1e-270")
    if not float(targets.abs().max()) < LARGEST or not float(weights.max()) < LARGEST:
        raise NotApplicableError(f"it needs targets and weights below {LARGEST:g}")
    return SquaredRows(targets[kept], weights[kept], kept)


def power_of_two(tensor: Tensor) -> int:
    """The exponent e that brings the largest entry times ``2^-e`` between a half and one, within -900 and 900.

    >>> power_of_two(torch.tensor([3.0, -5.0]))
    3
    """
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    return min(900, max(-900, math.frexp(largest)[1]))


def scaled_exactly(tensor: Tensor, exponent: int) -> Tensor:
    """``tensor * 2^exponent``, without rounding.

    Raises:
        NotApplicableError: where it would round: some entries are too small beside others.
    """
    factor = 2.0**exponent
    found = tensor * factor
    if not torch.equal(found / factor, tensor):
        raise NotApplicableError("it needs numbers that range over less than 300 orders of magnitude")
    return found


def scaled_below(bound: float, exponent: int) -> float:
    """``bound * 2^exponent``, and a little less: also for the rounding of the weights, ``4 u`` each.

    >>> 7.999 < scaled_below(1.0, 3) < 8
    True
    """
    if not bound > 0:
        return 0.0
    try:
        whole = math.ldexp(bound * (1 - 16 * UNIT), exponent)
    except OverflowError:
        return math.inf
    return max(0.0, whole - 2.0**-1070)
