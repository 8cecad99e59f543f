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


FORMED = 4_000_000
"""Entries up to which the design of the least squares is formed and decomposed; beyond, its normal equations serve."""

ROWS = 512
"""Rows of the network's passes whose part of the design is formed at once."""

FLOOR = 1e-12
"""Added to the diagonal of the normal equations, scaled to ones."""


class _Problem(NamedTuple):
    """Outputs as a linear function of one layer's free parameters: ``design u + rest``.

    The row of the design for row m of the network and output o is ``after[m, o] x reads[m]``.

    Attributes:
        coordinates: of u, ``(p,)``.
        free: which of the layer's parameters are free, weights before biases.
        after: derivatives of the outputs by the weighted sums, ``(M, out, m)``.
        reads: what the layer reads, ``(M, d)``.
        bias: whether it has a bias.
    """

    coordinates: Tensor
    free: Tensor
    after: Tensor
    reads: Tensor
    bias: bool

    def design(self, some: slice) -> Tensor:
        """Rows of the design, ``(n out, p)``."""
        after, reads = self.after[some], self.reads[some]
        rows = after.shape[0] * after.shape[1]
        entries = torch.einsum("mok,md->mokd", after, reads).reshape(rows, -1)
        if self.bias:
            entries = torch.cat([entries, after.reshape(rows, -1)], 1)
        return entries[:, self.free]


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
        network = case.dense(computed_inputs=True)
        risk, total = case.data_term(), Work()
        squares(risk)
        rows = risk.n_samples * risk.n_outputs
        for number in self._layers(network):
            size = network.layers[number].weight_coordinates.numel() + network.layers[number].out_features
            small = rows * size <= FORMED
            flops = 8.0 * rows * size * min(rows, size) if small else 2.5 * rows * size**2 + size**3
            held = 5 * rows * size if small else 4 * size**2 + 3 * ROWS * risk.n_outputs * size
            total = total + Work(gradients=6, flops=flops, bytes=8 * held)
        return total

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Solve for each layer, and keep the best."""
        network = case.dense(computed_inputs=True)
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
    solved = _least_squares(case, problem)
    step = torch.zeros_like(case.theta)
    step[problem.coordinates] = solved - case.theta[problem.coordinates]
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
    rows, last = len(before[0]), network.layers[-1].out_features
    require_memory(8 * 3 * rows * last * layer.out_features, "slopes of the outputs", "Use fewer samples.")
    reads = network.features(risk.inputs) if number == 0 else network.activations(case.theta, risk.inputs)[number - 1]
    after = _after(network, case.theta, before, number)
    return _Problem(coordinates[free], free, after, reads, layer.bias_coordinates is not None)


def _least_squares(case: Case, problem: _Problem) -> Tensor:
    """The parameters u that minimise the squared errors and the weight decay, ``(p,)``."""
    form, width = squares(case.data_term()), problem.after.shape[1]
    u, rows, size = case.theta[problem.coordinates], len(problem.after), len(problem.coordinates)
    decay, center = decay_of(case.others, problem.coordinates, case.theta)
    gap = (form.target - case.outputs).reshape(-1)
    scale = form.weight.sqrt().repeat_interleave(case.data_term().n_outputs)
    if rows * width * size <= FORMED:
        design = problem.design(slice(rows))
        aim = scale * (gap + design @ u)
        return ridge(scale.unsqueeze(1) * design, aim.unsqueeze(1), decay, center.unsqueeze(0))[0]
    what = f"normal equations in the {size} weights of a layer"
    require_memory(8 * (4 * size**2 + 3 * ROWS * width * size), what, "Ask for a smaller layer with layer=.")
    gram, pull = torch.diag(decay / 2), decay / 2 * (center - u)
    for start in range(0, rows, ROWS):
        some = slice(start, min(start + ROWS, rows))
        these = slice(some.start * width, some.stop * width)
        design = scale[these].unsqueeze(1) * problem.design(some)
        gram += design.T @ design
        pull = pull + design.T @ (scale[these] * gap[these])
    size_of = gram.diagonal().clamp_min(1e-300).rsqrt()
    scaled = size_of.unsqueeze(1) * gram * size_of
    scaled.diagonal().add_(FLOOR * size)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if int(failed):
        raise NotApplicableError("it needs normal equations that can be solved; these are numerically indefinite")
    return u + size_of * torch.cholesky_solve((size_of * pull).unsqueeze(1), factor).squeeze(1)


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
