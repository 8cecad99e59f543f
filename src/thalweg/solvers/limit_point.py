"""The end of a way to infinity, where a resolver found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

__all__ = ["LimitPoint"]


@dataclass(frozen=True, eq=False)
class LimitPoint:
    """A critical point at infinity: a point of finite parameters in other coordinates.

    Attributes:
        value: the loss there.
        gradient_norm: maximum norm of the gradient in those coordinates.
        undecided: number of curvatures lost in rounding there.
        kind: what it is, in a word or three.
        theta: ``(Q,)``, in those coordinates.
        form: which coordinates they are, in words and numbers that JSON holds; under ``"blocks"`` names and shapes of
            the parameters, as pairs.
        signature: ``(k,)``, numbers that are the same for all copies of this end, such as outputs of the network.
    """

    value: float
    gradient_norm: float
    undecided: int
    kind: str
    theta: Float[Tensor, " Q"]
    form: Mapping[str, Any]
    signature: Float[Tensor, " k"]

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.value:.10g}>"
