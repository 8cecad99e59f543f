"""What must hold of a network's outputs and weights wherever the gradient vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.identities import homogeneous_layers, incoming_and_outgoing, last_layer_sums, linear_last
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import gamma
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import L2, EmpiricalRisk

__all__ = ["BalancedUnits", "CalibratedOutputs"]


@dataclass(frozen=True)
class CalibratedOutputs(Certifier):
    """Where the last layer is stationary, the outputs' gradient is orthogonal to what that layer can make.

    With a bias ``sum_i g_i = 0``: mean residuals are zero, mean predicted probabilities are the frequencies of the
    classes. With the features F before it ``F^T g = 0``, and so ``sum_i g_i.f_i = 0``: under squares the loss is
    ``c (|y|^2 - |f|^2)``. That the layer is stationary is checked, relative to the terms that must cancel.

    Args:
        tolerance: the part of its terms that a sum may be and still count as zero.
    """

    name: ClassVar[str] = "calibrated outputs"
    kind: ClassVar[ClaimKind] = ClaimKind.IDENTITY
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "stationarity of a linear last layer"
    stage: ClassVar[int] = 31

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        _check(self.tolerance)

    def work(self, case: Case) -> Work:
        """A forward pass, and a few gradients to know their rounding."""
        linear_last(case.dense(computed_inputs=True))
        return Work(gradients=12)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Hold the sums against their terms."""
        network = case.dense(computed_inputs=True)
        last = linear_last(network)
        if case.others:
            raise NotApplicableError("it needs a loss without other terms, which pull at the last layer as well")
        if bool((last.weight_coordinates < 0).any()):
            raise NotApplicableError("it needs a last layer that is not frozen")
        signals, parts = last_layer_sums(case, network)
        parts = [parts[0], *(part for part in parts[1:] if bool((part.coordinates >= 0).all()))]
        coordinates, sums, sizes = (
            torch.cat([table.reshape(-1) for table in tables]) for tables in zip(*parts, strict=True)
        )
        margin = _largest_part(sums, sizes)
        still = _stationary("the last layer is stationary", margin, self.tolerance)
        if not still.met:
            return self.declined([still])
        # the sums are the gradient of the last layer, whose error holds that of the forward pass as well
        own = gamma(len(signals) + 16) * float(sizes.max())
        rounding = own + float(case.gradient_error[coordinates].max())
        euler = float((signals * case.outputs.reshape(signals.shape)).sum())
        return self.claimed(
            _sentence(case.data_term(), len(parts) > 1, float(sums.abs().max())),
            level=Level.NUMERIC,
            bound=float(sums.abs().max()) + rounding,
            rounding=rounding,
            hypotheses=[still],
            evidence={"sum of g.f": euler, "relative size": margin},
        )


@dataclass(frozen=True)
class BalancedUnits(Certifier):
    """Where the gradient vanishes under weight decay, homogeneous units are balanced.

    At every point ``incoming.grad = k outgoing.grad`` of the data term, k the degree of the activation; where the whole
    gradient vanishes, the data term pulls against the decay, so ``m |incoming|^2 = k m' |outgoing|^2`` for every unit,
    with m and m' the strengths of the decay on either side. Stationarity is checked, unit by unit, relative to the
    squares compared.

    Args:
        tolerance: the part of the squares that an imbalance may be and still count as none.
    """

    name: ClassVar[str] = "balanced units"
    kind: ClassVar[ClaimKind] = ClaimKind.IDENTITY
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Euler's theorem and stationarity under weight decay"
    stage: ClassVar[int] = 31

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        _check(self.tolerance)

    def work(self, case: Case) -> Work:
        """A gradient."""
        case.dense(computed_inputs=True)
        _strength(case)
        return Work(gradients=2)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare the squares of each unit, and the gradient that could unbalance them."""
        network, strength, theta = case.dense(computed_inputs=True), _strength(case), case.theta
        gaps, sizes, pulls = [], [], []
        for number, degree in homogeneous_layers(network):
            incoming, outgoing = incoming_and_outgoing(network, number)
            squares = strength[incoming] * theta[incoming] ** 2, degree * strength[outgoing] * theta[outgoing] ** 2
            gaps.append(squares[0].sum(1) - squares[1].sum(1))
            sizes.append(squares[0].sum(1) + squares[1].sum(1))
            pulled = theta * case.gradient
            pulls.append(pulled[incoming].sum(1) - degree * pulled[outgoing].sum(1))
        gap, size, pull = torch.cat(gaps), torch.cat(sizes), torch.cat(pulls)
        if not bool((size > 0).any()):
            raise NotApplicableError("it needs homogeneous units under weight decay")
        margin = _largest_part(pull, size)
        still = _stationary("incoming and outgoing weights of every unit are stationary", margin, self.tolerance)
        if not still.met:
            return self.declined([still])
        rounding = gamma(2 * case.theta.numel() + 16) * float(size.max())
        return self.claimed(
            f"weight decay balances {len(gap)} homogeneous units: the squares of incoming and outgoing weights, times "
            f"their decay, differ by at most {float(gap.abs().max()):.2g}",
            level=Level.NUMERIC,
            bound=float(gap.abs().max()) + rounding,
            rounding=rounding,
            hypotheses=[still],
            evidence={"largest square": float(size.max())},
        )


def _check(tolerance: float) -> None:
    if not 0 < tolerance < 1:
        raise InvalidInputError(f"tolerance is relative and must lie between 0 and 1, got {tolerance}")


def _largest_part(sums: Tensor, sizes: Tensor) -> float:
    """The largest sum as a part of the terms that make it up; those made of nothing do not count."""
    some = sizes > 0
    return float((sums.abs()[some] / sizes[some]).max()) if bool(some.any()) else 0.0


def _stationary(statement: str, margin: float, tolerance: float) -> Hypothesis:
    state = State.CHECKED if margin <= tolerance else State.NOT_MET
    note = f"what must cancel leaves {margin:.2g} of its terms; {tolerance:g} is allowed"
    return Hypothesis(statement, state, margin=tolerance - margin, note=note)


def _strength(case: Case) -> Tensor:
    """Strength of weight decay on every coordinate, ``(P,)``.

    Raises:
        NotApplicableError: without decay, with one towards other points than the origin, and with other terms.
    """
    total = torch.zeros_like(case.theta)
    for term in case.others:
        if not isinstance(term, L2):
            raise NotApplicableError(f"it needs a loss whose other terms are weight decay, not {term!r}")
        if bool((term.center * term.mask != 0).any()):
            raise NotApplicableError("it needs weight decay towards zero")
        total = total + term.strength * term.mask
    if not bool((total > 0).any()):
        raise NotApplicableError("it needs weight decay")
    return total


def _sentence(risk: EmpiricalRisk, with_bias: bool, largest: float) -> str:
    """What the vanishing sums mean under the loss at hand."""
    text = f"the last layer is stationary: the outputs' gradient is orthogonal to its features, to {largest:.2g}"
    if not with_bias:
        return text
    if isinstance(risk.loss, nn.MSELoss):
        return f"{text}; weighted mean residuals are zero"
    if isinstance(risk.loss, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
        return f"{text}; weighted mean predicted probabilities are the frequencies in the targets"
    return text


register_certifier(CalibratedOutputs())
register_certifier(BalancedUnits())
