"""The signs of the eigenvalues of every symmetric matrix in an interval matrix."""

from __future__ import annotations

import numpy as np

from thalweg.certificates.intervals.arithmetic import Matrix, ball, matrix, midpoints

__all__ = ["inertia", "near_zero_eigenvalues"]


def inertia(hessian: Matrix) -> tuple[int, int] | None:
    """Numbers of negative and of positive eigenvalues of every symmetric matrix in an interval matrix.

    A congruence with rough eigenvectors makes the matrix nearly diagonal; the signs of the pivots of its factorisation
    ``L D L^T`` are those of the eigenvalues (Sylvester). That no pivot vanishes proves the congruence regular as well.

    Returns:
        None where some pivot's sign is open.
    """
    size = hessian.nrows()
    rough = midpoints(hessian)
    if not np.isfinite(rough).all():
        return None
    try:
        values, vectors = np.linalg.eigh((rough + rough.T) / 2)
    except np.linalg.LinAlgError:
        return None
    vectors = vectors[:, np.argsort(-np.abs(values))]  # the largest first, so that pivots stay apart from rounding
    congruence = matrix(size, size, [ball(float(x)) for x in vectors.reshape(-1)])
    rows = (congruence.transpose() * hessian * congruence).tolist()
    signs = []
    for k in range(size):
        pivot = rows[k][k]
        if not (pivot > 0 or pivot < 0):
            return None
        signs.append(bool(pivot > 0))
        for i in range(k + 1, size):
            factor = rows[i][k] / pivot
            for j in range(k + 1, i + 1):  # the lower triangle; for a pivot column the row is its transpose
                rows[i][j] = rows[i][j] - factor * rows[j][k]
    positive = sum(signs)
    return size - positive, positive


def near_zero_eigenvalues(hessian: Matrix) -> int:
    """How many eigenvalues of the midpoint are zero to rounding, whatever the units of the parameters."""
    rough = midpoints(hessian)
    if not np.isfinite(rough).all():
        return 0
    for _ in range(20):  # towards units in which the largest entry of every row is one (Ruiz 2001)
        scale = np.sqrt(np.abs(rough).max(1))
        scale[scale == 0] = 1.0
        rough = rough / scale[:, None] / scale
    values = np.abs(np.linalg.eigvalsh((rough + rough.T) / 2))
    return int((values < 1e-9 * values.max()).sum()) if values.max() > 0 else len(values)
