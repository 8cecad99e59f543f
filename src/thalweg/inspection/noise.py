"""How much of a mini-batch gradient is signal."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import NotApplicableError
from thalweg.inspection.records import Noise
from thalweg.objectives import OutputObjective

__all__ = ["measure_noise"]

SAMPLES = 256
"""Samples whose gradients are taken, at most."""
BYTES = 512 * 2**20
"""Memory that their gradients may fill."""


def measure_noise(objective: OutputObjective, theta: Float[Tensor, " P"], *, seed: int) -> Noise:
    """Estimate the batch size at which the noise of mini-batch gradients equals the signal.

    Per-sample gradients ``h_i`` are scaled so that their mean over all samples is the full gradient g. Then a
    mini-batch of B samples has noise ``tr cov(h) / B`` against the signal ``||g||^2``, and the two are equal at ``B =
    tr cov(h) / ||g||^2``.

    Args:
        objective: a sum over samples.
        theta: ``(P,)``.
        seed: of the choice of samples.

    Raises:
        NotApplicableError: for fewer than two samples, or a gradient that vanishes.

    Source: McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training" (2018), equation 2.9.
    """
    n = objective.n_samples
    if n < 2:
        raise NotApplicableError("the noise of mini-batches needs at least two samples")
    gradient = objective.gradient(theta)
    signal = float(gradient @ gradient)
    if signal == 0:
        raise NotApplicableError("the gradient vanishes: there is no signal to compare noise with")
    room = BYTES // (3 * objective.n_outputs * len(theta) * theta.element_size())
    count = int(max(2, min(n, SAMPLES, room)))
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count]
    squares = _squared_distances(objective, theta, gradient, chosen)
    spread = float(squares.mean()) * count / (count - 1)
    error = float(squares.std()) / count**0.5 * (1 - count / n) ** 0.5
    return Noise(critical_batch=spread / signal, error=error / signal, samples=count)


def _squared_distances(objective: OutputObjective, theta: Tensor, gradient: Tensor, chosen: Tensor) -> Tensor:
    """``||h_i - g||^2`` of the chosen samples."""
    scaled = objective.n_samples * objective.sample_gradients(theta, chosen)
    return ((scaled - gradient) ** 2).sum(1)
