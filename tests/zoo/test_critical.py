"""A critical point cannot contradict itself, and is asked for by capability."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from thalweg.foundation import InvalidInputError, NotApplicableError, ParameterSpace
from thalweg.objectives import L2
from thalweg.zoo import CriticalPoint, KnowsCriticalPoints, Quadratic, critical_points_of
from thalweg.zoo.critical import count_signs, orthonormal

THETA = torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "index", "nullity"),
    [
        ("strict minimum", 0, 0),
        ("degenerate minimum", 0, 1),
        ("saddle", 1, 0),
        ("saddle", 2, 1),
        ("degenerate saddle", 0, 3),
        ("maximum", 3, 0),
        ("maximum", 1, 2),
    ],
)
def test_what_fits_together_is_accepted(kind, index, nullity) -> None:
    point = CriticalPoint(THETA, 0.0, index, nullity, kind, "because")
    assert point.positive == 3 - index - nullity
    assert point.is_minimum == kind.endswith("minimum")


@pytest.mark.parametrize(
    ("kind", "index", "nullity"),
    [
        ("strict minimum", 1, 0),
        ("strict minimum", 0, 1),
        ("degenerate minimum", 0, 0),
        ("saddle", 0, 1),
        ("degenerate saddle", 1, 1),
        ("maximum", 1, 0),
        ("saddle", 3, 1),
        ("saddle", 1, -1),
    ],
)
def test_contradictions_are_refused(kind, index, nullity) -> None:
    message = f"{kind} of 3 parameters cannot have {index} negative and {nullity} zero"
    with pytest.raises(InvalidInputError, match=message):
        CriticalPoint(THETA, 0.0, index, nullity, kind, "because")


def test_more_flat_directions_than_zero_eigenvalues_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 flat directions"):
        CriticalPoint(THETA, 0.0, 0, 1, "degenerate minimum", "", tangent=torch.eye(3, dtype=torch.float64)[:, :2])


def test_a_global_saddle_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot be a global minimum"):
        CriticalPoint(THETA, 0.0, 1, 0, "saddle", "because", is_global=True)


def test_records_are_frozen() -> None:
    point = CriticalPoint(THETA, 0.0, 1, 0, "saddle", "because")
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.index = 2


def test_objectives_without_knowledge_decline_by_name() -> None:
    penalty = L2(ParameterSpace({"x": (2,)}), 1.0)
    assert not isinstance(penalty, KnowsCriticalPoints)
    with pytest.raises(NotApplicableError, match=r"critical_points_of does not apply to L2\(1\).*knows critical"):
        critical_points_of(penalty)
    assert isinstance(Quadratic([1.0]), KnowsCriticalPoints)


def test_signs_are_counted_exactly() -> None:
    assert count_signs(torch.tensor([-1e-300, -0.0, 0.0, 1e-300], dtype=torch.float64)) == (1, 2)


def test_orthonormal_keeps_the_span_and_drops_dependence() -> None:
    columns = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = orthonormal(torch.cat([columns, columns @ torch.tensor([[1.0], [-3.0]], dtype=torch.float64)], dim=1))
    assert basis.shape == (6, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(basis @ (basis.T @ columns), columns)
    assert orthonormal(torch.zeros(4, 3)) is None
    assert orthonormal(torch.zeros(4, 0)) is None
