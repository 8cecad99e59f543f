"""How low a convex loss over a model linear in its parameters can go: bounds from its slope at a tried step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.loss_forms import squares
from thalweg.certificates.rounding import UNIT, singular_value_below
from thalweg.certificates.tangent_model import TangentModel, finite
from thalweg.foundation import NotApplicableError

__all__ = ["Gap", "Limits", "affordable_products", "best_gap", "modulus_below"]

PRODUCTS, STEPS, LEISURE = 64, 4, 20.0
"""Products with the Jacobian that a gap may take, Newton steps among which they are divided, and seconds for them."""


class Gap(NamedTuple):
    """How far the loss is above the lowest of the model at most, and how much of that was added for rounding."""

    bound: float
    rounding: float


def affordable_products(case: Case) -> int:
    """Products with the Jacobian that are worth their time: none where one takes long."""
    affordable = min(LEISURE, case.control.remaining() / 4) / max(3 * case.gradient_seconds, 1e-6)
    return int(min(PRODUCTS, affordable)) if affordable >= 8 else 0


def modulus_below(model: TangentModel) -> float:
    """Curvature of the data term in every direction: the smallest eigenvalue of ``2 J^T C J`` for squares, else 0."""
    rows, size = model.here.jacobian.shape
    if not model.dense or rows < size:
        return 0.0
    try:
        form = squares(model.risk)
    except NotApplicableError:
        return 0.0
    scale = (2 * form.weight).sqrt().repeat_interleave(form.target.shape[1])
    jacobian = model.case.bounded_jacobian
    weighted = scale.unsqueeze(1) * jacobian.value[:, model.coordinates]
    error = float(scale.max()) * jacobian.error + 8 * UNIT * float(weighted.norm())
    return singular_value_below(weighted, error=error) ** 2 * (1 - 1e-12)


class Limits(NamedTuple):
    """What limits how low the model can go.

    Attributes:
        strong: ``(k,)``, curvature in each coordinate at least.
        radius: of the coordinates that have none.
    """

    strong: Float[Tensor, " k"]
    radius: float

    def bound(
        self, delta: Float[Tensor, " k"], gained: float, slope: Tensor, error: Float[Tensor, " k"] | None = None
    ) -> float:
        """``L(0) - inf``, as the slope at delta bounds it.

        Args:
            delta: ``(k,)``.
            gained: ``L(0) - L(delta)``.
            slope: ``(k,)``, the gradient at delta.
            error: ``(k,)``, how far each coordinate of the slope may be off.
        """
        error = torch.zeros_like(slope) if error is None else error
        curved = self.strong > 0
        steep = slope.abs() + error
        bound = gained + float((steep[curved] ** 2 / self.strong[curved]).sum()) / 2
        free = ~curved
        if bool(free.any()):
            away = float(slope[free] @ delta[free]) + float(error[free] @ delta[free].abs())
            bound += away + self.radius * float(steep[free].norm())
        return finite(bound)


def best_gap(model: TangentModel, modulus: float, radius: float, products: int) -> Gap:
    """The least bound among those at the steps that were tried."""
    limits = Limits(model.strong + modulus, radius)
    if not products:
        return _plain_gap(model, limits)
    here = torch.zeros_like(model.strong)
    start, slope = model.value_and_gradient(here)
    delta, value = here, start
    chosen, best = here, limits.bound(here, 0.0, slope)
    for _ in range(STEPS):
        moved, lower = _descend(model, delta, model.newton_step(delta, products // STEPS), value)
        if moved is None:
            break
        delta, gained, value = moved, value - lower, lower
        found = limits.bound(delta, start - value, model.value_and_gradient(delta)[1])
        if found < best:
            chosen, best = delta, found
        if gained <= 1e-14 * abs(value) or model.case.control.why_stop():
            break
    return _with_rounding(model, chosen, limits)


def _plain_gap(model: TangentModel, limits: Limits) -> Gap:
    """The bound at this point itself, from the gradient of the loss."""
    slope, error = (part[model.coordinates] for part in (model.case.gradient, model.case.gradient_error))
    here = torch.zeros_like(slope)
    bound = limits.bound(here, 0.0, slope, error) * (1 + 1e-12)
    return Gap(bound, bound - limits.bound(here, 0.0, slope))


def _descend(model: TangentModel, delta: Tensor, step: Tensor, value: float) -> tuple[Tensor | None, float]:
    for halvings in range(8):
        moved = delta + step / 2**halvings
        lower = finite(model.value_and_gradient(moved)[0])
        if lower < value:
            return moved, lower
    return None, value


def _with_rounding(model: TangentModel, delta: Tensor, limits: Limits) -> Gap:
    """The bound at delta with what value and slope change by when theta moves by units in the last place.

    What is seen in few draws is multiplied by 4, and no coordinate counts less than the median.
    """
    here = torch.zeros_like(delta)
    start, _ = model.value_and_gradient(here)
    value, slope = model.value_and_gradient(delta)
    changes, shifts = [], []
    for row in model.case.moved_a_little[:2]:
        at = model.linearised(row)
        moved, turned = model.value_and_gradient(delta, at)
        shifts.append(abs((model.value_and_gradient(here, at)[0] - moved) - (start - value)))
        changes.append((turned - slope).abs())
    seen = torch.stack(changes).amax(0)
    error = torch.maximum(4 * seen, 16 * UNIT * slope.abs() + seen.median())
    rounding = 4 * max(shifts) + 64 * UNIT * (abs(start) + abs(value))
    exact = limits.bound(delta, start - value, slope)
    bound = max(0.0, limits.bound(delta, start - value, slope, error)) + rounding
    return Gap(bound * (1 + 1e-12), max(0.0, bound - exact))
