"""The one loop that drives every method: drops starts that have ended, keeps limits, and loses nothing when stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import InvalidInputError, Progress, RunControl, parse_duration, progress_bar
from thalweg.objectives import Objective
from thalweg.solvers.classify import Candidates, Ruling
from thalweg.solvers.method import Method, State
from thalweg.solvers.records import Records
from thalweg.solvers.solution import Solution
from thalweg.solvers.status import Status
from thalweg.solvers.watch import StopSearch, watched, watching

__all__ = ["Callback", "Endgame", "Limits", "Snapshot", "drive"]

_FAR = 1e8
"""Parameters this many times larger than at the start have left for infinity."""

_SLOW, _PATIENCE = 1e-4, 32
"""A start whose value fell by less than this fraction of its scale during the last quarter of its iterations, and after
these at least, is looked at for an escape to infinity."""

Endgame = Callable[[Candidates], Ruling]
"""Rules on candidates: see `thalweg.solvers.classify`."""


@dataclass(frozen=True)
class Snapshot:
    """What a callback sees after each iteration.

    Attributes:
        iteration: counted from 1.
        running: ``(k,)``, numbers of the starts still running, along the flattened batch.
        theta: ``(k, P)``, their points.
        value: ``(k,)``.
        gradient_norm: ``(k,)``, maximum norm.
        seconds: since the beginning.
    """

    iteration: int
    running: Int[Tensor, " k"]
    theta: Float[Tensor, "k P"]
    value: Float[Tensor, " k"]
    gradient_norm: Float[Tensor, " k"]
    seconds: float


Callback = Callable[[Snapshot], bool | None]


@dataclass(frozen=True)
class Limits:
    """When a search ends, whatever has been reached.

    Raises:
        InvalidInputError: for a limit that is not positive.
    """

    tolerance: float = 1e-10
    max_iterations: int | None = None
    callback: Callback | None = None
    stop_event: threading.Event | None = None
    time_budget: float | str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and self.tolerance < float("inf")):
            raise InvalidInputError(
                f"tolerance must be positive and finite, got {self.tolerance}; the default is 1e-10"
            )
        if self.max_iterations is not None and self.max_iterations < 1:
            raise InvalidInputError(f"max_iterations must be at least 1, got {self.max_iterations}")


@dataclass
class _Run:
    """The moving parts of one search."""

    objective: Objective
    method: Method
    limits: Limits
    endgame: Endgame
    records: Records
    control: RunControl
    together: int = 2**31
    iteration: int = 0
    running: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    state: State | None = None
    first: Tensor = field(default_factory=lambda: torch.zeros(0))
    threshold: Tensor = field(default_factory=lambda: torch.zeros(0))
    anchor: Tensor = field(default_factory=lambda: torch.zeros(0))
    later_anchor: Tensor = field(default_factory=lambda: torch.zeros(0))
    marked: Tensor = field(default_factory=lambda: torch.zeros(0))

    def begin(self) -> None:
        """Evaluate all starts; those where the value is not finite end at once."""
        theta = self.records.theta
        state = self.method.start(self.objective, theta)
        self.running = torch.arange(len(theta), device=theta.device)
        self.state, self.first = state, state.value.clone()
        hand_over = self.method.hands_over * state.gradient_norm
        self.threshold = torch.where(torch.isfinite(hand_over), hand_over, 0 * state.value).clamp(
            min=self.limits.tolerance
        )
        self.anchor, self.later_anchor, self.marked = theta.clone(), theta.clone(), state.value.clone()
        healthy = torch.isfinite(state.value) & torch.isfinite(state.gradient).all(-1)
        for row in (~healthy).nonzero().squeeze(-1).tolist():
            self.close(row, Status.NOT_FINITE, "The value or its gradient is not finite at the start.")
        self.drop(~healthy)

    def advance(self) -> None:
        """One iteration and the rulings that follow from it."""
        assert self.state is not None
        self.state = self.method.step(self.objective, self.state)
        self.iteration += 1
        slow = torch.zeros_like(self.state.stuck)
        if _is_milestone(self.iteration):
            fall, scale = self.marked - self.state.value, self.scale()
            slow = (fall <= _SLOW * scale) & (self.iteration >= _PATIENCE)
            self.anchor, self.later_anchor = self.later_anchor, self.state.theta.clone()
            self.marked = self.state.value.clone()
        self.rule(slow)

    def scale(self) -> Tensor:
        """Of the value: the larger of its size and its decrease since the start."""
        assert self.state is not None
        return torch.maximum(self.state.value.abs(), (self.first - self.state.value).abs())

    def rule(self, slow: Tensor | None = None) -> None:
        """Put the candidates to the endgame."""
        assert self.state is not None
        state = self.state
        size, first = state.theta.abs().amax(-1), self.records.theta[self.running].abs().amax(-1)
        far = size > _FAR * (1 + first)
        stuck = state.stuck | far
        slow = torch.zeros_like(stuck) if slow is None else slow
        chosen = ((state.gradient_norm <= self.threshold) | stuck | slow).nonzero().squeeze(-1)
        if not len(chosen):
            return
        owners = self.running[chosen]
        given = Candidates(
            theta=state.theta[chosen],
            scale=self.scale()[chosen],
            anchor=self.anchor[chosen],
            stuck=stuck[chosen],
            slow=slow[chosen],
            kicks=self.records.kicks[owners],
            tolerance=self.limits.tolerance,
        )
        for part in torch.arange(len(owners), device=owners.device).split(self.together):
            ruling = self.endgame(given.take(part))
            self.records.evaluations[owners[part]] += ruling.evaluations
            self.records.hessians[owners[part]] += ruling.hessians
            rows = torch.searchsorted(self.running, owners[part])  # rows move up as others are dropped
            self.apply(rows, ruling, far[chosen[part]])

    def apply(self, chosen: Tensor, ruling: Ruling, far: Tensor) -> None:
        """Close the rows that got a status, send on those that were moved, let the rest be."""
        assert self.state is not None
        ended = torch.zeros(len(self.running), dtype=torch.bool, device=self.running.device)
        moved = []
        for k, row in enumerate(chosen.tolist()):
            owner = int(self.running[row])
            status, message = ruling.status[k], ruling.message[k]
            if bool(far[k]) and (status is None or status is Status.STALLED):
                status, message = Status.GROWTH, "Parameters have grown a hundred million times over their start."
            if status is not None:
                self.store(owner, ruling, k)
                self.close(owner, status, message, keep=True)
                ended[row] = True
            elif bool(ruling.moved[k]):
                self.records.kicks[owner] += 1
                moved.append(k)
            else:  # not yet: asked again when the gradient has fallen further
                norm = float(self.state.gradient_norm[row])
                if norm <= float(self.threshold[row]):
                    self.threshold[row] = norm / 10
        if moved:
            rows = chosen[moved]
            self.state = self.state.put(rows, self.method.start(self.objective, ruling.theta[moved]))
            self.threshold[rows] = self.limits.tolerance
        self.drop(ended)

    def store(self, owner: int, ruling: Ruling, k: int) -> None:
        """Keep what the endgame measured in one row."""
        records = self.records
        records.theta[owner], records.value[owner] = ruling.theta[k], ruling.value[k]
        records.gradient[owner], records.floor[owner] = ruling.gradient[k], ruling.floor[k]
        records.decrement[owner], records.index[owner] = ruling.decrement[k], ruling.index[k]
        records.undecided[owner] = ruling.undecided[k]

    def close(self, owner: int, status: Status, message: str, *, keep: bool = False) -> None:
        """Give a running start its status; unless `keep`, its present point is what it ends with."""
        records = self.records
        records.status[owner], records.message[owner] = status, message
        records.iterations[owner] = self.iteration
        where = (self.running == owner).nonzero().squeeze(-1)
        if self.state is None or not len(where):
            return
        row = int(where[0])
        records.evaluations[owner] += self.state.evaluations[row]
        records.hessians[owner] += self.state.hessians[row]
        if not keep:
            records.theta[owner], records.value[owner] = self.state.theta[row], self.state.value[row]
            records.gradient[owner] = self.state.gradient[row]

    def drop(self, ended: Tensor) -> None:
        """Take ended rows out of the batch."""
        if self.state is None or not bool(ended.any()):
            return
        rest = (~ended).nonzero().squeeze(-1)
        self.running, self.state, self.first, self.threshold, self.marked, self.anchor, self.later_anchor = (
            self.running[rest],
            self.state.take(rest),
            self.first[rest],
            self.threshold[rest],
            self.marked[rest],
            self.anchor[rest],
            self.later_anchor[rest],
        )

    def end_all(self, status: Status, message: str) -> None:
        """Close every start that has no status yet."""
        for owner in self.running.tolist():
            if self.records.status[owner] is None:
                self.close(owner, status, message)
        self.running = self.running[:0]

    def last_look(self) -> None:
        """At the iteration limit: an escape or a minimum is called by its name; all else ends with the limit."""
        assert self.state is not None
        limit = f"Stopped after {self.iteration} iterations with the gradient at "
        norms = self.state.gradient_norm.tolist()
        owners = self.running.tolist()
        self.rule(slow=torch.ones_like(self.state.stuck))
        for owner, norm in zip(owners, norms, strict=True):
            if self.records.status[owner] in (None, Status.STALLED):
                self.close(owner, Status.ITERATION_LIMIT, f"{limit}{norm:.2g}.")
        self.running = self.running[:0]

    def snapshot(self) -> Snapshot:
        """What a callback is shown."""
        assert self.state is not None
        state = self.state
        return Snapshot(
            self.iteration, self.running, state.theta, state.value, state.gradient_norm, self.control.elapsed()
        )


def _is_milestone(iteration: int) -> bool:
    """Whether this is 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: a power of two, or three times one."""
    odd = iteration // (iteration & -iteration)
    return odd in (1, 3)


def drive(
    objective: Objective,
    theta: Float[Tensor, "b P"],
    method: Method,
    endgame: Endgame,
    limits: Limits,
    *,
    batch: torch.Size,
    together: int = 2**31,
    seed: int | None = None,
) -> Solution:
    """Run a method from every start until each has ended; an interrupt from the keyboard ends all with what they have.

    Args:
        objective: what is searched.
        theta: starts, checked.
        method: makes the steps.
        endgame: rules on candidates.
        limits: when to stop.
        batch: the shape the starts came in.
        together: candidates that are put to the endgame at once.
        seed: of the starts, for the record.
    """
    control = RunControl(parse_duration(limits.time_budget), limits.stop_event, parent=watched())
    run = _Run(objective, method, limits, endgame, Records.empty(theta), control, together)
    run.running = torch.arange(len(theta), device=theta.device)
    try:
        title = f"{method.alias}, {len(theta)} starts"
        with watching(control), progress_bar(title, total=len(theta), show=limits.progress) as bar:
            _iterate(run, bar)
    except StopSearch as stop:
        _stop(run, stop.reason)
    except KeyboardInterrupt:
        run.end_all(Status.INTERRUPTED, f"Interrupted from the keyboard after {run.iteration} iterations.")
    return run.records.solution(batch, control.elapsed(), repr(method), seed)


def _stop(run: _Run, reason: str) -> None:
    ended = next(status for status in Status if status.value == reason)
    run.end_all(ended, f"Stopped after {run.iteration} iterations, {run.control.elapsed():.3g} s.")


def _iterate(run: _Run, bar: Progress) -> None:
    limits = run.limits
    most = limits.max_iterations or run.method.max_iterations
    run.begin()
    run.rule()
    while len(run.running):
        reason = run.control.why_stop()
        if reason is not None:
            _stop(run, reason)
        elif run.iteration >= most:
            run.last_look()
        else:
            run.advance()
            bar.update(len(run.records.status) - len(run.running))
            if len(run.running) and limits.callback is not None and limits.callback(run.snapshot()):
                run.end_all(Status.INTERRUPTED, f"The callback asked to stop after {run.iteration} iterations.")
