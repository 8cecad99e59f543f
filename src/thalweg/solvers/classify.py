"""The endgame: whether a point with a small gradient is a minimum, and if not, what it is.

A small gradient is necessary, not sufficient. A candidate is polished by pure Newton steps; where every direction then
has curvature enough to say that the minimum lies within `NEAR` of the point, it has converged. Every other direction is
walked along (`thalweg.solvers.valley`): it may rise or stay level (a degenerate minimum: converged), fall for ever ever
more slowly (an escape to infinity, which is named), or lead to a lower place (the search goes on there).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.foundation import current_limit
from thalweg.objectives import Objective
from thalweg.solvers.local import NEAR, LocalModel, measure
from thalweg.solvers.method import finite, max_norm
from thalweg.solvers.naming import gather, name_escape
from thalweg.solvers.polish import Polished, polish
from thalweg.solvers.status import Status
from thalweg.solvers.valley import Valley, ValleyShape, walk

__all__ = [
    "Candidates",
    "Ruling",
    "directions",
    "is_small",
    "report",
    "roughly",
    "rule_minimum",
    "stall_message",
    "walk_in_groups",
]

DECREMENT = 1e-9
"""A Newton decrement is small below this fraction of the value's scale (`Candidates.scale`)."""
KICKS = 8
"""How often a start may be sent on from a candidate before it counts as stalled."""
_FAR = 0.05
_LEVEL = 1e-13
"""Values closer than this fraction of their scale count as equal."""


@dataclass(frozen=True)
class Candidates:
    """Points that may be the end of a search.

    Attributes:
        theta: ``(b, P)``.
        scale: ``(b,)``, the value's scale: the larger of its size and its decrease since the start.
        anchor: ``(b, P)``, where the search was about half its iterations ago.
        stuck: ``(b,)``, the method has no step left; such a row must be given a status.
        slow: ``(b,)``, the value has hardly fallen for half of all iterations: is it on its way to infinity?
        kicks: ``(b,)``, how often it was sent on already.
        tolerance: for the maximum norm of the gradient.
    """

    theta: Float[Tensor, "b P"]
    scale: Float[Tensor, " b"]
    anchor: Float[Tensor, "b P"]
    stuck: Bool[Tensor, " b"]
    slow: Bool[Tensor, " b"]
    kicks: Int[Tensor, " b"]
    tolerance: float


@dataclass
class Ruling:
    """What the endgame found in each row; rows without a status go on from `theta`.

    `moved` marks rows that were sent elsewhere.
    """

    theta: Float[Tensor, "b P"]
    value: Float[Tensor, " b"]
    gradient: Float[Tensor, "b P"]
    floor: Float[Tensor, " b"]
    decrement: Float[Tensor, " b"]
    index: Int[Tensor, " b"]
    undecided: Int[Tensor, " b"]
    evaluations: Int[Tensor, " b"]
    hessians: Int[Tensor, " b"]
    moved: Bool[Tensor, " b"]
    status: list[Status | None]
    message: list[str]

    @classmethod
    def of(cls, polished: Polished) -> Ruling:
        """The measurements after polishing, nothing ruled yet."""
        model = polished.model
        curved = model.eigenvalues.abs() > model.eigenvalue_noise
        count = len(model.value)
        return cls(
            theta=model.theta.clone(),
            value=model.value,
            gradient=model.gradient,
            floor=model.rounding.floor,
            decrement=polished.decrement,
            index=model.negative().sum(-1),
            undecided=(~curved).sum(-1),
            evaluations=polished.evaluations + 4,
            hessians=polished.hessians + 1,
            moved=torch.zeros(count, dtype=torch.bool, device=model.value.device),
            status=[None] * count,
            message=[""] * count,
        )

    def end(self, row: int, status: Status, message: str) -> None:
        """Give a row its status."""
        self.status[row], self.message[row] = status, message

    def send(self, row: int, theta: Tensor) -> None:
        """Let a row go on elsewhere."""
        self.theta[row], self.moved[row] = theta, True


def rule_minimum(objective: Objective, given: Candidates, model: LocalModel | None = None) -> Ruling:
    """Polish candidates, and say of each what it is or where to go on.

    Args:
        objective: what is minimised.
        given: the candidates.
        model: measured there already.
    """
    model = measure(objective, given.theta) if model is None else model
    stationary = is_small(objective, model.theta, model.gradient_norm, model.rounding.floor, given.tolerance)
    escape, lower = _leave_saddles(objective, model, stationary | given.stuck)
    polished = polish(objective, model)
    ruling = Ruling.of(polished)
    norm, small, settled = _gates(objective, polished, given)
    doubtful = []
    for row in range(len(norm)):
        if bool(lower[row]) and int(given.kicks[row]) < KICKS:
            ruling.send(row, escape[row])
        elif bool(small[row]) and bool(settled[row]):
            ruling.end(row, Status.CONVERGED, report(polished, row, given.tolerance))
        elif bool(small[row]) or bool(given.stuck[row]) or bool(given.slow[row]):
            doubtful.append(row)
    if doubtful:
        polished = roughly(polished, small)
        _walk_doubtful(objective, given, polished, ruling, doubtful, small)
    return ruling


def roughly(polished: Polished, small: Tensor, *, saddle: bool = False) -> Polished:
    """Where the gradient is not small yet, only the directions along which the critical point is far count as soft."""
    # far from the point the step foretells nothing about the eigenvalues there: what they are here is what counts
    here = replace(polished.model, drift=torch.zeros_like(polished.model.drift))
    _, _, far = here.newton_step(both_signs=saddle, near=_FAR)
    return replace(polished, soft=torch.where(small[:, None], polished.soft, far))


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


def _gates(objective: Objective, polished: Polished, given: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient norm; whether it is at tolerance or floor; whether all directions are resolved, the decrement small."""
    model = polished.model
    norm = model.gradient_norm
    small = is_small(objective, model.theta, norm, model.rounding.floor, given.tolerance)
    settled = ~polished.soft.any(-1) & (polished.decrement <= _decrement_bound(given))
    return norm, small, settled & ~polished.model.negative().any(-1)


def _decrement_bound(given: Candidates) -> Tensor:
    return DECREMENT * given.scale.clamp(min=given.tolerance)


def _leave_saddles(objective: Objective, model: LocalModel, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest point along the most negative eigenvector, both ways, and whether it is visibly lower."""
    theta, lower = model.theta.clone(), torch.zeros_like(model.value, dtype=torch.bool)
    rows = (asked & (model.eigenvalues[:, 0] < -0.1 * model.eigenvalue_noise[:, 0])).nonzero().squeeze(-1)
    if not len(rows):
        return theta, lower
    lengths = torch.logspace(-5, 0, 11, dtype=theta.dtype, device=theta.device)
    lengths = torch.cat([lengths, -lengths])
    unit = 1 + theta[rows].norm(dim=-1)
    moves = lengths[:, None] * unit[:, None, None] * model.vectors[rows, :, 0][:, None]
    points = theta[rows][:, None] + moves
    values = finite(objective.value(points))
    best = values.argmin(-1)
    theta[rows] = points[torch.arange(len(rows), device=rows.device), best]
    lower[rows] = values.amin(-1) < model.value[rows] - 4 * model.rounding.value[rows]
    return theta, lower


def _walk_doubtful(
    objective: Objective, given: Candidates, polished: Polished, ruling: Ruling, rows: list[int], small: Tensor
) -> None:
    """Walk along the soft directions of some rows and rule on them."""
    model = polished.model
    row, direction, size = directions(polished, given, rows)
    noise = torch.maximum(model.rounding.value, _LEVEL * given.scale)
    valleys = walk_in_groups(objective, polished, row, direction, size, noise)
    seen: dict[int, list[tuple[Valley, int]]] = {r: [] for r in rows}
    for valley in valleys:
        for number, owner in enumerate(valley.row.tolist()):
            seen[owner].append((valley, number))
            ruling.hessians[owner] += valley.hessians[number]
            ruling.evaluations[owner] += valley.evaluations[number]
    for r in rows:
        _rule_by_valleys(objective, given, polished, ruling, r, seen[r], bool(small[r]))


def directions(
    polished: Polished, given: Candidates, rows: list[int], *, saddle: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a row might escape: its own soft part, its Newton step, its trend; else its softest eigenvector.

    Returns:
        For m directions: the row of each ``(m,)``, unit vectors ``(m, P)``, and units of distance ``(m,)``.
    """
    model = polished.model
    step, _, _ = model.newton_step(both_signs=saddle)
    softest = model.eigenvalues.abs().argmin(-1) if saddle else torch.zeros_like(model.value, dtype=torch.int64)
    last = model.vectors.gather(-1, softest[:, None, None].expand(-1, model.vectors.shape[-1], 1)).squeeze(-1)
    onto = polished.soft
    trend = model.theta - given.anchor
    grew = (trend.norm(dim=-1) > 0.2 * model.theta.norm(dim=-1))[:, None]
    far = (step.norm(dim=-1) > NEAR * (1 + model.theta.abs().amax(-1)))[:, None]
    offers = [
        model.project(model.theta, onto),
        torch.where(far, model.project(step, onto), torch.zeros_like(step)),
        torch.where(grew, model.project(trend, onto), torch.zeros_like(trend)),
    ]
    owner, chosen, sizes = [], [], []
    for r in rows:
        unit = 1 + float(model.theta[r].abs().max())
        kept: list[Tensor] = []
        for vectors in (*offers, last):
            if vectors is last and kept:
                continue
            length = float(vectors[r].norm())
            direction = vectors[r] / max(length, 1e-300)
            fresh = all(abs(float(direction @ other)) < 0.9 for other in kept)
            if length > 1e-6 * unit and fresh:
                kept.append(direction)
                owner.append(r)
                chosen.append(direction)
                sizes.append(max(abs(float(model.theta[r] @ direction)), 0.1 * unit))
    device = model.theta.device
    return (
        torch.tensor(owner, device=device),
        torch.stack(chosen),
        torch.tensor(sizes, dtype=model.theta.dtype, device=device),
    )


def walk_in_groups(
    objective: Objective,
    polished: Polished,
    row: Tensor,
    direction: Tensor,
    size: Tensor,
    noise: Tensor,
    *,
    saddle: bool = False,
) -> list[Valley]:
    """Walk along as many directions at once as memory allows."""
    model, soft = polished.model, polished.soft
    one = 60 * model.theta.element_size() * model.theta.shape[-1] ** 2
    group = max(1, current_limit() // 2 // one)
    return [
        walk(objective, model, soft, row[part], direction[part], size[part], noise, saddle=saddle)
        for part in (slice(i, i + group) for i in range(0, len(row), group))
    ]


def _rule_by_valleys(
    objective: Objective,
    given: Candidates,
    polished: Polished,
    ruling: Ruling,
    row: int,
    seen: list[tuple[Valley, int]],
    small: bool,
) -> None:
    scale = float(given.scale[row].clamp(min=given.tolerance))
    shapes = [valley.shape(number, DECREMENT * scale) for valley, number in seen]
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
    decided = ValleyShape.DESCENT not in shapes and ValleyShape.UNDECIDED not in shapes
    if small and decided and float(polished.decrement[row]) <= float(_decrement_bound(given)[row]):
        ruling.end(row, Status.CONVERGED, report(polished, row, given.tolerance))
    elif bool(given.stuck[row]):
        text = stall_message(objective, ruling.theta[row], ruling.gradient[row], ruling.floor[row])
        if ValleyShape.UNDECIDED in shapes:
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
