"""Points that the Hessian does not explain: what they are shows in the values around them."""

from __future__ import annotations

import pytest
import torch

from thalweg.foundation import InvalidInputError
from thalweg.objectives import taylor
from thalweg.zoo import CubicInflection, MonkeySaddle, Quartic


def around(radius: float) -> torch.Tensor:
    angles = torch.linspace(0, 2 * torch.pi, 73, dtype=torch.float64)
    return radius * torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("radius", [1.0, 1e-2, 1e-4])
def test_signs_around_the_point(radius) -> None:
    assert float(Quartic(2).value(around(radius)).min()) >= 0.49 * radius**4
    monkey = MonkeySaddle().value(around(radius))
    assert int(((monkey[1:] > 0) & (monkey[:-1] <= 0)).sum()) == 3  # three ways up, and so three down
    assert float(monkey.min()) == pytest.approx(-(radius**3), rel=1e-2)
    inflection = CubicInflection().value(torch.tensor([-radius, 0.0], dtype=torch.float64))
    assert float(inflection) == pytest.approx(-(radius**3))


def test_hessians_vanish_where_they_should() -> None:
    assert not Quartic(3).hessian(torch.zeros(3)).any()
    assert not MonkeySaddle().hessian(torch.zeros(2)).any()
    torch.testing.assert_close(CubicInflection().hessian(torch.zeros(2)), torch.diag(torch.tensor([0.0, 1.0])).double())


def test_derivatives_along_a_line() -> None:
    torch.testing.assert_close(
        taylor(Quartic(1, scale=2.0, center=1.0), torch.tensor([3.0]), torch.ones(1)),
        torch.tensor([32.0, 64.0, 96.0, 96.0, 48.0], dtype=torch.float64),
    )
    torch.testing.assert_close(
        taylor(CubicInflection(), torch.zeros(2), torch.tensor([1.0, 2.0])),
        torch.tensor([0.0, 0.0, 4.0, 6.0, 0.0], dtype=torch.float64),
    )


def test_the_decoy_has_tiny_gradients_and_a_true_minimum() -> None:
    decoy = Quartic(2, scale=1e-6, center=1.0)
    (point,) = decoy.critical_points()
    near = point.theta + 0.1
    assert float(decoy.gradient(near).abs().max()) < 1e-8
    assert float(decoy.value(near)) > point.value
    assert point.is_global


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="scale must be positive"):
        Quartic(1, scale=0.0)
