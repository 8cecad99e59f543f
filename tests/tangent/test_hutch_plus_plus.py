"""Traces: unbiased, with error bars that cover."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from designed_spectra import dense, diagonal, normal, rotated, uniform
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, MemoryLimitError, RunControl, memory_limit
from thalweg.tangent import trace


def interrupted_after(matrix: Tensor, products: int) -> LinearOperator:
    used = [0]

    def matmat(v: Tensor) -> Tensor:
        if used[0] >= products:
            raise KeyboardInterrupt
        used[0] += v.shape[1]
        return matrix @ v

    return LinearOperator((len(matrix), len(matrix)), matmat, symmetric=True)


@pytest.mark.parametrize(
    "spectrum",
    [uniform(300, -1, 2), 10.0 ** torch.linspace(-4, 2, 300, dtype=torch.float64), normal(300, seed=4)],
    ids=["flat", "decades", "indefinite"],
)
def test_error_bars_cover_the_truth_as_often_as_they_should(spectrum: Tensor) -> None:
    operator, truth = dense(rotated(spectrum)), float(spectrum.sum())
    estimates = [trace(operator, 60, seed=seed) for seed in range(300)]
    scores = torch.tensor([(e.value - truth) / e.standard_error for e in estimates])
    # Student's t with 19 degrees of freedom: 66.9 % within one, 94.0 % within two; three standard errors of 300 draws
    assert float((scores.abs() < 1).double().mean()) == pytest.approx(0.669, abs=0.085)
    assert float((scores.abs() < 2).double().mean()) == pytest.approx(0.940, abs=0.045)
    assert abs(float(scores.mean())) < 4 / 300**0.5  # no bias


def test_low_rank_is_exact_up_to_rounding() -> None:
    spectrum = torch.cat([torch.tensor([50.0, 20, 10, -5]).double(), torch.zeros(296, dtype=torch.float64)])
    estimate = trace(dense(rotated(spectrum)), 18)
    assert estimate.value == pytest.approx(75, abs=1e-10)
    assert estimate.standard_error < 1e-10


def test_large_eigenvalues_cost_no_accuracy() -> None:
    """What Hutch++ is for: outliers are taken out, plain Hutchinson would err by their size."""
    spectrum = torch.cat([torch.tensor([1000.0, 800, 500]).double(), uniform(500, 0, 1)])
    estimate = trace(dense(rotated(spectrum)), 60)
    plain = (2 * float((spectrum**2).sum()) / 60) ** 0.5
    assert estimate.standard_error < plain / 50
    assert abs(estimate.value - float(spectrum.sum())) < 5 * estimate.standard_error


def test_enough_products_give_the_trace_itself() -> None:
    matrix = normal(20, 20)
    square = LinearOperator((20, 20), lambda v: matrix @ v)
    estimate = trace(square, 20)
    assert (estimate.method, estimate.standard_error, estimate.products) == ("exact", 0.0, 20)
    assert estimate.value == pytest.approx(float(matrix.trace()), abs=1e-12)


def test_products_are_those_asked_for() -> None:
    operator = diagonal(uniform(500, 0, 1))
    for products in (6, 31, 60):
        assert trace(operator, products).products == products
    assert operator.products == 97


STOPS = [(32, "hutchinson"), (50, "hutchinson"), (82, "hutchinson"), (100, "hutchinson"), (116, "hutch++")]
"""In the sketch, after it, within the exact part, after it, among the last probes."""


@pytest.mark.parametrize(("after", "method"), STOPS)
def test_an_interrupt_leaves_the_best_estimate_known_by_then(after: int, method: str) -> None:
    spectrum = uniform(400, 1, 2)
    estimate = trace(interrupted_after(rotated(spectrum), after), 150)
    assert (estimate.reason, estimate.method) == ("interrupted", method)
    assert estimate.products == after
    assert abs(estimate.value - float(spectrum.sum())) < 5 * estimate.standard_error


def test_a_stop_before_anything_is_known() -> None:
    event = threading.Event()
    event.set()
    for products in (60, 5000):
        estimate = trace(diagonal(torch.ones(1000)), products, control=RunControl(stop_event=event))
        assert (estimate.method, estimate.reason, estimate.products) == ("none", "interrupted", 0)
        assert math.isnan(estimate.value)
    late = trace(diagonal(torch.ones(1000)), control=RunControl(budget=1e-9))
    assert late.reason == "time limit"


def test_same_seed_same_estimate(untouched_random_state: None) -> None:
    operator = dense(rotated(uniform(100, 0, 1)))
    assert trace(operator, 30, seed=1) == trace(operator, 30, seed=1)
    assert trace(operator, 30, seed=1) != trace(operator, 30, seed=2)


def test_refusals() -> None:
    with pytest.raises(InvalidInputError, match="square"):
        trace(LinearOperator((3, 4), lambda v: v))
    with pytest.raises(InvalidInputError, match="at least 6"):
        trace(diagonal(torch.ones(10)), 5)
    for products in (20, 60):
        with pytest.raises(InvalidInputError, match="NaN or infinite"):
            trace(diagonal(torch.full((50,), math.inf)), products)
    with memory_limit("1MB"), pytest.raises(MemoryLimitError, match="fewer products"):
        trace(diagonal(torch.ones(10000)), 60)
