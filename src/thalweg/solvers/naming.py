"""What a way to infinity is called, from what is seen along it.

The evidence is threefold: whether the outputs grow or settle, whether the slope falls exponentially or like a power of
the size, and whether the growing parameters do so in pairs that cancel. Where it fits no name, or the objective shows
no outputs, the growth stays unexplained: proof that something is a channel needs the network's structure.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import ParameterSpace
from thalweg.objectives import Capability, Objective, OutputObjective, RestrictedObjective, SumObjective
from thalweg.solvers.status import Status
from thalweg.solvers.valley import DOUBLE, STOPS, ZERO, Valley

__all__ = ["Evidence", "cancelling", "decay_law", "gather", "name_escape", "output_growth"]

_CANCEL = 0.15
"""Growth cancels when its sum over units is below this fraction of the sum of absolute values."""
_GROWN = 0.1
_SHARE = 0.8
"""... and when this share of its squared length lies in one block."""


@dataclass(frozen=True)
class Evidence:
    """What was seen along a valley that leads to infinity.

    Attributes:
        law: how the value falls towards its limit: "exponential", "power", or "unknown" where too little stands above
            rounding.
        exponent: for a power law: -2 in a channel; NaN otherwise.
        outputs: "grow", "settle", or "unknown" without outputs.
        cancels: the growing parameters cancel within one block.
        pairs: two parameters or more of one block share the growth evenly, whatever their signs: with an odd activation
            the pair of a channel may have equal signs.
        bent: the way is curved: all other parameters follow the growing ones.
        block: the block that grows most.
    """

    law: str
    exponent: float
    outputs: str
    cancels: bool
    pairs: bool
    bent: bool
    block: str

    def describe(self) -> str:
        """The evidence in words."""
        law = {
            "exponential": "the value nears its limit exponentially",
            "power": f"the value nears its limit like the power {self.exponent:.1f} of the size",
            "unknown": "the rest of the fall is below rounding",
        }[self.law]
        outputs = {"grow": "outputs grow", "settle": "outputs settle", "unknown": "no outputs to look at"}[self.outputs]
        pairs = "in cancelling pairs" if self.cancels else "in even pairs" if self.pairs else "not in pairs"
        return f"growth is mostly in {self.block!r}, {pairs}; {law}; {outputs}"


def name_escape(evidence: Evidence) -> Status:
    """The status that the evidence supports.

    >>> name_escape(Evidence("power", -2.0, "settle", True, True, True, "output.weight")).value
    'diverging along a channel'
    """
    if evidence.outputs == "grow":
        return Status.SEPARABLE if evidence.law != "power" else Status.GROWTH
    in_pairs = evidence.cancels or (evidence.pairs and evidence.outputs == "settle")
    if evidence.law == "power" and evidence.bent and in_pairs:
        return Status.CHANNEL
    if evidence.outputs == "settle" and not evidence.cancels and evidence.law != "power":
        return Status.SATURATING
    return Status.GROWTH


def gather(objective: Objective, valley: Valley, number: int) -> Evidence:
    """Collect the evidence along one valley."""
    theta = valley.theta[number]
    growth = theta[DOUBLE] - theta[ZERO]
    law, exponent = decay_law(*_reached(valley, number))
    shares = {b.name: float(growth[b.slice].square().sum()) for b in objective.space}
    return Evidence(
        law=law,
        exponent=exponent,
        outputs=output_growth(objective, *_doubling(valley, number)),
        cancels=cancelling(objective.space, growth),
        pairs=cancelling(objective.space, growth, any_sign=True),
        bent=bool(valley.bent[number]),
        block=max(shares, key=lambda name: shares[name]),
    )


def decay_law(sizes: list[float], values: list[float], noise: list[float]) -> tuple[str, float]:
    """Fit the falls between consecutive sizes by ``c (e^-kr - e^-ks)`` and by ``c (r^-p - s^-p)``, and keep the better.

    Args:
        sizes: positive, ascending.
        values: falling.
        noise: of each value; smaller falls than ten times this are not used.

    Returns:
        "exponential", "power" or "unknown" (fewer than three falls to fit), and the exponent ``-p``.

    >>> sizes = [0.5, 0.75, 1.0, 1.25, 2.0, 4.0]
    >>> decay_law(sizes, [7 + s**-2 for s in sizes], [0.0] * 6)
    ('power', -2.0)
    >>> decay_law(sizes, [7 + math.exp(-9 * s) for s in sizes], [0.0] * 6)[0]
    'exponential'
    """
    triples = zip(itertools.pairwise(sizes), itertools.pairwise(values), itertools.pairwise(noise), strict=True)
    falls = [(r, s, a - b) for (r, s), (a, b), pair in triples if a - b > 10 * max(pair) and a > b]
    if len(falls) < 3:
        return "unknown", math.nan
    near, far, drop = (torch.tensor(column, dtype=torch.float64) for column in zip(*falls, strict=True))
    powers = torch.linspace(0.05, 12, 240, dtype=torch.float64)[:, None]
    rates = torch.logspace(-1, 3, 400, dtype=torch.float64)[:, None]

    def misfit(shape: Tensor) -> Tensor:
        return (drop.log() - shape).var(-1)  # the factor c is free

    by_power = misfit((near**-powers - far**-powers).log())
    by_rate = misfit(-rates * near + torch.log1p(-torch.exp(-rates * (far - near))))
    if float(by_rate.min()) < float(by_power.min()):
        return "exponential", math.nan
    return "power", -round(float(powers[int(by_power.argmin())]), 2)


def output_growth(
    objective: Objective, near: Float[Tensor, " P"], far: Float[Tensor, " P"], farther: Float[Tensor, " P"]
) -> str:
    """Whether outputs grow between points at sizes 1, 2 and 4: ever faster, and by a good part of themselves."""
    source, thetas = _outputs_source(objective, torch.stack([near, far, farther]))
    if source is None:
        return "unknown"
    outputs = source.outputs(thetas)
    first, second = float((outputs[1] - outputs[0]).norm()), float((outputs[2] - outputs[1]).norm())
    return "grow" if second > max(first, _GROWN * float(outputs[0].norm())) else "settle"


def cancelling(space: ParameterSpace, growth: Float[Tensor, " P"], *, any_sign: bool = False) -> bool:
    """Whether growth sits in one block and cancels over one of its axes, as output weights diverging in pairs do.

    Args:
        space: of the growth.
        growth: change of the parameters.
        any_sign: let every parameter choose the sign with which it enters the sum.

    >>> space = ParameterSpace({"hidden": (3, 2), "output": (1, 3)})
    >>> cancelling(space, torch.tensor([0.01] * 6 + [1.0, -1.0, 0.0]))
    True
    """
    total = float(growth.square().sum())
    for block in space:
        part = growth[block.slice]
        if block.size < 2 or float(part.square().sum()) < _SHARE * total:
            continue
        values = part.reshape([n for n in block.shape if n > 1] or [block.size])
        for axis in range(values.dim()):
            size = values.abs().sum(axis)
            rest = (2 * values.abs().amax(axis) - size).clamp(min=0) if any_sign else values.sum(axis)
            if float(rest.norm()) <= _CANCEL * float(size.norm()):
                return True
    return False


def _reached(valley: Valley, number: int) -> tuple[list[float], list[float], list[float]]:
    """Sizes (1 at the point itself), values and noise, in one row from the furthest back to the furthest forward."""
    kept = [i for i, at in enumerate(STOPS) if at > -1 and bool(valley.reached[number, i])]
    value, noise = valley.value[number].tolist(), valley.noise[number].tolist()
    return [1 + STOPS[i] for i in kept], [value[i] for i in kept], [noise[i] for i in kept]


def _doubling(valley: Valley, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three points each twice the size of the one before: forward where the valley was reached, else one earlier."""
    theta = valley.theta[number]
    if bool(valley.reached[number, -1]):
        return theta[ZERO], theta[DOUBLE], theta[-1]
    return theta[STOPS.index(-0.5)], theta[ZERO], theta[DOUBLE]


def _outputs_source(objective: Objective, thetas: Tensor) -> tuple[OutputObjective | None, Tensor]:
    """The loss of outputs inside an objective, and its own coordinates of some points."""
    if isinstance(objective, RestrictedObjective):
        return _outputs_source(objective.base, objective.project(thetas))
    for term in objective.terms if isinstance(objective, SumObjective) else (objective,):
        if isinstance(term, OutputObjective) and Capability.OUTPUTS in term.capabilities:
            return term, thetas
    return None, thetas
