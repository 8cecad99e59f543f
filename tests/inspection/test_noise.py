"""The critical batch size against its definition, over all samples in a loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.inspection import noise
from thalweg.inspection.noise import measure_noise


def problem(samples: int) -> tw.EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 3, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return tw.EmpiricalRisk(model, nn.MSELoss(), inputs, inputs[:, :2] ** 2)


def by_definition(risk: tw.EmpiricalRisk) -> float:
    """tr cov / ||g||^2 with the gradients of the user's own loss on one sample at a time."""
    model = risk.model
    rows = []
    for x, y in zip(risk.inputs, risk.targets, strict=True):
        parameters = [p.detach().requires_grad_() for p in model.parameters()]
        named = dict(zip([n for n, _ in model.named_parameters()], parameters, strict=True))
        loss = nn.MSELoss()(torch.func.functional_call(model, named, (x[None],)), y[None])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    gradients = torch.stack(rows)
    mean = gradients.mean(0)
    return float(((gradients - mean) ** 2).sum(1).mean() / (mean @ mean))


def test_over_all_samples_it_is_the_definition():
    risk = problem(6)
    found = measure_noise(risk, risk.initial, seed=0)
    assert found.samples == 6
    assert found.error == 0
    assert found.critical_batch == pytest.approx(by_definition(risk), rel=1e-9)


def test_over_some_samples_it_is_unbiased(monkeypatch):
    """The mean over many draws of three samples; a factor 3/2 would lie ten standard errors off."""
    monkeypatch.setattr(noise, "SAMPLES", 3)
    risk = problem(60)
    found = torch.tensor([measure_noise(risk, risk.initial, seed=seed).critical_batch for seed in range(400)])
    assert abs(float(found.mean()) - by_definition(risk)) < 4 * float(found.std()) / 20


def test_groups_give_what_all_at_once_gives(monkeypatch):
    risk = problem(30)
    whole = measure_noise(risk, risk.initial, seed=0)
    monkeypatch.setattr(noise, "BYTES", 1)
    parts = measure_noise(risk, risk.initial, seed=0)
    assert parts.samples == 30
    assert parts.critical_batch == pytest.approx(whole.critical_batch, rel=1e-12)
    assert measure_noise(risk, risk.initial, seed=0, stop=lambda: True).samples == 2


def test_weight_decay_adds_to_the_signal_and_not_to_the_noise():
    """Every mini-batch sees the same decay; the definition with gradients of one sample and its decay."""
    risk = problem(6)
    total = risk + tw.L2(risk, 0.5)
    gradients = 6 * risk.sample_gradients(risk.initial) + 0.5 * risk.initial
    mean = gradients.mean(0)
    wanted = float(((gradients - mean) ** 2).sum(1).mean() / (mean @ mean))
    found = measure_noise(risk, risk.initial, seed=0, signal=total.gradient(risk.initial))
    assert found.critical_batch == pytest.approx(wanted, rel=1e-9)
    verdict = tw.inspect(total, risk.initial)
    assert verdict.noise is not None
    assert verdict.noise.critical_batch == pytest.approx(wanted, rel=1e-9)
