"""Networks and points for the campaign of certificates of gaps and existence.

Networks are made once, a few dozen of each kind, and points at them are drawn anew for every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from long_networks import LongNetwork

from thalweg.certificates import Case, Certificate, Certifier
from thalweg.foundation import NotApplicableError

__all__ = ["POOL", "Truth", "ask", "at_end", "draw", "end_of", "network", "told"]

Truth = tuple[Certificate, bool | None]
POOL = 32
"""Networks of each kind."""
SMOOTH = ("tanh", "sigmoid", "softplus")
ANY = (*SMOOTH, "relu", "leaky", "identity")


def _targets(rng: np.random.Generator, loss: str, outputs: np.ndarray, fitted: bool) -> np.ndarray:
    """Those that the outputs fit, or any."""
    n, width = outputs.shape
    if loss == "squares":
        return outputs if fitted else rng.normal(size=outputs.shape) * float(rng.choice([1e-6, 1.0, 1e6]))
    if loss == "labels":
        return outputs.argmax(1) if fitted else rng.integers(0, width, n)
    bits = outputs > 0 if fitted else rng.integers(0, 2, outputs.shape) == 1
    return bits * 1.0 if loss == "bits" else bits * 2.0 - 1


@cache
def network(kind: str, key: int) -> tuple[LongNetwork, np.ndarray]:
    """A network with data, and parameters that fit its targets (if any do)."""
    rng = np.random.default_rng([key, len(kind)])
    wide = kind in ("wide", "classes", "pyramid")
    n = int(rng.integers(3, 7)) if wide else int(rng.integers(3, 10))
    inputs, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    hidden = tuple(int(w) for w in rng.integers(*((6, 12) if wide else (1, 4)), size=rng.integers(1, 3)))
    activation = str(rng.choice(SMOOTH if kind in ("wide", "decayed") else ANY))
    loss = str(rng.choice(["squares", "labels", "bits", "signs"]))
    if kind in ("wide", "squares"):
        loss = "squares"
    if kind == "classes":
        loss = str(rng.choice(["labels", "bits", "signs"]))
    if kind == "linear":
        hidden = ()
    if kind == "pyramid":
        inputs, hidden, activation = (
            int(rng.integers(4, 8)),
            (int(rng.integers(3, 8)),),
            str(rng.choice(["tanh", "leaky"])),
        )
    if loss == "labels":
        outputs = max(outputs, 2)
    decay = {"decayed": [1e-3, 1e-2, 0.3], "linear": [0.0, 1e-3, 0.3], "any": [0.0, 0.0, 1e-2]}.get(
        kind, [0.0] * 9 + [0.1]
    )
    largest = 1.0 if loss == "signs" else 1e6  # torch overflows there, and the door refuses it
    scale = float(rng.choice([1e-6, 1.0, 1.0, 1.0, 1.0, largest] if kind != "decayed" else [0.1, 1.0, 3.0]))
    x = rng.normal(size=(n, inputs)) * scale
    if rng.random() < 0.15:
        x[-1] = x[0]
    weights = np.where(rng.random(n) < 0.15, 0.0, rng.random(n) + 0.05) if rng.random() < 0.2 else None
    if weights is not None and not weights.any():
        weights = None
    common = {"bias": bool(rng.random() < 0.8), "single": bool(rng.random() < 0.2), "weights": weights}
    sizes = (inputs, *hidden, outputs)
    first = LongNetwork(sizes, activation, common["bias"], "squares", x, np.zeros((n, outputs)))
    theta = rng.normal(size=first.parameters) * 0.7
    if scale > 100:
        theta[first.layers(theta)[0][0]] /= scale
    fitted = bool(rng.random() < (0.8 if kind in ("wide", "classes") else 0.4))
    y = _targets(rng, loss, first.outputs(theta).astype(float), fitted)
    if kind == "decayed" and loss == "squares":
        y = rng.normal(size=y.shape) * 3
    return LongNetwork(sizes, activation, x=x, y=y, loss=loss, decay=float(rng.choice(decay)), **common), theta


def draw(seed: int, kind: str) -> tuple[LongNetwork, np.ndarray]:
    """A network and a point: near the fit, at the fit, anywhere, of any size, or degenerate."""
    problem, fit = network(kind, seed % POOL)
    rng = np.random.default_rng(seed)
    which = int(rng.integers(8))
    if which < (2 if kind == "classes" else 4):
        return problem, fit * (1 + 10.0 ** rng.uniform(-12, 0) * rng.normal(size=len(fit)))
    if which == 4 and kind != "classes":
        return problem, fit.copy()
    theta = fit * float(rng.choice([1e-6, 0.1, 1.0, 10.0])) if which == 5 else rng.normal(size=len(fit))
    if kind == "classes" and which != 7:  # the last layer scaled up: large margins where the fit is right
        theta = fit.copy()
        weight, bias, _ = problem.layers(theta)[-1]
        theta[weight.start : bias.stop] *= 10.0 ** rng.uniform(0, 4)
    if which == 7:
        layer = problem.layers(theta)[int(rng.integers(len(problem.sizes) - 1))]
        theta[layer[0]] = 0
    return problem, theta


def ask(
    certifier: Certifier, problem: LongNetwork, theta: np.ndarray, earlier: Sequence[Certificate] = ()
) -> Certificate:
    """What it says."""
    case = Case(problem.objective, torch.tensor(theta))
    try:
        certifier.work(case)
        return certifier.prove(case, earlier)
    except NotApplicableError as error:
        return certifier.declined((), str(error))


def told(found: Certificate, true: Callable[[], Any]) -> Truth:
    """The truth, where there is a claim."""
    return found, bool(true()) if found.established else None


@cache
def end_of(kind: str, key: int, start: int) -> np.ndarray:
    """A nearly stationary point."""
    problem, fit = network(kind, key)
    at = torch.tensor(np.random.default_rng([key, start]).normal(size=len(fit)))
    damping, value = 1e-2, float(problem.objective.value(at))
    for _ in range(40):
        found = problem.objective.evaluate(at, 2)
        values, vectors = torch.linalg.eigh(found.hessian)
        step = vectors @ ((vectors.T @ found.gradient) / (values.abs() + damping * float(values.abs().max()) + 1e-300))
        lower = float(problem.objective.value(at - step))
        if lower <= value:
            at, value, damping = at - step, lower, damping / 6
        else:
            damping *= 8
        if damping > 1e8 or float(found.gradient.norm()) < 1e-14:
            break
    return at.numpy()


def at_end(seed: int, kind: str) -> tuple[LongNetwork, np.ndarray]:
    """A network and a point near where it is stationary; sometimes the origin, sometimes far off."""
    problem, _ = network(kind, seed % POOL)
    rng = np.random.default_rng(seed)
    theta = end_of(kind, seed % POOL, 0)
    if rng.random() < 0.1:
        theta = np.zeros_like(theta)
    return problem, theta + 10.0 ** rng.uniform(-13, -1) * rng.normal(size=len(theta))
