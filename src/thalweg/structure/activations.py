"""What is known of an activation function, in one place.

Counting symmetries, bounding curvature, recognising saturation, choosing a closed form: each asks for facts about the
scalar function between two layers. They are declared here once per function (`activation_table` holds the declarations)
and the tests hold every declaration against numbers. Users add their own with `register_activation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError

__all__ = [
    "ActivationFacts",
    "Parity",
    "Scaled",
    "activation_facts",
    "register_activation",
    "registered_activations",
]

ScalarMap = Callable[[Tensor], Tensor]
Parity = Literal["odd", "even", "none", "unknown"]


@dataclass(frozen=True)
class ActivationFacts:
    """A scalar function applied to every entry, and what is known of it.

    A fact that is not known is None (parity: ``"unknown"``); who needs it then declines. Infinite means "known to be
    unbounded".

    Attributes:
        name: how it is called in tables.
        function: the function on tensors; the same arithmetic as torch's, so that values agree to rounding.
        derivatives: closed forms of the first, second, ... derivative; higher ones are taken by autograd.
        parity: ``"odd"`` if sigma(-z) = -sigma(z), ``"even"`` if sigma(-z) = sigma(z), ``"none"`` if neither.
        homogeneity: k with sigma(c z) = c^k sigma(z) for all c > 0; None where there is none.
        kinks: the points where some derivative jumps; None where they are not known.
        smoothness: number of continuous derivatives: -1 jumps, 0 has corners, infinite is smooth.
        limits: value approached at minus and at plus infinity; None where there is none (or not known).
        infimum: greatest lower bound of the values.
        supremum: least upper bound of the values.
        analytic: real analytic on the whole line.
        lipschitz: supremum of the slope's absolute value.
        curvature: supremum of the second derivative's absolute value, away from kinks.
        monotone: non-decreasing on the whole line.
        constant_on: the largest open interval on which it is constant.
        reflection_sum: c with sigma(z) + sigma(-z) = c for all z (0 for odd functions, 1 for the sigmoid).
        reflection_slope: c with sigma(z) - sigma(-z) = c z for all z (1 for ReLU, softplus, GELU and SiLU).
        recognised: False for an elementwise function met in a network that matches nothing registered.

    >>> tanh = activation_facts("tanh")
    >>> tanh.parity, tanh.homogeneity, tanh.saturates, tanh.value_at_zero
    ('odd', None, True, 0.0)
    """

    name: str
    function: ScalarMap
    derivatives: tuple[ScalarMap, ...] = ()
    parity: Parity = "unknown"
    homogeneity: float | None = None
    kinks: tuple[float, ...] | None = None
    smoothness: float | None = None
    limits: tuple[float | None, float | None] = (None, None)
    infimum: float | None = None
    supremum: float | None = None
    analytic: bool | None = None
    lipschitz: float | None = None
    curvature: float | None = None
    monotone: bool | None = None
    constant_on: tuple[float, float] | None = None
    reflection_sum: float | None = None
    reflection_slope: float | None = None
    recognised: bool = field(default=True, kw_only=True)

    def __call__(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """sigma(z), entry by entry."""
        return self.function(z)

    def __repr__(self) -> str:
        return f"ActivationFacts({self.name!r})"

    @property
    def value_at_zero(self) -> float:
        """sigma(0)."""
        return float(self.function(torch.zeros((), dtype=torch.float64)))

    @property
    def smooth(self) -> bool | None:
        """True if it has no kinks, None where that is not known."""
        return None if self.kinks is None else not self.kinks

    @property
    def bounded(self) -> bool | None:
        """True if all values lie in a finite interval, None where that is not known."""
        if self.infimum is None or self.supremum is None:
            return None
        return math.isfinite(self.infimum) and math.isfinite(self.supremum)

    @property
    def saturates(self) -> bool:
        """True if a finite level is approached on at least one side."""
        return any(level is not None and math.isfinite(level) for level in self.limits)

    @property
    def piecewise_linear(self) -> bool:
        """True if the second derivative vanishes away from the kinks."""
        return self.curvature == 0

    @property
    def linear(self) -> bool:
        """True for c z, the identity among them."""
        return self.curvature == 0 and self.kinks == () and self.homogeneity == 1

    def derivative(self, z: Float[Tensor, "..."], order: int = 1) -> Float[Tensor, "..."]:
        """The derivative of an order, entry by entry, ``(...)`` to ``(...)``; at a kink torch's convention holds.

        Raises:
            InvalidInputError: for a negative order.

        >>> activation_facts("square").derivative(torch.tensor([3.0]), 1)
        tensor([6.])
        """
        if order < 0:
            raise InvalidInputError(f"the order of a derivative cannot be negative, got {order}")
        if order == 0:
            return self.function(z)
        if order <= len(self.derivatives):
            return self.derivatives[order - 1](z)
        known = len(self.derivatives)
        return _by_autograd(self.derivatives[-1] if known else self.function, z, order - known)

    def rescaled(self, inner: float = 1.0, outer: float = 1.0) -> ActivationFacts:
        """The facts of ``outer * sigma(inner * z)``.

        Raises:
            InvalidInputError: if a factor is zero or not finite.

        >>> steep = activation_facts("sigmoid").rescaled(inner=4.0)
        >>> steep.name, steep.lipschitz
        ('sigmoid(4z)', 1.0)
        """
        for factor in (inner, outer):
            if not math.isfinite(factor) or factor == 0:
                raise InvalidInputError(f"a scale factor must be finite and not zero, got {factor!r}")
        if inner == 1 and outer == 1:
            return self
        limits = tuple(_times(outer, level) for level in (self.limits if inner > 0 else self.limits[::-1]))
        bounds = [_times(outer, self.infimum), _times(outer, self.supremum)]
        low, high = bounds if outer > 0 else bounds[::-1]
        flat = None if self.constant_on is None else tuple(sorted(end / inner for end in self.constant_on))
        functions = (self.function, *self.derivatives)
        scaled = [Scaled(f, inner, outer * inner**order) for order, f in enumerate(functions)]
        return replace(
            self,
            name=_scaled_name(self.name, inner, outer),
            function=scaled[0],
            derivatives=tuple(scaled[1:]),
            kinks=None if self.kinks is None else tuple(sorted(kink / inner for kink in self.kinks)),
            limits=(limits[0], limits[1]),
            infimum=low,
            supremum=high,
            lipschitz=_times(abs(inner * outer), self.lipschitz),
            curvature=_times(abs(outer) * inner**2, self.curvature),
            monotone=self.monotone if inner * outer > 0 else self._falling(),
            constant_on=None if flat is None else (flat[0], flat[1]),
            reflection_sum=_times(outer, self.reflection_sum),
            reflection_slope=_times(inner * outer, self.reflection_slope),
        )

    def _falling(self) -> bool | None:
        """Whether minus the function is non-decreasing: known to be False for a non-constant non-decreasing one."""
        return False if self.monotone else None


@dataclass(frozen=True)
class Scaled:
    """``outer * function(inner * z)``; a class, so that it pickles and can be told apart."""

    function: ScalarMap
    inner: float
    outer: float

    def __call__(self, z: Tensor) -> Tensor:
        """Entry by entry."""
        value = self.function(z if self.inner == 1 else self.inner * z)
        return value if self.outer == 1 else self.outer * value


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else (0.0 if value == 0 else factor * value)


def _scaled_name(name: str, inner: float, outer: float) -> str:
    argument = f"{name}({'-' if inner == -1 else '' if inner == 1 else f'{inner:.6g}'}z)" if inner != 1 else name
    return argument if outer == 1 else f"{outer:.6g} {argument}"


def _by_autograd(function: ScalarMap, z: Tensor, order: int) -> Tensor:
    """Differentiate entry by entry, ``order`` times; entries do not interact, so the sum's gradient holds them all."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        value = function(leaf)
        for _ in range(order):
            if not value.requires_grad:
                return torch.zeros_like(z)
            (value,) = torch.autograd.grad(value.sum(), leaf, create_graph=True, materialize_grads=True)
    return value.detach()


_REGISTRY: dict[str, ActivationFacts] = {}


def register_activation(facts: ActivationFacts, *, check: bool = True) -> ActivationFacts:
    """Declare an activation, so that networks which compute it are recognised.

    Args:
        facts: the declaration.
        check: hold the cheap facts (parity, homogeneity, limits, bounds) against numbers first.

    Raises:
        InvalidInputError: if the name is taken, or a declared fact is contradicted by the function.

    >>> bump = ActivationFacts("doctest bump", lambda z: z * (-z * z).exp(), parity="odd")
    >>> register_activation(bump).name
    'doctest bump'
    """
    if facts.name in _REGISTRY:
        raise InvalidInputError(f"an activation named {facts.name!r} is registered already; choose another name")
    if check:
        from thalweg.structure.activation_check import contradictions  # it reads the class above

        found = contradictions(facts)
        if found:
            raise InvalidInputError(f"the facts declared of {facts.name!r} do not hold: " + "; ".join(found))
    _REGISTRY[facts.name] = facts
    return facts


def activation_facts(name: str) -> ActivationFacts:
    """The facts registered under a name.

    Raises:
        InvalidInputError: naming what is registered.
    """
    try:
        return _REGISTRY[name]
    except KeyError:
        raise InvalidInputError(f"no activation {name!r}; registered are {', '.join(_REGISTRY)}") from None


def registered_activations() -> Iterator[ActivationFacts]:
    """All registered facts, in the order of registration."""
    return iter(tuple(_REGISTRY.values()))
