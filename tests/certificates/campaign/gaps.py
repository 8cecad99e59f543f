"""Random problems for certificates of gaps, existence and separated data, and what is true of them.

The truth comes from the networks written out in 80-bit numbers: the loss, the counts of errors, the limits of Newton's
method, and losses that other parameters reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gap_draws import POOL, Truth, ask, at_end, draw, end_of, network, told
from gap_truths import differentiable, fall, gradient_limit, interpolant, jacobian, lowest_of_model, size, spread
from long_networks import LONG, LongNetwork

from thalweg.certificates import (
    Certificate,
    Certifier,
    ConvexGap,
    CriticalPointNearby,
    ErrorsByGradient,
    ExactFit,
    GapToLowerBound,
    GaussNewtonDecrement,
    LabelCollisions,
    LastLayerGap,
    LossByLayerGradient,
    MinimumNearby,
    SeparatedData,
    SquaresByGradient,
    TangentGap,
)

__all__ = ["TRIALS"]


def gap(seed: int) -> Truth:
    """No parameters known are lower than the gap allows."""
    problem, theta = draw(seed, "any")
    collisions = ask(LabelCollisions(), problem, theta)
    found = ask(GapToLowerBound(), problem, theta, (collisions,))
    _, fit = network("any", seed % POOL)

    def true() -> Any:
        others = [fit, theta, 0 * theta] + ([end_of("any", seed % POOL, 0)] if seed % 4 == 0 else [])
        known = min(problem.value(other) for other in others)
        return problem.value(theta) - known <= found.bound

    return told(found, true)


def squares_by_gradient(seed: int) -> Truth:
    """The loss is no larger, and the gradient no smaller."""
    problem, theta = draw(seed, "wide")
    found = ask(SquaresByGradient(), problem, theta)

    def true() -> Any:
        value, slope = problem.value(theta), size(problem.gradient(theta))
        rate = LONG(found.evidence["rate"])
        return value <= found.bound and slope**2 >= rate * value * (1 - LONG(1e-15)) and not problem.decay

    return told(found, true)


def _by_slopes(found: Certificate, problem: LongNetwork, theta: np.ndarray) -> Truth:
    def true() -> Any:
        wrong = int((spread(problem, theta) <= 0).sum()) if problem.loss != "squares" else 0
        lower = found.bound is None or problem.value(theta) <= found.bound
        return lower and wrong <= float(found.evidence.get("training errors at most", 0)) and not problem.decay

    return told(found, true)


def errors_by_gradient(seed: int) -> Truth:
    """No more errors, and no larger loss."""
    problem, theta = draw(seed, "classes")
    return _by_slopes(ask(ErrorsByGradient(), problem, theta), problem, theta)


def layer_gradient(seed: int) -> Truth:
    """No more errors, and no larger loss."""
    problem, theta = draw(seed, "pyramid")
    return _by_slopes(ask(LossByLayerGradient(), problem, theta), problem, theta)


def _gap_of_model(certifier: Certifier, seed: int, kind: str, last: bool) -> Truth:
    problem, theta = draw(seed, kind) if seed % 3 else at_end(seed, kind)
    found = ask(certifier, problem, theta)

    def true() -> Any:
        weight, bias, _ = problem.layers(theta)[-1]
        chosen = np.arange(weight.start if last else 0, bias.stop)
        radius = float(found.evidence.get("radius", 1e12))
        return problem.value(theta) - lowest_of_model(problem, theta, chosen, radius) <= found.bound

    return told(found, true)


def tangent(seed: int) -> Truth:
    """Newton's method in the model gains no more."""
    return _gap_of_model(TangentGap(), seed, "any", False)


def last_layer(seed: int) -> Truth:
    """Newton's method over the last layer gains no more."""
    return _gap_of_model(LastLayerGap(), seed, "any", True)


def convex(seed: int) -> Truth:
    """Newton's method gains no more."""
    return _gap_of_model(ConvexGap(), seed, "linear", True)


def decrement(seed: int) -> Truth:
    """The loss does fall along the direction, and the model gains at least what is told."""
    problem, theta = draw(seed, "any") if seed % 3 else at_end(seed, "any")
    found = ask(GaussNewtonDecrement(), problem, theta)

    def true() -> Any:
        direction = np.asarray(found.evidence["direction"].numpy(), dtype=LONG)
        slope = problem.gradient(theta) @ direction
        f = problem.outputs(theta)
        pushed = (jacobian(problem, theta) @ direction).reshape(f.shape)
        step = LONG(1e-6) * (1 + np.abs(f).max()) / max(np.abs(pushed).max(), LONG(1e-300))
        ahead, behind = problem._loss(f + step * pushed)[1], problem._loss(f - step * pushed)[1]
        bend = ((ahead - behind) * pushed).sum() / (2 * step) + LONG(problem.decay) * (direction**2).sum()
        share = slope**2 / (2 * bend) if bend > 0 else LONG(np.inf)
        return differentiable(problem, theta) and slope < 0 and share * (1 + LONG(1e-6)) >= found.evidence["decrement"]

    return told(found, true)


def exact_fit(seed: int) -> Truth:
    """Newton's method ends at an exact fit within the distance."""
    problem, theta = draw(seed, "wide")
    found = ask(ExactFit(), problem, theta)

    def true() -> Any:
        counted = np.ones(len(theta[:0]) + len(problem.x), dtype=bool)
        if problem.weights is not None:
            counted = np.asarray(problem.weights) > 0
        _, away, left = interpolant(problem, theta, counted)
        fits = left <= 1e-15 * (1e-3 * size(problem.y) + size(problem.outputs(theta)))
        return fits and away <= found.bound * (1 + 1e-6) and not problem.decay

    return told(found, true)


def critical_point(seed: int) -> Truth:
    """Newton's method ends at a critical point of the index told, within the distance."""
    problem, theta = at_end(seed, "decayed")
    found = ask(CriticalPointNearby(), problem, theta)

    def true() -> Any:
        limit, values = gradient_limit(problem, theta)
        index = float(found.evidence.get("index", (values < 0).sum()))
        still = size(problem.gradient(limit)) <= 1e-16 * (1 + size(limit))
        return still and size(limit - theta) <= found.bound * (1 + 1e-9) and index == (values < 0).sum()

    return told(found, true)


def minimum(seed: int) -> Truth:
    """Newton's method ends at a minimum within the radius, no lower than told."""
    problem, theta = at_end(seed, "decayed")
    found = ask(MinimumNearby(), problem, theta)

    def true() -> Any:
        limit, values = gradient_limit(problem, theta)
        near = size(limit - theta) <= float(found.evidence["radius"]) * (1 + 1e-9)
        return near and values[0] > 0 and fall(problem, theta, limit) <= found.bound

    return told(found, true)


def separated(seed: int) -> Truth:
    """All margins are positive, and scaling the last layer brings the loss to nothing."""
    problem, theta = draw(seed, "classes")
    found = ask(SeparatedData(), problem, theta)

    def true() -> Any:
        margins = spread(problem, theta)
        weight, bias, _ = problem.layers(theta)[-1]
        far = np.asarray(theta, dtype=LONG).copy()
        far[weight.start : bias.stop] *= 200 / margins.min()
        return margins.min() > 0 and problem.value(far) < 1e-40 and not problem.decay

    return told(found, true)


TRIALS: dict[str, Callable[[int], Truth]] = {
    "gap": gap,
    "squared loss by its gradient": squares_by_gradient,
    "training errors by the gradient": errors_by_gradient,
    "loss by a layer's gradient": layer_gradient,
    "gap of the linearised model": tangent,
    "gap of the last layer": last_layer,
    "gap of a convex problem": convex,
    "Gauss-Newton decrement": decrement,
    "exact fit nearby": exact_fit,
    "critical point nearby": critical_point,
    "minimum nearby": minimum,
    "separated data": separated,
}
