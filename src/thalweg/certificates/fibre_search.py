"""Points with the same outputs looked for at random: saddles of networks of any form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.lower_point import LowerPoint, compared, lowest_along
from thalweg.certificates.negative_curvature import DENSE
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError

__all__ = ["FibreSearch"]

RADII = (1e-1, 3e-2, 1e-2, 3e-3)
"""Lengths of the moves, relative to theta."""

DRAWS = 2
"""Random moves of each length."""

STEPS = 8
"""Gauss-Newton steps back to the outputs."""

SPREAD = 3.0
"""How much the powers of the distance with which the gain falls may differ from one length to the next."""

RANK = 1e-10
"""Singular values of the Jacobian below this part of the largest count as zero on the way back."""

RETURNED = 1e-12
"""Relative difference of the outputs from what they were, at which the way back has ended."""


class _Found(NamedTuple):
    """A point lower than this one, and how far away it is."""

    point: LowerPoint
    distance: float


@dataclass(frozen=True)
class FibreSearch(Certifier):
    """Lower points at shrinking distances, by random moves that return to the same outputs and then step down.

    A random move is followed by Gauss-Newton steps of least length back to the outputs of the point. If there the
    gradient does not vanish, the loss, which is the same, can be lowered. A lower point is shown at each of several
    shrinking distances; that it goes on so for ever smaller ones is extrapolated, not proved.
    """

    name: ClassVar[str] = "fibre search"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Kawaguchi & Kaelbling 2020, the perturbable gradient basis; random moves"
    stage: ClassVar[int] = 32

    def work(self, case: Case) -> Work:
        """A decomposition of the Jacobian for each step back."""
        risk = case.data_term()
        if case.others:
            raise NotApplicableError("it needs a loss without other terms, which a move with the same outputs changes")
        rows, size = risk.n_samples * risk.n_outputs, case.theta.numel()
        if rows >= size:
            raise NotApplicableError(
                f"it needs more parameters than outputs of all samples, here {size} and {rows}: moves that keep so "
                "many outputs are rarely found at random"
            )
        rounds = len(RADII) * DRAWS
        flops = 30.0 * rounds * STEPS * rows**2 * size
        return Work(gradients=rounds * (STEPS * risk.n_outputs + 70), flops=flops, bytes=5 * 8 * rows * size)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Look at each length for a lower point."""
        if _curves_up(case):
            return self.undecided("the Hessian is positive definite: no other point near has the same outputs")
        generator = torch.Generator().manual_seed(case.seed)
        found: list[_Found] = []
        for radius in RADII:
            best = self._at(case, radius, generator)
            if best is None:
                return self.undecided(f"no lower point was found at a relative distance of {radius:g}")
            found.append(best)
        last = found[-1]
        falling = State.CHECKED if _falls_evenly(found) else State.NOT_MET
        gains = ", ".join(f"{each.point.bound:.2g} at distance {each.distance:.2g}" for each in found)
        return self.claimed(
            f"no local minimum, as far as sampling shows: points are lower by {gains}",
            level=Level.HEURISTIC,
            rounding=last.point.rounding,
            hypotheses=[Hypothesis("the gain falls as a power of the distance", falling, note=gains)],
            evidence={"theta": last.point.theta, "decrease": last.point.bound, "distance": last.distance},
        )

    def _at(self, case: Case, radius: float, generator: torch.Generator) -> _Found | None:
        """The best lower point within about twice a distance."""
        length = radius * (float(case.theta.norm()) or 1.0)
        best: _Found | None = None
        for _ in range(DRAWS):
            if case.control.why_stop():
                return best
            move = torch.randn(case.theta.shape, generator=generator, dtype=torch.float64).to(case.theta)
            moved = _back(case, case.theta + length / float(move.norm()) * move)
            if moved is None or float((moved - case.theta).norm()) > 3 * length:
                continue
            gradient = case.objective.gradient(moved)
            size = float(gradient.norm())
            if not 0 < size < math.inf:
                continue
            end = lowest_along(case, moved, -gradient, longest=length / size)
            point = compared(case, end)
            if point.shown and (best is None or point.bound > best.point.bound):
                best = _Found(point, float((end - case.theta).norm()))
        return best


def _curves_up(case: Case) -> bool:
    """Whether the dense Hessian, where it is small enough to look at, has positive eigenvalues only."""
    if case.theta.numel() > DENSE or case.objective.path.second == "none":
        return False
    return bool(torch.linalg.eigvalsh(case.hessian)[0] > case.hessian_error)


def _back(case: Case, start: Tensor) -> Tensor | None:
    """Gauss-Newton steps of least length to the outputs at the case's point; None where they do not get there."""
    risk, aim = case.data_term(), case.outputs
    theta, size = start, 1 + float(aim.abs().max())
    for _ in range(STEPS):
        gap = (risk.outputs(theta) - aim).reshape(-1)
        if not bool(torch.isfinite(gap).all()):
            return None
        if float(gap.abs().max()) <= RETURNED * size:
            return theta
        theta = theta - torch.linalg.pinv(risk.jacobian(theta), rtol=RANK) @ gap
    return None


def _falls_evenly(found: list[_Found]) -> bool:
    """Whether the slope of log gain against log distance is about the same between all neighbours."""
    slopes = [
        math.log(far.point.bound / near.point.bound) / math.log(far.distance / near.distance)
        for far, near in pairwise(found)
        if far.distance > near.distance
    ]
    return len(slopes) == len(found) - 1 and min(slopes) > 0 and max(slopes) - min(slopes) <= SPREAD


register_certifier(FibreSearch())
