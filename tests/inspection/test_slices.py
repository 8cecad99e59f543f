"""Slices: what is drawn is the loss, and the range shows what the words say."""

from __future__ import annotations

import pytest
import torch

import thalweg as tw
from thalweg.inspection.curvature import dense_curvature
from thalweg.inspection.point import measure_point
from thalweg.inspection.slices import cut_slices


def test_a_shallow_descent_is_shown_where_it_is():
    """x^4 - 1e-4 x^2 falls by 2.5e-9 within 0.01 and then rises: at the size of theta none of that is seen."""
    space = tw.ParameterSpace({"x": (1,), "y": (1,)})
    loss = tw.Penalty(space, lambda p: (p["x"] ** 4 - 1e-4 * p["x"] ** 2 + p["y"] ** 2).sum(), name="shallow")
    theta = torch.tensor([0.0, 1.0], dtype=torch.float64)
    point = measure_point(loss, theta)
    curvature, _ = dense_curvature(loss, theta, 1)
    lowest = next(cut for cut in cut_slices(loss, theta, point, curvature, None) if cut.name == "smallest curvature")
    assert "curves downwards" in lowest.meaning
    assert float(lowest.values.min()) < point.value
    assert float(lowest.t.max()) < 0.02


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e9])
def test_slices_are_the_same_in_any_unit_of_the_parameters(scale):
    space = tw.ParameterSpace({"x": (2,)})

    def made(factor: float) -> tw.Objective:
        return tw.Penalty(space, lambda p: torch.cos(p["x"] / factor).sum() + (p["x"] / factor)[1] ** 2, name="wave")

    theta = torch.tensor([0.3, 0.4], dtype=torch.float64)
    ours, plain = (tw.inspect(made(factor), factor * theta) for factor in (scale, 1.0))
    assert [step.name for step in ours.steps] == [step.name for step in plain.steps]
    for one, other in zip(ours.slices, plain.slices, strict=True):
        if other.name.startswith("suggested"):  # its range is in multiples of the step
            continue
        torch.testing.assert_close(one.t / scale, other.t, rtol=1e-6, atol=0)
        torch.testing.assert_close(one.values, other.values, rtol=1e-6, atol=1e-9)
    assert ours.kind is plain.kind
    assert ours.best_step.measured == pytest.approx(plain.best_step.measured, rel=1e-6)
