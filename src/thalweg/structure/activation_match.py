"""Which activation is it? An elementwise function met in a network, matched against what is registered.

The function is evaluated on a set of points and compared with every registered activation, also rescaled inside and
outside (``1.7159 tanh(2z/3)``, ``sin(30z)``), and with the families that have parameters: powers with one factor on
each side of zero (leaky ReLU of any slope), ELU, softplus and polynomials. Numbers that occur in the computation
(thresholds, factors) become points of the comparison, so that a function which departs from a known one only beyond
some threshold is told apart.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from thalweg.foundation import ThalwegWarning
from thalweg.structure.activation_check import probe_points
from thalweg.structure.activation_table import elu_facts, leaky_relu_facts, softplus_facts
from thalweg.structure.activations import ActivationFacts, registered_activations

__all__ = ["match_activation"]

ScalarMap = Callable[[Tensor], Tensor]

RELATIVE = 1e-12
"""Two values agree if they differ by less than this part of the larger one, or by less than `ABSOLUTE`."""
ABSOLUTE = 1e-14
REACH = 90.0
"""Largest argument compared, unless a number in the computation asks for more; beyond it `exp` of a sum overflows
soon."""
MAX_DEGREE = 8
"""Highest degree of polynomial that is recognised."""


def match_activation(
    function: ScalarMap, constants: Iterable[float] = (), name: str = "elementwise"
) -> ActivationFacts:
    """Facts of an elementwise function: those of a registered activation or family that it equals, else none.

    Args:
        function: maps a float64 tensor entry by entry.
        constants: the numbers that occur in its computation.
        name: how it is called if nothing matches.

    Returns:
        The facts; `recognised` is False and all facts are unknown where nothing matches.

    >>> match_activation(lambda z: 1.7159 * torch.tanh(2 * z / 3), [1.7159, 2, 3]).name
    '1.7159 tanh(0.666667z)'
    >>> match_activation(lambda z: torch.where(z > 0, z, 0.3 * z), [0, 0.3]).name
    'leaky_relu(0.3)'
    >>> match_activation(lambda z: torch.sin(z) * z).recognised
    False
    """
    numbers = sorted({abs(float(c)) for c in constants if math.isfinite(c)})
    try:
        sample = _Sample.of(function, numbers)
    except (RuntimeError, TypeError, ValueError):  # not a function of single entries after all
        return ActivationFacts(name, function, recognised=False)
    if sample.values.isfinite().all():
        for facts in itertools.chain(_registered(sample, numbers), _families(sample)):
            if sample.equals(facts.function):
                return facts
        polynomial = _polynomial(sample)
        if polynomial is not None:
            return polynomial
    return ActivationFacts(name, function, recognised=False)


@dataclass(frozen=True)
class _Sample:
    points: Tensor
    values: Tensor

    @staticmethod
    def of(function: ScalarMap, numbers: list[float]) -> _Sample:
        """Evaluate on the standard points and around every threshold that products of the numbers can make."""
        corners = {c for c in _combinations(numbers) if 0 < c < 1e6}
        extra = [s * c * (1 + e) for c in corners for s in (1, -1) for e in (-0.3, -1e-7, 1e-7, 0.3)]
        points = torch.cat([probe_points(REACH), torch.tensor(sorted(extra), dtype=torch.float64)])
        with torch.no_grad():
            values = function(points)
        if values.shape != points.shape or values.dtype != points.dtype:
            raise TypeError("not an elementwise function of real numbers")
        return _Sample(points, values)

    def equals(self, other: ScalarMap) -> bool:
        with torch.no_grad():
            return self.agrees(other(self.points))

    def agrees(self, values: Tensor) -> bool:
        scale = torch.maximum(values.abs(), self.values.abs())
        return bool(((values - self.values).abs() <= RELATIVE * scale + ABSOLUTE).all())

    def at(self, point: float) -> float:
        """The value at the sampled point nearest to the one asked for."""
        return float(self.values[(self.points - point).abs().argmin()])

    def nearest(self, point: float) -> float:
        return float(self.points[(self.points - point).abs().argmin()])


def _combinations(numbers: list[float]) -> list[float]:
    """The numbers, their inverses, and products and quotients of two; of many numbers only the first six."""
    few = [c for c in numbers if c > 0][:6]
    single = few + [1 / c for c in few]
    return [*single, *(a * b for a, b in itertools.combinations(single, 2))]


def _registered(sample: _Sample, numbers: list[float]) -> Iterator[ActivationFacts]:
    known = [facts for facts in registered_activations() if _works(facts, sample.points)]
    yield from (f for f in known if f.name == "identity" or not _is_identity(sample))
    inner = [1.0, *dict.fromkeys(c for c in _combinations(numbers) if c != 1)]
    for facts, scale, sign in itertools.product(known, inner, (1.0, -1.0)):
        if facts.homogeneity is not None and scale * sign != 1 and (facts.parity != "none" or sign == 1):
            continue  # the factor inside is a factor outside
        outer = _outer_factor(sample, facts, sign * scale)
        if outer is not None:
            yield facts.rescaled(sign * scale, outer)


def _works(facts: ActivationFacts, points: Tensor) -> bool:
    """Whether a registered function can be evaluated; one that cannot must not stop the reading of other networks."""
    try:
        with torch.no_grad():
            facts.function(points)
    except Exception as error:  # whatever a user's function may raise
        warnings.warn(
            f"the registered activation {facts.name!r} raised {type(error).__name__}: {error}; networks are not "
            "compared with it",
            ThalwegWarning,
            stacklevel=2,
        )
        return False
    return True


def _is_identity(sample: _Sample) -> bool:
    return sample.agrees(sample.points)


def _outer_factor(sample: _Sample, facts: ActivationFacts, inner: float) -> float | None:
    """The factor a with function(z) = a sigma(inner z): read off at one point, tested at all; None without one."""
    with torch.no_grad():
        values = facts.function(inner * sample.points)
    if not values.isfinite().all():
        return None
    where = int(((sample.points - 0.9).abs() + (values == 0) * inf).nan_to_num(nan=0.9).argmin())
    base = float(values[where])
    if base == 0:
        return None
    outer = float(sample.values[where]) / base
    outer = _round(outer)
    return outer if outer != 0 and math.isfinite(outer) and sample.agrees(outer * values) else None


def _round(value: float) -> float:
    """Drop a quotient's rounding error: 12 digits, if that changes less than 4 units in the last place."""
    short = float(f"{value:.12g}")
    return short if abs(short - value) <= 4 * math.ulp(value) else value


# -- families ----------------------------------------------------------------------------------------------------------


def _families(sample: _Sample) -> Iterator[ActivationFacts]:
    for family in (_constant, _affine, _two_sided_power, _elu, _softplus):
        facts = family(sample)
        if facts is not None:
            yield facts


def _constant(sample: _Sample) -> ActivationFacts | None:
    level = float(sample.values[0])
    if bool((sample.values != level).any()):
        return None
    return ActivationFacts(
        f"constant {level:.6g}",
        Polynomial((level,)),
        (torch.zeros_like, torch.zeros_like),
        parity="even",
        homogeneity=0 if level else None,
        kinks=(),
        smoothness=inf,
        limits=(level, level),
        infimum=level,
        supremum=level,
        analytic=True,
        lipschitz=0.0,
        curvature=0.0,
        monotone=True,
        constant_on=(-inf, inf),
        reflection_sum=2 * level,
        reflection_slope=0.0,
    )


def _affine(sample: _Sample) -> ActivationFacts | None:
    """``slope * z + shift`` with a shift (without one it is the identity, rescaled)."""
    shift = sample.at(0.0)
    far = sample.nearest(1.0)
    slope = _round((sample.at(far) - shift) / far)
    if shift == 0 or slope == 0:
        return None
    ends = (-inf, inf) if slope > 0 else (inf, -inf)
    polynomial = Polynomial((shift, slope))
    return ActivationFacts(
        f"{slope:.6g} z {'+' if shift > 0 else '-'} {abs(shift):.6g}",
        polynomial,
        polynomial.derivatives(),
        parity="none",
        kinks=(),
        smoothness=inf,
        limits=ends,
        infimum=-inf,
        supremum=inf,
        analytic=True,
        lipschitz=abs(slope),
        curvature=0.0,
        monotone=slope > 0,
        reflection_sum=2 * shift,
        reflection_slope=2 * slope,
    )


def _two_sided_power(sample: _Sample) -> ActivationFacts | None:
    """``right * z**k`` for z > 0 and ``left * |z|**k`` for z < 0, k = 1, 2, 3, 4, continuous at zero."""
    one, minus_one = sample.nearest(1.0), sample.nearest(-1.0)
    for k in (1, 2, 3, 4):
        right, left = _round(sample.at(one) / one**k), _round(sample.at(minus_one) / abs(minus_one) ** k)
        if right == left == 0:
            continue
        function = TwoSidedPower(left, right, k)
        if not sample.equals(function):
            continue
        if k == 1 and right == -left:
            return None  # a multiple of the identity
        if k == 1 and right != 0:
            return leaky_relu_facts(-left / right).rescaled(1.0, right)
        if k == 1:
            return leaky_relu_facts(0.0, "relu").rescaled(-1.0, left)
        return _power_facts(function)
    return None


def _power_facts(f: TwoSidedPower) -> ActivationFacts:
    k, left, right = f.exponent, f.left, f.right
    ends = (math.copysign(inf, left) if left else 0.0, math.copysign(inf, right) if right else 0.0)
    flat = (-inf, 0.0) if left == 0 else ((0.0, inf) if right == 0 else None)
    smooth = right == left * (-1) ** k
    return ActivationFacts(
        f"{right:.6g} z**{k} (z>0), {left:.6g} |z|**{k} (z<0)",
        f,
        parity="even" if left == right else ("odd" if left == -right else "none"),
        homogeneity=k,
        kinks=() if smooth else (0.0,),
        smoothness=inf if smooth else k - 1,
        limits=ends,
        infimum=min(0.0, *ends),
        supremum=max(0.0, *ends),
        analytic=smooth,
        lipschitz=inf,
        curvature=2 * max(abs(left), abs(right)) if k == 2 else inf,
        monotone=left <= 0 <= right,
        constant_on=flat,
        reflection_sum=0.0 if left == -right else None,
        reflection_slope=0.0 if left == right else None,
    )


def _elu(sample: _Sample) -> ActivationFacts | None:
    one, minus_one = sample.nearest(1.0), sample.nearest(-1.0)
    scale = _round(sample.at(one) / one)
    if not scale > 0:
        return None
    alpha = _round(sample.at(minus_one) / scale / math.expm1(minus_one))
    return elu_facts(alpha, scale) if alpha > 0 else None


def _softplus(sample: _Sample) -> ActivationFacts | None:
    level = sample.at(0.0)
    if not level > 0:
        return None
    beta = _round(math.log(2) / level)
    far = sample.points[sample.values == sample.points]
    threshold = inf if len(far) == 0 else 20.0
    return softplus_facts(beta, threshold)


def _polynomial(sample: _Sample) -> ActivationFacts | None:
    """A polynomial of degree at most `MAX_DEGREE`, fitted and then tested on all points.

    Values are compared relative to the sum of the terms' absolute values: near a root nothing else is possible.
    """
    far = sample.points.abs() > 1e-2  # at zero itself all weights would be infinite
    points, values = sample.points[far], sample.values[far]
    for degree in range(2, MAX_DEGREE + 1):
        powers = torch.stack([points**k for k in range(degree + 1)], dim=1)
        near = points.abs() < 3
        coefficients = _least_squares(powers[near], values[near])
        for _ in range(2):  # again with each point weighted as it will be judged
            size = (powers.abs() @ coefficients.abs()).clamp(min=1e-300)
            coefficients = _least_squares(powers / size.unsqueeze(1), values / size)
        matters = (powers.abs() * coefficients.abs() / size.unsqueeze(1)).amax(0) > 1e-13
        exact = tuple(_snap(c) if m else 0.0 for c, m in zip(coefficients.tolist(), matters.tolist(), strict=True))
        polynomial = Polynomial(exact)
        terms = Polynomial(tuple(abs(c) for c in exact))(sample.points.abs())
        gap = (polynomial(sample.points) - sample.values).abs()
        if exact[-1] != 0 and bool((gap <= RELATIVE * terms + ABSOLUTE).all()):
            return _polynomial_facts(polynomial)
    return None


def _least_squares(matrix: Tensor, values: Tensor) -> Tensor:
    """The solution, with columns brought to length one before."""
    lengths = matrix.norm(dim=0)
    solution: Tensor = torch.linalg.lstsq(matrix / lengths, values.unsqueeze(1)).solution.squeeze(1)
    return solution / lengths


def _snap(value: float) -> float:
    """The shortest decimal within a relative 2e-14."""
    decimals = (float(f"{value:.{digits}g}") for digits in range(1, 16))
    return next((short for short in decimals if abs(short - value) <= 2e-14 * abs(value)), value)


def _polynomial_facts(p: Polynomial) -> ActivationFacts:
    degree, lead = len(p.coefficients) - 1, p.coefficients[-1]
    odd = all(c == 0 for c in p.coefficients[0::2])
    even = all(c == 0 for c in p.coefficients[1::2])
    ends = (math.copysign(inf, lead * (-1) ** degree), math.copysign(inf, lead))
    terms = [f"{c:+.6g} z**{k}" if k else f"{c:+.6g}" for k, c in enumerate(p.coefficients) if c != 0]
    return ActivationFacts(
        "polynomial " + " ".join(terms),
        p,
        p.derivatives(),
        parity="odd" if odd else "even" if even else "none",
        kinks=(),
        smoothness=inf,
        limits=ends,
        infimum=-inf if degree % 2 or lead < 0 else None,
        supremum=inf if degree % 2 or lead > 0 else None,
        analytic=True,
        lipschitz=inf,
        curvature=2 * abs(lead) if degree == 2 else inf,
        reflection_sum=0.0 if odd else None,
        reflection_slope=0.0 if even else None,
    )


@dataclass(frozen=True)
class Polynomial:
    """``sum_k coefficients[k] z**k``.

    >>> Polynomial((1.0, 0.0, 2.0))(torch.tensor([3.0]))
    tensor([19.])
    """

    coefficients: tuple[float, ...]

    def __call__(self, z: Tensor) -> Tensor:
        result = torch.full_like(z, self.coefficients[-1])
        for coefficient in reversed(self.coefficients[:-1]):
            result = result * z + coefficient
        return result

    def derivatives(self) -> tuple[Polynomial, Polynomial]:
        """The first two derivatives, again as polynomials."""
        first = tuple(k * c for k, c in enumerate(self.coefficients))[1:] or (0.0,)
        second = tuple(k * c for k, c in enumerate(first))[1:] or (0.0,)
        return Polynomial(first), Polynomial(second)


@dataclass(frozen=True)
class TwoSidedPower:
    """``right * z**exponent`` for z > 0, ``left * |z|**exponent`` for z <= 0."""

    left: float
    right: float
    exponent: int

    def __call__(self, z: Tensor) -> Tensor:
        power = z.abs() ** self.exponent
        return torch.where(z > 0, self.right * power, self.left * power)
