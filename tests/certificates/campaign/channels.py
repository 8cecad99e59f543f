"""Channels to infinity: the loss at the weights shown, in many digits, against that of the point."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import torch
from torch import nn

import thalweg as tw
from thalweg.certificates import Case, Certificate
from thalweg.foundation import NotApplicableError
from thalweg.symmetry import ChannelToInfinity

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "tanh": (nn.Tanh, mpmath.tanh),
    "sigmoid": (nn.Sigmoid, lambda z: 1 / (1 + mpmath.exp(-z))),
    "softplus": (lambda: nn.Softplus(threshold=1e6), lambda z: mpmath.log1p(mpmath.exp(z))),
}


def channel(seed: int) -> tuple[Certificate, bool | None]:
    """Two or three units on one or two inputs; some two of them near each other, some inside a channel, some not."""
    rng = np.random.default_rng(seed)
    name = list(ACTIVATIONS)[rng.integers(3)]
    make, f = ACTIVATIONS[name]
    d, width, n = int(rng.integers(1, 3)), int(rng.integers(2, 4)), 12
    x = rng.normal(size=(n, d))
    sharp = 1 + 3 * rng.random()
    y = np.tanh(sharp * x[:, :1] + 1.5) + np.tanh(sharp * x[:, :1] - 1.5) + 0.05 * rng.normal(size=(n, 1))
    biased = bool(rng.integers(2))
    model = nn.Sequential(nn.Linear(d, width, bias=biased), make(), nn.Linear(width, 1, bias=False)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), torch.tensor(x), torch.tensor(y))
    space = risk.space
    named = {block.name: rng.normal(size=block.shape) for block in space}
    epsilon = 10.0 ** rng.uniform(-3, -0.5)
    aside = rng.normal(size=d) * epsilon
    named["0.weight"][1] = named["0.weight"][0] - aside
    named["0.weight"][0] += aside
    if biased:
        named["0.bias"][1] = named["0.bias"][0]
    if rng.random() < 0.9:
        named["2.weight"][0, :2] = rng.normal() / epsilon * np.array([1.0, -1.0]) + rng.normal(size=2)
    theta = torch.tensor(np.concatenate([named[block.name].reshape(-1) for block in space]))
    if rng.random() < 0.5:
        theta = tw.minimize(risk, theta, max_iterations=15).theta
    certifier, case = ChannelToInfinity(), Case(risk, theta)
    try:
        certifier.work(case)
        found = certifier.prove(case, ())
    except NotApplicableError as error:
        found = certifier.declined((), str(error))
    if not found.established:
        return found, None

    def loss(point: torch.Tensor) -> mpmath.mpf:
        parts = {k: v.numpy() for k, v in space.unflatten(point).items()}
        total = mpmath.mpf(0)
        for row, target in zip(x, y[:, 0], strict=True):
            out = mpmath.mpf(0)
            for unit in range(width):
                weights = parts["0.weight"][unit]
                z = mpmath.fdot((mpmath.mpf(w), mpmath.mpf(v)) for w, v in zip(weights, row, strict=True))
                z += mpmath.mpf(parts["0.bias"][unit]) if biased else 0
                out += mpmath.mpf(parts["2.weight"][0, unit]) * f(z)
            total += (out - mpmath.mpf(target)) ** 2
        return total / n

    with mpmath.workdps(50):
        assert found.bound is not None
        lower = found.evidence["theta"]
        assert isinstance(lower, torch.Tensor)
        return found, bool(loss(theta) - loss(lower) >= mpmath.mpf(found.bound))


TRIALS = {"channel to infinity": channel}
