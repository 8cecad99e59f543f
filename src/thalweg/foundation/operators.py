"""Matrices known only by their products.

The thinnest layer that serves: a shape, a function from columns to columns, and the way to SciPy. Curvature matrices of
losses are built on it in `thalweg.objectives` and `thalweg.tangent`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation.errors import InvalidInputError
from thalweg.foundation.memory import require_memory

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

__all__ = ["LinearOperator"]

Columns = Callable[[Tensor], Tensor]

BLOCK = 256
"""Columns multiplied at once when a dense matrix is formed."""


class LinearOperator:
    """A real matrix given by its product with a block of columns.

    Args:
        shape: rows and columns.
        matmat: maps ``(columns, k)`` to ``(rows, k)``.
        rmatmat: product with the transpose, ``(rows, k)`` to ``(columns, k)``; None where there is none.
        symmetric: whether the matrix is its own transpose; `matmat` then serves for both.
        dtype: of vectors in and out.
        device: of vectors in and out.

    `products` counts the columns multiplied so far, by this operator and by what was made of it.

    >>> double = LinearOperator((2, 2), lambda columns: 2 * columns, symmetric=True)
    >>> double @ torch.tensor([1.0, 3.0], dtype=torch.float64)
    tensor([2., 6.], dtype=torch.float64)
    """

    def __init__(
        self,
        shape: tuple[int, int],
        matmat: Columns,
        rmatmat: Columns | None = None,
        *,
        symmetric: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = torch.device(device)
        self.symmetric = symmetric
        self.products = 0
        self._matmat = matmat
        self._rmatmat = matmat if symmetric else rmatmat

    def __repr__(self) -> str:
        kind = "symmetric " if self.symmetric else ""
        return f"<{kind}LinearOperator {self.shape[0]} x {self.shape[1]}, {self.products} products>"

    def __matmul__(self, columns: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Product with a vector ``(columns,)`` or a block ``(columns, k)``, k >= 0; real tensors of any real dtype.

        Raises:
            InvalidInputError: for anything else.
        """
        return self._apply(self._matmat, columns, self.shape[1])

    def transpose_matmul(self, columns: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Product with the transpose, of a vector ``(rows,)`` or columns ``(rows, k)``.

        Raises:
            InvalidInputError: for anything else, and where there is no product with the transpose.
        """
        if self._rmatmat is None:
            raise InvalidInputError("this operator was made without a product for its transpose")
        return self._apply(self._rmatmat, columns, self.shape[0])

    def _apply(self, product: Columns, columns: Tensor, length: int) -> Tensor:
        if not isinstance(columns, Tensor) or columns.is_complex():
            found = "a complex tensor" if isinstance(columns, Tensor) else type(columns).__name__
            raise InvalidInputError(f"an operator multiplies real tensors, got {found}; to_scipy() takes NumPy arrays")
        if columns.dim() not in (1, 2) or columns.shape[0] != length:
            raise InvalidInputError(f"expected ({length},) or ({length}, k), got {tuple(columns.shape)}")
        columns = columns.to(dtype=self.dtype, device=self.device)
        if columns.dim() == 1:
            self.products += 1
            return product(columns.unsqueeze(1)).squeeze(1)
        if columns.shape[1] == 0:  # nothing to multiply: no product need know how to stack nothing
            return columns.new_zeros(self.shape[0] + self.shape[1] - length, 0)
        self.products += columns.shape[1]
        return product(columns)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if other.shape != self.shape:
            raise InvalidInputError(f"cannot add operators of shapes {self.shape} and {other.shape}")
        return LinearOperator(
            self.shape,
            lambda v: (self @ v) + (other @ v),
            lambda v: self.transpose_matmul(v) + other.transpose_matmul(v),
            symmetric=self.symmetric and other.symmetric,
            dtype=self.dtype,
            device=self.device,
        )

    def __mul__(self, factor: float) -> LinearOperator:
        return LinearOperator(
            self.shape,
            lambda v: factor * (self @ v),
            lambda v: factor * self.transpose_matmul(v),
            symmetric=self.symmetric,
            dtype=self.dtype,
            device=self.device,
        )

    __rmul__ = __mul__

    def dense(self) -> Float[Tensor, "rows columns"]:
        """The matrix itself, column block by column block.

        Raises:
            MemoryLimitError: if it would not fit.
        """
        rows, columns = self.shape
        size = torch.empty((), dtype=self.dtype).element_size()
        require_memory(
            (3 if self.symmetric else 2) * rows * columns * size,
            f"a dense {rows} x {columns} matrix",
            "Use products with the operator.",
        )
        matrix = torch.empty(rows, columns, dtype=self.dtype, device=self.device)
        for start in range(0, columns, BLOCK):
            some = slice(start, min(start + BLOCK, columns))
            identity = torch.zeros(columns, some.stop - start, dtype=self.dtype, device=self.device)
            identity[some] = torch.eye(some.stop - start, dtype=self.dtype, device=self.device)
            matrix[:, some] = self @ identity
        return (matrix + matrix.T) / 2 if self.symmetric else matrix

    def to_scipy(self) -> ScipyOperator:
        """The same operator for `scipy.sparse.linalg`, on NumPy vectors."""
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        def forward(array: Any) -> Any:
            return (self @ torch.from_numpy(array.copy())).cpu().numpy()  # SciPy may hand over views torch cannot take

        def backward(array: Any) -> Any:
            return self.transpose_matmul(torch.from_numpy(array.copy())).cpu().numpy()

        numpy_dtype = torch.empty((), dtype=self.dtype).numpy().dtype
        return ScipyOperator(
            self.shape, matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=numpy_dtype
        )
