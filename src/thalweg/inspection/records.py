"""What an inspection measures, as frozen records; each is made by one stage and shown by `report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from thalweg.display import Level
from thalweg.objectives import KinkReport
from thalweg.tangent import Eigenpairs, Inertia, RayleighQuotient

__all__ = [
    "Curvature",
    "Finding",
    "FlatGroup",
    "Forecast",
    "Layer",
    "Noise",
    "Pace",
    "Point",
    "Skipped",
    "Slice",
    "Units",
]


@dataclass(frozen=True)
class Layer:
    """One block of parameters.

    Attributes:
        name: of the block.
        size: number of parameters.
        norm: Euclidean norm of the parameters.
        gradient_norm: Euclidean norm of the gradient.
        curvature: trace of the Hessian's diagonal block divided by its size; None where the Hessian was not formed.
    """

    name: str
    size: int
    norm: float
    gradient_norm: float
    curvature: float | None = None


@dataclass(frozen=True)
class Point:
    """Value, gradient and the like at the point inspected.

    Attributes:
        value: the loss.
        gradient_norm: maximum norm of the gradient.
        gradient_length: Euclidean norm of the gradient.
        gradient_floor: maximum norm that rounding of the parameters alone gives the gradient.
        value_noise: change of the value that rounding of the parameters alone makes.
        theta_norm: Euclidean norm of the parameters.
        infimum: the loss that no outputs whatever could fall below, where the loss declares it; None otherwise.
        kinks: points of non-smoothness nearby.
        layers: block by block.
        gradient: ``(P,)``.
    """

    value: float
    gradient_norm: float
    gradient_length: float
    gradient_floor: float
    value_noise: float
    theta_norm: float
    infimum: float | None
    kinks: KinkReport
    layers: tuple[Layer, ...]
    gradient: Float[Tensor, " P"] = field(repr=False)

    @property
    def excess(self) -> float | None:
        """How much the loss lies above `infimum`: nothing can gain more."""
        return None if self.infimum is None else self.value - self.infimum


@dataclass(frozen=True)
class Curvature:
    """The Hessian's spectrum: all of it, or both ends.

    Attributes:
        dense: whether all eigenvalues are known.
        highest: the largest eigenvalue (matrix-free: the largest found).
        lowest: the smallest one as a Rayleigh quotient: an upper bound of the smallest eigenvalue.
        eigenvalues: ``(k,)`` ascending; all P where `dense`.
        inertia: counts by sign; None where the Hessian was not formed.
        pairs: both ends with residuals; None where `dense`.
        vectors: ``(P, k)``, eigenvectors of `eigenvalues`.
        products: Hessian products spent.
    """

    dense: bool
    highest: float
    lowest: RayleighQuotient
    eigenvalues: Float[Tensor, " k"]
    inertia: Inertia | None
    pairs: Eigenpairs | None
    vectors: Float[Tensor, "P k"] = field(repr=False)
    products: int = 0

    @property
    def scale(self) -> float:
        """Largest absolute eigenvalue seen."""
        return max(abs(self.highest), abs(self.lowest.value))

    @property
    def lowest_vector(self) -> Float[Tensor, " P"]:
        """Unit vector of the lowest Rayleigh quotient."""
        return self.vectors[:, 0]

    @property
    def highest_vector(self) -> Float[Tensor, " P"]:
        """Unit eigenvector of the largest eigenvalue."""
        return self.vectors[:, -1]


@dataclass(frozen=True)
class Forecast:
    """One step: what the local model promises, and what it was found to bring when tried.

    Attributes:
        name: the kind of step.
        predicted: decrease of the loss that the local quadratic model predicts.
        measured: decrease found by evaluating the loss at the end of the step.
        length: Euclidean length.
        relative_length: length over the norm of the parameters.
        verified: whether prediction and measurement agree within `AGREEMENT`.
        remark: what a reader should know of it.
        step: ``(P,)``.
    """

    name: str
    predicted: float
    measured: float
    length: float
    relative_length: float
    verified: bool
    remark: str
    step: Float[Tensor, " P"] = field(repr=False)


@dataclass(frozen=True)
class Pace:
    """How fast gradient descent can go here, read off the quadratic model.

    Attributes:
        largest_step: 2 / largest eigenvalue: gradient descent with a larger step size grows along the stiffest
            direction.
        steps_to_half: steps at half that step size that gain half of what the model promises.
        promised: decrease of the loss that the model promises in the directions counted.
        stiff_share: share of the promise that lies in directions at most 100 times softer than the stiffest.
        exact: True from the whole spectrum, False from a Krylov space of the gradient.
    """

    largest_step: float
    steps_to_half: float
    promised: float
    stiff_share: float
    exact: bool


@dataclass(frozen=True)
class Noise:
    """Signal and noise of mini-batch gradients.

    Attributes:
        critical_batch: batch size at which noise and signal are equal: tr(covariance) / ||gradient||^2 ("simple noise
            scale", McCandlish et al. 2018, equation 2.9).
        error: one standard error of it, from the sampling of samples.
        samples: number of samples it was estimated from.
    """

    critical_batch: float
    error: float
    samples: int

    def signal_to_noise(self, batch: int) -> float:
        """||gradient|| over the root mean square of its noise, for mini-batches of this size."""
        return (batch / self.critical_batch) ** 0.5 if self.critical_batch > 0 else float("inf")


@dataclass(frozen=True)
class Units:
    """Hidden units of one layer that hardly respond to the data.

    Attributes:
        layer: name.
        units: number of units.
        dead: units whose output is the same for every sample.
        saturated: units that sit in the flat part of their activation for more than 99 % of the samples.
        activation: name of the activation.
    """

    layer: str
    units: int
    dead: int
    saturated: int
    activation: str


@dataclass(frozen=True)
class FlatGroup:
    """Directions along which the loss was found not to change, of one kind.

    Attributes:
        kind: what makes them flat.
        dimension: number of independent directions.
        description: in words.
        largest_change: largest change of the loss on moving along any of them, over a distance comparable with the
            parameters.
        straight: whether the ways are straight lines, along which the curvature vanishes at any point; else that holds
            at critical points only.
        directions: ``(P, dimension)``, orthonormal.
    """

    kind: str
    dimension: int
    description: str
    largest_change: float
    straight: bool
    directions: Float[Tensor, "P dimension"] = field(repr=False)


@dataclass(frozen=True)
class Slice:
    """The loss along a straight line through the point.

    Attributes:
        name: of the direction.
        meaning: what to see in it.
        t: ``(k,)`` distances.
        values: ``(k,)``, the loss.
        model: ``(k,)``, the quadratic model.
    """

    name: str
    meaning: str
    t: Float[Tensor, " k"]
    values: Float[Tensor, " k"]
    model: Float[Tensor, " k"]


@dataclass(frozen=True)
class Finding:
    """One thing to know, and what to do about it.

    Attributes:
        level: ``"ok"``, ``"warn"`` or ``"bad"``.
        text: the fact, with its figure.
        advice: what to do; empty where there is nothing to do.
        code: lines to type; empty where there are none.
    """

    level: Level
    text: str
    advice: str = ""
    code: str = ""


@dataclass(frozen=True)
class Skipped:
    """Something that was not done.

    Attributes:
        what: the part of the inspection.
        why: why not, and what it would take.
    """

    what: str
    why: str


def plain(record: Any) -> dict[str, Any]:
    """A record's fields without those that are as long as the parameter vector."""
    hidden = {"gradient", "step", "vectors", "directions"}
    return {name: value for name, value in vars(record).items() if name not in hidden}
