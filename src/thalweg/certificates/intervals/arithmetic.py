"""Numbers known to lie in an interval: python-flint's Arb, behind one door.

A *ball* is a midpoint with a radius (F. Johansson, *Arb: efficient arbitrary-precision midpoint-radius interval
arithmetic*, IEEE Transactions on Computers 66 (2017)). Whatever is computed from balls holds the exact result for all
numbers in them; a precision that is too low makes balls wide, never wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from thalweg.foundation import NotApplicableError

__all__ = [
    "BITS",
    "Ball",
    "Box",
    "Matrix",
    "Row",
    "around",
    "at_least",
    "at_most",
    "ball",
    "flint",
    "half_width",
    "known_to_twelve_digits",
    "lower",
    "magnitude",
    "matrix",
    "middle",
    "midpoints",
    "multiplication_seconds",
    "precision",
    "upper",
]

Ball = Any
"""A `flint.arb`; typed loosely, for python-flint is optional."""
Row = list[Ball]
Box = Sequence[Ball]
"""One ball for each coordinate of theta, ``(P,)``."""
Matrix = Any
"""A `flint.arb_mat`."""

BITS = 128
"""Bits of a midpoint, unless told otherwise: so many that rounding counts for nothing beside the data's own."""


@cache
def flint() -> Any:
    """The module `flint`.

    Raises:
        NotApplicableError: where python-flint is not installed.
    """
    try:
        return import_module("flint")
    except ImportError:
        raise NotApplicableError(
            "it needs python-flint for interval arithmetic; install it with: pip install thalweg[rigorous]"
        ) from None


@contextmanager
def precision(bits: int = BITS) -> Iterator[None]:
    """Compute with so many bits inside; the setting is python-flint's and holds for the whole process."""
    with flint().ctx.workprec(bits):
        yield


def ball(number: float) -> Ball:
    """Exactly this number."""
    return flint().arb(number)


def around(middle: Ball | float, radius: Ball | float) -> Ball:
    """All numbers within a radius of an exact one."""
    return flint().arb(middle, radius)


def known_to_twelve_digits(number: float) -> Ball:
    """A constant that was recognised numerically, to a relative ``1e-12``.

    One of at most nine digits is taken to be meant as it stands.

    >>> known_to_twelve_digits(0.25).rad() == 0, known_to_twelve_digits(2 / 3).rad() > 0
    (True, True)
    """
    if float(f"{number:.9g}") == number:
        return ball(number)
    return around(number, 4e-12 * abs(number))


def matrix(rows: int, columns: int, entries: Row) -> Matrix:
    """A matrix from its entries, row by row."""
    return flint().arb_mat(rows, columns, entries)


def middle(number: Ball) -> Ball:
    """The midpoint, an exact number."""
    return number.mid()


def upper(number: Ball) -> float:
    """A float that nothing in the ball exceeds.

    >>> 1 / 3 < upper(ball(1) / 3) < 0.334
    True
    """
    found = float(number.upper())
    return math.inf if math.isnan(found) else math.nextafter(found, math.inf)


def lower(number: Ball) -> float:
    """A float that nothing in the ball falls below."""
    return -upper(-number)


def magnitude(number: Ball) -> float:
    """A float that no absolute value in the ball exceeds."""
    found = float(number.abs_upper())
    return math.inf if math.isnan(found) else math.nextafter(found, math.inf)


def at_most(number: float, digits: int = 4) -> str:
    """A number for people, rounded up, so that "within" it stays true.

    >>> at_most(0.123411), at_least(0.123419)
    ('0.1235', '0.1234')
    """
    return _in_digits(number, digits, ROUND_CEILING)


def at_least(number: float, digits: int = 4) -> str:
    """A number for people, rounded down."""
    return _in_digits(number, digits, ROUND_FLOOR)


def _in_digits(number: float, digits: int, rounding: str) -> str:
    if not math.isfinite(number):
        return str(number)
    return f"{Context(prec=digits, rounding=rounding).create_decimal(number).normalize():g}"


def half_width(number: Ball) -> float:
    """A float not below the radius."""
    found = float(number.rad())
    return math.inf if math.isnan(found) else math.nextafter(found, math.inf)


def midpoints(found: Matrix) -> np.ndarray:
    """The midpoints of a matrix, rounded to float64."""
    return np.array([float(entry) for entry in found.entries()]).reshape(found.nrows(), found.ncols())


@cache
def multiplication_seconds() -> float:
    """Time of one multiplication of balls in a Python loop here, measured once; what predictions of cost rest on."""
    with precision():
        some = [ball(1) / (k + 3) for k in range(500)]
        taken = []
        for _ in range(8):  # the shortest: others may be at work
            started = time.perf_counter()
            [one * other for one, other in zip(some, some, strict=True)]
            taken.append(time.perf_counter() - started)
        return max(min(taken) / len(some), 1e-9)
