"""One-dimensional inputs and piecewise-linear activations: a function of few straight pieces, always."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.segments import segmented_bound
from thalweg.certificates.squared import squared_loss, squared_rows
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError
from thalweg.structure import ActivationFacts, NetworkStructure, Step
from thalweg.structure.verify import leading_dimension

__all__ = ["LinearPieces", "count_pieces"]

_LINEAR = frozenset({"input", "dense", "add", "rearrange", "concatenate"})
SEGMENT_FLOPS = 1e5
"""Exact arithmetic on one segment, in floating-point operations that take as long, and as much for each output."""


def count_pieces(structure: NetworkStructure, rows: int) -> int:
    """Affine pieces of the outputs as a function of one real input, at most.

    A unit whose activation has q corners bends at most q times on each piece of what it reads. So the bends of all
    units of a step number at most ``q m`` times the pieces that reach it: with one hidden layer of m ReLU units
    ``m + 1`` pieces in all, with several the product of these.

    Args:
        structure: of the network.
        rows: rows of one number that the example inputs make.

    Raises:
        NotApplicableError: naming the step that is not piecewise linear.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> deep = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2), nn.Hardtanh(), nn.Linear(2, 1))
    >>> count_pieces(trace(deep, torch.ones(4, 1)), 4)
    20
    """
    bends: dict[int, int] = {}
    above: dict[int, frozenset[int]] = {}  # the activations that each step depends on
    for step in structure.steps:
        above[step.index] = frozenset().union(*(above[read] for read in step.reads))
        if step.kind in _LINEAR:
            continue
        corners = _corners(step)
        if corners:
            pieces = 1 + sum(bends[number] for number in above[step.index])
            units = -(-torch.Size(step.shape).numel() // rows)
            bends[step.index] = corners * units * pieces
            above[step.index] |= {step.index}
    return 1 + sum(bends[number] for number in above[structure.outputs[0]])


def _corners(step: Step) -> int:
    facts = step.activation
    if facts is None:
        raise NotApplicableError(f"it needs steps that are piecewise linear, {step.name!r} is of kind {step.kind!r}")
    if not _piecewise_linear(facts):
        raise NotApplicableError(f"it needs piecewise-linear activations, {facts.name} is none")
    return len(facts.kinks or ())


def _piecewise_linear(facts: ActivationFacts) -> bool:
    continuous = facts.smoothness is not None and facts.smoothness >= 0
    return facts.recognised and facts.piecewise_linear and facts.kinks is not None and continuous


class _Line(NamedTuple):
    """The inputs as places on a line, the numbers each gives, and how many pieces the function has at most."""

    places: Float[Tensor, " M"]
    outputs: int
    pieces: int


@dataclass(frozen=True)
class LinearPieces(Certifier):
    """Lower bound of squared errors for one real input and piecewise-linear activations.

    Whatever its parameters, the network is then a function of so many straight pieces at most. The best that so many
    pieces can do, each fitted by itself, is found by dynamic programming.
    """

    name: ClassVar[str] = "linear pieces"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "segmented regression by dynamic programming (Bellman 1961), continuity dropped"
    stage: ClassVar[int] = 10

    def work(self, case: Case) -> Work:
        """The fits of all segments."""
        squared_loss(case)
        line = _line(case)
        points = len(line.places)
        pieces = min(line.pieces, (points + 1) // 2)
        flops = points**2 * (8.0 * pieces + SEGMENT_FLOPS * (1 + line.outputs) / 2)
        return Work(gradients=1, flops=flops, bytes=8 * points**2 * 14 + 8 * points * pieces)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Fit the best pieces."""
        line = _line(case)
        rows = squared_rows(case, line.outputs)
        distinct = len(line.places[rows.kept].unique())
        hypotheses = [
            squared_loss(case),
            Hypothesis(
                f"as a function of its input the network has at most {line.pieces} affine pieces",
                State.PROVED,
                note=f"{distinct} distinct inputs",
            ),
            case.described,
            case.others_not_negative,
        ]
        bound = segmented_bound(line.places[rows.kept], rows.targets, rows.weights, line.pieces)
        if not bound > 0:
            return self.undecided(f"{line.pieces} straight pieces fit {distinct} inputs exactly", hypotheses)
        return self.claimed(
            f"no parameters have a loss below {bound:.8g}: the network has at most {line.pieces} straight pieces",
            level=Level.RIGOROUS,
            bound=bound,
            rounding=4e-15 * bound * min(line.pieces, distinct),
            hypotheses=hypotheses,
            evidence={"pieces": float(line.pieces)},
        )


def _line(case: Case) -> _Line:
    structure, risk = case.structure(), case.data_term()
    if len(structure.outputs) != 1 or not structure.independent_samples:
        raise NotApplicableError("it needs one output for each sample, computed from that sample alone")
    leaves = [leaf for leaf in pytree.tree_leaves(risk.inputs) if isinstance(leaf, Tensor)]
    example = leading_dimension(pytree.tree_leaves(structure.example_inputs)) or 1
    if len(leaves) == 1 and leaves[0].numel() == risk.n_samples and leaves[0].is_floating_point():
        places = leaves[0].detach().to("cpu", torch.float64).reshape(-1)
        return _Line(places, risk.n_outputs, count_pieces(structure, example))
    network = case.dense()
    if network.widths[0] != 1:
        raise NotApplicableError("it needs inputs of one real number each")
    places = network.features(risk.inputs)
    return _Line(places[:, 0].cpu(), network.widths[-1], count_pieces(structure, example * network.rows_per_sample))


register_certifier(LinearPieces())
