"""A user's loss over given data: checked against the targets, normalised once, and taken apart by samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError
from thalweg.objectives import losses
from thalweg.objectives.losses import LossFacts

__all__ = ["BoundLoss"]

AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative agreement asked between the loss over all samples and the sum over its parts; a loss may well compute in
single precision inside, and a reduction that is not as declared misses by a factor."""


class BoundLoss:
    """A private copy of the loss, what is known of it over these targets, and the denominator of its mean.

    Args:
        loss: a torch loss, one of `torch.nn.functional`, or a callable ``loss(outputs, targets)``.
        reduction: declared for a callable, None for a torch loss.
        dtype: of what the loss holds, such as class weights.

    Raises:
        InvalidInputError: for what is no loss, or a reduction missing or contradicting.
    """

    def __init__(self, loss: Any, reduction: str | None, dtype: torch.dtype) -> None:
        known = losses.module_for(loss)
        self.reduction = _reduction_of(known, reduction)
        self.loss: Callable[[Any, Any], Tensor] = _private(known, dtype) if isinstance(known, nn.Module) else known
        self.facts: LossFacts = losses.facts_of(self.loss)
        self.of_torch = isinstance(known, nn.Module) and hasattr(known, "reduction")
        self.denominator = 1.0
        self.n_samples = 0
        self._dtype = dtype
        self._elementwise: nn.Module | None = None

    @property
    def by_sample(self) -> bool:
        """Whether each sample has a loss of its own that can be weighted."""
        return self.of_torch or self.reduction == "none"

    def bind(self, outputs: Any, targets: Any, samples: int) -> None:
        """Check the targets and settle what they decide.

        Args:
            outputs: of all samples, in the structure the model gives.
            targets: of all samples, or None.
            samples: their number.

        Raises:
            InvalidInputError: for targets that the loss cannot mean.
        """
        self.n_samples = samples
        if not self.of_torch:
            return
        assert isinstance(self.loss, nn.Module)
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise InvalidInputError(
                f"{self.facts.name} compares one tensor of outputs with one of targets; pass forward= to select the "
                "output, targets= to name the targets, or a callable loss for several"
            )
        _check_targets(self.loss, self.facts, outputs, targets)
        _check_weights(self.loss, outputs, samples)
        self._elementwise = losses.unreduced(self.loss, self._dtype)
        elements = _attempt(self._elementwise, outputs, targets, self.facts.name)
        if elements.dim() == 0 or len(elements) != samples:
            raise InvalidInputError(
                f"{self.facts.name} gives no loss per sample under reduction='none'; write it as a callable and "
                "declare what it does over the samples with reduction="
            )
        self.denominator = losses.sum_denominator(self.loss, elements, outputs, targets)
        self.facts = losses.settled(self.facts, self.loss, outputs, targets)

    def whole(self, outputs: Any, against: Any) -> Float[Tensor, ""]:
        """The loss over all samples exactly as the user's own code computes it."""
        value = _attempt(self.loss, outputs, against, self.facts.name)
        if self.reduction == "none":
            if value.dim() == 0 or len(value) != self.n_samples:
                raise InvalidInputError(
                    f"a loss with reduction='none' must return one number per sample, {self.n_samples} here, but it "
                    f"returned shape {tuple(value.shape)}"
                )
            return value.sum()
        if value.dim() != 0:
            raise InvalidInputError(
                f"the loss returned a tensor of shape {tuple(value.shape)}, not one number; declare reduction='none' "
                "for a loss per sample"
            )
        return value

    def of_chunk(self, outputs: Any, against: Any, weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """What the samples of a chunk contribute to the loss over all samples."""
        n = len(weights)
        if self._elementwise is not None:
            elements: Tensor = self._elementwise(outputs, against)
            return (weights * elements.reshape(n, -1).sum(1)).sum() / self.denominator
        found = self.loss(outputs, against)
        if self.reduction == "none":
            return (weights * found.reshape(n, -1).sum(1)).sum()
        return found * (n / self.n_samples) if self.reduction == "mean" else found

    @property
    def elementwise(self) -> nn.Module | None:
        """The loss with one number per element, where torch has it."""
        return self._elementwise

    def factors(self, weights: Float[Tensor, " N"]) -> Float[Tensor, " N"] | None:
        """What multiplies each sample's summed elements; None where the loss sums for itself."""
        return weights / self.denominator if self._elementwise is not None else None

    def sample_infima(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Float[Tensor, " N"] | None:
        """What no outputs whatever could make each sample contribute less than; None where no infimum is declared."""
        if self.facts.infimum is None or self._elementwise is None:
            return None
        return weights * self.facts.infimum(self._elementwise, outputs, targets) / self.denominator

    def check_sum(self, whole: Tensor, parts: Tensor) -> None:
        """Refuse a loss that is not what its reduction says.

        Args:
            whole: the loss over all samples at once.
            parts: the sum over at least two chunks, where there are two samples.

        Raises:
            InvalidInputError: if they differ, or if the loss is not finite.
        """
        if not bool(torch.isfinite(whole)):
            raise InvalidInputError(
                f"the loss of the model as given is {float(whole)}; check outputs, targets and weights"
            )
        if abs(float(whole - parts)) > AGREEMENT[self._dtype] * max(1.0, abs(float(whole))):
            raise InvalidInputError(
                f"the loss over all samples is {float(whole):.12g}, but its samples make up {float(parts):.12g}: it is "
                f"not a {self.reduction} over samples. Declare reduction='mean', 'sum' or 'none' as it is; a loss that "
                "compares samples with each other is no sum over them and cannot be taken apart"
            )


def _private(loss: nn.Module, dtype: torch.dtype) -> nn.Module:
    twin = copy.deepcopy(loss).to(dtype)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _attempt(loss: Callable[[Any, Any], Tensor], outputs: Any, against: Any, name: str) -> Tensor:
    try:
        value: object = loss(outputs, against)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InvalidInputError(
            f"{name} fails on the model's outputs and the targets as loss(outputs, targets): {error}. Mend the "
            "targets, or write a callable that calls it as it wants to be called"
        ) from error
    if not isinstance(value, Tensor):
        raise InvalidInputError(f"the loss returned a {type(value).__name__}, not a tensor with one number")
    return value


def _reduction_of(loss: Any, declared: str | None) -> str:
    if isinstance(loss, type) or not callable(loss):
        found = f"the class {loss.__name__}; make an instance of it" if isinstance(loss, type) else type(loss).__name__
        raise InvalidInputError(f"the loss must be a torch loss or a callable (outputs, targets), got {found}")
    own = getattr(loss, "reduction", None) if isinstance(loss, nn.Module) else None
    if own is not None:
        if declared is not None and declared != own:
            raise InvalidInputError(
                f"reduction={declared!r} contradicts the loss, which has reduction={own!r}; leave it out"
            )
        if own == "none":
            raise InvalidInputError("the loss has reduction='none' and gives no single number; use 'mean' or 'sum'")
        return str(own)
    if declared not in ("mean", "sum", "none"):
        raise InvalidInputError(
            "a loss that is no torch loss must declare what it does over the samples: reduction='mean', 'sum', or "
            f"'none' for one number per sample; got {declared!r}"
        )
    return declared


# -- what targets a loss can mean --------------------------------------------------------------------------------------


def _check_targets(loss: Any, facts: LossFacts, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a shape that would be broadcast, labels out of range, values outside [0, 1]."""
    if facts.targets in ("real", "unit interval"):
        _check_same_shape(facts.name, outputs, targets)
    if facts.targets == "unit interval":
        if not targets.is_floating_point():
            raise InvalidInputError(f"{facts.name} needs floating targets, got {targets.dtype}; pass targets.float()")
        if bool(((targets < 0) | (targets > 1)).any()):
            raise InvalidInputError(
                f"{facts.name} needs targets in [0, 1], found values from {float(targets.min()):g} to "
                f"{float(targets.max()):g}; labels -1 and +1 belong to SoftMarginLoss"
            )
    if facts.targets == "classes":
        if targets.is_floating_point():
            _check_probabilities(facts.name, outputs, targets)
        else:
            _check_labels(facts.name, outputs, targets, getattr(loss, "ignore_index", None))


def _check_same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        hint = ""
        if targets.numel() == outputs.numel():
            hint = f" Reshape the targets to {tuple(outputs.shape)}, for example with targets.view_as(outputs)."
        raise InvalidInputError(
            f"{name} compares outputs {tuple(outputs.shape)} with targets {tuple(targets.shape)}: shapes must be "
            f"equal, for torch would silently broadcast them.{hint}"
        )


def _check_probabilities(name: str, outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        raise InvalidInputError(
            f"{name} takes floating targets for class probabilities, of the shape {tuple(outputs.shape)} of the "
            f"outputs, but got {tuple(targets.shape)}; if they are class labels, pass targets.long()"
        )
    if bool((targets < 0).any()):
        raise InvalidInputError(f"{name} got a negative class probability, {float(targets.min()):g}")


def _check_labels(name: str, outputs: Tensor, targets: Tensor, ignored: int | None) -> None:
    if outputs.dim() < 2 or targets.shape != (outputs.shape[0], *outputs.shape[2:]):
        raise InvalidInputError(
            f"{name} with class labels needs outputs (N, C, ...) and labels (N, ...), got outputs "
            f"{tuple(outputs.shape)} and labels {tuple(targets.shape)}"
        )
    if targets.dtype != torch.int64:
        raise InvalidInputError(f"{name} needs labels of type int64, got {targets.dtype}; pass targets.long()")
    kept = targets if ignored is None else targets[targets != ignored]
    if kept.numel() == 0:
        raise InvalidInputError(f"every label equals ignore_index={ignored}: nothing is left to learn from")
    low, high, classes = int(kept.min()), int(kept.max()), outputs.shape[1]
    if low < 0 or high >= classes:
        raise InvalidInputError(
            f"labels run from {low} to {high}, but the model has {classes} outputs, so labels must lie in "
            f"0..{classes - 1}"
        )


def _check_weights(loss: nn.Module, outputs: Tensor, samples: int) -> None:
    """Refuse a weight with one entry per sample: it fits all samples at once only, not a part of them."""
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss):
        return
    for name in ("weight", "pos_weight"):
        weight = getattr(loss, name, None)
        if isinstance(weight, Tensor) and samples > 1 and weight.dim() >= outputs.dim() and weight.shape[0] != 1:
            raise InvalidInputError(
                f"{name} of {type(loss).__name__} has shape {tuple(weight.shape)}, one entry per sample; leave it out "
                "and pass sample_weight="
            )
