"""How much memory may be used, and how work is cut to fit.

Every room asks here before it allocates anything whose size grows with the number of parameters, samples,
seeds or columns. There is one limit (`memory_limit`) for what may be held at once, and one smaller target for the
working set of a single pass, because larger passes than that are slower.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import SupportsFloat

import psutil

from thalweg.foundation.errors import InvalidInputError, MemoryLimitError

__all__ = ["Cost", "Passes", "available_memory", "current_limit", "memory_limit", "plan_passes", "require_memory"]

WORKING_SET = 64 * 2**20
"""Bytes aimed at for one pass.

With 384 MiB gradients and Hessians of small networks took up to three times as long: what is larger than a cache, and
fetched from the system and given back at each operation, is slow to touch.
"""

LARGEST_BLOCK = 32 * 2**20 - 8192
"""Bytes of the largest block that sets the GNU C library's mark for what it keeps."""

GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux shows the limits of control groups, and which group a process is in."""

FRESH = 0.1
"""Seconds for which the memory found free is taken to be free."""

_LATELY: list[tuple[float, int]] = []

_LIMIT: ContextVar[int | None] = ContextVar("thalweg_memory_limit", default=None)


def available_memory() -> int:
    """Bytes that this process may still take: the machine's free memory or its control groups', the smallest."""
    return int(min([psutil.virtual_memory().available, *map(_left_in, _control_groups())]))


def _lately_available() -> int:
    """The same, asked anew after a tenth of a second: the question takes as long as a small Hessian."""
    now = time.monotonic()
    if not _LATELY or now - _LATELY[0][0] > FRESH:
        _LATELY[:] = [(now, available_memory())]
    return _LATELY[0][1]


def _control_groups() -> list[Path]:
    """Folders of the control groups (version 2) that this process is in, none where there are none."""
    try:
        own = next(line[3:] for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "/"
    inner = GROUPS / own.strip("/")
    return [GROUPS, *(folder for folder in (inner, *inner.parents) if GROUPS in folder.parents)]


def _left_in(group: Path) -> float:
    """Bytes left in a control group, infinite without a ceiling.

    A group's use counts the files its processes have read, which the kernel drops when memory is wanted: those that
    were not touched lately are free memory.
    """
    try:
        ceiling = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such file, or no ceiling ("max")
        return math.inf
    return max(0, ceiling - used + int(counts.get("inactive_file", 0)))


def current_limit() -> int:
    """Bytes one request may hold.

    `memory_limit` decides, else the environment variable ``THALWEG_MEMORY``, else a quarter of what is free, at most
    4 GiB.

    Raises:
        InvalidInputError: if the environment variable holds no size.
    """
    chosen = _LIMIT.get()
    if chosen is not None:
        return chosen
    if os.environ.get("THALWEG_MEMORY"):
        try:
            return parse_bytes(os.environ["THALWEG_MEMORY"])
        except InvalidInputError as error:
            raise InvalidInputError(f"the environment variable THALWEG_MEMORY: {error}") from None
    return min(4 * 2**30, _lately_available() // 4)


_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:([kKMGT])(i?))?[bB]?\s*")


@contextmanager
def memory_limit(size: float | str) -> Iterator[None]:
    """Limit the memory that requests inside the ``with`` block may hold.

    Args:
        size: bytes, or a text such as ``"2GiB"`` or ``"500MB"``.

    Raises:
        InvalidInputError: for what is no size, and for a size that is not positive and finite.

    >>> with memory_limit("2GiB"):
    ...     current_limit()
    2147483648
    """
    token = _LIMIT.set(parse_bytes(size))
    try:
        yield
    finally:
        _LIMIT.reset(token)


def parse_bytes(size: float | str) -> int:
    """Read a byte count.

    ``KiB``, ``MiB``, ... are powers of 1024, ``kB``, ``MB``, ... powers of 1000.

    Raises:
        InvalidInputError: for what is no size, and for a size that is not positive and finite.

    >>> parse_bytes("1.5 GiB"), parse_bytes("2MB"), parse_bytes(100)
    (1610612736, 2000000, 100)
    """
    if isinstance(size, SupportsFloat) and not isinstance(size, bool):
        count = int(size) if math.isfinite(size) else 0
    else:
        match = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if match is None:
            raise InvalidInputError(f"cannot read {size!r} as a memory size; write for example '2GiB' or '500MB'")
        power = " KMGT".index((match[2] or " ").upper())
        count = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if count <= 0:
        raise InvalidInputError(f"a memory limit must be positive and finite, got {size!r}")
    return count


def require_memory(needed: int, what: str, alternative: str) -> None:
    """Refuse a request before it allocates.

    Raises:
        MemoryLimitError: if `needed` exceeds the limit; the message holds both figures and `alternative`.
    """
    limit = current_limit()
    if needed > limit:
        raise MemoryLimitError(what, needed, limit, alternative)


@dataclass(frozen=True)
class Cost:
    """What one evaluation of one parameter vector holds in memory.

    Attributes:
        samples: number of samples the value sums over; 0 where the value cannot be cut.
        bytes_per_sample: intermediate bytes a sample takes in a pass forward and back.
        bytes_fixed: bytes per parameter vector whatever the samples (a few copies of theta).
    """

    samples: int = 0
    bytes_per_sample: int = 0
    bytes_fixed: int = 0


@dataclass(frozen=True)
class Passes:
    """How a batched evaluation is cut: copies (seeds times columns) at once, samples at once."""

    copies: int
    samples: int


@cache
def _keep_freed_memory() -> None:
    """Let the process hold on to up to 64 MiB that it has freed, for the next pass.

    The GNU C library gives back to the system what is freed at the end of its heap beyond twice the largest block it
    has freed so far; fetching it again page by page took half the time of small networks' passes. A block of the
    largest size that counts, freed untouched, raises that mark for good. Other libraries do not mind.
    """
    bytearray(LARGEST_BLOCK)


def plan_passes(cost: Cost, copies: int, working_set: int | None = None) -> Passes:
    """Cut `copies` simultaneous evaluations so that one pass stays within the working set (bytes; None: `WORKING_SET`).

    All samples are kept together as long as at least a handful of copies then fit; only after that are samples cut too.
    What one parameter vector holds cannot be cut: where it alone takes most of the working set, samples get half of it
    all the same, for a large network taken sample by sample would never come to an end.
    """
    _keep_freed_memory()
    aim = WORKING_SET if working_set is None else working_set
    room = max(1, min(aim, 2 * current_limit() // 5))  # the allocator holds on to about as much again
    if cost.samples == 0:
        return Passes(_clip(room // max(1, cost.bytes_fixed), copies), 0)
    whole = cost.bytes_fixed + cost.samples * cost.bytes_per_sample
    fit = room // max(1, whole)
    if fit >= min(copies, 8):
        return Passes(_clip(fit, copies), cost.samples)
    together = _clip(room // max(1, cost.bytes_fixed + 64 * cost.bytes_per_sample), min(copies, 16))
    share = max(room // together - cost.bytes_fixed, room // 2 if together == 1 else 0)
    return Passes(together, _clip(share // max(1, cost.bytes_per_sample), cost.samples))


def _clip(count: int, top: int) -> int:
    return max(1, min(count, top))
