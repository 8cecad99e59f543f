"""What the point is, from what was measured; and nothing more than that."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.inspection.records import Curvature, FlatGroup, Point
from thalweg.inspection.verdict import Kind
from thalweg.objectives import Objective
from thalweg.solvers import Status
from thalweg.solvers.classify import KICKS, Candidates, rule_minimum

__all__ = ["TOLERANCE", "Judgement", "judge_point", "parameter_size", "relative_gradient"]

TOLERANCE = 1e-8
"""A point is stationary when ``||g|| <= TOLERANCE * ||H|| * size``, with the size of the parameters: their norm, or the
distance ``sqrt(2 |L| / ||H||)`` at which curvature changes the loss L by its own amount, whichever is larger. A
critical point then lies within that fraction of the size along every stiff direction. The test does not change when the
loss or the parameters are measured in other units."""

Judgement = tuple[Kind, tuple[str, ...]]


def parameter_size(point: Point, curvature: Curvature) -> float:
    """The size of the parameters as `TOLERANCE` means it; zero where both parameters and loss are."""
    bent = (2 * abs(point.value) / curvature.scale) ** 0.5 if curvature.scale > 0 else 0.0
    return max(point.theta_norm, bent)


def relative_gradient(point: Point, curvature: Curvature | None) -> float:
    """``||g|| / (||H|| size)``, infinite where the curvature is not known or vanishes while the gradient does not."""
    if point.gradient_length == 0:
        return 0.0
    if curvature is None or curvature.scale == 0:
        return float("inf")
    size = parameter_size(point, curvature)
    return point.gradient_length / (curvature.scale * size) if size > 0 else float("inf")


def judge_point(
    objective: Objective,
    theta: Float[Tensor, " P"],
    point: Point,
    curvature: Curvature | None,
    flat: tuple[FlatGroup, ...],
    tolerance: float,
    *,
    thorough: bool = True,
) -> Judgement:
    """Name the kind of point and say why.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        point: value and gradient there.
        curvature: the spectrum; None where it was not reached.
        flat: directions found not to change the loss.
        tolerance: of `relative_gradient`.
        thorough: whether there is time to walk along soft directions, without which no minimum is told from a channel.
    """
    relative = relative_gradient(point, curvature)
    at_floor = point.gradient_norm <= point.gradient_floor
    if relative > tolerance and not at_floor:
        if curvature is None:
            return Kind.UNDECIDED, (
                f"the gradient is {point.gradient_norm:.3g}, but the curvature it must be compared with "
                "was not measured",
            )
        size = parameter_size(point, curvature)
        limit = tolerance * curvature.scale * size
        why = f"the gradient has length {point.gradient_length:.3g}; it counts as zero below {limit:.2g}, which is "
        return Kind.NOT_STATIONARY, (
            why + f"{tolerance:g} of the largest curvature {curvature.scale:.3g} times the parameters' size {size:.3g}",
        )
    if point.kinks.operations and point.kinks.order == 1 and point.kinks.margin <= 1e-12 * max(1.0, point.theta_norm):
        return Kind.UNDECIDED, (
            f"the point lies on a kink ({point.kinks.describe()}), where second derivatives say nothing",
        )
    if curvature is None:
        return Kind.UNDECIDED, ("the gradient vanishes, but the curvature was not measured",)
    if curvature.lowest.negative and curvature.lowest.value < -_shift(curvature):
        low = curvature.lowest
        count = curvature.inertia.negative if curvature.inertia is not None else None
        how_many = f"{count} negative eigenvalues" if count else "at least one negative eigenvalue"
        return Kind.SADDLE, (f"{how_many}; {low.describe()}",)
    if not curvature.dense:
        return Kind.UNDECIDED, (
            "no negative curvature was found, but an iterative method can never prove that there is none: "
            f"{curvature.lowest.describe()}",
        )
    if not thorough:
        return Kind.UNDECIDED, (
            "no negative curvature was found, but there was no time to see whether the loss falls for ever along "
            "directions without curvature",
        )
    return _judge_without_descent(objective, theta, point, curvature, flat)


def _shift(curvature: Curvature) -> float:
    return curvature.inertia.threshold if curvature.inertia is not None else 0.0


def _judge_without_descent(
    objective: Objective, theta: Tensor, point: Point, curvature: Curvature, flat: tuple[FlatGroup, ...]
) -> Judgement:
    """No negative curvature: a minimum, a way to infinity, or something that cannot be told."""
    inertia = curvature.inertia
    assert inertia is not None
    status, message = _endgame(objective, theta, point)
    if status is not None and status.escapes:
        return Kind.CHANNEL, (f"{status.value}: {status.sentence}", message)
    if inertia.undecided:
        return Kind.UNDECIDED, inertia.reasons
    if inertia.zero == 0:
        return Kind.STRICT_MINIMUM, (f"all {inertia.positive} eigenvalues are positive beyond {inertia.threshold:.2g}",)
    if inertia.explained == inertia.zero and status is Status.CONVERGED:
        kinds = ", ".join(f"{group.dimension} by {group.kind}" for group in flat)
        return Kind.DEGENERATE_MINIMUM, (f"{inertia.positive} positive eigenvalues; {inertia.zero} zero ones: {kinds}",)
    unexplained = inertia.zero - inertia.explained
    reasons = [f"{unexplained} of {inertia.zero} zero eigenvalues are not explained by any direction shown to be flat"]
    if status is not Status.CONVERGED and message:
        reasons.append(message)
    return Kind.UNDECIDED, tuple(reasons)


def _endgame(objective: Objective, theta: Tensor, point: Point) -> tuple[Status | None, str]:
    """Ask the solvers' endgame whether the soft directions rise, stay level, or fall for ever."""
    one = torch.ones(1, dtype=torch.int64, device=theta.device)
    ruling = rule_minimum(
        objective,
        Candidates(
            theta=theta[None],
            scale=theta.new_tensor([max(abs(point.value), torch.finfo(theta.dtype).tiny)]),
            anchor=theta[None],
            stuck=one.bool(),
            slow=~one.bool(),
            kicks=KICKS * one,
            tolerance=max(point.gradient_norm, point.gradient_floor),
        ),
    )
    return ruling.status[0], ruling.message[0]
