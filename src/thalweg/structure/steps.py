"""The steps of a network's description, and how each is computed again.

A description is a directed graph: each step reads the results of earlier steps. Dense layers and activations are
computed again from what the description says of them (which coordinates form the matrix, which registered function is
applied); every other step is run as recorded. So the comparison with the module tests the description itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.structure.activations import ActivationFacts
from thalweg.structure.program import Program, Value
from thalweg.structure.weights import Weights, evaluate_weights

__all__ = ["Kind", "Step", "run_steps"]

Kind = Literal[
    "input",
    "dense",
    "convolution",
    "embedding",
    "norm",
    "activation",
    "add",
    "multiply",
    "concatenate",
    "rearrange",
    "pool",
    "softmax",
    "matmul",
    "other",
]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a network.

    Attributes:
        index: its number; steps are numbered in an order in which they can be computed.
        kind: what it does. ``"rearrange"`` only moves entries about; ``"matmul"`` multiplies two results (attention);
            ``"other"`` is an operation of torch that nothing more is known of.
        name: of the layer where its parameters have a common prefix, else of the operation with its number.
        reads: numbers of the steps whose results it uses.
        parameters: names of the parameters it uses itself.
        shape: of its result on the inputs it was traced with.
        operation: name of torch's operation (``aten``), empty for an input.
        weight: of a dense layer ``(out, in)``, a convolution, an embedding or a norm.
        bias: of a dense layer ``(out,)``, a convolution or a norm.
        activation: what is applied, for an activation.
        left: a dense layer that multiplies from the left, features along the first of two axes.
        squeezed: a dense layer with one output whose axis is dropped (``h @ a`` with a vector a).
        from_data: True if it depends on inputs only, not on parameters.
        value: number of its result in the program.
        equals: numbers of all values of the program that its result stands for: copies, and the sum with an absorbed
            bias.
    """

    index: int
    kind: Kind
    name: str
    reads: tuple[int, ...]
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    operation: str
    weight: Weights | None = None
    bias: Weights | None = None
    activation: ActivationFacts | None = None
    left: bool = False
    squeezed: bool = False
    from_data: bool = False
    value: int = -1
    equals: tuple[int, ...] = ()

    def __repr__(self) -> str:
        parts = [f"{self.index}: {self.kind} {self.name!r}"]
        if self.activation is not None:
            parts.append(self.activation.name)
        if self.reads:
            parts.append(f"reads {', '.join(map(str, self.reads))}")
        return f"<{'; '.join(parts)}; {'x'.join(map(str, self.shape)) or 'scalar'}>"


def run_steps(
    steps: Sequence[Step],
    program: Program,
    space: ParameterSpace,
    parameters: Mapping[str, Tensor],
    inputs: Sequence[Any],
    wanted: Sequence[int],
) -> list[Tensor]:
    """Compute some steps of a description.

    Args:
        steps: the description.
        program: what it describes.
        space: all parameters, for full coordinates.
        parameters: values of all parameters by name.
        inputs: flattened inputs.
        wanted: numbers of the steps whose results are returned.
    """
    runner = _Runner(steps, program, space, parameters, inputs)
    needed = _needed(steps, wanted)
    for step in steps:
        if step.index in needed:
            result = runner.compute(step)
            runner.results.update(dict.fromkeys((step.value, *step.equals), result))
    return [runner.results[steps[w].value] for w in wanted]


def _needed(steps: Sequence[Step], wanted: Sequence[int]) -> set[int]:
    needed = set(wanted)
    for step in reversed(steps):
        if step.index in needed:
            needed.update(step.reads)
    return needed


class _Runner:
    def __init__(
        self,
        steps: Sequence[Step],
        program: Program,
        space: ParameterSpace,
        parameters: Mapping[str, Tensor],
        inputs: Sequence[Any],
    ) -> None:
        self._steps, self._program, self._space = steps, program, space
        self._parameters, self._inputs = parameters, inputs
        self.results: dict[int, Any] = {}

    def compute(self, step: Step) -> Any:
        """The result of a step whose reads are there."""
        if step.kind == "activation":
            assert step.activation is not None
            return step.activation(self._read(step, 0))
        if step.kind == "dense":
            return self._dense(step)
        return self._program.evaluate([step.value], self._source, self.results)[0]

    def _read(self, step: Step, position: int) -> Tensor:
        result: Tensor = self.results[self._steps[step.reads[position]].value]
        return result

    def _dense(self, step: Step) -> Tensor:
        assert step.weight is not None
        x = self._read(step, 0)
        weight = self.weights(step.weight)
        bias = None if step.bias is None else self.weights(step.bias)
        if step.left:
            product = weight @ x
            return product if bias is None else product + bias.unsqueeze(-1)
        product = x @ weight.mT
        if bias is not None:
            product = product + bias
        return product.squeeze(-1) if step.squeezed else product

    def weights(self, weights: Weights) -> Tensor:
        """The values of weights, shaped as the layer uses them."""
        if weights.kind != "computed":
            return evaluate_weights(weights, self._parameters, self._space)
        value: Tensor = self._program.evaluate([weights.value], self._source, {})[0]
        return value.mT if weights.flipped else value

    def _source(self, value: Value) -> Any:
        if value.kind == "parameter":
            return self._parameters[str(value.key)]
        if value.kind == "constant":
            return self._program.constants[int(value.key)]
        return self._inputs[int(value.key)]
