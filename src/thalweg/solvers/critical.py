"""The verb for critical points of any kind: saddles stay saddles."""

from __future__ import annotations

import threading
from typing import Any

from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import Objective
from thalweg.solvers.classify import Candidates, Ruling
from thalweg.solvers.loop import Callback, Limits, drive
from thalweg.solvers.method import Method
from thalweg.solvers.minimize import DENSE_LIMIT, at_once, dense_endgame
from thalweg.solvers.rule_critical import rule_critical, rule_critical_free
from thalweg.solvers.saddle_methods import EigenvectorFollowing, IndexPreservingNewton, NewtonMinres
from thalweg.solvers.solution import Solution
from thalweg.solvers.starts import checked_starts

__all__ = ["find_critical_point"]


def find_critical_point(
    objective: Objective,
    theta: Float[Tensor, "*batch P"] | Any = None,
    index: int | None = None,
    tolerance: float = 1e-10,
    max_iterations: int | None = None,
    method: Method | None = None,
    callback: Callback | None = None,
    stop_event: threading.Event | None = None,
    time_budget: float | str | None = None,
    progress: bool | None = None,
) -> Solution:
    """Go from every start to a critical point nearby, of whatever kind, or of a wanted index.

    Args:
        objective: what is searched.
        theta: starts ``(*batch, P)``, or whatever `thalweg.objectives.as_theta` converts; None takes the parameters the
            objective came with.
        index: number of negative Hessian eigenvalues wanted; None keeps the kind of point the start is near to.
        tolerance: for the maximum norm of the gradient; where rounding makes it unreachable, the rounding floor counts.
        max_iterations: per start.
        method: `IndexPreservingNewton` (index None), `EigenvectorFollowing` (an index) or `NewtonMinres` (more than
            about 1500 parameters) with other settings than their defaults; None chooses.
        callback: called with a `Snapshot` after each iteration; returning True stops.
        stop_event: stops when set.
        time_budget: seconds, or a text such as ``"2m"``.
        progress: show a bar; None shows it in a terminal.

    Returns:
        A `Solution`; `index` and `undecided` in it say what kind each point is.

    Raises:
        InvalidInputError: for starts that are not finite or misshapen, an index outside 0 to P, or a method that is
            none of the three or contradicts the index.
        NotApplicableError: for a wanted index where P is too large for dense Hessians.
        MemoryLimitError: where dense Hessians would not fit.

    >>> import torch
    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import Penalty
    >>> space = ParameterSpace({"x": (2,)})
    >>> well = Penalty(space, lambda p: (p["x"][0]**2 - 1)**2 + p["x"][1]**2, name="double well")
    >>> found = find_critical_point(well, torch.tensor([0.6, 0.3]), index=1)
    >>> found.status, int(found.index)
    (<converged>, 1)
    """
    limits = Limits(tolerance, max_iterations, callback, stop_event, time_budget, progress)
    points, batch = checked_starts(objective, theta, None, None)
    size = objective.space.size
    if index is not None and not 0 <= index <= size:
        raise InvalidInputError(f"index must be between 0 and {size}, got {index}")
    chosen = _choose(objective, index) if method is None else method
    index = _index_of(chosen, index, size)
    chosen.check(objective)
    free = isinstance(chosen, NewtonMinres)

    def endgame(candidates: Candidates) -> Ruling:
        return rule_critical_free(objective, candidates) if free else rule_critical(objective, candidates, index)

    together = len(points) if free else at_once(objective)
    return drive(objective, points, chosen, endgame, limits, batch=batch, together=together)


def _index_of(method: Method, index: int | None, size: int) -> int | None:
    """The index that a method and the caller agree on.

    Raises:
        InvalidInputError: where they do not, or the method is for something else.
    """
    kinds = (IndexPreservingNewton, EigenvectorFollowing, NewtonMinres)
    if not isinstance(method, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise InvalidInputError(f"method must be an object of {names}, or None; got {method!r}")
    if isinstance(method, EigenvectorFollowing):
        if index not in (None, method.index) or method.index > size:
            raise InvalidInputError(f"{method!r} and index={index} do not fit together in {size} dimensions")
        return method.index
    if isinstance(method, NewtonMinres) and index is not None:
        raise InvalidInputError(f"NewtonMinres cannot see the index: use index=None, or EigenvectorFollowing({index})")
    return index


def _choose(objective: Objective, index: int | None) -> Method:
    if dense_endgame(objective):
        return IndexPreservingNewton() if index is None else EigenvectorFollowing(index)
    if index is not None:
        raise NotApplicableError(
            f"a wanted index needs dense Hessians, which {objective!r} does not allow (at most about {DENSE_LIMIT} "
            "parameters): use index=None, or pass method=EigenvectorFollowing(index) to try all the same"
        )
    return NewtonMinres()
