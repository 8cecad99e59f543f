"""The identity A V = V H + Q B through steps, breakdowns and restarts."""

from __future__ import annotations

import pytest
import torch
from designed_spectra import dense, rotated, uniform
from torch import Tensor

from thalweg.tangent._krylov import KrylovSpace


def defect(space: KrylovSpace, matrix: Tensor) -> float:
    """How far the identity and the orthonormality are from holding."""
    rows = space._rows[: space.m + space.pending]
    basis, pending = rows[: space.m].T, rows[space.m :].T
    identity = torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), dtype=torch.float64))
    return float(identity + torch.linalg.matrix_norm(matrix @ basis - basis @ space.H - pending @ space.B))


SPECTRA = {
    "plain": uniform(40, -1, 1),
    "low rank": torch.cat([torch.zeros(36), torch.tensor([3.0, 2, -1, 1])]),
    "two values": torch.cat([torch.zeros(25), torch.ones(15)]),
    "zero": torch.zeros(40),
}


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("name", SPECTRA)
def test_identity_holds_until_the_space_is_exhausted(name: str, block: int) -> None:
    matrix = rotated(SPECTRA[name])
    space = KrylovSpace(dense(matrix), 40, block, torch.Generator().manual_seed(0))
    while not space.exhausted:
        space.absorb(space.multiply())
        assert defect(space, matrix) < 1e-12
    values, _, residuals = space.ritz()
    assert torch.allclose(values, SPECTRA[name].double().sort().values, atol=1e-13)
    assert float(residuals.max()) < 1e-13


@pytest.mark.parametrize("block", [1, 2])
def test_identity_survives_restarts(block: int) -> None:
    matrix = rotated(uniform(60, -1, 2, seed=5))
    space = KrylovSpace(dense(matrix), 14, block, torch.Generator().manual_seed(1))
    for _ in range(40):
        if space.full:
            values, coordinates, residuals = space.ritz()
            space.restart(coordinates[:, [0, 1, -2, -1]])
            kept, _, again = space.ritz()
            assert torch.allclose(kept, values[[0, 1, -2, -1]], atol=1e-13)  # a restart loses no wanted value
            assert torch.allclose(again, residuals[[0, 1, -2, -1]], atol=1e-12)
        space.absorb(space.multiply())
        assert space.m <= space.capacity
        assert defect(space, matrix) < 1e-11


@pytest.mark.parametrize("block", [1, 3])
def test_orthogonality_does_not_wear_off(block: int) -> None:
    """Far from zero every product is nearly the vector itself: what is new in it is what is left of a cancellation."""
    matrix = rotated(-100 - uniform(150, 0, 1))
    space = KrylovSpace(dense(matrix), 60, block, torch.Generator().manual_seed(2))
    for _ in range(240 // block):
        if space.full:
            space.restart(space.ritz()[1][:, [*range(10), *range(-10, 0)]])
        space.absorb(space.multiply())
    rows = space._rows[: space.m + space.pending]
    assert float((rows @ rows.T - torch.eye(len(rows), dtype=torch.float64)).abs().max()) < 1e-12
    assert defect(space, matrix) < 1e-10


def test_a_nearly_invariant_space_gives_clean_directions() -> None:
    """After three steps what is new is 1e-10 of the product, mostly rounding: it must not be taken as it is."""
    matrix = rotated(torch.cat([torch.tensor([3.0, 2, -1]).double(), 1e-10 * uniform(57, -1, 1)]))
    space = KrylovSpace(dense(matrix), 60, 1, torch.Generator().manual_seed(2))
    for _ in range(20):
        space.absorb(space.multiply())
        assert defect(space, matrix) < 1e-12


def test_an_operator_that_is_not_symmetric_keeps_the_identity() -> None:
    """Then products come back along every basis vector, and one pass of Gram-Schmidt is not enough."""
    skew = 30 * torch.randn(80, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = rotated(-100 - uniform(80, 0, 1)) + (skew - skew.T) / 80**0.5
    space = KrylovSpace(dense(matrix), 80, 1, torch.Generator().manual_seed(2))
    while not space.exhausted:
        space.absorb(space.multiply())
        assert defect(space, matrix) < 1e-10


def test_slices_of_a_rotation_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.tangent._krylov._SLICE", 50)
    matrix = rotated(uniform(60, -1, 2, seed=5))
    space = KrylovSpace(dense(matrix), 12, 1, torch.Generator().manual_seed(1))
    while not space.full:
        space.absorb(space.multiply())
    space.restart(space.ritz()[1][:, :3])
    assert defect(space, matrix) < 1e-12
