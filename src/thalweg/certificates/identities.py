"""Identities that the gradient obeys at every point: tests of the code that computed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import TINY, UNIT, gamma
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError
from thalweg.structure import DenseLayer, DenseNetwork

__all__ = [
    "HomogeneousUnits",
    "LastLayerGradient",
    "data_gradient",
    "homogeneous_layers",
    "incoming_and_outgoing",
    "last_layer_sums",
    "linear_last",
]

SAFETY = 8.0
"""How many times its estimated rounding error an identity may miss before it counts as violated."""


class _Sides(NamedTuple):
    """Two vectors that must be equal.

    Attributes:
        left: one of them.
        right: the other.
        error: what the entries may be off by, for what went into them was rounded.
        size: sums of the absolute values of the terms that make the entries up.
        terms: how many these are.
    """

    left: Tensor
    right: Tensor
    error: Tensor
    size: Tensor
    terms: int


class LastSums(NamedTuple):
    """What the outputs' gradient makes of a kind of parameters of a linear last layer.

    Attributes:
        coordinates: of the parameters, -1 where frozen.
        sums: ``sum_i g_i f_i``, of that shape.
        sizes: the same of absolute values.
    """

    coordinates: Tensor
    sums: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class HomogeneousUnits(Certifier):
    """Incoming and outgoing weights of a homogeneous unit pull equally.

    A unit with an activation of degree k computes the same if its incoming weights and bias are multiplied by c > 0 and
    its outgoing weights by ``c^-k``; the derivative by c vanishes: ``incoming.grad = k outgoing.grad`` at every point,
    stationary or not. Summed over units it is the equality of ``<W_l, grad_l>`` between layers. The gradient that
    automatic differentiation computes must obey it.
    """

    name: ClassVar[str] = "homogeneous units"
    kind: ClassVar[ClaimKind] = ClaimKind.IDENTITY
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Euler's theorem on homogeneous functions, unit by unit"
    stage: ClassVar[int] = 31

    def work(self, case: Case) -> Work:
        """A few gradients, to know their rounding."""
        homogeneous_layers(case.dense(computed_inputs=True))
        return Work(gradients=12)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare both sides for every unit."""
        network = case.dense(computed_inputs=True)
        layers = homogeneous_layers(network)
        gradient, error = data_gradient(case)
        sides = [_of_units(network, number, degree, case.theta, gradient, error) for number, degree in layers]
        names = ", ".join(network.layers[number].activation.name for number, _ in layers)
        statement = Hypothesis("the units' activations are homogeneous", State.PROVED, note=names)
        units = sum(len(side.left) for side in sides)
        return _verdict(
            self, sides, [statement], f"incoming and outgoing weights of {units} homogeneous units pull equally"
        )


@dataclass(frozen=True)
class LastLayerGradient(Certifier):
    """The gradient of a linear last layer is what the outputs' gradient and the last features say.

    ``grad W = g^T F``, ``grad b = sum_i g_i`` and therefore ``<W, grad W> + <b, grad b> = sum_i g_i.f_i``, with g the
    gradient in the outputs and F the features before the last layer: at every point. The gradient that automatic
    differentiation of the whole network computes must obey it.
    """

    name: ClassVar[str] = "last layer gradient"
    kind: ClassVar[ClaimKind] = ClaimKind.IDENTITY
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "the chain rule through a linear last layer"
    stage: ClassVar[int] = 31

    def work(self, case: Case) -> Work:
        """A few gradients, to know their rounding."""
        linear_last(case.dense(computed_inputs=True))
        return Work(gradients=12)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Compare all entries, and their sum."""
        network = case.dense(computed_inputs=True)
        last = linear_last(network)
        gradient, error = data_gradient(case)
        signals, parts = last_layer_sums(case, network)
        sides = [_entries(part, len(signals), gradient, error) for part in parts]
        if not any(len(side.left) for side in sides):
            raise NotApplicableError("it needs a last layer that is not frozen")
        sides.append(_euler(case, parts, signals, gradient, error))
        statement = Hypothesis("the last layer is linear", State.PROVED, note=f"{last.name!r}")
        return _verdict(self, [side for side in sides if len(side.left)], [statement],
                        "the gradient of the last layer is that of the outputs times the last features")  # fmt: skip


def data_gradient(case: Case) -> tuple[Tensor, Tensor]:
    """Gradient of the data term alone as automatic differentiation computes it, and its error, ``(P,)`` each."""
    data = case if case.bare else case.of(case.data_term())
    return data.gradient, data.gradient_error


def linear_last(network: DenseNetwork) -> DenseLayer:
    """The last layer.

    Raises:
        NotApplicableError: if an activation follows it, or its weights are used elsewhere too.
    """
    last = network.layers[-1]
    if last.activation.name != "identity":
        raise NotApplicableError(f"it needs a linear last layer; {last.activation.name} follows {last.name!r}")
    if network.tied:
        raise NotApplicableError("it needs weights that are used in one place only")
    return last


def last_layer_sums(case: Case, network: DenseNetwork) -> tuple[Tensor, list[LastSums]]:
    """The gradient in the outputs ``(M, C)``, and what it makes of the last layer's weights and of its biases."""
    last, inputs = network.layers[-1], case.data_term().inputs
    one = len(network.layers) == 1
    features = network.features(inputs) if one else network.activations(case.theta, inputs)[-2]
    signals = case.output_gradient.reshape(-1, last.out_features)
    found = [LastSums(last.weight_coordinates, signals.T @ features, signals.abs().T @ features.abs())]
    if last.bias_coordinates is not None:
        found.append(LastSums(last.bias_coordinates, signals.sum(0), signals.abs().sum(0)))
    return signals, found


def homogeneous_layers(network: DenseNetwork) -> list[tuple[int, float]]:
    """Numbers of hidden layers with homogeneous units whose weights are free, and their degrees."""
    if network.tied:
        raise NotApplicableError("it needs weights that are used in one place only")
    found, other = [], []
    for number, layer in enumerate(network.hidden):
        degree = layer.activation.homogeneity
        units = network.units(number)
        tables = [units.incoming, units.outgoing, *([] if units.bias is None else [units.bias])]
        if degree is None:
            other.append(layer.activation.name)
        elif any(bool((table < 0).any()) for table in tables):
            other.append(f"{layer.name!r} with frozen weights")
        else:
            found.append((number, float(degree)))
    if not found:
        what = f", not {', '.join(dict.fromkeys(other))}" if other else ""
        raise NotApplicableError(f"it needs hidden units with a homogeneous activation such as ReLU{what}")
    return found


def incoming_and_outgoing(network: DenseNetwork, number: int) -> tuple[Tensor, Tensor]:
    """Coordinates of what goes into each unit of a hidden layer, bias included, and of what goes out."""
    units = network.units(number)
    incoming = units.incoming if units.bias is None else torch.cat([units.incoming, units.bias.unsqueeze(1)], 1)
    return incoming, units.outgoing


def _of_units(
    network: DenseNetwork, number: int, degree: float, theta: Tensor, gradient: Tensor, error: Tensor
) -> _Sides:
    incoming, outgoing = incoming_and_outgoing(network, number)
    left = (theta[incoming] * gradient[incoming]).sum(1)
    right = degree * (theta[outgoing] * gradient[outgoing]).sum(1)
    size = (theta[incoming] * gradient[incoming]).abs().sum(1)
    size = size + degree * (theta[outgoing] * gradient[outgoing]).abs().sum(1)
    allowed = (theta[incoming].abs() * error[incoming]).sum(1)
    allowed = allowed + degree * (theta[outgoing].abs() * error[outgoing]).sum(1)
    return _Sides(left, right, allowed, size, incoming.shape[1] + outgoing.shape[1])


def _entries(part: LastSums, rows: int, gradient: Tensor, error: Tensor) -> _Sides:
    free = part.coordinates >= 0
    index = part.coordinates[free]
    return _Sides(gradient[index], part.sums[free], error[index], part.sizes[free], rows)


def _euler(case: Case, parts: list[LastSums], signals: Tensor, gradient: Tensor, error: Tensor) -> _Sides:
    """``<W, grad W> + <b, grad b> = sum g.f``; nothing where some entry is frozen."""
    index = torch.cat([part.coordinates.reshape(-1) for part in parts])
    none = gradient[:0]
    if bool((index < 0).any()):
        return _Sides(none, none, none, none, 0)
    theta, terms = case.theta[index], signals * case.outputs.reshape(signals.shape)
    size = (theta * gradient[index]).abs().sum() + terms.abs().sum()
    left, allowed = (theta * gradient[index]).sum(), (theta.abs() * error[index]).sum()
    return _Sides(
        left.reshape(1), terms.sum().reshape(1), allowed.reshape(1), size.reshape(1), len(index) + terms.numel()
    )


def _verdict(certifier: Certifier, sides: list[_Sides], hypotheses: list[Hypothesis], claim: str) -> Certificate:
    left, right, error, size = (torch.cat(parts) for parts in list(zip(*sides, strict=True))[:4])
    gap = (left - right).abs()
    own = torch.cat([gamma(side.terms + 4) * side.size + (side.terms + 4) * TINY for side in sides])
    allowed = SAFETY * (error + own)
    worst = int((gap - allowed).argmax())
    relative = float((gap / size.clamp_min(1e-300)).max())
    if not bool((gap <= allowed).all()):
        return certifier.undecided(
            f"the identity is violated by {float(gap[worst]):.3g} where rounding explains {float(allowed[worst]):.3g}: "
            "the gradient, or the description of the network, is wrong",
            hypotheses,
        )
    bound = float((gap + own).max()) * (1 + 8 * UNIT)
    return certifier.claimed(
        f"{claim}, to {relative:.1g} of what is added up",
        level=Level.NUMERIC,
        bound=bound,
        rounding=float(own.max()),
        hypotheses=hypotheses,
        evidence={"relative difference": relative},
    )


register_certifier(HomogeneousUnits())
register_certifier(LastLayerGradient())
