"""Separated data under a homogeneous classifier: the lowest loss is zero, and nothing attains it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.gradient_gap import bare_loss
from thalweg.certificates.linear_parts import last_layer_blocks
from thalweg.certificates.loss_forms import hard_labels
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError
from thalweg.structure import NetworkStructure

__all__ = ["SeparatedData"]


@dataclass(frozen=True)
class SeparatedData(Certifier):
    """Every decision is right, and scaling some parameters scales the outputs: training can go on for ever.

    With all margins positive and ``f(c theta_B) = c^k f(theta_B)``, ``k > 0``, for a block B of parameters, the loss
    tends to zero as c grows, but no finite logits make a logistic loss zero. Nor is there a stationary point with all
    margins positive, for there ``sum g . f`` would be zero, and it is negative.
    """

    name: ClassVar[str] = "separated data"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_ATTAINED
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "scaling a homogeneous classifier (elementary; Lyu, Li 2020)"
    stage: ClassVar[int] = 40

    def work(self, case: Case) -> Work:
        """A few forward passes."""
        hard_labels(case.data_term())
        case.structure()
        return Work(gradients=3)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Look at the margins, and for parameters that scale the outputs."""
        bare = bare_loss(case)
        if not bare.met:
            return self.declined([bare])
        labels = hard_labels(case.data_term())
        outputs, error, level = _outputs(case)
        allowed = 2 * error.reshape(-1)[labels.place].amax(1)
        margins = labels.margins(outputs)
        sure = margins - allowed - 4 * UNIT * outputs.reshape(-1)[labels.place].abs().amax(1)
        least = float(sure.min())
        found = _scaling_block(case.structure())
        if found is None:
            raise NotApplicableError("it needs free parameters in which the outputs are homogeneous")
        names, degree = found
        proved = State.PROVED if level is Level.RIGOROUS else State.CHECKED
        scaling = Hypothesis(
            f"the outputs are homogeneous of degree {degree:g} in {', '.join(names)}", State.PROVED, degree
        )
        if not least > 0:
            wrong = int((margins <= 0).sum())
            text = f"{wrong} of {len(margins)} decisions are wrong" if wrong else "a margin is not told from zero"
            return self.undecided(text, [bare, scaling])
        right = Hypothesis("every decision is right", proved, least, f"smallest margin at least {least:.4g}")
        direction = torch.zeros_like(case.theta)
        for name in names:
            block = case.objective.space.slice(name)
            direction[block] = case.theta[block]
        return self.claimed(
            f"the lowest loss is 0 and nothing attains it: every decision is right, and scaling {', '.join(names)} "
            "lowers the loss for ever",
            level=level,
            bound=0.0,
            hypotheses=[bare, right, scaling],
            evidence={"direction": direction, "margin": least, "degree": degree},
        )


def _outputs(case: Case) -> tuple[Tensor, Tensor, Level]:
    """Outputs and their errors, ``(N, C)`` each, proved where they can be."""
    try:
        found = case.bounded_outputs
    except NotApplicableError:
        moved = torch.stack([case.data_term().outputs(row) for row in case.moved_a_little])
        noise = float((moved - case.outputs).abs().max())
        return case.outputs, 16 * UNIT * case.outputs.abs() + 4 * noise, Level.NUMERIC
    return found.value, found.error, Level.RIGOROUS


def _candidates(structure: NetworkStructure) -> Iterator[list[str]]:
    """Sets of parameters that may scale the outputs: the last layer, all, the weights of each layer."""
    with suppress(NotApplicableError):
        yield last_layer_blocks(structure)
    yield list(structure.parameters.names)
    for step in structure.layers:
        if step.weight is not None:
            yield list(step.weight.names)


def _scaling_block(structure: NetworkStructure) -> tuple[list[str], float] | None:
    free = set(structure.space.names)
    for names in _candidates(structure):
        if names and set(names) <= free:
            degree = structure.homogeneity(names)
            if degree is not None and 0 < degree < math.inf:
                return names, degree
    return None


register_certifier(SeparatedData())
