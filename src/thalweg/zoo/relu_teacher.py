"""A ReLU network that learns from another one on Gaussian inputs: the population loss in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Capability, Objective, arc_cosine_kernel
from thalweg.zoo._samples import as_matrix
from thalweg.zoo.critical import CriticalPoint, orthonormal

__all__ = ["ReluTeacherStudent"]

PARALLEL = 1e-6
"""Sine of the angle below which two teacher neurons are refused as parallel."""


class ReluTeacherStudent(Objective):
    """``1/2 * E[(sum_i relu(w_i . x) - sum_j relu(v_j . x))^2]``, ``x ~ N(0, I_d)``, over the rows of W.

    ``L = 1/2 sum_ij f(w_i, w_j) - sum_ij f(w_i, v_j) + 1/2 sum_ij f(v_i, v_j)`` with the arc-cosine kernel f (Safran
    and Shamir 2018; Arjevani and Field 2021). It is twice continuously differentiable where no ``w_i`` vanishes. The
    value is a difference of sums of ``n^2`` terms, exact to about ``1e-16 * L(0)``.

    For an orthonormal teacher of k >= 6 neurons there are spurious minima besides the global ones, which
    `critical_points` does not list.

    Args:
        teacher: V, ``(k, d)``; no row zero, no two rows parallel or antiparallel, else the minimum would be degenerate.
        width: n, neurons of the student; k where None.

    Raises:
        InvalidInputError: for such a teacher.

    >>> network = ReluTeacherStudent(torch.eye(2))
    >>> point = network.critical_points()[0]
    >>> point.index, point.nullity, abs(point.value) < 1e-15
    (0, 0, True)
    """

    def __init__(self, teacher: Float[Tensor, "k d"], width: int | None = None) -> None:
        self.teacher = as_matrix(teacher, "the teacher", self.dtype)
        neurons, inputs = self.teacher.shape
        self.width = neurons if width is None else width
        if self.width < 1:
            raise InvalidInputError(f"the student needs at least one neuron, got width {width}")
        _refuse_parallel(self.teacher)
        self.space = ParameterSpace({"weight": (self.width, inputs)})
        known = self.width >= neurons
        self.capabilities = frozenset({Capability.CRITICAL_POINTS} if known else ())
        self._constant = float(_pairs(self.teacher, self.teacher).sum() / 2)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The population loss."""
        student = theta.reshape(self.width, -1)
        return _pairs(student, student).sum() / 2 - _pairs(student, self.teacher).sum() + self._constant

    def content(self) -> Iterable[object]:
        """The teacher."""
        return [self.teacher]

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """Global minima: the teacher's neurons, in order and reversed; spare neurons share the last one in equal parts.

        With as many neurons as the teacher the Hessian ``E[g g^T]``, g the gradient of the student's output, is
        positive definite: no combination of ``1[v_i . x > 0] x`` vanishes, since each jumps on a hyperplane of its own.
        Copies of one neuron have equal g, so every spare neuron adds d zero eigenvalues; along one of these
        directions, where weight passes from copy to copy, the loss stays zero.
        """
        spare = self.width - len(self.teacher)
        points = []
        for order in (self.teacher, self.teacher.flip(0)):
            shares = order[-1:].expand(spare + 1, -1) / (spare + 1)
            theta = torch.cat([order[:-1], shares]).reshape(-1)
            points.append(self._minimum(theta, order[-1], spare))
        return tuple(points)

    def _minimum(self, theta: Tensor, shared: Tensor, spare: int) -> CriticalPoint:
        shifts = torch.zeros(self.width, self.teacher.shape[1], spare, dtype=self.dtype)
        for i in range(spare):
            shifts[self.width - 1 - spare + i, :, i] = shared
            shifts[-1, :, i] = -shared
        return CriticalPoint(
            theta,
            float(self.value(theta)),
            0,
            spare * self.teacher.shape[1],
            "degenerate minimum" if spare else "strict minimum",
            "the student computes what the teacher does",
            tangent=orthonormal(shifts.reshape(self.space.size, spare)),
            is_global=True,
        )


def _pairs(rows: Tensor, columns: Tensor) -> Tensor:
    return arc_cosine_kernel(rows.unsqueeze(1), columns.unsqueeze(0))


def _refuse_parallel(teacher: Tensor) -> None:
    lengths = teacher.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InvalidInputError("a teacher neuron has zero weights; leave it out")
    units = teacher / lengths
    cosines = units @ units.T
    sines = (units.unsqueeze(0) - cosines.unsqueeze(2) * units.unsqueeze(1)).norm(dim=2) + torch.eye(len(teacher))
    if float(sines.min()) < PARALLEL:
        i, j = divmod(int(sines.argmin()), len(teacher))
        raise InvalidInputError(f"teacher neurons {i} and {j} are parallel; merge them, or the minimum is degenerate")
