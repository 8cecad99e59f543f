"""Whether a network is what its description says, on all the data."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.claims import Hypothesis, State
from thalweg.foundation import InvalidInputError, require_memory
from thalweg.objectives import EmpiricalRisk
from thalweg.structure import NetworkStructure

__all__ = ["agreement"]

NEAR = 1e-9
"""Largest difference of outputs, relative to one and the largest output, that counts as rounding."""


def agreement(risk: EmpiricalRisk, structure: NetworkStructure, theta: Float[Tensor, " P"]) -> Hypothesis:
    """The hypothesis that the network is what its description says, held against its outputs on all data here.

    It is traced with a few samples, and may do something else with many.

    Args:
        risk: whose module it is.
        structure: the description.
        theta: ``(P,)``.

    Raises:
        MemoryLimitError: where a forward pass would not fit.
    """
    statement = "the network is as its description says"
    expected = risk.outputs(theta)
    try:
        described = _described(risk, structure, theta)
    except InvalidInputError as error:  # all data take another way through it than the few samples it was traced with
        return Hypothesis(statement, State.NOT_MET, note=str(error))
    gap = math.inf
    if described.shape == expected.shape:
        gap = float((described.to(expected) - expected).abs().max())
    if not gap <= NEAR * (1 + float(expected.abs().max())):
        return Hypothesis(statement, State.NOT_MET, margin=gap, note=f"outputs on all data differ by {gap:.2g}")
    return Hypothesis(statement, State.CHECKED, margin=gap, note="it gives the same outputs on all data here")


def _described(risk: EmpiricalRisk, structure: NetworkStructure, theta: Float[Tensor, " P"]) -> Float[Tensor, "N C"]:
    """The outputs on all data, from the description."""
    network = structure.as_dense(mixed=True)
    if network is not None:
        size = 16 * risk.n_samples * network.rows_per_sample * sum(network.widths)
        require_memory(size, "a forward pass over all samples", "Use fewer samples.")
        return network.outputs(theta, risk.inputs)
    parts = [
        torch.cat([output.reshape(len(output), -1) for output in part], dim=1)
        for part in structure.record_parts(theta, risk.inputs, structure.outputs)
    ]
    return torch.cat(parts)
