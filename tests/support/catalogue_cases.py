"""What the tests of the catalogue are made of: small networks, their symmetries written out, and batches of runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.catalogue import Batch, Catalogue, symmetries_of
from thalweg.foundation import ParameterSpace
from thalweg.objectives import L2, EmpiricalRisk, Objective
from thalweg.solvers import Solution, Status

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}


def perceptron(activation: str, widths: tuple[int, ...], bias: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inside, out in itertools.pairwise(widths):
        parts += [nn.Linear(inside, out, bias=bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*parts[:-1])


@cache
def risk(
    activation: str = "tanh", widths: tuple[int, ...] = (2, 3, 1), bias: bool = True, dtype: torch.dtype = torch.float64
) -> EmpiricalRisk:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, widths[0], generator=generator, dtype=dtype)
    y = torch.randn(12, widths[-1], generator=generator, dtype=dtype)
    return EmpiricalRisk(perceptron(activation, widths, bias), nn.MSELoss(), x, y, dtype=dtype)


def bowl(size: int = 4) -> L2:
    """An objective without a network, whose only symmetry is the identity."""
    return L2(ParameterSpace({"x": (size,)}), 1.0)


def layers_of(theta: Tensor, widths: tuple[int, ...], bias: bool) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in) and biases of each layer, cut out of theta by hand."""
    found, start = [], 0
    for inside, out in itertools.pairwise(widths):
        weight = theta[start : start + inside * out].reshape(out, inside)
        start += inside * out
        shift = theta[start : start + out] if bias else theta.new_zeros(out)
        start += out if bias else 0
        found.append((weight, shift))
    return found


def flat(layers: list[tuple[Tensor, Tensor]], bias: bool) -> Tensor:
    return torch.cat([part.reshape(-1) for w, b in layers for part in ((w, b) if bias else (w,))])


def changed(
    theta: Tensor, widths: tuple[int, ...], bias: bool, layer: int, order: Any, signs: Any = None, scales: Any = None
) -> Tensor:
    """Units of one hidden layer exchanged, their signs changed (odd activation), scaled (degree one), in this order."""
    layers = layers_of(theta, widths, bias)
    (weight, shift), (after, last) = layers[layer], layers[layer + 1]
    order = list(order)
    inner = torch.ones(len(order), dtype=theta.dtype) if signs is None else torch.as_tensor(signs, dtype=theta.dtype)
    outer = inner.clone()
    if scales is not None:
        inner, outer = inner * scales, outer / scales
    layers[layer] = weight[order] * inner[:, None], shift[order] * inner
    layers[layer + 1] = after[:, order] * outer, last
    return flat(layers, bias)


def all_copies(theta: Tensor, widths: tuple[int, ...], bias: bool, odd: bool) -> Iterator[Tensor]:
    """Every copy under permutations, and signs for odd activations, of all hidden layers."""
    elements = []
    for width in widths[1:-1]:
        signs = list(itertools.product((1.0, -1.0), repeat=width)) if odd else [(1.0,) * width]
        elements.append(list(itertools.product(itertools.permutations(range(width)), signs)))
    for chosen in itertools.product(*elements):
        copy = theta
        for layer, (order, signs) in enumerate(chosen):
            copy = changed(copy, widths, bias, layer, order, signs)
        yield copy


def ends(objective: Objective, theta: Tensor, statuses: list[Status] | None = None, **changes: Any) -> Solution:
    """A solution that claims to have ended at these parameters ``(b, P)``."""
    count = len(theta)
    status, message = np.empty(count, object), np.empty(count, object)
    status[:], message[:] = statuses or [Status.CONVERGED] * count, [f"message {i}" for i in range(count)]
    fields: dict[str, Any] = {
        "end": np.full(count, None, object),
        "value": objective.value(theta),
        "gradient_norm": torch.full((count,), 1e-10, dtype=theta.dtype),
        "gradient_floor": torch.full((count,), torch.inf, dtype=theta.dtype),
        "newton_decrement": torch.full((count,), torch.nan, dtype=theta.dtype),
        "index": torch.zeros(count, dtype=torch.int64),
        "undecided": torch.zeros(count, dtype=torch.int64),
        "iterations": torch.arange(count),
        "evaluations": torch.full((count,), 7),
        "hessians": torch.full((count,), 3),
    }
    return Solution(theta, status=status, message=message, seconds=1.5, method="by hand", **(fields | changes))


def batch(objective: Objective, theta: Tensor, first: int = 0, **changes: Any) -> Batch:
    seeds = torch.arange(first, first + len(theta))
    return Batch(seeds, ends(objective, theta, **changes), seconds=2.0, worker="here:1")


def draws(objective: Objective, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(count, objective.space.size, generator=generator, dtype=torch.float64)
    return theta.to(objective.dtype)


def write_surveys(place: str, jobs: list[tuple[str, list[int]]], pool: int, size: int) -> list[list[bool]]:
    """What a driver process does, for some surveys and numbers of batches: used by tests that start several of them."""
    torch.set_num_threads(1)
    objective, wrote = risk(), []
    with Catalogue(place) as catalogue:
        for name, numbers in jobs:
            survey = catalogue.open_survey(objective, {"name": name}, size)
            wrote.append([catalogue.add_batch(survey, n, pooled_batch(objective, n, pool, size)) for n in numbers])
    return wrote


def pooled_batch(objective: Objective, number: int, pool: int, size: int) -> Batch:
    """Batch `number`: seed s ends at a random copy of point ``s % pool``; every fifth does not converge."""
    seeds = torch.arange(number * size, (number + 1) * size)
    theta = symmetries_of(objective).moved(draws(objective, pool, 99)[seeds % pool], seed=number)
    statuses = [Status.STALLED if s % 5 == 4 else Status.CONVERGED for s in seeds.tolist()]
    return Batch(seeds, ends(objective, theta, statuses), seconds=1.0, worker="driver")
