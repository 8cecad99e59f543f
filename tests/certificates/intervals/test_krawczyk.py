"""Krawczyk's operator and the inertia of interval matrices, on functions whose critical points are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thalweg.certificates.intervals.arithmetic import Box, Matrix, Row, around, ball, half_width, matrix, precision
from thalweg.certificates.intervals.inertia import inertia, near_zero_eigenvalues
from thalweg.certificates.intervals.krawczyk import (
    Differentiable,
    Enclosed,
    NotShownError,
    distance,
    enclose_zero,
    isolate,
    settle,
)


class Wells:
    """``x^4/4 - x^2/2 + a y^2/2``: minima at (+-1, 0), a saddle at the origin."""

    def __init__(self, a: float = 1.0) -> None:
        self.a = a

    def gradient(self, box: Box) -> Row:
        x, y = box
        return [x * x * x - x, self.a * y]

    def hessian(self, box: Box) -> Matrix:
        x, _ = box
        return matrix(2, 2, [3 * x * x - 1, ball(0.0), ball(0.0), ball(self.a)])


class Quartic:
    """``x^4``: a degenerate minimum."""

    def gradient(self, box: Box) -> Row:
        return [4 * box[0] * box[0] * box[0]]

    def hessian(self, box: Box) -> Matrix:
        return matrix(1, 1, [12 * box[0] * box[0]])


class Slope:
    """``x + x^3``: no critical point at all, though its curvature vanishes."""

    def gradient(self, box: Box) -> Row:
        return [1 + 3 * box[0] * box[0]]

    def hessian(self, box: Box) -> Matrix:
        return matrix(1, 1, [6 * box[0]])


def go_on() -> None:
    pass


def prove(loss: Differentiable, *start: float) -> tuple[Row, Enclosed]:
    point = [ball(x) for x in start]
    center, inverse = settle(loss, point, go_on)
    return point, enclose_zero(loss, center, inverse, go_on)


@pytest.mark.parametrize(("start", "truth", "negative"), [(1.01, 1.0, 0), (-0.99, -1.0, 0), (0.01, 0.0, 1)])
@pytest.mark.parametrize("a", [1e-6, 1.0, 1e6])
def test_known_points_are_enclosed_with_their_index(start: float, truth: float, negative: int, a: float) -> None:
    with precision():
        point, enclosed = prove(Wells(a), start, 0.02)
        assert enclosed.box[0].contains(truth)
        assert enclosed.box[1].contains(0)
        assert all(half_width(x) < 1e-25 for x in enclosed.box)
        assert enclosed.contraction < 1
        assert inertia(enclosed.hessian) == (negative, 2 - negative)
        away = distance(enclosed.box, point)
        assert away == pytest.approx(math.hypot(start - truth, 0.02), rel=1e-12)
        assert away >= math.hypot(start - truth, 0.02) * (1 - 1e-15)


@pytest.mark.parametrize("start", [1.0, 1.01, 1.1])
def test_the_cube_without_other_points_ends_where_the_hessian_becomes_singular(start: float) -> None:
    """``3 x^2 = 1`` at 0.577: no cube around a point may reach there."""
    with precision():
        point, enclosed = prove(Wells(), start, 0.0)
        away = distance(enclosed.box, point)
        alone = isolate(Wells(), point, enclosed.inverse, away, go_on)
    assert away <= alone.radius < start - 1 / math.sqrt(3)
    assert alone.radius > 0.1
    assert alone.contraction < 1


def test_too_far_a_point_is_not_alone() -> None:
    """Around 0.6 a cube that reaches the minimum holds singular Hessians."""
    with precision():
        _, enclosed = prove(Wells(), 1.0, 0.0)
        point = [ball(0.6), ball(0.0)]
        with pytest.raises(NotShownError, match="could not be shown to be regular"):
            isolate(Wells(), point, enclosed.inverse, distance(enclosed.box, point), go_on)


def test_a_degenerate_minimum_is_not_claimed() -> None:
    for start in (0.0, 1e-3, 0.5):
        with precision(), pytest.raises(NotShownError):
            prove(Quartic(), start)


@pytest.mark.parametrize("start", [0.0, 1e-8, 0.3, -2.0])
def test_where_there_is_no_critical_point_none_is_found(start: float) -> None:
    with precision(), pytest.raises(NotShownError):
        prove(Slope(), start)


def rotated(spectrum: list[float], seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))
    found = (q * torch.tensor(spectrum, dtype=torch.float64) @ q.T).numpy()
    return (found + found.T) / 2


def balls(numbers: np.ndarray, radius: float = 0.0) -> Matrix:
    return matrix(*numbers.shape, [around(x, radius) if radius else ball(x) for x in numbers.reshape(-1).tolist()])


@pytest.mark.parametrize("seed", range(5))
def test_inertia_of_rotated_spectra(seed: int) -> None:
    spectrum = [-5.0, -1e-3, -1e-9, 1e-9, 1e-6, 0.3, 20.0]
    with precision():
        numbers = rotated(spectrum, seed)
        assert inertia(balls(numbers)) == (3, 4)
        assert inertia(balls(numbers, 1e-11)) == (3, 4)
        assert inertia(balls(numbers, 1e-8)) is None
        assert inertia(balls(numbers * 1e200)) == (3, 4)


def test_inertia_reaches_far_below_float64() -> None:
    """Integer matrices are exact: an eigenvalue of 1e-20 relative to the largest is told from zero."""
    with precision():
        assert inertia(matrix(2, 2, [ball(1e10), ball(1.0), ball(1.0), ball(1e-10) + ball(1e-30)])) == (0, 2)
        assert inertia(matrix(2, 2, [ball(1e10), ball(1.0), ball(1.0), ball(1e-10) - ball(1e-25)])) == (1, 1)
        assert inertia(matrix(2, 2, [ball(1.0)] * 4)) is None
        assert inertia(matrix(3, 3, [ball(0.0)] * 9)) is None
        assert inertia(matrix(1, 1, [ball(math.nan)])) is None


def test_every_matrix_in_the_ball_has_the_inertia() -> None:
    generator = np.random.default_rng(0)
    decided = 0
    for _ in range(40):
        numbers = generator.normal(size=(4, 4))
        numbers = numbers + numbers.T
        radius = float(10.0 ** generator.uniform(-3, 0))
        with precision():
            found = inertia(balls(numbers, radius))
        if found is None:
            continue
        decided += 1
        for _ in range(20):
            move = np.triu(radius * np.sign(generator.normal(size=(4, 4))))
            values = np.linalg.eigvalsh(numbers + np.triu(move) + np.triu(move, 1).T)
            assert (int((values < 0).sum()), int((values > 0).sum())) == found
    assert decided > 10


def test_zero_eigenvalues_are_counted_whatever_the_units() -> None:
    numbers = rotated([1.0, 2.0, 0.0, 0.0], 3)
    units = np.array([1e-6, 1.0, 1e3, 1e6])
    with precision():
        assert near_zero_eigenvalues(balls(numbers)) == 2
        assert near_zero_eigenvalues(balls(np.outer(units, units) * rotated([1.0, 2.0, 3.0, 4.0], 3))) == 0
        assert near_zero_eigenvalues(balls(np.zeros((3, 3)))) == 3
