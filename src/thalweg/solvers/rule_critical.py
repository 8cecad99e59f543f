"""The endgame of searches for critical points of any kind."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.objectives import Objective
from thalweg.solvers.classify import Candidates, Ruling, is_small, is_telling, report, stall_message
from thalweg.solvers.classify_free import CONTRACTS, empty_ruling, escape_along
from thalweg.solvers.local import NEAR, measure, measure_rounding
from thalweg.solvers.method import finite, max_norm
from thalweg.solvers.minres import minres
from thalweg.solvers.naming import gather, name_escape
from thalweg.solvers.newton_cg import products_at
from thalweg.solvers.polish import Polished, polish
from thalweg.solvers.soft_directions import directions, roughly, walk_in_groups
from thalweg.solvers.status import Status
from thalweg.solvers.valley import ValleyShape

__all__ = ["rule_critical", "rule_critical_free"]

_LEVEL = 1e-13
_STEPS = 8


def rule_critical(objective: Objective, given: Candidates, index: int | None) -> Ruling:
    """Polish candidates by pure Newton steps, and say of each whether it is a critical point of the index wanted.

    Args:
        objective: what is searched.
        given: the candidates.
        index: wanted; None accepts any.
    """
    polished = polish(objective, measure(objective, given.theta), saddle=True)
    ruling, model = Ruling.of(polished), polished.model
    small = is_small(objective, model.theta, model.gradient_norm, model.rounding.floor, given.tolerance)
    telling = is_telling(given, small, model.gradient_norm, model.rounding.floor)
    doubtful = []
    for row in range(len(small)):
        wrong = index is not None and not _has_index(ruling, row, index)
        if bool(small[row]) and not wrong and not bool(polished.soft[row].any()):
            ruling.end(row, Status.CONVERGED, _report(polished, ruling, row, given.tolerance))
        elif (bool(telling[row]) or bool(given.stuck[row]) or bool(given.slow[row])) and not wrong:
            doubtful.append(row)
        elif bool(given.stuck[row]):
            ruling.end(row, Status.STALLED, _stalled(objective, ruling, row, index))
    if doubtful:
        _walk(objective, given, roughly(polished, telling, saddle=True), ruling, doubtful, telling)
    return ruling


def rule_critical_free(objective: Objective, given: Candidates) -> Ruling:
    """The same with products of the Hessian only: a point is near when Newton steps by MINRES contract towards it.

    Args:
        objective: what is searched.
        given: the candidates.
    """
    found = objective.evaluate(given.theta, 1)
    assert found.gradient is not None
    theta, value, gradient = given.theta.clone(), finite(found.value), found.gradient.clone()
    rounding = measure_rounding(objective, theta, value, gradient)
    noise = rounding.changes.norm(dim=-1).amax(-1)
    ruling = empty_ruling(theta, value, gradient, rounding.floor)
    length, ratio = torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    active = torch.arange(len(theta), device=theta.device)
    for _ in range(_STEPS):
        share = noise[active] / gradient[active].norm(dim=-1).clamp(min=torch.finfo(value.dtype).tiny)
        step, _, products = minres(
            products_at(objective, theta[active]),
            -gradient[active],
            tolerance=share.clamp(min=1e-6),
            limit=min(4 * theta.shape[-1], 2000),
        )
        ruling.hessians[active] += products
        ruling.evaluations[active] += 1
        new = step.norm(dim=-1)
        ratio[active], length[active] = new / length[active], new
        ruling.decrement[active] = (step * gradient[active]).sum(-1).abs() / 2
        trial = objective.evaluate(theta[active] + step, 1)
        assert trial.gradient is not None
        good = max_norm(trial.gradient) < 0.9 * max_norm(gradient[active])
        rows = active[good]
        theta[rows], value[rows], gradient[rows] = theta[rows] + step[good], trial.value[good], trial.gradient[good]
        active = rows[max_norm(gradient[rows]) > rounding.floor[rows]]
        if not len(active):
            break
    norm, unit = max_norm(gradient), 1 + theta.abs().amax(-1)
    small = is_small(objective, theta, norm, rounding.floor, given.tolerance)
    telling = is_telling(given, small, norm, rounding.floor)
    near = (length <= NEAR * unit) | ((ratio < CONTRACTS) & (length * ratio / (1 - ratio) <= 1e-2 * unit))
    for row in range(len(norm)):
        if not (bool(small[row]) or bool(given.stuck[row]) or bool(given.slow[row])):
            continue
        looked = bool(telling[row]) or bool(given.stuck[row]) or bool(given.slow[row])
        escape = escape_along(objective, given, ruling, row, rounding) if looked else None
        if escape is not None:
            ruling.end(row, *escape)
        elif bool(small[row] & near[row]):
            floor = float(rounding.floor[row])
            text = f"Gradient {float(norm[row]):.2g} (rounding floor {floor:.2g}); the index was not counted."
            ruling.end(row, Status.CONVERGED, text)
        elif bool(given.stuck[row]):
            ruling.end(row, Status.STALLED, _stalled(objective, ruling, row, None))
    return ruling


def _walk(
    objective: Objective, given: Candidates, polished: Polished, ruling: Ruling, rows: list[int], small: Tensor
) -> None:
    """Walk along the soft directions, staying stationary in all others; an escape may go up as well as down."""
    model = polished.model
    row, direction, size = directions(polished, given, rows, saddle=True)
    noise = torch.maximum(model.rounding.value, _LEVEL * given.scale)
    shapes: dict[int, list[ValleyShape]] = {r: [] for r in rows}
    for valley in walk_in_groups(objective, polished, row, direction, size, noise, saddle=True):
        for number, owner in enumerate(valley.row.tolist()):
            ruling.hessians[owner] += valley.hessians[number]
            ruling.evaluations[owner] += valley.evaluations[number]
            pair = {seen: seen.shape(number, float("inf")) for seen in (valley, valley.mirrored())}
            # risen or fallen and then turned: either way something bounds the walk
            shapes[owner].append(min(pair.values(), key=lambda shape: shape is ValleyShape.UNDECIDED))
            for seen, shape in pair.items():
                if shape is ValleyShape.ESCAPE and ruling.status[owner] is None:
                    evidence = gather(objective, seen, number)
                    name = name_escape(evidence) if seen is valley else Status.GROWTH
                    ruling.end(owner, name, f"On the way to infinity: {evidence.describe()}.")
    for r in rows:
        if ruling.status[r] is not None:
            continue
        if bool(small[r] & model.known[r]) and ValleyShape.UNDECIDED not in shapes[r]:
            ruling.end(r, Status.CONVERGED, _report(polished, ruling, r, given.tolerance))
        elif bool(given.stuck[r]):
            ruling.end(r, Status.STALLED, _stalled(objective, ruling, r, None))


def _has_index(ruling: Ruling, row: int, index: int) -> bool:
    """Whether the index can be the one wanted, given the eigenvalues that rounding leaves undecided."""
    least = int(ruling.index[row])
    return least <= index <= least + int(ruling.undecided[row])


def _report(polished: Polished, ruling: Ruling, row: int, tolerance: float) -> str:
    return f"{report(polished, row, tolerance)[:-1]}; index {int(ruling.index[row])}."


def _stalled(objective: Objective, ruling: Ruling, row: int, index: int | None) -> str:
    text = stall_message(objective, ruling.theta[row], ruling.gradient[row], ruling.floor[row])
    if index is not None:
        text += f" The index here is {int(ruling.index[row])}, {index} was wanted."
    return text
