"""Every exhibit of the zoo keeps the contract."""

from __future__ import annotations

import pytest
import torch

from thalweg.zoo import KnowsCriticalPoints, RunsAway, all_infinities, all_known, check_objective

EXHIBITS = [*all_known(), *all_infinities()]
# The channel is in both lists.
DISTINCT = list({exhibit.objective.fingerprint(): exhibit for exhibit in EXHIBITS}.values())


@pytest.mark.parametrize("exhibit", DISTINCT, ids=[exhibit.name for exhibit in DISTINCT])
def test_it_keeps_the_contract(exhibit) -> None:
    objective = exhibit.objective
    source = torch.Generator().manual_seed(1)
    thetas = torch.randn(2, objective.space.size, generator=source, dtype=torch.float64)
    others = [other.objective for other in DISTINCT if other is not exhibit]
    check_objective(objective, thetas, others=others)


def test_names_are_unique_and_fingerprints_too() -> None:
    names = [exhibit.name for exhibit in EXHIBITS]
    assert len(set(names)) == len(names)
    known = [exhibit.objective.fingerprint() for exhibit in all_known()]
    assert len(set(known)) == len(known)


def test_collections_are_made_anew_and_alike() -> None:
    for collect in (all_known, all_infinities):
        first, second = collect(), collect()
        assert [e.objective.fingerprint() for e in first] == [e.objective.fingerprint() for e in second]
        assert all(a.objective is not b.objective for a, b in zip(first, second, strict=True))


def test_exhibits_are_small_and_know_what_they_should() -> None:
    assert all(exhibit.objective.space.size <= 40 for exhibit in EXHIBITS)
    assert all(isinstance(exhibit.objective, KnowsCriticalPoints) for exhibit in all_known())
    assert all(isinstance(exhibit.objective, RunsAway) for exhibit in all_infinities())


def test_every_kind_of_point_is_there_in_numbers() -> None:
    points = [point for _, objective in all_known() for point in objective.critical_points()]
    kinds = {kind: sum(p.kind == kind for p in points) for kind in {p.kind for p in points}}
    assert set(kinds) == {"strict minimum", "degenerate minimum", "saddle", "degenerate saddle", "maximum"}
    assert min(kinds.values()) >= 2
    assert any(p.is_minimum and not p.is_global for p in points)
    assert max(p.index for p in points) >= 12
