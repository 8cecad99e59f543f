"""Better parameters that the user already has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Scope
from thalweg.certificates.last_layer_refit import lower_or_undecided
from thalweg.certificates.lower_point import compared
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError

__all__ = ["Transfer"]


@dataclass(frozen=True, eq=False)
class Transfer(Certifier):
    """Other parameters of the same network have a lower loss.

    Args:
        points: parameter vectors ``(P,)``, of other runs for example; None declines.
    """

    name: ClassVar[str] = "transfer"
    kind: ClassVar[ClaimKind] = ClaimKind.SUBOPTIMAL
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "evaluation"
    stage: ClassVar[int] = 20

    points: tuple[Tensor, ...] | None = None

    def work(self, case: Case) -> Work:
        """A few evaluations of each point."""
        return Work(gradients=6.0 * len(self._points(case)))

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Evaluate all."""
        points = self._points(case)
        lower = [compared(case, point) for point in points]
        best = max(range(len(lower)), key=lambda number: lower[number].bound)
        return lower_or_undecided(self, case, lower[best], [], f"parameter vector {best} of the {len(points)} given")

    def _points(self, case: Case) -> list[Tensor]:
        if not self.points:
            raise NotApplicableError("it needs other parameter vectors of this network: Transfer(points=[...])")
        for number, point in enumerate(self.points):
            if not isinstance(point, Tensor) or point.shape != case.theta.shape or not point.is_floating_point():
                found = tuple(point.shape) if isinstance(point, Tensor) else type(point).__name__
                raise InvalidInputError(f"points= holds vectors ({case.theta.numel()},), number {number} is {found}")
            if not bool(torch.isfinite(point).all()):
                raise InvalidInputError(f"points= holds NaN or infinite entries in number {number}")
        return [point.detach().to(case.theta) for point in self.points]


register_certifier(Transfer())
