"""The count of parameters and targets, and what it must not claim."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, Outcome, ParameterCount, certify


def ask(risk: tw.EmpiricalRisk) -> Certificate:
    return certify(risk, risk.initial, [ParameterCount()])[0]


def data(n: int, d: int = 2, q: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, d, generator=generator).double(), torch.randn(n, q, generator=generator).double())


def test_it_counts_and_gives_no_number() -> None:
    found = ask(tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), *data(4)))
    assert found.established
    assert found.level is Level.HEURISTIC
    assert found.bound is None
    assert "of the targets at hand nothing is proved" in found.claim
    assert found.evidence == {"parameters": 3.0, "targets": 4.0}
    assert ask(tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), *data(3))).outcome is Outcome.NOT_APPLICABLE


def test_targets_that_happen_to_fit_contradict_nothing() -> None:
    """The exceptions exist: these targets are fitted exactly, and the claim does not deny it."""
    x, _ = data(6)
    found = ask(tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), x, x[:, :1]))
    assert found.established
    assert found.bound is None


def test_samples_without_weight_are_no_targets_and_unused_parameters_no_parameters() -> None:
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    risk = tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), *data(4), sample_weight=weights)
    assert ask(risk).outcome is Outcome.NOT_APPLICABLE

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 1), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    found = ask(tw.EmpiricalRisk(Idle(), nn.MSELoss(), *data(4)))
    assert found.established
    assert found.evidence["parameters"] == 3


class Jumping(nn.Module):
    """One parameter whose digits could hold every target."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(1e3 * self.map(x)) * 1e-3 + 0 * self.map(x)


def test_hypotheses_broken_one_by_one() -> None:
    x, y = data(6)
    bent = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    assert ask(tw.EmpiricalRisk(bent, nn.MSELoss(), x, y)).established
    jumps = ask(tw.EmpiricalRisk(Jumping(), nn.MSELoss(), x, y))
    assert jumps.outcome is Outcome.NOT_APPLICABLE
    assert "nothing is known of floor" in jumps.reason
    labels = tw.EmpiricalRisk(nn.Linear(2, 2), nn.CrossEntropyLoss(), x, torch.arange(6) % 2)
    assert "zero where outputs are targets" in ask(labels).reason
