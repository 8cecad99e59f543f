"""Where a way to infinity ends: channels found, followed to their end, and judged there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import EmpiricalRisk, Objective, as_theta
from thalweg.solvers import LimitPoint, Resolution, Resolved, Solution, Status
from thalweg.solvers.local import measure_rounding
from thalweg.solvers.watch import watched
from thalweg.symmetry.channel_coordinates import merging_of, pair_numbers
from thalweg.symmetry.channel_ends import Channel, ChannelEnd
from thalweg.symmetry.channel_entry import checked_pick, one_point, with_negated, with_signs
from thalweg.symmetry.channel_ground import Ground, ground_of
from thalweg.symmetry.channel_network import Merging
from thalweg.symmetry.channel_picks import Candidate, Pick, candidates, picks
from thalweg.symmetry.channel_search import ChannelSearch

__all__ = [
    "channel_resolver",
    "likely_channels",
    "limit_objective",
    "resolve_channel",
    "resolve_channels",
]

_ROUNDS = 5
_HIDDEN = 1e-4
"""Relative distance of two units whose fourth power is below machine precision."""
_SOME = 256
"""Samples looked at to see which units are hard."""


def resolve_channel(
    objective: Objective,
    theta: Float[Tensor, " P"] | object = None,
    *,
    layer: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> Channel:
    """Follow a way to infinity to its end, and say what lies there.

    The search goes on in coordinates in which the end of a channel is an ordinary point (`ChannelNetwork`); it ends at
    a critical point of the loss there, whose spectrum decides. Nearness of units proves nothing: a pair with nearly
    equal input weights at an ordinary minimum leads back to a finite minimum.

    Args:
        objective: an empirical risk of a multilayer perceptron with smooth activations. A `NormBarrier` beside it is
            left out: it is there to keep searches finite.
        theta: ``(P,)``, or whatever `thalweg.objectives.as_theta` converts; None takes the initial parameters.
        layer: number of the hidden layer; None tries all.
        groups: the units of each channel, such as ``[(0, 3)]``: two or three that merge, of three the one whose output
            weight is opposed to the other two in the middle; or one that becomes hard. None takes those with nearly
            equal input weights and output weights that cancel, and those as good as their asymptotes.

    Raises:
        InvalidInputError: for a theta of another shape, or units that are not there.
        NotApplicableError: where channels cannot be: no multilayer perceptron, kinks, weight decay.
    """
    return resolve_channels(objective, one_point(objective, theta).unsqueeze(0), layer=layer, groups=groups)[0]


def resolve_channels(
    objective: Objective,
    theta: Float[Tensor, "S P"],
    *,
    layer: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> list[Channel]:
    """`resolve_channel` for many points, as many at once as have their channels in the same layer."""
    ground = ground_of(objective, layer)
    rows = as_theta(theta, objective)
    if rows.dim() != 2:
        raise InvalidInputError(f"points (S, {objective.space.size}) are needed, got {tuple(rows.shape)}")
    found: list[Channel | None] = [None] * len(rows)
    if groups is not None:
        pick = checked_pick(ground, layer, groups)
        picked = {k: with_signs(ground, pick, row) for k, row in enumerate(rows)}
        _solve(ground, rows, picked, found)
    else:
        _follow(ground, rows.clone(), found)
    return [one or Channel.none(row, float(ground.risk.value(row))) for one, row in zip(found, rows, strict=True)]


def channel_resolver(objective: Objective, theta: Float[Tensor, "k P"], found: Solution) -> list[Resolution]:
    """A resolver for `thalweg.minimize` and `thalweg.survey`: searches on the way to infinity are followed to its end.

    A start ends as a channel with its limit loss where that end was found and is a minimum, or level as far as rounding
    shows (the message says which), also one that seemed to have converged, its gradient lost in rounding; goes on from
    the finite minimum that it should have found, where its valley led to one; and keeps its status, with the reason
    beside it, where no end was found. Networks that channels cannot be resolved for keep all statuses.

    >>> import torch
    >>> import thalweg as tw
    >>> from torch import nn
    >>> x = torch.linspace(-3, 3, 61, dtype=torch.float64).unsqueeze(1)
    >>> y = torch.tanh(3 * x + 2) + torch.tanh(3 * x - 2)
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Tanh(), nn.Linear(2, 1, bias=False))
    >>> risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    >>> theta = torch.tensor([1.9, 1.7, -10.0, 12.0], dtype=torch.float64)
    >>> tw.minimize(risk, theta, resolver=tw.symmetry.channel_resolver).status
    <diverging along a channel>
    """
    unfinished = (Status.ITERATION_LIMIT, Status.STALLED, Status.CONVERGED)
    rows = [k for k, status in enumerate(found.statuses) if status.escapes or status in unfinished]
    answers: list[Resolution] = [None] * len(theta)
    if not rows:
        return answers
    try:
        ends = resolve_channels(objective, theta[rows])
    except NotApplicableError:
        return answers
    for row, end in zip(rows, ends, strict=True):
        status = found.statuses[row]
        if status is Status.CONVERGED:
            excess, noise = float(found.value.reshape(-1)[row]) - end.value, _noise(objective, theta[row])
            if not _at_bottom(excess, noise, end):
                if excess <= noise or not _hidden(objective, theta[row]):
                    continue
                status = Status.STALLED  # rounding hid the slope
        if end.end in (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE):
            answers[row] = Resolved(Status.CHANNEL, f"{end.end.value}: {end.message}", end=end.limit_point())
        elif end.end is ChannelEnd.FINITE:
            answers[row] = Resolved(status, end.message, theta=end.theta)
        else:
            answers[row] = status, f"{found.messages[row]} Unresolved: {end.message}"
    return answers


def limit_objective(objective: Objective, end: LimitPoint) -> EmpiricalRisk:
    """The loss in the coordinates of an end at infinity, of which ``end.theta`` is a point.

    Args:
        objective: of which the end was found, by `channel_resolver` or `resolve_channel`.
        end: from ``Solution.end`` or a catalogue.

    Returns:
        The loss; its ``network_at(end.theta)`` is the limit network, an ordinary module.

    Raises:
        NotApplicableError: where the objective has no channels.
        InvalidInputError: for an end of another network.
    """
    form = end.form
    try:
        sizes, largest, signs = (tuple(form[name]) for name in ("sizes", "largest", "signs"))
        merging = Merging(form["layer"], sizes, largest, signs)
    except KeyError as missing:
        raise InvalidInputError(f"{end!r} is no end of a channel: it does not say {missing}") from None
    found = ground_of(objective, merging.layer).form(merging)
    if found.space.size != end.theta.numel():
        raise InvalidInputError(
            f"{end!r} has {end.theta.numel()} parameters, the channels of this network {found.space.size}"
        )
    return found


def _at_bottom(excess: float, noise: float, end: Channel) -> bool:
    """Whether a search that seemed to have converged stands at the bottom of a channel, not yet at its end.

    There the loss lies above its limit by what the expansion at the end says. Deep inside rounding hides that; then the
    end must be a minimum for certain.
    """
    if end.end not in (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE):
        return False
    if excess <= noise and end.end is not ChannelEnd.MINIMUM:
        return False
    return end.rise / 4 - noise <= excess <= 2 * end.rise + noise


def _hidden(objective: Objective, theta: Float[Tensor, " P"]) -> bool:
    """Whether two units with opposed output weights are so near each other that rounding hides slope and curvature.

    Along a channel the slope falls like the third power of their relative distance and the curvature like the fourth,
    while rounding grows with the largest curvature, like its inverse square.
    """
    ground = ground_of(objective)
    for one in likely_channels(objective, theta):
        if len(one.units) > 1:
            i, j = torch.tensor(one.units[:1]), torch.tensor(one.units[-1:])
            negated = (one.units[0] in one.negated) != (one.units[-1] in one.negated)
            numbers = pair_numbers(ground.network, one.layer, theta[None], i, j, negated=negated)
            if float(numbers.epsilon) < _HIDDEN * float(numbers.middle.norm()):
                return True
    return False


def _noise(objective: Objective, theta: Float[Tensor, " P"]) -> float:
    """Of the loss, by rounding."""
    here = objective.evaluate(theta, 1)
    assert here.gradient is not None
    return float(measure_rounding(objective, theta[None], here.value.reshape(1), here.gradient[None]).value)


def likely_channels(objective: Objective, theta: Float[Tensor, " P"]) -> list[Candidate]:
    """Units that could be those of a channel, the likeliest first.

    Raises:
        NotApplicableError: where channels cannot be.
    """
    ground = ground_of(objective)
    return candidates(ground.network, ground.layers, theta, _some_features(ground))


def _some_features(ground: Ground) -> Float[Tensor, "n d"]:
    count = ground.risk.n_samples
    some = torch.linspace(0, count - 1, min(count, _SOME)).long()
    return ground.network.features(ground.risk.inputs)[some].to(ground.risk.device, ground.risk.dtype)


def _follow(ground: Ground, rows: Tensor, found: list[Channel | None]) -> None:
    """Try the likeliest channel of each point, then, from where that led, what is likeliest there, or more channels."""
    tried: list[set[Pick]] = [set() for _ in rows]
    features = _some_features(ground)
    for _ in range(_ROUNDS):
        open_rows = [k for k, one in enumerate(found) if one is None or one.end is ChannelEnd.UNRESOLVED]
        chosen = {}
        for k in open_rows:
            likely = picks(candidates(ground.network, ground.layers, rows[k], features))
            pick = next((one for one in likely if one not in tried[k]), None)
            if pick is not None:
                chosen[k] = pick
                tried[k].add(pick)
        outer = watched()
        if not chosen or (outer is not None and outer.why_stop() is not None):
            return
        before = {k: found[k] for k in chosen}
        for k, raw in _solve(ground, rows, chosen, found).items():
            if float(ground.risk.value(raw)) < float(ground.risk.value(rows[k])):
                rows[k] = raw
        for k, old in before.items():  # what led nowhere does not replace what led further down
            new = found[k]
            if old is not None and new is not None and new.end is ChannelEnd.UNRESOLVED and new.value > old.value:
                found[k] = old


def _solve(ground: Ground, rows: Tensor, chosen: dict[int, Pick], found: list[Channel | None]) -> dict[int, Tensor]:
    """Follow the chosen channels of each row, all rows of one kind in one search; where the unresolved ones went."""
    kinds: dict[Merging, list[int]] = {}
    turned = rows.clone()
    for row, pick in chosen.items():
        turned[row] = with_negated(ground.network, pick, turned[row])
        units = torch.tensor(pick.units, device=rows.device)
        kinds.setdefault(merging_of(ground.network, pick.layer, pick.sizes, units, turned[row]), []).append(row)
    led: dict[int, Tensor] = {}
    for merging, members in kinds.items():
        units = torch.tensor([chosen[row].units for row in members], device=rows.device)
        search = ChannelSearch(ground, merging, units, turned[members])
        for row, channel in zip(members, search.ends(), strict=True):
            if channel.end is ChannelEnd.FINITE:
                channel = replace(channel, theta=with_negated(ground.network, chosen[row], channel.theta))
            found[row] = channel
        for number, raw in search.led().items():
            led[members[number]] = with_negated(ground.network, chosen[members[number]], raw)
    return led
