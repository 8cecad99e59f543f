"""Along a channel: the states at its bottom, how the loss and the curvature change on the way, how far one gets.

With h from ``L = L_infinity + h epsilon^2``, the pull ``a = |v| |A|`` (A the shares of the next layer's units, the
largest one) and H_vv the block of v in the Hessian at the end:

- the largest curvature is ``kappa / epsilon^2`` with ``kappa = |v|^2 lambda_max(H_vv) / 2``: moving the two input
  weights apart by delta moves v by ``delta / (s sqrt 2)``;
- gradient flow nears the end like ``q^4 = q_0^4 + 4 h a^2 t`` for ``q = |a_i - a_j| / sqrt 2``, that is ``epsilon =
  a / (q sqrt 2)``: no flow of finite time gets there;
- gradient descent with a step of size eta stops where the largest curvature is ``2 / eta``, at ``epsilon = sqrt(kappa
  eta / 2)``.

Source: Martinelli et al. (2025), arXiv 2506.14951, sections on sharpness and the edge of stability; the laws in this
form are derived here, and hold for any loss, any layer and several outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import EmpiricalRisk, Objective, restrict
from thalweg.solvers import minimize
from thalweg.symmetry.channel_coordinates import from_channel, half_distances, rows_of, scales
from thalweg.symmetry.channel_ends import Channel, ChannelEnd
from thalweg.symmetry.channel_entry import enter
from thalweg.symmetry.channel_network import ChannelNetwork, Merging

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ChannelPath", "ChannelRates", "channel_path", "channel_rates", "jump", "weights_within"]

_ITERATIONS = 100


class ChannelRates(NamedTuple):
    """What to expect inside a channel of two units, near its end.

    Attributes:
        value: the loss at infinity.
        h: the loss is ``value + h epsilon^2``.
        pull: a, the distance of the output weights times epsilon.
        kappa: the largest curvature is ``kappa / epsilon^2``.

    >>> rates = ChannelRates(value=0.04, h=0.007, pull=1.5, kappa=0.36)
    >>> round(rates.reach(lr=0.1), 4), round(rates.sharpness(0.1), 1)
    (0.1342, 36.0)
    """

    value: float
    h: float
    pull: float
    kappa: float

    def loss(self, epsilon: float) -> float:
        """The loss at the bottom."""
        return self.value + self.h * epsilon**2

    def sharpness(self, epsilon: float) -> float:
        """The largest eigenvalue of the Hessian at the bottom."""
        return self.kappa / epsilon**2

    def epsilon_at(self, time: float, start: float) -> float:
        """Where gradient flow is after a time, having started at the bottom with an epsilon."""
        begun = self.pull / (start * 2**0.5)
        return float(self.pull / 2**0.5 / (begun**4 + 4 * self.h * self.pull**2 * time) ** 0.25)

    def time_to(self, epsilon: float, start: float) -> float:
        """How long gradient flow takes from one epsilon to a smaller one."""
        begun, ends = (self.pull / (each * 2**0.5) for each in (start, epsilon))
        return float((ends**4 - begun**4) / (4 * self.h * self.pull**2))

    def reach(self, lr: float) -> float:
        """The epsilon at which gradient descent with this step size stops: the edge of stability."""
        return float((self.kappa * lr / 2) ** 0.5)


def channel_rates(channel: Channel) -> list[ChannelRates]:
    """The rates of each channel of two units that closes at a minimum at infinity, in the order of ``channel.groups``.

    Raises:
        NotApplicableError: where the end is no minimum at infinity, or there is no channel of two units.
    """
    form, merging = _end(channel)
    if not merging.pairs:
        raise NotApplicableError("rates are known for channels of two units")
    space, theta = form.space, channel.theta
    hessian = form.hessian(theta)
    named = space.unflatten(theta)
    order = torch.arange(space.size, dtype=torch.float64, device=theta.device).unsqueeze(0)
    places = rows_of(merging, space.unflatten(order)).v[0].long()
    pulls = named["share"].square().sum(1).add(1).sqrt() if "share" in space else theta.new_ones(len(merging.sizes))
    found = []
    for number, place in enumerate(places, merging.alone):
        h = float(channel.h[number])
        if math.isnan(h):
            continue
        v = float(theta[place].norm())
        top = float(torch.linalg.eigvalsh(hessian[place][:, place])[-1])
        found.append(ChannelRates(channel.value, h, v * float(pulls[number]), v**2 * top / 2))
    return found


@dataclass(frozen=True, eq=False)
class ChannelPath:
    """States at the bottom of a channel, from the outside in.

    Attributes:
        limit: the loss at infinity.
        opening: ``(k, n)``, s of each channel.
        epsilon: ``(k, n)``, of each channel.
        value: ``(k,)``, the loss.
        theta: ``(k, P)``, weights of the network itself.
        sharpness: ``(k,)``, the largest eigenvalue of its Hessian.
        softest: ``(k,)``, the smallest; below some 1e-16 of the largest it is rounding.
        distance: ``(k,)``, root of the mean square distance of the outputs from those at the end.
        closes: ``(n,)``, which channels do; the others stay as they are at the end.
    """

    limit: float
    opening: Float[Tensor, "k n"]
    epsilon: Float[Tensor, "k n"]
    value: Float[Tensor, " k"]
    theta: Float[Tensor, "k P"]
    sharpness: Float[Tensor, " k"]
    softest: Float[Tensor, " k"]
    distance: Float[Tensor, " k"]
    closes: Bool[Tensor, " n"]

    def slopes(self) -> dict[str, float]:
        """Powers of ``1 / epsilon``, of the first channel that closes, with which loss, outputs and curvature change.

        They are fitted to all states. Theory: -2, -2 and 2.
        """
        first = int(self.closes.nonzero()[0])
        x = -np.log(self.epsilon[:, first].cpu().numpy())
        columns = {
            "loss above its limit": self.value - self.limit,
            "distance of the outputs": self.distance,
            "sharpness": self.sharpness,
        }
        return {name: float(np.polyfit(x, np.log(y.cpu().numpy()), 1)[0]) for name, y in columns.items()}

    def frame(self) -> pd.DataFrame:
        """One row a state."""
        import pandas as pd

        columns: dict[str, Any] = {f"epsilon_{k}": each for k, each in enumerate(self.epsilon.T.cpu().numpy())}
        for name in ("value", "sharpness", "softest", "distance"):
            columns[name] = getattr(self, name).cpu().numpy()
        return pd.DataFrame(columns)


def channel_path(channel: Channel, epsilons: Sequence[float]) -> ChannelPath:
    """The states at the bottom of a channel: minima over everything but the openings, which are given.

    They are found in coordinates in which nothing grows, so that they are exact however near the end; their weights
    are those of the network itself, whose loss loses digits like machine precision times a over epsilon.

    Args:
        channel: from `resolve_channel`, a minimum at infinity.
        epsilons: of each channel that closes, as it would be with the v of the end; of channels that do not close the
            openings stay as they are at the end.

    Raises:
        NotApplicableError: where the end is no minimum at infinity, or a unit alone has become hard there.
        InvalidInputError: for epsilons that are not positive.
    """
    form, merging = _end(channel)
    if merging.alone:
        raise NotApplicableError("a path needs finite weights: a unit alone is at its end all along")
    wanted = torch.as_tensor(list(epsilons), dtype=channel.theta.dtype).sort(descending=True).values
    if not len(wanted) or not bool((wanted > 0).all()):
        raise InvalidInputError(f"epsilons are positive numbers, got {list(epsilons)}")
    space, place = form.space, form.space.slice("opening")
    unit = scales(merging, channel.theta.unsqueeze(0), space)[0]
    states, closed = [channel.theta], channel.theta[place] == 0
    for epsilon in wanted.flip(0):  # from the end outwards, each from the one before
        origin = states[-1].clone()
        origin[place] = torch.where(closed, epsilon / unit, origin[place])
        held = restrict(form, [name for name in space.names if name != "opening"], origin)
        found = minimize(held, held.embed(origin), max_iterations=_ITERATIONS, progress=False)
        if not bool(found.converged):
            raise NotApplicableError(f"at epsilon = {float(epsilon):.3g} the channel has no bottom: {found.message}")
        states.append(held.project(found.theta))
    inner = torch.stack(states[:0:-1])
    raw = _raw(channel, inner)
    spectra = torch.linalg.eigvalsh(_risk(channel).hessian(raw))
    outputs = form.outputs(channel.theta)
    apart = torch.stack([(form.outputs(state) - outputs).square().mean().sqrt() for state in inner])
    return ChannelPath(
        limit=channel.value,
        opening=inner[:, place],
        epsilon=half_distances(merging, inner, space),
        value=form.value(inner),
        theta=raw,
        sharpness=spectra[:, -1],
        softest=spectra[:, 0],
        distance=apart,
        closes=closed,
    )


def jump(
    objective: Objective,
    theta: Float[Tensor, " P"] | Any,
    groups: Sequence[Sequence[int]],
    *,
    layer: int = 0,
    factor: float = 0.5,
) -> Float[Tensor, " P"]:
    """Further into a channel at once: its opening times a factor, all else in its coordinates as it was.

    From there any optimiser goes on to the bottom; repeated, this is the jump procedure of the paper. In double
    precision weights lose their use near ``1 / epsilon = 1e4``; `resolve_channel` goes to the end instead.

    Args:
        objective: an empirical risk of a multilayer perceptron.
        theta: ``(P,)``, weights inside the channel.
        groups: the units of each channel, as for `resolve_channel`.
        layer: number of the hidden layer.
        factor: between 0 and 1 to go in, above 1 to go out.

    Raises:
        InvalidInputError: for a factor that is not positive, or units that are not there.
        NotApplicableError: where channels cannot be.

    >>> import torch
    >>> import thalweg as tw
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Tanh(), nn.Linear(2, 1, bias=False))
    >>> x = torch.linspace(-3, 3, 61, dtype=torch.float64).unsqueeze(1)
    >>> risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, x)
    >>> tw.symmetry.jump(risk, torch.tensor([2.2, 1.8, 5.0, -3.0], dtype=torch.float64), [(0, 1)])
    tensor([ 2.1000,  1.9000,  9.0000, -7.0000], dtype=torch.float64)
    """
    if not factor > 0:
        raise InvalidInputError(f"an opening is multiplied by a positive factor, got {factor}")
    entry = enter(objective, theta, layer, groups)
    inner, space = entry.inner.clone(), entry.form.space
    for name in ("softness", "opening"):
        if name in space:
            inner[:, space.slice(name)] *= factor
    return entry.weights(inner)


def weights_within(channel: Channel, factor: float) -> Float[Tensor, " P"]:
    """Weights of the network near the end of a channel, its openings those where it was entered times a factor."""
    form, merging = _end(channel, level=True)
    inner = channel.theta.clone().unsqueeze(0)
    openings = factor * channel.epsilon / scales(merging, inner, form.space)[0]
    alone = merging.alone
    for name, part in (("softness", openings[:alone]), ("opening", openings[alone:])):
        if name in form.space:
            place = form.space.slice(name)
            inner[:, place] = torch.where(inner[:, place] == 0, part, inner[:, place])
    return _raw(channel, inner)[0]


def _end(channel: Channel, *, level: bool = False) -> tuple[EmpiricalRisk, Merging]:
    good = (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE) if level else (ChannelEnd.MINIMUM,)
    if channel.end not in good or channel.objective is None:
        raise NotApplicableError(f"a minimum at infinity is needed, this channel's end is: {channel.end.value}")
    assert isinstance(channel.objective.model, ChannelNetwork)
    return channel.objective, channel.objective.model.merging


def _risk(channel: Channel) -> EmpiricalRisk:
    assert channel.ground is not None
    return channel.ground.risk


def _raw(channel: Channel, inner: Float[Tensor, "k Q"]) -> Float[Tensor, "k P"]:
    form, merging = _end(channel, level=True)
    assert channel.ground is not None
    units = torch.tensor([unit for group in channel.groups for unit in group], device=inner.device)
    return from_channel(channel.ground.network, merging, units, inner, form.space)
