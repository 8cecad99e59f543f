"""Leaving the global random states of Python, NumPy and torch as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["preserved_random_state"]


@contextmanager
def preserved_random_state(seed: int | None = None) -> Iterator[None]:
    """Put the global random states back at the end of the block, whatever foreign code drew inside.

    Args:
        seed: set all of them to this at the start of the block; None leaves them where they are.

    >>> before = torch.get_rng_state()
    >>> with preserved_random_state(0):
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global state is what is preserved
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002  likewise
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002  likewise
