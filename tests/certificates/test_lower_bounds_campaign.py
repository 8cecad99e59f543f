"""The random problems of the lower bounds must be able to tell a false bound."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from thalweg.certificates import Certificate


def load() -> ModuleType:
    name = "campaign_lower_bounds_again"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "campaign" / "lower_bounds.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.mark.parametrize("name", ["output rank", "linear network", "linear pieces"])
def test_a_bound_that_is_too_high_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bound is the minimum, one a millionth higher is below nothing that exists."""
    module = load()
    honest = module.verdict

    def raised(found: Certificate, reached: float | np.longdouble | Fraction) -> tuple[Certificate, bool | None]:
        if found.established and found.bound:
            object.__setattr__(found, "bound", found.bound * (1 + 1e-6))
        return honest(found, reached)

    monkeypatch.setattr(module, "verdict", raised)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = [module.TRIALS[name](seed) for seed in range(12)]
    assert sum(true is False for _, true in told) >= 3
