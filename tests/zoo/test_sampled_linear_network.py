"""Linear networks on samples: the saddles of the whitened network, in other coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.foundation import InvalidInputError
from thalweg.objectives import EmpiricalRisk
from thalweg.zoo import LinearNetwork, SampledLinearNetwork, whitened_samples

TARGET = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]], dtype=torch.float64)


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_whitened_samples_are_white_and_fit_the_target_best() -> None:
    x, y = (part.numpy() for part in whitened_samples(TARGET, 20, noise=0.7, seed=1))
    np.testing.assert_allclose(x.T @ x / 20, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(np.linalg.lstsq(x, y, rcond=None)[0].T, TARGET.numpy(), atol=1e-13)
    np.testing.assert_allclose(((y - x @ TARGET.numpy().T) ** 2).mean(0), 0.49, rtol=1e-12)


def test_on_white_data_it_is_the_closed_form_plus_a_constant() -> None:
    x, y = whitened_samples(TARGET, 20, noise=0.7)
    sampled, closed = SampledLinearNetwork(x, y, 2), LinearNetwork(TARGET, 2)
    thetas = gaussian(5, closed.space.size, seed=2)
    torch.testing.assert_close(sampled.value(thetas), closed.value(thetas) + 2 * 0.49 / 2)
    assert sampled.constant == pytest.approx(0.49, rel=1e-12)
    for ours, theirs in zip(sampled.critical_points(), closed.critical_points(), strict=True):
        assert (ours.index, ours.nullity, ours.kind) == (theirs.index, theirs.nullity, theirs.kind)
        torch.testing.assert_close(ours.spectrum, theirs.spectrum, atol=1e-12, rtol=0)


@pytest.mark.parametrize("widths", [1, 2, 3, [2, 2]])
def test_correlated_inputs_keep_index_and_nullity(widths) -> None:
    mixing = torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.0, 0.0, 0.3]], dtype=torch.float64)
    x = gaussian(40, 3, seed=3) @ mixing
    y = gaussian(40, 2, seed=4) + x @ TARGET.T
    network = SampledLinearNetwork(x, y, widths)
    for point in network.critical_points():
        _, gradient, hessian = network.evaluate(point.theta, 2)
        assert float(gradient.abs().max()) < 1e-12
        spectrum = torch.linalg.eigvalsh(hessian)
        level = 1e-12 * float(spectrum.abs().max())
        found = int((spectrum < -level).sum()), int((spectrum.abs() <= level).sum())
        assert found == (point.index, point.nullity)
        assert point.spectrum is None
        if point.tangent is not None:
            assert float((hessian @ point.tangent).abs().max()) < 1e-12
            identity = torch.eye(point.tangent.shape[1], dtype=torch.float64)
            torch.testing.assert_close(point.tangent.T @ point.tangent, identity)


def test_the_value_is_half_the_mean_squared_error_of_a_module() -> None:
    x, y = gaussian(11, 3, seed=5), gaussian(11, 2, seed=6)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False))
    risk, network = EmpiricalRisk(model, nn.MSELoss(reduction="sum"), x, y), SampledLinearNetwork(x, y, [4, 5])
    assert network.space == risk.space
    torch.testing.assert_close(network.value(risk.initial), risk.value(risk.initial) / 22)


def test_the_global_minimum_of_a_narrow_network_is_the_best_of_its_rank() -> None:
    """Against reduced-rank regression by hand: project the least-squares fit on its leading directions."""
    x, y = gaussian(30, 3, seed=7), gaussian(30, 3, seed=8)
    fit = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    predicted = x.numpy() @ fit
    _, _, right = np.linalg.svd(predicted)
    best = ((x.numpy() @ fit @ right[:1].T @ right[:1] - y.numpy()) ** 2).sum() / 60
    (point,) = (p for p in SampledLinearNetwork(x, y, 1).critical_points() if p.is_global)
    assert point.value == pytest.approx(best, rel=1e-12)


def test_unusable_data_are_refused() -> None:
    x = gaussian(10, 2, seed=9)
    with pytest.raises(InvalidInputError, match="must have rank 3"):
        SampledLinearNetwork(torch.cat([x, x[:, :1]], dim=1), gaussian(10, 1, seed=10), 2)
    with pytest.raises(InvalidInputError, match="5 columns without correlation"):
        whitened_samples(TARGET, 4, noise=1.0)
    assert whitened_samples(TARGET, 3)[0].shape == (3, 3)
