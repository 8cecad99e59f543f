"""Hutch++: the trace of a matrix from its products, with a standard error.

Meyer, Musco, Musco & Woodruff, "Hutch++: Optimal Stochastic Trace Estimation", SOSA 2021, Algorithm 1. A third of the
products find the range of the large eigenvalues, whose trace is then computed exactly with the second third; the last
third samples what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, RunControl, progress_bar, require_memory

__all__ = ["TraceEstimate", "trace"]

_COLUMNS = 16
"""Columns multiplied at a time, so that a stop is noticed in between."""


@dataclass(frozen=True)
class TraceEstimate:
    """An estimated trace.

    Attributes:
        value: the estimate, unbiased.
        standard_error: one standard deviation of `value`, from the spread of the probes; 0 where the trace is exact.
        probes: samples that the standard error is taken from.
        products: columns multiplied.
        method: ``"hutch++"``; ``"exact"`` where there were P products to spend; ``"hutchinson"`` where it was stopped
            too soon for more; ``"none"`` where it was stopped before two probes (value and error are NaN).
        reason: ``"done"``, ``"time limit"`` or ``"interrupted"``.
    """

    value: float
    standard_error: float
    probes: int
    products: int
    method: Literal["hutch++", "exact", "hutchinson", "none"]
    reason: Literal["done", "time limit", "interrupted"]

    def describe(self) -> str:
        """One line for reports.

        >>> TraceEstimate(12.0, 0.5, 20, 60, "hutch++", "done").describe()
        'trace 12 +- 0.5 (one standard error, 20 probes)'
        """
        return f"trace {self.value:.4g} +- {self.standard_error:.2g} (one standard error, {self.probes} probes)"


def trace(
    operator: LinearOperator,
    products: int = 60,
    *,
    seed: int | torch.Generator = 0,
    control: RunControl | None = None,
) -> TraceEstimate:
    """Estimate the trace of a square operator.

    Args:
        operator: P x P; symmetric or not.
        products: columns to multiply, at least 6; with P or more of them the trace is exact.
        seed: of the random signs.
        control: time budget and stop event; Ctrl-C works too. What was known by then is returned.

    Raises:
        InvalidInputError: for an operator that is not square or not finite, or too few products.
        MemoryLimitError: if a third of the products' columns do not fit three times.

    >>> weights = torch.linspace(0, 1, 500, dtype=torch.float64).unsqueeze(1)
    >>> estimate = trace(LinearOperator((500, 500), lambda v: weights * v, symmetric=True))
    >>> abs(estimate.value - 250) < 4 * estimate.standard_error + 1e-9
    True
    """
    size = operator.shape[0]
    if operator.shape[1] != size:
        raise InvalidInputError(f"a trace needs a square operator, got {operator!r}")
    if products < 6:
        raise InvalidInputError(f"Hutch++ needs at least 6 products, got {products}")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    third = products // 3
    columns = size if products >= size else third
    item = torch.empty((), dtype=operator.dtype).element_size()
    require_memory(3 * columns * size * item, f"{columns} columns of {size}, three times", "Use fewer products.")
    with progress_bar("trace", products) as bar:
        run = _Products(operator, control or RunControl(), bar.update)
        if products >= size:
            return _exact(run, size)
        return _hutch_plus_plus(run, size, third, products - 2 * third, generator)


class _Products:
    """Products by small blocks of columns, until something says stop."""

    def __init__(self, operator: LinearOperator, control: RunControl, report: Callable[[float], object]) -> None:
        self.operator = operator
        self.control = control
        self.report = report
        self.used = 0
        self.reason: Literal["done", "time limit", "interrupted"] = "done"

    def __call__(self, columns: Tensor) -> Tensor:
        """Product with as many of the columns, from the left, as there was time for."""
        done: list[Tensor] = []
        for part in columns.split(_COLUMNS, dim=1):
            why = self.control.why_stop()
            if self.reason != "done" or why is not None:
                self.reason = "time limit" if "time limit" in (why, self.reason) else "interrupted"
                break
            try:
                image = self.operator @ part
            except KeyboardInterrupt:
                self.reason = "interrupted"
                break
            if not bool(torch.isfinite(image).all()):
                raise InvalidInputError("the operator's product with a random vector is NaN or infinite")
            done.append(image)
            self.used += part.shape[1]
            self.report(self.used)
        return torch.cat(done, dim=1) if done else columns[:, :0]


def _exact(run: _Products, size: int) -> TraceEstimate:
    """All columns of the matrix; where it is stopped, nothing is known of the others."""
    identity = torch.eye(size, dtype=run.operator.dtype, device=run.operator.device)
    found = run(identity)
    if found.shape[1] < size:
        return TraceEstimate(float("nan"), float("nan"), 0, run.used, "none", run.reason)
    return TraceEstimate(float(found.diagonal().double().sum()), 0.0, 0, run.used, "exact", "done")


def _hutch_plus_plus(run: _Products, size: int, sketch: int, probes: int, generator: torch.Generator) -> TraceEstimate:
    def signs(count: int) -> Tensor:
        bits = torch.randint(0, 2, (size, count), generator=generator)
        return (2 * bits - 1).to(dtype=run.operator.dtype, device=run.operator.device)

    start = signs(sketch)
    image = run(start)
    if image.shape[1] < sketch:  # signs times their image are Hutchinson's own samples
        return _from_samples(0.0, _quadratic(start[:, : image.shape[1]], image), run, "hutchinson")
    basis = torch.linalg.qr(image).Q
    inside = run(basis)
    if inside.shape[1] < sketch:
        return _from_samples(0.0, _quadratic(start, image), run, "hutchinson")
    large = float(_quadratic(basis, inside).sum())
    fresh = signs(probes)
    fresh = fresh - basis @ (basis.T @ fresh)
    answers = run(fresh)
    samples = _quadratic(fresh[:, : answers.shape[1]], answers)
    if len(samples) < 2:
        return _from_samples(0.0, _quadratic(start, image), run, "hutchinson")
    return _from_samples(large, samples, run, "hutch++")


def _quadratic(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(0, dtype=torch.float64)


def _from_samples(
    known: float, samples: Tensor, run: _Products, method: Literal["hutch++", "hutchinson"]
) -> TraceEstimate:
    count = len(samples)
    if count < 2:
        return TraceEstimate(float("nan"), float("nan"), count, run.used, "none", run.reason)
    error = float(samples.std(unbiased=True)) / count**0.5
    return TraceEstimate(known + float(samples.mean()), error, count, run.used, method, run.reason)
