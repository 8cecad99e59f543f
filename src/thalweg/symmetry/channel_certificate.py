"""The claim that a point lies on a way to infinity along which the loss falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.certificates import (
    Case,
    Certificate,
    Certifier,
    ClaimKind,
    Hypothesis,
    Scope,
    State,
    Work,
    register_certifier,
)
from thalweg.certificates.lower_point import compared
from thalweg.foundation import NotApplicableError
from thalweg.objectives import Objective
from thalweg.symmetry.channel_ends import Channel, ChannelEnd, named
from thalweg.symmetry.channel_ground import ground_of
from thalweg.symmetry.channel_path import weights_within
from thalweg.symmetry.channel_picks import STRONG
from thalweg.symmetry.channels import likely_channels, resolve_channel

__all__ = ["ChannelToInfinity"]

_LARGEST = 300
"""Parameters up to which a channel is looked for."""
_STEPS = 400
_FURTHER = (0.5, 0.1, 0.02, 1e-3)
"""What openings are multiplied by, to have a point with a lower loss."""


@dataclass(frozen=True)
class ChannelToInfinity(Certifier):
    """The loss can be lowered by following a channel, whose end lies at infinity.

    The search for the end goes on in coordinates in which it is an ordinary point; what is claimed is the loss at
    weights on the way there, evaluated anew in the network itself. The evidence holds the loss at infinity ``limit``,
    the ``rise`` above it that the expansion at the end gives for where the channel was entered, and the ``excess``
    that there is: where they agree, the point lies at the bottom of the channel, and no minimum is near.
    """

    name: ClassVar[str] = "channel to infinity"
    kind: ClassVar[ClaimKind] = ClaimKind.SUBOPTIMAL
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Martinelli et al. (2025), arXiv 2506.14951"
    stage: ClassVar[int] = 30

    def work(self, case: Case) -> Work:
        """Newton steps in the coordinates of the channel."""
        ground = ground_of(case.objective)
        size = case.objective.space.size
        if size > _LARGEST:
            raise NotApplicableError(f"channels are looked for up to {_LARGEST} parameters, there are {size}")
        if all(one.unlike > STRONG for one in likely_channels(case.objective, case.theta)):
            raise NotApplicableError(
                "no units have nearly equal input weights and output weights that cancel, none is as good as its "
                "asymptotes"
            )
        hessian = 5 if len(ground.network.hidden) == 1 else size
        return Work(gradients=_STEPS * hessian, flops=_STEPS * 10.0 * size**3, bytes=8 * 20 * size**2)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Follow it."""
        found = resolve_channel(case.objective, case.theta)
        if found.end not in (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE):
            return self.undecided(f"{found.end.value}: {found.message.rstrip('.')}")
        assert found.layer is not None
        assert found.ground is not None
        lower = compared(case, self._lowest(case.objective, found))
        where = Hypothesis(
            "the end is a critical point at infinity without negative curvature", State.CHECKED, note=found.end.value
        )
        what = f"further along the channel of {named(found.layer, found.groups)}"
        if not lower.shown:
            return self.undecided(f"{what} the loss falls by nothing beyond rounding ({lower.rounding:.2g})", [where])
        evidence: dict[str, Tensor | float | str] = {
            "theta": lower.theta,
            "limit": found.value,
            "excess": float(found.ground.risk.value(case.theta)) - found.value,
            "rise": found.rise,
            "h": found.h,
            "epsilon": found.epsilon,
            "units": named(found.layer, found.groups),
            "end": found.end.value,
        }
        return self.claimed(
            f"the loss, {case.value.value:.8g}, can be lowered by at least {lower.bound:.8g}: {what}, at whose end, at "
            f"infinity, it is {found.value:.10g}",
            level=lower.level,
            bound=lower.bound,
            rounding=lower.rounding,
            hypotheses=[where],
            evidence=evidence,
        )

    @staticmethod
    def _lowest(objective: Objective, found: Channel) -> Tensor:
        """Of some points on the way."""
        points = torch.stack([weights_within(found, factor) for factor in _FURTHER])
        values = objective.value(points)
        return points[int(torch.where(torch.isfinite(values), values, torch.inf).argmin())]


register_certifier(ChannelToInfinity())
