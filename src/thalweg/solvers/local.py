"""The dense local model at a batch of points, with what rounding does to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.method import finite, max_norm
from thalweg.solvers.newton import decompose

__all__ = ["LocalModel", "Rounding", "measure", "measure_rounding", "rounding_signs"]

_PATTERNS = 3
"""Perturbed copies of theta from which rounding is read off."""
NEAR = 1e-5
"""A direction is resolved when the critical point lies within this distance along it, in units of ``1 + |theta|``."""


@dataclass(frozen=True)
class Rounding:
    """What one unit in the last place of every parameter does.

    Attributes:
        changes: ``(b, k, P)``, changes of the gradient in k random patterns of such perturbations.
        value: ``(b,)``, largest change of the value.
    """

    changes: Float[Tensor, "b k P"]
    value: Float[Tensor, " b"]

    @property
    def floor(self) -> Float[Tensor, " b"]:
        """Maximum norm of the gradient that cannot be told from zero: twice the largest change."""
        return 2 * self.changes.abs().amax((-1, -2))

    def take(self, rows: Tensor) -> Rounding:
        """Some rows."""
        return Rounding(self.changes[rows], self.value[rows])


def rounding_signs(theta: Float[Tensor, "*b P"]) -> Float[Tensor, "k P"]:
    """The patterns of signs in which units in the last place are added to theta; always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (_PATTERNS, theta.shape[-1]), generator=generator).to(theta) * 2 - 1


def measure_rounding(
    objective: Objective, theta: Float[Tensor, "b P"], value: Float[Tensor, " b"], gradient: Float[Tensor, "b P"]
) -> Rounding:
    """Evaluate at a few neighbours one unit in the last place away in every coordinate.

    The changes hold both the rounding inside the evaluation and that of theta itself, which no solver can beat. They
    are the same at every call: the patterns come from a generator of their own.
    """
    signs = rounding_signs(theta)
    eps = torch.finfo(theta.dtype).eps
    found = objective.evaluate(theta[:, None] * (1 + eps * signs), 1)
    assert found.gradient is not None
    value_noise = (found.value - value[:, None]).abs().amax(-1)
    return Rounding(found.gradient - gradient[:, None], torch.maximum(2 * value_noise, 4 * eps * value.abs()))


@dataclass(frozen=True)
class LocalModel:
    """Value, gradient and spectrum at b points, and the rounding of each.

    Attributes:
        theta: ``(b, P)``.
        value: ``(b,)``.
        gradient: ``(b, P)``.
        eigenvalues: ``(b, P)``, ascending.
        vectors: ``(b, P, P)``.
        rounding: of value and gradient; measured once per search, not at every point.
        drift: ``(b,)``, how far eigenvalues may still move on the way to the critical point; zero where nothing is
            known.
        known: ``(b,)``, False where the Hessian is not finite: then the spectrum is all zeros, and means nothing.
    """

    theta: Float[Tensor, "b P"]
    value: Float[Tensor, " b"]
    gradient: Float[Tensor, "b P"]
    eigenvalues: Float[Tensor, "b P"]
    vectors: Float[Tensor, "b P P"]
    rounding: Rounding
    drift: Float[Tensor, " b"]
    known: Bool[Tensor, " b"]

    @property
    def slopes(self) -> Float[Tensor, "b P"]:
        """The gradient in the eigenbasis."""
        return (self.vectors.mT @ self.gradient[:, :, None]).squeeze(-1)

    @property
    def slope_noise(self) -> Float[Tensor, "b P"]:
        """Rounding of each slope."""
        return 2 * (self.rounding.changes @ self.vectors).abs().amax(1)

    @property
    def eigenvalue_noise(self) -> Float[Tensor, "b 1"]:
        """Noise of an eigenvalue: ``max(10, P)`` units in the last place of the largest, and the drift."""
        eps = torch.finfo(self.theta.dtype).eps
        rounding = eps * max(10, self.theta.shape[-1]) * self.eigenvalues.abs().amax(-1, keepdim=True)
        return torch.maximum(rounding, self.drift[:, None])

    @property
    def gradient_norm(self) -> Float[Tensor, " b"]:
        """Maximum norm."""
        return max_norm(self.gradient)

    def newton_step(self, *, both_signs: bool = False, near: float = NEAR) -> tuple[Tensor, Tensor, Tensor]:
        """The Newton step along directions whose curvature stands above rounding.

        Args:
            both_signs: use negative curvature too, as for saddles; else only positive curvature.
            near: distance within which a direction counts as resolved, in units of ``1 + |theta|``.

        Returns:
            The step ``(b, P)``, its Newton decrement ``(b,)``, and ``(b, P)`` True for the *soft* eigendirections:
            those whose curvature is rounding, or along which the critical point lies farther than `near`.
        """
        size = self.eigenvalues.abs() if both_signs else self.eigenvalues
        curved = size > self.eigenvalue_noise
        slopes, noise = self.slopes, self.slope_noise
        inverse = torch.where(curved, 1 / torch.where(curved, self.eigenvalues, torch.ones_like(size)), 0 * size)
        reach = torch.maximum(slopes.abs(), noise) * inverse.abs()
        soft = ~curved | (reach > near * (1 + self.theta.abs().amax(-1, keepdim=True)))
        # a slope within its own rounding, divided by a small curvature, is a long step to nowhere
        meant = torch.where((slopes.abs() > noise) | ~soft, slopes, 0 * slopes)
        step = -(self.vectors @ (meant * inverse)[:, :, None]).squeeze(-1)
        return step, (meant**2 * inverse.abs()).sum(-1) / 2, soft

    def negative(self) -> Bool[Tensor, "b P"]:
        """Which eigenvalues are negative beyond rounding."""
        return self.eigenvalues < -self.eigenvalue_noise

    def project(self, vectors: Float[Tensor, "b P"], onto: Bool[Tensor, "b P"]) -> Float[Tensor, "b P"]:
        """Orthogonal projection onto some of the eigenvectors."""
        parts = torch.where(onto, (self.vectors.mT @ vectors[:, :, None]).squeeze(-1), torch.zeros_like(vectors))
        return (self.vectors @ parts[:, :, None]).squeeze(-1)

    def take(self, rows: Tensor) -> LocalModel:
        """Some rows."""
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in _TENSORS}
        return replace(self, **parts, rounding=self.rounding.take(rows), drift=self.drift[rows])

    def put(self, rows: Tensor, other: LocalModel) -> LocalModel:
        """The same with some rows replaced; their rounding stays."""
        parts: dict[str, Any] = {}
        for name in _TENSORS:
            parts[name] = getattr(self, name).clone()
            parts[name][rows] = getattr(other, name)
        return replace(self, **parts)


_TENSORS = ("theta", "value", "gradient", "eigenvalues", "vectors", "known")


def measure(objective: Objective, theta: Float[Tensor, "b P"], rounding: Rounding | None = None) -> LocalModel:
    """Evaluate to second order, decompose, and measure the rounding where it is not given."""
    found = objective.evaluate(theta, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    values, vectors = decompose(found.hessian)
    known = torch.isfinite(found.hessian).all(-1).all(-1)
    if rounding is None:
        rounding = measure_rounding(objective, theta, found.value, found.gradient)
    return LocalModel(
        theta=theta,
        value=finite(found.value),
        gradient=found.gradient,
        eigenvalues=torch.where(known[:, None], values, torch.zeros_like(values)),
        vectors=vectors,
        rounding=rounding,
        drift=torch.zeros_like(found.value),
        known=known,
    )
