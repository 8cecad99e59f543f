"""A better last layer on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.certificates.affine_head import AffineHead, best_head, decay_of
from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Scope, State
from thalweg.certificates.lower_point import LowerPoint, compared
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError, require_memory
from thalweg.structure import NetworkStructure, Step, Weights
from thalweg.structure.weights import evaluate_weights

__all__ = ["LastLayerRefit", "lower_or_undecided", "recorded", "structure_values"]

AGREE = 1e-9
"""Relative difference at which the last layer, as it was read, is not what makes the outputs."""


class _Head(NamedTuple):
    """A last layer, read from a network.

    Attributes:
        coordinates: of the weights and in a last column of the bias, ``(m, k)``; -1 where frozen.
        values: ``(m, k)``.
        features: ``(N, r, k)``, with a last column of ones for a bias.
    """

    coordinates: Tensor
    values: Tensor
    features: Tensor


@dataclass(frozen=True)
class LastLayerRefit(Certifier):
    """The loss can be lowered by replacing the last layer.

    With everything before it fixed, the loss is a convex function of a linear last layer, weight decay included. Its
    minimum is found by least squares for squared errors, by Newton's method for other convex losses; the claim is the
    loss at the parameters found, evaluated anew.
    """

    name: ClassVar[str] = "last layer refit"
    kind: ClassVar[ClaimKind] = ClaimKind.SUBOPTIMAL
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "the loss is convex in a linear last layer (elementary)"
    stage: ClassVar[int] = 20

    def work(self, case: Case) -> Work:
        """Least squares, or Newton steps, in the last layer's weights."""
        risk = case.data_term()
        last = _last_step(case.structure())
        assert last.weight is not None
        outputs, width = last.weight.shape
        rows = risk.n_samples * max(1, risk.n_outputs // outputs)
        if isinstance(risk.loss, nn.MSELoss):
            return Work(gradients=6, flops=8.0 * rows * width**2, bytes=8 * 5 * rows * (width + outputs))
        if not risk.loss_facts.convex:
            raise NotApplicableError(
                f"it needs a loss convex in the outputs, {risk.loss_facts.name} is not declared so"
            )
        size = outputs * (width + 1)
        steps = 60 * (size**3 / 3 + rows * size**2) if size <= 1500 else 60 * 200 * 12.0 * rows * size
        return Work(gradients=6, flops=steps, bytes=8 * (5 * rows * (width + outputs) + 6 * min(size, 1500) ** 2))

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Fit, and compare."""
        head = _read_head(case)
        free = head.coordinates >= 0
        if not bool(free.all(0).any()):
            raise NotApplicableError("it needs a last layer that is not frozen")
        moving = free.all(0)  # columns some of whose entries are frozen stay as they are
        decay, center = decay_of(case.others, head.coordinates[:, moving], case.theta)
        rest = head.features[..., ~moving] @ head.values[:, ~moving].T
        problem = AffineHead(case.data_term(), head.features[..., moving], rest, decay, center)
        best, how = best_head(problem, head.values[:, moving], case.control)
        theta = case.theta.clone()
        theta[head.coordinates[:, moving]] = best
        convex = Hypothesis("the outputs are linear in the last layer", State.CHECKED, note=f"fitted by {how}")
        return lower_or_undecided(
            self, case, compared(case, theta), [convex], "a last layer refitted to the same features"
        )


def lower_or_undecided(
    certifier: Certifier, case: Case, lower: LowerPoint, hypotheses: list[Hypothesis], what: str
) -> Certificate:
    """The claim that a point is lower, if it is beyond the rounding of both losses.

    Args:
        certifier: whose claim it is.
        case: the problem.
        lower: the other point.
        hypotheses: how the point was found.
        what: names it in the sentence.
    """
    if not lower.shown:
        return certifier.undecided(
            f"{what} lowers the loss by nothing beyond rounding ({lower.rounding:.2g})", hypotheses
        )
    return certifier.claimed(
        f"the loss, {case.value.value:.8g}, can be lowered by at least {lower.bound:.8g}: {what}",
        level=lower.level,
        bound=lower.bound,
        rounding=lower.rounding,
        hypotheses=hypotheses,
        evidence={"theta": lower.theta},
    )


def _last_step(structure: NetworkStructure) -> Step:
    """The linear step that makes the outputs.

    Raises:
        NotApplicableError: where there is none of its own.
    """
    if len(structure.outputs) != 1 or structure.last_layers[0] is None:
        raise NotApplicableError("it needs outputs that a linear last layer makes")
    last = structure.last_layers[0]
    if set(last.parameters) & set(structure.tied):
        raise NotApplicableError("it needs a last layer whose weights are used nowhere else (they are tied)")
    if last.weight is None or last.weight.kind == "computed" or (last.bias and last.bias.kind == "computed"):
        raise NotApplicableError("it needs a last layer whose weights are parameters, not computed from others")
    if last.left:
        raise NotApplicableError("it needs a last layer that multiplies rows of features")
    return last


def _read_head(case: Case) -> _Head:
    """The last layer and its features, checked against the outputs.

    Raises:
        NotApplicableError: where the two do not agree: something more than a rearrangement follows the layer.
    """
    structure, risk = case.structure(), case.data_term()
    last = _last_step(structure)
    assert last.weight is not None
    width = last.weight.shape[1]
    require_memory(8 * 4 * risk.n_samples * width, "the features of the last layer", "Use fewer samples.")
    features = _features(case, structure, last)
    numbers = structure.coordinates(last.weight)
    values = structure_values(structure, last.weight, case.theta)
    if last.bias is not None:
        features = torch.cat([features, torch.ones_like(features[..., :1])], -1)
        numbers = torch.cat([numbers, structure.coordinates(last.bias).reshape(-1, 1)], 1)
        values = torch.cat([values, structure_values(structure, last.bias, case.theta).reshape(-1, 1)], 1)
    made = (features @ values.T).flatten(1)
    if made.shape != case.outputs.shape or _apart(made, case.outputs):
        raise NotApplicableError("it needs outputs that are the last layer's results as they stand")
    repeated = numbers[numbers >= 0]
    if len(repeated.unique()) < len(repeated):
        raise NotApplicableError("it needs a last layer whose weights are used nowhere else (they are tied)")
    return _Head(numbers, values, features)


def structure_values(structure: NetworkStructure, weights: Weights, theta: Tensor) -> Tensor:
    """Values of weights that are not computed, shaped as the layer uses them."""
    return evaluate_weights(weights, structure.named(theta), structure.parameters)


def _features(case: Case, structure: NetworkStructure, last: Step) -> Tensor:
    """What the last layer reads, ``(N, r, k)``."""
    inputs, samples = case.data_term().inputs, case.data_term().n_samples
    network = structure.as_dense()
    if network is not None:
        read = network.features(inputs) if len(network.layers) == 1 else network.activations(case.theta, inputs)[-2]
        return read.reshape(samples, network.rows_per_sample, -1)
    read = recorded(case, structure, last.reads[0])
    assert last.weight is not None
    if read.shape[-1] != last.weight.shape[1] or read.numel() % (samples * read.shape[-1]):
        raise NotApplicableError("it needs rows of features, one or several a sample, before the last layer")
    return read.reshape(samples, -1, read.shape[-1])


def recorded(case: Case, structure: NetworkStructure, number: int) -> Tensor:
    """The result of a step for all samples.

    Raises:
        NotApplicableError: where all data take another way through the network than the few it was traced with.
    """
    try:
        parts = [part[0] for part in structure.record_parts(case.theta, case.data_term().inputs, [number])]
    except InvalidInputError as error:
        raise NotApplicableError(str(error)) from error
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _apart(left: Tensor, right: Tensor) -> bool:
    return float((left - right).abs().max()) > AGREE * (1 + float(right.abs().max()))


register_certifier(LastLayerRefit())
