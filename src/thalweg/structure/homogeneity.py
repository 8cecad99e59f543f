"""Of which degree is a network homogeneous in some of its parameters?

Every step gets the degree k with which its result grows when the chosen parameters are multiplied by c > 0; a step
that is not homogeneous has none. Facts of the activations and the kinds of the steps decide; no numbers are compared
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from thalweg.structure.steps import Step

__all__ = ["degree_in"]

_KEEP = frozenset(
    {
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_max_pool2d",
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "neg",
    }
)
"""Operations of torch whose result scales as their one argument does."""

Degrees = Mapping[int, float | None]


def degree_in(steps: Sequence[Step], outputs: Sequence[int], names: set[str]) -> float | None:
    """The degree in which all outputs are homogeneous in some parameters, None if they are not.

    Args:
        steps: a description.
        outputs: numbers of the steps that are returned.
        names: the parameters that are scaled together; all others stay.
    """
    degrees: dict[int, float | None] = {}
    for step in steps:
        rule = _RULES.get(step.kind, _by_operation)
        known = all(degrees[r] is not None for r in step.reads)
        degrees[step.index] = rule(step, [degrees[r] or 0.0 for r in step.reads], names) if known else None
    found = {degrees[o] for o in outputs}
    return found.pop() if len(found) == 1 else None


def _weights_degree(parameters: Sequence[str], names: set[str]) -> float | None:
    """1 if all of these parameters are scaled, 0 if none is, None if some are."""
    hits = [name in names for name in parameters]
    return 1.0 if hits and all(hits) else (None if any(hits) else 0.0)


def _source(step: Step, degrees: list[float], names: set[str]) -> float | None:
    return 0.0


def _layer(step: Step, degrees: list[float], names: set[str]) -> float | None:
    """A dense layer or a convolution: degree of the input plus degree of the weights; a bias must scale alike."""
    if step.weight is None or step.weight.kind == "computed" or len(degrees) != 1:
        return _constant(step, degrees, names)
    weight = _weights_degree(step.weight.names, names)
    if weight is None:
        return None
    product = degrees[0] + weight
    if step.bias is None:
        return product
    if step.bias.kind == "computed":
        return None
    return product if _weights_degree(step.bias.names, names) == product else None


def _embedding(step: Step, degrees: list[float], names: set[str]) -> float | None:
    return _weights_degree(step.parameters, names)


def _activation(step: Step, degrees: list[float], names: set[str]) -> float | None:
    assert step.activation is not None
    if degrees[0] == 0:
        return 0.0
    power = step.activation.homogeneity
    return None if power is None else power * degrees[0]


def _same(step: Step, degrees: list[float], names: set[str]) -> float | None:
    """A sum or a concatenation of results that scale alike."""
    return degrees[0] if len(set(degrees)) == 1 and not step.parameters else None


def _product(step: Step, degrees: list[float], names: set[str]) -> float | None:
    """A product of two results, or of one result with itself."""
    if step.parameters:
        return None
    return 2 * degrees[0] if len(degrees) == 1 else sum(degrees)


def _constant(step: Step, degrees: list[float], names: set[str]) -> float | None:
    """Anything that does not depend on the chosen parameters scales with degree 0."""
    untouched = not any(name in names for name in step.parameters)
    return 0.0 if untouched and all(d == 0 for d in degrees) else None


def _rearrange(step: Step, degrees: list[float], names: set[str]) -> float | None:
    if step.operation.startswith("aten.constant_pad_nd"):
        return _constant(step, degrees, names)
    return degrees[0] if len(degrees) == 1 else _constant(step, degrees, names)


def _by_operation(step: Step, degrees: list[float], names: set[str]) -> float | None:
    base = step.operation.split(".")[1] if "." in step.operation else step.operation
    if base in _KEEP and len(degrees) == 1 and not step.parameters:
        return degrees[0]
    return _constant(step, degrees, names)


_RULES: dict[str, Callable[[Step, list[float], set[str]], float | None]] = {
    "input": _source,
    "dense": _layer,
    "convolution": _layer,
    "embedding": _embedding,
    "activation": _activation,
    "add": _same,
    "concatenate": _same,
    "multiply": _product,
    "matmul": _product,
    "rearrange": _rearrange,
}
