"""Whatever is drawn inside, the global random states are afterwards what they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from thalweg.foundation import preserved_random_state


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


@pytest.mark.usefixtures("untouched_random_state")
def test_states_are_put_back_also_after_an_error() -> None:
    with preserved_random_state():
        draw()
    with pytest.raises(ValueError, match="inside"), preserved_random_state(3):
        raise ValueError(f"inside {draw()}")


@pytest.mark.usefixtures("untouched_random_state")
def test_a_seed_fixes_what_is_drawn() -> None:
    with preserved_random_state(5):
        first = draw()
    with preserved_random_state(5):
        assert draw() == first
    with preserved_random_state(6):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_without_a_seed_the_states_go_on_from_where_they_are() -> None:
    with preserved_random_state():
        first = draw()
    with preserved_random_state():
        assert draw() == first
