"""Stiff steps of gradient flow: Rosenbrock methods with the exact Hessian, for a batch of points at once.

Gradient flow ``theta' = -grad L`` is stiff wherever the loss has narrow valleys: explicit methods then crawl. A
Rosenbrock method solves s linear systems with the one matrix ``1/(gamma h) + H`` instead of iterating on a nonlinear
one, so that every point of a batch does the same work in every step. With H decomposed into eigenvalues and vectors, a
step that is rejected and tried again with a smaller h costs gradients and no new matrix.

Both methods are L-stable and stiffly accurate: as h grows, a step becomes the Newton step.

Sources: RODAS4 from Hairer and Wanner, Solving Ordinary Differential Equations II (1996), section IV.10; RODAS3 from
Sandu et al., Atmospheric Environment 31 (1997) 3459.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "RODAS3",
    "RODAS4",
    "Spectrum",
    "Step",
    "Tableau",
    "next_length",
    "root_mean_square",
    "rosenbrock_step",
    "steepest",
]

_SAFETY, _LEAST, _MOST = 0.9, 0.1, 6.0
"""Of the proposed step length, and how much it may change from one step to the next."""


@dataclass(frozen=True)
class Tableau:
    """The coefficients of a method, in the form that needs no product with the matrix.

    Attributes:
        order: of the solution; the error estimate belongs to a method of one order less.
        gamma: of the linear systems.
        inner: row i holds the factors of the earlier stages in the point where stage i takes its gradient; None takes
            the same point as the stage before.
        linear: row i holds their factors in the right-hand side, over h.
        dense: two rows of factors for values inside the step; empty where it has none of sufficient order.
    """

    order: int
    gamma: float
    inner: tuple[tuple[float, ...] | None, ...]
    linear: tuple[tuple[float, ...], ...]
    dense: tuple[tuple[float, ...], ...] = ()

    @property
    def gradients(self) -> int:
        """How many a step takes beside the one at its beginning."""
        return sum(row is not None for row in self.inner[1:])


RODAS3 = Tableau(
    order=3,
    gamma=0.5,
    inner=((), None, (2.0, 0.0), (2.0, 0.0, 1.0)),
    linear=((), (4.0,), (1.0, -1.0), (1.0, -1.0, -8.0 / 3.0)),
)
"""Four stages and two more gradients: the cheaper one, for following a valley to its end."""

RODAS4 = Tableau(
    order=4,
    gamma=0.25,
    inner=(
        (),
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950),
        (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950, 1.0),
    ),
    linear=(
        (),
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
        (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
    ),
    dense=(
        (10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662),
        (-0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872),
    ),
)
"""Six stages and five more gradients, with values inside the step: the exacter one, for trajectories."""


@dataclass(frozen=True)
class Spectrum:
    """Hessians of b points by their eigenvalues ``(b, P)``, ascending, and eigenvectors ``(b, P, P)``."""

    values: Float[Tensor, "b P"]
    vectors: Float[Tensor, "b P P"]

    def take(self, rows: Tensor) -> Spectrum:
        """Some rows."""
        return Spectrum(self.values[rows], self.vectors[rows])

    def longest(self) -> Float[Tensor, " b"]:
        """Steps beyond this would meet the pole that a falling direction gives the linear systems; mostly infinite.

        Along such a direction the flow grows exponentially, and within a step at most by ``e^2``.
        """
        falling = (-self.values[:, 0]).clamp(min=0)
        return 2 / falling


@dataclass(frozen=True)
class Step:
    """A step of length h.

    Attributes:
        start: ``(b, P)``.
        theta: ``(b, P)``, its end.
        error: ``(b, P)``, estimate of its error.
        inside: two arrays ``(b, P)`` for values inside the step, or none.
    """

    start: Float[Tensor, "b P"]
    theta: Float[Tensor, "b P"]
    error: Float[Tensor, "b P"]
    inside: tuple[Tensor, ...]

    def at(self, fraction: Float[Tensor, " b"]) -> Float[Tensor, "b P"]:
        """The flow inside the step, of third order, at fractions of its length."""
        near, far = self.inside
        s = fraction.unsqueeze(1)
        # as a change, so that what does not move stays exactly
        return self.start + s * ((self.theta - self.start) + (1 - s) * (near + s * far))

    def misfit(self, relative: float, absolute: Float[Tensor, "b 1"]) -> Float[Tensor, " b"]:
        """Root mean square of the error in units of the tolerance; infinite where the step is not finite."""
        size = torch.maximum(self.start.abs(), self.theta.abs())
        found = (self.error / (absolute + relative * size)).square().mean(1).sqrt()
        return torch.where(torch.isfinite(found), found, torch.full_like(found, torch.inf))


def rosenbrock_step(
    tableau: Tableau,
    gradient_at: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "b P"],
    gradient: Float[Tensor, "b P"],
    spectrum: Spectrum,
    length: Float[Tensor, " b"],
) -> Step:
    """One step of gradient flow for every row.

    Args:
        tableau: the method.
        gradient_at: the gradient of the loss at ``(b, P)``.
        theta: where the step begins.
        gradient: there.
        spectrum: there.
        length: of time.
    """
    inverse = 1 / (1 / (tableau.gamma * length)[:, None] + spectrum.values)
    forward, back = spectrum.vectors, spectrum.vectors.mT
    stages: list[Tensor] = []
    pull, point = -gradient, theta
    for inner, linear in zip(tableau.inner, tableau.linear, strict=True):
        if stages and inner is not None:
            point = _combined(theta, inner, stages)
            pull = -gradient_at(point)
        side = _combined(pull * length[:, None], linear, stages) / length[:, None]
        stages.append((forward @ (inverse * (back @ side.unsqueeze(2)).squeeze(2)).unsqueeze(2)).squeeze(2))
    inside = tuple(_combined(torch.zeros_like(theta), row, stages) for row in tableau.dense)
    return Step(theta, point + stages[-1], stages[-1], inside)


def next_length(length: Tensor, misfit: Tensor, order: int) -> Tensor:
    """The length that the error estimate proposes for the next step, or for another try."""
    factor = _SAFETY * misfit.clamp(min=1e-12) ** (-1 / order)
    return length * factor.clamp(_LEAST, _MOST)


def root_mean_square(theta: Float[Tensor, "b P"]) -> Float[Tensor, " b"]:
    """Typical size of a parameter."""
    return theta.square().mean(1).sqrt()


def steepest(theta: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
    """A first length: a hundredth of the parameters' size along the gradient."""
    tiny = torch.finfo(theta.dtype).tiny
    return 0.01 * size / root_mean_square(gradient).clamp(min=tiny)


def _combined(start: Tensor, factors: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    total = start
    for factor, stage in zip(factors, stages, strict=False):
        if factor:
            total = torch.add(total, stage, alpha=factor)
    return total
