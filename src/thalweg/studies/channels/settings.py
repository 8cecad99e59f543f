"""How large the study of channels is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.foundation import InvalidInputError

__all__ = ["FULL", "QUICK", "Settings"]

LEAST = {
    "steps": 1000,
    "runs": 1,
    "sobol_starts": 2,
    "sobol_samples": 10,
    "targets": 1,
    "seeds": 1,
    "samples": 10,
    "workers": 0,
}
MOST = {"step_sizes": 0.5, "roughness": math.inf, "widths": 16, "inputs": 64, "units": 64}


@dataclass(frozen=True)
class Settings:
    """Sizes of the parts.

    Attributes:
        longest: time up to which gradient flow is followed inside a channel.
        step_sizes: of gradient descent at the edge of stability.
        steps: of gradient descent.
        widths: numbers r of units on the grid problem.
        runs: seeds of it, times 2^r.
        sobol_starts: seeds of the network with four inputs.
        sobol_samples: its data.
        roughness: s of the targets.
        inputs: dimensions of the rough targets.
        units: widths of their networks.
        targets: draws of each target.
        seeds: of the weights, for each draw.
        samples: of the rough targets.
        workers: processes of the surveys.
    """

    longest: float
    step_sizes: tuple[float, ...]
    steps: int
    widths: tuple[int, ...]
    runs: int
    sobol_starts: int
    sobol_samples: int
    roughness: tuple[float, ...]
    inputs: tuple[int, ...]
    units: tuple[int, ...]
    targets: int
    seeds: int
    samples: int
    workers: int = 2

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InvalidInputError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not 1e5 < self.longest < math.inf:
            raise InvalidInputError(f"longest must be a time beyond 1e5, got {self.longest!r}")
        for name, most in MOST.items():
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values or not all(0 < value <= most for value in values):
                raise InvalidInputError(f"{name} must be one or more numbers above 0, at most {most:g}; got {values!r}")
        if len(self.roughness) < 2:
            raise InvalidInputError(f"roughness must have two values or more to compare, got {self.roughness!r}")


QUICK = Settings(
    longest=1e9,
    step_sizes=(0.1,),
    steps=6000,
    widths=(1, 2),
    runs=20,
    sobol_starts=12,
    sobol_samples=2000,
    roughness=(0.1, 0.5, 2.0, 10.0),
    inputs=(2,),
    units=(4,),
    targets=2,
    seeds=8,
    samples=300,
)
FULL = Settings(
    longest=1e9,
    step_sizes=(0.1, 0.05, 0.025),
    steps=20_000,
    widths=(1, 2, 3, 4),
    runs=50,
    sobol_starts=96,
    sobol_samples=10_000,
    roughness=(0.1, 0.5, 2.0, 10.0),
    inputs=(2, 4),
    units=(4, 8),
    targets=4,
    seeds=50,
    samples=1000,
)
