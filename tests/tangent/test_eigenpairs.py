"""What the record says of itself."""

from __future__ import annotations

import torch

from thalweg.tangent import Eigenpairs, RayleighQuotient


def record(**changes: object) -> Eigenpairs:
    values = torch.tensor([-2.0, 1.0, 5.0], dtype=torch.float64)
    settings: dict[str, object] = {
        "values": values,
        "vectors": torch.eye(3, dtype=torch.float64),
        "residuals": torch.tensor([0.5, 0.0, 0.001], dtype=torch.float64),
        "converged": torch.tensor([False, True, True]),
        "n_smallest": 1,
        "n_largest": 2,
        "scale": 5.0,
        "tolerance": 1e-3,
        "products": 17,
        "reason": "products",
        "exact": False,
    }
    return Eigenpairs(**(settings | changes))  # type: ignore[arg-type]  # a dictionary of all fields


def test_ends_and_sentences() -> None:
    pairs = record()
    assert pairs.smallest.tolist() == [-2]
    assert pairs.largest.tolist() == [5, 1]
    assert pairs.describe() == "2 of 3 eigenpairs converged in 17 products; the number of products allowed was used up"


def test_lowest_is_a_quotient_with_margin_and_rounding() -> None:
    lowest = record().lowest
    assert (lowest.value, lowest.residual) == (-2, 0.5)
    assert lowest.negative
    assert 1e-15 < lowest.rounding < 1e-13
    assert not RayleighQuotient(-1e-16, 0.0, 1e-15).negative
    assert "<= -2" in lowest.describe()


def test_every_reason_has_its_sentence() -> None:
    for reason in ("converged", "dense", "whole space", "products", "time limit", "interrupted"):
        assert len(record(reason=reason).stopped) > 10
