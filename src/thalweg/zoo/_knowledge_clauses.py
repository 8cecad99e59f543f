"""Clauses that hold what an objective says about itself against dense linear algebra and trial steps."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from thalweg.objectives import Capability, Objective
from thalweg.zoo._case import Case, Clause
from thalweg.zoo.critical import CriticalPoint, KnowsCriticalPoints, critical_points_of
from thalweg.zoo.infinity import Escape, RunsAway

__all__ = ["CLAUSES"]

STATIONARY = 1e-9
"""Gradient at a known critical point, relative to the largest gradient at a tenth of the scale of theta away."""
ZERO = 1e-10
"""Largest eigenvalue declared zero, relative to the largest curvature at the point or a thousandth of that nearby."""
GAP = 100.0
"""Factor by which the smallest eigenvalue declared non-zero must exceed the largest declared zero, or rounding."""


def check_critical_points(case: Case) -> None:
    """At each known critical point: zero gradient, value, inertia with a gap, spectrum, flat directions, minimality."""
    if Capability.CRITICAL_POINTS not in case.objective.capabilities:
        return
    known = isinstance(case.objective, KnowsCriticalPoints)
    case.expect(known, "declares CRITICAL_POINTS but has no critical_points()")
    points = critical_points_of(case.objective)
    case.expect(len(points) > 0, "declares CRITICAL_POINTS but knows none")
    for number, point in enumerate(points):
        name = f"critical point {number} ({point.kind})"
        case.expect_shape(point.theta, (case.size,), f"theta of {name}")
        _check_point(case, point, name)


def _check_point(case: Case, point: CriticalPoint, name: str) -> None:
    value, gradient, hessian = case.objective.evaluate(point.theta, 2)
    around = point.theta + 0.1 * max(1.0, float(point.theta.abs().max())) * _directions(case, 8)
    nearby = case.objective.evaluate(around, 2)
    assert gradient is not None
    assert hessian is not None
    assert nearby.gradient is not None
    assert nearby.hessian is not None
    slope, found = float(nearby.gradient.abs().max()), float(gradient.abs().max())
    case.expect(found <= STATIONARY * slope, f"{name} has a gradient of {found:.3g} (nearby {slope:.3g})")
    spread = float((nearby.value - value).abs().max())
    right = abs(float(value) - point.value) <= 1e-10 * max(abs(point.value), spread)
    case.expect(right, f"{name} has the value {float(value):.12g}, declared {point.value:.12g}")
    bends = torch.linalg.matrix_norm(torch.cat([hessian.unsqueeze(0), nearby.hessian]), 2)
    scale = max(float(bends[0]), 1e-3 * float(bends.max()))
    _check_inertia(case, point, torch.linalg.eigvalsh(hessian), scale, name)
    _check_tangent(case, point, hessian, scale, name)
    if point.is_minimum:
        _check_minimum(case, point, hessian, spread, name)


def _check_inertia(case: Case, point: CriticalPoint, spectrum: Tensor, scale: float, name: str) -> None:
    by_size = spectrum[spectrum.abs().argsort()]
    zeros, others = by_size[: point.nullity], by_size[point.nullity :]
    largest = float(zeros.abs().max()) if len(zeros) else 0.0
    declared = f"{name} is declared to have nullity {point.nullity}"
    case.expect(largest <= ZERO * scale, f"{declared}, but one of these is {largest:.3g} of {scale:.3g}")
    if len(others):
        smallest, floor = float(others.abs().min()), max(largest, case.size * case.eps * scale)
        case.expect(smallest >= GAP * floor, f"{declared}, but {smallest:.3g} of {scale:.3g} is as good as zero")
    index = int((others < 0).sum())
    case.expect(index == point.index, f"{name} has {index} negative eigenvalues, declared {point.index}")
    if point.spectrum is not None:
        what = f"eigenvalues of {name} and the declared spectrum"
        case.expect_close(spectrum, point.spectrum, what, tolerance=1e-9, scale=scale)


def _check_tangent(case: Case, point: CriticalPoint, hessian: Tensor, scale: float, name: str) -> None:
    columns = point.tangent
    if columns is None:
        return
    case.expect_shape(columns, (case.size, columns.shape[1]), f"tangent of {name}")
    gram, identity = columns.T @ columns, torch.eye(columns.shape[1]).to(columns)
    case.expect_close(gram, identity, f"tangent of {name}: Gram matrix and identity", tolerance=1e-9)
    bent = float((hessian @ columns).abs().max())
    case.expect(bent <= ZERO * scale, f"{name}: along its flat directions the Hessian is {bent:.3g} of {scale:.3g}")


def _check_minimum(case: Case, point: CriticalPoint, hessian: Tensor, spread: float, name: str) -> None:
    """No lower value nearby: in random directions, and in those where the Hessian leaves it open."""
    size = max(1.0, float(point.theta.abs().max()))
    steps = [radius * _directions(case, 64) for radius in (1e-4, 1e-3, *((0.1, 1.0, 10.0) if point.is_global else ()))]
    if point.nullity:
        spectrum, vectors = torch.linalg.eigh(hessian)
        flat = vectors[:, spectrum.abs().argsort()[: point.nullity]]
        mixed = torch.cat([flat.T, -flat.T, _directions(case, 64, point.nullity) @ flat.T])
        steps += [radius * mixed for radius in (1e-4, 1e-3, 1e-2)]
    floor = point.value - 1e-12 * max(abs(point.value), spread)
    lowest = float(case.objective.value(point.theta + size * torch.cat(steps)).min())
    case.expect(lowest >= floor, f"{name}: another point has the value {lowest:.12g}, below {point.value:.12g}")
    if point.is_global:
        lowest = float(case.dense.value.min())
        case.expect(lowest >= floor, f"{name} is declared global, but a theta has the value {lowest:.12g}")


def _directions(case: Case, count: int, size: int | None = None) -> Tensor:
    drawn = case.draw(count, case.size if size is None else size)
    return drawn / drawn.norm(dim=1, keepdim=True)


def check_infinity(case: Case) -> None:
    """Where an infimum at infinity is declared: descent from every start goes on, and values stay above it."""
    objective = case.objective
    if not isinstance(objective, RunsAway):
        return
    kinds, starts, limits = get_args(Escape), objective.starts(), objective.limits()
    case.expect(objective.escape in kinds, f"escape is {objective.escape!r}, expected one of {kinds}")
    case.expect(starts.dim() == 2 and len(starts) > 0, f"starts have shape {tuple(starts.shape)}, expected (n, P)")
    case.expect_shape(starts, (len(starts), case.size), "starts")
    case.expect_shape(limits, (len(starts),), "limits")
    bounded = bool((limits >= objective.infimum).all())
    case.expect(bounded, f"limits {limits.tolist()} go below the infimum {objective.infimum}")
    values = case.objective.value(starts)
    above = bool((values > limits).all())
    case.expect(above, f"starts have the values {values.tolist()}, not above their limits {limits.tolist()}")
    lowest = float(case.dense.value.min())
    what = f"a theta has the value {lowest:.12g}, below the infimum {objective.infimum:.12g}"
    case.expect(lowest >= objective.infimum, what)
    for number, (start, limit) in enumerate(zip(starts, limits.tolist(), strict=True)):
        began, ended = float(values[number]), _descend(case.objective, start)
        what = f"descent from start {number} goes from {began:.12g} to {ended:.12g}, not down towards {limit:.12g}"
        case.expect(limit <= ended < began, what)


def _descend(objective: Objective, theta: Tensor, iterations: int = 30) -> float:
    """Value after some steps of gradient descent with backtracking."""
    rate = 1.0
    value, gradient, _ = objective.evaluate(theta, 1)
    for _ in range(iterations):
        assert gradient is not None
        squared = float(gradient @ gradient)
        while rate > 1e-20:
            if float(objective.value(theta - rate * gradient)) <= float(value) - 1e-4 * rate * squared:
                break
            rate /= 2
        if rate <= 1e-20:
            break
        theta = theta - rate * gradient
        value, gradient, _ = objective.evaluate(theta, 1)
        rate *= 4
    return float(value)


CLAUSES: dict[str, Clause] = {
    "critical points": check_critical_points,
    "infinity": check_infinity,
}
