"""Which units does each entry of each intermediate result belong to?

The rows of a dense layer and the channels of a convolution are *units*. Following them through the network, entry by
entry, finds everything that belongs to one unit: the weights into it, its bias, the entries of norms that act on it,
the weights out of it. Two units that a sum joins (residual connections) are one. Units that reach an operation which
treats entries individually (attention, a fixed buffer, the output) are *pinned*: they cannot be exchanged.

Labels are computed by running the recorded rearrangements on tensors of unit numbers, so every kind of reshaping,
slicing and concatenating is followed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thalweg.structure.steps import Step
from thalweg.structure.weights import Weights

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["NOTHING", "PADDING", "Record", "UnitAxes", "follow_units"]

NOTHING = -1
"""Label of an entry that belongs to no unit."""
PADDING = -2
"""Label of a zero put in by padding: the same for all units."""


@dataclass(frozen=True, eq=False)
class Record:
    """One step's dealings with units.

    Attributes:
        step: its number.
        role: how the coordinates belong to the units; ``"passes"`` for a step without any.
        units: ``(n,)`` unit numbers, a unit may occur several times.
        places: ``(n,)`` where in the layer: the row that makes the unit, the feature or channel that reads it.
        coordinates: ``(n, w)`` full coordinates, w may be 0.
        degree: ``(n,)`` of what is read, under scaling of the unit's incoming weights; NaN where it does not scale.
        parity: ``(n,)`` -1 if what is read changes sign with the unit's incoming weights, 1 if it stays, 0 if neither.
        linear: ``(n,)`` whether what is read is the unit's own weighted sum, unchanged.
    """

    step: int
    role: str
    units: Tensor
    places: Tensor
    coordinates: Tensor
    degree: Tensor
    parity: Tensor
    linear: Tensor


@dataclass(frozen=True, eq=False)
class _Flow:
    """For each entry of a result the unit it belongs to, and how it changes with that unit's incoming weights.

    All tensors have the shape of the result. For the meaning of `degree`, `parity` and `linear` see `Record`.
    """

    labels: Tensor
    degree: Tensor
    parity: Tensor
    linear: Tensor

    @staticmethod
    def of(labels: Tensor) -> _Flow:
        """Weighted sums as a layer makes them."""
        ones = torch.ones(()).expand(labels.shape)
        return _Flow(labels, ones.double(), -ones.long(), ones.bool())

    def lost(self, labels: Tensor | None = None) -> _Flow:
        """The same units after a step that respects nothing but exchanging them."""
        keep = self.labels if labels is None else labels
        zero = torch.zeros_like(keep)
        return _Flow(keep, torch.full(keep.shape, torch.nan).double(), zero, zero.bool())

    def each(self, change: Callable[[Tensor], Tensor]) -> _Flow:
        """The same change of all four tensors."""
        return _Flow(change(self.labels), change(self.degree), change(self.parity), change(self.linear))


@dataclass
class UnitAxes:
    """What `follow_units` found.

    Attributes:
        count: number of units.
        records: dealings of the steps with units.
        joined: pairs of unit numbers that are one unit.
        pinned: units that cannot be exchanged, and why.
    """

    count: int = 0
    records: list[Record] = field(default_factory=list)
    joined: list[Tensor] = field(default_factory=list)
    pinned: list[tuple[Tensor, str]] = field(default_factory=list)


def follow_units(structure: NetworkStructure) -> UnitAxes:
    """Follow all units of a network from the layers that make them to where they end."""
    follower = _Follower(structure)
    for step in structure.steps:
        follower.take(step)
    for output in structure.outputs:
        follower.pin(output, "they are outputs")
    return follower.axes


class _Follower:
    def __init__(self, structure: NetworkStructure) -> None:
        self._structure = structure
        self.axes = UnitAxes()
        self._flows: dict[int, _Flow] = {}
        self._rules: dict[str, Callable[[Step], _Flow | None]] = {
            "dense": self._dense, "convolution": self._convolution, "embedding": self._embedding,
            "activation": self._activation, "add": self._join, "multiply": self._join,
            "concatenate": self._concatenate, "rearrange": self._rearrange, "pool": self._pool, "norm": self._norm,
            "softmax": self._softmax,
        }  # fmt: skip

    def take(self, step: Step) -> None:
        """Apply the rule of a step; without one its units are pinned."""
        rule = self._rules.get(step.kind)
        flow = rule(step) if rule is not None and not step.from_data else None
        if flow is not None:
            self._flows[step.index] = flow
        elif not step.from_data:
            for read in step.reads:
                self.pin(read, f"they enter {step.name!r} ({step.kind})")

    def pin(self, step: int, why: str) -> None:
        """Pin all units whose entries a result holds."""
        if step in self._flows:
            self._pin(self._flows[step].labels, why)

    def _pin(self, labels: Tensor, why: str) -> None:
        units = labels[labels >= 0].unique()
        if len(units):
            self.axes.pinned.append((units, why))

    def _new(self, count: int) -> Tensor:
        self.axes.count += count
        return torch.arange(self.axes.count - count, self.axes.count)

    def _record(
        self, step: Step, role: str, units: Tensor, coordinates: Tensor | None, flow: _Flow | None = None
    ) -> None:
        """Note dealings; rows without a unit are left out."""
        own = units >= 0
        if not bool(own.any()):
            return
        table = torch.zeros(len(units), 0, dtype=torch.long) if coordinates is None else coordinates
        how = _Flow.of(units) if flow is None else flow
        places, table = torch.arange(len(units))[own], table.reshape(len(units), -1)[own]
        record = Record(step.index, role, units[own], places, table, how.degree[own], how.parity[own], how.linear[own])
        self.axes.records.append(record)

    # -- layers --------------------------------------------------------------------------------------------------------

    def _consume(self, step: Step, table: Tensor, flow: _Flow) -> None:
        """Note the weights ``(features, w)`` that read each feature, the features being the columns of the flow."""
        columns = _columns(flow)
        if columns is None:
            self._pin(flow.labels, f"{step.name!r} reads them in different places for different rows")
        else:
            self._record(step, "outgoing", columns.labels, table, columns)

    def _make(self, step: Step, weights: Tensor, bias: Weights | None) -> Tensor:
        """New units with these incoming weights ``(m, d)``; their numbers."""
        units = self._new(len(weights))
        self._record(step, "incoming", units, weights)
        if bias is not None:
            coordinates = bias.coordinates()
            if coordinates is None:
                self._pin(units, f"the bias of {step.name!r} is computed")
            else:
                self._record(step, "bias", units, coordinates)
        return units

    def _dense(self, step: Step) -> _Flow | None:
        weights = None if step.weight is None else step.weight.coordinates()
        if weights is None:
            return None
        flow = self._flows.get(step.reads[0])
        if flow is not None:
            features = weights.shape[1]
            self._consume(step, weights.T, flow.each(lambda t: (t.T if step.left else t).reshape(-1, features)))
        units = self._make(step, weights, step.bias)
        if step.left:
            return _Flow.of(units.unsqueeze(-1).expand(step.shape))
        return _Flow.of(units.expand(step.shape) if not step.squeezed else units.reshape(()).expand(step.shape))

    def _convolution(self, step: Step) -> _Flow | None:
        weights = None if step.weight is None else step.weight.coordinates()
        if weights is None:
            return None
        transposed, groups = self._structure.argument(step, 6), self._structure.argument(step, 8)
        if transposed:
            weights = weights.transpose(0, 1)
        channel = len(step.shape) - (weights.dim() - 2) - 1
        flow = self._flows.get(step.reads[0])
        if groups != 1:
            one_each = groups == weights.shape[0] and not transposed
            return self._depthwise(step, weights, flow, channel) if one_each else None
        if flow is not None:
            self._consume(step, weights.transpose(0, 1), _by_channel(flow, channel))
        units = self._make(step, weights, step.bias)
        return _Flow.of(_along(units, step.shape, channel))

    def _depthwise(self, step: Step, weights: Tensor, flow: _Flow | None, channel: int) -> _Flow | None:
        """One filter a channel: the channels stay what they are."""
        if flow is None or weights.shape[1] != 1 or flow.labels.shape[channel] != len(weights):
            return None
        columns = _columns(_by_channel(flow, channel))
        bias = None if step.bias is None else step.bias.coordinates()
        if columns is None or (step.bias is not None and bias is None):
            return None
        self._record(step, "scale", columns.labels, weights)
        if bias is not None:
            self._record(step, "scale", columns.labels, bias)
        after = columns.each(lambda t: _along(t, step.shape, channel))
        return after.lost() if bias is not None else replace(after, linear=torch.zeros_like(after.linear))

    def _embedding(self, step: Step) -> _Flow | None:
        weights = None if step.weight is None else step.weight.coordinates()
        if weights is None:
            return None
        return _Flow.of(self._make(step, weights.T, None).expand(step.shape))

    def _norm(self, step: Step) -> _Flow | None:
        flow = self._flows.get(step.reads[0])
        if flow is None:
            return None
        base = step.operation.split(".")[1]
        if base == "native_layer_norm":
            size = list(self._structure.argument(step, 1))
            columns = _columns(flow.each(lambda t: t.reshape(-1, int(torch.Size(size).numel()))))
        elif base == "native_group_norm" and self._structure.argument(step, 6) in (1, step.shape[1]):
            columns = _columns(_by_channel(flow, 1))
        else:
            grouped = "in groups" if "group" in base else "by running statistics, which are no parameters"
            self.pin(step.reads[0], f"{step.name!r} normalises them {grouped}")
            return None
        if columns is None:
            return None
        for weights in (step.weight, step.bias):
            if weights is not None:
                coordinates = weights.coordinates()
                if coordinates is None:
                    return None
                self._record(step, "scale", columns.labels, coordinates)
        self._record(step, "passes", columns.labels, None)
        return flow.lost()

    # -- everything else -----------------------------------------------------------------------------------------------

    def _pass(self, step: Step, labels: Tensor) -> None:
        self._record(step, "passes", labels.reshape(-1).unique(), None)

    def _activation(self, step: Step) -> _Flow | None:
        flow, facts = self._flows.get(step.reads[0]), step.activation
        if flow is None or facts is None:
            return None
        self._pass(step, flow.labels)
        power = torch.nan if facts.homogeneity is None else facts.homogeneity
        degree = torch.where(flow.degree == 0, 0.0, flow.degree * power)
        turned = {"odd": flow.parity, "even": flow.parity.abs()}.get(facts.parity, torch.zeros_like(flow.parity))
        parity = torch.where(flow.parity == 1, 1, turned)  # what does not change stays so under any function
        return _Flow(flow.labels, degree, parity, flow.linear & (facts.name == "identity"))

    def _join(self, step: Step) -> _Flow | None:
        """A sum or a product of two results: entry by entry the units become one."""
        a, b = (self._flows.get(read) for read in (step.reads if len(step.reads) == 2 else (-1, -1)))
        if a is None or b is None:
            return None
        a, b = a.each(lambda t: t.expand(step.shape)), b.each(lambda t: t.expand(step.shape))
        alone = (a.labels >= 0) ^ (b.labels >= 0)
        labels = torch.maximum(a.labels, b.labels)
        self._pin(torch.where(alone, labels, NOTHING), f"{step.name!r} joins them with other things")
        both = (a.labels >= 0) & (b.labels >= 0)
        count = self.axes.count
        pairs = (a.labels[both] * count + b.labels[both]).unique()
        self.axes.joined.append(torch.stack([pairs // max(1, count), pairs % max(1, count)], dim=1))
        self._pass(step, labels)
        if step.kind == "multiply":
            return _Flow(labels, a.degree + b.degree, a.parity * b.parity, torch.zeros_like(a.linear))
        degree = torch.where(a.degree == b.degree, a.degree, torch.nan)
        return _Flow(labels, degree, torch.where(a.parity == b.parity, a.parity, 0), a.linear & b.linear)

    def _concatenate(self, step: Step) -> _Flow | None:
        flows = [self._flows.get(read) for read in step.reads]
        if all(flow is None for flow in flows):
            return None
        shapes = [self._structure.steps[read].shape for read in step.reads]
        none = [_Flow.of(torch.full(shape, NOTHING)) for shape in shapes]
        parts = [empty if flow is None else flow for empty, flow in zip(none, flows, strict=True)]
        move = self._structure.rearranged
        return _Flow(
            move(step, *(part.labels for part in parts)), move(step, *(part.degree for part in parts)),
            move(step, *(part.parity for part in parts)), move(step, *(part.linear for part in parts)),
        )  # fmt: skip

    def _rearrange(self, step: Step) -> _Flow | None:
        flow = self._flows.get(step.reads[0]) if len(step.reads) == 1 else None
        if flow is None:
            return None
        if "constant_pad" in step.operation and self._structure.argument(step, 2) not in (None, 0, 0.0):
            return None
        labels = self._structure.rearranged(step, flow.labels + 3) - 3  # what padding puts in is then -3
        rest = flow.each(lambda t: self._structure.rearranged(step, t))
        return replace(rest, labels=torch.where(labels == -3, PADDING, labels))

    def _pool(self, step: Step) -> _Flow | None:
        flow = self._flows.get(step.reads[0]) if len(step.reads) == 1 else None
        if flow is None:
            return None
        base = step.operation.split(".")[1]
        rows = self._reduced(step, flow) if base in {"mean", "sum", "amax"} else _windows(step, flow)
        columns = None if rows is None else _columns(rows)
        if columns is None:
            return None
        axes = len(step.shape) - _kept_axes(step, flow) if base not in {"mean", "sum", "amax"} else 0
        after = columns.each(lambda t: t.reshape(*step.shape[: len(step.shape) - axes], *[1] * axes).expand(step.shape))
        self._pass(step, after.labels)
        if "max" not in base:
            return after
        return replace(after, parity=torch.where(after.parity == 1, 1, 0), linear=torch.zeros_like(after.linear))

    def _reduced(self, step: Step, flow: _Flow) -> _Flow | None:
        """What is reduced as rows, what remains as columns."""
        dims = self._structure.argument(step, 1)
        dims = [dims] if isinstance(dims, int) else list(dims or range(flow.labels.dim()))
        if not dims:
            return None
        last = range(-len(dims), 0)
        return flow.each(lambda t: t.movedim(dims, list(last)).flatten(-len(dims)).flatten(0, -2).T)

    def _softmax(self, step: Step) -> _Flow | None:
        flow = self._flows.get(step.reads[0])
        if flow is None:
            return None
        self._pass(step, flow.labels)
        return flow.lost()


def _columns(flow: _Flow) -> _Flow | None:
    """What all rows say of each column, padding apart; None if a column is one unit in one row, another in another."""
    padding = flow.labels == PADDING
    labels = flow.labels.amax(0)
    if not bool(((flow.labels == labels) | padding).all()):
        return None
    low = flow.degree.masked_fill(padding, torch.inf).amin(0)
    degree = torch.where(low == flow.degree.masked_fill(padding, -torch.inf).amax(0), low, torch.nan)
    least = flow.parity.masked_fill(padding, 2).amin(0)
    parity = torch.where(least == flow.parity.masked_fill(padding, -2).amax(0), least, 0)
    return _Flow(labels, degree, parity, (flow.linear | padding).all(0))


def _by_channel(flow: _Flow, channel: int) -> _Flow:
    """The flow with channels as columns."""
    return flow.each(lambda t: t.movedim(channel, -1).reshape(-1, t.shape[channel]))


def _along(units: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Unit numbers along one axis, the same along all others."""
    view = [1] * len(shape)
    view[axis] = len(units)
    return units.reshape(view).expand(shape)


def _kept_axes(step: Step, flow: _Flow) -> int:
    """How many leading axes a pooling over windows leaves alone: all but the 1, 2 or 3 that its name tells."""
    return flow.labels.dim() - next((int(c) for c in step.operation if c in "123"), flow.labels.dim())


def _windows(step: Step, flow: _Flow) -> _Flow | None:
    """A pooling over windows: positions as rows, channels (of each sample) as columns."""
    kept = _kept_axes(step, flow)
    if kept == 0 or flow.labels.dim() != len(step.shape):
        return None
    return flow.each(lambda t: t.flatten(kept).flatten(0, kept - 1).T)
