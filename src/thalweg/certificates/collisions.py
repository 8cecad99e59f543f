"""Label collisions: samples that no network can tell apart, but whose targets differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import EmpiricalRisk
from thalweg.objectives.pooled import Groups

__all__ = ["LabelCollisions", "identical_samples", "unavoidable_errors"]


def identical_samples(inputs: Any, n_samples: int) -> Int[Tensor, " N"]:
    """The group of each sample, two samples being in one group if their inputs are equal bit for bit.

    Args:
        inputs: a tree of tensors whose leading dimension counts the samples.
        n_samples: their number.

    Returns:
        ``(N,)``, groups numbered from 0 in order of their first sample.

    >>> identical_samples(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]), 3)
    tensor([0, 1, 0])
    """
    rows = [
        leaf.detach().cpu().contiguous().reshape(n_samples, -1).view(torch.uint8).numpy()
        for leaf in pytree.tree_leaves(inputs)
        if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == n_samples and leaf.numel()
    ]
    if not rows:
        return torch.zeros(n_samples, dtype=torch.int64)
    table = np.ascontiguousarray(np.concatenate(rows, axis=1))
    keys = table.view(np.dtype((np.void, table.shape[1]))).reshape(-1)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return torch.as_tensor(order[group.reshape(-1)])


def unavoidable_errors(labels: Int[Tensor, " N"], groups: Int[Tensor, " N"]) -> int:
    """Samples that any classifier gets wrong: those of each group beyond its most frequent label.

    >>> unavoidable_errors(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1]))
    1
    """
    count, classes = int(groups.max()) + 1, int(labels.max()) + 1
    table = torch.zeros(count * classes, dtype=torch.int64)
    table.index_add_(0, groups * classes + labels, torch.ones_like(labels))
    return int((table.reshape(count, classes).sum(1) - table.reshape(count, classes).amax(1)).sum())


@dataclass(frozen=True)
class LabelCollisions(Certifier):
    """Lower bound of the loss over all functions of the inputs.

    Samples with the same input get the same output, whatever the network. What their targets then cost together is
    known in closed form: ``sum c_i |y_i - mean|^2`` for squared errors, the entropy of the mean label for
    cross-entropy. Summed over the groups this is the lowest loss of any function of the inputs.

    Args:
        canonical: a map of the inputs onto one representative of each class that the network cannot tell apart, for
            example the smallest of all circular shifts; that the network is invariant is then assumed.
    """

    name: ClassVar[str] = "label collisions"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.FUNCTIONS
    source: ClassVar[str] = "the best constant on each set of identical inputs (elementary)"
    stage: ClassVar[int] = 10

    canonical: Callable[[Any], Any] | None = None

    def work(self, case: Case) -> Work:
        """Sorting the samples."""
        risk = case.data_term()
        if risk.loss_facts.pooled is None or risk.factors is None or not isinstance(risk.targets, Tensor):
            raise NotApplicableError(
                f"what samples with one output cost together is not declared for {risk.loss_facts.name}"
            )
        size = sum(leaf.numel() for leaf in pytree.tree_leaves(risk.inputs) if isinstance(leaf, Tensor))
        return Work(flops=20.0 * size * math.log2(risk.n_samples + 1), bytes=3 * 8 * size)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Group the samples, and add up what each group costs."""
        risk = case.data_term()
        assert risk.loss_facts.pooled is not None
        assert risk.factors is not None
        inputs = risk.inputs if self.canonical is None else self._canonical(risk)
        of = identical_samples(inputs, risk.n_samples).to(risk.device)
        groups = Groups(of, int(of.max()) + 1, risk.factors)
        outputs = torch.zeros_like(risk.structured_outputs(case.outputs))
        assert isinstance(risk.targets, Tensor)
        pooled = risk.loss_facts.pooled(risk.elementwise_loss, outputs, risk.targets, groups)
        bound = math.fsum(pooled.below.tolist())
        bound -= 2 * UNIT * abs(bound)
        rounding = max(0.0, math.fsum(pooled.value.tolist()) - bound)
        hypotheses = [self._alike(case, of), self._declared(risk), case.others_not_negative]
        if self.canonical is not None:
            hypotheses.append(Hypothesis("the network is invariant as the canonical form says", State.ASSUMED))
        colliding = risk.n_samples - groups.count
        if not math.isfinite(bound):
            return self.undecided("some outputs make the loss as low as one likes", hypotheses)
        evidence: dict[str, Tensor | float | str] = {"distinct inputs": float(groups.count)}
        text = f"no function of the inputs has a loss below {bound:.8g}"
        if _has_labels(risk) and colliding:
            wrong = unavoidable_errors(risk.targets.cpu(), of.cpu())
            evidence["unavoidable errors"] = float(wrong)
            text += f", and none makes fewer than {wrong} errors" if wrong > 1 else ""
        told = f"{groups.count} distinct inputs in {risk.n_samples} samples" if colliding else "all inputs differ"
        text += f" ({told})"
        return self.claimed(
            text, level=Level.RIGOROUS, bound=bound, rounding=rounding, hypotheses=hypotheses, evidence=evidence
        )

    def _canonical(self, risk: EmpiricalRisk) -> Any:
        assert self.canonical is not None
        found = self.canonical(risk.inputs)
        leaves = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
        if not leaves or any(len(leaf) != risk.n_samples for leaf in leaves):
            raise InvalidInputError(f"canonical= must return one row for each of the {risk.n_samples} samples")
        return found

    @staticmethod
    def _alike(case: Case, of: Tensor) -> Hypothesis:
        """Whether samples of one group do get one output here, as they must where samples do not interact."""
        outputs = case.outputs
        first = torch.full((int(of.max()) + 1,), len(of), dtype=torch.int64).to(of)
        first = first.scatter_reduce(0, of, torch.arange(len(of)).to(of), "amin")
        spread = float((outputs - outputs[first[of]]).abs().max())
        statement = "a sample's outputs depend on its own inputs alone"
        if spread > 1e-9 * (1 + float(outputs.abs().max())):
            note = f"outputs of identical inputs differ by {spread:.2g}"
            return Hypothesis(statement, State.NOT_MET, margin=spread, note=note)
        return Hypothesis(statement, State.CHECKED, margin=spread, note="identical inputs have the same outputs here")

    @staticmethod
    def _declared(risk: EmpiricalRisk) -> Hypothesis:
        note = f"declared for {risk.loss_facts.name}"
        return Hypothesis("the joint cost of samples with one output is known", State.PROVED, note=note)


def _has_labels(risk: EmpiricalRisk) -> bool:
    return (
        risk.loss_facts.targets == "classes"
        and isinstance(risk.targets, Tensor)
        and not risk.targets.is_floating_point()
        and risk.targets.dim() == 1
        and getattr(risk.loss, "ignore_index", -100) not in risk.targets
    )


register_certifier(LabelCollisions())
