"""The norm barrier and the merge penalty against their formulas."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.foundation import InvalidInputError, ParameterSpace

SPACE = ParameterSpace({"a": (3, 2), "b": (4,)})


def test_the_barrier_and_its_derivatives() -> None:
    barrier, size = tw.NormBarrier(SPACE, threshold=0.5), SPACE.size
    theta = torch.randn(6, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = theta * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)[:, None]
    excess = ((theta**2).sum(1) / (2 * size) - 0.5).clamp(min=0)
    assert bool((excess == 0).any())
    assert bool((excess > 0).any())
    found = barrier.evaluate(theta, 2)
    outer = theta[:, :, None] * theta[:, None, :]
    eye = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(found.value, excess**3 / 3)
    torch.testing.assert_close(found.gradient, (excess**2)[:, None] * theta / size)
    expected = (2 * excess)[:, None, None] * outer / size**2 + (excess**2)[:, None, None] * eye / size
    torch.testing.assert_close(found.hessian, expected)


def test_merging_two_rows() -> None:
    penalty = tw.MergePenalty(SPACE, "a", (0, 2), strength=3.0)
    theta = torch.arange(10, dtype=torch.float64)
    assert float(penalty.value(theta)) == pytest.approx(1.5 * (4.0**2 + 4.0**2))
    expected = torch.zeros(10, dtype=torch.float64)
    expected[0:2], expected[4:6] = -12.0, 12.0
    torch.testing.assert_close(penalty.gradient(theta), expected)


def test_a_barrier_ends_a_way_to_infinity() -> None:
    """Logistic regression of separable data: no minimum without, one with."""
    x = torch.tensor([[-1.0], [-0.5], [0.5], [1.0]], dtype=torch.float64)
    y = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    risk = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.BCEWithLogitsLoss(), x, y)
    start = torch.tensor([0.5, 0.1], dtype=torch.float64)
    assert not bool(tw.minimize(risk, start).converged)
    barrier = tw.NormBarrier(risk, threshold=100.0)
    found = tw.minimize(risk + barrier, start)
    assert bool(found.converged)
    assert float(barrier.value(found.theta)) > 0
    assert float(risk.gradient(found.theta).abs().max()) > float(found.gradient_norm)


def test_they_are_known_by_their_content_and_travel() -> None:
    a, b = tw.NormBarrier(SPACE, 1.0), tw.NormBarrier(SPACE, 2.0)
    assert a.fingerprint() != b.fingerprint()
    assert pickle.loads(pickle.dumps(a)).fingerprint() == a.fingerprint()
    c, d = tw.MergePenalty(SPACE, "a", (0, 1)), tw.MergePenalty(SPACE, "a", (0, 2))
    assert c.fingerprint() != d.fingerprint()


def test_what_makes_no_sense() -> None:
    for threshold in (0.0, -1.0, float("nan"), float("inf"), "far"):
        with pytest.raises(InvalidInputError, match="threshold of a barrier"):
            tw.NormBarrier(SPACE, threshold)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="no block 'c'; there are a, b"):
        tw.MergePenalty(SPACE, "c", (0, 1))
    for rows in ((0, 0), (0, 3), (-1, 0)):
        with pytest.raises(InvalidInputError, match="two different rows"):
            tw.MergePenalty(SPACE, "a", rows)
    with pytest.raises(InvalidInputError, match="strength"):
        tw.MergePenalty(SPACE, "a", (0, 1), strength=0.0)
