"""The verb: minimise from many starts at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, RunControl, current_limit, parse_duration
from thalweg.objectives import Objective
from thalweg.solvers.classify import Candidates, Ruling, rule_minimum
from thalweg.solvers.classify_free import rule_minimum_free
from thalweg.solvers.flow_method import GradientFlow
from thalweg.solvers.lbfgs import LBFGS
from thalweg.solvers.limit_point import LimitPoint
from thalweg.solvers.loop import Callback, Limits, drive
from thalweg.solvers.method import Method
from thalweg.solvers.newton import LevenbergMarquardt, NewtonTrustRegion
from thalweg.solvers.newton_cg import NewtonCG
from thalweg.solvers.solution import Solution, in_batch_shape, tensor_fields
from thalweg.solvers.starts import checked_starts
from thalweg.solvers.status import Status
from thalweg.solvers.watch import StopSearch, watched, watching

__all__ = ["METHODS", "Resolution", "Resolved", "Resolver", "as_method", "at_once", "dense_endgame", "minimize"]

METHODS: dict[str, type[Method]] = {
    m.alias: m for m in (NewtonTrustRegion, NewtonCG, LevenbergMarquardt, LBFGS, GradientFlow)
}
"""Methods by alias."""

DENSE_LIMIT = 1500
"""Above this many parameters the endgame multiplies with the Hessian instead of decomposing it."""

SPECTRA = 20
"""Matrices of P x P that the endgame holds for each candidate: its spectrum, that of a trial, and working copies."""


class Resolved(NamedTuple):
    """What a resolver found out about one start.

    Attributes:
        status: what the start ended as.
        message: one sentence.
        end: where its way to infinity ends; None where it has no end.
        theta: ``(P,)``, where it should rather have gone: a minimum nearby, from which the search is taken up again.
    """

    status: Status
    message: str
    end: LimitPoint | None = None
    theta: Float[Tensor, " P"] | None = None


Resolution = Status | tuple[Status, str] | Resolved | None
"""What a resolver says of one start: nothing, a status, a status with a message, or more."""

Resolver = Callable[[Objective, Tensor, Solution], Sequence[Resolution]]
"""Called once with the objective, the points ``(k, P)`` that did not converge, or did with curvatures that are lost in
rounding (waiting may look like an end), and their Solution; may rename each."""


def minimize(
    objective: Objective,
    theta: Float[Tensor, "*batch P"] | Any = None,
    method: str | Method = "newton",
    tolerance: float = 1e-10,
    max_iterations: int | None = None,
    callback: Callback | None = None,
    stop_event: threading.Event | None = None,
    time_budget: float | str | None = None,
    resolver: Resolver | None = None,
    starts: int | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> Solution:
    """Minimise an objective from every start of a batch.

    `converged` is said only of a point whose gradient is at its tolerance or rounding floor, whose Newton decrement is
    small, and from which no direction was found that leads to infinity; otherwise the status names what happened.

    ``"lm"`` takes any loss of outputs, not squared error alone: with B the Hessian of the loss in the outputs its
    matrix ``J^T B J`` is the generalised Gauss-Newton matrix, for cross-entropy too.

    Args:
        objective: what is minimised.
        theta: starts ``(*batch, P)``, or whatever `thalweg.objectives.as_theta` converts; None takes the parameters the
            objective came with.
        method: ``"newton"``, ``"newton-cg"``, ``"lm"``, ``"l-bfgs"``, ``"flow"``, or one of the classes with its
            settings.
        tolerance: for the maximum norm of the gradient; where rounding makes it unreachable, the rounding floor counts.
        max_iterations: per start; the method's own default where None.
        callback: called with a `Snapshot` after each iteration; returning True stops.
        stop_event: stops when set.
        time_budget: seconds, or a text such as ``"2m"``. It is looked at between evaluations: a single Hessian, or the
            spectrum of one, is not broken off.
        resolver: may rename the status of starts that did not converge for certain, see `Resolver`;
            `thalweg.symmetry.channel_resolver` follows ways to infinity to their ends.
        starts: draw this many random starts instead of `theta` (`thalweg.solvers.random_starts`).
        seed: of those.
        progress: show a bar; None shows it in a terminal.

    Returns:
        A `Solution` in the batch shape of the starts. An interrupt from the keyboard returns what there is.

    Raises:
        InvalidInputError: for starts that are not finite or misshapen, an unknown method, a tolerance that is not
            positive.
        NotApplicableError: where the method needs what the objective has not.
        MemoryLimitError: where dense Hessians would not fit.

    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import Penalty
    >>> space = ParameterSpace({"x": (2,)})
    >>> def banana(p):
    ...     return (1 - p["x"][0]) ** 2 + 100 * (p["x"][1] - p["x"][0] ** 2) ** 2
    >>> rosenbrock = Penalty(space, banana, name="rosenbrock")
    >>> minimize(rosenbrock, torch.tensor([[-1.2, 1.0], [3.0, -2.0]])).converged
    tensor([True, True])
    """
    chosen = as_method(method)
    limits = Limits(tolerance, max_iterations, callback, stop_event, time_budget, progress)
    points, batch = checked_starts(objective, theta, starts, seed)
    chosen.check(objective)
    dense = dense_endgame(objective)

    def endgame(candidates: Candidates) -> Ruling:
        return rule_minimum(objective, candidates) if dense else rule_minimum_free(objective, candidates)

    control = RunControl(parse_duration(time_budget), stop_event, parent=watched())
    drawn = (0 if seed is None else seed) if starts is not None else None
    together = at_once(objective) if dense else len(points)
    solution = drive(objective, points, chosen, endgame, limits, batch=batch, together=together, seed=drawn)
    if resolver is None:
        return solution

    def go_on(theta: Tensor) -> Solution:
        return minimize(objective, theta, chosen, tolerance, max_iterations, progress=False)

    if control.why_stop() is not None or Status.INTERRUPTED in solution.statuses:
        return solution
    try:
        with watching(control):  # searches of the resolver end with this one
            return _resolved(objective, solution, resolver, go_on)
    except StopSearch:
        return solution


def as_method(method: str | Method) -> Method:
    """A method from its alias, or itself.

    Raises:
        InvalidInputError: listing the aliases.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if isinstance(method, type) and issubclass(method, Method):
        raise InvalidInputError(f"method is the class {method.__name__}: make one of it, {method.__name__}()")
    raise InvalidInputError(
        f"no method {method!r}; there are {', '.join(map(repr, METHODS))}, and objects of the method classes, such as "
        "NewtonTrustRegion(radius=0.1)"
    )


def dense_endgame(objective: Objective) -> bool:
    """Whether full spectra at the end of a search are affordable."""
    size = objective.space.size
    item = torch.empty((), dtype=objective.dtype).element_size()
    return objective.path.second != "none" and size <= DENSE_LIMIT and 100 * size**2 * item <= current_limit()


def at_once(objective: Objective) -> int:
    """How many candidates a dense endgame takes at once, from the memory that there is."""
    item = torch.empty((), dtype=objective.dtype).element_size()
    return max(1, current_limit() // (SPECTRA * objective.space.size**2 * item))


def _resolved(
    objective: Objective, solution: Solution, resolver: Resolver, go_on: Callable[[Tensor], Solution]
) -> Solution:
    statuses, messages = solution.statuses, solution.messages
    undecided = solution.undecided.reshape(-1).tolist()
    open_ones = [i for i, status in enumerate(statuses) if status is not Status.CONVERGED or undecided[i] > 0]
    if not open_ones:
        return solution
    some = _subset(solution, open_ones)
    answers = list(resolver(objective, some.theta, some))
    if len(answers) != len(open_ones):
        raise InvalidInputError(f"the resolver gave {len(answers)} answers for {len(open_ones)} starts")
    ends, onward = solution.ends, {}
    for i, answer in zip(open_ones, answers, strict=True):
        if isinstance(answer, Resolved):
            statuses[i], messages[i], ends[i] = answer.status, answer.message, answer.end
            if answer.theta is not None:
                onward[i] = answer.theta
        elif isinstance(answer, Status):
            statuses[i] = answer
        elif answer is not None:
            statuses[i], messages[i] = answer
    batch = solution.batch
    solution = replace(
        solution,
        status=in_batch_shape(statuses, batch),
        message=in_batch_shape(messages, batch),
        end=in_batch_shape(ends, batch),
    )
    return _taken_up(solution, onward, go_on) if onward else solution


def _taken_up(solution: Solution, onward: dict[int, Tensor], go_on: Callable[[Tensor], Solution]) -> Solution:
    """Search once more from where a resolver sent some starts; what converges there replaces them."""
    rows = list(onward)
    again = go_on(torch.stack([onward[row] for row in rows]))
    good = again.converged.nonzero().squeeze(1).tolist()
    changes: dict[str, Any] = {}
    statuses, messages = solution.statuses, solution.messages
    for k in good:
        statuses[rows[k]], messages[rows[k]] = again.statuses[k], again.messages[k]
    for name in tensor_fields():
        old, new = getattr(solution, name), getattr(again, name)
        flat = old.reshape(len(solution), *old.shape[len(solution.batch) :]).clone()
        for k in good:
            spent = name in ("iterations", "evaluations", "hessians")
            flat[rows[k]] = flat[rows[k]] + new[k] if spent else new[k]
        changes[name] = flat.reshape(old.shape)
    batch = solution.batch
    return replace(solution, **changes, status=in_batch_shape(statuses, batch), message=in_batch_shape(messages, batch))


def _subset(solution: Solution, rows: list[int]) -> Solution:
    """Some starts as a flat batch."""
    count, batch = len(solution), torch.Size([len(rows)])
    changes: dict[str, Any] = {
        "status": in_batch_shape([solution.statuses[i] for i in rows], batch),
        "message": in_batch_shape([solution.messages[i] for i in rows], batch),
        "end": in_batch_shape([solution.ends[i] for i in rows], batch),
    }
    for name in tensor_fields():
        tensor = getattr(solution, name)
        changes[name] = tensor.reshape(count, *tensor.shape[len(solution.batch) :])[rows]
    return replace(solution, **changes)
