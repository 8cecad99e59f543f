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

from thalweg.objectives.pooled import Groups, Pooled, PooledInfimum, pooled_entropies, pooled_poisson, pooled_squares

__all__ = ["LossFacts", "facts_of", "module_for", "register_loss", "settled", "sum_denominator", "unreduced"]

PerSample = Callable[[Any, Tensor, Tensor], Tensor]
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
        attained: whether finite outputs attain the infimum for every admissible target; None where the targets decide
            or it is not known. The objective of given data has it `settled`: False for cross-entropy with hard labels.
        attains: ``(loss, outputs, targets) -> (n,)`` booleans: for which samples finite outputs attain the infimum.
        pooled: infimum of what samples with one common output contribute together, see `thalweg.objectives.pooled`.
        squared_factor: c where the loss is ``c * (output - target)**2`` summed over outputs; None for other losses.
        shift_invariant: unchanged when one number is added to all outputs of a sample, as under a softmax.
        targets: what the targets are, for the checks at the door.
    """

    name: str
    convex: bool | None = None
    smoothness: float | None = None
    infimum: PerSample | None = None
    attained: bool | None = None
    attains: PerSample | None = None
    pooled: PooledInfimum | None = None
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


def settled(facts: LossFacts, loss: Any, outputs: Tensor, targets: Tensor) -> LossFacts:
    """The facts over given targets, which may decide whether finite outputs attain every sample's infimum."""
    if facts.attained is not None or facts.attains is None:
        return facts
    return replace(facts, attained=bool(facts.attains(loss, outputs, targets).all()))


# -- infima per sample, and whether finite outputs attain them ---------------------------------------------------------


def _by_sample(elements: Tensor) -> Tensor:
    return elements.reshape(len(elements), -1)


def _zero(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    return outputs.new_zeros(len(outputs))


def _weighted_entropy(weights: Tensor) -> Tensor:
    """``min over p in the simplex of -sum_k a_k log p_k`` for non-negative weights a in the last dimension."""
    total = weights.sum(-1, keepdim=True)
    share = weights / total.clamp_min(torch.finfo(weights.dtype).tiny)
    return -torch.special.xlogy(weights, share).sum(-1)


def _inside(weights: Tensor) -> Tensor:
    """Whether that minimum lies inside the simplex, where finite logits lead, or there is nothing to minimise."""
    return (weights > 0).all(-1) | (weights == 0).all(-1)


def _class_weights(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, "n *d C"]:
    """The weight of each class in each sample's cross-entropy, all zero where the label is ignored."""
    classes = outputs.shape[1]
    weight = outputs.new_ones(classes) if loss.weight is None else loss.weight.to(outputs)
    if targets.is_floating_point():
        share = targets.movedim(1, -1).to(outputs)
        kept = share.new_ones(share.shape[:-1])
    else:
        kept = (targets != loss.ignore_index).to(outputs)
        share = F.one_hot(torch.where(kept.bool(), targets, torch.zeros_like(targets)), classes).to(outputs)
    smoothed = (1 - loss.label_smoothing) * share + loss.label_smoothing / classes
    return kept.unsqueeze(-1) * smoothed * weight


def _cross_entropy_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    return _by_sample(_weighted_entropy(_class_weights(loss, outputs, targets))).sum(1)


def _cross_entropy_attains(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return _by_sample(_inside(_class_weights(loss, outputs, targets))).all(1)


def _binary_weights(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, "n *d 2"]:
    """The weights of ``-log p`` and ``-log(1 - p)``."""
    positive = 1.0 if getattr(loss, "pos_weight", None) is None else loss.pos_weight.to(outputs)
    weight = outputs.new_ones(()) if loss.weight is None else loss.weight.to(outputs)
    pairs = torch.stack([positive * targets.to(outputs), (1 - targets).to(outputs)], dim=-1)
    return weight.unsqueeze(-1) * pairs


def _binary_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    return _by_sample(_weighted_entropy(_binary_weights(loss, outputs, targets))).sum(1)


def _mean_binary_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    return _binary_infimum(loss, outputs, targets) / outputs.shape[-1]


def _binary_attains(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return _by_sample(_inside(_binary_weights(loss, outputs, targets))).all(1)


def _soft_margin_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    """Zero for a label of either sign, log 2 for a label of zero."""
    return _by_sample(math.log(2) * (targets == 0).to(outputs)).sum(1)


def _soft_margin_attains(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return _by_sample(targets == 0).all(1)


def _pooled_signs(loss: Any, outputs: Tensor, targets: Tensor, groups: Groups) -> Pooled:
    """The entropy of the signs; a label of zero costs log 2 whatever the output, other labels scale the output."""
    y = targets.to(outputs)
    if not bool(((y == 1) | (y == -1) | (y == 0)).all()):
        value = groups.sums(groups.factors.to(outputs) * _soft_margin_infimum(loss, outputs, targets))
        return Pooled(value, 2 * (groups.largest + 8) * 2.0**-53 * value)
    signs = pooled_entropies(lambda *_: torch.stack([(y == 1).to(outputs), (y == -1).to(outputs)], dim=-1))
    found = signs(loss, outputs, targets, groups)
    blind = groups.sums(groups.factors.to(outputs) * _soft_margin_infimum(loss, outputs, targets))
    return Pooled(found.value + blind, found.error + 2 * (groups.largest + 8) * 2.0**-53 * blind)


def _poisson_infimum(loss: Any, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    """``exp(f) - y f`` is least at ``f = log y``; ``full`` adds Stirling's term for ``y > 1``, whatever f."""
    y = targets.to(outputs)
    least = torch.where(y < 0, -torch.inf, y - torch.special.xlogy(y, y.clamp_min(0)))
    if loss.full:
        stirling = torch.special.xlogy(y, y) - y + 0.5 * torch.log(2 * math.pi * y)
        least = least + torch.where(y > 1, stirling, torch.zeros_like(y))
    return _by_sample(least).sum(1)


def _poisson_attains(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return _by_sample(targets > 0).all(1)


# -- torch's losses ----------------------------------------------------------------------------------------------------

_SMOOTH = math.inf
_SQUARED = LossFacts("MSELoss", True, _SMOOTH, _zero, True, pooled=pooled_squares, squared_factor=1.0, targets="real")


def _not_negative(weight: Tensor | None) -> bool:
    return weight is None or bool((weight >= 0).all())


def _cross_entropy(loss: Any) -> LossFacts:
    sound = _not_negative(loss.weight)
    return LossFacts(
        "CrossEntropyLoss",
        convex=True if sound else None,
        smoothness=_SMOOTH,
        infimum=_cross_entropy_infimum if sound else None,
        attains=_cross_entropy_attains if sound else None,
        pooled=pooled_entropies(_class_weights) if sound else None,
        shift_invariant=True,
        targets="classes",
    )


def _binary(loss: Any) -> LossFacts:
    sound = _not_negative(loss.weight) and _not_negative(loss.pos_weight)
    return LossFacts(
        "BCEWithLogitsLoss",
        convex=True if sound else None,
        smoothness=_SMOOTH,
        infimum=_binary_infimum if sound else None,
        attains=_binary_attains if sound else None,
        pooled=pooled_entropies(_binary_weights) if sound else None,
        targets="unit interval",
    )


def _multi_label(loss: Any) -> LossFacts:
    sound = _not_negative(loss.weight)
    return LossFacts(
        "MultiLabelSoftMarginLoss",
        convex=True if sound else None,
        smoothness=_SMOOTH,
        infimum=_mean_binary_infimum if sound else None,
        attains=_binary_attains if sound else None,
        pooled=pooled_entropies(_binary_weights, per_output=True) if sound else None,
        targets="unit interval",
    )


def _binary_of_probabilities(loss: Any) -> LossFacts:
    """Its logarithm is clamped at -100: a corner, where convexity breaks. Over [0, 1] the infimum is attained."""
    sound = _not_negative(loss.weight)
    return LossFacts(
        "BCELoss", False, 0, _binary_infimum if sound else None, True if sound else None, targets="unit interval"
    )


def _poisson(loss: Any) -> LossFacts:
    if not loss.log_input:  # defined for positive outputs only
        return LossFacts("PoissonNLLLoss", targets="real")
    return LossFacts(
        "PoissonNLLLoss",
        convex=True,
        smoothness=_SMOOTH,
        infimum=_poisson_infimum,
        attains=_poisson_attains,
        pooled=pooled_poisson,
        targets="real",
    )


def _smooth_l1(loss: Any) -> LossFacts:
    return LossFacts("SmoothL1Loss", True, 0 if loss.beta == 0 else 1, _zero, True, targets="real")


def _multi_margin(loss: Any) -> LossFacts:
    sound = _not_negative(loss.weight)
    return LossFacts(
        "MultiMarginLoss",
        True if sound else None,
        loss.p - 1,
        _zero if sound else None,
        True if sound else None,
        targets="classes",
    )


_FACTS: dict[type, Callable[[Any], LossFacts]] = {
    nn.MSELoss: lambda _: _SQUARED,
    nn.L1Loss: lambda _: LossFacts("L1Loss", True, 0, _zero, True, targets="real"),
    nn.HuberLoss: lambda _: LossFacts("HuberLoss", True, 1, _zero, True, targets="real"),
    nn.SmoothL1Loss: _smooth_l1,
    nn.CrossEntropyLoss: _cross_entropy,
    nn.BCEWithLogitsLoss: _binary,
    nn.SoftMarginLoss: lambda _: LossFacts(
        "SoftMarginLoss",
        True,
        _SMOOTH,
        _soft_margin_infimum,
        attains=_soft_margin_attains,
        pooled=_pooled_signs,
        targets="real",
    ),
    nn.MultiLabelSoftMarginLoss: _multi_label,
    # Linear in its inputs, which are meant to be log-probabilities: over free outputs there is no infimum.
    nn.NLLLoss: lambda _: LossFacts("NLLLoss", True, _SMOOTH, targets="classes"),
    nn.KLDivLoss: lambda _: LossFacts("KLDivLoss", True, _SMOOTH, targets="real"),
    nn.PoissonNLLLoss: _poisson,
    nn.MultiMarginLoss: _multi_margin,
    nn.HingeEmbeddingLoss: lambda _: LossFacts("HingeEmbeddingLoss", True, 0, targets="real"),
    nn.BCELoss: _binary_of_probabilities,
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
