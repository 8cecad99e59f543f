"""Truths for certificates of gaps and existence, by Newton's method with residuals in 80-bit numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from long_networks import ACTIVATIONS, LONG, LongNetwork

__all__ = ["differentiable", "fall", "gradient_limit", "interpolant", "jacobian", "lowest_of_model", "size", "spread"]

Array = Any


def size(vector: Array) -> Any:
    """Euclidean norm in long numbers."""
    return np.sqrt((np.asarray(vector, dtype=LONG) ** 2).sum())


def jacobian(problem: LongNetwork, theta: Array) -> Array:
    """Of all outputs, samples outer, outputs inner, ``(N*C, P)``."""
    theta = np.asarray(theta, dtype=LONG)
    inputs, sums = problem._forward(theta)
    n, width = sums[-1].shape
    found = np.zeros((n, width, len(theta)), dtype=LONG)
    layers, slope = problem.layers(theta), ACTIVATIONS[problem.activation][2]
    signal = np.broadcast_to(np.eye(width, dtype=LONG), (n, width, width))
    for number in reversed(range(len(layers))):
        weight, bias, shape = layers[number]
        found[:, :, weight] = (signal[..., None] * inputs[number][:, None, None, :]).reshape(n, width, -1)
        if problem.bias:
            found[:, :, bias] = signal
        if number:
            signal = (signal @ theta[weight].reshape(shape)) * slope(sums[number - 1])[:, None, :]
    return found.reshape(n * width, -1)


def differentiable(problem: LongNetwork, theta: Array) -> bool:
    """Whether no unit stands on a corner, but for those whose inputs are all zero."""
    if problem.activation not in ("relu", "leaky"):
        return True
    inputs, sums = problem._forward(np.asarray(theta, dtype=LONG))
    for x, z in zip(inputs[:-1], sums[:-1], strict=True):
        still = (x == 0).all(1) & (not problem.bias)
        if not bool((z[~still] != 0).all()):
            return False
    return True


def interpolant(problem: LongNetwork, theta: Array, counted: Array) -> tuple[Array, Any, Any]:
    """Where minimum-norm Newton steps to the targets end, how far that is from theta, and the residual left."""
    start = np.asarray(theta, dtype=LONG)
    at = start.copy()
    for _ in range(12):
        gap = (problem.outputs(at) - np.asarray(problem.y, dtype=LONG))[counted].reshape(-1)
        rows = jacobian(problem, at).reshape(len(problem.x), -1, len(at))[counted].reshape(len(gap), -1)
        at = at - np.linalg.pinv(rows.astype(float), rcond=1e-13).astype(LONG) @ gap
    gap = (problem.outputs(at) - np.asarray(problem.y, dtype=LONG))[counted]
    return at, size(at - start), size(gap)


def gradient_limit(problem: LongNetwork, theta: Array) -> tuple[Array, Array]:
    """Where Newton steps to a critical point end, and the Hessian's eigenvalues there."""
    at = np.asarray(theta, dtype=LONG)
    for _ in range(7):
        bend = problem.objective.hessian(torch.tensor(at.astype(float))).numpy()
        scale = size(problem.gradient(at)) or LONG(1)
        at = at - scale * np.linalg.solve(bend, (problem.gradient(at) / scale).astype(float)).astype(LONG)
    return at, np.linalg.eigvalsh(problem.objective.hessian(torch.tensor(at.astype(float))).numpy())


def fall(problem: LongNetwork, start: Array, end: Array) -> Any:
    """``L(start) - L(end)`` by Gauss's rule for the slope along the way.

    Near a minimum the two losses agree to all digits, and their difference would be rounding; the slopes do not.
    """
    start, end = np.asarray(start, dtype=LONG), np.asarray(end, dtype=LONG)
    step, total = start - end, LONG(0)
    root = np.sqrt(LONG(3) / 5) / 2
    for place, weight in (
        (LONG(0.5) - root, LONG(5) / 18),
        (LONG(0.5), LONG(8) / 18),
        (LONG(0.5) + root, LONG(5) / 18),
    ):
        total += weight * (problem.gradient(end + place * step) @ step)
    return total


def lowest_of_model(problem: LongNetwork, theta: Array, chosen: Array, radius: float) -> Any:
    """A loss, in long numbers, that the model linear in some coordinates reaches within a radius of theta.

    Newton steps, each to the minimum of a quadratic model on the ball; what is returned is reached by one of them, so
    that it is above the least there is.
    """
    theta = np.asarray(theta, dtype=LONG)
    f, rows = problem.outputs(theta), jacobian(problem, theta)[:, chosen]
    flat, decay = rows.astype(float), problem.decay

    def value(delta: Array) -> Any:
        moved = theta.copy()
        moved[chosen] += delta
        outputs = f + (rows @ delta.astype(LONG)).reshape(f.shape)
        return problem._loss(outputs)[0].sum() + LONG(decay) / 2 * (moved**2).sum()

    delta = np.zeros(len(chosen))
    best = value(delta)
    for _ in range(8):
        outputs = f + (rows @ delta.astype(LONG)).reshape(f.shape)
        slope = flat.T @ problem._loss(outputs)[1].astype(float).reshape(-1)
        slope = slope + decay * (theta[chosen].astype(float) + delta)
        bend = flat.T @ _output_hessian(problem, outputs) @ flat + decay * np.eye(len(chosen))
        target = _on_ball(bend, bend @ delta - slope, radius * (1 - 1e-12))
        for length in (1.0, 0.5, 0.1, 0.01):
            moved = delta + length * (target - delta)
            reached = value(moved)
            if reached < best:
                delta, best = moved, reached
                break
        else:
            break
    return best


def _output_hessian(problem: LongNetwork, outputs: Array) -> Array:
    """Of the loss in the outputs, by differences of its gradient (exact enough for Newton's method)."""
    n, width = outputs.shape
    found = np.zeros((n * width, n * width))
    for c in range(width):
        step = np.zeros(width, dtype=LONG)
        step[c] = 1e-6 * (1 + np.abs(outputs).max() * 1e-3)
        change = (problem._loss(outputs + step)[1] - problem._loss(outputs - step)[1]) / (2 * step[c])
        for sample in range(n):
            found[sample * width : (sample + 1) * width, sample * width + c] = change[sample]
    return found


def _on_ball(bend: Array, right: Array, radius: float) -> Array:
    """The minimum of ``d.H d / 2 - right.d`` over ``|d| <= radius``, H positive semidefinite."""
    values, vectors = np.linalg.eigh((bend + bend.T) / 2)
    share, values = vectors.T @ right, np.maximum(values, 0)
    least = 1e-14 * max(float(values.max()), 1e-300)

    def at(shift: float) -> Array:
        return share / (values + shift + max(least, 1e-250))

    with np.errstate(over="ignore"):
        if np.linalg.norm(at(0.0)) <= radius:
            return vectors @ at(0.0)
        low, high = 0.0, float(np.linalg.norm(share)) / radius
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if np.linalg.norm(at(middle)) > radius else (low, middle)
        return vectors @ at(high)


def spread(problem: LongNetwork, theta: Array) -> Any:
    """Smallest margin of all decisions of samples that count."""
    f = problem.outputs(theta)
    counted = np.ones(len(f), dtype=bool) if problem.weights is None else np.asarray(problem.weights) > 0
    if problem.loss == "labels":
        rows = np.arange(len(f))
        own = f[rows, problem.y]
        others = f.copy()
        others[rows, problem.y] = -np.inf
        return (own - others.max(1))[counted]
    sign = np.asarray(problem.y) if problem.loss == "signs" else 2 * np.asarray(problem.y) - 1
    return (sign * f)[counted].reshape(-1)
