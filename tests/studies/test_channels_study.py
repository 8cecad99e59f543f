"""The study of channels: its problems against what is known of them, and its parts at the smallest size."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.integrate import quad

from thalweg.foundation import InvalidInputError
from thalweg.studies import Part
from thalweg.studies.channels import STUDY, inside, landscape, levels, published_state, roughness
from thalweg.studies.channels.problems import gaussian_process, split, toy

# the names of parts hide those of their files
landscapes = sys.modules["thalweg.studies.channels.landscape"]
grid_levels = sys.modules["thalweg.studies.channels.levels"]

SMALL = replace(
    STUDY.presets["quick"],
    steps=3000,
    widths=(1, 2),
    runs=6,
    sobol_starts=6,
    sobol_samples=400,
    roughness=(0.1, 2.0),
    targets=1,
    seeds=2,
    samples=100,
    workers=0,
)


def test_the_toy_is_an_integral_over_the_normal_distribution() -> None:
    from math import erf, exp, pi, sqrt

    def unit(z: float) -> float:
        return erf(z / sqrt(2))

    theta = split(1.3, 0.7, 2.0, 0.1)
    w1, w2, a1, a2 = theta.tolist()

    def square(x: float) -> float:
        out = a1 * unit(w1 * x) + a2 * unit(w2 * x)
        return (out - unit(5 * x + 2.5) - unit(5 * x - 2.5)) ** 2 * exp(-x * x / 2) / sqrt(2 * pi)

    exact = quad(square, -12, 12, limit=500, epsabs=1e-13)[0]
    assert float(toy().value(theta)) == pytest.approx(exact, abs=1e-11)


@pytest.mark.parametrize("s", [0.5, 3.0])
def test_draws_of_the_process_have_its_covariance(s: float) -> None:
    x = torch.tensor([[0.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([gaussian_process(x, s, generator) for _ in range(4000)])
    distance = 3**0.5 * s * 0.5
    expected = (1 + distance) * 2.718281828459045**-distance
    assert float(draws.var(0).mean()) == pytest.approx(1.0, abs=0.08)
    assert float((draws[:, 0] * draws[:, 1]).mean()) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(
    ("compute", "claims"), [(landscape, 16), (inside, 12), (levels, 8), (published_state, 2), (roughness, 1)]
)
def test_parts_at_the_smallest_size(compute, claims: int, tmp_path: Path) -> None:
    part = compute(SMALL, tmp_path)
    assert isinstance(part, Part)
    assert part.items
    assert len(part.claims) == claims
    if compute is not roughness:  # two seeds show no trend
        assert all(claim.holds for claim in part.claims), [claim for claim in part.claims if not claim.holds]


def test_claims_fail_where_another_figure_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, c, a, value, h = landscapes.ENDS["first"]
    monkeypatch.setitem(landscapes.ENDS, "first", (w, c, a, value + 2e-8, h * 1.01))
    failed = [claim.text for claim in landscape(SMALL, tmp_path).claims if not claim.holds]
    assert len(failed) == 4, failed  # the ends of searches, the loss, h, where the flow leads
    monkeypatch.setitem(grid_levels.LEVELS, 1, ((0.8573540913, False), (0.9277586732, True)))
    failed = [claim.text for claim in levels(replace(SMALL, widths=(1,)), tmp_path).claims if not claim.holds]
    assert failed == ["1 unit, a level at infinity"]


@pytest.mark.parametrize(
    "change",
    [
        {"step_sizes": ()}, {"step_sizes": (1.0,)}, {"step_sizes": (-0.1,)}, {"steps": 1}, {"longest": 0.0},
        {"targets": 0}, {"roughness": (1.0,)}, {"widths": ()}, {"workers": -1}, {"seeds": 1.5},
    ],
)  # fmt: skip
def test_settings_that_make_no_study_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        replace(SMALL, **change)
