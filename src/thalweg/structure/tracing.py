"""From any module to its structure, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.structure.caller import Forward
from thalweg.structure.capture import capture
from thalweg.structure.network import NetworkStructure, to_double
from thalweg.structure.recognise import recognise
from thalweg.structure.source import ForwardFailedError, NotTraceableError, Source
from thalweg.structure.steps import run_steps
from thalweg.structure.verify import disagreement, leading_dimension, samples_are_independent, some_samples
from thalweg.structure.weights import full_vector

__all__ = ["TraceReport", "explain_trace", "trace"]

SAMPLES = 4
"""How many of the example samples are used, unless the module insists on its own number."""


@dataclass(frozen=True)
class TraceReport:
    """What came of tracing a module.

    Attributes:
        structure: the description, or None.
        reason: why there is none, one sentence without the final stop; empty where there is one.
    """

    structure: NetworkStructure | None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.structure is not None


def trace(
    model: nn.Module, inputs: Any, space: ParameterSpace | None = None, forward: Forward | None = None, *, seed: int = 0
) -> NetworkStructure | None:
    """Describe the network that a module computes, or return None where that cannot be had (`explain_trace` says why).

    Args:
        model: any module; it is copied and never called.
        inputs: example inputs: a tensor, or a tuple, list or dict of them that the module is called with. A few samples
            suffice.
        space: the address of every coordinate of theta; None takes the module's trainable parameters in order.
        forward: how the module is called, ``forward(model, inputs)``, where that differs from ``model(inputs)``,
            ``model(*inputs)`` for a tuple or list and ``model(**inputs)`` for a dict.
        seed: of the random parameters and inputs at which the description is checked.

    Raises:
        InvalidInputError: for what is no module, and if the space has blocks that are no parameters of the module.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> structure = trace(net, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    >>> print(structure.describe())
    dense        0                              4
    activation   tanh                           4
    dense        2                              2
    """
    return explain_trace(model, inputs, space, forward, seed=seed).structure


def explain_trace(
    model: nn.Module, inputs: Any, space: ParameterSpace | None = None, forward: Forward | None = None, *, seed: int = 0
) -> TraceReport:
    """Like `trace`, with the reason where there is no structure.

    >>> explain_trace(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), torch.ones(3, 2)).reason
    'its forward draws random numbers (bernoulli); dropout is switched off by model.eval()'
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"a network's structure is traced from an nn.Module, got {type(model).__name__}")
    try:
        source = Source(model, forward)
        return TraceReport(_describe(source, inputs, _checked_space(model, source, space), seed))
    except NotTraceableError as error:
        return TraceReport(None, str(error))


def _checked_space(model: nn.Module, source: Source, space: ParameterSpace | None) -> ParameterSpace:
    shapes = {name: tuple(p.shape) for name, p in source.parameters().items()}
    if not shapes or not sum(torch.Size(s).numel() for s in shapes.values()):
        raise NotTraceableError("it has no parameters")
    odd = [f"{name!r} ({p.dtype})" for name, p in source.parameters().items() if not p.is_floating_point()]
    if odd:
        raise NotTraceableError(f"its parameter {odd[0]} does not hold real numbers")
    if space is None:
        trainable = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        return ParameterSpace(trainable or shapes)
    for block in space:
        if shapes.get(block.name) != block.shape:
            found = f"has shape {shapes[block.name]}" if block.name in shapes else "does not exist"
            raise InvalidInputError(
                f"the space has a block {block.name!r} of shape {block.shape}, which {found} in the module; "
                f"its parameters are {', '.join(shapes)}"
            )
    return space


def _describe(source: Source, inputs: Any, space: ParameterSpace, seed: int) -> NetworkStructure:
    leaves, spec = pytree.tree_flatten(inputs)
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise NotTraceableError("its inputs hold no tensor")
    if leading_dimension(leaves) == 0:
        raise NotTraceableError("its inputs hold no sample, on which the description could be checked")
    fewer = (leading_dimension(leaves) or 0) > SAMPLES
    try:
        few = some_samples(leaves, slice(SAMPLES)) if fewer else leaves
        return _build(source, to_double(few), spec, space, seed)
    except ForwardFailedError:
        if not fewer:
            raise
        return _build(source, to_double(leaves), spec, space, seed)  # it may insist on its own number of samples


def _build(
    source: Source, leaves: Sequence[Any], spec: pytree.TreeSpec, space: ParameterSpace, seed: int
) -> NetworkStructure:
    inputs = pytree.tree_unflatten(list(leaves), spec)
    program = capture(source, inputs)
    own = source.parameters()
    parameters = ParameterSpace({name: tuple(p.shape) for name, p in own.items()})
    steps, step_of = recognise(program, parameters)
    outputs = tuple(step_of[output] for output in program.outputs)

    def rebuilt(named: dict[str, Tensor], given: list[Any]) -> list[Tensor]:
        return run_steps(steps, program, parameters, named, given, outputs)

    problem = disagreement(source, inputs, rebuilt, seed)
    if problem is not None:
        raise NotTraceableError(problem)
    return NetworkStructure(
        space=space,
        parameters=parameters,
        steps=steps,
        outputs=outputs,
        independent_samples=samples_are_independent(source, inputs),
        frozen=full_vector(own, parameters),
        example_inputs=inputs,
        _source=source,
        _program=program,
    )
