"""The endgame where the Hessian is too large to be formed: only products with it are used.

What can be known is less: flat directions without slope are not seen, so of degenerate minima it is only said that
Newton steps contract. Escapes are told by Newton steps that do not, and by the values along the trend of the search.
Negative curvature is looked for by a few Lanczos steps from a random vector: conjugate gradients start from the
gradient, and see none that a symmetry of the network hides from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.foundation import RunControl, progress_bar
from thalweg.objectives import Objective
from thalweg.solvers.classify import DECREMENT, KICKS, Candidates, Ruling, is_small, is_telling, stall_message
from thalweg.solvers.local import NEAR, Rounding, measure_rounding
from thalweg.solvers.method import finite, max_norm
from thalweg.solvers.naming import gather, name_escape
from thalweg.solvers.newton_cg import Truncated, products_at, steihaug
from thalweg.solvers.status import Status
from thalweg.solvers.valley import STOPS, Valley, ValleyShape
from thalweg.solvers.watch import checkpoint, watched
from thalweg.tangent import extreme_eigenpairs

__all__ = ["CONTRACTS", "empty_ruling", "escape_along", "rule_minimum_free"]

_STEPS = 8
_INNER = 500
_LANCZOS = 40
CONTRACTS = 0.9


def rule_minimum_free(objective: Objective, given: Candidates) -> Ruling:
    """Polish candidates by truncated Newton steps, and say of each what it is or where to go on.

    Args:
        objective: what is minimised.
        given: the candidates.
    """
    ruling, rounding, length, ratio, negative, step = _polish_free(objective, given)
    norm = max_norm(ruling.gradient)
    small = is_small(objective, ruling.theta, norm, rounding.floor, given.tolerance)
    telling = is_telling(given, small, norm, rounding.floor)
    unit = 1 + ruling.theta.abs().amax(-1)
    near = (length <= NEAR * unit) | ((ratio < CONTRACTS) & (length * ratio / (1 - ratio) <= 1e-2 * unit))
    gain = ruling.decrement <= DECREMENT * given.scale.clamp(min=given.tolerance)
    for row in range(len(norm)):
        looked = bool(telling[row]) or bool(given.stuck[row]) or bool(given.slow[row])
        lower = _lower_along(objective, ruling, row, step[row], rounding) if looked and bool(negative[row]) else None
        if lower is not None and int(given.kicks[row]) < KICKS:
            ruling.send(row, lower)
            continue
        if not (bool(small[row]) or bool(given.stuck[row]) or bool(given.slow[row])):
            continue
        escape = escape_along(objective, given, ruling, row, rounding) if looked else None
        if escape is not None:
            ruling.end(row, *escape)
        elif bool(small[row] & near[row] & gain[row] & ~negative[row]):
            _converge(objective, given, ruling, row, rounding)
        elif bool(telling[row]) and float(ratio[row]) >= CONTRACTS:
            ruling.end(row, Status.GROWTH, f"Newton steps of length {float(length[row]):.2g} do not contract.")
        elif bool(given.stuck[row]):
            ruling.end(
                row,
                Status.STALLED,
                stall_message(objective, ruling.theta[row], ruling.gradient[row], rounding.floor[row]),
            )
    return ruling


def _converge(objective: Objective, given: Candidates, ruling: Ruling, row: int, rounding: Rounding) -> None:
    """Close a row as converged, unless a random vector leads to negative curvature and along it to a lower place."""
    downward = _negative_curvature(objective, ruling, row)
    lower = None if downward is None else _lower_along(objective, ruling, row, downward, rounding)
    if lower is None:
        norm, floor = float(max_norm(ruling.gradient[row])), float(rounding.floor[row])
        text = f"Gradient {norm:.2g} (rounding floor {floor:.2g}); a Newton step would gain "
        gain = max(0.0, float(ruling.decrement[row]))
        ruling.end(row, Status.CONVERGED, f"{text}{gain:.2g}; flat directions were not looked for.")
    elif int(given.kicks[row]) < KICKS:
        ruling.send(row, lower)
    elif bool(given.stuck[row]):
        text = stall_message(objective, ruling.theta[row], ruling.gradient[row], rounding.floor[row])
        ruling.end(row, Status.STALLED, f"{text} A lower place is near, but going there has led back {KICKS} times.")


def _negative_curvature(objective: Objective, ruling: Ruling, row: int) -> Tensor | None:
    """A direction of negative curvature as long as theta, if Lanczos finds one that stands above rounding."""
    theta = ruling.theta[row]
    with progress_bar("", show=False) as silent:
        found = extreme_eigenpairs(
            objective.hessian_operator(theta),
            tolerance=1e-3,
            max_products=_LANCZOS,
            dense_below=0,
            control=watched() or RunControl(),
            progress=silent,
        )
    ruling.hessians[row] += found.products
    checkpoint()
    if found.reason == "interrupted":  # from the keyboard: it is the search that ends
        raise KeyboardInterrupt
    return found.vectors[:, 0] * (1 + theta.norm()) if found.lowest.negative else None


def _polish_free(objective: Objective, given: Candidates) -> tuple[Ruling, Rounding, Tensor, Tensor, Tensor, Tensor]:
    """Truncated Newton steps while they lower the gradient; their last length and ratio, any negative curvature."""
    theta = given.theta.clone()
    found = objective.evaluate(theta, 1)
    assert found.gradient is not None
    value, gradient = finite(found.value), found.gradient
    rounding = measure_rounding(objective, theta, value, gradient)
    b = len(theta)
    ratio, length = torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    decrement, step = torch.full_like(value, torch.nan), torch.zeros_like(theta)
    negative = torch.zeros(b, dtype=torch.bool, device=theta.device)
    evaluations = torch.full((b,), 4, dtype=torch.int64, device=theta.device)
    hessians = torch.zeros_like(evaluations)
    active = torch.arange(b, device=theta.device)
    for _ in range(_STEPS):
        found_step = _newton(objective, theta[active], gradient[active], rounding.take(active))
        hessians[active] += found_step.products
        new_length = found_step.step.norm(dim=-1)
        ratio[active] = new_length / length[active]
        length[active], decrement[active] = new_length, found_step.predicted
        step[active], negative[active] = found_step.step, found_step.negative
        trial = theta[active] + found_step.step
        found = objective.evaluate(trial, 1)
        assert found.gradient is not None
        evaluations[active] += 1
        good = (max_norm(found.gradient) < 0.9 * max_norm(gradient[active])) & ~found_step.negative
        good &= finite(found.value) <= value[active] + rounding.value[active]
        rows = active[good]
        theta[rows], value[rows], gradient[rows] = trial[good], found.value[good], found.gradient[good]
        active = rows[max_norm(gradient[rows]) > rounding.floor[rows]]
        if not len(active):
            break
    ruling = empty_ruling(theta, value, gradient, rounding.floor)
    ruling.decrement, ruling.evaluations, ruling.hessians = decrement, evaluations, hessians
    return ruling, rounding, length, ratio, negative, step


def empty_ruling(theta: Tensor, value: Tensor, gradient: Tensor, floor: Tensor) -> Ruling:
    """Measurements without a spectrum, nothing ruled yet."""
    count = len(theta)
    unknown = torch.full((count,), -1, dtype=torch.int64, device=theta.device)
    return Ruling(
        theta=theta,
        value=value,
        gradient=gradient,
        floor=floor,
        decrement=torch.full_like(value, torch.nan),
        index=unknown,
        undecided=unknown.clone(),
        evaluations=unknown + 5,
        hessians=unknown + 1,
        moved=torch.zeros(count, dtype=torch.bool, device=theta.device),
        status=[None] * count,
        message=[""] * count,
    )


def _newton(objective: Objective, theta: Tensor, gradient: Tensor, rounding: Rounding) -> Truncated:
    """A Newton step solved as exactly as rounding of the gradient allows."""
    goal = torch.maximum(1e-4 * gradient.norm(dim=-1), rounding.changes.norm(dim=-1).amax(-1))
    radius = 1 + theta.norm(dim=-1)
    return steihaug(products_at(objective, theta), gradient, radius, goal, min(2 * theta.shape[-1], _INNER))


def _lower_along(objective: Objective, ruling: Ruling, row: int, step: Tensor, rounding: Rounding) -> Tensor | None:
    """The lowest point along a direction of negative curvature, if it is visibly lower."""
    lengths = torch.logspace(-9, 0, 19, dtype=step.dtype, device=step.device)
    points = ruling.theta[row] + torch.cat([lengths, -lengths])[:, None] * step
    values = finite(objective.value(points))
    best = int(values.argmin())
    return points[best] if float(values[best]) < float(ruling.value[row] - 4 * rounding.value[row]) else None


def escape_along(
    objective: Objective, given: Candidates, ruling: Ruling, row: int, rounding: Rounding
) -> tuple[Status, str] | None:
    """Look along the trend of the search and along theta itself, without relaxing the other directions."""
    theta = ruling.theta[row]
    unit = float(1 + theta.abs().max())
    at = torch.tensor(STOPS, dtype=theta.dtype, device=theta.device)
    noise = torch.maximum(rounding.value[row], 1e-13 * given.scale[row]).reshape(1)
    for vector in (theta - given.anchor[row], theta):
        length = float(vector.norm())
        if length <= 1e-6 * unit:
            continue
        direction = vector / length
        size = max(abs(float(theta @ direction)), 0.1 * unit)
        points = theta + size * at[:, None] * direction
        ruling.evaluations[row] += len(at)
        valley = Valley(
            row=torch.tensor([row]),
            direction=direction[None],
            size=at.new_tensor([size]),
            theta=points[None],
            value=finite(objective.value(points))[None],
            reached=torch.ones(1, len(at), dtype=torch.bool),
            noise=noise.expand(1, len(at)),
            bent=torch.zeros(1, dtype=torch.bool),
            barred=torch.zeros(1, dtype=torch.bool),
            walked=at[-1:],
            smooth=torch.ones(1, dtype=torch.bool),
            evaluations=torch.zeros(1, dtype=torch.int64),
            hessians=torch.zeros(1, dtype=torch.int64),
        )
        if valley.shape(0, 0.0) is ValleyShape.ESCAPE:
            evidence = gather(objective, valley, 0)
            return name_escape(evidence), f"Along the trend of the search: {evidence.describe()}."
    return None
