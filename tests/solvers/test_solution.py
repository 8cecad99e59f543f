"""The record: loud where something failed, indexable, one screen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from solver_functions import rosenbrock

from thalweg.foundation import InvalidInputError
from thalweg.objectives import as_theta
from thalweg.solvers import Solution, Status, minimize


@pytest.fixture(scope="module")
def mixed() -> Solution:
    starts = torch.tensor([[[1.0, 1.0], [-1.2, 1.0]], [[1.01, 1.0], [5.0, -3.0]]])
    return minimize(rosenbrock(), starts, max_iterations=4)


def test_repr_is_loud_unless_all_converged(mixed: Solution) -> None:
    assert repr(mixed).startswith("<Solution NOT ALL CONVERGED: 2 of 4, 2 iteration limit")
    assert repr(mixed[1]).startswith("<Solution NOT CONVERGED: iteration limit")
    assert "all 2 converged" in repr(minimize(rosenbrock(), torch.tensor([[1.0, 1.0], [-1.2, 1.0]])))


def test_summary_fits_a_screen_and_names_the_failures(mixed: Solution) -> None:
    text = mixed.summary()
    assert len(text.splitlines()) < 25
    assert Status.ITERATION_LIMIT.sentence in text
    assert "start 1: iteration limit" in text
    assert "start 0" not in text


def test_each_start_is_a_solution_of_its_own(mixed: Solution) -> None:
    parts = list(mixed)
    assert len(parts) == len(mixed) == 4
    assert parts[2].theta.shape == (2,)
    assert parts[2].status is mixed.status[1, 0]
    assert torch.equal(parts[3].theta, mixed.theta[1, 1])
    with pytest.raises(InvalidInputError, match="no start 4"):
        mixed[4]


def test_best_prefers_what_converged(mixed: Solution) -> None:
    assert mixed.best().status is Status.CONVERGED
    assert float(mixed.best().value) == float(mixed.value[mixed.converged].min())


def test_is_frozen_and_stands_for_its_points(mixed: Solution) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        mixed.seconds = 0.0  # type: ignore[misc]  # what is tested is that this fails
    assert torch.equal(as_theta(mixed, rosenbrock()), mixed.theta)


def test_every_status_has_a_sentence_of_its_own() -> None:
    sentences = [status.sentence for status in Status]
    assert len(set(sentences)) == len(sentences)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert [s.value for s in Status if s.escapes] == [
        "diverging along a channel",
        "saturating units",
        "separable data",
        "unexplained growth",
    ]
