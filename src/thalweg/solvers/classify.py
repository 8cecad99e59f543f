"""The endgame: whether a point with a small gradient is a minimum, and if not, what it is.

A small gradient is necessary, not sufficient. A candidate is polished by pure Newton steps; where every direction then
has curvature enough to say that the minimum lies within `NEAR` of the point, it has converged. Every other direction is
walked along (`thalweg.solvers.valley`): it may rise or stay level (a degenerate minimum: converged), fall for ever ever
more slowly (an escape to infinity, which is named), or lead to a lower place (the search goes on there).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.local import LocalModel, measure
from thalweg.solvers.method import finite, max_norm
from thalweg.solvers.naming import gather, name_escape
from thalweg.solvers.polish import Polished, polish
from thalweg.solvers.ruling import Candidates, Ruling
from thalweg.solvers.soft_directions import directions, roughly, turns, walk_in_groups
from thalweg.solvers.status import Status
from thalweg.solvers.valley import Valley, ValleyShape

__all__ = ["Candidates", "Ruling", "is_small", "is_telling", "report", "rule_minimum", "stall_message"]

DECREMENT = 1e-9
"""A Newton decrement is small below this fraction of the value's scale (`Candidates.scale`)."""
RELATIVE = 100.0
"""A gradient is small beside the value when it is below this times the tolerance times the value's scale."""
KICKS = 8
"""How often a start may be sent on from a candidate before it counts as stalled."""
_LEVEL = 1e-13
"""Values closer than this fraction of their scale count as equal."""
_LENGTHS = 13
"""Lengths tried along a direction of negative curvature, from where the fall would be seen up to the size of theta."""


def rule_minimum(objective: Objective, given: Candidates, model: LocalModel | None = None) -> Ruling:
    """Polish candidates, and say of each what it is or where to go on.

    Args:
        objective: what is minimised.
        given: the candidates.
        model: measured there already.
    """
    model = measure(objective, given.theta) if model is None else model
    stationary = is_small(objective, model.theta, model.gradient_norm, model.rounding.floor, given.tolerance)
    stationary = is_telling(given, stationary, model.gradient_norm, model.rounding.floor)
    escape, lower = _leave_saddles(objective, model, stationary | given.stuck)
    polished = polish(objective, model)
    ruling = Ruling.of(polished)
    small, settled = _gates(objective, polished, given)
    telling = is_telling(given, small, polished.model.gradient_norm, polished.model.rounding.floor)
    doubtful = []
    for row in range(len(small)):
        if bool(lower[row]):
            _leave(objective, given, ruling, row, escape[row])
        elif bool(small[row]) and bool(settled[row]):
            ruling.end(row, Status.CONVERGED, report(polished, row, given.tolerance))
        elif bool(telling[row]) or bool(given.stuck[row]) or bool(given.slow[row]):
            doubtful.append(row)
    if doubtful:
        polished = roughly(polished, telling)
        _walk_doubtful(objective, given, polished, ruling, doubtful, telling)
    return ruling


def is_small(
    objective: Objective,
    theta: Float[Tensor, "b P"],
    norm: Float[Tensor, " b"],
    floor: Float[Tensor, " b"],
    tolerance: float,
) -> Bool[Tensor, " b"]:
    """Whether the gradient is at its tolerance or rounding floor.

    At a kink the gradient jumps between neighbours, which is no rounding: there the tolerance alone counts.
    """
    small = norm <= tolerance
    for row in (~small & (norm <= 2 * floor)).nonzero().squeeze(-1).tolist():
        kinks = objective.kinks(theta[row])
        resolution = 8 * torch.finfo(theta.dtype).eps * (1 + float(theta[row].abs().max()))
        small[row] = kinks.smooth or (not kinks.branches and kinks.margin > resolution)
    return small


def is_telling(
    given: Candidates, small: Bool[Tensor, " b"], norm: Float[Tensor, " b"], floor: Float[Tensor, " b"]
) -> Bool[Tensor, " b"]:
    """Whether a small gradient is small beside the value's scale, too, or the method has no step left.

    Only then do valleys tell minima from ways to infinity. The tolerance is absolute: of a loss multiplied by 1e-8
    every point may pass it, on any slope.
    """
    scale = given.scale.clamp(min=given.tolerance**2)
    return small & ((norm <= RELATIVE * given.tolerance * scale) | (norm <= 2 * floor) | given.stuck)


def _gates(objective: Objective, polished: Polished, given: Candidates) -> tuple[Tensor, Tensor]:
    """Whether the gradient is at tolerance or floor; whether all directions are resolved, the decrement small."""
    model = polished.model
    small = is_small(objective, model.theta, model.gradient_norm, model.rounding.floor, given.tolerance)
    settled = ~polished.soft.any(-1) & (polished.decrement <= _decrement_bound(given))
    return small, settled & ~polished.model.negative().any(-1)


def _decrement_bound(given: Candidates) -> Tensor:
    return DECREMENT * given.scale.clamp(min=given.tolerance)


def _leave_saddles(objective: Objective, model: LocalModel, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest point along the most negative eigenvector, both ways, and whether it is visibly lower."""
    theta, lower = model.theta.clone(), torch.zeros_like(model.value, dtype=torch.bool)
    rows = (asked & (model.eigenvalues[:, 0] < -0.1 * model.eigenvalue_noise[:, 0])).nonzero().squeeze(-1)
    if not len(rows):
        return theta, lower
    noise, unit = model.rounding.value[rows], 1 + theta[rows].norm(dim=-1)
    # parameters may be of any scale: the shortest step is the one whose fall stands just above rounding
    shortest = (32 * noise / model.eigenvalues[rows, 0].abs()).sqrt() / unit
    powers = torch.linspace(1, 0, _LENGTHS, dtype=theta.dtype, device=theta.device)
    lengths = shortest.clamp(min=1e-12, max=0.1)[:, None] ** powers
    moves = (unit[:, None] * torch.cat([lengths, -lengths], dim=-1))[:, :, None] * model.vectors[rows, :, 0][:, None]
    points = theta[rows][:, None] + moves
    values = finite(objective.value(points))
    best = values.argmin(-1)
    theta[rows] = points[torch.arange(len(rows), device=rows.device), best]
    lower[rows] = values.amin(-1) < model.value[rows] - 4 * noise
    return theta, lower


def _leave(objective: Objective, given: Candidates, ruling: Ruling, row: int, lower: Tensor) -> None:
    """From a saddle the search goes on at the lower point that was seen, unless it was sent on too often already."""
    if int(given.kicks[row]) < KICKS:
        ruling.send(row, lower)
    elif bool(given.stuck[row]):
        text = stall_message(objective, ruling.theta[row], ruling.gradient[row], ruling.floor[row])
        ruling.end(row, Status.STALLED, f"{text} A lower place is near, but going there has led back {KICKS} times.")


def _walk_doubtful(
    objective: Objective, given: Candidates, polished: Polished, ruling: Ruling, rows: list[int], small: Tensor
) -> None:
    """Walk along the soft directions of some rows and rule on them."""
    model = polished.model
    row, direction, size = directions(polished, given, rows)
    noise = torch.maximum(model.rounding.value, _LEVEL * given.scale)
    seen: dict[int, list[tuple[Valley, int]]] = {r: [] for r in rows}
    escaped = torch.zeros_like(given.stuck)
    for turn in turns(row):  # one way to infinity is enough: further directions are for those that have not shown any
        some = turn[~escaped[row[turn]]]
        for valley in walk_in_groups(objective, polished, row[some], direction[some], size[some], noise):
            for number, owner in enumerate(valley.row.tolist()):
                seen[owner].append((valley, number))
                ruling.hessians[owner] += valley.hessians[number]
                ruling.evaluations[owner] += valley.evaluations[number]
                escaped[owner] |= _shape(given, valley, number, owner) is ValleyShape.ESCAPE
    for r in rows:
        _rule_by_valleys(objective, given, polished, ruling, r, seen[r], bool(small[r]))


def _shape(given: Candidates, valley: Valley, number: int, row: int) -> ValleyShape:
    return valley.shape(number, DECREMENT * float(given.scale[row].clamp(min=given.tolerance)))


def _rule_by_valleys(
    objective: Objective,
    given: Candidates,
    polished: Polished,
    ruling: Ruling,
    row: int,
    seen: list[tuple[Valley, int]],
    small: bool,
) -> None:
    shapes = [_shape(given, valley, number, row) for valley, number in seen]
    for (valley, number), shape in zip(seen, shapes, strict=True):
        if shape is ValleyShape.ESCAPE:
            evidence = gather(objective, valley, number)
            ruling.end(
                row,
                name_escape(evidence),
                f"At the gradient {float(max_norm(ruling.gradient[row])):.2g}: {evidence.describe()}.",
            )
            return
    for (valley, number), shape in zip(seen, shapes, strict=True):
        if shape is ValleyShape.DESCENT and small and int(given.kicks[row]) < KICKS:
            ruling.send(row, valley.lowest(number))
            return
    known = bool(polished.model.known[row])
    decided = known and ValleyShape.DESCENT not in shapes and ValleyShape.UNDECIDED not in shapes
    if small and decided and float(polished.decrement[row]) <= float(_decrement_bound(given)[row]):
        ruling.end(row, Status.CONVERGED, report(polished, row, given.tolerance))
    elif bool(given.stuck[row]):
        text = stall_message(objective, ruling.theta[row], ruling.gradient[row], ruling.floor[row])
        if not known:
            text += " The Hessian is not finite here: what kind of point it is cannot be told."
        elif ValleyShape.UNDECIDED in shapes:
            text += " A soft direction could not be followed far enough to say where it leads."
        ruling.end(row, Status.STALLED, text)


def stall_message(objective: Objective, theta: Tensor, gradient: Tensor, floor: Tensor) -> str:
    """Why nothing moves, as far as it can be told: a kink nearby is the usual reason."""
    text = f"The gradient is {float(gradient.abs().max()):.2g}, its rounding floor {float(floor):.2g}."
    kinks = objective.kinks(theta)
    if not kinks.smooth:
        text += f" The loss is not smooth: {kinks.describe()}."
    return text


def report(polished: Polished, row: int, tolerance: float) -> str:
    """The evidence of convergence in one sentence."""
    model = polished.model
    norm, floor = float(model.gradient_norm[row]), float(model.rounding.floor[row])
    flat = int((model.eigenvalues[row].abs() <= model.eigenvalue_noise[row]).sum())
    text = f"Gradient {norm:.2g} (rounding floor {floor:.2g})"
    if norm > tolerance:
        text += f", which is that floor: the tolerance {tolerance:.2g} is out of reach here"
    text += f"; a Newton step would gain {float(polished.decrement[row]):.2g}"
    if flat:
        text += f"; {flat} direction(s) flat to rounding"
    elif bool(polished.soft[row].any()):
        text += (
            f"; {int(polished.soft[row].sum())} direction(s) too weakly curved to say where along them the minimum is"
        )
    return text + "."
