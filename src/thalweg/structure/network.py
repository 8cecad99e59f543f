"""The description of a network that everything structural asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import InvalidInputError, NotApplicableError, ParameterSpace
from thalweg.structure.capture import capture, plain_execution
from thalweg.structure.homogeneity import degree_in
from thalweg.structure.program import Program
from thalweg.structure.recognise import recognise
from thalweg.structure.skips import Skip, find_skips
from thalweg.structure.source import NotTraceableError, Source
from thalweg.structure.steps import Step, run_steps
from thalweg.structure.verify import leading_dimension, some_samples
from thalweg.structure.weights import Weights

if TYPE_CHECKING:
    from thalweg.structure.dense import DenseNetwork
    from thalweg.structure.units import UnitGroup

__all__ = ["NetworkStructure"]

_WITH_WEIGHTS = frozenset({"dense", "convolution", "embedding", "norm"})
_ONE_BY_ONE = frozenset({"_embedding_bag"})
"""Operations that ``vmap`` itself takes one by one, and complains of."""
_KEPT_PROGRAMS = 4
PART_BYTES = 256 * 2**20
"""Bytes of intermediate results aimed at when samples are computed part by part."""


@dataclass(eq=False)
class NetworkStructure:
    """What a network is: its steps, and where in theta their parameters lie.

    Made by `trace`, which also checks it against the module. Coordinates are those of `space`; a parameter outside of
    it is *frozen* at the value the module had, and its coordinates are -1.

    Attributes:
        space: the address of every coordinate of theta.
        parameters: the address of every parameter of the module, trainable or not, in the order of
            ``named_parameters``.
        steps: what is computed, in order.
        outputs: numbers of the steps that are returned, in the order of the flattened output.
        independent_samples: True if every sample's output depends on that sample alone, False if not, None where the
            inputs did not allow the test (a single sample, a size written into the forward).
        frozen: values of all parameters, in full coordinates; only the frozen ones are used.
        example_inputs: the inputs it was checked with, in float64; at most a few samples.
    """

    space: ParameterSpace
    parameters: ParameterSpace
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    independent_samples: bool | None
    frozen: Tensor
    example_inputs: Any = field(repr=False)
    _source: Source = field(repr=False)
    _program: Program = field(repr=False)
    _others: dict[tuple[Any, ...], tuple[Program, tuple[Step, ...]]] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        layers = ", ".join(step.name for step in self.layers)
        return f"<NetworkStructure of {self.space.size} parameters: {layers}>"

    # -- what it consists of -------------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[Step, ...]:
        """Dense layers, convolutions, embeddings and norms, in order."""
        return tuple(step for step in self.steps if step.kind in _WITH_WEIGHTS)

    @property
    def activations(self) -> tuple[Step, ...]:
        """The elementwise functions, in order."""
        return tuple(step for step in self.steps if step.kind == "activation")

    @cached_property
    def skips(self) -> tuple[Skip, ...]:
        """Places where two ways through the network meet again (residual connections, gates, concatenations)."""
        return find_skips(self.steps)

    @cached_property
    def last_layers(self) -> tuple[Step | None, ...]:
        """For each output the dense layer whose result it is, rearrangements and constant factors apart, or None."""
        return tuple(self._last_layer(output) for output in self.outputs)

    @property
    def linear_output(self) -> bool:
        """True if every output is the result of a dense layer, rearrangements and constant factors apart."""
        return all(step is not None for step in self.last_layers)

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Blocks of `space` that no output depends on."""
        used = {
            str(self._program.values[i].key)
            for i in self._program.reachable(self._program.outputs)
            if self._program.values[i].kind == "parameter"
        }
        return tuple(name for name in self.space.names if name not in used)

    @cached_property
    def tied(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters used by more than one step, and the numbers of these steps.

        Steps that use different parts of one parameter (the three projections of an attention) count as well.
        """
        users: dict[str, list[int]] = {}
        for step in self.steps:
            for name in step.parameters:
                users.setdefault(name, []).append(step.index)
        return {name: tuple(steps) for name, steps in users.items() if len(steps) > 1}

    def homogeneity(self, parameters: str | Iterable[str] | None = None) -> float | None:
        """The degree k with f(c theta) = c^k f(theta) for all c > 0, where only some parameters are scaled.

        Args:
            parameters: names of the parameters that are scaled; None scales all of them.

        Returns:
            The degree; None if the outputs are not homogeneous in these parameters (or not known to be).

        Raises:
            InvalidInputError: for a name that no parameter has.
        """
        chosen = [parameters] if isinstance(parameters, str) else parameters
        names = set(self.parameters.names if chosen is None else chosen)
        unknown = names - set(self.parameters.names)
        if unknown:
            known = ", ".join(self.parameters.names)
            raise InvalidInputError(f"no parameter {min(unknown)!r}; there are {known}")
        return degree_in(self.steps, self.outputs, names)

    # -- where it lies in theta ----------------------------------------------------------------------------------------

    def coordinates(self, weights: Weights) -> Int[Tensor, "..."]:
        """Coordinates in theta of the entries of a layer's weights, -1 for frozen ones, shaped as the layer uses them.

        Raises:
            NotApplicableError: if they are computed from other parameters (weight normalisation).
        """
        full = weights.coordinates()
        if full is None:
            raise NotApplicableError(
                f"the weights made of {', '.join(weights.names)} are computed, they are no coordinates of theta"
            )
        return self.to_space(full)

    def to_space(self, full: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Coordinates in theta of full coordinates (those of `parameters`), -1 for frozen ones."""
        return self._to_space[full]

    @cached_property
    def _to_space(self) -> Tensor:
        table = torch.full((self.parameters.size,), -1, dtype=torch.long)
        for block in self.space:
            table[self.parameters.slice(block.name)] = torch.arange(block.start, block.stop)
        return table

    @property
    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """Hidden units and channels that may be exchanged for one another, group by group, checked numerically."""
        return self._groups[0]

    @property
    def pinned(self) -> tuple[str, ...]:
        """Why the units of other layers may not be exchanged, one sentence a layer."""
        return self._groups[1]

    @cached_property
    def _groups(self) -> tuple[tuple[UnitGroup, ...], tuple[str, ...]]:
        from thalweg.structure.unit_check import checked_groups  # it evaluates the class above

        return checked_groups(self)

    # -- as a multilayer perceptron ------------------------------------------------------------------------------------

    def as_dense(self, *, mixed: bool = False) -> DenseNetwork | None:
        """The network as a multilayer perceptron, None where it is not one (`explain_dense` says why).

        Args:
            mixed: whether units of one layer may have different activations. Who argues from *the* activation of a
                layer must not ask for such networks.
        """
        network = self._dense[0]
        return network if network is None or mixed or not network.mixed else None

    def explain_dense(self, *, mixed: bool = False) -> str:
        """Why the network is no multilayer perceptron; empty where it is one."""
        network, reason = self._dense
        if network is None or mixed or not network.mixed:
            return reason
        return f"the units of {network.mixed[0]!r} have different activations"

    @cached_property
    def _dense(self) -> tuple[DenseNetwork | None, str]:
        from thalweg.structure.dense import read_dense  # a view of the class above

        return read_dense(self)

    # -- computed again ------------------------------------------------------------------------------------------------

    def named(self, theta: Float[Tensor, "*batch P"]) -> dict[str, Tensor]:
        """All parameters by name, ``(*batch, *shape)`` each; frozen ones without batch.

        Raises:
            InvalidInputError: for a theta of another length.
        """
        fixed = self.parameters.unflatten(self.frozen.to(theta.device, theta.dtype))
        return {**fixed, **self.space.unflatten(theta)}

    def outputs_at(self, theta: Float[Tensor, "*batch P"], inputs: Any) -> list[Tensor]:
        """The outputs computed from the description, flattened, each ``(*batch, ...)``."""
        return self.record(theta, inputs, self.outputs)

    def activation_inputs(self, theta: Float[Tensor, "*batch P"], inputs: Any) -> dict[str, Tensor]:
        """What enters each elementwise function, by the name of its step, ``(*batch, ...)`` each."""
        found = self.record(theta, inputs, [step.reads[0] for step in self.activations])
        return {step.name: tensor for step, tensor in zip(self.activations, found, strict=True)}

    def record(self, theta: Float[Tensor, "*batch P"], inputs: Any, steps: Sequence[int]) -> list[Tensor]:
        """Results of some steps, by their numbers, each ``(*batch, ...)``.

        Inputs may have any number of samples: for a new shape the module is traced again.

        Raises:
            InvalidInputError: if the network computes other steps for inputs of this shape, or for a theta of another
                length.
        """
        leaves = to_double(pytree.tree_leaves(inputs))
        program, description = self._for(inputs, leaves)
        if not isinstance(theta, Tensor) or theta.shape[-1:] != (self.space.size,):
            found = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise InvalidInputError(f"theta must be a tensor (*batch, {self.space.size}), got {found}")
        batch = theta.shape[:-1]
        rows = theta.reshape(-1, self.space.size).to(self.frozen)
        if not len(rows):
            return [rows.new_zeros(*batch, *description[step].shape) for step in steps]

        def one(row: Tensor) -> list[Tensor]:
            return run_steps(description, program, self.parameters, self.named(row), leaves, steps)

        with plain_execution():
            results = _for_rows(one, rows, together=not any(v.base in _ONE_BY_ONE for v in program.values))
        return [r.reshape(*batch, *r.shape[1:]) for r in results]

    def one_theta(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """A single parameter vector, checked, in float64 where tables of weights are compared.

        Raises:
            InvalidInputError: for a batch or another length, and for entries that are not finite.
        """
        if not isinstance(theta, Tensor) or theta.shape != (self.space.size,):
            found = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise InvalidInputError(f"one parameter vector ({self.space.size},) is needed, got {found}")
        if not bool(torch.isfinite(theta).all()):
            raise InvalidInputError(f"theta holds {int((~torch.isfinite(theta)).sum())} NaN or infinite entries")
        return theta.detach().to("cpu", torch.float64)

    def record_parts(self, theta: Float[Tensor, " P"], inputs: Any, steps: Sequence[int]) -> Iterator[list[Tensor]]:
        """Like `record` for one theta, a part of the samples at a time, so that memory stays bounded.

        Networks whose samples influence each other are computed in one piece.
        """
        leaves, spec = pytree.tree_flatten(inputs)
        count = leading_dimension(leaves)
        if count is None or not self.independent_samples:
            yield self.record(theta, inputs, steps)
            return
        example = leading_dimension(pytree.tree_leaves(self.example_inputs)) or 1
        per_sample = 8 * sum(torch.Size(step.shape).numel() for step in self.steps) // example
        size = max(1, PART_BYTES // max(1, per_sample))
        for start in range(0, count, size):
            part = some_samples(leaves, slice(start, start + size))
            yield self.record(theta, pytree.tree_unflatten(part, spec), steps)

    def _for(self, inputs: Any, leaves: list[Any]) -> tuple[Program, tuple[Step, ...]]:
        shapes = shapes_of(leaves)
        if shapes == self._shapes:
            return self._program, self.steps
        if shapes not in self._others:
            double = pytree.tree_unflatten(leaves, pytree.tree_structure(inputs))
            try:
                program = capture(self._source, double)
            except NotTraceableError as error:
                raise InvalidInputError(f"with inputs of shape {shapes} it cannot be traced: {error}") from error
            steps, _ = recognise(program, self.parameters)
            if _signature(steps) != _signature(self.steps):
                raise InvalidInputError(
                    f"for inputs of shape {shapes} this network computes other steps than for {self._shapes}; "
                    "trace it again with such inputs"
                )
            while len(self._others) >= _KEPT_PROGRAMS:
                self._others.pop(next(iter(self._others)))
            self._others[shapes] = program, steps
        return self._others[shapes]

    @cached_property
    def _shapes(self) -> tuple[Any, ...]:
        return shapes_of(pytree.tree_leaves(self.example_inputs))

    def key_of(self, step: Step) -> str | int:
        """Place of an input among the flattened inputs."""
        return self._program.values[step.value].key

    def argument(self, step: Step, place: int) -> Any:
        """An argument of a step's operation by its place, None where it was left out."""
        value = self._program.values[step.value]
        while value.base == "getitem":
            value = self._program.values[value.reads[0]]
        return value.args[place] if place < len(value.args) else None

    def rearranged(self, step: Step, *entries: Tensor) -> Tensor:
        """What a step that only moves entries about makes of other tensors of the shapes it reads.

        Args:
            step: of kind ``"rearrange"`` or ``"concatenate"``.
            entries: one tensor for each step it reads, of that step's shape in the trace.
        """
        known: dict[int, Any] = {}
        for read, tensor in zip(step.reads, entries, strict=True):
            before = self.steps[read]
            known.update(dict.fromkeys((before.value, *before.equals), tensor.reshape(before.shape)))
        result: Tensor = self._program.evaluate([step.value], lambda v: self._program.constants[int(v.key)], known)[0]
        return result

    def _last_layer(self, output: int) -> Step | None:
        step = self.steps[output]
        while len(step.reads) == 1 and (
            step.kind == "rearrange" or (step.activation is not None and step.activation.linear)
        ):
            step = self.steps[step.reads[0]]
        return step if step.kind == "dense" else None

    # -- for people ----------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """The steps that are not mere rearrangements, one line each."""
        lines = []
        for step in self.steps:
            if step.kind in {"rearrange", "input"}:
                continue
            what = step.activation.name if step.activation else step.name
            lines.append(f"{step.kind:12s} {what:30s} {'x'.join(map(str, step.shape[1:]))}")
        return "\n".join(lines)


def to_double(leaves: Sequence[Any]) -> list[Any]:
    """Inputs in float64 where they are floating-point numbers."""

    def double(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.detach().to(torch.float64) if floating else leaf

    return [double(leaf) for leaf in leaves]


def shapes_of(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """What a trace depends on: shapes and types of tensors, and everything else by its value."""
    return tuple((tuple(leaf.shape), str(leaf.dtype)) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)


def _signature(steps: Sequence[Step]) -> tuple[Any, ...]:
    names = (s.activation.name if s.activation and s.activation.recognised else "" for s in steps)
    return tuple((s.kind, s.reads, s.parameters, name) for s, name in zip(steps, names, strict=True))


def _for_rows(one: Any, rows: Tensor, *, together: bool) -> list[Tensor]:
    """Apply a function of one parameter vector to all rows: by ``vmap``, or one after another where that fails."""
    if together and len(rows) > 1:
        try:
            batched: list[Tensor] = torch.func.vmap(one)(rows)
        except (RuntimeError, NotImplementedError):  # an operation without a batching rule
            pass
        else:
            return batched
    separate = [one(row) for row in rows.unbind()]
    return [torch.stack(column) for column in zip(*separate, strict=True)]
