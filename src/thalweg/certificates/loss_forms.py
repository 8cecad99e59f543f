"""What the loss is made of: weighted squares, or weighted logistic terms with hard labels.

Certificates that use the shape of a loss need its exact coefficients: the factor of each sample under the reduction,
sample weights, class weights, labels that are ignored, smoothed or soft. They are read here once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from thalweg.foundation import NotApplicableError
from thalweg.objectives import EmpiricalRisk

__all__ = ["Curvatures", "Labels", "Squares", "curvatures", "hard_labels", "squares", "zero_targets"]

_ZERO_AT_TARGET = (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)
THIRD_LOGISTIC = 1 / (6 * math.sqrt(3))
"""Largest third derivative of ``log(1 + exp f)``."""


class Squares(NamedTuple):
    """The loss ``sum_i weight_i |f_i - target_i|^2``."""

    weight: Float[Tensor, " N"]
    target: Float[Tensor, "N C"]


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


def squares(risk: EmpiricalRisk) -> Squares:
    """The loss as weighted squares.

    Raises:
        NotApplicableError: for another loss.

    >>> risk = EmpiricalRisk(nn.Linear(2, 3), nn.MSELoss(), torch.ones(5, 2), torch.ones(5, 3))
    >>> float(squares(risk).weight[0]) * 15
    1.0
    """
    factors = risk.factors
    if type(risk.loss) is not nn.MSELoss or factors is None or not isinstance(risk.targets, Tensor):
        raise NotApplicableError(f"it needs a squared loss, this one is {risk.loss_facts.name}")
    return Squares(factors, risk.targets.to(factors).reshape(risk.n_samples, -1))


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


def decision_shares(risk: EmpiricalRisk) -> tuple[Tensor, Tensor]:
    """Weights ``(M, K)`` of the negative log probabilities of each decision, and where its outputs stand."""
    loss, factors, targets = risk.loss, risk.factors, risk.targets
    rule = _SHARES.get(type(loss))
    if rule is None or factors is None or not isinstance(targets, Tensor):
        raise NotApplicableError(f"it needs a cross-entropy or logistic loss, this one is {risk.loss_facts.name}")
    numbers = torch.arange(risk.n_samples * risk.n_outputs, device=factors.device)
    places = risk.structured_outputs(numbers.reshape(risk.n_samples, -1))
    places = places.movedim(1, -1) if type(loss) is nn.CrossEntropyLoss else places.unsqueeze(-1)
    shares = rule(loss, places.shape, targets, factors)
    shares = shares * factors.reshape(-1, *[1] * (shares.dim() - 1))
    return shares.reshape(-1, shares.shape[-1]), places.reshape(-1, places.shape[-1])


def _class_shares(loss: nn.CrossEntropyLoss, shape: torch.Size, targets: Tensor, like: Tensor) -> Tensor:
    classes = shape[-1]
    if classes < 2:
        raise NotApplicableError("it needs at least two classes")
    weight = like.new_ones(classes) if loss.weight is None else loss.weight.to(like)
    if targets.is_floating_point():
        share, kept = targets.movedim(1, -1).to(like), like.new_ones(shape[:-1])
    else:
        kept = (targets != loss.ignore_index).to(like)
        share = functional.one_hot(torch.where(kept.bool(), targets, torch.zeros_like(targets)), classes).to(like)
    smoothed = (1 - loss.label_smoothing) * share + loss.label_smoothing / classes
    return kept.unsqueeze(-1) * smoothed * weight


def _binary_shares(loss: nn.BCEWithLogitsLoss, shape: torch.Size, targets: Tensor, like: Tensor) -> Tensor:
    outputs = shape[:-1]
    y = targets.to(like).reshape(outputs)
    positive = like.new_ones(()) if loss.pos_weight is None else loss.pos_weight.to(like)
    weight = like.new_ones(()) if loss.weight is None else loss.weight.to(like)
    return torch.stack([(weight * positive * y).expand(outputs), (weight * (1 - y)).expand(outputs)], dim=-1)


def _sign_shares(loss: nn.SoftMarginLoss, shape: torch.Size, targets: Tensor, like: Tensor) -> Tensor:
    y = targets.to(like).reshape(shape[:-1])
    if not bool((y.abs() == 1).all()):
        raise NotApplicableError("it needs labels -1 and 1")
    return torch.stack([(y == 1).to(like), (y == -1).to(like)], dim=-1)


_SHARES: dict[type, Callable[[Any, torch.Size, Tensor, Tensor], Tensor]] = {
    nn.CrossEntropyLoss: _class_shares,
    nn.BCEWithLogitsLoss: _binary_shares,
    nn.SoftMarginLoss: _sign_shares,
}
