"""Branch and bound: the lowest loss of a tiny network over a box of parameters, enclosed by intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.box_intervals import Interval, magnitude
from thalweg.certificates.box_losses import Enclose, enclosure_of_loss
from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import TINY, UNIT
from thalweg.certificates.work import Work
from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import L2

__all__ = ["ParameterBox", "Search", "search_box"]

LARGEST = 4
"""Most parameters: the number of boxes grows exponentially with them."""
AT_ONCE = 512
"""Boxes halved at once."""


class Search(NamedTuple):
    """What a search ended with.

    Attributes:
        below: no point of the box has a lower value.
        above: some point has a value no higher.
        point: that point, ``(P,)``.
        boxes: enclosures computed.
    """

    below: float
    above: float
    point: Tensor
    boxes: int


def search_box(
    enclose: Enclose,
    low: Float[Tensor, " P"],
    high: Float[Tensor, " P"],
    *,
    tolerance: float = 0.01,
    boxes: int = 100_000,
    stop: Callable[[], str | None] = lambda: None,
) -> Search:
    """Enclose the least value of a function over a box.

    A box is bounded by its interval, and by its middle with the largest slopes; where a slope has one sign the box is
    reduced to the face where the function is least. The most promising boxes are halved until the bounds are within
    the tolerance, relative to the upper one, or there are enough boxes.

    Args:
        enclose: intervals of value and gradient over boxes.
        low: the least of each coordinate.
        high: the largest.
        tolerance: relative.
        boxes: most enclosures.
        stop: a reason to end early, or None.

    >>> from thalweg.certificates.box_intervals import multiply
    >>> def bowl(box):
    ...     x = Interval(box.low[:, 0], box.high[:, 0])
    ...     twice = multiply(Interval(x.low * 2, x.high * 2), Interval(torch.ones_like(x.low), torch.ones_like(x.low)))
    ...     return multiply(x, x), Interval(twice.low[:, None], twice.high[:, None])
    >>> found = search_box(bowl, torch.tensor([1.0]).double(), torch.tensor([2.0]).double())
    >>> 0.99 < found.below <= 1.0
    True
    """
    start = Interval(low.unsqueeze(0), high.unsqueeze(0))
    held, bounds, axes, best = _bounded(enclose, start, torch.full((1,), -math.inf, dtype=torch.float64))
    used = 1
    while used < boxes and stop() is None:
        below = float(bounds.min())
        if best[0] - below <= tolerance * abs(best[0]):
            break
        order = bounds.argsort()
        some, rest = order[:AT_ONCE], order[AT_ONCE:]
        halves, inherited = _halved(Interval(held.low[some], held.high[some]), axes[some], bounds[some])
        new, new_bounds, new_axes, found = _bounded(enclose, halves, inherited)
        used += len(new_bounds)
        best = min(best, found, key=lambda one: one[0])
        held = Interval(torch.cat([held.low[rest], new.low]), torch.cat([held.high[rest], new.high]))
        bounds, axes = torch.cat([bounds[rest], new_bounds]), torch.cat([axes[rest], new_axes])
        kept = bounds <= best[0]  # the others hold no least value
        held, bounds, axes = Interval(held.low[kept], held.high[kept]), bounds[kept], axes[kept]
        if not len(bounds):
            break
    below = min(float(bounds.min()) if len(bounds) else math.inf, best[0])
    return Search(below, best[0], best[1], used)


def _bounded(
    enclose: Enclose, boxes: Interval, inherited: Tensor
) -> tuple[Interval, Tensor, Tensor, tuple[float, Tensor]]:
    """Boxes reduced where they can be, lower bounds, the axis along which to halve each, and the best middle."""
    value, slope = enclose(boxes)
    rising, falling = slope.low > 0, slope.high < 0
    reduced = Interval(torch.where(falling, boxes.high, boxes.low), torch.where(rising, boxes.low, boxes.high))
    middle, radius = reduced.middle, reduced.radius
    point = Interval(middle, middle)
    at_middle = enclose(point)[0]
    fall = magnitude(slope) * radius
    sloped = at_middle.low - fall.sum(1) * (1 + 64 * UNIT) - TINY
    sloped = sloped - 4 * UNIT * at_middle.low.abs()
    bounds = torch.maximum(inherited, torch.maximum(_known(value.low, -math.inf), _known(sloped, -math.inf)))
    axes = torch.where(reduced.high > reduced.low, _known(fall, math.inf), -1.0).argmax(1)
    reached = _known(at_middle.high, math.inf)
    place = int(reached.argmin())
    return reduced, bounds, axes, (float(reached[place]), middle[place])


def _known(ends: Tensor, otherwise: float) -> Tensor:
    """Where an overflow left no number, the end that says nothing."""
    return torch.where(torch.isnan(ends), otherwise, ends)


def _halved(boxes: Interval, axes: Tensor, bounds: Tensor) -> tuple[Interval, Tensor]:
    rows = torch.arange(len(axes))
    cut = boxes.middle[rows, axes]
    left, right = boxes.high.clone(), boxes.low.clone()
    left[rows, axes], right[rows, axes] = cut, cut
    return Interval(torch.cat([boxes.low, right]), torch.cat([left, boxes.high])), bounds.repeat(2)


# -- the certifier -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterBox(Certifier):
    """The lowest loss over a box of parameters, for networks of up to four parameters.

    With weight decay on all parameters the box holds every point whose penalty alone is not above the loss here, and
    so the lowest loss of all: the bound is global. Without, it holds within the box that the user names.

    Args:
        radius: largest change of any coordinate; None takes the box that weight decay gives.
        tolerance: relative distance of lower and upper bound at which the search ends.
        boxes: most boxes looked at.
    """

    name: ClassVar[str] = "parameter box"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "branch and bound with interval arithmetic (Hansen and Walster 2004)"
    stage: ClassVar[int] = 12

    radius: float | None = None
    tolerance: float = 0.01
    boxes: int = 100_000

    def __post_init__(self) -> None:
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise InvalidInputError(f"a radius is positive and finite, got {self.radius!r}")

    def work(self, case: Case) -> Work:
        """The enclosures of all boxes."""
        risk = case.data_term()
        if case.objective.space.size > LARGEST:
            raise NotApplicableError(f"it needs at most {LARGEST} parameters, there are {case.objective.space.size}")
        size = risk.n_samples * sum(a * b for a, b in zip(case.dense().widths, case.dense().widths[1:], strict=False))
        return Work(gradients=2, flops=2000.0 * self.boxes * size, bytes=8 * 60 * 2 * AT_ONCE * size)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Search the box."""
        network = case.dense()
        enclose = enclosure_of_loss(case, network)
        low, high, everywhere = self._box(case)
        found = search_box(enclose, low, high, tolerance=self.tolerance, boxes=self.boxes, stop=case.control.why_stop)
        hypotheses = [case.described, case.others_not_negative, everywhere]
        if not found.below > 0:
            return self.undecided("the boxes were not small enough to show a positive bound", hypotheses)
        where = "" if self.radius is None else f" within {self.radius:g} of these, in each coordinate,"
        evidence: dict[str, Tensor | float | str] = {"boxes": float(found.boxes)}
        reached = ""
        if all(isinstance(term, L2) for term in case.others):  # other terms are left out of the search
            evidence["upper bound"] = found.above
            reached = f", and some have one of {found.above:.8g} or less"
            if found.above < case.value.below:
                evidence["theta"] = found.point
        return self.claimed(
            f"no parameters{where} have a loss below {found.below:.8g}{reached}",
            level=Level.RIGOROUS,
            bound=found.below,
            hypotheses=hypotheses,
            evidence=evidence,
            scope=Scope.ARCHITECTURE if self.radius is None else Scope.BALL,
        )

    def _box(self, case: Case) -> tuple[Tensor, Tensor, Hypothesis]:
        center = case.theta.cpu()
        if self.radius is not None:
            low = torch.nextafter(center - self.radius, torch.full_like(center, -math.inf))
            high = torch.nextafter(center + self.radius, torch.full_like(center, math.inf))
            return low, high, Hypothesis("the parameters lie in the box", State.ASSUMED, note=f"radius {self.radius:g}")
        whole = [term for term in case.others if isinstance(term, L2) and bool((term.mask == 1).all())]
        decay = max(whole, key=lambda term: term.strength, default=None)
        if decay is None or not decay.strength > 0:
            raise NotApplicableError("it needs weight decay on all parameters, or a box: ParameterBox(radius=...)")
        # beyond it the penalty alone is above the loss here
        far = math.sqrt(2 * max(case.value.above, TINY) / decay.strength) * (1 + 1e-9)
        reach = torch.full_like(center, far)
        note = f"beyond {far:.4g} the weight decay alone is above the loss here"
        statement = "the lowest loss lies in the box searched"
        if case.value.level is not Level.RIGOROUS:
            note = "the loss here is known numerically only"
            return center, center, Hypothesis(statement, State.NOT_MET, note=note)
        middle = decay.center.cpu()
        slack = 4 * UNIT * (middle.abs() + reach)
        return middle - reach - slack, middle + reach + slack, Hypothesis(statement, State.PROVED, note=note)


register_certifier(ParameterBox())
