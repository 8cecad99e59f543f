"""What is known of each loss, declared in one place.

A loss here is a function of the outputs and targets of each sample. `LossFacts` states what certificates and solvers
may rely on: whether it is convex in the outputs, how smooth it is, its infimum per sample, whether that is attained,
and the factor in front of a squared error. Everything declared is tested against autograd and numerical minimisation.
`register_loss` adds a user's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError

__all__ = ["LossFacts", "facts_of", "module_for", "register_loss", "sum_denominator", "unreduced"]

Infimum = Callable[[Any, Tensor, Tensor], Tensor]
Targets = Literal["real", "classes", "unit interval", "any"]


@dataclass(frozen=True)
class LossFacts:
    """Facts about a loss as a function of the outputs of one sample; None means not known.

    Attributes:
        name: for reports.
        convex: convex in the outputs, for every admissible target.
        smoothness: number of continuous derivatives in the outputs: 0 for a corner (L1), 1 for a jump of curvature
            (Huber), infinite for an analytic loss.
        infimum: ``(loss, outputs, targets) -> (n,)``, the infimum of each sample's loss over all outputs; of the
            outputs only the shape is used.
        attained: whether finite outputs attain the infimum: False for cross-entropy with hard labels.
        squared_factor: c where the loss is ``c * (output - target)**2`` summed over outputs; None for other losses.
        shift_invariant: unchanged when one number is added to all outputs of a sample, as under a softmax.
        targets: what the targets are, for the checks at the door.
    """

    name: str
    convex: bool | None = None
    smoothness: float | None = None
    infimum: Infimum | None = None
    attained: bool | None = None
    squared_factor: float | None = None
    shift_invariant: bool = False
    targets: Targets = "any"

    def describe(self) -> str:
        """One line for reports.

        >>> facts_of(nn.HuberLoss()).describe()
        'HuberLoss: convex in the outputs, jump of curvature, infimum attained'
        """
        known = []
        if self.convex is not None:
            known.append("convex in the outputs" if self.convex else "not convex in the outputs")
        if self.smoothness is not None:
            known.append(
                "corners" if self.smoothness == 0 else "jump of curvature" if self.smoothness == 1 else "smooth"
            )
        if self.attained is not None:
            known.append("infimum attained" if self.attained else "infimum not attained")
        return f"{self.name}: {', '.join(known) or 'no facts declared'}"


def register_loss(loss: type[nn.Module] | Callable[..., Tensor], facts: LossFacts) -> None:
    """Declare facts about a loss class or function of one's own.

    >>> def log_cosh(outputs, targets):
    ...     return torch.log(torch.cosh(outputs - targets)).mean()
    >>> register_loss(log_cosh, LossFacts("log-cosh", convex=True, smoothness=math.inf, attained=True))
    >>> facts_of(log_cosh).convex
    True
    """
    _REGISTERED[loss] = facts


def facts_of(loss: Any) -> LossFacts:
    """What is known of a loss, with its settings taken into account; all None for an unknown one."""
    if type(loss) in _REGISTERED:
        return _REGISTERED[type(loss)]
    try:
        if loss in _REGISTERED:
            return _REGISTERED[loss]
    except TypeError:  # unhashable callables cannot have been registered
        pass
    maker = _FACTS.get(type(loss))
    if maker is None:
        return LossFacts(getattr(loss, "__name__", type(loss).__name__))
    return maker(loss)


def module_for(loss: Any) -> Any:
    """The loss module that a function of `torch.nn.functional` stands for with its default arguments."""
    maker = _FUNCTIONAL.get(loss) if callable(loss) and not isinstance(loss, nn.Module) else None
    return maker() if maker is not None else loss


def unreduced(loss: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A private copy of a loss module in `dtype` that returns one number per element."""
    twin = copy.deepcopy(loss).to(dtype)
    twin.reduction = "none"  # type: ignore[assignment]  # torch declares it as a parameter-like attribute
    return twin


def sum_denominator(loss: nn.Module, elements: Tensor, outputs: Tensor, targets: Tensor) -> float:
    """What the sum of all elements is divided by.

    One for ``reduction="sum"``; for ``"mean"`` the number of elements, except cross-entropy and negative log likelihood
    with class targets, where it is the total weight of the labels that are not ignored.

    Args:
        loss: the user's own loss.
        elements: the unreduced loss.
        outputs: ``(N, C, ...)``.
        targets: as given to the loss.
    """
    if loss.reduction == "sum":
        return 1.0
    if loss.reduction == "batchmean":
        return float(len(outputs))
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and not targets.is_floating_point():
        kept = targets != loss.ignore_index
        if loss.weight is None:
            return float(kept.sum())
        return float(loss.weight.to(outputs)[targets[kept]].sum())
    if isinstance(loss, nn.CrossEntropyLoss):
        return float(outputs.numel() // outputs.shape[1])
    return float(elements.numel())


# -- infima per sample -------------------------------------------------------------------------------------------------


def _zero(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    return outputs.new_zeros(len(outputs))


def _weighted_entropy(weights: Tensor) -> Tensor:
    """``min over p in the simplex of -sum_k a_k log p_k`` for non-negative weights a in the last dimension."""
    total = weights.sum(-1, keepdim=True)
    share = weights / total.clamp_min(torch.finfo(weights.dtype).tiny)
    return -torch.special.xlogy(weights, share).sum(-1)


def _cross_entropy_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    classes = outputs.shape[1]
    weight = outputs.new_ones(classes) if loss.weight is None else loss.weight.to(outputs)
    if targets.is_floating_point():
        share = targets.movedim(1, -1).to(outputs)
        kept = share.new_ones(share.shape[:-1])
    else:
        kept = (targets != loss.ignore_index).to(outputs)
        safe = torch.where(kept.bool(), targets, torch.zeros_like(targets))
        share = F.one_hot(safe, classes).to(outputs)
    smoothed = (1 - loss.label_smoothing) * share + loss.label_smoothing / classes
    return (kept * _weighted_entropy(smoothed * weight)).reshape(len(outputs), -1).sum(1)


def _binary_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    positive = 1.0 if getattr(loss, "pos_weight", None) is None else loss.pos_weight.to(outputs)
    pairs = torch.stack([positive * targets.to(outputs), (1 - targets).to(outputs)], dim=-1)
    weight = 1.0 if loss.weight is None else loss.weight.to(outputs)
    return (weight * _weighted_entropy(pairs)).reshape(len(outputs), -1).sum(1)


def _soft_margin_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    """Zero for a label of either sign, log 2 for a label of zero."""
    return (math.log(2) * (targets == 0).to(outputs)).reshape(len(outputs), -1).sum(1)


def _poisson_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    """``exp(f) - y f`` is least at ``f = log y``."""
    y = targets.to(outputs)
    return (y - torch.special.xlogy(y, y)).reshape(len(outputs), -1).sum(1)


# -- torch's losses ----------------------------------------------------------------------------------------------------

_SMOOTH = math.inf
_SQUARED = LossFacts("MSELoss", True, _SMOOTH, _zero, True, squared_factor=1.0, targets="real")


def _cross_entropy(loss: Any) -> LossFacts:
    return LossFacts(
        "CrossEntropyLoss",
        convex=True,
        smoothness=_SMOOTH,
        infimum=_cross_entropy_infimum,
        attained=True if loss.label_smoothing > 0 and (loss.weight is None or bool((loss.weight > 0).all())) else None,
        shift_invariant=True,
        targets="classes",
    )


def _poisson(loss: Any) -> LossFacts:
    plain = loss.log_input and not loss.full
    return LossFacts(
        "PoissonNLLLoss",
        convex=True if loss.log_input else None,
        smoothness=_SMOOTH if loss.log_input else None,
        infimum=_poisson_infimum if plain else None,
        targets="real",
    )


def _smooth_l1(loss: Any) -> LossFacts:
    return LossFacts("SmoothL1Loss", True, 0 if loss.beta == 0 else 1, _zero, True, targets="real")


_FACTS: dict[type, Callable[[Any], LossFacts]] = {
    nn.MSELoss: lambda _: _SQUARED,
    nn.L1Loss: lambda _: LossFacts("L1Loss", True, 0, _zero, True, targets="real"),
    nn.HuberLoss: lambda _: LossFacts("HuberLoss", True, 1, _zero, True, targets="real"),
    nn.SmoothL1Loss: _smooth_l1,
    nn.CrossEntropyLoss: _cross_entropy,
    nn.BCEWithLogitsLoss: lambda _: LossFacts(
        "BCEWithLogitsLoss", True, _SMOOTH, _binary_infimum, None, targets="unit interval"
    ),
    nn.SoftMarginLoss: lambda _: LossFacts("SoftMarginLoss", True, _SMOOTH, _soft_margin_infimum, None, targets="real"),
    nn.MultiLabelSoftMarginLoss: lambda _: LossFacts(
        "MultiLabelSoftMarginLoss", True, _SMOOTH, targets="unit interval"
    ),
    # Linear in its inputs, which are meant to be log-probabilities: over free outputs there is no infimum.
    nn.NLLLoss: lambda _: LossFacts("NLLLoss", True, _SMOOTH, targets="classes"),
    nn.KLDivLoss: lambda _: LossFacts("KLDivLoss", True, _SMOOTH, targets="real"),
    nn.PoissonNLLLoss: _poisson,
    nn.MultiMarginLoss: lambda loss: LossFacts("MultiMarginLoss", True, loss.p - 1, _zero, True, targets="classes"),
    nn.HingeEmbeddingLoss: lambda _: LossFacts("HingeEmbeddingLoss", True, 0, targets="real"),
    # Its logarithm is clamped at -100, which makes a corner and breaks convexity there.
    nn.BCELoss: lambda _: LossFacts("BCELoss", False, 0, _binary_infimum, targets="unit interval"),
}
_FUNCTIONAL: dict[Any, Callable[[], nn.Module]] = {
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.huber_loss: nn.HuberLoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
}
_REGISTERED: dict[Any, LossFacts] = {}


def check_targets(loss: Any, facts: LossFacts, outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that a loss cannot mean.

    Raises:
        InvalidInputError: for a shape that would be broadcast, labels out of range, values outside [0, 1].
    """
    if facts.targets in ("real", "unit interval") and targets.shape != outputs.shape:
        hint = ""
        if targets.numel() == outputs.numel():
            hint = f" Reshape the targets to {tuple(outputs.shape)} (for example with unsqueeze(1))."
        raise InvalidInputError(
            f"{facts.name} compares outputs {tuple(outputs.shape)} with targets {tuple(targets.shape)}: shapes must be "
            f"equal, for torch would silently broadcast them.{hint}"
        )
    if facts.targets == "unit interval" and bool(((targets < 0) | (targets > 1)).any()):
        low, high = float(targets.min()), float(targets.max())
        raise InvalidInputError(
            f"{facts.name} needs targets in [0, 1], found values from {low:g} to {high:g}; "
            "labels -1 and +1 belong to SoftMarginLoss"
        )
    if facts.targets == "classes" and not targets.is_floating_point():
        _check_labels(facts.name, outputs, targets, getattr(loss, "ignore_index", None))


def _check_labels(name: str, outputs: Tensor, targets: Tensor, ignored: int | None) -> None:
    if outputs.dim() < 2 or targets.shape != (outputs.shape[0], *outputs.shape[2:]):
        raise InvalidInputError(
            f"{name} with class labels needs outputs (N, C, ...) and labels (N, ...), got outputs "
            f"{tuple(outputs.shape)} "
            f"and labels {tuple(targets.shape)}"
        )
    kept = targets if ignored is None else targets[targets != ignored]
    if kept.numel() == 0:
        raise InvalidInputError(f"every label equals ignore_index={ignored}: nothing is left to learn from")
    low, high, classes = int(kept.min()), int(kept.max()), outputs.shape[1]
    if low < 0 or high >= classes:
        raise InvalidInputError(
            f"labels run from {low} to {high}, but the model has {classes} outputs, so labels must lie in "
            f"0..{classes - 1}"
        )


def with_known_targets(facts: LossFacts, loss: Any, outputs: Tensor, targets: Tensor) -> LossFacts:
    """Settle what only the targets decide: whether every sample's infimum is attained at finite outputs."""
    if facts.attained is not None or facts.infimum is None:
        return facts
    if facts.name == "SoftMarginLoss":
        return replace(facts, attained=bool((targets == 0).all()))
    if facts.name in ("BCEWithLogitsLoss", "BCELoss"):
        return replace(facts, attained=bool(((targets > 0) & (targets < 1)).all()))
    if facts.name == "PoissonNLLLoss":
        return replace(facts, attained=bool((targets > 0).all()))
    if facts.name == "CrossEntropyLoss":
        spread = targets.is_floating_point() and bool((targets > 0).all()) and loss.weight is None
        return replace(facts, attained=bool(spread or outputs.shape[1] == 1))
    return facts
