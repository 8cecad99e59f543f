"""What the processes of a survey do: take a batch of starts, search from all of them, send back how they ended."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.catalogue.records import Batch
from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.solvers import Method, Resolver, Solution, minimize
from thalweg.solvers.solution import in_batch_shape, tensor_fields

__all__ = ["InThisProcess", "Packed", "Search", "Task", "own_processes", "packed", "run_task"]

_HELD: dict[str, Objective] = {}
"""The last objective this process was sent, so that it is unpacked once and not for each batch."""


@dataclass(frozen=True)
class Search:
    """How to search: the arguments of `thalweg.minimize`."""

    method: str | Method
    tolerance: float
    max_iterations: int | None
    resolver: Resolver | None = None


@dataclass(frozen=True)
class Packed:
    """An objective on its way to other processes."""

    digest: str
    content: bytes


@dataclass(frozen=True)
class Task:
    """A batch of starts ``(b, P)``, numbered from `first`; the objective is packed unless it stays in this process."""

    objective: Packed | Objective
    search: Search
    first: int
    starts: Float[Tensor, "b P"]


def packed(objective: Objective) -> Packed:
    """The objective as bytes.

    Raises:
        InvalidInputError: where it, or something it holds, cannot be sent.
    """
    try:
        content = pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"{objective!r} cannot be sent to other processes: {error}. Put what it is made of at the top level of a "
            "file that can be imported, or pass workers=0 to search in this process"
        ) from error
    return Packed(hashlib.sha256(content).hexdigest(), content)


def run_task(task: Task) -> Batch:
    """Search from all starts of a task; runs in a worker."""
    if isinstance(task.objective, Objective):
        return _searched(task.objective, task)
    if task.objective.digest not in _HELD:
        _HELD.clear()
        _HELD[task.objective.digest] = pickle.loads(task.objective.content)
    return _searched(_HELD[task.objective.digest], task)


def _searched(objective: Objective, task: Task) -> Batch:
    begun, search = time.monotonic(), task.search
    found = minimize(
        objective,
        task.starts.to(objective.device),
        method=search.method,
        tolerance=search.tolerance,
        max_iterations=search.max_iterations,
        resolver=search.resolver,
        progress=False,
    )
    seeds = torch.arange(task.first, task.first + len(task.starts))
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return Batch(seeds, _on_cpu(found), time.monotonic() - begun, worker)


def _on_cpu(solution: Solution) -> Solution:
    changes: dict[str, Any] = {name: getattr(solution, name).detach().cpu() for name in tensor_fields()}
    ends = [
        None if end is None else replace(end, theta=end.theta.detach().cpu(), signature=end.signature.detach().cpu())
        for end in solution.ends
    ]
    return replace(solution, **changes, end=in_batch_shape(ends, solution.batch))


def own_processes(workers: int) -> Callable[[], Executor]:
    """A factory of process pools on this machine: spawned, one thread each, gone when this process is."""
    return lambda: ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker)


def _begin_worker() -> None:
    torch.set_num_threads(1)  # the pool shares the cores; threads of its members would compete for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears the keyboard, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's workers outlive a driver that was killed: they wait for work that never comes."""
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


class InThisProcess(Executor):
    """Runs each task when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run now; the future is done when it is returned."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # whatever it is, it belongs to the future
            future.set_exception(error)
        return future
