"""Points inside channels are called so, with the loss at infinity; near parallel units alone are none."""

from __future__ import annotations

import json

import pytest
import torch
from channel_cases import split, toy
from torch import nn

import thalweg as tw
from thalweg.inspection import Kind
from thalweg.symmetry import channel_path, resolve_channel

FIRST = (0.866296124, 1.66755616, 1.49668456)
LIMIT = 0.0423721519592


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_at_the_bottom_of_a_channel(epsilon: float) -> None:
    risk = toy()
    path = channel_path(resolve_channel(risk, split(*FIRST, 0.02)), [epsilon])
    verdict = tw.inspect(risk, path.theta[0], show_progress=False)
    assert verdict.kind is Kind.CHANNEL
    (proof,) = [c for c in verdict.certificates if c.name == "channel to infinity"]
    assert proof.established
    assert proof.evidence["limit"] == pytest.approx(LIMIT, abs=1e-11)
    assert proof.evidence["excess"] == pytest.approx(proof.evidence["rise"], rel=0.01)
    assert proof.bound == pytest.approx(verdict.value - LIMIT, rel=1e-3)
    lower = proof.evidence["theta"]
    assert float(risk.value(path.theta[0]) - risk.value(lower)) >= proof.bound
    assert verdict.reasons[0] == proof.claim
    assert "It stands on a way to infinity, the channel of units 0 and 1 of hidden layer 0" in verdict.findings[0].text
    assert not any("There is more to gain" in finding.text for finding in verdict.findings)
    told = json.dumps(verdict.to_dict()) if hasattr(verdict, "to_dict") else str(verdict)
    assert "channel to infinity" in told


def test_on_the_way_there_it_is_not_stationary_and_the_end_is_told() -> None:
    verdict = tw.inspect(toy(), split(0.9, 1.6, 1.5, 0.1), show_progress=False)
    assert verdict.kind is Kind.NOT_STATIONARY
    assert any("From here leads a way to infinity" in finding.text for finding in verdict.findings)


def test_parallel_units_at_an_ordinary_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    teacher, out = torch.tensor([[3.0, 1.0], [3.1, 0.95]]).double(), torch.tensor([[40.0, -39.0]]).double()
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 1, bias=False)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, torch.tanh(x @ teacher.T) @ out.T)
    exact = torch.cat([teacher.flatten(), out.flatten()])
    verdict = tw.inspect(risk, exact, show_progress=False)
    assert verdict.kind is Kind.STRICT_MINIMUM
    (asked,) = [c for c in verdict.certificates if c.name == "channel to infinity"]
    assert not asked.established
    assert "finite minimum" in asked.reason


def test_networks_without_channels_are_not_bothered() -> None:
    x = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for hidden in (nn.ReLU(), nn.Tanh()):
        risk = tw.EmpiricalRisk(nn.Sequential(nn.Linear(2, 3), hidden, nn.Linear(3, 1)), nn.MSELoss(), x, x[:, :1])
        (asked,) = tw.certify(risk, risk.initial, ["channel to infinity"], show_progress=False)
        assert not asked.established
