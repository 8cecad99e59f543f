"""Parameters in which a network is linear or homogeneous, and the vector gamma with ``f = J gamma`` that follows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.foundation import NotApplicableError
from thalweg.structure import NetworkStructure, Step

__all__ = ["Euler", "euler_vector", "last_layer_blocks", "last_layer_coordinates"]


class Euler(NamedTuple):
    """A vector with ``f = J gamma``, and where it comes from."""

    gamma: Float[Tensor, " P"]
    describe: str


def last_layers(structure: NetworkStructure) -> list[Step]:
    """The dense layers whose results are the outputs, used nowhere else.

    Raises:
        NotApplicableError: where an output is no linear function of weights that are its own.
    """
    if not structure.linear_output:
        raise NotApplicableError("it needs outputs made by a dense layer")
    found = [step for step in structure.last_layers if step is not None]
    if len({step.index for step in found}) < len(found):
        raise NotApplicableError("it needs a last layer of its own for each output")
    for step in found:
        if set(step.parameters) & set(structure.tied):
            raise NotApplicableError(f"the parameters of the last layer {step.name!r} are used elsewhere too")
        if step.weight is None or "computed" in (step.weight.kind, step.bias.kind if step.bias else ""):
            raise NotApplicableError(f"the weights of the last layer {step.name!r} are computed from other parameters")
    return found


def last_layer_blocks(structure: NetworkStructure) -> list[str]:
    """Names of the parameters of the last layers.

    Raises:
        NotApplicableError: as for `last_layers`.
    """
    return list(dict.fromkeys(name for step in last_layers(structure) for name in step.parameters))


def last_layer_coordinates(case: Case) -> Int[Tensor, " k"]:
    """Free coordinates of the last layers: the outputs are affine in them.

    Raises:
        NotApplicableError: where there are none, or the network has no linear last layer of its own.
    """
    structure = case.structure()
    tables = []
    for step in last_layers(structure):
        tables += [structure.coordinates(part).reshape(-1) for part in (step.weight, step.bias) if part is not None]
    found = torch.cat(tables)
    found = found[found >= 0].unique()
    if not len(found):
        raise NotApplicableError("the last layer is frozen")
    return found


def euler_vector(case: Case) -> Euler | None:
    """A vector gamma with ``f = J gamma`` at every theta, None where none is known.

    A linear last layer, free altogether, gives its own weights (and zero elsewhere); a network homogeneous of degree D
    in all parameters gives ``theta / D``.

    >>> from thalweg.objectives import EmpiricalRisk
    >>> layers = torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU(), torch.nn.Linear(3, 1, bias=False)
    >>> model = torch.nn.Sequential(*layers)
    >>> risk = EmpiricalRisk(model, torch.nn.MSELoss(), torch.ones(3, 2), torch.ones(3, 1))
    >>> euler_vector(Case(risk, risk.initial)).describe
    'theta / 2 (homogeneous of degree 2)'
    """
    try:
        structure = case.structure()
    except NotApplicableError:
        return None
    if set(structure.parameters.names) <= set(structure.space.names):
        degree = structure.homogeneity()
        if degree:
            return Euler(case.theta / degree, f"theta / {degree:g} (homogeneous of degree {degree:g})")
    try:
        names = last_layer_blocks(structure)
        chosen = last_layer_coordinates(case)
    except NotApplicableError:
        return None
    if not set(names) <= set(case.objective.space.names):
        return None
    gamma = torch.zeros_like(case.theta)
    gamma[chosen] = case.theta[chosen]
    return Euler(gamma, f"the last layer's weights, {', '.join(names)}")
