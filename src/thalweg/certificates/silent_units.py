"""Units that are switched off, and what they could do if they were not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from thalweg.certificates.bounded_arithmetic import matrix_product
from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.forward import Bounded, bounded_layers
from thalweg.certificates.gradient_bounds import bounded_signals
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import gamma
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError, require_memory
from thalweg.objectives import L2
from thalweg.structure import ActivationFacts, DenseNetwork

__all__ = ["SilentUnits", "separated_groups"]

NON_POLYNOMIAL = frozenset(
    {
        "tanh", "sigmoid", "erf(z/sqrt2)", "erf", "arctan", "gaussian", "normal_cdf", "softplus", "log(1+exp(z))",
        "gelu", "silu", "mish", "gelu(tanh)", "sin", "cos", "exp", "sigmoid(4z)+softplus(z)",
    }
)  # fmt: skip
"""Activations that are real analytic and no polynomials."""


class _Silent(NamedTuple):
    """A unit without outgoing weights.

    Attributes:
        layer: number of its layer.
        unit: its number there.
        readers: units of the next layer whose weight from it is free, ``(k,)``.
    """

    layer: int
    unit: int
    readers: Tensor


@dataclass(frozen=True)
class SilentUnits(Certifier):
    """No local minimum with a unit switched off, unless the signals it could add to cancel for all equal inputs.

    Take a unit whose outgoing weights are all zero, with an activation that is analytic and no polynomial, and with a
    bias. Its incoming weights w and bias b change nothing, so at a local minimum the derivative by each outgoing
    weight, ``sum_i d_i s(w.h_i + b)`` with d the loss's derivative by the sum it adds to, vanishes for all w and b near
    its own, and being analytic for all w and b whatever. Along a w with different products ``p = w.h`` for different h
    the derivatives by its length at zero say ``sum_i d_i p_i^k s^(k)(b) = 0``; some b makes ``s^(k)(b)`` nonzero, so
    all moments vanish, and with them the sum of d over each set of equal h. Where one such sum is not zero, the point
    is no local minimum.
    """

    name: ClassVar[str] = "silent units"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Kawaguchi & Kaelbling 2020, with the network's own unit in place of the auxiliary one"
    stage: ClassVar[int] = 30

    def work(self, case: Case) -> Work:
        """A pass forward and back with error bounds."""
        network = case.dense()
        rows = case.data_term().n_samples * network.rows_per_sample
        return Work(gradients=5, bytes=8 * 8 * rows * sum(network.widths))

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Find the units, and add up the signals of equal inputs."""
        network, risk = case.dense(), case.data_term()
        units, why = _silent_units(case, network)
        if not units:
            raise NotApplicableError(f"it needs {why}")
        rows = risk.n_samples * network.rows_per_sample
        require_memory(8 * 8 * rows * sum(network.widths), "signals with error bounds", "Use fewer samples.")
        features = network.features(risk.inputs)
        layers = bounded_layers(network, case.theta, features)
        signals = bounded_signals(risk, network, case.theta, layers)
        hypotheses = [
            Hypothesis("a unit's outgoing weights are all zero", State.PROVED, note=f"{len(units)} such units"),
            Hypothesis("its activation is analytic and no polynomial, and it has a bias", State.PROVED),
            Hypothesis("its incoming weights and bias are free, and no other term depends on them", State.PROVED),
            Hypothesis("the loss is differentiable in what it adds to", State.PROVED, note="no argument on a corner"),
        ]
        for found in units:
            reads = layers[found.layer - 1].after if found.layer else Bounded(features, torch.zeros_like(features))
            groups = separated_groups(reads, case.seed)
            after = signals[found.layer + 1]
            sums = _group_sums(Bounded(after.value[:, found.readers], after.error[:, found.readers]), groups)
            sure = sums.value.abs() - sums.error
            if bool((sure > 0).any()):
                return self._claim(network, found, sure, sums.error, hypotheses)
        return self.undecided("the signals of equal inputs cancel within rounding, as at a minimum", hypotheses)

    def _claim(
        self, network: DenseNetwork, found: _Silent, sure: Tensor, error: Tensor, hypotheses: list[Hypothesis]
    ) -> Certificate:
        name, most = network.layers[found.layer].name, float(sure.max())
        return self.claimed(
            f"no local minimum: unit {found.unit} of {name!r} is switched off, but what it could add to has signals "
            f"that do not cancel, by at least {most:.3g} in one of {len(sure)} groups of equal inputs",
            level=Level.RIGOROUS,
            rounding=float(error.max()),
            hypotheses=hypotheses,
            evidence={"group sum": most, "layer": float(found.layer), "unit": float(found.unit)},
        )


def _silent_units(case: Case, network: DenseNetwork) -> tuple[list[_Silent], str]:
    """Units that the theorem speaks of; if there are none, what is missing."""
    if network.tied:
        return [], "weights that are used in one place only"
    held = _held(case)
    weights = network.matrices(case.theta)
    why = "a hidden unit whose outgoing weights are all zero"
    found = []
    for number, layer in enumerate(network.hidden):
        silent = (weights[number + 1][0] == 0).all(0).nonzero().reshape(-1).tolist()
        if silent and not _discriminates(layer.activation, layer.bias_coordinates):
            why = f"a bias and an activation that is analytic and no polynomial, not {layer.activation.name}"
            continue
        units = network.units(number)
        for unit in silent:
            assert units.bias is not None
            own = torch.cat([units.incoming[unit], units.bias[unit].reshape(1)])
            readers = (units.outgoing[unit] >= 0).nonzero().reshape(-1)
            if bool((own < 0).any()) or bool(held[own].any()) or not len(readers):
                why = "incoming weights that are free and that no other term depends on"
            elif bool(_pulled(case)[units.outgoing[unit][readers]].any()):
                why = "weight decay towards zero, or none, on the outgoing weights"
            else:
                found.append(_Silent(number, unit, readers))
    return found, why


def _discriminates(facts: ActivationFacts, bias: Tensor | None) -> bool:
    return bias is not None and facts.recognised and facts.name in NON_POLYNOMIAL


def _held(case: Case) -> Tensor:
    """Coordinates that another term than the data term depends on, ``(P,)``."""
    held = torch.zeros_like(case.theta, dtype=torch.bool)
    for term in case.others:
        if not isinstance(term, L2):
            return torch.ones_like(held)
        if term.strength:
            held |= term.mask != 0
    return held.cpu()


def _pulled(case: Case) -> Tensor:
    """Coordinates whose weight decay is not stationary where they are zero."""
    pulled = torch.zeros_like(case.theta, dtype=torch.bool)
    for term in case.others:
        if isinstance(term, L2) and term.strength:
            pulled |= (term.mask != 0) & (term.center != 0)
    return pulled.cpu()


def separated_groups(rows: Bounded, seed: int = 0) -> Int[Tensor, " M"]:
    """Numbers of groups such that rows of different groups differ for certain.

    Rows are projected onto a random vector; a group ends where the next projection is further away than the errors of
    both. Equal rows are in one group; a group may hold rows that differ.

    Args:
        rows: ``(M, d)`` with errors.
        seed: of the vector.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> separated_groups(Bounded(x, 0 * x)).tolist() in ([0, 1, 0], [1, 0, 1])
    True
    """
    width = rows.value.shape[1]
    generator = torch.Generator().manual_seed(seed)
    scale = rows.value.abs().amax(0).clamp_min(1e-300).reciprocal().clamp_max(1e300)
    vector = torch.randn(width, generator=generator, dtype=torch.float64).to(rows.value) * scale
    column = vector.unsqueeze(1)
    projected = matrix_product(rows, Bounded(column, torch.zeros_like(column)))
    low = (projected.value - projected.error).squeeze(1)
    high = (projected.value + projected.error).squeeze(1)
    order = low.argsort()
    reach = torch.cummax(high[order], 0).values
    apart = low[order][1:] > reach[:-1]
    number = torch.zeros(len(low), dtype=torch.long, device=low.device)
    number[order[1:]] = apart.long().cumsum(0)
    return number


def _group_sums(signals: Bounded, groups: Int[Tensor, " M"]) -> Bounded:
    """Sums over each group, ``(S, k)``."""
    count, width = int(groups.max()) + 1, signals.value.shape[1]
    value, size, error = (signals.value.new_zeros(count, width) for _ in range(3))
    value.index_add_(0, groups, signals.value)
    size.index_add_(0, groups, signals.value.abs())
    error.index_add_(0, groups, signals.error)
    terms = int(groups.bincount().max()) + 2
    return Bounded(value, (error + gamma(terms) * size) * (1 + 2 * gamma(2 * terms)))


register_certifier(SilentUnits())
