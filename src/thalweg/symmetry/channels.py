"""Where a way to infinity ends: channels found, followed to their end, and judged there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, NotApplicableError, Told
from thalweg.objectives import EmpiricalRisk, NormBarrier, Objective, as_theta
from thalweg.objectives.convert import find_risk
from thalweg.objectives.networks import explain_network
from thalweg.objectives.sums import SumObjective
from thalweg.solvers import Resolution, Resolved, Solution, Status, minimize
from thalweg.solvers.starts import checked_starts
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_coordinates import PairNumbers, from_channel, pair_numbers, to_channel
from thalweg.symmetry.channel_network import ChannelNetwork, Pairs

__all__ = ["Channel", "ChannelEnd", "channel_resolver", "resolve_channel", "resolve_channels"]

_OPPOSED = 2.0
"""Output weights of a candidate pair differ by this many times their sum."""
_NEAR = 0.5
"""And its input weights by less than this fraction of their size, on each side of the middle."""
_CLOSED = 1e-5
"""An epsilon below this fraction of the input weights' size is tried as zero."""
_ITERATIONS = 200
_ROUNDS = 5
_MOST = 3
"""Channels tried at once."""


class ChannelEnd(Told):
    """What lies at the end of a channel. `value` is the name people read, `sentence` says what it means."""

    MINIMUM = ("minimum at infinity", "The loss falls along the channel towards a strict local minimum at its end.")
    DEGENERATE = (
        "level end",
        "The loss falls towards a critical point at infinity, some of whose curvatures rounding hides.",
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
        pairs: the layer and the units whose channel it is (for an odd activation the second perhaps with all its
            weights negated, which is the same function); None without candidates.
        epsilon: ``(n,)``, half the distance of each pair's input weights where it was entered.
        h: ``(n,)``, the loss is ``value + sum h epsilon^2`` near the end; NaN where that is not at infinity.
        theta: the end in the coordinates of `objective`, for a finite minimum in those of the network.
        objective: the loss of the network in the coordinates of the channel; None without candidates.
        entered_at: the loss where the way began.
        message: one sentence with figures.
    """

    end: ChannelEnd
    value: float
    gradient_norm: float
    pairs: Pairs | None
    epsilon: Float[Tensor, " n"]
    h: Float[Tensor, " n"]
    theta: Float[Tensor, " Q"]
    objective: EmpiricalRisk | None = field(repr=False)
    entered_at: float
    message: str

    def network(self) -> nn.Module:
        """The network at the end: for a minimum at infinity one with gated linear units, which has finite weights.

        Raises:
            NotApplicableError: where no end was found.
        """
        if self.objective is None or self.end in (ChannelEnd.FINITE, ChannelEnd.UNRESOLVED):
            raise NotApplicableError(f"no end at infinity was found ({self.end.value}): there is no limit network")
        return self.objective.network_at(self.theta)


class _Ground(NamedTuple):
    """What can be asked for channels."""

    risk: EmpiricalRisk
    network: DenseNetwork
    layers: tuple[int, ...]


def resolve_channel(
    objective: Objective,
    theta: Float[Tensor, " P"] | object = None,
    *,
    layer: int | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
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
        pairs: units of that layer; None takes those with nearly equal input and opposite output weights.

    Raises:
        InvalidInputError: for a theta of another shape, or pairs that are not there.
        NotApplicableError: where channels cannot be: no multilayer perceptron, kinks, weight decay.
    """
    points, batch = checked_starts(objective, theta, None, None)
    if batch != torch.Size([]):
        raise InvalidInputError(f"one parameter vector is needed, got a batch {tuple(batch)}; see resolve_channels")
    return resolve_channels(objective, points, layer=layer, pairs=pairs)[0]


def resolve_channels(
    objective: Objective,
    theta: Float[Tensor, "S P"],
    *,
    layer: int | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> list[Channel]:
    """`resolve_channel` for many points, as many at once as have their channels in the same layer."""
    ground = _ground(objective, layer)
    rows = as_theta(theta, objective)
    if rows.dim() != 2:
        raise InvalidInputError(f"points (S, {objective.space.size}) are needed, got {tuple(rows.shape)}")
    found: list[Channel | None] = [None] * len(rows)
    if pairs is not None:
        if layer is None:
            raise InvalidInputError("say which hidden layer the pairs belong to: layer=0 is the first")
        pick = _Pick(layer, tuple((i, j, False) for i, j in pairs))
        _check_pairs(ground, pick)
        _solve(ground, rows, dict.fromkeys(range(len(rows)), pick), found)
    else:
        _follow(ground, rows.clone(), found)
    values = objective.value(rows).tolist()
    ends = [one or _nothing(row, value) for one, row, value in zip(found, rows, values, strict=True)]
    return [replace(one, entered_at=value) for one, value in zip(ends, values, strict=True)]


def channel_resolver(objective: Objective, theta: Float[Tensor, "k P"], found: Solution) -> list[Resolution]:
    """A resolver for `thalweg.minimize` and `thalweg.survey`: searches on the way to infinity are followed to its end.

    A start ends as a channel with its limit loss where that end was found and is a minimum, or level as far as rounding
    shows (the message says which); goes on from the finite minimum that it should have found, where its valley led to
    one; and keeps its status, with the reason beside it, where no end was found. Networks that channels cannot be
    resolved for keep all statuses.

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
    unfinished = (Status.ITERATION_LIMIT, Status.STALLED)
    rows = [k for k, status in enumerate(found.statuses) if status.escapes or status in unfinished]
    answers: list[Resolution] = [None] * len(theta)
    if not rows:
        return answers
    try:
        ends = resolve_channels(objective, theta[rows])
    except NotApplicableError:
        return answers
    for row, end in zip(rows, ends, strict=True):
        if end.end in (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE):
            answers[row] = Resolved(Status.CHANNEL, f"{end.end.value}: {end.message}", limit=end.value)
        elif end.end is ChannelEnd.FINITE:
            answers[row] = Resolved(found.statuses[row], end.message, theta=end.theta)
        else:
            answers[row] = found.statuses[row], f"{found.messages[row]} Unresolved: {end.message}"
    return answers


def _ground(objective: Objective, layer: int | None) -> _Ground:
    """The risk and its network, or the reason why there are no channels to resolve."""
    risk = find_risk(objective)
    others = [term for term in objective.terms if term is not risk] if isinstance(objective, SumObjective) else []
    for term in others:
        if not isinstance(term, NormBarrier):
            raise NotApplicableError(
                f"{term!r} grows without bound along a channel, or may: with it no minimum lies at infinity"
            )
    if risk is None or risk.space != objective.space:
        raise NotApplicableError("channels need one term over data, all of whose parameters are free")
    report = explain_network(risk)
    if report.structure is None:
        raise NotApplicableError(f"the network cannot be read: {report.reason}")
    network = report.structure.as_dense()
    if network is None:
        raise NotApplicableError(f"it needs a multilayer perceptron: {report.structure.explain_dense()}")
    if network.rows_per_sample != 1 or network.tied:
        raise NotApplicableError("each parameter must be used once, on one row a sample")
    tables = [table for one in network.layers for table in (one.weight_coordinates, one.bias_coordinates)]
    if any(bool((table < 0).any()) for table in tables if table is not None):
        raise NotApplicableError("some weights are frozen; free all of them")
    hidden = range(len(network.hidden))
    if layer is not None and layer not in hidden:
        raise InvalidInputError(f"there are {len(network.hidden)} hidden layers, numbered from 0; got {layer}")
    smooth = [k for k in hidden if network.layers[k].activation.smooth]
    wanted = [k for k in (hidden if layer is None else [layer]) if k in smooth]
    if not wanted:
        names = ", ".join(dict.fromkeys(one.activation.name for one in network.hidden)) or "no hidden layer"
        raise NotApplicableError(f"channels are resolved for smooth activations, not for {names}")
    return _Ground(risk, network, tuple(wanted))


class _Pick(NamedTuple):
    """Channels to try: units i and j of a layer, and whether j is taken with all its weights negated."""

    layer: int
    pairs: tuple[tuple[int, int, bool], ...]


def _check_pairs(ground: _Ground, pick: _Pick) -> None:
    width = ground.network.layers[pick.layer].out_features
    units = [unit for i, j, _ in pick.pairs for unit in (i, j)]
    if not units or len(set(units)) != len(units) or not all(0 <= unit < width for unit in units):
        raise InvalidInputError(
            f"pairs must be different units of hidden layer {pick.layer}, numbered from 0 to {width - 1}; got "
            f"{[pair[:2] for pair in pick.pairs]}"
        )


def _follow(ground: _Ground, rows: Tensor, found: list[Channel | None]) -> None:
    """Try the likeliest pair of each point, then, from where that led, what is likeliest there, or more pairs."""
    tried: list[set[_Pick]] = [set() for _ in rows]
    for _ in range(_ROUNDS):
        open_rows = [k for k, one in enumerate(found) if one is None or one.end is ChannelEnd.UNRESOLVED]
        chosen = {}
        for k in open_rows:
            pick = next((one for one in _picks(_candidates(ground, rows[k])) if one not in tried[k]), None)
            if pick is not None:
                chosen[k] = pick
                tried[k].add(pick)
        if not chosen:
            return
        before = {k: found[k] for k in chosen}
        for k, raw in _solve(ground, rows, chosen, found).items():
            rows[k] = raw
        for k, old in before.items():  # what led nowhere does not replace what led further down
            new = found[k]
            if old is not None and new is not None and new.end is ChannelEnd.UNRESOLVED and new.value > old.value:
                found[k] = old


def _candidates(ground: _Ground, row: Tensor) -> list[tuple[float, int, int, int, bool]]:
    """Pairs that may be those of a channel, the likeliest first: (unlikeness, layer, i, j, j negated)."""
    found = []
    tiny = torch.finfo(row.dtype).tiny
    for layer in ground.layers:
        facts = ground.network.layers[layer].activation
        width = ground.network.layers[layer].out_features
        i, j = torch.triu_indices(width, width, 1, device=row.device)
        for negated in (False, True) if facts.parity == "odd" else (False,):
            numbers: PairNumbers = pair_numbers(ground.network, layer, row.unsqueeze(0), i, j, negated=negated)
            size = numbers.middle[0].norm(dim=-1)
            near = numbers.epsilon[0] / size.clamp(min=tiny)
            apart = numbers.epsilon[0] * numbers.sum[0].norm(dim=-1)
            opposed = numbers.pull[0].norm(dim=-1) / apart.clamp(min=tiny)
            good = (near < _NEAR) & (opposed > _OPPOSED) & (numbers.pull[0].abs().amax(-1) > 0)
            chosen = good.nonzero().squeeze(1).tolist()
            found += [(float(near[k] / opposed[k]), layer, int(i[k]), int(j[k]), negated) for k in chosen]
    return sorted(found)


def _picks(candidates: list[tuple[float, int, int, int, bool]]) -> Iterator[_Pick]:
    """The likeliest pair, then the two likeliest of its layer that share no unit, and so on; then the next alone."""
    for start in range(min(len(candidates), _MOST)):
        layer = candidates[start][1]
        taken: list[tuple[int, int, bool]] = []
        used: set[int] = set()
        for _, at, i, j, negated in candidates[start:]:
            if at == layer and not {i, j} & used:
                taken.append((i, j, negated))
                used |= {i, j}
                yield _Pick(layer, tuple(sorted(taken)))
            if len(taken) == _MOST:
                break


def _solve(ground: _Ground, rows: Tensor, chosen: dict[int, _Pick], found: list[Channel | None]) -> dict[int, Tensor]:
    """Follow the chosen pairs of each row, all rows of one kind in one search; where the unresolved ones went."""
    kinds: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    turned = rows.clone()
    for row, (layer, pairs) in chosen.items():
        for _, j, negated in pairs:
            if negated:
                turned[row] = _negated(ground.network, layer, j, turned[row])
        units = torch.tensor([pair[:2] for pair in pairs], device=rows.device)
        numbers = pair_numbers(ground.network, layer, turned[row : row + 1], units[:, 0], units[:, 1])
        largest = tuple(numbers.pull[0].abs().argmax(-1).tolist())
        kinds.setdefault((layer, largest), []).append(row)
    led: dict[int, Tensor] = {}
    for (layer, largest), members in kinds.items():
        units = torch.tensor([[pair[:2] for pair in chosen[row].pairs] for row in members], device=rows.device)
        form = _channel_form(ground, layer, largest)
        search = _Search(ground, form, Pairs(layer, units, torch.tensor(largest, device=rows.device)), turned[members])
        for row, channel in zip(members, search.ends(), strict=True):
            found[row] = channel
        led |= {members[number]: raw for number, raw in search.led().items()}
    return led


def _negated(network: DenseNetwork, layer: int, unit: int, theta: Tensor) -> Tensor:
    """The same function where the activation is odd: all weights of one unit with the other sign."""
    units = network.units(layer)
    turned = theta.clone()
    bias = units.incoming.new_zeros(0) if units.bias is None else units.bias[unit : unit + 1]
    table = torch.cat([units.incoming[unit], bias, units.outgoing[unit]])
    turned[table] = -turned[table]
    return turned


def _channel_form(ground: _Ground, layer: int, largest: tuple[int, ...]) -> EmpiricalRisk:
    """The loss of the network with channels of one layer in stable coordinates."""
    risk, network = ground.risk, ground.network
    shape = risk.structured_outputs(risk.initial.new_zeros(1, risk.n_outputs)).shape[1:]
    module = ChannelNetwork(network, layer, len(largest), largest, shape).to(risk.dtype)
    return risk.with_model(module, network.features(risk.inputs).to(risk.dtype))


class _Search:
    """Searches in the coordinates of channels of one kind, from some points."""

    def __init__(self, ground: _Ground, form: EmpiricalRisk, pairs: Pairs, rows: Tensor) -> None:
        self.ground, self.form, self.pairs = ground, form, pairs
        self.place = form.space.slice("epsilon")
        self.start = to_channel(ground.network, pairs, rows, form.space)
        self.entered = form.value(self.start)
        self.first = minimize(form, self.start, max_iterations=_ITERATIONS, progress=False)
        self.closed = self._closed(self.first.theta)

    def _closed(self, theta: Tensor) -> Tensor:
        """Which epsilons are as good as zero, ``(S, n)``."""
        weight = self.form.space.unflatten(theta)[f"weight_{self.pairs.layer}"]
        merged = weight[:, weight.shape[1] - self.form.space["epsilon"].size :].norm(dim=-1)
        return theta[:, self.place].abs() <= _CLOSED * merged

    def ends(self) -> list[Channel]:
        """What lies at the end of each search."""
        ends = [self._where_it_stopped(number) for number in range(len(self.start))]
        rows = [k for k, one in enumerate(self.first.converged.tolist()) if one and bool(self.closed[k].any())]
        if rows:
            for number, end in zip(rows, self._at_infinity(rows), strict=True):
                ends[number] = end
        return ends

    def led(self) -> dict[int, Tensor]:
        """Where searches that found no end went, as weights, by number."""
        theta = self.first.theta
        open_ones = ~self.first.converged & ~self.closed.any(1) & torch.isfinite(theta).all(1)
        found = {}
        for number in open_ones.nonzero().squeeze(1).tolist():
            raw = from_channel(self.ground.network, self._pairs(number), theta[number : number + 1], self.form.space)[0]
            if bool(torch.isfinite(raw).all()):
                found[number] = raw
        return found

    def _where_it_stopped(self, number: int) -> Channel:
        """A search that did not close its channel."""
        found, pairs = self.first[number], self._pairs(number)
        if found.status is not Status.CONVERGED:
            told = f"In the coordinates of {_named(pairs)}: {found.status.value}. {found.message}"
            return self._channel(number, ChannelEnd.UNRESOLVED, found, told)
        epsilon = found.theta[self.place]
        told = f"{_named(pairs)} came to rest at epsilon = {_figures(epsilon)}, where the weights are finite."
        channel = self._channel(number, ChannelEnd.FINITE, found, told)
        if bool((epsilon == 0).any()):
            return channel
        raw = from_channel(self.ground.network, pairs, found.theta.unsqueeze(0), self.form.space)[0]
        return replace(channel, theta=raw, objective=None)

    def _at_infinity(self, rows: list[int]) -> list[Channel]:
        """Points with epsilon exactly zero, searched once more from there."""
        theta, closed = self.first.theta[rows], self.closed[rows]
        theta[:, self.place] = torch.where(closed, 0.0, theta[:, self.place])
        again = minimize(self.form, theta, max_iterations=_ITERATIONS, progress=False)
        stays = self._closed(again.theta) | ~closed
        end = again.theta.clone()
        end[:, self.place] = torch.where(closed, 0.0, end[:, self.place])
        hessians = self.form.hessian(end)
        h = hessians.diagonal(dim1=1, dim2=2)[:, self.place] / 2
        channels = []
        for k, number in enumerate(rows):
            found = replace(again[k], theta=end[k])
            name = _named(self._pairs(number))
            if found.status is not Status.CONVERGED or not bool(stays[k].all()):
                told = f"{name} closes, but its end is no minimum: {found.status.value}. {found.message}"
                channels.append(self._channel(number, ChannelEnd.UNRESOLVED, found, told))
                continue
            level = int(found.undecided)
            told = (
                f"{name}: the loss falls from {float(self.entered[number]):.10g} to {float(found.value):.10g} at "
                f"infinity, h = {_figures(h[k])}" + (f"; {level} curvatures are lost in rounding." if level else ".")
            )
            kind = ChannelEnd.DEGENERATE if level else ChannelEnd.MINIMUM
            channels.append(replace(self._channel(number, kind, found, told), h=h[k]))
        return channels

    def _pairs(self, number: int) -> Pairs:
        return self.pairs._replace(units=self.pairs.units[number])

    def _channel(self, number: int, end: ChannelEnd, found: Solution, message: str) -> Channel:
        epsilon = self.start[number, self.place]
        return Channel(
            end=end,
            value=float(found.value),
            gradient_norm=float(found.gradient_norm),
            pairs=self._pairs(number),
            epsilon=epsilon,
            h=torch.full_like(epsilon, torch.nan),
            theta=found.theta,
            objective=self.form,
            entered_at=float(self.entered[number]),
            message=message,
        )


def _nothing(row: Tensor, value: float) -> Channel:
    none = row.new_zeros(0)
    told = "No two units of a layer have nearly equal input weights and opposite output weights."
    return Channel(ChannelEnd.UNRESOLVED, value, float("nan"), None, none, none, row, None, value, told)


def _named(pairs: Pairs) -> str:
    told = ", ".join(f"{i} and {j}" for i, j in pairs.units.tolist())
    return f"units {told} of hidden layer {pairs.layer}"


def _figures(numbers: Tensor) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers.tolist())
