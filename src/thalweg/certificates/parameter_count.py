"""Fewer parameters than targets: almost no choice of targets can be fitted exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.foundation import NotApplicableError

__all__ = ["ParameterCount"]

_EXACT = {"MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss"}
"""Losses that are zero exactly where every output is its target."""


@dataclass(frozen=True)
class ParameterCount(Certifier):
    """A count: with fewer parameters than targets, almost every choice of targets is out of reach.

    The outputs are then the image of a space of lower dimension under a map that is locally Lipschitz, which has volume
    zero among all targets. It says nothing of the targets at hand, which may be among the exceptions, and gives no
    number: that is why it is called heuristic.
    """

    name: ClassVar[str] = "parameter count"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "an image of lower dimension has measure zero (Sard 1942)"
    stage: ClassVar[int] = 10

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Count."""
        risk = case.data_term()
        if risk.loss_facts.name not in _EXACT or risk.factors is None:
            raise NotApplicableError(
                f"it needs a loss that is zero where outputs are targets and nowhere else, not {risk.loss_facts.name}"
            )
        counted = int((risk.factors > 0).sum()) * risk.n_outputs
        unused = self._unused(case)
        parameters = case.objective.space.size - unused
        fewer = Hypothesis(
            "there are fewer parameters than targets",
            State.PROVED if parameters < counted else State.NOT_MET,
            margin=float(counted - parameters),
            note=f"{parameters} parameters, {counted} targets" + (f", {unused} unused" if unused else ""),
        )
        hypotheses = [fewer, self._locally_lipschitz(case)]
        return self.claimed(
            f"for almost every choice of {counted} targets no values of {parameters} parameters fit all exactly; of "
            "the targets at hand nothing is proved",
            level=Level.HEURISTIC,
            hypotheses=hypotheses,
            evidence={"parameters": float(parameters), "targets": float(counted)},
        )

    @staticmethod
    def _unused(case: Case) -> int:
        try:
            structure = case.structure()
        except NotApplicableError:
            return 0
        return sum(structure.space[name].size for name in structure.unused)

    @staticmethod
    def _locally_lipschitz(case: Case) -> Hypothesis:
        """A map with jumps can fill space; one with corners cannot."""
        statement = "the outputs are locally Lipschitz in the parameters"
        kinks = case.objective.kinks(case.theta)
        if kinks.branches:
            return Hypothesis(statement, State.NOT_MET, note=kinks.describe())
        others = sorted(set(kinks.operations) - _CONTINUOUS)
        if others:
            return Hypothesis(statement, State.NOT_MET, note=f"nothing is known of {', '.join(others)}")
        note = "corners at most were met" if kinks.operations else "no operation with corners was met"
        return Hypothesis(statement, State.CHECKED, note=note)


_CONTINUOUS = frozenset(
    {
        "relu", "relu6", "leaky_relu", "prelu", "_prelu_kernel", "hardtanh", "hardsigmoid", "hardswish", "softshrink",
        "elu", "celu", "abs", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "max", "min", "amax", "amin",
        "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d",
        "linalg_vector_norm", "norm", "huber_loss", "smooth_l1_loss",
    }
)  # fmt: skip
"""Operations with corners that do not jump."""


register_certifier(ParameterCount())
