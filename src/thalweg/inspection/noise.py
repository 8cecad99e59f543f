"""How much of a mini-batch gradient is signal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import NotApplicableError, current_limit
from thalweg.inspection.records import Noise
from thalweg.objectives import OutputObjective

__all__ = ["measure_noise"]

SAMPLES = 256
"""Samples whose gradients are taken, at most."""
BYTES = 256 * 2**20
"""Memory that the gradients of one group of them may fill, or an eighth of `current_limit` where that is less."""


def measure_noise(
    objective: OutputObjective,
    theta: Float[Tensor, " P"],
    *,
    seed: int,
    signal: Float[Tensor, " P"] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Noise:
    """Estimate the batch size at which the noise of mini-batch gradients equals the signal.

    Per-sample gradients ``h_i`` are scaled so that their mean over all samples is the full gradient g. Then a
    mini-batch of B samples drawn from the N has noise ``tr cov(h) / B`` against the signal ``||g||^2``, and the two are
    equal at ``B = tr cov(h) / ||g||^2``. Here ``tr cov(h)`` is the mean of ``||h_i - g||^2``: g is known, so the mean
    over some of the samples estimates it without bias.

    Args:
        objective: a sum over samples.
        theta: ``(P,)``.
        seed: of the choice of samples.
        signal: ``(P,)``, the gradient that a step over all samples would follow, where other terms than this one
            (weight decay) add to it without noise; None for this objective's own.
        stop: asked now and then; True ends with the samples looked at by then.

    Raises:
        NotApplicableError: for fewer than two samples, or a gradient that vanishes.

    Source: McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training" (2018), equation 2.9.
    """
    n = objective.n_samples
    if n < 2:
        raise NotApplicableError("the noise of mini-batches needs at least two samples")
    gradient = objective.gradient(theta)
    followed = gradient if signal is None else signal
    power = float(followed @ followed)
    if power == 0:
        raise NotApplicableError("the gradient vanishes: there is no signal to compare noise with")
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    squares = _squared_distances(objective, theta, gradient, chosen, stop)
    count = len(squares)
    error = float(squares.std()) / count**0.5 * (1 - count / n) ** 0.5
    return Noise(critical_batch=float(squares.mean()) / power, error=error / power, samples=count)


def _squared_distances(
    objective: OutputObjective, theta: Tensor, gradient: Tensor, chosen: Tensor, stop: Callable[[], bool]
) -> Tensor:
    """``||h_i - g||^2`` of the chosen samples, group by group; at least two."""
    each = 3 * objective.n_outputs * theta.numel() * theta.element_size()
    at_once = max(2, min(BYTES, current_limit() // 8) // each)
    squares: list[Tensor] = []
    for group in chosen.split(at_once):
        if squares and stop():
            break
        scaled = objective.n_samples * objective.sample_gradients(theta, group)
        squares.append(((scaled - gradient) ** 2).sum(1))
    return torch.cat(squares)
