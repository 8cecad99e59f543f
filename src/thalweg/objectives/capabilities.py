"""What an objective can do beyond having derivatives.

A solver or a certificate names what it needs; where that is missing the answer is "not applicable, because", never an
AttributeError. A wrapper (a restriction, a sum) passes on what the objectives inside can do, so the question is put to
`Objective.capabilities`, not to the class.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from thalweg.foundation import NotApplicableError

if TYPE_CHECKING:
    from thalweg.objectives.objective import Objective

__all__ = ["Capability", "require"]


class Capability(Enum):
    """One thing an objective may be able to do, and the sentence that says so."""

    OUTPUTS = "is a loss of outputs, one row per sample (`outputs`, `jacobian`)"
    GAUSS_NEWTON = "has a Gauss-Newton matrix (`gauss_newton`)"
    DATA = "is a sum over samples (`sample_values`, `sample_gradients`, `subset`, `on`)"
    MODEL = "is computed by a torch module (`model`, `load_into_model`)"
    CRITICAL_POINTS = "knows critical points of its own (`critical_points`)"


def require(objective: Objective, capability: Capability, by: str) -> None:
    """Decline by name where a capability is missing.

    Args:
        objective: the objective at hand.
        capability: what is needed.
        by: who needs it, for the message.

    Raises:
        NotApplicableError: naming the method, the objective and the capability.
    """
    if capability not in objective.capabilities:
        raise NotApplicableError(
            f"{by} does not apply to {objective!r}: it needs an objective that {capability.value}."
        )
