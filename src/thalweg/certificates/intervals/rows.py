"""Tables of balls as lists of rows, and what is done with them entry by entry or as matrices."""

from __future__ import annotations

from thalweg.certificates.intervals.arithmetic import Matrix, Row, matrix

__all__ = ["as_matrix", "by_entry", "plus", "product", "times"]


def as_matrix(rows: list[Row]) -> Matrix:
    """Rows as a matrix."""
    return matrix(len(rows), len(rows[0]), [x for row in rows for x in row])


def product(left: list[Row], right: list[Row]) -> list[Row]:
    """The product of two matrices, given and returned row by row."""
    entries, width = (as_matrix(left) * as_matrix(right)).entries(), len(right[0])
    return [entries[start : start + width] for start in range(0, len(entries), width)]


def by_entry(left: list[Row], right: list[Row]) -> list[Row]:
    """Row by row, entry by entry."""
    return [times(a, b) for a, b in zip(left, right, strict=True)]


def times(left: Row, right: Row) -> Row:
    """Entry by entry."""
    return [a * b for a, b in zip(left, right, strict=True)]


def plus(left: Row, right: Row) -> Row:
    """Entry by entry."""
    return [a + b for a, b in zip(left, right, strict=True)]
