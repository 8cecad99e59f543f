"""What a torch loss is made of: weighted squares, or weighted negative log probabilities, with exact coefficients.

The factor of each sample under the reduction, sample weights, class weights, labels that are ignored, smoothed or soft:
all of them are read here once, for closed forms and for certificates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from thalweg.foundation import NotApplicableError
from thalweg.objectives.risk import EmpiricalRisk

__all__ = ["Squares", "decision_shares", "squares"]


class Squares(NamedTuple):
    """The loss ``sum_i weight_i |f_i - target_i|^2``."""

    weight: Float[Tensor, " N"]
    target: Float[Tensor, "N C"]


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
