"""The honesty campaign: random problems of every kind, and not one false claim.

Each group of certifiers brings its trials: a trial draws a problem from a seed (networks, losses, penalties, data with
collisions, points stationary or not, degenerate, near kinks, scales from 1e-6 to 1e6, models in single precision), asks
its certifier, and compares an established claim with a truth found independently.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thalweg.certificates import Certificate, registered_certifiers

Trial = Callable[[int], tuple[Certificate, bool | None]]
FOLDER = Path(__file__).parent / "campaign"
QUICK = 25
"""Trials of each certifier in the ordinary tests."""
LEAST_ISSUED = 100
"""Claims that each certifier must make in the full campaign, lest its silence pass for honesty."""
SECONDS = 240.0
"""For each certifier in the full campaign, at most; what was done by then is told."""


def _trials() -> dict[str, Trial]:
    found: dict[str, Trial] = {}
    for file in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"campaign_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        assert not found.keys() & module.TRIALS.keys()
        found.update(module.TRIALS)
    return found


TRIALS = _trials()


def run(trial: Trial, seeds: range, seconds: float = float("inf")) -> tuple[Counter[str], list[str]]:
    """Outcomes by name, and what was claimed falsely."""
    outcomes: Counter[str] = Counter()
    false: list[str] = []
    started = time.monotonic()
    for seed in seeds:
        certificate, true = trial(seed)
        outcomes[certificate.outcome.value] += 1
        assert (true is None) is not certificate.established, f"seed {seed}: an established claim needs its truth"
        if true is False:
            false.append(f"seed {seed}: {certificate.describe()}")
        if time.monotonic() - started > seconds:
            break
    return outcomes, false


def test_every_certifier_is_on_trial() -> None:
    own = {each.name for each in registered_certifiers() if type(each).__module__.startswith("thalweg.")}
    assert own == set(TRIALS)


@pytest.mark.parametrize("name", TRIALS)
def test_a_few_problems_of_each_kind(name: str) -> None:
    outcomes, false = run(TRIALS[name], range(QUICK))
    assert not false, "\n".join(false)
    assert outcomes["established"], f"never established in {QUICK} trials: {dict(outcomes)}"


@pytest.mark.soak
@pytest.mark.parametrize("name", TRIALS)
def test_no_false_claim(name: str, soak_figure: Callable[[str, object], None]) -> None:
    outcomes, false = run(TRIALS[name], range(1000, 2000), SECONDS)
    others = ", ".join(f"{count} {word}" for word, count in outcomes.most_common() if word != "established")
    text = f"{sum(outcomes.values())}: {outcomes['established']} established, {len(false)} false; {others}"
    soak_figure("problems", text)
    assert not false, "\n".join(false[:5])
    assert outcomes["established"] >= LEAST_ISSUED
