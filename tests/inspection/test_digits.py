"""The main job on real data: networks trained by Adam on digits, as an ordinary user would."""

from __future__ import annotations

import pytest

import thalweg as tw
from thalweg.commands.demo import load_digits, run_demo, train
from thalweg.inspection import Kind


def verified_statement(seed: int, epochs: int) -> tuple[float, float]:
    """Inspect one trained network and check the statement made against the loss itself.

    Returns the share of the loss gained, and the error of the prediction as a share of the gain.
    """
    from torch import nn

    digits = load_digits()
    model = train(digits, epochs, seed)
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), digits.train_x, digits.train_y)
    verdict = tw.inspect(risk, certificates=[])  # the statement is about steps; proofs have tests of their own
    assert verdict.kind is Kind.NOT_STATIONARY
    best = verdict.best_step
    assert best is not None
    gain = float(risk.value(verdict.theta) - risk.value(verdict.suggested_theta))
    assert gain > 0
    assert abs(best.predicted - gain) <= 0.2 * gain
    return gain / verdict.value, abs(best.predicted - gain) / gain


def test_the_verdict_on_an_adam_trained_network_makes_a_verified_statement():
    assert verified_statement(seed=0, epochs=5)[0] > 0.05


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_ten_adam_trained_networks(seed, soak_figure):
    share, error = verified_statement(seed, epochs=5 + 10 * seed)
    name = f"digits, Adam, {5 + 10 * seed} epochs, seed {seed}"
    soak_figure(f"{name}: one suggested step lowers the loss by", f"{100 * share:.1f} %")
    soak_figure(f"{name}: the prediction was off by", f"{100 * error:.1f} % of that")


def test_the_demo_ends_with_a_better_network_and_a_page(tmp_path):
    said: list[str] = []
    before, after = run_demo(tmp_path / "demo", epochs=2, seed=0, say=said.append, seconds=10)
    assert after.value < before.value
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "What happened" in page
    assert (tmp_path / "demo" / "verdict.json").is_file()
    assert any("Training" in line for line in said)
