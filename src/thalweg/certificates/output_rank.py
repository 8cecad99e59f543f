"""A last hidden layer narrower than the outputs: their table has a low rank, whatever the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch.utils import _pytree as pytree

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.least_squares import low_rank_bound
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.squared import squared_loss, squared_rows
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError
from thalweg.structure import NetworkStructure, Step
from thalweg.structure.verify import leading_dimension

__all__ = ["Bottleneck", "OutputRank", "bottlenecks"]


class Bottleneck(NamedTuple):
    """Rows of ``outputs`` numbers are a table of rank ``width``, plus a constant row where there is a bias."""

    width: int
    outputs: int
    bias: bool


def bottlenecks(structure: NetworkStructure) -> tuple[Bottleneck, ...]:
    """What the dense layers at the end of a network make of the rank of its outputs, one for each of these layers.

    Behind the last nonlinear step the outputs are linear in what each layer reads.

    Raises:
        NotApplicableError: where the outputs are not the result of a dense layer, row by row.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> bottlenecks(trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5)), torch.ones(4, 3)))
    (Bottleneck(width=2, outputs=5, bias=True),)
    """
    layers = list(_linear_tail(structure))
    if not layers:
        raise NotApplicableError("it needs outputs that are the result of a dense layer, one row after another")
    sizes = [layer.weight.shape for layer in layers if layer.weight is not None]
    found: list[Bottleneck] = []
    width, bias = sizes[0][0], False
    for layer, size in zip(layers, sizes, strict=True):
        if found and size[0] != sizes[len(found) - 1][1]:
            break  # rows are joined on the way: several rows of this layer make one of the next
        width, bias = min(width, size[1]), bias or layer.bias is not None
        found.append(Bottleneck(width, sizes[0][0], bias))
    return tuple(found)


def _linear_tail(structure: NetworkStructure) -> Iterator[Step]:
    """Dense layers from the output back to the last nonlinear step, as long as entries stay in their order."""
    if len(structure.outputs) != 1:
        return
    step, moves = structure.steps[structure.outputs[0]], list[Step]()
    while len(step.reads) == 1:
        if step.kind == "rearrange":
            moves.append(step)
        elif step.kind == "dense":
            if step.left or step.squeezed or not _in_order(structure, step, moves):
                return
            yield step
            moves = []
        elif step.activation is None or not step.activation.linear:
            return
        step = structure.steps[step.reads[0]]


def _in_order(structure: NetworkStructure, step: Step, moves: Sequence[Step]) -> bool:
    count = torch.Size(step.shape).numel()
    table = torch.arange(count).reshape(step.shape)
    for move in reversed(moves):
        table = structure.rearranged(move, table)
    return torch.equal(table.reshape(-1), torch.arange(count))


@dataclass(frozen=True)
class OutputRank(Certifier):
    """Lower bound of squared errors where fewer features than outputs reach the last layer.

    The outputs of all samples are ``Phi W^T`` (plus a bias), a table of a rank no larger than the width of Phi. The
    best such table leaves the squares of the remaining singular values of the targets, centred where there is a bias.
    """

    name: ClassVar[str] = "output rank"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "best approximation by a matrix of lower rank (Eckart and Young 1936)"
    stage: ClassVar[int] = 10

    def work(self, case: Case) -> Work:
        """A singular value decomposition of the targets."""
        squared_loss(case)
        narrow = _narrowest(case)
        rows = case.data_term().n_samples * case.data_term().n_outputs // narrow[0].outputs
        flops = 40.0 * len(narrow) * rows * narrow[0].outputs * min(rows, narrow[0].outputs)
        return Work(gradients=1, flops=flops, bytes=8 * 6 * rows * narrow[0].outputs)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Take the best of what each layer at the end gives."""
        narrow = _narrowest(case)
        rows = squared_rows(case, narrow[0].outputs)
        fits = [low_rank_bound(rows.targets, rows.weights, each.width, intercept=each.bias) for each in narrow]
        best = max(range(len(fits)), key=lambda place: fits[place].bound)
        (bound, rounding), one = fits[best], narrow[best]
        plus = " plus a constant row" if one.bias else ""
        hypotheses = [
            squared_loss(case),
            Hypothesis(
                f"the outputs are a table of rank {one.width}{plus}",
                State.PROVED,
                margin=float(one.outputs - one.width),
                note=f"{one.width} features for {one.outputs} outputs",
            ),
            case.described,
            case.others_not_negative,
        ]
        if not bound > 0:
            return self.undecided(f"targets of rank {one.width}{plus} are fitted exactly", hypotheses)
        return self.claimed(
            f"no parameters have a loss below {bound:.8g}: {one.outputs} outputs of rank {one.width}{plus}",
            level=Level.RIGOROUS,
            bound=bound,
            rounding=rounding,
            hypotheses=hypotheses,
            evidence={"rank": float(one.width)},
        )


def _narrowest(case: Case) -> list[Bottleneck]:
    structure = case.structure()
    batch = leading_dimension(pytree.tree_leaves(structure.example_inputs))
    shape = structure.steps[structure.outputs[0]].shape
    if not shape or shape[0] != batch:
        raise NotApplicableError("it needs outputs with one row, or several, for each sample")
    found = [each for each in bottlenecks(structure) if each.width < each.outputs]
    if not found:
        raise NotApplicableError("it needs fewer features before the last layer than outputs")
    return found


register_certifier(OutputRank())
