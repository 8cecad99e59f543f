"""A network as a multilayer perceptron: a chain of dense layers with an activation after each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.structure.activations import ActivationFacts, activation_facts
from thalweg.structure.mixed import MixedFacts, facts_of_units
from thalweg.structure.steps import Step
from thalweg.structure.weights import Weights, evaluate_weights

if TYPE_CHECKING:
    from thalweg.structure.network import NetworkStructure

__all__ = ["DenseLayer", "DenseNetwork", "Units", "read_dense"]


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """``activation(W x + b)``.

    Attributes:
        name: of the layer.
        weight: name of the parameter that holds W; None where W is put together from parts of parameters.
        bias: name of the parameter that holds b; None without bias (or put together from parts).
        transposed: True if the parameter holds the transpose of W.
        activation: what follows; the identity for a linear layer.
        weight_coordinates: coordinates in theta of W, ``(out, in)``; -1 where frozen.
        bias_coordinates: coordinates in theta of b, ``(out,)``, or None without bias.
    """

    name: str
    weight: str | None
    bias: str | None
    transposed: bool
    activation: ActivationFacts
    weight_coordinates: Tensor
    bias_coordinates: Tensor | None
    _weight: Weights = field(repr=False)
    _bias: Weights | None = field(repr=False)

    @property
    def in_features(self) -> int:
        """Columns of W."""
        return int(self.weight_coordinates.shape[1])

    @property
    def out_features(self) -> int:
        """Rows of W."""
        return int(self.weight_coordinates.shape[0])


class Units(NamedTuple):
    """Where the m units of a hidden layer lie in theta; coordinates are -1 where frozen.

    Attributes:
        incoming: ``(m, d)``, weights into each unit.
        bias: ``(m,)``, or None without bias.
        outgoing: ``(m, k)``, weights from each unit into the k units of the next layer.
    """

    incoming: Int[Tensor, "m d"]
    bias: Int[Tensor, " m"] | None
    outgoing: Int[Tensor, "m k"]


@dataclass(frozen=True, eq=False)
class DenseNetwork:
    """A multilayer perceptron, as `NetworkStructure.as_dense` gives it.

    Rows are what the first layer sees: one a sample, or several (positions of a sequence), all treated alike. What the
    network does to its inputs before the first layer (flattening, scaling) is no part of it; `features` does that.

    Attributes:
        layers: in order; the last one makes the outputs.
        space: the address of every coordinate of theta.
        rows_per_sample: number of rows that one sample makes.
        tied: True if two places of the network use the same coordinate of theta.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> net = trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.ones(5, 3)).as_dense()
    >>> net.widths, [layer.activation.name for layer in net.layers]
    ((3, 4, 2), ['tanh', 'identity'])
    >>> net.units(0).outgoing
    tensor([[16, 20],
            [17, 21],
            [18, 22],
            [19, 23]])
    """

    layers: tuple[DenseLayer, ...]
    space: ParameterSpace
    rows_per_sample: int
    tied: bool
    _structure: NetworkStructure = field(repr=False)
    _features: int = field(repr=False)
    _left: bool = field(repr=False)
    _flat: int | None = field(repr=False)

    @property
    def hidden(self) -> tuple[DenseLayer, ...]:
        """All layers but the last."""
        return self.layers[:-1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of features before the first layer and after each."""
        return (self.layers[0].in_features, *(layer.out_features for layer in self.layers))

    @property
    def mixed(self) -> tuple[str, ...]:
        """Names of the layers whose units have different activations."""
        return tuple(layer.name for layer in self.layers if isinstance(layer.activation, MixedFacts))

    def units(self, layer: int) -> Units:
        """Where the units of a hidden layer lie in theta.

        Args:
            layer: number of the hidden layer, from 0.

        Raises:
            InvalidInputError: if there is no such hidden layer.
        """
        if not 0 <= layer < len(self.layers) - 1:
            raise InvalidInputError(f"there are {len(self.layers) - 1} hidden layers, numbered from 0; got {layer}")
        here, after = self.layers[layer], self.layers[layer + 1]
        return Units(here.weight_coordinates, here.bias_coordinates, after.weight_coordinates.T)

    def matrices(self, theta: Float[Tensor, "*batch P"]) -> list[tuple[Tensor, Tensor | None]]:
        """W ``(*batch, out, in)`` and b ``(*batch, out)`` or None of each layer; frozen ones without batch."""
        named = self._structure.named(theta)
        everything = self._structure.parameters
        found = []
        for layer in self.layers:
            bias = None if layer._bias is None else evaluate_weights(layer._bias, named, everything)
            found.append((evaluate_weights(layer._weight, named, everything), bias))
        return found

    def features(self, inputs: Any) -> Float[Tensor, "M d"]:
        """What the first layer sees, one row after another, for inputs with any number of samples.

        Raises:
            InvalidInputError: for inputs that do not fit the first layer.
        """
        step = self._structure.steps[self._features]
        leaves = pytree.tree_leaves(inputs)
        if self._flat is not None and not self._left:
            given = leaves[self._flat].detach().to(torch.float64)
            size, shape = self.layers[0].in_features, tuple(given.shape)
            if size not in accumulate(reversed(shape), mul, initial=1):  # else rows would hold parts of several samples
                raise InvalidInputError(f"the first layer reads {size} numbers a row, which inputs {shape} do not hold")
            return given.reshape(-1, size)
        if step.kind == "input":
            tensor = leaves[int(self._structure.key_of(step))].detach().to(torch.float64)
        else:
            nothing = torch.zeros(self.space.size, dtype=torch.float64)
            tensor = self._structure.record(nothing, inputs, [step.index])[0]
        return tensor.T if self._left else tensor.reshape(-1, tensor.shape[-1])

    def preactivations(self, theta: Float[Tensor, "*batch P"], inputs: Any) -> list[Float[Tensor, "*batch M m"]]:
        """``W x + b`` of every layer, the last one included."""
        return self._forward(theta, inputs)[0]

    def activations(self, theta: Float[Tensor, "*batch P"], inputs: Any) -> list[Float[Tensor, "*batch M m"]]:
        """``activation(W x + b)`` of every layer, the last one included."""
        return self._forward(theta, inputs)[1]

    def outputs(self, theta: Float[Tensor, "*batch P"], inputs: Any) -> Float[Tensor, "*batch N C"]:
        """The network's outputs, one row per sample, all other dimensions flattened."""
        last = self._forward(theta, inputs)[1][-1]
        return last.reshape(*last.shape[:-2], -1, self.rows_per_sample * last.shape[-1])

    def _forward(self, theta: Tensor, inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
        x = self.features(inputs).to(theta.device, theta.dtype)
        before, after = [], []
        for layer, (weight, bias) in zip(self.layers, self.matrices(theta), strict=True):
            z = x @ weight.mT
            if bias is not None:
                z = z + bias.unsqueeze(-2)
            x = layer.activation(z)
            before.append(z)
            after.append(x)
        return before, after


class _NotDenseError(Exception):
    pass


_FOLLOWED = frozenset({"dense", "activation", "rearrange", "concatenate"})
_ONE_NUMBER = "it was traced with a single sample, or takes one number of samples only; trace it with several"


def read_dense(structure: NetworkStructure) -> tuple[DenseNetwork | None, str]:
    """The structure as a multilayer perceptron, or None and the reason."""
    try:
        return _Reader(structure).read(), ""
    except _NotDenseError as reason:
        return None, str(reason)


class _Entries(NamedTuple):
    """The entries that a step passes on: results of one dense layer, moved about, an elementwise function behind each.

    Attributes:
        layer: number of the layer, -1 before the first one.
        place: where each entry lies in the layer's table of rows and features.
        function: the number of each entry's function in `_Reader.functions`; 0 for none.
    """

    layer: int
    place: Tensor
    function: Tensor


class _Reader:
    """Follows the steps from the output back to the inputs."""

    def __init__(self, structure: NetworkStructure) -> None:
        self._structure = structure
        self._layers: list[DenseLayer] = []
        self._functions: list[ActivationFacts] = [activation_facts("identity")]
        self._known: dict[int, _Entries] = {}
        self._first: tuple[int, bool] = (0, False)

    def read(self) -> DenseNetwork:
        outputs = self._structure.outputs
        if len(outputs) != 1:
            raise _NotDenseError(f"it has {len(outputs)} outputs")
        last = self._entries(self._structure.steps[outputs[0]])
        if not self._layers:
            raise _NotDenseError("it has no dense layer")
        if not self._structure.independent_samples:
            open_question = self._structure.independent_samples is None
            raise _NotDenseError("samples influence each other" if not open_question else _ONE_NUMBER)
        if not _in_order(last.place):
            raise _NotDenseError("its outputs are rearranged between samples and features")
        self._close(last)
        rows = last.place.numel() // self._layers[-1].out_features
        first, left = self._first
        return DenseNetwork(
            layers=tuple(self._layers),
            space=self._structure.space,
            rows_per_sample=rows // self._samples(rows),
            tied=self._tied(),
            _structure=self._structure,
            _features=first,
            _left=left,
            _flat=self._flat_input(first),
        )

    def _entries(self, step: Step) -> _Entries:
        """What a step passes on; what comes before the first dense layer is numbered as it comes."""
        if step.index not in self._known:
            self._known[step.index] = self._followed(step)
        return self._known[step.index]

    def _followed(self, step: Step) -> _Entries:
        if step.kind == "input" or step.from_data:
            nothing = torch.zeros(0, dtype=torch.int64)
            return _Entries(-1, nothing, nothing)
        if step.kind not in _FOLLOWED or (len(step.reads) != 1 and step.kind != "concatenate"):
            raise _NotDenseError(f"{step.name!r} is not a step of a multilayer perceptron ({step.kind})")
        before = [self._entries(self._structure.steps[read]) for read in step.reads]
        if step.kind == "dense":
            return self._dense(step, before[0])
        if any(each.layer != before[0].layer for each in before):
            raise _NotDenseError(f"{step.name!r} puts results of several layers together")
        if before[0].layer < 0:
            raise _NotDenseError(f"{step.name!r} comes before the first dense layer")
        if step.kind == "activation":
            return self._activation(step, before[0])
        place = self._structure.rearranged(step, *(each.place for each in before))
        return _Entries(before[0].layer, place, self._structure.rearranged(step, *(each.function for each in before)))

    def _flat_input(self, first: int) -> int | None:
        """The place of the input that the features are a mere reshaping of, None where they are more than that."""
        steps, way = self._structure.steps, []
        step = steps[first]
        while step.kind == "rearrange" and len(step.reads) == 1:
            way.append(step)
            step = steps[step.reads[0]]
        if step.kind != "input":
            return None
        table = torch.arange(torch.Size(step.shape).numel()).reshape(step.shape)
        for rearrangement in reversed(way):
            table = self._structure.rearranged(rearrangement, table)
        same = table.numel() == torch.Size(step.shape).numel() and _in_order(table)
        return int(self._structure.key_of(step)) if same else None

    def _dense(self, step: Step, before: _Entries) -> _Entries:
        assert step.weight is not None
        if step.weight.kind == "computed":
            raise _NotDenseError(f"the weights of {step.name!r} are computed from {', '.join(step.weight.names)}")
        if before.layer != len(self._layers) - 1:
            raise _NotDenseError(f"{step.name!r} is not a step of a multilayer perceptron (one of two ways)")
        out, inside = step.weight.shape
        if before.layer < 0:
            self._first = step.reads[0], step.left
        else:
            table = before.place.T if step.left else before.place
            if table.shape[-1] != inside or not _in_order(table):
                raise _NotDenseError(f"entries are rearranged between rows and features before {step.name!r}")
            turned = before.function.T if step.left else before.function
            self._close(_Entries(before.layer, table, turned))
        rows = int(torch.Size(step.shape).numel()) // out
        order = torch.arange(rows * out).reshape(rows, out)
        place = order.T if step.left else order.reshape(step.shape)
        coordinates = self._structure.coordinates
        layer = DenseLayer(
            name=step.name,
            weight=_name(step.weight),
            bias=None if step.bias is None else _name(step.bias),
            transposed=step.weight.kind == "transposed",
            activation=activation_facts("identity"),
            weight_coordinates=coordinates(step.weight),
            bias_coordinates=None if step.bias is None else coordinates(step.bias),
            _weight=step.weight,
            _bias=step.bias,
        )
        self._layers.append(layer)
        return _Entries(len(self._layers) - 1, place, torch.zeros_like(place))

    def _activation(self, step: Step, before: _Entries) -> _Entries:
        assert step.activation is not None
        if any(self._functions[number].name != "identity" for number in before.function.unique().tolist()):
            raise _NotDenseError(f"two elementwise functions follow {self._layers[before.layer].name!r}")
        self._functions.append(step.activation)
        return before._replace(function=torch.full_like(before.function, len(self._functions) - 1))

    def _close(self, entries: _Entries) -> None:
        """Give a layer the functions that its entries, in order again, went through."""
        layer = self._layers[entries.layer]
        table = entries.function.reshape(-1, layer.out_features)
        if not bool((table == table[0]).all()):
            raise _NotDenseError(f"rows of {layer.name!r} go through different elementwise functions")
        facts = facts_of_units([self._functions[number] for number in table[0].tolist()])
        self._layers[entries.layer] = replace(layer, activation=facts)

    def _samples(self, rows: int) -> int:
        shape = self._structure.steps[self._structure.outputs[0]].shape
        return shape[0] if shape and rows % shape[0] == 0 else rows

    def _tied(self) -> bool:
        tables = [t for layer in self._layers for t in (layer.weight_coordinates, layer.bias_coordinates)]
        used = torch.cat([table.reshape(-1) for table in tables if table is not None])
        used = used[used >= 0]
        return len(used.unique()) < len(used)


def _in_order(table: Tensor) -> bool:
    return bool((table.reshape(-1) == torch.arange(table.numel())).all())


def _name(weights: Weights) -> str | None:
    return weights.names[0] if weights.kind in {"whole", "transposed"} else None
