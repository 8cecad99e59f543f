"""Exact interpolation nearby: parameters with zero loss within a computed distance (Newton-Kantorovich)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.gradient_gap import bare_loss, weaker
from thalweg.certificates.growth import Growth, growth
from thalweg.certificates.loss_forms import Squares, zero_targets
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT, norm_above, singular_value_below
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError

__all__ = ["ExactFit"]


@dataclass(frozen=True)
class ExactFit(Certifier):
    """Parameters that fit every target exactly lie within a small distance of this point.

    With ``r = f - y``, s the smallest singular value of the Jacobian here and beta a Lipschitz constant of the Jacobian
    on the ball of radius ``2 |r| / s``: if ``beta |r| / s^2 <= 1/2``, the flow ``theta' = -J^+ r`` ends at an exact fit
    no further than ``2 |r| / (s + sqrt(s^2 - 2 beta |r|))``. For one hidden layer beta is in closed form, for more it
    comes from a recursion over the layers.

    Args:
        lipschitz: beta, where it is known; needed for anything but multilayer perceptrons of smooth activations.
    """

    name: ClassVar[str] = "exact fit nearby"
    kind: ClassVar[ClaimKind] = ClaimKind.EXISTENCE
    scope: ClassVar[Scope] = Scope.BALL
    source: ClassVar[str] = "Newton-Kantorovich theorem for underdetermined systems"
    stage: ClassVar[int] = 40

    lipschitz: float | None = None

    def __post_init__(self) -> None:
        if self.lipschitz is not None and not 0 <= self.lipschitz < math.inf:
            raise InvalidInputError(f"a Lipschitz constant is finite and not negative, got {self.lipschitz!r}")

    def work(self, case: Case) -> Work:
        """The Jacobian and its singular values."""
        risk, size = case.data_term(), case.objective.space.size
        form = zero_targets(risk)
        rows = int((form.weight > 0).sum()) * form.target.shape[1]
        if rows > size:
            raise NotApplicableError(f"it needs at least as many parameters as outputs over the data, {size} < {rows}")
        if self.lipschitz is None:
            self._layers(case, 0.0)
        entries = form.target.numel() * size
        return Work(gradients=4 * risk.n_outputs, flops=8.0 * rows * entries, bytes=8 * 5 * entries)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare the residual with what the Jacobian can mend."""
        bare = bare_loss(case)
        if not bare.met:
            return self.declined([bare])
        form = zero_targets(case.data_term())
        kept = (form.weight > 0).repeat_interleave(form.target.shape[1])
        jacobian = case.bounded_jacobian
        s = singular_value_below(jacobian.value[kept], error=jacobian.error)
        proved = State.PROVED if jacobian.level is Level.RIGOROUS else State.CHECKED
        note = f"its smallest singular value is at least {s:.3g}"
        rank = Hypothesis("the Jacobian has full row rank", proved if s > 0 else State.NOT_MET, s, note)
        if not rank.met:
            return self.undecided("the Jacobian's smallest singular value is not told from zero", [bare, rank])
        residual, level = _residual(case, form)
        ball = 2 * residual / s * (1 + 1e-12)
        beta, known = self._lipschitz(case, form, ball)
        contraction = beta * residual / s**2 * (1 + 1e-12)
        hypotheses = [bare, rank, known]
        evidence: dict[str, Tensor | float | str] = {
            "smallest singular value": s, "residual": residual, "Lipschitz constant": beta, "h": contraction
        }  # fmt: skip
        if not contraction <= 0.5 * (1 - 1e-9):
            return self.undecided(f"beta |r| / s^2 is {contraction:.3g}, not at most 1/2", hypotheses, evidence)
        radius = 2 * residual / (s * (1 + math.sqrt(1 - 2 * contraction))) * (1 + 1e-11)
        within = Hypothesis("beta |r| / s^2 is at most 1/2", State.PROVED, 0.5 - contraction)
        return self.claimed(
            f"parameters that fit every target exactly lie within {radius:.4g} of this point",
            level=weaker(level, jacobian.level),
            bound=radius,
            hypotheses=[*hypotheses, within],
            evidence=evidence,
        )

    def _lipschitz(self, case: Case, form: Squares, ball: float) -> tuple[float, Hypothesis]:
        statement = f"the Jacobian has a Lipschitz constant on the ball of radius {ball:.3g}"
        if self.lipschitz is not None:
            return self.lipschitz, Hypothesis(statement, State.ASSUMED, note=f"{self.lipschitz:.4g}, as given")
        beta = norm_above(self._layers(case, ball).second[form.weight > 0])
        return beta, Hypothesis(statement, State.PROVED, note=f"{beta:.4g}, layer by layer")

    @staticmethod
    def _layers(case: Case, ball: float) -> Growth:
        try:
            return growth(case.dense(), case.theta, case.data_term().inputs, ball)
        except NotApplicableError as error:
            raise NotApplicableError(f"{error}; or pass ExactFit(lipschitz=) with one known of the Jacobian") from error


def _residual(case: Case, form: Squares) -> tuple[float, Level]:
    """An upper bound of ``|f - y|`` over the samples that count."""
    counts = form.weight > 0
    try:
        outputs, error = case.bounded_outputs
        level = Level.RIGOROUS
    except NotApplicableError:
        outputs, level = case.outputs, Level.NUMERIC
        moved = torch.stack([case.data_term().outputs(row) for row in case.moved_a_little])
        error = 4 * (moved - outputs).abs().amax(0) + 16 * UNIT * outputs.abs()
    apart = (outputs - form.target).abs() * (1 + 2 * UNIT) + error
    return norm_above(apart[counts]), level


register_certifier(ExactFit())
