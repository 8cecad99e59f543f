"""Small functions with valleys, against NumPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg.foundation import InvalidInputError
from thalweg.objectives import taylor
from thalweg.zoo import CrossedValleys, DoubleWell, HyperbolicValley, ProductChain, Rosenbrock


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_chain_values_and_points(depth) -> None:
    chain = ProductChain(depth)
    theta = np.linspace(0.3, 1.7, depth)
    assert float(chain.value(torch.tensor(theta))) == pytest.approx((theta.prod() - 1) ** 2 / 2, rel=1e-14)
    found = [(p.kind, p.index, p.nullity, p.value) for p in chain.critical_points()]
    wanted = [("degenerate minimum", 0, depth - 1, 0.0), ("saddle", 1, depth - 2, 0.5)]
    assert found == wanted + ([("degenerate saddle", 0, depth, 0.5)] if depth > 2 else [])


@pytest.mark.parametrize(("depth", "power"), [(3, 2), (4, 3)])
def test_gradient_on_the_fibre_of_the_origin(depth, power) -> None:
    """Moving all but one factor by epsilon keeps the outputs, and the gradient is epsilon^(depth - 1)."""
    chain = ProductChain(depth)
    for epsilon in (1e-1, 1e-2, 1e-3):
        theta = torch.full((depth,), epsilon, dtype=torch.float64)
        theta[0] = 0
        assert float(chain.value(theta)) == 0.5
        assert float(chain.gradient(theta).abs().max()) == pytest.approx(epsilon**power, rel=1e-12)


def test_the_origin_of_a_chain_goes_down_in_the_order_of_its_depth() -> None:
    derivatives = taylor(ProductChain(3), torch.zeros(3), torch.ones(3), 4)
    torch.testing.assert_close(derivatives, torch.tensor([0.5, 0, 0, -6, 0], dtype=torch.float64))


@pytest.mark.parametrize("x", [0.1, 1.0, -3.0])
def test_hyperbola(x) -> None:
    point = HyperbolicValley().critical_point(x)
    assert float(point.theta.prod()) == pytest.approx(1)
    hessian = HyperbolicValley().hessian(point.theta).numpy()
    np.testing.assert_allclose(hessian, [[2 / x**2, 2], [2, 2 * x**2]], rtol=1e-12, atol=1e-12)
    size = float(point.spectrum.max())
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), point.spectrum.numpy(), atol=1e-12 * size)
    np.testing.assert_allclose(hessian @ point.tangent.numpy(), 0, atol=1e-12)


def test_valleys_cross_in_a_minimum() -> None:
    valleys = CrossedValleys()
    axis, crossing = valleys.critical_points()
    assert float(valleys.value(axis.theta)) == float(valleys.value(crossing.theta)) == 0
    assert not valleys.hessian(crossing.theta).any()
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21))
    assert float(valleys.value(grid).min()) >= 0


@pytest.mark.parametrize("tilt", [0.0, 0.1, -0.1, 0.38, -0.3849])
def test_wells_are_the_roots_of_the_derivative(tilt) -> None:
    well = DoubleWell(tilt)
    points = well.critical_points()
    roots = np.sort(np.roots([1, 0, -1, tilt]).real)[::-1]
    np.testing.assert_allclose([float(p.theta[0]) for p in points], roots, atol=1e-7)
    assert [p.kind for p in points] == ["strict minimum", "saddle", "strict minimum"]
    lowest = min(float(well.value(torch.tensor([x, 0.0]))) for x in np.linspace(-2, 2, 4001))
    for point in points:
        assert float(well.gradient(point.theta).abs().max()) < 1e-15 * 10
        np.testing.assert_allclose(float(well.value(point.theta)), point.value, atol=1e-15)
        assert point.is_global == (point.is_minimum and point.value < lowest + 1e-6 * abs(lowest - points[1].value))
    assert [p.is_global for p in points] == [tilt <= 0, False, tilt >= 0]


def test_rosenbrock() -> None:
    (point,) = Rosenbrock().critical_points()
    np.testing.assert_allclose(point.spectrum.numpy(), np.linalg.eigvalsh([[802, -400], [-400, 200]]), rtol=1e-11)
    assert float(Rosenbrock().value(torch.tensor([-1.2, 1.0], dtype=torch.float64))) == pytest.approx(24.2)


def test_what_has_no_valley_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 2 factors"):
        ProductChain(1)
    with pytest.raises(InvalidInputError, match=r"below 0\.3849"):
        DoubleWell(0.39)
