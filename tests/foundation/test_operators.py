"""Operators against the matrices they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh, lsmr

from thalweg.foundation import InvalidInputError, LinearOperator, MemoryLimitError, memory_limit


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator(m: torch.Tensor, **settings: bool) -> LinearOperator:
    back = None if settings.get("symmetric") else lambda v: m.T @ v
    return LinearOperator(tuple(m.shape), lambda v: m @ v, back, **settings)


def test_products_with_vectors_and_columns_count() -> None:
    m = matrix(3, 5)
    op = operator(m)
    v, block = matrix(5, 1, 1)[:, 0], matrix(5, 4, 2)
    torch.testing.assert_close(op @ v, m @ v)
    torch.testing.assert_close(op @ block, m @ block)
    torch.testing.assert_close(op.transpose_matmul(v[:3]), m.T @ v[:3])
    assert op.products == 1 + 4 + 1
    assert repr(op) == "<LinearOperator 3 x 5, 6 products>"


@pytest.mark.parametrize("size", [1, 7, 255, 256, 257, 600])
def test_dense_is_the_matrix_also_beyond_one_block(size: int) -> None:
    m = matrix(4, size)
    torch.testing.assert_close(operator(m).dense(), m, rtol=0, atol=0)


def test_a_symmetric_dense_matrix_is_exactly_symmetric() -> None:
    m = matrix(9, 9)
    m = m + m.T + 1e-13 * matrix(9, 9, 1)
    found = operator(m, symmetric=True).dense()
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, m, rtol=1e-11, atol=1e-11)


def test_dense_is_refused_before_anything_is_multiplied() -> None:
    op = operator(matrix(200, 200), symmetric=True)
    with memory_limit("500KiB"), pytest.raises(MemoryLimitError, match=r"a dense 200 x 200 matrix .* products"):
        op.dense()
    assert op.products == 0


def test_sums_and_multiples() -> None:
    a, b = matrix(4, 4), matrix(4, 4, 1)
    v = matrix(4, 2, 2)
    total = 2.0 * operator(a) + operator(b) * 0.5
    torch.testing.assert_close(total @ v, (2 * a + b / 2) @ v)
    torch.testing.assert_close(total.transpose_matmul(v), (2 * a + b / 2).T @ v)
    both = operator(a + a.T, symmetric=True) + operator(b + b.T, symmetric=True)
    assert both.symmetric
    assert not (operator(a + a.T, symmetric=True) + operator(b)).symmetric
    torch.testing.assert_close(both.transpose_matmul(v), (a + a.T + b + b.T) @ v)


def test_scipy_sees_the_same_matrix() -> None:
    m = matrix(30, 30)
    m = m + m.T
    found = eigsh(operator(m, symmetric=True).to_scipy(), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found), torch.linalg.eigvalsh(m)[-3:].numpy(), rtol=1e-10)
    tall = matrix(12, 5)
    wanted = matrix(12, 1, 3)[:, 0].numpy()
    solution = lsmr(operator(tall).to_scipy(), wanted, atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(solution, np.linalg.lstsq(tall.numpy(), wanted, rcond=None)[0], rtol=1e-8)


def test_scipy_may_hand_over_any_view() -> None:
    m = matrix(4, 4)
    backwards = np.arange(4.0)[::-1]
    np.testing.assert_allclose(operator(m).to_scipy() @ backwards, m.numpy() @ backwards)
    locked = np.ones(4)
    locked.flags.writeable = False
    np.testing.assert_allclose(operator(m).to_scipy() @ locked, m.numpy() @ locked)


@pytest.mark.parametrize("wrong", [torch.zeros(4), torch.zeros(5, 2, 2), torch.zeros(())])
def test_a_wrong_length_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match=r"expected \(5,\) or \(5, k\), got"):
        operator(matrix(3, 5)) @ wrong


@pytest.mark.parametrize(
    ("wrong", "found"), [(np.zeros(5), "ndarray"), ([0.0] * 5, "list"), (torch.zeros(5) * 1j, "a complex tensor")]
)
def test_what_is_no_real_tensor_is_refused(wrong: object, found: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"multiplies real tensors, got {found}; to_scipy\(\) takes NumPy"):
        operator(matrix(3, 5)) @ wrong


def test_no_columns_give_none_without_a_product() -> None:
    def never(columns: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked to multiply nothing")

    op = LinearOperator((3, 5), never, never)
    assert (op @ torch.zeros(5, 0)).shape == (3, 0)
    assert op.transpose_matmul(torch.zeros(3, 0)).shape == (5, 0)
    assert (op @ torch.zeros(5, 0)).dtype == torch.float64
    assert op.products == 0


def test_a_missing_transpose_and_unequal_shapes_are_refused() -> None:
    without = LinearOperator((3, 5), lambda v: v[:3])
    with pytest.raises(InvalidInputError, match="without a product for its transpose"):
        without.transpose_matmul(torch.zeros(3))
    with pytest.raises(InvalidInputError, match=r"cannot add operators of shapes \(3, 5\) and \(5, 5\)"):
        without + operator(matrix(5, 5))
