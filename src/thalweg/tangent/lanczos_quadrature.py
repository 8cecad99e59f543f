"""Stochastic Lanczos quadrature: the density of a spectrum, with error bars.

Ubaru, Chen & Saad, "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature", SIAM J. Matrix Anal. Appl. 38
(2017). For a random unit vector v the measure ``sum_i (v . u_i)^2 delta(lambda_i)`` has the spectral density ``1/P
sum_i delta(lambda_i)`` as its mean; k steps of Lanczos from v give its k-node Gauss quadrature, exact for polynomials
up to degree 2k - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import (
    InvalidInputError,
    LinearOperator,
    RunControl,
    current_limit,
    progress_bar,
    require_memory,
)
from thalweg.tangent._krylov import KrylovSpace

__all__ = ["Density", "Estimate", "spectral_density"]


@dataclass(frozen=True)
class Estimate:
    """A mean over probes and its standard error, elementwise; the error is NaN where there is one probe only."""

    value: Float[Tensor, "..."]
    standard_error: Float[Tensor, "..."]


@dataclass(frozen=True)
class Density:
    """A spectral measure of total mass 1, one quadrature rule per probe.

    The error bars are standard errors over the probes: they hold the randomness of the probes, which is all there is
    for moments up to degree ``2 steps - 1``; features narrower than the nodes' spacing are smeared besides.

    Attributes:
        nodes: ``(probes, steps)``; a rule that ended early repeats its last node with weight 0.
        weights: ``(probes, steps)``, each row sums to 1.
        size: P, so that ``P * mass`` counts eigenvalues.
        products: columns multiplied.
        reason: ``"done"``, ``"time limit"`` or ``"interrupted"``; then there are fewer probes than asked for.
    """

    nodes: Float[Tensor, "probes steps"]
    weights: Float[Tensor, "probes steps"]
    size: int
    products: int
    reason: Literal["done", "time limit", "interrupted"]

    def mean_of(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """``1/P tr f(A)`` for an elementwise function f."""
        return _over_probes((self.weights * function(self.nodes)).sum(1))

    def below(self, level: float) -> Estimate:
        """Share of the eigenvalues that are less than `level`."""
        return _over_probes((self.weights * (self.nodes < level)).sum(1))

    def histogram(self, edges: Float[Tensor, " edges"]) -> Estimate:
        """Share of the eigenvalues in each bin ``[edge, next edge)``, ``(edges - 1,)``; the last edge is included."""
        edges = edges.double()
        inside = (self.nodes.unsqueeze(-1) >= edges[:-1]) & (self.nodes.unsqueeze(-1) < edges[1:])
        inside[..., -1] |= self.nodes == edges[-1]
        return _over_probes((self.weights.unsqueeze(-1) * inside).sum(1))

    def smoothed(self, grid: Float[Tensor, " points"], width: float | None = None) -> Estimate:
        """The density at the points of a grid, each node widened to a Gaussian.

        Args:
            grid: where.
            width: standard deviation of the Gaussian; None takes the range of the nodes over the number of steps.

        Raises:
            InvalidInputError: for a width that is not positive.
        """
        if not len(self.nodes):  # stopped before the first probe: NaN, like the other figures
            return _over_probes(self.nodes.new_zeros(0, len(grid)))
        spread = float(self.nodes.max() - self.nodes.min()) or max(1e-300, float(self.nodes.abs().max())) * 1e-3
        sigma = spread / self.nodes.shape[1] if width is None else width
        if not sigma > 0:
            raise InvalidInputError(f"the width of a smoothed density must be positive, got {width}")
        away = (grid.double() - self.nodes.unsqueeze(-1)) / sigma
        heights = torch.exp(-(away**2) / 2) / (sigma * math.sqrt(2 * math.pi))
        return _over_probes((self.weights.unsqueeze(-1) * heights).sum(1))


def spectral_density(
    operator: LinearOperator,
    probes: int = 8,
    steps: int = 48,
    *,
    seed: int | torch.Generator = 0,
    control: RunControl | None = None,
) -> Density:
    """Estimate the spectral density of a symmetric operator.

    Args:
        operator: symmetric, P x P.
        probes: random vectors, at least 2 for error bars.
        steps: Lanczos steps from each; P where that is less. One probe's basis of ``steps`` vectors is held at a time.
        seed: of the probes.
        control: time budget and stop event; Ctrl-C works too. Finished probes are returned.

    Raises:
        InvalidInputError: for an operator that is not symmetric, or counts below 1.
        MemoryLimitError: if the basis would not fit.

    >>> ladder = torch.linspace(0, 1, 400, dtype=torch.float64).unsqueeze(1)
    >>> operator = LinearOperator((400, 400), lambda v: ladder * v, symmetric=True)
    >>> density = spectral_density(operator, probes=10, steps=20)
    >>> share = density.below(0.25)
    >>> abs(float(share.value) - 0.25) < 4 * float(share.standard_error) + 0.02
    True
    """
    size = operator.shape[0]
    if not operator.symmetric or operator.shape[1] != size:
        raise InvalidInputError(f"a spectral density needs a symmetric operator, got {operator!r}")
    if probes < 1 or steps < 1:
        raise InvalidInputError(f"need at least one probe and one step, got {probes} and {steps}")
    steps = min(steps, size)
    item = torch.empty((), dtype=operator.dtype).element_size()
    fitting = max(1, current_limit() // (size * item) - 4)
    require_memory((steps + 4) * size * item, f"{steps} Lanczos vectors of {size}", f"Use steps={fitting}.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    control = control or RunControl()
    rules: list[tuple[Tensor, Tensor]] = []
    used, reason = 0, "done"
    with progress_bar("spectral density", probes * steps) as bar:
        try:
            while len(rules) < probes and reason == "done":
                space = KrylovSpace(operator, steps, 1, generator)
                while space.m < steps and reason == "done":
                    reason = control.why_stop() or "done"
                    if reason == "done":
                        space.absorb(space.multiply())
                        used += 1
                        bar.update(used)
                if space.m == steps:
                    rules.append(_rule(space))
        except KeyboardInterrupt:
            reason = "interrupted"
    nodes = torch.stack([nodes for nodes, _ in rules]) if rules else torch.zeros(0, steps, dtype=torch.float64)
    weights = torch.stack([weights for _, weights in rules]) if rules else torch.zeros_like(nodes)
    return Density(nodes, weights, size, used, "done" if reason == "done" else _stop(reason))


def _rule(space: KrylovSpace) -> tuple[Tensor, Tensor]:
    """Ritz values, and the squared first coordinates of their vectors: the first basis vector is the probe."""
    values, coordinates, _ = space.ritz()
    return values, coordinates[0] ** 2


def _stop(reason: str) -> Literal["time limit", "interrupted"]:
    return "time limit" if reason == "time limit" else "interrupted"


def _over_probes(samples: Tensor) -> Estimate:
    count = len(samples)
    if count == 0:
        nothing = torch.full(samples.shape[1:], math.nan, dtype=torch.float64)
        return Estimate(nothing, nothing)
    error = samples.std(0, unbiased=True) / count**0.5 if count > 1 else torch.full_like(samples[0], math.nan)
    return Estimate(samples.mean(0), error)
