"""Objectives and workers for the tests of surveys; importable, so that they can be sent to other processes."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

import thalweg as tw
from thalweg.solvers import Resolution, Solution


def student(width: int = 2) -> tw.Objective:
    """Tanh units on 30 samples with a little weight decay: a handful of minima, found in a moment."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tanh(2 * x[:, :1] - x[:, 1:])
    risk = tw.EmpiricalRisk(
        nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1)).double(), nn.MSELoss(), x, y
    )
    return risk + tw.L2(risk, 1e-2)


class Deadly:
    """A resolver that ends its process the first time that it is asked anywhere."""

    def __init__(self, flag: Path, *, always: bool = False) -> None:
        self.flag, self.always = flag, always

    def __call__(self, objective: tw.Objective, theta: torch.Tensor, found: Solution) -> list[Resolution]:
        if self.always or not self.flag.exists():
            self.flag.touch()
            os._exit(9)
        return [None] * len(theta)


def mark_eight(space: tw.ParameterSpace, generator: torch.Generator) -> torch.Tensor:
    """Start number 8 of seed 0 is far away."""
    draw = torch.randn(space.size, generator=generator, dtype=torch.float64)
    return draw + 1e9 if generator.initial_seed() == _seed_of(8) else draw


def _seed_of(number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"0:{number}".encode()).digest()[:8], "big") >> 1


def fatal_at_eight(objective: tw.Objective, theta: torch.Tensor, found: Solution) -> list[Resolution]:
    """A resolver that ends its process where it sees that start."""
    if float(theta.abs().max()) > 1e8:
        os._exit(9)
    return [None] * len(theta)


def slow(objective: tw.Objective, theta: torch.Tensor, found: Solution) -> list[Resolution]:
    """A resolver that takes its time, so that there is something to kill."""
    time.sleep(0.3)
    return [None] * len(theta)


if __name__ == "__main__":  # a survey to be killed
    tw.survey(
        student(), 64, storage=sys.argv[1], batch_size=4, workers=2, max_iterations=2, resolver=slow, progress=False
    )
