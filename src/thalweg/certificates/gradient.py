"""A gradient that does not vanish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT, gamma, norm_above
from thalweg.certificates.smoothness import differentiable
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError

__all__ = ["NonzeroGradient", "gradient_with_error"]


@dataclass(frozen=True)
class NonzeroGradient(Certifier):
    """A differentiable loss has no local minimum where its gradient is larger than rounding explains.

    For multilayer perceptrons of known activations under losses in closed form the error of every coordinate is proved
    (`thalweg.certificates.gradient_bounds`); for others it is estimated by moving the parameters by units in the last
    place.

    Args:
        gradient_lipschitz: M with ``|gradient(x) - gradient(y)| <= M |x - y|`` around the point, where one is known.
            The claim then holds for a whole ball: the gradient does not vanish within ``|gradient| / M``.
    """

    name: ClassVar[str] = "gradient"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Fermat's theorem on stationary points"
    stage: ClassVar[int] = 30

    gradient_lipschitz: float | None = None

    def __post_init__(self) -> None:
        if self.gradient_lipschitz is not None and not self.gradient_lipschitz > 0:
            raise InvalidInputError(f"gradient_lipschitz must be positive, got {self.gradient_lipschitz}")

    def work(self, case: Case) -> Work:
        """A pass back with error bounds, or a few gradients to see what rounding does."""
        return Work(gradients=14 if case.bounded else 40)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare each coordinate with its rounding error."""
        gradient, error, level = gradient_with_error(case)
        smooth = differentiable(case)
        sure = (gradient.abs() - error).clamp_min(0)
        bound = float(sure.norm()) * (1 - gamma(sure.numel() + 8))
        if not bound > 0:
            text = (
                f"the gradient, {float(gradient.norm()):.3g}, is within its rounding error, {float(error.norm()):.2g}"
            )
            return self.undecided(text, [smooth])
        hypotheses, radius, where = [smooth], None, "no local minimum"
        if self.gradient_lipschitz is not None:
            radius = bound / self.gradient_lipschitz * (1 - 8 * UNIT)
            hypotheses.append(Hypothesis("the gradient has the Lipschitz constant given", State.ASSUMED))
            where = f"no local minimum closer than {radius:.4g}"
        return self.claimed(
            f"{where}: the gradient is at least {bound:.4g}, and a step against it lowers the loss",
            level=level,
            bound=radius,
            rounding=norm_above(error),
            hypotheses=hypotheses,
            evidence={"direction": -gradient, "gradient": float(gradient.norm()), "least gradient": bound},
            scope=Scope.BALL if radius is not None else None,
        )


def gradient_with_error(case: Case) -> tuple[Tensor, Tensor, Level]:
    """Gradient of the whole loss and the error of each coordinate, ``(P,)`` each: proved where that can be had."""
    try:
        found = case.bounded_gradient
    except NotApplicableError:
        return case.gradient, case.gradient_error, Level.NUMERIC
    return found.value, found.error, Level.RIGOROUS


register_certifier(NonzeroGradient())
