"""The gradient bounds the loss where the Jacobian has full row rank (Polyak-Lojasiewicz).

The gradient is ``J^T g`` with g the loss's slope in the outputs. If the smallest singular value of ``J^T`` on all
admissible g is s, no gradient is smaller than ``s |g|``, and g is large where the loss is: ``|r|^2`` is twice a squared
loss, and a cross-entropy term l has a slope of at least ``sqrt(K / (K - 1)) (1 - exp(-l))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.gradient import gradient_with_error
from thalweg.certificates.growth import growth
from thalweg.certificates.loss_forms import Labels, Squares, hard_labels, squares
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT, norm_above, singular_value_below
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError, require_memory

__all__ = [
    "ErrorsByGradient",
    "SquaresByGradient",
    "bare_loss",
    "claim_of_slopes",
    "gradient_above",
    "loss_of_slopes",
    "weaker",
]


def bare_loss(case: Case) -> Hypothesis:
    """That the loss is the data term and nothing else."""
    note = ", ".join(map(repr, case.others))
    state = State.NOT_MET if case.others else State.PROVED
    return Hypothesis("the loss has no term besides that over data", state, note=note)


def gradient_above(case: Case, coordinates: Tensor | None = None) -> tuple[float, Level]:
    """An upper bound of the norm of the gradient, or of some coordinates of it, and how firmly it is known."""
    value, error, level = gradient_with_error(case)
    bound = value.abs() + error
    return norm_above(bound if coordinates is None else bound[coordinates]), level


def weaker(*levels: Level) -> Level:
    """The least firm."""
    order = (Level.RIGOROUS, Level.NUMERIC, Level.HEURISTIC)
    return max(levels, key=order.index)


def _dense_work(case: Case, rows: int) -> Work:
    risk, size = case.data_term(), case.objective.space.size
    if rows > size:
        raise NotApplicableError(f"it needs at least as many parameters as outputs over the data, {size} < {rows}")
    entries = risk.n_samples * risk.n_outputs * size
    return Work(gradients=4 * risk.n_outputs + 5, flops=8.0 * rows * entries, bytes=8 * 6 * entries)


@dataclass(frozen=True)
class SquaresByGradient(Certifier):
    """``L <= |grad L|^2 / (2 s^2)`` for a squared loss, with s the smallest singular value of the weighted Jacobian.

    With ``L = sum c_i |f_i - y_i|^2`` the rows of the Jacobian are weighted by ``sqrt(2 c_i)``. Where s is positive no
    stationary point has a positive loss, and neither has any within ``s`` over the Jacobian's Lipschitz constant;
    gradient flow lowers the loss at rate ``2 s^2`` at least.
    """

    name: ClassVar[str] = "squared loss by its gradient"
    kind: ClassVar[ClaimKind] = ClaimKind.GAP
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "Polyak-Lojasiewicz inequality of the Jacobian"
    stage: ClassVar[int] = 60

    def work(self, case: Case) -> Work:
        """The Jacobian and its singular values."""
        form = squares(case.data_term())
        return _dense_work(case, int((form.weight > 0).sum()) * form.target.shape[1])

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Bound the singular value from below and the gradient from above."""
        bare = bare_loss(case)
        if not bare.met:
            return self.declined([bare])
        form = squares(case.data_term())
        scale, kept = _row_weights(form)
        jacobian = case.bounded_jacobian
        require_memory(24 * jacobian.value.numel(), "a weighted Jacobian and its decomposition", "Use fewer samples.")
        largest = float(scale.max())
        weighted = scale[:, None] * jacobian.value[kept]
        rounding = 8 * UNIT * norm_above(weighted)
        s = singular_value_below(weighted, error=(largest * jacobian.error + rounding) * (1 + 1e-12))
        rank = _full_rank(s, jacobian.level)
        if not rank.met:
            return self.undecided("the Jacobian's smallest singular value is not told from zero", [bare, rank])
        steepness, level = gradient_above(case)
        bound = (steepness / s) ** 2 / 2 * (1 + 1e-12)
        if not math.isfinite(bound):
            return self.undecided("the gradient's bound overflows", [bare, rank])
        evidence: dict[str, Tensor | float | str] = {"smallest singular value": s, "rate": 2 * s**2}
        text = f"the loss is at most {bound:.6g}, for its gradient is at most {steepness:.3g}"
        radius = self._radius(case, s, largest)
        if radius > 0:
            evidence["radius"] = radius
            text += f"; no stationary point within {radius:.3g} has a positive loss"
        level = weaker(level, jacobian.level)
        return self.claimed(text, level=level, bound=bound, hypotheses=[bare, rank], evidence=evidence)

    @staticmethod
    def _radius(case: Case, s: float, largest: float) -> float:
        """Within this distance the weighted Jacobian keeps full rank: ``|J' - J| <= beta |theta' - theta|``."""
        try:
            network = case.dense()
            inputs = case.data_term().inputs
            beta = norm_above(growth(network, case.theta, inputs, 0.0).second)
            guess = s / (largest * beta) if beta > 0 else 0.0
            beta = norm_above(growth(network, case.theta, inputs, guess).second)
        except NotApplicableError:
            return 0.0
        return min(guess, s / (largest * beta) * (1 - 1e-9)) if beta > 0 else 0.0


@dataclass(frozen=True)
class ErrorsByGradient(Certifier):
    """For logistic losses and cross-entropy with hard labels the gradient bounds the training errors, and the loss.

    With every decision's outputs weighted by its factor c, and s the smallest singular value of ``J^T`` on slopes that
    sum to zero over the classes, ``sum_m (1 - exp(-l_m))^2 <= |grad L|^2 / (s k)^2``. A wrong decision has
    ``1 - exp(-l) >= 1/2``, so that there are at most four times as many.
    """

    name: ClassVar[str] = "training errors by the gradient"
    kind: ClassVar[ClaimKind] = ClaimKind.GAP
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "Polyak-Lojasiewicz inequality of the Jacobian, logistic losses"
    stage: ClassVar[int] = 60

    def work(self, case: Case) -> Work:
        """The Jacobian and its singular values."""
        labels = hard_labels(case.data_term())
        decisions, classes = labels.place.shape
        return _dense_work(case, decisions * max(1, classes - 1))

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Bound the singular value from below and the gradient from above."""
        bare = bare_loss(case)
        if not bare.met:
            return self.declined([bare])
        labels = hard_labels(case.data_term())
        jacobian = case.bounded_jacobian
        require_memory(32 * jacobian.value.numel(), "a weighted Jacobian and its decomposition", "Use fewer samples.")
        weighted, rounding = _decisions(labels, jacobian.value)
        error = (float(labels.weight.max()) * jacobian.error + rounding) * (1 + 1e-12)
        s = singular_value_below(weighted, error=error)
        rank = _full_rank(s, jacobian.level)
        if not rank.met:
            return self.undecided("the Jacobian's smallest singular value is not told from zero", [bare, rank])
        steepness, level = gradient_above(case)
        slopes = (steepness / (s * labels.steepness)) * (1 + 1e-12)
        evidence: dict[str, Tensor | float | str] = {"smallest singular value": s}
        return claim_of_slopes(self, labels, slopes, weaker(level, jacobian.level), [bare, rank], evidence)


def _full_rank(s: float, level: Level) -> Hypothesis:
    shown = State.PROVED if level is Level.RIGOROUS else State.CHECKED
    note = f"its smallest singular value, rows weighted, is at least {s:.3g}"
    return Hypothesis("the Jacobian has full row rank", shown if s > 0 else State.NOT_MET, s, note)


class _Consequence(NamedTuple):
    errors: int
    loss: float


def loss_of_slopes(labels: Labels, slopes: float) -> _Consequence:
    """What follows for errors and loss if ``sum_m (1 - exp(-l_m))^2 <= slopes^2``; an infinite loss where nothing does.

    With ``m = 1 - exp(-l)`` at most `slopes` each, ``l = -log(1 - m) <= m / (1 - slopes)``, and by Cauchy-Schwarz
    ``sum c_m m <= |c| slopes``.
    """
    most = len(labels.weight)
    errors = min(most, math.floor(4 * slopes**2)) if slopes < 1e6 else most
    loss = norm_above(labels.weight) * slopes / (1 - slopes) * (1 + 1e-12) if slopes < 1 - 1e-9 else math.inf
    return _Consequence(errors, loss)


def claim_of_slopes(
    certifier: Certifier,
    labels: Labels,
    slopes: float,
    level: Level,
    hypotheses: Sequence[Hypothesis],
    evidence: dict[str, Tensor | float | str],
) -> Certificate:
    """The claim that follows from a bound of the slopes; undecided where it says nothing."""
    errors, loss = loss_of_slopes(labels, slopes)
    decisions = len(labels.weight)
    if errors >= decisions and not math.isfinite(loss):
        return certifier.undecided("the gradient is too large to bound errors or loss", hypotheses, evidence)
    text = f"at most {errors} of {decisions} decisions are wrong"
    if math.isfinite(loss):
        text += f", and the loss is at most {loss:.6g}"
    return certifier.claimed(
        text,
        level=level,
        bound=loss if math.isfinite(loss) else None,
        hypotheses=hypotheses,
        evidence={**evidence, "training errors at most": float(errors)},
    )


def _row_weights(form: Squares) -> tuple[Tensor, Tensor]:
    """``sqrt(2 c)`` of every output that counts, and which these are."""
    width = form.target.shape[1]
    scale = (2 * form.weight).sqrt().repeat_interleave(width)
    kept = (scale > 0).nonzero().squeeze(1)
    return scale[kept], kept


def _decisions(labels: Labels, jacobian: Tensor) -> tuple[Tensor, float]:
    """The Jacobian in orthonormal coordinates of the admissible slopes of each decision, times its weight.

    Returns:
        ``(M (K - 1), P)``, and a bound of its rounding error in the Frobenius norm: of the terms that are summed, which
        may be much larger than the sums.
    """
    decisions, classes = labels.place.shape
    rows = labels.weight[:, None, None] * jacobian[labels.place.reshape(-1)].reshape(decisions, classes, -1)
    rounding = (classes + 16) * math.sqrt(classes) * UNIT * norm_above(rows)
    if classes > 1:
        rows = torch.einsum("ck,mcp->mkp", _zero_sums(classes).to(rows), rows)
    return rows.reshape(-1, jacobian.shape[1]), rounding


def _zero_sums(classes: int) -> Tensor:
    """An orthonormal basis ``(K, K - 1)`` of the vectors that sum to zero (Helmert)."""
    basis = torch.zeros(classes, classes - 1, dtype=torch.float64)
    for k in range(1, classes):
        basis[:k, k - 1] = 1
        basis[k, k - 1] = -k
    return basis / basis.norm(dim=0)


register_certifier(SquaresByGradient())
register_certifier(ErrorsByGradient())
