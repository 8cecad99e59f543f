"""Weight decay: small weights cannot reach the targets, and large ones cost more than they gain."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.loss_forms import hard_labels
from thalweg.certificates.near_collisions import row_norms
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT, gamma
from thalweg.certificates.squared import squared_rows
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError
from thalweg.objectives import L2
from thalweg.structure import DenseNetwork

__all__ = ["Reach", "WeightDecay", "largest_outputs"]

_DATA_BOUNDS = {"label collisions", "output rank", "linear network", "linear pieces"}
"""Certificates that bound the data term and need no word of the user's."""
STEPS = 400
"""Most bisections of the range of weights."""
NEAR = 1e-3
"""Relative distance of the bound to the least sum met at which they end."""
SLACK = 1e-9
"""Relative margin on constants of activations, which are known to twelve digits, and on rounding in a few powers."""


class Reach(NamedTuple):
    """``|f(x)|^2`` is at most ``inputs |x|^2 S^depth`` plus ``sum_k terms_k S^powers_k``, S = sum of squared weights.

    Attributes:
        inputs: factor of the input's squared norm; zero where a bounded layer forgets it.
        depth: its power.
        terms: factor and power of each other part.
        copies: S is at most so many times the squared norm of theta ...
        frozen: ... plus this, the squares of frozen weights.
    """

    inputs: float
    depth: int
    terms: tuple[tuple[float, int], ...]
    copies: int
    frozen: float

    def squared(self, size: Float[Tensor, " M"], theta: float) -> Float[Tensor, " M"]:
        """Upper bounds of ``|f|^2`` for inputs of squared norm `size` and weights of squared norm at most `theta`."""
        total = (self.copies * theta + self.frozen) * (1 + SLACK)
        rest = math.fsum(_power(total, power) * factor for factor, power in self.terms)
        whole = (size * self.inputs * _power(total, self.depth) + rest) * (1 + SLACK)
        return torch.nan_to_num(whole, nan=math.inf, posinf=math.inf)  # nothing times infinity


def _power(base: float, exponent: int) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def largest_outputs(network: DenseNetwork, theta: Float[Tensor, " P"]) -> Reach:
    """How large outputs can be whose weights have a given sum of squares.

    A layer with weights W and bias b gives at most ``|sigma| * |(W b)|_F * |(x 1)|``. Of a chain of q layers whose
    squares sum to S the product of squares is at most ``(S / q)^q``.

    Args:
        network: the perceptron.
        theta: ``(P,)``, of which only the frozen weights count.

    Raises:
        NotApplicableError: for an activation that is neither bounded nor bounded by a multiple of its argument.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    >>> reach = largest_outputs(trace(model, torch.ones(4, 2)).as_dense(), torch.zeros(9, dtype=torch.float64))
    >>> round(reach.inputs, 6), reach.depth, reach.terms
    (0.25, 2, ())
    """
    inputs, depth, terms = 1.0, 0, list[tuple[float, int]]()
    for layer in network.layers:
        if layer.bias_coordinates is not None:
            terms.append((1.0, 0))
        facts = layer.activation
        slope, at_zero = facts.lipschitz, facts.value_at_zero
        if facts.recognised and slope is not None and math.isfinite(slope) and at_zero == 0:
            inputs, depth = inputs * (slope * (1 + SLACK)) ** 2, depth + 1
            terms = [(factor * (slope * (1 + SLACK)) ** 2, power + 1) for factor, power in terms]
        elif facts.recognised and facts.bounded and facts.infimum is not None and facts.supremum is not None:
            top = max(abs(facts.infimum), abs(facts.supremum)) * (1 + SLACK)
            inputs, terms = 0.0, [(layer.out_features * top**2, 0)]
        else:
            raise NotApplicableError(f"it needs activations that vanish at zero or are bounded, not {facts.name}")
    every = [t.reshape(-1) for layer in network.layers for t in (layer.weight_coordinates, layer.bias_coordinates)
             if t is not None]  # fmt: skip
    used = torch.cat(every)
    values = torch.cat([t.reshape(-1) for pair in network.matrices(theta) for t in pair if t is not None])
    frozen = float((values[used < 0] ** 2).sum())
    copies = int(torch.bincount(used[used >= 0]).max()) if bool((used >= 0).any()) else 0
    shared = [(factor / power**power if power else factor, power) for factor, power in terms]
    return Reach(inputs / max(1, depth) ** depth, depth, tuple(shared), copies, frozen)


@dataclass(frozen=True)
class WeightDecay(Certifier):
    """Lower bound of data term and weight decay together.

    Weights of squared norm t cost ``mu t / 2``; with them no output is larger than the product of the layers' norms
    lets it be, and the data term is at least what such outputs cost. The least of both over all t, or of the weight
    decay and a lower bound of the data term alone, is a lower bound of the sum.
    """

    name: ClassVar[str] = "weight decay"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "a product of matrix norms, and the inequality of the means (elementary)"
    stage: ClassVar[int] = 11

    def work(self, case: Case) -> Work:
        """A few hundred sums over the samples."""
        _strength(case)
        risk = case.data_term()
        return Work(gradients=1, flops=50.0 * STEPS * risk.n_samples * risk.n_outputs)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Bisect the range of squared norms where the sum is least."""
        strength = _strength(case)
        network, risk = case.dense(), case.data_term()
        features = network.features(risk.inputs).cpu()
        if network.rows_per_sample != 1:
            raise NotApplicableError("it needs a network that sees one row a sample")
        reach = largest_outputs(network, case.theta)
        data = _data_term(case, row_norms(features)[1] ** 2 * (1 + SLACK), reach)
        known, rests = _data_bound(earlier)
        bound = _least(lambda t: max(known, data(t)), strength)
        hypotheses = [
            Hypothesis("weight decay acts on all parameters", State.PROVED, margin=strength, note="towards the origin"),
            Hypothesis("outputs are bounded by the norms of the layers", State.PROVED),
            case.described,
            case.others_not_negative,
            *rests,
        ]
        if not bound > known * (1 + 1e-9):
            return self.undecided("it adds nothing to what is known of the data term alone", hypotheses)
        return self.claimed(
            f"no parameters have a loss below {bound:.8g}, weight decay included: smaller weights cannot reach the "
            "targets, larger ones cost more",
            level=Level.RIGOROUS,
            bound=bound,
            rounding=2 * SLACK * bound,
            hypotheses=hypotheses,
            evidence={"data term alone": known},
        )


def _strength(case: Case) -> float:
    """The weakest weight decay on any coordinate.

    Raises:
        NotApplicableError: where some coordinate has none.
    """
    case.data_term()
    total = torch.zeros(case.objective.space.size, dtype=torch.float64)
    for term in case.others:
        if isinstance(term, L2) and not bool((term.center * term.mask).any()):
            total += term.strength * term.mask.cpu()
    least = float(total.min()) * (1 - 8 * UNIT) if len(total) else 0.0
    if not least > 1e-290:
        raise NotApplicableError("it needs weight decay towards the origin on all parameters")
    return least


def _data_bound(earlier: Sequence[Certificate]) -> tuple[float, list[Hypothesis]]:
    """The best bound of the data term by itself so far, and what it rests on."""
    found = [
        one for one in earlier
        if one.established and one.name in _DATA_BOUNDS and one.bound is not None and one.level is Level.RIGOROUS
    ]  # fmt: skip
    best = max(found, key=lambda one: one.bound or 0.0, default=None)
    if best is None or best.bound is None or not best.bound > 0:
        return 0.0, []
    return best.bound, [Hypothesis("the data term alone is bounded", State.PROVED, margin=best.bound, note=best.name)]


def _data_term(case: Case, sizes: Tensor, reach: Reach) -> Callable[[float], float]:
    """Lower bound of the data term over all weights of a squared norm, which falls with that norm."""
    risk = case.data_term()
    if risk.loss_facts.squared_factor is not None:
        rows = squared_rows(case, risk.n_outputs)
        norms, sizes = row_norms(rows.targets)[0], sizes[rows.kept]

        def squared(t: float) -> float:
            short = (norms - reach.squared(sizes, t).sqrt() * (1 + SLACK)).clamp_min(0)
            return math.fsum((rows.weights * short**2).tolist()) * (1 - SLACK)

        return squared
    found = hard_labels(risk)
    place, weight = found.place.cpu(), found.weight.detach().to("cpu", torch.float64)
    sizes, classes = sizes[place[:, 0] // risk.n_outputs], place.shape[1]
    if classes > 1 and not bool((place[:, 0] // risk.n_outputs == place[:, -1] // risk.n_outputs).all()):
        raise NotApplicableError("it needs decisions that each read one sample's outputs")
    # the best a label can do with outputs of norm G: a difference of G sqrt(C / (C - 1)) to each of the others
    spread = math.sqrt(classes / (classes - 1)) if classes > 1 else 1.0
    others = math.log(max(1, classes - 1))

    def logistic(t: float) -> float:
        margin = reach.squared(sizes, t).sqrt() * (spread * (1 + SLACK)) - others
        return math.fsum((weight * torch.logaddexp(-margin, torch.zeros_like(margin))).tolist()) * (1 - SLACK)

    return logistic


def _least(data: Callable[[float], float], strength: float) -> float:
    """Lower bound of ``data(t) + strength t / 2`` over all t >= 0, for data that falls."""
    at_zero = data(0.0)
    if not at_zero > 0:
        return 0.0
    last = 2 * at_zero / strength  # beyond it, weight decay alone costs more than no weights at all
    if not math.isfinite(last):
        return 0.0
    at_last = data(last)
    cells, reached = [(at_last, 0.0, last, at_last)], at_zero
    for _ in range(STEPS):
        low, start, stop, at_stop = cells[0]
        if low > (1 - NEAR) * reached:
            break
        middle = math.sqrt(start * stop) if start > 1e-3 * stop else (start + stop) / 2 if start else stop / 8
        if not start < middle < stop:
            break
        at_middle = data(middle)
        reached = min(reached, at_middle + strength * middle / 2)
        heapq.heapreplace(cells, (at_middle + strength * start / 2, start, middle, at_middle))
        heapq.heappush(cells, (at_stop + strength * middle / 2, middle, stop, at_stop))
    return min(cells[0][0], at_zero) * (1 - SLACK - gamma(8))


register_certifier(WeightDecay())
