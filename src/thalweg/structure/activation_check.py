"""Declared facts held against numbers.

The checks are necessary conditions on a fixed set of points: they find a wrong declaration, they do not prove a right
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from thalweg.foundation import first_line
from thalweg.structure.activations import ActivationFacts

__all__ = ["contradictions", "probe_points"]

TOLERANCE = 1e-8
"""Relative error above which a value counts as different (torch's softplus is a line from 20 on, 2e-9 off)."""


def probe_points(reach: float = 60.0) -> Tensor:
    """Points from ``-reach`` to ``reach`` in float64, closer together near zero, zero itself included, ``(n,)``.

    The spacing is irrational, so that no point falls on a kink other than zero by accident.
    """
    large = torch.linspace(0.0, 1.0, 400, dtype=torch.float64) ** 2 * reach * (1 - 1e-3 / math.pi)
    small = torch.logspace(-8, -1, 40, dtype=torch.float64) / math.e
    positive = torch.cat([large[1:], small]).sort().values
    return torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])


def contradictions(facts: ActivationFacts) -> list[str]:
    """One sentence for every declared fact that the function contradicts.

    >>> contradictions(ActivationFacts("wrong", torch.tanh, parity="even"))
    ['declared even, but sigma(-z) differs from sigma(z)']
    """
    points = probe_points()
    with torch.no_grad():
        try:
            values, mirrored = facts.function(points), facts.function(-points)
        except Exception as error:  # whatever a user's function may raise
            return [f"it fails on {len(points)} numbers in float64 ({type(error).__name__}: {first_line(error)})"]
    if not isinstance(values, Tensor) or values.shape != points.shape or values.dtype != points.dtype:
        return ["it does not give one number of the same type for every entry"]
    return [
        *_reflections(facts, points, values, mirrored),
        *_homogeneous(facts, points, values),
        *_bounds(facts, values),
        *_limits(facts),
        *_slopes(facts, points),
        *_flat(facts, points, values),
    ]


def _differ(a: Tensor, b: Tensor) -> bool:
    finite = a.isfinite() & b.isfinite()
    gap = (a - b)[finite].abs()
    return bool((gap > TOLERANCE * torch.maximum(a[finite].abs(), b[finite].abs()).clamp(min=1)).any())


def _reflections(facts: ActivationFacts, points: Tensor, values: Tensor, mirrored: Tensor) -> Iterator[str]:
    if facts.parity == "odd" and _differ(mirrored, -values):
        yield "declared odd, but sigma(-z) differs from -sigma(z)"
    if facts.parity == "even" and _differ(mirrored, values):
        yield "declared even, but sigma(-z) differs from sigma(z)"
    if facts.parity == "none" and not (_differ(mirrored, values) and _differ(mirrored, -values)):
        yield "declared neither odd nor even, but it is one of them"
    if facts.reflection_sum is not None and _differ(mirrored + values, torch.full_like(values, facts.reflection_sum)):
        yield f"declared sigma(z) + sigma(-z) = {facts.reflection_sum:g}, which does not hold"
    if facts.reflection_slope is not None and _differ(values - mirrored, facts.reflection_slope * points):
        yield f"declared sigma(z) - sigma(-z) = {facts.reflection_slope:g} z, which does not hold"


def _homogeneous(facts: ActivationFacts, points: Tensor, values: Tensor) -> Iterator[str]:
    if facts.homogeneity is None:
        return
    for factor in (0.37, 2.9):
        if _differ(facts.function(factor * points), factor**facts.homogeneity * values):
            yield f"declared homogeneous of degree {facts.homogeneity:g}, which does not hold"
            return


def _bounds(facts: ActivationFacts, values: Tensor) -> Iterator[str]:
    slack = TOLERANCE
    if facts.infimum is not None and bool((values < facts.infimum - slack * max(1, abs(facts.infimum))).any()):
        yield f"takes values below its declared infimum {facts.infimum:g}"
    if facts.supremum is not None and bool((values > facts.supremum + slack * max(1, abs(facts.supremum))).any()):
        yield f"takes values above its declared supremum {facts.supremum:g}"


def _limits(facts: ActivationFacts) -> Iterator[str]:
    far = torch.tensor([-1e3, -1e6, 1e3, 1e6], dtype=torch.float64)
    values = facts.function(far).tolist()
    for side, level, pair in (("minus", facts.limits[0], values[:2]), ("plus", facts.limits[1], values[2:])):
        if level is None:
            continue
        if math.isinf(level):
            holds = pair[1] * level > 0 and abs(pair[1]) >= abs(pair[0])
        else:
            holds = abs(pair[1] - level) <= 1e-4 and abs(pair[1] - level) <= abs(pair[0] - level)
        if not holds:
            yield f"declared to approach {level:g} at {side} infinity, which does not hold"


def _slopes(facts: ActivationFacts, points: Tensor) -> Iterator[str]:
    checks: list[tuple[float | None, Callable[[], Tensor], str]] = [
        (facts.lipschitz, lambda: facts.derivative(points, 1), "slope"),
        (facts.curvature, lambda: facts.derivative(points, 2), "second derivative"),
    ]
    for bound, of, what in checks:
        if bound is None or math.isinf(bound):
            continue
        if bool((of().abs() > bound * (1 + TOLERANCE) + TOLERANCE).any()):
            yield f"its {what} exceeds the declared bound {bound:g}"
    if facts.monotone and bool((facts.derivative(points, 1) < -TOLERANCE).any()):
        yield "declared non-decreasing, but its slope is negative somewhere"


def _flat(facts: ActivationFacts, points: Tensor, values: Tensor) -> Iterator[str]:
    if facts.constant_on is None:
        return
    low, high = facts.constant_on
    inside = values[(points > low) & (points < high)]
    if len(inside) and bool((inside != inside[0]).any()):
        yield f"declared constant between {low:g} and {high:g}, which does not hold"
