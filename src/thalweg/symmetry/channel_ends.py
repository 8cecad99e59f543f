"""What a channel was found to end in."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import NotApplicableError, Told
from thalweg.objectives import EmpiricalRisk
from thalweg.solvers import LimitPoint
from thalweg.symmetry.channel_ground import Ground
from thalweg.symmetry.channel_network import ChannelNetwork

__all__ = ["Channel", "ChannelEnd"]

_NUMBERS = 64
"""Outputs by which the ends of two channels are compared."""


class ChannelEnd(Told):
    """What lies at the end of a channel. `value` is the name people read, `sentence` says what it means."""

    MINIMUM = (
        "minimum at infinity",
        "The loss falls along the channel towards a local minimum at its end, strict but for directions in which "
        "nothing changes there for a known reason.",
    )
    DEGENERATE = (
        "level end",
        "The loss falls towards a critical point at infinity, some of whose curvatures rounding hides.",
    )
    SADDLE = (
        "saddle at infinity",
        "A critical point at infinity from which the loss falls; `way_out` is where it curves down most.",
    )
    FINITE = ("finite minimum", "Following the valley led to a critical point with finite weights: no channel.")
    UNRESOLVED = ("unresolved", "No end was found; the message says what happened.")


@dataclass(frozen=True, eq=False)
class Channel:
    """What following a way to infinity in stable coordinates found.

    Attributes:
        end: what lies at the end.
        value: the loss there; for a minimum at infinity its infimum along the channel.
        gradient_norm: maximum norm in the stable coordinates.
        layer: number of the hidden layer; None without candidates.
        groups: the units of each channel, one, two or three (for an odd activation some perhaps with all their weights
            negated, which is the same function).
        epsilon: ``(n,)``, for each channel where it was entered half the distance of its (outer) units' input weights;
            for a unit alone one over the size of these.
        h: ``(n,)``, near the end the loss is ``value + sum h epsilon^2``, for a unit alone ``h epsilon``; NaN where
            that is not at infinity.
        theta: the end in the coordinates of `objective`, for a finite minimum in those of the network.
        objective: the loss of the network in the coordinates of the channel; None without candidates.
        ground: the network that the channel is in; None without candidates.
        undecided: number of curvatures lost in rounding there.
        entered_at: the loss where the way began.
        message: one sentence with figures.
        way_out: ``(Q,)``, of a saddle the direction of its most negative curvature, in the coordinates of `objective`;
            None for other ends.
    """

    end: ChannelEnd
    value: float
    gradient_norm: float
    layer: int | None
    groups: tuple[tuple[int, ...], ...]
    epsilon: Float[Tensor, " n"]
    h: Float[Tensor, " n"]
    theta: Float[Tensor, " Q"]
    objective: EmpiricalRisk | None = field(repr=False)
    ground: Ground | None = field(repr=False)
    undecided: int
    entered_at: float
    message: str
    way_out: Float[Tensor, " Q"] | None = field(default=None, repr=False)

    def network(self) -> nn.Module:
        """The network at the end: for a minimum at infinity one with gated linear units, which has finite weights.

        It takes what enters the first layer of the network given: inputs flattened and scaled as that one does it.

        Raises:
            NotApplicableError: where no end was found.
        """
        return self._form.network_at(self.theta)

    @property
    def rise(self) -> float:
        """What the expansion at the end gives for the loss above it, where the channels were entered."""
        assert self.objective is not None
        assert isinstance(self.objective.model, ChannelNetwork)
        sizes = torch.tensor(self.objective.model.merging.sizes, device=self.h.device)
        return float((self.h * torch.where(sizes == 1, self.epsilon, self.epsilon.square())).nansum())

    def limit_point(self) -> LimitPoint:
        """The end as solutions and catalogues keep it; two of them are the same if the networks compute the same.

        Raises:
            NotApplicableError: where no end was found.
        """
        form = self._form
        assert isinstance(form.model, ChannelNetwork)
        count = form.n_samples
        some = torch.linspace(0, count - 1, min(count, max(1, _NUMBERS // form.n_outputs))).long()
        return LimitPoint(
            value=self.value,
            gradient_norm=self.gradient_norm,
            undecided=self.undecided,
            kind=self.end.value,
            theta=self.theta,
            form={**form.model.merging._asdict(), "blocks": [[block.name, list(block.shape)] for block in form.space]},
            signature=form.outputs(self.theta)[some].flatten(),
        )

    @property
    def _form(self) -> EmpiricalRisk:
        if self.objective is None or self.end in (ChannelEnd.FINITE, ChannelEnd.UNRESOLVED):
            raise NotApplicableError(f"no end at infinity was found ({self.end.value}): there is no limit network")
        return self.objective

    @staticmethod
    def none(theta: Float[Tensor, " P"], value: float) -> Channel:
        """Where no units could be those of a channel."""
        empty = theta.new_zeros(0)
        told = "No units of a layer have nearly equal input weights and output weights that cancel."
        nan, nobody = float("nan"), (empty, empty.clone())
        return Channel(ChannelEnd.UNRESOLVED, value, nan, None, (), *nobody, theta, None, None, -1, value, told)


def named(layer: int, groups: tuple[tuple[int, ...], ...]) -> str:
    """Units and layer, for a sentence."""
    ends = ((", ".join(map(str, each[:-1])), str(each[-1])) for each in groups)
    told = "; ".join(" and ".join(part for part in each if part) for each in ends)
    return f"unit{'s' if sum(map(len, groups)) > 1 else ''} {told} of hidden layer {layer}"


def figures(numbers: Tensor) -> str:
    """A few digits of each."""
    return ", ".join(f"{number:.6g}" for number in torch.atleast_1d(numbers).tolist())
