"""Where the canonical form tips over, and where value and invariant say nothing: the last word has the alignment."""

from __future__ import annotations

import pytest
import torch
from catalogue_cases import batch, draws, risk
from torch import Tensor

from thalweg.catalogue import Catalogue, symmetries_of

SHAPES = ((2, 3, 1), (2, 2, 3, 1))


def _tipping(widths: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Two parameter vectors a rounding error apart whose canonical forms are far from each other."""
    form = symmetries_of(risk("tanh", widths)).canonical
    start, end = draws(risk("tanh", widths), 2, seed)

    def line(t: Tensor) -> Tensor:
        return start + t.unsqueeze(-1) * (end - start)

    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    jumps = form(line(t)).diff(dim=0).abs().amax(-1)
    low, high = t[int(jumps.argmax())], t[int(jumps.argmax()) + 1]
    for _ in range(40):
        middle = (low + high) / 2
        below, here, above = form(line(torch.stack([low, middle, high])))
        low, high = (low, middle) if (here - below).abs().max() > (above - here).abs().max() else (middle, high)
    return line(low), line(high)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("widths", SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_points_on_both_sides_of_an_edge_are_one(widths: tuple[int, ...], seed: int, together: bool) -> None:
    objective = risk("tanh", widths)
    both = torch.stack(_tipping(widths, seed))
    found = symmetries_of(objective)
    assert (both[1] - both[0]).abs().max() < 1e-9
    forms = found.canonical(both)
    assert (forms[1] - forms[0]).abs().max() > 0.01
    with Catalogue("sqlite://") as catalogue:
        if together:
            survey = catalogue.open_survey(objective, {}, 2)
            catalogue.add_batch(survey, 0, batch(objective, found.moved(both, seed)))
        else:
            survey = catalogue.open_survey(objective, {}, 1)
            for number in (0, 1):
                catalogue.add_batch(survey, number, batch(objective, both[number : number + 1], number))
        assert catalogue.points()["multiplicity"].tolist() == [2]


@pytest.mark.parametrize("together", [True, False])
def test_points_of_equal_value_and_invariant_are_two(together: bool) -> None:
    objective = risk()
    found = symmetries_of(objective)
    theta, direction = draws(objective, 2, 1)

    def excess(t: float) -> float:
        return float(found.invariant(theta + t * direction) - found.invariant(theta))

    grid = [excess(t) for t in torch.linspace(-6, 6, 241).tolist()]
    place = next(i for i in range(240) if grid[i] * grid[i + 1] < 0 and abs(i - 120) > 5)
    low, high = (float(torch.linspace(-6, 6, 241)[i]) for i in (place, place + 1))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(low) * excess(middle) > 0 else (low, middle)
    both = torch.stack([theta, theta + low * direction])
    assert abs(excess(low)) < 1e-10
    value = torch.zeros(2, dtype=torch.float64)
    with Catalogue("sqlite://") as catalogue:
        if together:
            survey = catalogue.open_survey(objective, {}, 2)
            catalogue.add_batch(survey, 0, batch(objective, both, value=value))
        else:
            survey = catalogue.open_survey(objective, {}, 1)
            for n in (0, 1):
                catalogue.add_batch(survey, n, batch(objective, both[n : n + 1], n, value=value[:1]))
        assert catalogue.points()["multiplicity"].tolist() == [1, 1]
