"""Walking along a soft direction, on the floor of its valley, to see whether it leads to infinity.

A gradient that is small because the loss levels off at infinity looks, at one point, like that of a flat minimum. Far
along the direction the two differ: on the way to infinity the value falls, ever more slowly, forward, and rises
backward; at a minimum, degenerate or not, it rises or stays level on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.floor import Lanes, follow
from thalweg.solvers.local import LocalModel, rounding_signs
from thalweg.solvers.method import finite

__all__ = ["STOPS", "Valley", "ValleyShape", "walk"]

STOPS = (-1.0, -0.9, -0.75, -0.5, -0.25, 0.0, 0.25, 1.0, 3.0)
"""Where the valley is looked at, in units of the present size of the soft part of theta: up to four times that size."""
HALF, ZERO, DOUBLE = STOPS.index(-0.5), STOPS.index(0.0), STOPS.index(1.0)
_ENOUGH = 0.05
"""Level ground over this fraction of the size, up to where the valley turns away, counts as a level valley."""
_PLAIN = 1e6
"""Where values on the straight line differ by so much more than the noise at its middle, the noise elsewhere is not
asked for: the line is not level, and its floor is followed."""
_DECAY = 0.7
"""The mean slope must fall to this fraction from one stretch to the next.

Towards a minimum within four times the size it would not.
"""


class ValleyShape(Enum):
    """What the values along a valley look like."""

    BOUNDED = "rises or stays level"
    ESCAPE = "falls ever more slowly"
    DESCENT = "falls to a lower place"
    UNDECIDED = "could not be followed far enough"


@dataclass(frozen=True, eq=False)
class Valley:
    """Points on the floor of a valley, along one direction from each of m points.

    They lie at `STOPS`, or as far towards them as the valley went.

    Attributes:
        row: ``(m,)``, which of the points asked about each direction belongs to.
        direction: ``(m, P)``, unit vectors.
        size: ``(m,)``, the unit of distance.
        theta: ``(m, k, P)``.
        value: ``(m, k)``.
        reached: ``(m, k)``, False where the floor could not be followed so far.
        noise: ``(m, k)``, what differences of values must exceed to be seen there.
        bent: ``(m,)``, whether the floor had to be followed, because it leaves the straight line.
        barred: ``(m,)``, whether the floor ahead rises visibly or ends at a kink where it cannot be followed further.
        walked: ``(m,)``, the longer of the distances covered forward and backward, in units of `size`.
        smooth: ``(m,)``, whether the loss has no kinks: only then does level ground ahead and a rise behind betray a
            slope too small to be seen (a ReLU that is off is level without any).
        evaluations: ``(m,)``, values and gradients computed.
        hessians: ``(m,)``, Hessians computed.
    """

    row: Int[Tensor, " m"]
    direction: Float[Tensor, "m P"]
    size: Float[Tensor, " m"]
    theta: Float[Tensor, "m k P"]
    value: Float[Tensor, "m k"]
    reached: Bool[Tensor, "m k"]
    noise: Float[Tensor, "m k"]
    bent: Bool[Tensor, " m"]
    barred: Bool[Tensor, " m"]
    walked: Float[Tensor, " m"]
    smooth: Bool[Tensor, " m"]
    evaluations: Int[Tensor, " m"]
    hessians: Int[Tensor, " m"]

    def shape(self, number: int, significant: float) -> ValleyShape:
        """What one valley looks like.

        Args:
            number: which of the m.
            significant: a place counts as lower when it is lower by more than this.
        """
        if self._escapes(number):
            return ValleyShape.ESCAPE
        reached, change = self.reached[number], self.value[number] - self.value[number, ZERO]
        noise = torch.maximum(self.noise[number], self.noise[number, ZERO])
        if bool((change < -noise.clamp(min=significant)).any()):
            return ValleyShape.DESCENT
        rises = bool((change > 4 * noise)[ZERO:].any() | self.barred[number])
        far = bool(reached[DOUBLE] & reached[HALF])
        level = bool((change.abs() <= noise).all()) and float(self.walked[number]) >= _ENOUGH
        return ValleyShape.BOUNDED if rises or far or level else ValleyShape.UNDECIDED

    def level(self, number: int) -> bool:
        """Whether every stop was reached and lies level with the point itself."""
        change = (self.value[number] - self.value[number, ZERO]).abs()
        return bool((self.reached[number] & (change <= self.noise[number])).all())

    def mirrored(self) -> Valley:
        """The valley of minus the value."""
        return replace(self, value=-self.value)

    def lowest(self, number: int) -> Float[Tensor, " P"]:
        """The lowest point reached in one valley."""
        return self.theta[number, int(self.value[number].argmin())]

    def _escapes(self, number: int) -> bool:
        """Level or falling forward, rising backward, and the mean slope decays from stretch to stretch."""
        value, noise = self.value[number].tolist(), self.noise[number].tolist()
        reached = self.reached[number].tolist()
        here, last = value[ZERO], len(STOPS) - 1 if reached[-1] else DOUBLE
        if not reached[DOUBLE] or any(value[i + 1] > value[i] + max(noise[i : i + 2]) for i in range(ZERO, last)):
            return False
        near, unseen = here - value[DOUBLE], max(noise[ZERO : DOUBLE + 1])
        distant = (value[DOUBLE] - value[last]) / max(STOPS[last] - STOPS[DOUBLE], 1.0)
        for i in range(ZERO - 1, -1, -1):
            rise, visible = value[i] - here, 4 * max(noise[i], noise[ZERO])
            if not reached[i] or value[i] < value[i + 1] - visible:
                return False
            if rise > visible:
                decays = near <= _DECAY * rise / -STOPS[i] and distant <= _DECAY * max(near, unseen)
                return decays and (near > unseen or bool(self.smooth[number]))
        return False


def walk(
    objective: Objective,
    model: LocalModel,
    soft: Bool[Tensor, "b P"],
    row: Int[Tensor, " m"],
    direction: Float[Tensor, "m P"],
    size: Float[Tensor, " m"],
    noise: Float[Tensor, " b"],
    *,
    saddle: bool = False,
) -> Valley:
    """Follow the floor of the valley along each direction, forward and backward.

    Args:
        objective: what is minimised.
        model: at the b points asked about.
        soft: their soft eigendirections; in all others the points are kept minimal on the way.
        row: the point each direction belongs to.
        direction: unit vectors.
        size: unit of distance.
        noise: per point, what differences of values must exceed to be seen.
        saddle: keep them stationary instead.
    """
    start, count = model.take(row), torch.zeros_like(row)
    valley = Valley(
        row=row,
        direction=direction,
        size=size,
        theta=start.theta[:, None].repeat(1, len(STOPS), 1),
        value=start.value[:, None].repeat(1, len(STOPS)),
        reached=torch.ones(len(row), len(STOPS), dtype=torch.bool, device=row.device),
        noise=noise[row][:, None].repeat(1, len(STOPS)),
        bent=torch.zeros_like(row, dtype=torch.bool),
        barred=torch.zeros_like(row, dtype=torch.bool),
        walked=torch.full_like(size, STOPS[-1]),
        smooth=_smooth(objective, model.theta, row),
        evaluations=count,
        hessians=count.clone(),
    )
    _straight(objective, valley)
    bent = [i for i in range(len(row)) if valley.shape(i, 0.0) is not ValleyShape.ESCAPE and not valley.level(i)]
    if bent:
        _floor(objective, valley, torch.tensor(bent, device=row.device), start, soft[row], saddle)
    return valley


def _straight(objective: Objective, valley: Valley) -> None:
    """The values on the straight line: where they fall for ever, or stay level, no valley needs to be followed."""
    at = torch.tensor(STOPS, dtype=valley.size.dtype, device=valley.size.device)
    valley.theta.add_((at * valley.size[:, None])[:, :, None] * valley.direction[:, None])
    valley.value.copy_(finite(objective.value(valley.theta)))
    valley.reached.copy_(torch.isfinite(valley.value))
    valley.evaluations.add_(len(STOPS))
    change = (valley.value - valley.value[:, ZERO, None]).abs().amax(1)
    doubtful = (~(change > _PLAIN * valley.noise.amax(1))).nonzero().squeeze(1)
    if len(doubtful):
        measured = _value_noise(objective, valley.theta[doubtful], valley.value[doubtful])
        valley.noise[doubtful] = torch.maximum(valley.noise[doubtful], measured)
        valley.evaluations[doubtful] += 3 * len(STOPS)


def _floor(objective: Objective, valley: Valley, some: Tensor, start: LocalModel, soft: Tensor, saddle: bool) -> None:
    """The values on the floor of some valleys, forward and then backward."""
    least = valley.noise[some].amin(-1)
    along, size = valley.direction[some], valley.size[some]
    lanes = Lanes.begin(objective, start.take(some), soft[some], along, size, least, saddle=saddle)
    valley.theta[some, ZERO], valley.value[some, ZERO], valley.reached[some, ZERO] = lanes.theta, lanes.value, True
    back = lanes.turned()

    def visit(lane: Lanes, i: int) -> None:
        follow(objective, lane, abs(STOPS[i]))
        valley.theta[some, i], valley.value[some, i], valley.reached[some, i] = lane.theta, lane.value, lane.alive

    for i in range(ZERO + 1, len(STOPS)):
        # risen well above the start going forward: bounded on this side, nothing more to learn
        lanes.alive &= lanes.value <= lanes.origin + 4 * least
        visit(lanes, i)
    for i in range(ZERO - 1, -1, -1):
        visit(back, i)
    valley.bent[some] = True
    # where the loss has kinks, a floor that ends ahead is taken to end at one of them
    valley.barred[some] = ~lanes.alive & ((lanes.barrier > 4 * least) | ~valley.smooth[some])
    valley.walked[some] = torch.maximum(lanes.at, back.at) / valley.size[some]
    valley.evaluations[some] += lanes.evaluations + back.evaluations + 3 * len(STOPS)
    valley.hessians[some] += lanes.hessians + back.hessians
    noise = _value_noise(objective, valley.theta[some], valley.value[some])
    valley.noise[some] = torch.maximum(least[:, None], noise)


def _smooth(objective: Objective, theta: Tensor, row: Tensor) -> Tensor:
    """Whether the loss shows no kinks at each of the points asked about, spread over the directions."""
    known = {owner: objective.kinks(theta[owner]).smooth for owner in set(row.tolist())}
    return torch.tensor([known[owner] for owner in row.tolist()], device=theta.device)


def _value_noise(objective: Objective, theta: Tensor, value: Tensor) -> Tensor:
    """Change of the value by one unit in the last place of theta, at every stop."""
    signs = rounding_signs(theta)
    found = objective.value(theta[..., None, :] * (1 + torch.finfo(theta.dtype).eps * signs))
    return torch.nan_to_num(2 * (found - value[..., None]).abs().amax(-1), nan=torch.inf)
