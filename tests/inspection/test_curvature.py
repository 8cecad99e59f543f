"""Counts by sign where the point is near the critical one rather than at it."""

from __future__ import annotations

import math

import torch

import thalweg as tw
from thalweg.inspection.curvature import dense_curvature, hessian_shift
from thalweg.inspection.point import measure_point
from thalweg.zoo import Quadratic


def test_what_is_small_beside_a_large_shift_is_undecided_rather_than_zero():
    """1e-6 is no zero eigenvalue, and a Hessian that may differ by 1e-3 cannot make it one."""
    quadratic = Quadratic([1e-6, 1.0, 2.0])
    theta = torch.zeros(3, dtype=torch.float64)
    counts = dense_curvature(quadratic, theta, 1, shift=1e-3)[0].inertia
    assert (counts.zero, counts.undecided, counts.positive) == (0, 1, 2)


def test_a_flat_direction_explains_a_zero_whatever_the_shift():
    quadratic = Quadratic([0.0, 1.0], seed=None)
    objective = tw.Penalty(tw.ParameterSpace({"x": (2,)}), lambda p: p["x"][1] ** 2 / 2 + 0 * p["x"][0], name="trough")
    theta = torch.zeros(2, dtype=torch.float64)
    found = tw.inspect(objective, theta)
    counts = dense_curvature(quadratic, theta, 1, shift=1e-3, flat=found.flat)[0].inertia
    assert (counts.zero, counts.explained, counts.undecided) == (1, 1, 0)


def test_the_shift_bounds_the_change_of_the_hessian_on_the_way():
    """x^2 + x^4: the Hessian 2 + 12 x^2 changes by 12 x^2 to the minimum."""
    objective = tw.Penalty(tw.ParameterSpace({"x": (1,)}), lambda p: (p["x"] ** 2 + p["x"] ** 4).sum(), name="well")
    theta = torch.tensor([1e-3], dtype=torch.float64)
    point = measure_point(objective, theta)
    curvature, hessian = dense_curvature(objective, theta, 1)
    assert 12e-6 <= hessian_shift(objective, theta, point, curvature, hessian) <= 3 * 12e-6


def test_a_shift_into_nowhere_decides_nothing():
    """x log x + 3 x has no Hessian at the end of the Newton step, which lies at a negative x."""
    objective = tw.Penalty(
        tw.ParameterSpace({"x": (1,)}), lambda p: (p["x"] * p["x"].log() + 3 * p["x"]).sum(), name="entropy"
    )
    theta = torch.tensor([1.0], dtype=torch.float64)
    point = measure_point(objective, theta)
    curvature, hessian = dense_curvature(objective, theta, 1)
    shift = hessian_shift(objective, theta, point, curvature, hessian)
    assert math.isfinite(shift)
    assert dense_curvature(objective, theta, 1, shift=shift)[0].inertia.undecided == 1
