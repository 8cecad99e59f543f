"""What the loss is made of: weighted squares, or weighted logistic terms with hard labels.

Certificates that use the shape of a loss need its exact coefficients: the factor of each sample under the reduction,
sample weights, class weights, labels that are ignored, smoothed or soft. They are read here once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thalweg.foundation import NotApplicableError
from thalweg.objectives import EmpiricalRisk
from thalweg.objectives.output_forms import Squares, decision_shares, squares

__all__ = ["Curvatures", "Labels", "Squares", "curvatures", "decision_shares", "hard_labels", "squares", "zero_targets"]

_ZERO_AT_TARGET = (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)
THIRD_LOGISTIC = 1 / (6 * math.sqrt(3))
"""Largest third derivative of ``log(1 + exp f)``."""


class Labels(NamedTuple):
    """The loss ``sum_m weight_m l_m`` over decisions m, all weights positive.

    Attributes:
        place: ``(M, K)``, where the K outputs of each decision stand among all outputs, flattened. With K = 1 the term
            is ``log(1 + exp(-s f))``, with more it is ``-log softmax(f)[label]``.
        label: ``(M,)`` the class; with K = 1 it is 1 for s = 1 and 0 for s = -1.
        weight: ``(M,)``.
    """

    place: Int[Tensor, "M K"]
    label: Int[Tensor, " M"]
    weight: Float[Tensor, " M"]

    @property
    def steepness(self) -> float:
        """The k of ``|gradient of l_m| >= k (1 - exp(-l_m))``: 1 for signs, ``sqrt(K / (K - 1))`` for classes."""
        classes = self.place.shape[1]
        return 1.0 if classes == 1 else math.sqrt(classes / (classes - 1))

    def margins(self, outputs: Float[Tensor, "N C"]) -> Float[Tensor, " M"]:
        """By how much each decision is right: above zero if it is."""
        chosen = outputs.reshape(-1)[self.place]
        if self.place.shape[1] == 1:
            return chosen[:, 0] * (2 * self.label - 1)
        own = chosen.gather(1, self.label.unsqueeze(1)).squeeze(1)
        others = chosen.scatter(1, self.label.unsqueeze(1), -torch.inf)
        return own - others.amax(1)


class Curvatures(NamedTuple):
    """Bounds of each sample's loss as a function of its outputs, ``(N,)`` each, in the 2-norm.

    Attributes:
        slope: of the gradient, whatever the outputs; infinite for squares.
        second: of the Hessian.
        third: of the third derivative.
    """

    slope: Float[Tensor, " N"]
    second: Float[Tensor, " N"]
    third: Float[Tensor, " N"]


def zero_targets(risk: EmpiricalRisk) -> Squares:
    """Weights and targets of a loss that is zero exactly where every output is its target.

    Raises:
        NotApplicableError: for another loss.
    """
    factors = risk.factors
    if type(risk.loss) not in _ZERO_AT_TARGET or factors is None or not isinstance(risk.targets, Tensor):
        raise NotApplicableError(f"it needs a loss that is zero where outputs are targets, not {risk.loss_facts.name}")
    return Squares(factors, risk.targets.to(factors).reshape(risk.n_samples, -1))


def hard_labels(risk: EmpiricalRisk) -> Labels:
    """The loss as weighted logistic terms of hard labels; what has weight zero is left out.

    Raises:
        NotApplicableError: for other losses, and for labels that are soft or smoothed.

    >>> risk = EmpiricalRisk(nn.Linear(2, 3), nn.CrossEntropyLoss(), torch.ones(4, 2), torch.tensor([0, 1, 2, -100]))
    >>> hard_labels(risk).place.tolist(), [round(w, 3) for w in hard_labels(risk).weight.tolist()]
    ([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [0.333, 0.333, 0.333])
    """
    shares, places = decision_shares(risk)
    if bool((shares < 0).any()):
        raise NotApplicableError("it needs class weights that are not negative")
    kept = (shares > 0).any(-1)
    shares, places = shares[kept], places[kept]
    if not len(shares) or bool(((shares > 0).sum(-1) > 1).any()):
        raise NotApplicableError("it needs hard labels, some of these are soft or smoothed")
    label = shares.argmax(-1)
    if places.shape[1] == 1:  # shares are those of the signs +1 and -1
        label = 1 - label
    return Labels(places, label, shares.amax(-1))


def curvatures(risk: EmpiricalRisk) -> Curvatures:
    """Bounds of slope, curvature and third derivative of each sample's loss in its outputs.

    A softmax has a Hessian ``diag(p) - p p^T`` of norm at most 1/2. Its third derivative along a unit vector v is the
    third central moment of a variable that takes the values of v, which spread by at most sqrt 2: no more than
    ``sqrt(2)^3 / (6 sqrt 3)``.

    Raises:
        NotApplicableError: for losses other than squares, cross-entropy and the logistic ones.
    """
    if type(risk.loss) is nn.MSELoss:
        weight = squares(risk).weight
        return Curvatures(torch.full_like(weight, torch.inf), 2 * weight, torch.zeros_like(weight))
    shares, places = decision_shares(risk)
    total = shares.abs().sum(-1).reshape(risk.n_samples, -1)
    if places.shape[1] == 1:
        slope, second, third = 1.0, 0.25, THIRD_LOGISTIC
    else:
        slope, second, third = math.sqrt(2), 0.5, math.sqrt(8) * THIRD_LOGISTIC
    largest = total.amax(1)
    return Curvatures(slope * total.norm(dim=1), second * largest, third * largest)
