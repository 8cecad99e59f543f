"""Linear networks: every saddle has the declared inertia, at the balanced point and along its orbit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.foundation import InvalidInputError, MemoryLimitError, memory_limit
from thalweg.objectives import EmpiricalRisk
from thalweg.zoo import LinearNetwork


def inertia(network: LinearNetwork, theta: torch.Tensor) -> tuple[int, int]:
    spectrum = torch.linalg.eigvalsh(network.hessian(theta))
    level = 1e-11 * float(spectrum.abs().max())
    return int((spectrum < -level).sum()), int((spectrum.abs() <= level).sum())


def test_the_value_is_the_distance_to_the_target() -> None:
    target = np.arange(6.0).reshape(2, 3)
    network = LinearNetwork(torch.tensor(target), [4, 2])
    theta = np.linspace(-1, 1, network.space.size)
    w1, w2, w3 = theta[:12].reshape(4, 3), theta[12:20].reshape(2, 4), theta[20:].reshape(2, 2)
    wanted = ((w3 @ w2 @ w1 - target) ** 2).sum() / 2
    np.testing.assert_allclose(float(network.value(torch.tensor(theta))), wanted, rtol=1e-13)
    np.testing.assert_allclose(network.product(torch.tensor(theta)).numpy(), w3 @ w2 @ w1, rtol=1e-13)


def test_white_data_give_the_same_function_up_to_a_constant() -> None:
    target = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
    network = LinearNetwork(target, 4)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    inputs = torch.eye(3, dtype=torch.float64) * 3**0.5  # three samples with X^T X / N = I
    risk = EmpiricalRisk(model, nn.MSELoss(), inputs, inputs @ target.T)
    assert network.space == risk.space
    thetas = torch.randn(4, network.space.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(network.value(thetas), risk.value(thetas))  # a mean over 2 outputs is half the sum


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (5, 3), (3, 4)])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_subset_to_a_relative_distance_of_1e_minus_4(inputs, outputs, width) -> None:
    s = [2.0, 2.0 * (1 - 1e-4), 1.0]
    network = LinearNetwork.from_singular_values(s, width, inputs=inputs, outputs=outputs, seed=width)
    points = network.critical_points()
    assert len(points) == {1: 4, 2: 7, 3: 8, 4: 8}[width]
    for point in points:
        assert float(network.gradient(point.theta).abs().max()) < 1e-12
        assert inertia(network, point.theta) == (point.index, point.nullity)
        spectrum = torch.linalg.eigvalsh(network.hessian(point.theta))
        torch.testing.assert_close(spectrum, point.spectrum, atol=1e-12, rtol=0)


def test_losses_are_those_of_what_is_left_out() -> None:
    s = np.array([3.0, 2.0, 0.5])
    network = LinearNetwork.from_singular_values(s.tolist(), 3, inputs=4)
    for used in ((), (0,), (1, 2), (0, 1, 2)):
        left_out = np.delete(s, list(used))
        assert network.critical_point(used).value == pytest.approx((left_out**2).sum() / 2, abs=1e-13)


@pytest.mark.parametrize("widths", [3, [2, 3]])
def test_inertia_is_the_same_along_an_orbit(widths) -> None:
    network = LinearNetwork.from_singular_values([3.0, 1.0], widths, inputs=3)
    source = torch.Generator().manual_seed(5)
    for point in network.critical_points():
        noise = [torch.randn(h, h, generator=source, dtype=torch.float64) for h in network.widths]
        matrices = [torch.eye(len(n)) + 0.4 * n for n in noise]
        moved = network.gauge(point.theta, matrices)
        assert not torch.allclose(moved, point.theta) or not point.theta.any()
        torch.testing.assert_close(network.product(moved), network.product(point.theta), atol=1e-12, rtol=0)
        assert float(network.gradient(moved).abs().max()) < 1e-11
        assert inertia(network, moved) == (point.index, point.nullity)


@pytest.mark.parametrize("width", [2, 4])
def test_with_one_hidden_layer_the_flat_directions_explain_every_zero(width) -> None:
    network = LinearNetwork.from_singular_values([3.0, 2.0, 0.5], width, outputs=5)
    for point in network.critical_points():
        found = 0 if point.tangent is None else point.tangent.shape[1]
        assert found == point.nullity
        assert found == 0 or float((network.hessian(point.theta) @ point.tangent).abs().max()) < 1e-12


def test_unused_slots_move_freely_beyond_the_target() -> None:
    """The exhibited zero-change set is more than an orbit: finite steps of unused output weights keep everything."""
    network = LinearNetwork.from_singular_values([3.0, 2.0], 3, outputs=4)
    point = network.critical_point([1])
    beyond = torch.linalg.svd(network.target)[0][:, 2:]
    weights = {name: block.clone() for name, block in network.space.unflatten(point.theta).items()}
    weights["1.weight"][:, 2] += 5 * beyond[:, 0] - 3 * beyond[:, 1]
    moved = network.space.flatten(weights)
    assert float(network.gradient(moved).abs().max()) < 1e-12
    assert float(network.value(moved)) == pytest.approx(point.value, abs=1e-12)
    assert inertia(network, moved) == (point.index, point.nullity)


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_degenerate_saddles_of_deep_networks_have_lower_values_nearby(depth) -> None:
    network = LinearNetwork.from_singular_values([2.0, 1.0], [2] * (depth - 1))
    kinds = [point.kind for point in network.critical_points()]
    assert kinds == ["degenerate saddle", "degenerate saddle", "saddle", "degenerate minimum"]
    left, _, right = torch.linalg.svd(network.target)
    for used in ((), (0,)):
        point = network.critical_point(used)
        rank = len(used)  # the first unused slot carries the next direction, t in every layer
        for t in (0.3, 0.1, 0.03):
            weights = {name: block.clone() for name, block in network.space.unflatten(point.theta).items()}
            names = list(weights)
            weights[names[0]][rank] += t * right[rank]
            weights[names[-1]][:, rank] += t * left[:, rank]
            for name in names[1:-1]:
                weights[name][rank, rank] += t
            lower = float(network.value(network.space.flatten(weights)))
            s = float(network.singular_values[rank])
            assert lower - point.value == pytest.approx(((s - t**depth) ** 2 - s**2) / 2, abs=1e-12)
            assert lower < point.value


def test_global_minima_are_marked_even_among_equal_values() -> None:
    network = LinearNetwork.from_singular_values([2.0, 2.0, 1.0], 1)
    assert [point.is_global for point in network.critical_points()] == [False, True, True, False]
    nothing = LinearNetwork(torch.zeros(2, 2), 2).critical_points()
    assert [(point.kind, point.nullity, point.is_global) for point in nothing] == [("degenerate minimum", 8, True)]


def test_singular_values_within_rounding_are_made_equal() -> None:
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    equal = LinearNetwork(2 * rotation, 4)
    assert equal.singular_values.unique().numel() == 1
    for used in ((), (0,), (1, 3)):
        point = equal.critical_point(used)
        assert inertia(equal, point.theta) == (point.index, point.nullity)
    near = LinearNetwork(torch.diag(torch.tensor([1.0, 1.0 - 1e-9], dtype=torch.float64)), 2)
    assert near.singular_values.unique().numel() == 2


def test_what_the_network_cannot_hold_is_refused() -> None:
    network = LinearNetwork.from_singular_values([2.0, 1.0, 0.0], 2)
    for used in ((0, 0), (2,), (3,), (-1,), (0, 1, 2)):
        with pytest.raises(InvalidInputError, match="must be at most 2 different positions"):
            network.critical_point(used)
    with pytest.raises(InvalidInputError, match="at least one unit"):
        LinearNetwork(torch.eye(2), [])
    with pytest.raises(InvalidInputError, match="a 3 x 4 map has 3 singular values"):
        LinearNetwork.from_singular_values([1.0, 2.0], 2, inputs=4, outputs=3)


def test_too_many_points_are_refused_before_they_are_made() -> None:
    network = LinearNetwork.from_singular_values([float(i + 1) for i in range(24)], 24)
    with memory_limit("1GiB"), pytest.raises(MemoryLimitError, match="16777216 critical points"):
        network.critical_points()
    assert network.critical_point([23]).index > 0
