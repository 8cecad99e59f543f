"""The verb: search from very many starts, and keep what was found."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from thalweg.catalogue.catalogue import Catalogue
from thalweg.catalogue.outcome import Survey
from thalweg.catalogue.records import Batch, CatalogueError, Progress
from thalweg.catalogue.starting import Initializer, label_of, named_initializer, starts_of
from thalweg.catalogue.workers import InThisProcess, Packed, Search, Task, own_processes, packed, run_task
from thalweg.foundation import InvalidInputError, RunControl, parse_duration, progress_bar
from thalweg.objectives import Objective
from thalweg.objectives.convert import find_risk
from thalweg.solvers import Method, Resolver, Status
from thalweg.solvers.minimize import as_method

__all__ = ["default_batch_size", "survey"]

LARGEST_BATCH = 256
SMALLEST_BATCH = 16
"""Unless there is no memory for it."""
BATCH_SAMPLES = 2**19
"""Searches of a batch times samples."""
BATCH_BYTES = 512 * 2**20
"""Memory that dense curvature of one batch may take, in a worker."""

_DEATHS = 3
"""So many times a batch whose worker dies is run again."""


def survey(
    objective: Objective,
    starts: int = 1000,
    *,
    initializer: str | Initializer = "glorot",
    method: str | Method = "flow",
    seed: int = 0,
    tolerance: float = 1e-10,
    max_iterations: int | None = None,
    resolver: Resolver | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    executor: Callable[[], Executor] | None = None,
    storage: str | Path = "catalogue.db",
    resume: bool = True,
    time_budget: float | str | None = None,
    stop_event: threading.Event | None = None,
    progress: bool | None = None,
) -> Survey:
    """Search for minima from many starts, in batches over processes, and keep all runs and distinct points.

    Each batch is committed to the catalogue as it comes. Killed at any moment and started again with the same
    arguments, a survey goes on where it was: what is lost are the batches in flight. More `starts` continue it. A batch
    whose worker died is run again.

    Args:
        objective: what is minimised. It travels to the workers as a pickle.
        starts: how many searches the survey is to have in all.
        initializer: ``"glorot"``, ``"normal"`` (see `thalweg.catalogue.INITIALIZERS`), or a function ``(space,
            generator) -> (P,)``.
        method: of `thalweg.minimize`.
        seed: start n is drawn with a generator of its own, seeded by this and n.
        tolerance: of `thalweg.minimize`.
        max_iterations: of `thalweg.minimize`.
        resolver: of `thalweg.minimize`; it travels as a pickle.
        batch_size: starts searched at once by a worker; None chooses by the numbers of parameters and
            samples, 256 at most.
        workers: processes on this machine, one for each core where None; 0 searches in this process.
        executor: makes an executor of `concurrent.futures`, such as ``lambda: Client(...).get_executor()`` of
            dask.distributed, in place of `workers`. It is called again when its executor breaks.
        storage: a path, or a URL (see `thalweg.Catalogue`).
        resume: False refuses to go on with a survey that is in the catalogue.
        time_budget: seconds, or a text such as ``"2h"``; batches in flight at the end are given up.
        stop_event: stops when set.
        progress: show a bar; None shows it in a terminal.

    Returns:
        A `Survey`: levels, shares, points, runs, pictures. An interrupt from the keyboard returns what was committed.

    Raises:
        InvalidInputError: for arguments that make no sense.
        CatalogueError: where the storage fails, or a batch kills its workers again and again.

    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import Penalty
    >>> wells = Penalty(ParameterSpace({"x": (1, 1)}), lambda p: (p["x"] ** 2 - 1).square().sum(), name="two wells")
    >>> found = survey(wells, 20, storage="sqlite://", workers=0)
    >>> found.progress.seeds, found.progress.points
    (20, 2)
    """
    if not isinstance(objective, Objective):
        raise InvalidInputError(f"an objective is needed, got {type(objective).__name__}")
    for name, value, least in (("starts", starts, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InvalidInputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    chosen = as_method(method)
    chosen.check(objective)
    label, draw = named_initializer(initializer)
    size = batch_size or default_batch_size(objective, chosen)
    settings = {
        "initializer": label,
        "method": repr(chosen),
        "seed": seed,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "resolver": None if resolver is None else label_of(resolver),
    }
    many = (os.cpu_count() or 1) if workers is None else workers
    factory = executor or (own_processes(many) if many else InThisProcess)
    search = Search(chosen, tolerance, max_iterations, resolver)
    control = RunControl(parse_duration(time_budget), stop_event)
    with Catalogue(storage) as catalogue:
        number = catalogue.open_survey(objective, settings, size)
        before = catalogue.progress(number)
        if before.seeds and not resume:
            raise InvalidInputError(
                f"this survey has {before.seeds} runs in {storage} already; pass resume=True to go on with it, or "
                "another storage or seed"
            )
        driver = _Driver(catalogue, number, factory, control, window=2 * max(1, many) if executor is None else 64)
        tasks = _tasks(catalogue, number, objective, search, draw, seed, size, starts, factory is not InThisProcess)
        with progress_bar(_told(before, starts), total=starts, show=progress) as bar:
            bar.update(before.seeds)
            driver.run(tasks, lambda now: bar.update(now.seeds, description=_told(now, starts)))
        return Survey.of(catalogue, number, objective, starts, driver.stopped, control.elapsed())


def default_batch_size(objective: Objective, method: Method) -> int:
    """A power of two, by the numbers of parameters and samples alone, so that a survey is resumed wherever it is run.

    With many samples a batch is no faster than its searches one by one, and an interruption loses all of it.
    """
    size = objective.space.size
    risk = find_risk(objective)
    samples = 1 if risk is None else risk.n_samples
    each = 8 * (10 * size**2 if method.alias in ("newton", "lm", "flow") else 100 * size)
    fit = max(1, BATCH_BYTES // each)
    few = max(SMALLEST_BATCH, BATCH_SAMPLES // samples)
    return int(min(LARGEST_BATCH, 2 ** (fit.bit_length() - 1), 2 ** (few.bit_length() - 1)))


def _tasks(
    catalogue: Catalogue,
    survey: int,
    objective: Objective,
    search: Search,
    draw: Initializer,
    seed: int,
    size: int,
    starts: int,
    travels: bool,
) -> Iterator[tuple[int, Task]]:
    """The batches that are not there yet, made when they are asked for."""
    content: Packed | Objective | None = None
    done = catalogue.finished_batches(survey, starts)
    there = catalogue.seeds_in_batches(survey)
    for number in range((starts + size - 1) // size):
        if number in done:
            continue
        content = content or (packed(objective) if travels else objective)
        first = number * size + there.get(number, 0)
        count = min((number + 1) * size, starts) - first
        yield number, Task(content, search, first, starts_of(objective, draw, seed, first, count))


@dataclass
class _Driver:
    """Keeps an executor busy, and writes down what it gives back; only the driver writes."""

    catalogue: Catalogue
    survey: int
    factory: Callable[[], Executor]
    control: RunControl
    window: int
    stopped: str | None = None
    again: deque[tuple[int, Task]] = field(default_factory=deque)
    flying: dict[Future[Batch], tuple[int, Task]] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)

    def run(self, tasks: Iterator[tuple[int, Task]], report: Callable[[Progress], None]) -> None:
        """All tasks, until they are done or something stops them."""
        pool: Executor | None = None
        try:
            while True:
                self.stopped = self.control.why_stop()
                if self.stopped:
                    break
                pool = pool or self.factory()
                if not self._fill(pool, tasks):
                    break
                done, _ = wait(self.flying, timeout=0.2, return_when=FIRST_COMPLETED)
                broken = [self._take(future) for future in done]
                if any(broken):
                    self._recover()
                    _end(pool)
                    pool = None
                if done:
                    report(self.catalogue.progress(self.survey))
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        finally:
            try:
                self._land()
            finally:
                if pool is not None:
                    _end(pool, wait_for_rest=self.stopped is None and not self.flying)

    def _land(self) -> None:
        """Cancel what still flies, and keep what came back in the meantime unless something failed."""
        for future in [future for future in self.flying if not future.cancel()]:
            if self.stopped and future.done() and not future.cancelled() and future.exception() is None:
                with suppress(KeyboardInterrupt):
                    self._take(future)

    def _fill(self, pool: Executor, tasks: Iterator[tuple[int, Task]]) -> bool:
        """Submit until enough is in flight; False where nothing is left at all."""
        while len(self.flying) < (1 if self._suspects() else self.window):
            task = self.again.popleft() if self.again else next(tasks, None)
            if task is None:
                break
            try:
                self.flying[pool.submit(run_task, task[1])] = task
            except BrokenExecutor:  # it broke since: what is in flight will say so
                self.again.appendleft(task)
                if not self.flying:
                    raise
                break
            if isinstance(pool, InThisProcess):
                break
        return bool(self.flying)

    def _suspects(self) -> bool:
        """Whether batches wait that have seen workers die twice: those are run alone, to learn which is to blame."""
        waiting = [*self.again, *self.flying.values()]
        return any(self.deaths.get(number, 0) > 1 for number, _ in waiting)

    def _take(self, future: Future[Batch]) -> bool:
        """Write down one batch; True where its worker died, and the batch is to be run again."""
        number, task = self.flying.pop(future)
        try:
            batch = future.result()
        except BaseException as error:
            if not _is_death(error):
                raise
            self.deaths[number] = self.deaths.get(number, 0) + 1
            if self.deaths[number] > _DEATHS:
                raise CatalogueError(
                    f"batch {number} (starts {task.first} to {task.first + len(task.starts) - 1}) ended its worker "
                    f"{self.deaths[number]} times: {error}. Too little memory is the usual cause: try a smaller "
                    "batch_size or fewer workers. A script must start its work under `if __name__ == '__main__':`, or "
                    "its workers run it again. What was committed before is safe"
                ) from error
            self.again.append((number, task))
            return True
        if Status.INTERRUPTED in batch.solution.statuses:
            raise KeyboardInterrupt  # within a search in this process: its seeds are searched again another time
        self.catalogue.add_batch(self.survey, number, batch)
        return False

    def _recover(self) -> None:
        """Keep what came back before the executor broke; the rest is run again by another."""
        for future in [future for future in self.flying if future.done()]:
            self._take(future)
        for future in self.flying:
            future.cancel()  # a cluster would go on with them
        self.again.extend(self.flying.values())
        self.flying.clear()


def _is_death(error: BaseException) -> bool:
    """Whether a worker died, rather than that its work failed; dask names it so."""
    return isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ in (
        "KilledWorker",
        "CommClosedError",
        "FutureCancelledError",
    )


def _end(pool: Executor, *, wait_for_rest: bool = False) -> None:
    if not wait_for_rest:
        for process in list((getattr(pool, "_processes", None) or {}).values()):  # no public way before Python 3.14
            with suppress(Exception):
                process.terminate()
    pool.shutdown(wait=wait_for_rest)


def _told(now: Progress, starts: int) -> str:
    ends = ", ".join(f"{count:,} {status}" for status, count in list(now.statuses.items())[:4])
    best = f", best {now.best:.10g}" if now.converged else ""
    return f"{now.seeds:,} of {starts:,} starts, {now.points:,} points{best}{'; ' + ends if ends else ''}"
