"""The Gauss-Newton decrement: what the linearised model can gain, a measure of stationarity that no scaling fools.

For a squared loss, ``L(theta) = min over delta of L(f + J delta) + Gamma`` with ``Gamma = grad^T (J^T B J)^+ grad /
2``, B the Hessian in the outputs. For other convex losses Gamma is what the quadratic model gains. It does not change
under linear maps of the parameters: a gradient of 1e-9 may go with a Gamma of 1e-2, and the point is not stationary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Level, Scope
from thalweg.certificates.gradient import gradient_with_error
from thalweg.certificates.loss_forms import curvatures
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.smoothness import differentiable
from thalweg.certificates.tangent_model import Linearised, TangentModel, convexity, output_slopes, roots
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError

__all__ = ["GaussNewtonDecrement"]

PRODUCTS = 120
"""Products with the Jacobian where it is not formed."""
BLUR = 256
"""Rounding of the Hessian in the outputs, in units of roundoff of the terms it is made of."""
CUTS = (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
"""Singular values below these parts of the largest are left out, each in turn; the best direction is kept."""


class _Direction(NamedTuple):
    """A direction, and how much of the decrement it proves.

    Attributes:
        step: ``(P,)``.
        slope: the loss falls at least this fast along it.
        decrement: lower bound of Gamma.
    """

    step: Tensor
    slope: float
    decrement: float


class _Bend(NamedTuple):
    """The loss as a function of the outputs, to second order.

    Attributes:
        root: ``(N, C, C)``, ``B^(1/2)`` as computed.
        scale: ``(N,)``, size of the terms that make up B: where probabilities are near 1 they cancel.
        slope: ``(N, C)``, gradient in the outputs.
    """

    root: Tensor
    scale: Tensor
    slope: Tensor

    def rounding(self, terms: float) -> float:
        """Rounding of ``B^(1/2) J d``, given the size of the terms of ``J d``."""
        return 64 * UNIT * float(self.root.norm(dim=(1, 2)).max()) * terms


@dataclass(frozen=True)
class GaussNewtonDecrement(Certifier):
    """A point at which the linearised model can gain is not stationary, however small the gradient.

    For any direction d, ``Gamma >= (grad . d)^2 / (2 d^T J^T B J d)``, with equality for the Gauss-Newton step. So a
    computed step proves its share: no singular value need be told from zero.
    """

    name: ClassVar[str] = "Gauss-Newton decrement"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Gauss-Newton decrement; induced models: Kawaguchi, Huang, Kaelbling (2019)"
    stage: ClassVar[int] = 30

    def work(self, case: Case) -> Work:
        """The Jacobian and its decomposition where it is small, products with it otherwise."""
        missing = [hypothesis for hypothesis in convexity(case) if not hypothesis.met]
        if missing:
            raise NotApplicableError(f"it needs that {missing[0].statement} ({missing[0].note})")
        risk = case.data_term()
        return Work(gradients=3 * PRODUCTS, bytes=64 * risk.n_samples * risk.n_outputs**2)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Find a step, and bound from below what it gains."""
        hypotheses = [*convexity(case), differentiable(case)]
        if not all(hypothesis.met for hypothesis in hypotheses):
            return self.declined(hypotheses)
        model = TangentModel(case)
        found = output_slopes(case.data_term(), case.outputs, curved=True)
        assert found.hessian is not None
        root, scaled = roots(found.hessian, found.gradient)
        bend = _Bend(root, _scale(case, found.hessian), found.gradient)
        gradient, error, _ = gradient_with_error(case)
        beside = [model.linearised(row) for row in case.moved_a_little[:2]]
        best: _Direction | None = None
        for step in _steps(model, root, scaled):
            tried = _share(model, bend, beside, step, gradient, error)
            if tried is not None and (best is None or tried.decrement > best.decrement):
                best = tried
        size = float(gradient.norm())
        if best is None:
            return self.undecided(
                f"no direction was found along which the gradient, {size:.3g}, is above rounding", hypotheses
            )
        squared = case.data_term().loss_facts.squared_factor is not None
        which = "linearised model" if squared else "Gauss-Newton model, quadratic in the outputs,"
        text = f"no local minimum: the {which} falls by at least {best.decrement:.4g}"
        evidence: dict[str, Tensor | float | str] = {
            "direction": best.step, "decrement": best.decrement, "gradient": size, "slope": best.slope
        }  # fmt: skip
        return self.claimed(
            f"{text} (the gradient is {size:.3g})",
            level=Level.NUMERIC,
            hypotheses=hypotheses,
            evidence=evidence,
        )


def _scale(case: Case, hessian: Tensor) -> Tensor:
    own = hessian.norm(dim=(1, 2))
    try:
        return torch.maximum(own, curvatures(case.data_term()).second)
    except NotApplicableError:
        return own


def _steps(model: TangentModel, root: Tensor, scaled: Tensor) -> Iterator[Float[Tensor, " P"]]:
    """Gauss-Newton steps, less and less of the spectrum in each."""
    weight = model.strong.sqrt()
    _, pull = model.penalty(torch.zeros_like(weight))
    if not model.dense:
        yield model.newton_step(torch.zeros_like(weight), PRODUCTS)
        return
    jacobian = model.case.jacobian
    rows = (root @ jacobian.reshape(*scaled.shape, -1)).flatten(0, 1)
    target = scaled.reshape(-1)
    if model.penalties:
        inverse = torch.where(weight > 0, 1 / weight, torch.zeros_like(weight))
        rows = torch.cat([rows, torch.diag(weight)])
        target = torch.cat([target, inverse * pull])
    if not bool(torch.isfinite(rows).all()) or not bool(torch.isfinite(target).all()):
        return
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    share = left.T @ target
    before = -1
    for cut in CUTS:
        kept = values > cut * values[0]
        if int(kept.sum()) in (0, before):
            continue
        before = int(kept.sum())
        yield -(right[kept].T @ (share[kept] / values[kept]))


def _share(
    model: TangentModel, bend: _Bend, beside: list[Linearised], step: Tensor, gradient: Tensor, error: Tensor
) -> _Direction | None:
    """What a step proves, rounding taken off; None where it proves nothing."""
    size = float(step.norm())
    if not 0 < size < math.inf:
        return None
    step = step / size  # its length does not matter, and numbers stay in range
    pushed = (model.here.jacobian @ step).reshape(bend.slope.shape)
    slope = -float(gradient @ step) - float(error @ step.abs()) * (1 + 1e-12)
    slope -= (len(step) + 4) * UNIT * float(gradient.abs() @ step.abs())
    slope -= 8 * UNIT * float((bend.slope * pushed).abs().sum())  # the samples' factors are rounded too
    if not slope > 0:
        return None
    length = _length(model, bend, step, pushed)
    moved = []
    for at in beside:
        again = (at.jacobian @ step).reshape(pushed.shape)
        moved.append(abs(_length(model, bend, step, again) - length))
    blurred = BLUR * UNIT * float((bend.scale * (pushed**2).sum(1)).sum())
    whole = math.hypot(length + 4 * max(moved) + bend.rounding(_largest(model, step)), math.sqrt(blurred))
    if not 0 < whole < math.inf:
        return None
    return _Direction(step, slope, (slope / whole) ** 2 / 2 * (1 - 1e-12))


def _length(model: TangentModel, bend: _Bend, step: Tensor, pushed: Tensor) -> float:
    """``|A d|`` with ``A^T A`` the curvature of the model."""
    return math.hypot(float((bend.root @ pushed.unsqueeze(-1)).norm()), float((model.strong.sqrt() * step).norm()))


def _largest(model: TangentModel, step: Tensor) -> float:
    """Size of the terms that make up ``J d``, for its own rounding."""
    if model.dense:
        return float((model.case.jacobian.abs() @ step.abs()).norm())
    return float((model.here.jacobian @ step.abs()).abs().norm())


register_certifier(GaussNewtonDecrement())
