"""Densities: moments exact in the mean, error bars that cover."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
import torch
from designed_spectra import dense, diagonal, normal, rotated, uniform
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, MemoryLimitError, RunControl, memory_limit
from thalweg.tangent import Density, spectral_density

SPECTRUM = torch.cat([uniform(300, -1, 1), 4 + uniform(100, 0, 1, seed=1)])


def campaign() -> list[Density]:
    operator = diagonal(SPECTRUM)
    return [spectral_density(operator, probes=12, steps=16, seed=seed) for seed in range(100)]


@pytest.fixture(scope="module")
def densities() -> list[Density]:
    return campaign()


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x,
    "square": lambda x: x**2,
    "exp": torch.exp,
    "step": lambda x: (x > 2.5).double(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_bars_cover(densities: list[Density], name: str) -> None:
    """Student's t with 11 degrees of freedom: 66.1 % within one standard error, 92.9 % within two."""
    function = FUNCTIONS[name]
    truth = float(function(SPECTRUM).mean())
    found = [density.mean_of(function) for density in densities]
    scores = torch.tensor([(float(f.value) - truth) / float(f.standard_error) for f in found])
    assert float((scores.abs() < 1).double().mean()) == pytest.approx(0.661, abs=0.145)
    assert float((scores.abs() < 2).double().mean()) == pytest.approx(0.929, abs=0.08)
    assert abs(float(scores.mean())) < 4 * 1.1 / 100**0.5


def test_shares_below_a_level_in_a_gap(densities: list[Density]) -> None:
    share = densities[0].below(2.5)
    assert float(share.value) == pytest.approx(0.75, abs=5 * float(share.standard_error))
    assert float(share.standard_error) < 0.03


def test_histogram_holds_everything_once(densities: list[Density]) -> None:
    density = densities[0]
    edges = torch.linspace(float(density.nodes.min()), float(density.nodes.max()), 9, dtype=torch.float64)
    bins = density.histogram(edges)
    assert bins.value.shape == bins.standard_error.shape == (8,)
    assert float(bins.value.sum()) == pytest.approx(1, abs=1e-12)


def test_smoothed_density_integrates_to_one_and_shows_the_two_bands(densities: list[Density]) -> None:
    grid = torch.linspace(-4, 9, 2601, dtype=torch.float64)
    smooth = densities[0].smoothed(grid)
    assert float(torch.trapezoid(smooth.value, grid)) == pytest.approx(1, abs=1e-6)
    low = float(torch.trapezoid(smooth.value[grid < 2.5], grid[grid < 2.5]))
    assert low == pytest.approx(0.75, abs=0.1)
    with pytest.raises(InvalidInputError, match="width"):
        densities[0].smoothed(grid, width=0.0)


def test_one_probe_is_gauss_quadrature_of_its_own_measure() -> None:
    """Moments up to degree 2k - 1 of the probe's measure are exact; all of them when k = P."""
    matrix = rotated(uniform(12, -1, 1))
    density = spectral_density(dense(matrix), probes=1, steps=12, seed=5)
    values, vectors = torch.linalg.eigh(matrix)
    assert torch.allclose(density.nodes[0], values, atol=1e-12)
    probe = torch.randn(12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    probe = probe / probe.norm()
    assert torch.allclose(density.weights[0], (vectors.T @ probe) ** 2, atol=1e-12)
    short = spectral_density(dense(matrix), probes=1, steps=4, seed=5)
    for degree in range(8):
        exact = float(probe @ torch.linalg.matrix_power(matrix, degree) @ probe)
        assert float(short.mean_of(lambda x, degree=degree: x**degree).value) == pytest.approx(exact, abs=1e-12)
    assert math.isnan(float(short.below(0).standard_error))


@pytest.mark.parametrize(
    "spectrum", [torch.zeros(30), torch.ones(30), torch.tensor([2.0]), torch.tensor([0.0] * 20 + [3.0])]
)
def test_degenerate_spectra(spectrum: Tensor) -> None:
    density = spectral_density(dense(rotated(spectrum)), probes=3, steps=8)
    assert torch.allclose(density.weights.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-12)
    mean = density.mean_of(lambda x: x)
    assert abs(float(mean.value) - float(spectrum.double().mean())) <= 5 * float(mean.standard_error) + 1e-12
    assert bool(torch.isfinite(density.smoothed(torch.linspace(-1, 4, 50)).value).all())


def test_same_seed_same_density(untouched_random_state: None) -> None:
    operator = diagonal(normal(200))
    first, again, other = (spectral_density(operator, 2, 8, seed=seed).nodes for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_stops_keep_finished_probes() -> None:
    column, used, event = uniform(500, 0, 1).unsqueeze(1), [0], threading.Event()

    def make(stop: object) -> LinearOperator:
        used[0] = 0

        def matmat(v: Tensor) -> Tensor:
            used[0] += 1
            if used[0] == 25 and callable(stop):
                stop()
            return column * v

        return LinearOperator((500, 500), matmat, symmetric=True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    by_key = spectral_density(make(interrupt), probes=5, steps=10)
    assert (by_key.reason, len(by_key.nodes), by_key.products) == ("interrupted", 2, 24)
    by_event = spectral_density(make(event.set), probes=5, steps=10, control=RunControl(stop_event=event))
    assert (by_event.reason, len(by_event.nodes)) == ("interrupted", 2)
    assert math.isfinite(float(by_event.below(0.5).standard_error))
    none = spectral_density(make(None), control=RunControl(budget=1e-9))
    assert (none.reason, len(none.nodes)) == ("time limit", 0)
    assert math.isnan(float(none.below(0.5).value))
    assert bool(none.smoothed(torch.linspace(0, 1, 5)).value.isnan().all())


def test_refusals() -> None:
    with pytest.raises(InvalidInputError, match="symmetric"):
        spectral_density(LinearOperator((3, 3), lambda v: v))
    with pytest.raises(InvalidInputError, match="at least one"):
        spectral_density(diagonal(torch.ones(3)), probes=0)
    big = LinearOperator((1_000_000, 1_000_000), lambda v: v, symmetric=True)
    with memory_limit("100MB"), pytest.raises(MemoryLimitError, match="steps=8"):
        spectral_density(big)
    assert big.products == 0
