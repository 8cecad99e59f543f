"""A better hidden layer, all others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from thalweg.certificates.affine_head import decay_of, ridge
from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Scope, State
from thalweg.certificates.last_layer_refit import lower_or_undecided
from thalweg.certificates.loss_forms import squares
from thalweg.certificates.lower_point import LowerPoint, compared, lowest_along
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError, require_memory
from thalweg.structure import DenseNetwork

__all__ = ["LayerRefit"]


class _Problem(NamedTuple):
    """Outputs as a linear function of one layer's free parameters: ``design u + rest``.

    Attributes:
        coordinates: of u, ``(p,)``.
        design: ``(N C, p)``.
    """

    coordinates: Tensor
    design: Tensor


@dataclass(frozen=True)
class LayerRefit(Certifier):
    """The loss can be lowered by replacing one hidden layer.

    Where everything after a hidden layer is linear, or piecewise linear on pieces that are kept, the outputs are linear
    in that layer's weights, and squared errors and weight decay make a least-squares problem of it. Its solution may
    leave the pieces; the best point on the way to it is taken. The claim is the loss there, evaluated anew.

    Args:
        layer: number of the hidden layer, from 0; None tries all.
    """

    name: ClassVar[str] = "hidden layer refit"
    kind: ClassVar[ClaimKind] = ClaimKind.SUBOPTIMAL
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "squared errors are convex in one layer of a (piecewise) linear network (elementary)"
    stage: ClassVar[int] = 20

    layer: int | None = None

    def work(self, case: Case) -> Work:
        """Least squares in each layer's weights."""
        network = case.dense()
        risk, total = case.data_term(), Work()
        squares(risk)
        rows = risk.n_samples * risk.n_outputs
        for number in self._layers(network):
            size = network.layers[number].weight_coordinates.numel() + network.layers[number].out_features
            total = total + Work(gradients=6, flops=8.0 * rows * size * min(rows, size), bytes=8 * 5 * rows * size)
        return total

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Solve for each layer, and keep the best."""
        network = case.dense()
        best: LowerPoint | None = None
        which = ""
        for number in self._layers(network):
            if case.control.why_stop():
                break
            point = _refitted(case, network, number)
            if point is not None and (best is None or point.bound > best.bound):
                best, which = point, network.layers[number].name
        if best is None:
            raise NotApplicableError("it needs a hidden layer that is not frozen")
        pieces = Hypothesis("what follows the layer is linear, or piecewise linear", State.PROVED)
        return lower_or_undecided(
            self, case, best, [pieces], f"hidden layer {which!r} refitted with all others as they are"
        )

    def _layers(self, network: DenseNetwork) -> list[int]:
        """Hidden layers whose subproblem is convex.

        Raises:
            NotApplicableError: if there is none.
        """
        hidden = len(network.hidden)
        if self.layer is not None and not 0 <= self.layer < hidden:
            raise InvalidInputError(f"there are {hidden} hidden layers, numbered from 0; got layer={self.layer}")
        if network.tied:
            raise NotApplicableError("it needs weights that are used in one place only (some are tied)")
        if hidden == 0:
            raise NotApplicableError("it needs a hidden layer")
        asked = range(hidden) if self.layer is None else [self.layer]
        bent = {number: _bent_after(network, number) for number in asked}
        found = [number for number in asked if not bent[number]]
        if not found:
            names = ", ".join(dict.fromkeys(bent.values()))
            raise NotApplicableError(
                f"it needs (piecewise) linear activations after the layer: with {names} the loss is not convex in it"
            )
        return found


def _bent_after(network: DenseNetwork, number: int) -> str:
    """The first activation from a layer on that is not piecewise linear; empty where all are."""
    facts = [layer.activation for layer in network.layers[number:]]
    return next((each.name for each in facts if not (each.recognised and each.piecewise_linear)), "")


def _refitted(case: Case, network: DenseNetwork, number: int) -> LowerPoint | None:
    """The best point on the way to the least-squares solution of one layer; None where the layer is frozen."""
    problem = _linear_problem(case, network, number)
    if problem is None:
        return None
    form = squares(case.data_term())
    u = case.theta[problem.coordinates]
    aim = (form.target - case.outputs).reshape(-1) + problem.design @ u
    scale = form.weight.sqrt().repeat_interleave(case.data_term().n_outputs)
    decay, center = decay_of(case.others, problem.coordinates, case.theta)
    solved = ridge(scale.unsqueeze(1) * problem.design, (scale * aim).unsqueeze(1), decay, center.unsqueeze(0))[0]
    step = torch.zeros_like(case.theta)
    step[problem.coordinates] = solved - u
    ends = torch.stack([case.theta + step, lowest_along(case, case.theta, step, longest=1.0)])
    values = torch.nan_to_num(case.objective.value(ends), nan=torch.inf)
    return compared(case, ends[int(values.argmin())])


def _linear_problem(case: Case, network: DenseNetwork, number: int) -> _Problem | None:
    layer, risk = network.layers[number], case.data_term()
    tables = [layer.weight_coordinates.reshape(-1)]
    if layer.bias_coordinates is not None:
        tables.append(layer.bias_coordinates)
    coordinates = torch.cat(tables)
    free = coordinates >= 0
    if not bool(free.any()):
        return None
    before = network.preactivations(case.theta, risk.inputs)
    rows, last, width = len(before[0]), network.layers[-1].out_features, layer.out_features
    require_memory(
        8 * 4 * rows * last * (len(coordinates) + width),
        f"least squares in the {len(coordinates)} weights of {layer.name!r}",
        "Use fewer samples, or ask for a smaller layer with layer=.",
    )
    reads = network.features(risk.inputs) if number == 0 else network.activations(case.theta, risk.inputs)[number - 1]
    after = _after(network, case.theta, before, number)
    design = torch.einsum("mok,md->mokd", after, reads).reshape(rows * last, -1)
    if layer.bias_coordinates is not None:
        design = torch.cat([design, after.reshape(rows * last, width)], 1)
    return _Problem(coordinates[free], design[:, free])


def _after(network: DenseNetwork, theta: Tensor, before: list[Tensor], number: int) -> Tensor:
    """Derivatives of the outputs by the weighted sums of a layer, ``(M, out, m)``, on the pieces at hand."""
    weights = [weight for weight, _ in network.matrices(theta)]
    outputs, rows = network.layers[-1].out_features, len(before[0])
    slope = network.layers[-1].activation.derivative(before[-1])
    chain = torch.diag_embed(slope)
    for later in range(len(weights) - 1, number, -1):
        chain = chain @ weights[later]
        chain = chain * network.layers[later - 1].activation.derivative(before[later - 1]).unsqueeze(1)
    return chain.expand(rows, outputs, -1)


register_certifier(LayerRefit())
