"""Averages over Gaussian inputs of what the units of networks with one hidden layer compute."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.objectives.gaussian_kernels import (
    arc_cosine_kernel,
    erf_kernel,
    erf_mean,
    relu_kernel,
    relu_mean,
    relu_square,
)

__all__ = ["AVERAGES", "Averages", "Units"]


class Units(NamedTuple):
    """A network of one hidden layer: ``sum_i outgoing_i s(incoming_i . x + bias_i) + shift``."""

    incoming: Float[Tensor, "m d"]
    bias: Float[Tensor, " m"] | None
    outgoing: Float[Tensor, "m C"]
    shift: Float[Tensor, " C"]

    @property
    def biases(self) -> Tensor:
        """The biases, zero where there are none."""
        return torch.zeros_like(self.incoming[..., 0]) if self.bias is None else self.bias

    def some(self, which: Any) -> Units:
        """Those of some numbers."""
        bias = None if self.bias is None else self.bias[which]
        return Units(self.incoming[which], bias, self.outgoing[which], self.shift)

    def spread(self, dim: int) -> Units:
        """With a dimension of one more, along which others are met."""
        bias = None if self.bias is None else self.bias.unsqueeze(dim)
        return Units(self.incoming.unsqueeze(dim), bias, self.outgoing, self.shift)


class Averages(ABC):
    """Averages of units s of one activation over ``x ~ N(0, I)``."""

    @abstractmethod
    def pairs(self, one: Units, other: Units) -> Tensor:
        """``E[s_i s_j]`` of the units of one network with different ones of another, broadcast."""

    @abstractmethod
    def squares(self, units: Units) -> Tensor:
        """``E[s_i^2]``, ``(m,)``."""

    @abstractmethod
    def means(self, units: Units) -> Tensor:
        """``E[s_i]``, ``(m,)``."""

    def between(self, one: Units, other: Units) -> Tensor:
        """``E[s_i s_j]`` of every unit of one network with every one of another, ``(m, k)``."""
        return self.pairs(one.spread(1), other.spread(0))

    def power(self, units: Units) -> Tensor:
        """``E |sum_i outgoing_i s_i|^2``, every pair once."""
        products = units.outgoing @ units.outgoing.T
        first, second = np.triu_indices(len(products), 1)
        mixed = (products[first, second] * self.pairs(units.some(first), units.some(second))).sum()
        return (products.diagonal() * self.squares(units)).sum() + 2 * mixed


class _ErfAverages(Averages):
    """Of ``erf(inside z / sqrt 2)``; of half of one plus that, if it is to lie between 0 and 1."""

    def __init__(self, inside: float = 1.0, *, positive: bool = False) -> None:
        self._inside, self._positive = inside, positive

    def pairs(self, one: Units, other: Units) -> Tensor:
        c = self._inside
        biases = [None if units.bias is None else c * units.bias for units in (one, other)]
        found = erf_kernel(c * one.incoming, c * other.incoming, *biases)
        return (1 + self._plain(one) + self._plain(other) + found) / 4 if self._positive else found

    def squares(self, units: Units) -> Tensor:
        return self.pairs(units, units)

    def means(self, units: Units) -> Tensor:
        return (1 + self._plain(units)) / 2 if self._positive else self._plain(units)

    def _plain(self, units: Units) -> Tensor:
        return erf_mean(self._inside * units.incoming, self._inside * units.biases)


class _ReluAverages(Averages):
    """Of ReLU units."""

    def pairs(self, one: Units, other: Units) -> Tensor:
        if one.bias is None and other.bias is None:
            return arc_cosine_kernel(one.incoming, other.incoming)
        return relu_kernel(one.incoming, other.incoming, one.biases, other.biases)

    def squares(self, units: Units) -> Tensor:
        return (units.incoming**2).sum(-1) / 2 if units.bias is None else relu_square(units.incoming, units.bias)

    def means(self, units: Units) -> Tensor:
        return relu_mean(units.incoming, units.biases)


AVERAGES: dict[str, Averages] = {
    "erf(z/sqrt2)": _ErfAverages(),
    "erf": _ErfAverages(math.sqrt(2)),
    "normal_cdf": _ErfAverages(positive=True),
    "relu": _ReluAverages(),
}
"""By the name of the activation."""
