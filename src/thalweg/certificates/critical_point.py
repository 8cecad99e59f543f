"""An exact critical point nearby, and its index (Newton-Kantorovich); a minimum nearby and how much lower it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.curvature_change import hessian_lipschitz
from thalweg.certificates.gradient import gradient_with_error
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import (
    UNIT,
    eigenvalue_below,
    norm_above,
    product_error,
    proved_inertia,
    singular_value_below,
)
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError

__all__ = ["CriticalPointNearby", "MinimumNearby"]


@dataclass(frozen=True)
class _Nearby(Certifier):
    """What both have in common.

    Args:
        lipschitz: K with ``|H(x) - H(y)| <= K |x - y|`` in the neighbourhood; None bounds it for multilayer
            perceptrons.
    """

    scope: ClassVar[Scope] = Scope.BALL

    lipschitz: float | None = None

    def __post_init__(self) -> None:
        if self.lipschitz is not None and not 0 <= self.lipschitz < math.inf:
            raise InvalidInputError(f"a Lipschitz constant is finite and not negative, got {self.lipschitz!r}")

    def work(self, case: Case) -> Work:
        """Two Hessians and a decomposition."""
        size = case.objective.space.size
        self._change(case, 0.0)
        return Work(gradients=(3 if case.knows_hessian else 6) * size, flops=40.0 * size**3, bytes=8 * 8 * size**2)

    def _change(self, case: Case, radius: float) -> float:
        if self.lipschitz is not None:
            return self.lipschitz
        try:
            return hessian_lipschitz(case, radius)
        except NotApplicableError as error:
            setting = f"{type(self).__name__}(lipschitz=)"
            raise NotApplicableError(f"{error}; or pass {setting} with a Lipschitz constant of the Hessian") from error

    def _known(self, change: float, radius: float) -> Hypothesis:
        state = State.PROVED if self.lipschitz is None else State.ASSUMED
        note = f"{change:.4g}, {'layer by layer' if self.lipschitz is None else 'as given'}"
        return Hypothesis(f"the Hessian has a Lipschitz constant on the ball of radius {radius:.3g}", state, note=note)


@dataclass(frozen=True)
class CriticalPointNearby(_Nearby):
    """A unique critical point lies within a small distance; how many directions go down from it is known too.

    With ``b = |H^-1|``, ``eta = |H^-1 grad|`` and K a Lipschitz constant of H on the ball of radius ``2 eta``: if
    ``b K eta <= 1/2`` there is exactly one critical point within ``2 eta / (1 + sqrt(1 - 2 b K eta))``. Eigenvalues of
    H that are further from zero than K times this distance keep their sign on the way there.
    """

    name: ClassVar[str] = "critical point nearby"
    kind: ClassVar[ClaimKind] = ClaimKind.EXISTENCE
    source: ClassVar[str] = "Newton-Kantorovich theorem"
    stage: ClassVar[int] = 40

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare the Newton step with how fast the Hessian changes."""
        far = self._too_far(case)
        if far:
            return self.undecided(far)
        hessian, error = case.hessian, case.hessian_error
        smallest = singular_value_below(hessian, error=error)
        note = f"no eigenvalue is nearer to zero than {smallest:.3g}"
        state = State.CHECKED if smallest > 0 else State.NOT_MET
        regular = Hypothesis("the Hessian is regular", state, smallest, note)
        if not regular.met:
            return self.undecided(_SINGULAR, [regular])
        step = _newton_length(case, hessian, error, smallest)
        ball = 2 * step * (1 + 1e-12)
        change = self._change(case, ball)
        contraction = change * step / smallest * (1 + 1e-12)
        hypotheses = [regular, self._known(change, ball)]
        evidence: dict[str, Tensor | float | str] = {
            "Newton step": step, "least curvature": smallest, "Lipschitz constant": change, "h": contraction
        }  # fmt: skip
        if not contraction <= 0.5 * (1 - 1e-9):
            return self.undecided(_not_near(contraction), hypotheses, evidence)
        radius = 2 * step / (1 + math.sqrt(1 - 2 * contraction)) * (1 + 1e-11)
        hypotheses.append(Hypothesis("b K eta is at most 1/2", State.CHECKED, 0.5 - contraction))
        signs = proved_inertia(hessian, (error + change * radius) * (1 + 1e-12))
        what = "a critical point, the only one,"
        if not signs.undecided:
            evidence["index"] = float(signs.negative)
            what = f"a saddle with {signs.negative} descending directions, the only critical point,"
            if not signs.negative:
                what = "a strict local minimum, the only critical point,"
        return self.claimed(
            f"{what} lies within {radius:.4g} of this point",
            level=Level.NUMERIC,
            bound=radius,
            hypotheses=hypotheses,
            evidence=evidence,
        )

    def _too_far(self, case: Case) -> str:
        """Why it cannot be shown, where that is seen without the error of the Hessian, which takes another one."""
        values = torch.linalg.svdvals(case.hessian)
        if not float(values[-1]) > len(values) * UNIT * float(values[0]):
            return _SINGULAR
        step = float(torch.linalg.solve(case.hessian, case.gradient).norm())
        contraction = self._change(case, 0.0) * step / float(values[-1])
        return _not_near(contraction) if contraction > 1 else ""


_SINGULAR = "the Hessian is singular as far as rounding tells; symmetries make it so, and weight decay mends that"


def _not_near(contraction: float) -> str:
    return (
        "the gradient is too large for how fast the curvature may change: b K eta may be no more than 1/2, it is "
        f"{contraction:.3g}"
    )


@dataclass(frozen=True)
class MinimumNearby(_Nearby):
    """The loss is strongly convex around this point, which is little above the one minimum there.

    If ``lambda`` is the smallest eigenvalue of H and ``lambda^2 >= 4 K |grad|``, then on the ball of radius ``rho = 2
    |grad| / (lambda + sqrt(lambda^2 - 4 K |grad|))`` the Hessian is at least ``m = lambda - K rho``, and ``rho m =
    |grad|``: the ball holds exactly one stationary point, a minimum, and the loss there is lower by at most
    ``|grad|^2 / (2 m)``.
    """

    name: ClassVar[str] = "minimum nearby"
    kind: ClassVar[ClaimKind] = ClaimKind.GAP
    source: ClassVar[str] = "local strong convexity"
    stage: ClassVar[int] = 60

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare the gradient with the curvature and how fast that changes."""
        lowest = float(torch.linalg.eigvalsh(case.hessian)[0])
        if not lowest > 0:  # whatever its error, which takes another Hessian
            return self.undecided(f"the Hessian's smallest eigenvalue, {lowest:.3g}, is not positive")
        least = eigenvalue_below(case.hessian, case.hessian_error)
        state = State.CHECKED if least > 0 else State.NOT_MET
        convex = Hypothesis(
            "the Hessian is positive definite", state, least, f"smallest eigenvalue at least {least:.3g}"
        )
        if not convex.met:
            return self.undecided("the Hessian's smallest eigenvalue is not shown to be positive", [convex])
        gradient, error, _ = gradient_with_error(case)
        steep = norm_above(gradient.abs() + error)
        ball = 2 * steep / least * (1 + 1e-12)
        change = self._change(case, ball)
        room = least**2 * (1 - 1e-12) - 4 * change * steep * (1 + 1e-12)
        hypotheses = [convex, self._known(change, ball)]
        evidence: dict[str, Tensor | float | str] = {
            "least curvature": least, "gradient": steep, "Lipschitz constant": change
        }  # fmt: skip
        if not room > 1e-12 * least**2:
            text = f"the gradient, {steep:.3g}, is too large for the ball on which the loss is surely convex"
            return self.undecided(text, hypotheses, evidence)
        radius = 2 * steep / (least + math.sqrt(room)) * (1 + 1e-11)
        modulus = (least + math.sqrt(room)) / 2 * (1 - 1e-11)
        gap = steep**2 / (2 * modulus) * (1 + 1e-12)
        hypotheses.append(Hypothesis("the Hessian stays positive definite", State.CHECKED, modulus))
        return self.claimed(
            f"the only minimum within {radius:.4g} of this point is at most {gap:.4g} lower",
            level=Level.NUMERIC,
            bound=gap,
            hypotheses=hypotheses,
            evidence={**evidence, "radius": radius},
        )


def _newton_length(case: Case, hessian: Tensor, error: float, smallest: float) -> float:
    """An upper bound of ``|H^-1 grad|`` from a computed solution: ``H^-1 g = x + H^-1 (g - H x)``."""
    gradient, off, _ = gradient_with_error(case)
    step = torch.linalg.solve(hessian, gradient)
    product = hessian @ step.unsqueeze(1)
    left = norm_above((gradient - product.squeeze(1)).abs() + off + 2 * torch.finfo(step.dtype).eps * gradient.abs())
    left += norm_above(product_error(hessian, step.unsqueeze(1))) + error * norm_above(step)
    return (norm_above(step) + left / smallest) * (1 + 1e-12)


register_certifier(CriticalPointNearby())
register_certifier(MinimumNearby())
