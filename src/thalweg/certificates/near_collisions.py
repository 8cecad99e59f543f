"""Near collisions: inputs so close that a network of bounded steepness cannot give both what they want."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.loss_forms import hard_labels
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import TINY, UNIT, gamma, norm_above
from thalweg.certificates.squared import squared_loss, squared_rows
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError

__all__ = ["NearCollisions", "logistic_pair", "row_norms", "squared_pair"]

CANDIDATES = 8
"""Dearest partners of each sample that may be matched with it."""
PAIR_FLOPS = 2e4
"""The joint cost of one pair, in floating-point operations of matrix products that take as long."""
CHUNK = 2**22
"""Distances computed at once."""


def row_norms(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Lower and upper bounds of the exact Euclidean norms of rows, each entry within one rounding of the exact one.

    >>> low, high = row_norms(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    >>> bool(low < 5) and bool(high > 5)
    True
    """
    largest = rows.abs().amax(1).clamp_min(TINY)
    found = largest * (rows / largest.unsqueeze(1)).square().sum(1).sqrt()
    slack = gamma(rows.shape[1] + 16)
    return (found * (1 - slack) - TINY).clamp_min(0), found * (1 + slack) + rows.shape[1] * TINY


def squared_pair(apart: Tensor, together: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Least ``a |f - y|^2 + b |g - z|^2`` with ``|f - g| <= together``, where ``|y - z| = apart``: entry by entry.

    The errors differ by at least ``apart - together``; shared out in proportion to the other's weight they cost
    ``a b / (a + b)`` times its square.
    """
    share = torch.minimum(first, second) * (torch.maximum(first, second) / (first + second))
    return share * (apart - together).clamp_min(0) ** 2


def logistic_pair(together: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Lower bound of ``a log(1 + exp(-u)) + b log(1 + exp(v))`` with ``u - v <= together``: entry by entry.

    For every s between 0 and the smaller weight it is at least ``a H(s/a) + b H(s/b) - s together``, with the entropy
    ``H(p) = -p log p - (1-p) log(1-p)`` (the dual problem); the s of the minimum solves a quadratic equation.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> round(float(logistic_pair(0 * one, one, one)), 6), round(float(logistic_pair(2 * one, one, one)), 6)
    (1.386294, 0.626523)
    """
    largest, smallest = torch.maximum(first, second), torch.minimum(first, second)
    q = smallest / largest
    # with weights 1 and q, and r = exp(together): (1 - s)(q - s) = r s s
    r = torch.exp(together.clamp(max=600.0))
    root = ((1 + q) ** 2 + 4 * (r - 1) * q).sqrt()
    s = torch.minimum(largest * (2 * q / (1 + q + root)), smallest)
    return first * _entropy(s / first) + second * _entropy(s / second) - s * together


def _entropy(p: Tensor) -> Tensor:
    p = p.clamp(0.0, 1.0)
    return -torch.special.xlogy(p, p) - torch.special.xlog1py(1 - p, -p)


class _Targets(NamedTuple):
    """What pulls samples apart.

    Attributes:
        wanted: ``(N, C)`` squared targets; or ``(N,)`` labels.
        weights: ``(N,)``, zero where a sample does not count.
        spread: the outputs compared differ by at most so many times the distance of the outputs.
    """

    wanted: Tensor
    weights: Tensor
    spread: float

    @property
    def squared(self) -> bool:
        return self.wanted.dim() == 2

    def costs(self, some: Tensor, others: Tensor, together: Tensor) -> Tensor:
        """Least joint cost of each pair, ``(k,)`` sample numbers each."""
        a, b = self.weights[some], self.weights[others]
        used = (a > 0) & (b > 0)
        a, b = torch.where(used, a, 1.0), torch.where(used, b, 1.0)
        if self.squared:
            apart = row_norms(self.wanted[some] - self.wanted[others])[0]
            found = squared_pair(apart * (1 - 4 * UNIT), together, a, b) * (1 - 16 * UNIT)
        else:
            found = logistic_pair(together * self.spread * (1 + 4 * UNIT), a, b)
            found = found - 64 * UNIT * (a + b) * (1 + together * self.spread).clamp(max=1e3)
            used = used & (self.wanted[some] != self.wanted[others])
        return torch.where(used, found, 0.0).clamp_min(0)


@dataclass(frozen=True)
class NearCollisions(Certifier):
    """Lower bound of the loss over all functions that are not too steep.

    Two inputs at distance d get outputs at most ``K d`` apart. Where their targets are further apart, the two samples
    cost something together; pairs that share no sample are added up.

    Args:
        lipschitz: K with ``|f(x) - f(x')| <= K |x - x'|`` (Euclidean norms over all numbers of a sample) for all
            parameters that are admitted, as when weights are constrained; only the user can know it. That it holds at
            the point given is checked on the pairs used. None computes it where all weight matrices are frozen.
    """

    name: ClassVar[str] = "near collisions"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "two outputs no further apart than a Lipschitz constant allows (elementary)"
    stage: ClassVar[int] = 10

    lipschitz: float | None = None

    def __post_init__(self) -> None:
        if self.lipschitz is not None and not 0 <= self.lipschitz < math.inf:
            raise InvalidInputError(f"a Lipschitz constant is finite and not negative, got {self.lipschitz!r}")

    def work(self, case: Case) -> Work:
        """The distances of all pairs of samples."""
        self._constant(case)
        _targets(case)
        n, size = case.data_term().n_samples, _numbers(case).shape[1]
        return Work(
            gradients=1, flops=n * n * (3.0 * size + PAIR_FLOPS), bytes=8 * (12 * min(n * n, CHUNK) + 2 * n * size)
        )

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Match the dearest pairs, one after another."""
        steepness, given = self._constant(case)
        inputs, targets = _numbers(case), _targets(case)
        pairs = _matching(inputs, targets, steepness)
        some, others = pairs[:, 0], pairs[:, 1]
        distances = row_norms(inputs[some] - inputs[others])[1]
        costs = targets.costs(some, others, steepness * distances * (1 + 4 * UNIT))
        total = math.fsum(costs.tolist())
        bound = max(0.0, total * (1 - 16 * UNIT) - TINY)
        hypotheses = [given, self._obeyed(case, pairs, steepness * distances), _loss(case, targets)]
        hypotheses.append(case.others_not_negative)
        if not bound > 0:
            return self.undecided("no two samples are close enough for their targets", hypotheses)
        used = int((costs > 0).sum())
        return self.claimed(
            f"no function with Lipschitz constant {steepness:.6g} has a loss below {bound:.8g}: {used} pairs of inputs "
            "are too close for their targets",
            level=Level.RIGOROUS,
            bound=bound,
            rounding=16 * UNIT * total,
            hypotheses=hypotheses,
            evidence={"pairs": float(used), "least distance": float(distances[costs > 0].min())},
        )

    def _constant(self, case: Case) -> tuple[float, Hypothesis]:
        if self.lipschitz is not None:
            statement = f"|f(x) - f(x')| <= {self.lipschitz:g} |x - x'| for all parameters admitted"
            return float(self.lipschitz), Hypothesis(statement, State.ASSUMED, note="declared by the user")
        return _frozen_constant(case)

    @staticmethod
    def _obeyed(case: Case, pairs: Tensor, allowed: Tensor) -> Hypothesis:
        outputs = case.outputs.cpu()
        moved = (outputs[pairs[:, 0]] - outputs[pairs[:, 1]]).norm(dim=1)
        excess = float((moved - allowed).max()) if len(pairs) else -math.inf
        statement = "the network obeys it here, on the pairs used"
        if excess > 1e-9 * (1 + float(outputs.abs().max())):
            note = f"two outputs are {excess:.2g} further apart than that"
            return Hypothesis(statement, State.NOT_MET, margin=-excess, note=note)
        return Hypothesis(statement, State.CHECKED, margin=-excess if len(pairs) else None)


def _frozen_constant(case: Case) -> tuple[float, Hypothesis]:
    """The product over the layers where no weight matrix holds a free coordinate.

    Raises:
        NotApplicableError: where one does, or an activation has no Lipschitz constant.
    """
    ask = "it needs a Lipschitz constant that all parameters admitted obey; pass NearCollisions(lipschitz=...)"
    try:
        network = case.dense()
    except NotApplicableError:
        raise NotApplicableError(ask) from None
    slopes = [layer.activation.lipschitz for layer in network.layers if layer.activation.recognised]
    if any(bool((layer.weight_coordinates >= 0).any()) for layer in network.layers) or len(slopes) < len(
        network.layers
    ):
        raise NotApplicableError(ask)
    product = 1.0
    for (weight, _), slope in zip(network.matrices(case.theta), slopes, strict=True):
        if slope is None or not math.isfinite(slope):
            raise NotApplicableError(ask)
        product *= norm_above(weight) * slope * (1 + 1e-9)  # slopes are known to twelve digits
    statement = f"|f(x) - f(x')| <= {product:.6g} |x - x'| for all parameters"
    return product, Hypothesis(statement, State.PROVED, note="all weight matrices are frozen")


def _numbers(case: Case) -> Float[Tensor, "N d"]:
    """All numbers of each sample's inputs.

    Raises:
        NotApplicableError: for inputs that are not real numbers, one row a sample.
    """
    risk = case.data_term()
    leaves = [leaf for leaf in pytree.tree_leaves(risk.inputs) if isinstance(leaf, Tensor)]
    if not leaves or any(not leaf.is_floating_point() or not leaf.dim() for leaf in leaves):
        raise NotApplicableError("it needs inputs that are real numbers")
    return torch.cat([leaf.detach().to("cpu", torch.float64).reshape(risk.n_samples, -1) for leaf in leaves], dim=1)


def _targets(case: Case) -> _Targets:
    """The targets of squared errors, or hard labels with one decision for each sample.

    Raises:
        NotApplicableError: for other losses.
    """
    risk = case.data_term()
    if risk.loss_facts.squared_factor is not None:
        rows = squared_rows(case, risk.n_outputs)
        wanted = torch.zeros(len(rows.kept), risk.n_outputs, dtype=torch.float64)
        weights = torch.zeros(len(rows.kept), dtype=torch.float64)
        wanted[rows.kept], weights[rows.kept] = rows.targets, rows.weights
        return _Targets(wanted, weights, 1.0)
    found = hard_labels(risk)
    place, label, weight = found.place.cpu(), found.label.cpu(), found.weight.detach().to("cpu", torch.float64)
    sample = place[:, 0] // risk.n_outputs
    if len(sample.unique()) < len(sample):
        raise NotApplicableError("it needs one decision for each sample")
    labels, weights = torch.zeros(risk.n_samples, dtype=torch.int64), torch.zeros(risk.n_samples, dtype=torch.float64)
    labels[sample], weights[sample] = label, torch.where(weight > 1e-270, weight, 0.0)
    return _Targets(labels, weights, math.sqrt(2) if place.shape[1] > 1 else 1.0)


def _loss(case: Case, targets: _Targets) -> Hypothesis:
    if targets.squared:
        return squared_loss(case)
    note = case.data_term().loss_facts.name
    return Hypothesis("the data term is a weighted sum of logistic terms of hard labels", State.PROVED, note=note)


# -- which pairs -------------------------------------------------------------------------------------------------------


def _matching(inputs: Tensor, targets: _Targets, steepness: float) -> Tensor:
    """Pairs ``(m, 2)`` of samples, each sample in one pair at most, dearest first."""
    found = sorted(_candidates(inputs, targets, steepness), key=lambda one: -one[0])
    taken: set[int] = set()
    pairs = []
    for _, i, j in found:
        if i not in taken and j not in taken:
            taken.update((i, j))
            pairs.append((i, j))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _candidates(inputs: Tensor, targets: _Targets, steepness: float) -> Iterator[tuple[float, int, int]]:
    n = len(inputs)
    step = max(1, CHUNK // (n * max(1, targets.wanted[0].numel())))
    for start in range(0, n, step):
        some = torch.arange(start, min(start + step, n))
        # the product form would round distances of near collisions to nothing
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(inputs[some], inputs, compute_mode=exact)
        i, j = torch.meshgrid(some, torch.arange(n), indexing="ij")
        costs = targets.costs(i.reshape(-1), j.reshape(-1), (steepness * distances).reshape(-1)).reshape(len(some), n)
        costs = torch.where(j > i, costs, 0.0)
        best = costs.topk(min(CANDIDATES, n), dim=1)
        for row, (values, places) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            yield from ((v, start + row, p) for v, p in zip(values, places, strict=True) if v > 0)


register_certifier(NearCollisions())
