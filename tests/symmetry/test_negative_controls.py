"""Ordinary minima whose units are nearly parallel and act against each other: none is a channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from channel_cases import Field
from torch import nn

import thalweg as tw
from thalweg.symmetry import ChannelEnd, resolve_channel, resolve_channels

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(threshold=1e6),
    "sigmoid(4z)+softplus(z)": Field,
}


def control(name: str, seed: int) -> tuple[tw.EmpiricalRisk, torch.Tensor, float] | None:
    """A strict minimum with two units within a cosine distance of 1e-3, or None where the search led to something else.

    The input weights are large, so that near in angle is not near in distance; the targets are a teacher's, with noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d, width, n = int(torch.randint(2, 5, (), generator=generator)), 4, 400
    x = draw(n, d)
    weight, bias = draw(width, d), draw(width)
    epsilon = float(0.05 + 0.5 * torch.rand((), generator=generator))
    direction = nn.functional.normalize(draw(d + 1), dim=0)
    middle = nn.functional.normalize(draw(d + 1), dim=0) * epsilon / 0.02
    for unit, sign in ((0, 1.0), (1, -1.0)):
        row = middle + sign * epsilon * direction
        weight[unit], bias[unit] = row[:d], row[d]
    pull = float(1 + 2 * torch.rand((), generator=generator))
    outgoing = draw(1, width)
    outgoing[0, :2] = torch.tensor([pull, -pull * (1 + 0.1 * float(draw(1)))], dtype=torch.float64)
    model = nn.Sequential(nn.Linear(d, width), ACTIVATIONS[name](), nn.Linear(width, 1)).double()
    plain = tw.EmpiricalRisk(model, nn.MSELoss(), x, torch.zeros(n, 1, dtype=torch.float64))
    parts = {"0.weight": weight, "0.bias": bias, "2.weight": outgoing, "2.bias": draw(1)}
    theta = plain.space.flatten(parts)
    risk = plain.on(x, plain.outputs(theta) + 1e-3 * draw(n, 1))
    found = tw.minimize(risk, theta)
    rows = risk.space.unflatten(found.theta)
    incoming = torch.cat([rows["0.weight"], rows["0.bias"].unsqueeze(1)], 1)
    cosine = float(nn.functional.cosine_similarity(incoming[0], incoming[1], dim=0))
    ordinary = bool(found.converged) and int(found.index) == 0 and int(found.undecided) == 0
    return (risk, found.theta, 1 - cosine) if ordinary and 1 - cosine < 1e-3 else None


def outcomes(name: str, seeds: range, wanted: int) -> Counter[str]:
    """What resolving says at the minimum itself and a little beside it, asked for this very pair too."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        case = control(name, seed)
        if case is None:
            continue
        risk, theta, _ = case
        generator = torch.Generator().manual_seed(seed)
        beside = theta * (1 + 1e-4 * torch.randn(theta.shape, generator=generator, dtype=torch.float64))
        asked = resolve_channel(risk, theta, layer=0, groups=[(0, 1)])
        ends = [*resolve_channels(risk, torch.stack([theta, beside])), asked]
        for end in ends:
            assert end.end not in (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE), f"seed {seed}: {end.message}"
        seen[ends[0].end.value] += 1
        if seen.total() == wanted:
            break
    return seen


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_ordinary_minimum_is_called_a_channel(name: str) -> None:
    assert outcomes(name, range(100), 3).total() == 3


@pytest.mark.soak
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_none_of_many_is_called_a_channel(name: str, soak_figure: Callable[[str, object], None]) -> None:
    seen = outcomes(name, range(1000, 3000), 150)
    soak_figure("ordinary minima with nearly parallel units", f"{seen.total()}, certified as a channel 0; {dict(seen)}")
    assert seen.total() == 150
