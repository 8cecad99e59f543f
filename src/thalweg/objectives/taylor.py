"""Higher directional derivatives along a line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, InvalidInputError, NotApplicableError, first_line, plan_passes
from thalweg.objectives.objective import Objective, sum_of
from thalweg.objectives.paths import agree, quiet
from thalweg.objectives.restriction import RestrictedObjective
from thalweg.objectives.sums import SumObjective

__all__ = ["taylor"]

Line = Callable[[Tensor], Tensor]
Route = Literal["forward, all rows at once", "forward", "reverse"]
ROUTES: tuple[Route, ...] = ("forward, all rows at once", "forward", "reverse")


def taylor(
    objective: Objective, theta: Float[Tensor, "*#batch P"], direction: Float[Tensor, "*#batch P"], order: int = 4
) -> Float[Tensor, "*batch {order}+1"]:
    """Derivatives of ``t -> objective(theta + t * direction)`` at zero, of order 0 to `order`.

    The k-th entry is the k-th derivative, k! times the Taylor coefficient. The direction is taken as it is, not
    normalised. Before a route is taken, its derivatives on a few samples are held against differences of those of one
    order less: torch's own third derivatives are not all right.

    Args:
        objective: any objective.
        theta: ``(*batch, P)``.
        direction: broadcast against `theta`.
        order: 0 to 4.

    Returns:
        ``(*batch, order + 1)``.

    Raises:
        InvalidInputError: for an order outside 0 to 4, or shapes that do not fit.
        NotApplicableError: where the objective cannot be differentiated that often.

    >>> from thalweg.objectives import Penalty
    >>> from thalweg.foundation import ParameterSpace
    >>> quartic = Penalty(ParameterSpace({"x": ()}), lambda p: p["x"] ** 4, name="x^4")
    >>> taylor(quartic, torch.tensor([1.0]), torch.tensor([1.0]))
    tensor([ 1.,  4., 12., 24., 24.], dtype=torch.float64)
    """
    if order not in range(5):
        raise InvalidInputError(f"order must be 0 to 4, got {order!r}")
    rows, directions, batch = _both(objective, theta, direction)
    with quiet():
        return _of_rows(objective, rows, directions, order).reshape(*batch, order + 1)


def _both(objective: Objective, theta: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Both as ``(b, P)``, repeated over the batch of the other."""
    (rows, batch), (directions, other) = objective._rows(theta), objective._rows(direction)
    try:
        shape = torch.broadcast_shapes(batch, other)
    except RuntimeError:
        raise InvalidInputError(
            f"theta {tuple(theta.shape)} and direction {tuple(direction.shape)} have batches that do not fit"
        ) from None
    size = objective.space.size
    rows, directions = (
        t.reshape(*own, size).expand(*shape, size).reshape(-1, size) for t, own in ((rows, batch), (directions, other))
    )
    return rows, directions, shape


def _of_rows(objective: Objective, rows: Tensor, steps: Tensor, order: int) -> Tensor:
    """``(b, order + 1)``; a sum and a restriction ask the objectives they are made of."""
    if isinstance(objective, SumObjective):
        return sum_of(_of_rows(term, rows, steps, order) for term in objective.terms)
    if isinstance(objective, RestrictedObjective):
        return _of_rows(objective.base, objective.project(rows), objective.lift(steps), order)
    result = torch.zeros(len(rows), order + 1, dtype=objective.dtype, device=objective.device)
    if not len(rows):
        return result
    cost = objective.cost
    # each order keeps about twice as much
    deep = Cost(cost.samples, cost.bytes_per_sample * 2**order, cost.bytes_fixed)
    passes = plan_passes(deep, len(rows))
    with objective.higher_order_context():
        route = _route(objective, rows[0], steps[0], order)
        for start in range(0, len(rows), passes.copies):
            some = slice(start, start + passes.copies)
            for chunk in objective.chunks(passes.samples):
                result[some] += _by(route, objective, chunk, rows[some], steps[some], order)
    return result


def _by(route: Route, objective: Objective, chunk: object, rows: Tensor, steps: Tensor, order: int) -> Tensor:
    """``(b, order + 1)`` of one chunk."""

    def along(row: Tensor, step: Tensor, derivatives: Callable[[Line, int, Tensor], Tensor]) -> Tensor:
        return derivatives(lambda t: objective.chunk_value(row + t * step, chunk), order, row.new_zeros(()))

    if route == "forward, all rows at once" and len(rows) > 1:
        result: Tensor = torch.func.vmap(partial(along, derivatives=_forward))(rows, steps)
        return result.detach()
    way = _reverse if route == "reverse" else _forward
    pairs = zip(rows.unbind(), steps.unbind(), strict=True)
    return torch.stack([along(row, step, way) for row, step in pairs]).detach()


def _forward(line: Line, order: int, zero: Tensor) -> Tensor:
    """Nested forward mode: each level returns all lower derivatives with the next."""

    def level(f: Line) -> Line:
        def lifted(t: Tensor) -> Tensor:
            pair: Any = torch.func.jvp(f, (t,), (torch.ones_like(t),))
            below, slope = pair
            return torch.cat([below, slope[-1:]])

        return lifted

    f: Line = lambda t: line(t).reshape(1)  # noqa: E731  (a first level like the others)
    for _ in range(order):
        f = level(f)
    return f(zero)


def _reverse(line: Line, order: int, zero: Tensor) -> Tensor:
    """Repeated reverse mode on the scalar t."""
    t = zero.clone().requires_grad_()
    with torch.enable_grad():
        current = line(t)
        found = [current.detach()]
        for k in range(order):
            if current.requires_grad:
                (current,) = torch.autograd.grad(current, t, create_graph=k + 1 < order, materialize_grads=True)
            else:
                current = torch.zeros_like(zero)
            found.append(current.detach())
    return torch.stack(found)


# -- which route gives true numbers ------------------------------------------------------------------------------------

_KNOWN: WeakKeyDictionary[Objective, dict[int, Route]] = WeakKeyDictionary()

STEP = 1e-3
"""Step of the differences, relative to the length of theta: truncation is then some 1e-6 of what is compared."""

TOLERANCE = 1e-3
"""Relative agreement asked of a derivative with the differences of the one before; a wrong rule misses it by far."""


def _route(objective: Objective, row: Tensor, step: Tensor, order: int) -> Route:
    """The first route that works and whose derivatives are true on a few samples; known from then on."""
    known = _KNOWN.setdefault(objective, {})
    if order not in known:
        known[order] = _tried(objective, row, step, order)
    return known[order]


def _tried(objective: Objective, row: Tensor, step: Tensor, order: int) -> Route:
    chunk = next(iter(objective.chunks(4)))
    length = STEP * (float(row.norm()) + 1e-3 * len(row) ** 0.5)
    step = step * (length / float(step.norm())) if bool((step != 0).any()) else torch.full_like(row, length)
    rows, steps = torch.stack([row, row + step, row - step]), step.expand(3, -1)
    found: dict[Route, Tensor] = {}
    reasons: list[str] = []
    for route in ROUTES[:2] if objective.path.forward else ():
        try:
            found[route] = _by(route, objective, chunk, rows, steps, order)
        except RuntimeError as error:
            reasons.append(f"{route}: {first_line(error)}")
    if objective.path.second != "none" or order < 2:
        try:
            found["reverse"] = _by("reverse", objective, chunk, rows, steps, order)
        except RuntimeError as error:
            reasons.append(f"reverse: {first_line(error)}")
    else:
        reasons.append(objective.path.why_not_twice())
    for route, derivatives in found.items():
        if _true(derivatives):
            return route
        reasons.append(f"{route}: other numbers than differences of the derivatives before")
    plain = [route for route in ROUTES[1:] if route in found]
    if len(plain) == 2 and agree(found["forward"], found["reverse"]) and not objective.kinks(row).smooth:
        return "forward"  # a kink within the step: the differences say nothing, two independent routes agree
    raise NotApplicableError(
        f"this objective has no derivatives of order {order} along a line: {'; '.join(dict.fromkeys(reasons))}"
    )


def _true(derivatives: Tensor) -> bool:
    """Whether each column is the derivative of the one before, by central differences of the rows at ``0, 1, -1``."""
    here, ahead, behind = derivatives
    measured = (ahead - behind)[:-1] / 2
    wanted = here[1:]
    eps = torch.finfo(derivatives.dtype).eps
    noise = 1e3 * eps * derivatives.abs().amax(0)[:-1]
    curvature = (ahead + behind - 2 * here).abs()[1:]  # what differences miss is of the size of the next-but-one
    allowed = torch.maximum(TOLERANCE * (measured.abs() + wanted.abs()), torch.maximum(noise, curvature))
    return bool(((measured - wanted).abs() <= allowed).all())
