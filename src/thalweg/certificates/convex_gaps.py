"""Gaps to the lowest loss of models linear in their parameters: linearised, last layer, or linear outright.

For a loss convex in the outputs the slope at any tried delta bounds what all other delta can reach (Fenchel-Young: it
is a point of the dual problem), so that with ``grad`` the gradient there::

    inf over |delta'| <= R  >=  L(delta) - <grad, delta> - R |grad|

and with a curvature of at least ``m_j`` in every coordinate ``- sum grad_j^2 / (2 m_j)`` takes the place of the last
two terms, without R. With delta = 0 the gap is at most ``R |grad|``; a few Gauss-Newton steps make it smaller.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.convex_bound import affordable_products, best_gap, modulus_below
from thalweg.certificates.linear_parts import euler_vector, last_layer_coordinates
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.tangent_model import TangentModel, convexity
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError

__all__ = ["ConvexGap", "LastLayerGap", "TangentGap"]


@dataclass(frozen=True)
class _LinearGap(Certifier):
    """What the three have in common.

    Args:
        radius: how far from this point the parameters compared with may lie, where no curvature makes a radius
            superfluous; None takes the length of theta (1 at the origin).
    """

    kind: ClassVar[ClaimKind] = ClaimKind.GAP
    source: ClassVar[str] = "convex duality (Fenchel-Young); induced models: Kawaguchi, Huang, Kaelbling (2019)"
    stage: ClassVar[int] = 60

    radius: float | None = None

    def __post_init__(self) -> None:
        if self.radius is not None and not (self.radius > 0 and math.isfinite(self.radius)):
            raise InvalidInputError(f"the radius must be positive and finite, got {self.radius!r}")

    def coordinates(self, case: Case) -> Tensor | None:
        """Those that move; None for all."""
        return None

    def work(self, case: Case) -> Work:
        """Products with the Jacobian, fewer where they are dear."""
        self._refuse(case)
        risk = case.data_term()
        entries = risk.n_samples * risk.n_outputs
        products = affordable_products(case)
        return Work(gradients=40 + 3 * products if products else 6, bytes=8 * entries * (risk.n_outputs * 4 + 8))

    def _refuse(self, case: Case) -> None:
        missing = [hypothesis for hypothesis in convexity(case) if not hypothesis.met]
        if missing:
            raise NotApplicableError(f"it needs that {missing[0].statement} ({missing[0].note})")
        self.coordinates(case)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Take a few Gauss-Newton steps, and bound the gap there."""
        model = TangentModel(case, self.coordinates(case))
        modulus = modulus_below(model)
        radius = self.radius if self.radius is not None else float(case.theta.norm()) or 1.0
        gap = best_gap(model, modulus, radius, affordable_products(case))
        hypotheses = [*convexity(case), *self.hypotheses(case)]
        if not math.isfinite(gap.bound):
            return self.undecided("the loss or its slopes are not finite", hypotheses)
        everywhere = bool((model.strong + modulus > 0).all())
        if everywhere:
            strength = float((model.strong + modulus).min())
            hypotheses.append(Hypothesis("the model's loss is strongly convex", State.CHECKED, margin=strength))
        evidence: dict[str, Tensor | float | str] = {"lower bound": case.value.below - gap.bound}
        if not everywhere:
            evidence["radius"] = radius
        where = "" if everywhere else f" within {radius:.4g} of this point"
        return self.claimed(
            f"{self.sentence(case)}{where} have a loss lower by more than {gap.bound:.6g}",
            level=Level.NUMERIC,
            bound=gap.bound,
            rounding=gap.rounding,
            hypotheses=hypotheses,
            evidence=evidence,
            scope=self.reach(everywhere),
        )

    def hypotheses(self, case: Case) -> list[Hypothesis]:
        """Those besides convexity."""
        return []

    @abstractmethod
    def sentence(self, case: Case) -> str:
        """The subject of the claim."""

    def reach(self, everywhere: bool) -> Scope:
        """Over what the claim ranges, given whether no radius limits it."""
        return self.scope


@dataclass(frozen=True)
class TangentGap(_LinearGap):
    """How far the loss is above the lowest of the model linearised at this point.

    Where the outputs are ``J gamma`` for a known gamma (a last layer that is linear, a homogeneous network) this is the
    model ``J alpha``, and at a stationary point the loss here is its minimum.
    """

    name: ClassVar[str] = "gap of the linearised model"
    scope: ClassVar[Scope] = Scope.LINEARISED

    def hypotheses(self, case: Case) -> list[Hypothesis]:
        """What is known of the outputs as a member of the induced model."""
        found = euler_vector(case)
        if found is None:
            return []
        pushed = case.data_term().jacobian_operator(case.theta) @ found.gamma
        off = float((pushed.reshape(case.outputs.shape) - case.outputs).norm())
        if off > 1e-9 * float(case.outputs.norm()):
            return []
        return [Hypothesis("the outputs are J gamma", State.CHECKED, off, f"gamma is {found.describe}")]

    def sentence(self, case: Case) -> str:
        """The subject of the claim."""
        return "no parameters of the model linearised at this point"


@dataclass(frozen=True)
class LastLayerGap(_LinearGap):
    """How far the loss is above the lowest of all last layers, everything before held as it is."""

    name: ClassVar[str] = "gap of the last layer"
    scope: ClassVar[Scope] = Scope.LINEARISED

    def coordinates(self, case: Case) -> Tensor:
        """Those of the last layer."""
        return last_layer_coordinates(case)

    def sentence(self, case: Case) -> str:
        """The subject of the claim."""
        return "no weights of the last layer, all before it held,"


@dataclass(frozen=True)
class ConvexGap(_LinearGap):
    """How far the loss is above the lowest, for a network that is linear in its free parameters."""

    name: ClassVar[str] = "gap of a convex problem"
    scope: ClassVar[Scope] = Scope.ARCHITECTURE

    def coordinates(self, case: Case) -> None:
        """All, if all are of the last layer."""
        size = case.objective.space.size
        if len(last_layer_coordinates(case)) < size:
            raise NotApplicableError("it needs a network that is linear in its free parameters")

    def sentence(self, case: Case) -> str:
        """The subject of the claim."""
        return "no parameters"

    def reach(self, everywhere: bool) -> Scope:
        """All parameters, or those of a ball."""
        return Scope.ARCHITECTURE if everywhere else Scope.BALL


register_certifier(TangentGap())
register_certifier(LastLayerGap())
register_certifier(ConvexGap())
