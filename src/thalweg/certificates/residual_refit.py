"""A better last block of a residual network, on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.certificates.affine_head import AffineHead, best_head
from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Scope, State
from thalweg.certificates.last_layer_refit import lower_or_undecided, recorded, structure_values
from thalweg.certificates.lower_point import compared
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError, require_memory
from thalweg.structure import NetworkStructure, Step

__all__ = ["ResidualRefit"]

FILLED = (0.0, 1e-9, 1e-7, 1e-5, 1e-3)
"""Sizes, relative to the fitted matrix, of what makes it one of full rank."""


class _Block(NamedTuple):
    """``W (x + V z)`` at the end of a network: the two layers, and the steps that make x and z."""

    outer: Step
    inner: Step
    skip: int
    inside: int


@dataclass(frozen=True)
class ResidualRefit(Certifier):
    """The loss can be lowered by replacing the last two linear maps of a residual network.

    In ``W (x + V z)`` with x and z fixed the outputs are ``A x + B z`` with ``A = W`` and ``B = W V``: if W has at
    least as many columns as rows, nearly every pair A, B can be had. The best pair is a convex problem; ``V = A^+ B``
    makes it parameters. Where A lacks rank, a small part is added to it. The claim is the loss at those parameters,
    evaluated anew.
    """

    name: ClassVar[str] = "residual refit"
    kind: ClassVar[ClaimKind] = ClaimKind.SUBOPTIMAL
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Kawaguchi & Bengio 2019, made constructive"
    stage: ClassVar[int] = 20

    def work(self, case: Case) -> Work:
        """A convex fit to both sets of features."""
        risk = case.data_term()
        block = _find_block(case.structure())
        assert block.outer.weight is not None
        assert block.inner.weight is not None
        outputs, width = block.outer.weight.shape[0], block.outer.weight.shape[1] + block.inner.weight.shape[1] + 1
        rows = risk.n_samples
        if isinstance(risk.loss, nn.MSELoss):
            return Work(gradients=12, flops=8.0 * rows * width**2, bytes=8 * 5 * rows * (width + outputs))
        size = outputs * width
        return Work(
            gradients=12, flops=20 * (10.0 * size**3 + 4.0 * rows * size**2), bytes=8 * 6 * (rows * width + size**2)
        )

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Fit the pair, make parameters of it, and compare."""
        structure, risk = case.structure(), case.data_term()
        block = _find_block(structure)
        if case.others:
            raise NotApplicableError("it needs a loss without other terms, which see W and V and not their product")
        x, z = (_rows(case, structure, number) for number in (block.skip, block.inside))
        require_memory(8 * 6 * (x.numel() + z.numel()), "the features of a residual block", "Use fewer samples.")
        assert block.outer.weight is not None
        w = structure_values(structure, block.outer.weight, case.theta)
        ones = [torch.ones_like(x[..., :1])] if block.outer.bias is not None or block.inner.bias is not None else []
        features = torch.cat([x, z, *ones], -1)
        nothing = features.new_zeros(len(w), features.shape[-1])
        head = AffineHead(risk, features, features.new_zeros(len(x), 1, len(w)), nothing, nothing)
        best, how = best_head(head, nothing, case.control)
        made = torch.stack(_parameters(case, block, best))
        values = torch.nan_to_num(case.objective.value(made), nan=torch.inf)
        lower = compared(case, made[int(values.argmin())])
        shape = Hypothesis(
            "the outputs are W (x + V z) with W no taller than wide", State.CHECKED, note=f"fitted by {how}"
        )
        return lower_or_undecided(self, case, lower, [shape], "W and V of the last residual block refitted to x and z")


def _parameters(case: Case, block: _Block, best: Tensor) -> list[Tensor]:
    """Parameters that make the fitted outputs, with W filled up by parts of several sizes."""
    structure = case.structure()
    assert block.outer.weight is not None
    assert block.inner.weight is not None
    outer, inner = structure.coordinates(block.outer.weight), structure.coordinates(block.inner.weight)
    width = outer.shape[1]
    a, b = best[:, :width], best[:, width : width + inner.shape[1]]
    constant = best[:, -1] if best.shape[1] > width + inner.shape[1] else None
    generator = torch.Generator().manual_seed(case.seed)
    noise = torch.randn(a.shape, generator=generator, dtype=torch.float64).to(a)
    found = []
    for part in FILLED:
        w = a + part * (float(a.abs().max()) or 1.0) * noise
        back = torch.linalg.pinv(w)
        theta = case.theta.clone()
        theta[outer], theta[inner] = w, back @ b
        if constant is not None:
            _set_biases(structure, block, theta, w, back, constant)
        found.append(theta)
    return found


def _set_biases(
    structure: NetworkStructure, block: _Block, theta: Tensor, w: Tensor, back: Tensor, constant: Tensor
) -> None:
    """Split a constant among the biases of the two layers: the outer one takes what the inner one leaves."""
    if block.outer.bias is None:
        assert block.inner.bias is not None
        theta[structure.coordinates(block.inner.bias)] = back @ constant
        return
    left = constant
    if block.inner.bias is not None:
        left = constant - w @ theta[structure.coordinates(block.inner.bias)]
    theta[structure.coordinates(block.outer.bias)] = left


def _find_block(structure: NetworkStructure) -> _Block:
    """The last residual block.

    Raises:
        NotApplicableError: where the network does not end in one whose two layers are free and of their own.
    """
    last = structure.last_layers[0] if len(structure.outputs) == 1 else None
    if last is None or structure.steps[last.reads[0]].kind != "add":
        raise NotApplicableError("it needs outputs W (x + V z): a last layer that reads the sum of a skip and a layer")
    total = structure.steps[last.reads[0]]
    readers = [step.index for step in structure.steps for read in step.reads if read == total.index]
    inner = [structure.steps[read] for read in total.reads if structure.steps[read].kind == "dense"]
    alone = [step for step in inner if sum(step.index in other.reads for other in structure.steps) == 1]
    if len(total.reads) != 2 or len(readers) != 1 or not alone:
        raise NotApplicableError("it needs a skip around one linear layer that nothing else reads")
    first = alone[-1]
    skip = next(read for read in total.reads if read != first.index)
    block = _Block(last, first, skip, first.reads[0])
    _require_free(structure, block)
    return block


def _require_free(structure: NetworkStructure, block: _Block) -> None:
    for step in (block.outer, block.inner):
        parts = [part for part in (step.weight, step.bias) if part is not None]
        computed = step.weight is None or step.left or step.squeezed or any(part.kind == "computed" for part in parts)
        if computed or set(step.parameters) & set(structure.tied):
            raise NotApplicableError(f"it needs weights of {step.name!r} that are parameters, used nowhere else")
        if any(bool((structure.coordinates(part) < 0).any()) for part in parts):
            raise NotApplicableError(f"it needs {step.name!r} to be free, not frozen")
    assert block.outer.weight is not None
    rows, columns = block.outer.weight.shape
    if rows > columns:
        raise NotApplicableError(f"it needs no more outputs than x has entries, here {rows} and {columns}")


def _rows(case: Case, structure: NetworkStructure, number: int) -> Tensor:
    """Result of a step, ``(N, 1, k)``."""
    samples = case.data_term().n_samples
    read = recorded(case, structure, number)
    if read.dim() != 2 or len(read) != samples:
        raise NotApplicableError("it needs one row of features for each sample")
    return read.unsqueeze(1)


register_certifier(ResidualRefit())
