"""The loss over infinitely many Gaussian inputs: a student network against a teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.special import roots_hermitenorm
from torch import Tensor, nn

from thalweg.foundation import Cost, InvalidInputError, NotApplicableError, first_line, require_memory
from thalweg.objectives.objective import Objective
from thalweg.objectives.risk import EmpiricalRisk
from thalweg.objectives.unit_averages import AVERAGES, Units
from thalweg.structure import DenseNetwork, explain_trace
from thalweg.structure.dense import Units as UnitCoordinates

__all__ = ["PopulationRisk", "gauss_hermite_risk", "population_risk"]

PRUNED = 1e-18
"""Nodes of less weight are left out: the sum of all weights is one."""

NODES = {1: 400, 2: 120, 3: 40}
"""Nodes in each direction, by the number of inputs."""


class _Table(NamedTuple):
    """Weights: coordinates in theta, -1 where frozen, and the values there."""

    coordinates: Tensor
    frozen: Tensor

    def at(self, theta: Tensor) -> Tensor:
        """The weights."""
        return torch.where(self.coordinates >= 0, theta[self.coordinates.clamp_min(0)], self.frozen)


class _Layers(NamedTuple):
    """Where the weights of such a network lie in theta."""

    incoming: _Table
    bias: _Table | None
    outgoing: _Table
    shift: _Table | None

    def at(self, theta: Tensor) -> Units:
        """The network at a parameter vector."""
        outgoing = self.outgoing.at(theta).T
        shift = theta.new_zeros(outgoing.shape[1]) if self.shift is None else self.shift.at(theta)
        return Units(self.incoming.at(theta), None if self.bias is None else self.bias.at(theta), outgoing, shift)


class PopulationRisk(Objective):
    """``E |student(x) - teacher(x)|^2 / C`` for ``x ~ N(0, I)``, in closed form: what a mean squared error becomes.

    It is the limit of ``EmpiricalRisk(student, nn.MSELoss(), x, teacher(x))`` for infinitely many Gaussian inputs x
    (Saad and Solla 1995 for erf; Cho and Saul 2009 for ReLU), a sum over pairs of units. Sums of terms of either sign
    make it up, and it is exact to about ``1e-13`` of the largest.

    Args:
        student: computes a perceptron with one hidden layer of erf, normal distribution or ReLU units and C linear
            outputs, whatever its class; its trainable parameters are theta.
        teacher: another one with the same activation.
        dimension: number of inputs; None takes it from the student's first `nn.Linear`.

    Raises:
        NotApplicableError: for other networks; `gauss_hermite_risk` takes those of few inputs.
        InvalidInputError: for networks whose inputs or outputs differ in number, or whose parameters are not finite.

    >>> class Erf(nn.Module):
    ...     def forward(self, z):
    ...         return torch.erf(z / 2**0.5)
    >>> teacher, student = (nn.Sequential(nn.Linear(3, 2), Erf(), nn.Linear(2, 1)) for _ in range(2))
    >>> risk = PopulationRisk(student, teacher)
    >>> risk
    PopulationRisk(erf(z/sqrt2), 2 units of 3 inputs against 2, P=11)
    >>> abs(float(PopulationRisk(teacher, teacher).value(PopulationRisk(teacher, teacher).initial))) < 1e-15
    True
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, dimension: int | None = None) -> None:
        inputs = _inputs(student, dimension)
        if not any(parameter.requires_grad for parameter in student.parameters()):
            raise InvalidInputError("the student has no trainable parameter; call requires_grad_(True) on what is free")
        own, self.initial = _read(student, inputs, "student")
        other, theta = _read(teacher, inputs, "teacher")
        self.space = own.space
        self.activation = own.layers[0].activation.name
        if self.activation != other.layers[0].activation.name:
            theirs = other.layers[0].activation.name
            raise NotApplicableError(f"it needs one activation, not {self.activation} here and {theirs} in the teacher")
        if self.activation not in AVERAGES:
            raise NotApplicableError(
                f"no averages are written for {self.activation}, only for {', '.join(AVERAGES)}; with few inputs "
                "gauss_hermite_risk takes any network"
            )
        self._layers, self._teacher = _layers(own), _layers(other).at(theta)
        if len(self._teacher.shift) != len(self._layers.at(self.initial).shift):
            raise InvalidInputError(f"the student has {own.widths[-1]} outputs, the teacher {other.widths[-1]}")
        self._constant = float(AVERAGES[self.activation].power(self._teacher))

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The population loss."""
        averages, teacher = AVERAGES[self.activation], self._teacher
        student = self._layers.at(theta)
        shift = student.shift - teacher.shift
        mixed = ((student.outgoing @ teacher.outgoing.T) * averages.between(student, teacher)).sum()
        means = averages.means(student) @ student.outgoing - averages.means(teacher) @ teacher.outgoing
        total = averages.power(student) - 2 * mixed + self._constant + shift @ shift + 2 * (means @ shift)
        return total / len(shift)

    @property
    def units(self) -> UnitCoordinates:
        """Where the student's hidden units lie in theta; coordinates are -1 where frozen."""
        layers = self._layers
        bias = None if layers.bias is None else layers.bias.coordinates
        return UnitCoordinates(layers.incoming.coordinates, bias, layers.outgoing.coordinates.T)

    def content(self) -> Iterable[object]:
        """Activation, teacher, and what of the student is no parameter."""
        yield self.activation
        for table in self._layers:
            yield from () if table is None else table
        for part in self._teacher:
            yield "none" if part is None else part

    @property
    def cost(self) -> Cost:
        """The quadrature of all pairs."""
        width, other = len(self._layers.incoming.coordinates), len(self._teacher.incoming)
        pairs, inputs = width * (width + 2 * other) // 2, self._teacher.incoming.shape[1]
        return Cost(bytes_fixed=8 * (12 * self.space.size + pairs * (16 * 192 + 6 * inputs**2)))

    def __repr__(self) -> str:
        width, inputs = self._layers.incoming.coordinates.shape
        sizes = f"{width} units of {inputs} inputs against {len(self._teacher.incoming)}"
        return f"PopulationRisk({self.activation}, {sizes}, P={self.space.size})"


# -- reading networks --------------------------------------------------------------------------------------------------


def _inputs(module: nn.Module, dimension: int | None) -> int:
    if not isinstance(module, nn.Module):
        raise InvalidInputError(f"the student must be an nn.Module, got {type(module).__name__}")
    if dimension is None:
        first = next((part for part in module.modules() if isinstance(part, nn.Linear)), None)
        if first is None:
            raise InvalidInputError("the number of inputs cannot be seen without an nn.Linear; give it as dimension=")
        dimension = first.in_features
    if dimension < 1:
        raise InvalidInputError(f"dimension must be at least 1, got {dimension}")
    return dimension


def _read(module: nn.Module, inputs: int, which: str) -> tuple[DenseNetwork, Tensor]:
    """A network of one hidden layer, and its parameters as they are."""
    private = _in_double(module, which)
    x = torch.randn(5, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _outputs(private, x, which)
    report = explain_trace(private, x)
    network = None if report.structure is None else report.structure.as_dense(mixed=True)
    why = report.reason
    if report.structure is not None:
        why = "" if network is not None else "it is no multilayer perceptron"
    if network is not None and len(network.layers) != 2:
        why = f"it has {len(network.hidden)} hidden layers"
    elif network is not None and network.layers[1].activation.name != "identity":
        why = f"its outputs pass through {network.layers[1].activation.name}"
    elif network is not None and not torch.equal(network.features(x), x):
        why = "it computes something of its inputs before the first layer"
    if why or network is None:
        raise NotApplicableError(f"the {which} must be a perceptron with one hidden layer and linear outputs: {why}")
    parameters = dict(private.named_parameters())
    return network, network.space.flatten({name: parameters[name].detach() for name in network.space.names})


def _in_double(module: nn.Module, which: str) -> nn.Module:
    """A copy in float64, of numbers only."""
    if not isinstance(module, nn.Module):
        raise InvalidInputError(f"the {which} must be an nn.Module, got {type(module).__name__}")
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InvalidInputError(f"the {which}'s parameter {name!r} holds NaN or infinite entries")
    return copy.deepcopy(module).to("cpu", torch.float64)


def _outputs(function: Callable[[Tensor], Tensor], x: Tensor, which: str) -> Tensor:
    try:
        with torch.no_grad():
            return function(x)
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(
            f"the {which} fails on inputs of {x.shape[1]} number(s): {first_line(error)}"
        ) from error


def _layers(network: DenseNetwork) -> _Layers:
    held = network.matrices(torch.zeros(network.space.size, dtype=torch.float64))
    weights = [_Table(layer.weight_coordinates, w) for layer, (w, _) in zip(network.layers, held, strict=True)]
    biases = [
        None if layer.bias_coordinates is None or b is None else _Table(layer.bias_coordinates, b)
        for layer, (_, b) in zip(network.layers, held, strict=True)
    ]
    return _Layers(weights[0], biases[0], weights[1], biases[1])


# -- quadrature --------------------------------------------------------------------------------------------------------


def gauss_hermite_risk(
    student: nn.Module,
    teacher: Callable[[Tensor], Tensor],
    dimension: int | None = None,
    *,
    nodes: int | None = None,
) -> EmpiricalRisk:
    """The mean squared error over Gaussian inputs by Gauss-Hermite quadrature, for networks of few inputs.

    The nodes become data with weights: any depth and any activation will do. Smooth functions are integrated to
    rounding with few nodes; steep ones need many (an erf of slope 5 two hundred for six digits), and corners such as
    those of ReLU converge slowly.

    Args:
        student: the network whose parameters are theta.
        teacher: a module or function of inputs ``(n, d)``, in float64.
        dimension: number of inputs, 1 to 3; None takes it from the student's first `nn.Linear`.
        nodes: in each direction; None takes 400, 120 or 40 for one, two or three inputs.

    Raises:
        NotApplicableError: for more than three inputs.
        InvalidInputError: for networks that do not take so many inputs, and parameters that are not finite.
        MemoryLimitError: for more nodes than fit.

    >>> student = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> gauss_hermite_risk(student, torch.sin).n_outputs
    1
    """
    inputs = _inputs(student, dimension)
    _outputs(_in_double(student, "student"), torch.zeros(2, inputs, dtype=torch.float64), "student")
    if inputs > max(NODES):
        raise NotApplicableError(f"a grid over {inputs} inputs has too many nodes; sample the inputs instead")
    count = NODES[inputs] if nodes is None else nodes
    if not isinstance(count, int) or count < 1:
        raise InvalidInputError(f"nodes must be a whole number of at least 1, got {nodes}")
    require_memory(8 * (2 * inputs + 4) * count**inputs, f"{count}^{inputs} nodes", "Use fewer with nodes=.")
    places, weights = (torch.from_numpy(part) for part in roots_hermitenorm(count))
    weights = weights / weights.sum()
    x = torch.cartesian_prod(*[places] * inputs).reshape(-1, inputs)
    mass = torch.cartesian_prod(*[weights] * inputs).reshape(-1, inputs).prod(1)
    kept = mass > PRUNED
    x, mass = x[kept], mass[kept]
    judge = _in_double(teacher, "teacher") if isinstance(teacher, nn.Module) else teacher
    y = _outputs(judge, x, "teacher")
    return EmpiricalRisk(student, nn.MSELoss(), x, y, sample_weight=mass / mass.sum() * len(x))


def population_risk(
    student: nn.Module, teacher: nn.Module, dimension: int | None = None, *, nodes: int | None = None
) -> PopulationRisk | EmpiricalRisk:
    """The loss over infinitely many Gaussian inputs: in closed form where there is one, else by quadrature.

    Args:
        student: the network whose parameters are theta.
        teacher: the network it is compared with.
        dimension: number of inputs; None takes it from the student's first `nn.Linear`.
        nodes: of the quadrature in each direction; given, quadrature is used.

    Raises:
        NotApplicableError: where neither is possible, with both reasons.

    >>> student, teacher = (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(2))
    >>> type(population_risk(student, teacher)).__name__
    'PopulationRisk'
    """
    why = "nodes= asks for quadrature"
    if nodes is None:
        try:
            return PopulationRisk(student, teacher, dimension)
        except NotApplicableError as error:
            why = str(error)
    try:
        return gauss_hermite_risk(student, teacher, dimension, nodes=nodes)
    except NotApplicableError as error:
        raise NotApplicableError(f"{why}; and {error}") from None
