"""A direction along which the loss curves down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.figure import PATTERNS, Figure
from thalweg.certificates.line_derivatives import proved_line_derivatives
from thalweg.certificates.random_rounding import RandomRounding
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT, norm_above
from thalweg.certificates.smoothness import differentiable
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError, current_limit, progress_bar
from thalweg.tangent import extreme_eigenpairs

__all__ = ["NegativeCurvature", "curvature_along"]

DENSE = 300
"""Parameters up to which the Hessian is formed for this certificate alone; one that is there already is used."""

PRODUCTS = 120
"""Products with the Hessian that the Lanczos iteration may take beyond."""

STEP = 1e-3
"""Step, relative to theta, of the difference that shows how large the terms of the second derivative are."""


@dataclass(frozen=True, eq=False)
class NegativeCurvature(Certifier):
    """A twice differentiable loss has no local minimum where it curves down along some direction.

    Either way along that direction the loss falls, or it falls along one of the two ways: no matter what the gradient
    is. The direction is the eigenvector of the lowest eigenvalue found, from the dense matrix or by the Lanczos
    iteration; what counts is the second derivative along it, which is computed anew with its error.

    Args:
        direction: ``(P,)``, along which to look; None searches.
        hessian_lipschitz: K with ``||H(x) - H(y)|| <= K |x - y|`` around the point, where one is known. The claim then
            holds for a whole ball: there is no local minimum closer than ``-v^T H v / (K |v|^2)``.
    """

    name: ClassVar[str] = "negative curvature"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "the second-order necessary condition"
    stage: ClassVar[int] = 30

    direction: Tensor | None = None
    hessian_lipschitz: float | None = None

    def __post_init__(self) -> None:
        if self.hessian_lipschitz is not None and not self.hessian_lipschitz > 0:
            raise InvalidInputError(f"hessian_lipschitz must be positive, got {self.hessian_lipschitz}")

    def work(self, case: Case) -> Work:
        """Products with the Hessian, each about two gradients."""
        if case.objective.path.second == "none":
            raise NotApplicableError(f"it needs second derivatives: {case.objective.path.why_not_twice()}")
        size = case.theta.numel()
        if self.direction is not None:
            return Work(gradients=40)
        if case.knows_hessian:
            return Work(gradients=40, flops=30.0 * size**3, bytes=3 * 8 * size**2)
        if size <= DENSE:
            return Work(gradients=2 * size + 40, flops=30.0 * size**3, bytes=6 * 8 * size**2)
        products = min(size, PRODUCTS)
        basis = min(8 * size * (products + 8), max(current_limit() // 2, 8 * size * 16))
        return Work(gradients=2 * products + 40, flops=4.0 * size * products**2, bytes=basis)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Find a direction, and bound the second derivative along it."""
        smooth = differentiable(case, 2)
        if not smooth.met:
            return self.declined([smooth])
        direction, how = self._direction(case)
        if direction is None:
            return self.undecided(how, [smooth])
        figure = curvature_along(case, direction)
        length = norm_above(direction)
        quotient = figure.above / length**2 * (1 - 8 * UNIT)
        if not quotient < 0:
            text = f"the lowest curvature found, {figure.value / length**2:.3g}, is not below zero beyond its error"
            return self.undecided(f"{text}, {figure.error / length**2:.2g} ({how})", [smooth])
        hypotheses, radius, where = [smooth], None, "no local minimum"
        if self.hessian_lipschitz is not None:
            radius = -quotient / self.hessian_lipschitz * (1 - 8 * UNIT)
            hypotheses.append(Hypothesis("the Hessian has the Lipschitz constant given", State.ASSUMED))
            where = f"no local minimum closer than {radius:.4g}"
        return self.claimed(
            f"{where}: the loss curves down along a direction, by at least {-quotient:.4g}",
            level=figure.level,
            bound=radius,
            rounding=figure.error / length**2,
            hypotheses=hypotheses,
            evidence={"direction": direction, "curvature": quotient, "found": how},
            scope=Scope.BALL if radius is not None else None,
        )

    def _direction(self, case: Case) -> tuple[Tensor | None, str]:
        """A unit vector, and how it was found; None and the reason where none was."""
        size = case.theta.numel()
        if self.direction is not None:
            given = self.direction.detach().to(case.theta)
            length = float(given.norm())
            if given.shape != case.theta.shape or not 0 < length < math.inf:
                raise InvalidInputError(f"direction= must be a finite vector ({size},) other than zero")
            return given / length, "given by the user"
        if size <= DENSE or case.knows_hessian:
            _, vectors = torch.linalg.eigh(case.hessian)
            return vectors[:, 0], "from the dense Hessian"
        with progress_bar("", show=False) as silent:
            pairs = extreme_eigenpairs(
                case.objective.hessian_operator(case.theta), 1, 0, tolerance=1e-4, max_products=min(size, PRODUCTS),
                dense_below=0, seed=case.seed, control=case.control, progress=silent,
            )  # fmt: skip
        if not pairs.n_smallest:
            return None, f"no direction was found: {pairs.stopped}"
        return pairs.vectors[:, 0], f"by {pairs.products} Lanczos products; {pairs.stopped}"


def curvature_along(case: Case, direction: Float[Tensor, " P"]) -> Figure:
    """The second derivative ``v^T H v``: with a proved error where that can be had, else with an estimated one.

    Args:
        case: the problem.
        direction: v, ``(P,)``.
    """
    try:
        return proved_line_derivatives(case, direction).second
    except NotApplicableError:
        pass
    product = case.objective.hessian_product(case.theta, direction)
    value = float(direction @ product)
    generator = torch.Generator().manual_seed(case.seed + 2)
    changes, sizes = [0.0], [_size_of_terms(case, direction)]
    length, width = float(direction.norm()), math.sqrt(case.theta.numel())
    for number in range(PATTERNS):
        signs = 2 * torch.randint(0, 2, case.theta.shape, generator=generator).to(case.theta) - 1
        with RandomRounding(case.seed + number):
            moved = case.objective.hessian_product(case.theta * (1 + 2 * UNIT * signs), direction)
        changes.append(abs(float(direction @ moved) - value))
        # of how large entries the product is made that may cancel: |H s|^2 is |H|_F^2 on average
        sizes.append(float(case.objective.hessian_product(case.theta, signs).norm()) * length**2)
    sizes.append(width * _size_of_terms(case, signs / width) * length**2)
    samples = case.risk.n_samples if case.risk is not None else 1
    return Figure(value, 4 * max(changes) + 64 * UNIT * math.sqrt(samples) * sum(sizes), Level.NUMERIC)


def _size_of_terms(case: Case, direction: Tensor) -> float:
    """How large the terms are that samples contribute to the second derivative, which may cancel in the sum."""
    risk = case.risk
    if risk is None:
        return 0.0
    h = STEP * (float(case.theta.abs().max()) or 1.0)
    outputs = [risk.outputs(case.theta + step * direction) for step in (-h, 0.0, h)]
    bend = (outputs[0] - 2 * outputs[1] + outputs[2]) / h**2
    slope = (outputs[2] - outputs[0]) / (2 * h)
    losses = [risk.losses_of(outputs[1] + step * slope) for step in (-h, 0.0, h)]
    curved = (losses[0] - 2 * losses[1] + losses[2]) / h**2
    return float((case.output_gradient * bend).abs().sum() + curved.abs().sum())


register_certifier(NegativeCurvature())
