"""What several samples must contribute together where the network cannot tell them apart.

Samples with identical inputs get one common output, whatever the network. The least that they can contribute together
is then known in closed form for the usual losses: the spread of their targets for squared errors, the entropy of their
mean label for cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Groups", "Pooled", "pooled_entropies", "pooled_poisson", "pooled_squares"]

_UNIT = 2.0**-53


@dataclass(frozen=True)
class Groups:
    """Samples put into groups.

    Attributes:
        of: ``(N,)``, the group of each sample, numbered from 0.
        count: number of groups.
        factors: ``(N,)``, what multiplies each sample's loss.
    """

    of: Int[Tensor, " N"]
    count: int
    factors: Float[Tensor, " N"]

    def sums(self, rows: Tensor) -> Tensor:
        """Sum of the rows of each group, ``(N, ...)`` to ``(G, ...)``."""
        return rows.new_zeros(self.count, *rows.shape[1:]).index_add_(0, self.of, rows)

    @property
    def largest(self) -> int:
        """Number of samples in the largest group."""
        return int(torch.bincount(self.of, minlength=self.count).max())


class Pooled(NamedTuple):
    """Infimum of each group's joint contribution ``(G,)``, and a bound of its rounding error.

    Attributes:
        value: as computed.
        error: how far it may be from the exact one.
        least: what it cannot be below in any case.
    """

    value: Float[Tensor, " G"]
    error: Float[Tensor, " G"]
    least: float = 0.0

    @property
    def below(self) -> Float[Tensor, " G"]:
        """Lower bound of each group's exact infimum."""
        return (self.value - self.error).clamp_min(self.least)


PooledInfimum = Callable[[Any, Tensor, Tensor, Groups], Pooled]
"""``(loss, outputs, targets, groups)``; of the outputs only the shape and the type are used."""


def pooled_squares(loss: Any, outputs: Tensor, targets: Tensor, groups: Groups) -> Pooled:
    """``sum_i c_i |y_i - mean|^2``, with the mean weighted by c."""
    y = targets.to(outputs).reshape(len(outputs), -1)
    c = groups.factors.to(outputs).unsqueeze(1)
    total = groups.sums(c).clamp_min(torch.finfo(outputs.dtype).tiny)
    mean = groups.sums(c * y) / total
    spread = groups.sums((c * (y - mean[groups.of]) ** 2).sum(1))
    terms = groups.largest + y.shape[1] + 8
    # the computed mean is not the exact one: what it is off adds its square to the spread
    off = 2 * terms * _UNIT * groups.sums(c * y.abs()) / total
    error = 2 * terms * _UNIT * spread + (total * off**2).sum(1)
    return Pooled(spread, error)


def pooled_entropies(shares: Callable[[Any, Tensor, Tensor], Tensor], per_output: bool = False) -> PooledInfimum:
    """``-sum_k A_k log(A_k / A)`` of the summed weights of the classes, for losses that are cross-entropies.

    The entropy grows with each weight and is homogeneous of degree one: a relative error of all weights is one of it.

    Args:
        shares: ``(loss, outputs, targets) -> (N, *d, K)``, weight of each class's negative log probability.
        per_output: the loss is a mean over the outputs of a sample, not a sum.
    """
    return partial(_entropies, shares=shares, per_output=per_output)  # a function made here would not pickle


def _entropies(
    loss: Any,
    outputs: Tensor,
    targets: Tensor,
    groups: Groups,
    *,
    shares: Callable[[Any, Tensor, Tensor], Tensor],
    per_output: bool,
) -> Pooled:
    weights = shares(loss, outputs, targets)
    weights = weights * groups.factors.to(weights).reshape(-1, *[1] * (weights.dim() - 1))
    if per_output:
        weights = weights / outputs.shape[-1]
    summed = groups.sums(weights)
    total = summed.sum(-1, keepdim=True)
    share = summed / total.clamp_min(torch.finfo(summed.dtype).tiny)
    value = -torch.special.xlogy(summed, share).flatten(1).sum(1)
    terms = groups.largest + summed[0].numel() + 16
    error = 2 * terms * _UNIT * (value + summed.flatten(1).sum(1))
    return Pooled(value, error)


def pooled_poisson(loss: Any, outputs: Tensor, targets: Tensor, groups: Groups) -> Pooled:
    """``T - T log(T / S)`` with ``S = sum c_i`` and ``T = sum c_i y_i``; ``full`` adds Stirling's term, whatever f."""
    y = targets.to(outputs).reshape(len(outputs), -1)
    c = groups.factors.to(outputs).unsqueeze(1)
    total, counts = groups.sums(c), groups.sums(c * y)
    share = counts / total.clamp_min(torch.finfo(outputs.dtype).tiny)
    parts = torch.where(counts < 0, -torch.inf, counts - torch.special.xlogy(counts, share.clamp_min(0)))
    size = counts.abs() + torch.special.xlogy(counts, share.clamp_min(0)).abs()
    if loss.full:
        stirling = torch.special.xlogy(y, y) - y + 0.5 * torch.log(2 * math.pi * y.clamp_min(1))
        extra = groups.sums(c * torch.where(y > 1, stirling, torch.zeros_like(y)))
        parts, size = parts + extra, size + groups.sums(c * (torch.special.xlogy(y, y).abs() + y + 2))
    terms = groups.largest + y.shape[1] + 16
    return Pooled(parts.sum(1), 4 * terms * _UNIT * size.sum(1), -math.inf)
