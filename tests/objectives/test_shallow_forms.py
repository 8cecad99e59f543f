"""The two forms of the sums over samples, against the sums themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from thalweg.objectives.shallow_forms import ByPairs, Entering, Form, Joint, Sums, form_for


def entering(rows: Tensor) -> Entering:
    p, q = torch.triu_indices(rows.shape[1], rows.shape[1])
    return Entering(rows.mT.contiguous(), rows, rows[:, p] * rows[:, q])


@pytest.mark.parametrize("form", [Joint, ByPairs])
@pytest.mark.parametrize("weighted", [False, True], ids=["one bend", "a bend for each sample"])
@pytest.mark.parametrize(("count", "m", "p", "c", "n"), [(3, 4, 3, 1, 7), (2, 1, 1, 1, 5), (70, 9, 6, 1, 13)])
def test_sums_and_their_block(form: type[Form], weighted: bool, count: int, m: int, p: int, c: int, n: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, slopes, weight = draw(n, p), draw(count, m, n), draw(count, 1, n)
    units, pull, own = draw(count, m + 1, n), draw(count, c, n), draw(count, m, p * (p + 1) // 2)
    bend = weight if weighted else torch.ones_like(weight)
    left = slopes * weight if weighted else slopes
    one = form(m, p, "cpu")
    found = one.products(entering(x), slopes, left, units, pull)
    assert torch.allclose(found[1], torch.einsum("sin,shn,np->ship", left, units, x), atol=1e-12)
    assert torch.allclose(found[2], torch.einsum("sin,scn,np->scip", slopes, pull, x), atol=1e-12)
    joint, ends = draw(count, m, m), draw(count, c, m)
    joint = joint + joint.mT
    sums = Sums(found[0], own, found[1], found[2], units, pull)
    block = one.block(sums, joint, ends)[:, one.places().flatten()].view(count, m * p, m * p)
    whole = torch.einsum("sij,sin,sjn,skn,np,nq->sipjq", joint, slopes, slopes, bend, x, x)
    p_of, q_of = torch.triu_indices(p, p)
    for i in range(m):
        corner = torch.zeros(count, p, p, dtype=torch.float64)
        corner[:, p_of, q_of] = corner[:, q_of, p_of] = own[:, i] * ends[:, 0, i : i + 1]
        whole[:, i, :, i] += corner
    assert torch.allclose(block, whole.reshape(count, m * p, m * p), atol=1e-11)
    assert torch.equal(block, block.mT)


def test_without_pull_and_own() -> None:
    """What ``J^T B J`` alone takes."""
    x, slopes = torch.randn(5, 2, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    nothing = slopes.new_zeros(3, 0, 5)
    for form in (Joint(4, 2, "cpu"), ByPairs(4, 2, "cpu")):
        of_units, crossed, pulled = form.products(entering(x), slopes, slopes, slopes, nothing)
        assert pulled.shape == (3, 0, 4, 2)
        sums = Sums(of_units, nothing[:, :, :0], crossed, pulled, slopes, nothing)
        ends = torch.ones(3, 1, 4, dtype=torch.float64)
        block = form.block(sums, ends.mT @ ends, ends)[:, form.places().flatten()].view(3, 8, 8)
        rows = torch.einsum("sin,np->sipn", slopes, x).flatten(1, 2)
        assert torch.allclose(block, rows @ rows.mT, atol=1e-12)


def test_a_room_serves_other_sizes_and_types() -> None:
    form = form_for(2, 2, 2, 1, "cpu")
    for count, n, dtype in ((1, 9, torch.float64), (4, 3, torch.float64), (2, 3, torch.float32)):
        x, slopes = torch.randn(n, 2, dtype=dtype), torch.randn(count, 2, n, dtype=dtype)
        found = form.products(entering(x), slopes, slopes, slopes, slopes[:, :1])
        assert torch.allclose(found[1], torch.einsum("sin,shn,np->ship", slopes, slopes, x), atol=1e-5)
        assert found[0].dtype == dtype
