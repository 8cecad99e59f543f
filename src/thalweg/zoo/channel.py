"""A channel to infinity: two neurons merge, their output weights diverge, and the loss still falls."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from math import sqrt
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Capability, Objective, erf_kernel
from thalweg.zoo.critical import CriticalPoint
from thalweg.zoo.infinity import Escape

__all__ = ["ChannelEnd", "ErfChannel"]

SLOPE, OFFSET = 5.0, 2.5


class ChannelEnd(NamedTuple):
    """The bottom of a channel, at infinity: there the pair computes ``c s(w x) + a x s'(w x)``.

    Attributes:
        value: the loss at infinity.
        w: the common input weight.
        c: sum of the output weights.
        a: half their difference times the difference of the input weights, in the limit.
    """

    value: float
    w: float
    c: float
    a: float


class ErfChannel(Objective):
    """``E[(a_1 s(w_1 x) + a_2 s(w_2 x) - s(5 x + 2.5) - s(5 x - 2.5))^2]``, ``x ~ N(0, 1)``, s(z) = erf(z / sqrt 2).

    The reference problem of Martinelli et al. (2025, figure 6), without a factor one half; parameters are
    ``(w_1, w_2, a_1, a_2)``. With ``w_(1,2) = w +- eps`` and ``a_(1,2) = c/2 +- a/(2 eps)`` the loss at eps -> 0 is
    that of one neuron and one gated linear unit, and ``L - L_infinity = h eps^2 + O(eps^4)`` with h > 0 in two
    channels: minima at infinity. The lower one, near w = 3.15, is the infimum.

    Duplicating the best single neuron, with output weight a, gives a line of critical points
    ``(w, w, g a, (1 - g) a)``: local minima for g inside (0, 1), saddles outside.

    >>> problem = ErfChannel()
    >>> round(problem.infimum, 11), [round(float(v), 11) for v in problem.limits()[[0, -1]]]
    (0.00077333254, [0.04237215196, 0.00077333254])
    """

    space = ParameterSpace({"w": (2,), "a": (2,)})
    capabilities = frozenset({Capability.CRITICAL_POINTS})
    escape: Escape = "channel"
    why = "the input weights merge while the output weights diverge with opposite signs"

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The population loss."""
        w, a = theta[:2], theta[2:]
        return a @ _gram(w) @ a - 2 * a @ _overlap(w) + _TARGET_POWER

    def content(self) -> Iterable[object]:
        """Slope and offset of the target."""
        return [SLOPE, OFFSET]

    # -- at infinity ---------------------------------------------------------------------------------------------------

    @property
    def infimum(self) -> float:
        """The loss at the end of the lower channel."""
        return self.channel(2).value

    def channel(self, number: Literal[1, 2]) -> ChannelEnd:
        """The end of channel 1 (near w = 0.87) or 2 (near w = 3.15), solved for to rounding.

        Raises:
            InvalidInputError: for another number.
        """
        if number not in (1, 2):
            raise InvalidInputError(f"there are channels 1 and 2, got {number!r}")
        return self._ends[number - 1]

    def in_channel(self, number: Literal[1, 2], epsilon: float) -> Float[Tensor, " P"]:
        """A state inside a channel: input weights w - epsilon and w + epsilon, the best output weights for them.

        Args:
            number: of the channel.
            epsilon: half the distance of the input weights, positive.
        """
        if not epsilon > 0:
            raise InvalidInputError(f"epsilon must be positive, got {epsilon}")
        center = self.channel(number).w
        w = torch.tensor([center - epsilon, center + epsilon], dtype=self.dtype)
        return torch.cat([w, torch.linalg.solve(_gram(w), _overlap(w))])

    def starts(self) -> Float[Tensor, "n P"]:
        """Two states in each channel, the lower channel last."""
        return torch.stack([self.in_channel(n, eps) for n in (1, 2) for eps in (0.1, 0.03)])

    def limits(self) -> Float[Tensor, " n"]:
        """Loss at the end of the channel of each start."""
        return torch.tensor([self.channel(n).value for n in (1, 1, 2, 2)], dtype=self.dtype)

    # -- critical points -----------------------------------------------------------------------------------------------

    def critical_point(self, gamma: float) -> CriticalPoint:
        """The best single neuron, duplicated with shares gamma and 1 - gamma.

        Index by theorem 3 of Fukumizu and Amari (2000): ``B = 2 a E[(f - f*) s''(w x) x^2]`` is positive here.
        """
        w, a = self._single_neuron
        theta = torch.tensor([w, w, gamma * a, (1 - gamma) * a], dtype=self.dtype)
        along = torch.tensor([0, 0, 1, -1], dtype=self.dtype).unsqueeze(1) / sqrt(2)
        value = float(self.value(theta))
        if gamma in (0, 1):
            why = "one copy has no output weight: neighbours of equal value on the line are saddles"
            return CriticalPoint(theta, value, 0, 2, "degenerate saddle", why, along)
        if 0 < gamma < 1:
            why = "a plateau: copies of one sign only lose by moving apart"
            return CriticalPoint(theta, value, 0, 1, "degenerate minimum", why, along)
        return CriticalPoint(theta, value, 1, 1, "saddle", "copies of opposite sign gain by moving apart", along)

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The line of the duplicated neuron at gamma = 1/2, 2 and 0."""
        return tuple(self.critical_point(gamma) for gamma in (0.5, 2.0, 0.0))

    @cached_property
    def _ends(self) -> tuple[ChannelEnd, ChannelEnd]:
        return _channel_end(0.7, 1.1), _channel_end(2.7, 3.7)

    @cached_property
    def _single_neuron(self) -> tuple[float, float]:
        """Input and output weight of the best single neuron."""

        def profile(w: Tensor) -> Tensor:
            return -(_overlap(w.reshape(1)).squeeze(0) ** 2) / erf_kernel(w.reshape(1), w.reshape(1))

        w = _stationary(profile, 1.2, 1.6)
        at = torch.tensor([w], dtype=torch.float64)
        return w, float(_overlap(at) / erf_kernel(at, at))


def _gram(w: Tensor) -> Tensor:
    """``E[s(w_i x) s(w_j x)]``."""
    rows = w.unsqueeze(1)
    return erf_kernel(rows.unsqueeze(1), rows.unsqueeze(0))


def _overlap(w: Tensor) -> Tensor:
    """``E[s(w_i x) f*(x)]``; the two halves of the target contribute alike."""
    slope, offset = (torch.tensor([number], dtype=w.dtype) for number in (SLOPE, OFFSET))
    return 2 * erf_kernel(w.unsqueeze(1), slope, c=offset)


def _target_power() -> float:
    """``E[f*(x)^2]`` by the trapezoidal rule, which for this smooth integrand is exact to rounding."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    target = torch.erf((SLOPE * x + OFFSET) / sqrt(2)) + torch.erf((SLOPE * x - OFFSET) / sqrt(2))
    density = torch.exp(-(x**2) / 2) / sqrt(2 * torch.pi)
    return float((target**2 * density).sum() * (x[1] - x[0]))


_TARGET_POWER = _target_power()


def _glu_system(w: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrix and overlaps of ``s(w x)`` and ``x s'(w x)``, its derivative with respect to w."""

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return erf_kernel(u.reshape(1), v.reshape(1))

    def overlap(u: Tensor) -> Tensor:
        return _overlap(u.reshape(1)).squeeze(0)

    right = torch.func.grad(kernel, argnums=1)
    mixed = torch.func.grad(right, argnums=0)(w, w)
    slope = right(w, w)
    gram = torch.stack([torch.stack([kernel(w, w), slope]), torch.stack([slope, mixed])])
    return gram, torch.stack([overlap(w), torch.func.grad(overlap)(w)])


def _glu_profile(w: Tensor) -> Tensor:
    """Loss at infinity over the common input weight, with the best c and a, without the constant."""
    gram, overlaps = _glu_system(w)
    return -overlaps @ torch.linalg.solve(gram, overlaps)


def _channel_end(low: float, high: float) -> ChannelEnd:
    w = _stationary(_glu_profile, low, high)
    at = torch.tensor(w, dtype=torch.float64)
    c, a = torch.linalg.solve(*_glu_system(at)).tolist()
    return ChannelEnd(float(_glu_profile(at)) + _TARGET_POWER, w, c, a)


def _stationary(profile: Any, low: float, high: float) -> float:
    """The zero of a derivative in a bracket."""
    slope = torch.func.grad(profile)

    def at(w: float) -> float:
        return float(slope(torch.tensor(w, dtype=torch.float64)))

    root: float = brentq(at, low, high, xtol=1e-15, rtol=1e-15)
    return root
