"""Ways to infinity resolved: how long it takes, how many are left, and what training on real data ends in."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn

import thalweg as tw
from benchmarks.bench_survey import WORKERS
from thalweg.solvers import Status, random_starts
from thalweg.studies.channels.problems import SigmoidSoftplus, grid, sobol
from thalweg.symmetry import ChannelEnd, channel_resolver, resolve_channel, resolve_channels

TITLE = "Channels to infinity"
SEEDS = 2000
FEW = {4: 96, 8: 48}
"""Starts on the problem with four inputs, by the number of units."""
ADAM_RUNS = 16
ADAM_STEPS = 3000


def run() -> str:
    """All parts, told as they come."""
    parts = []
    for make in (_times, _survey, *(partial(_four, width) for width in FEW), _real):
        parts.append(make())
        print(parts[-1], flush=True)
    return "\n\n".join(parts)


def _times() -> str:
    """One state at a time, and 64 in one call."""
    risk = sobol(4)
    found = tw.minimize(risk, random_starts(risk.space, 64, 0), max_iterations=200, progress=False)
    away = [k for k, status in enumerate(found.statuses) if status is not Status.CONVERGED]
    seconds, gained = [], []
    for k in away:
        begun = time.perf_counter()
        end = resolve_channel(risk, found.theta[k])
        if end.end is ChannelEnd.MINIMUM:
            seconds.append(time.perf_counter() - begun)
            gained.append(end.entered_at - end.value)
    text = (
        f"**Time.** 4-4-1, N = 10,000, {risk.space.size} parameters, after 200 steps of newton: {len(seconds)} of "
        f"{len(away)} that had not converged are followed to a minimum at infinity, in {min(seconds):.2f} to "
        f"{max(seconds):.2f} s each, median {statistics.median(seconds):.2f} s (the published run integrated for 49 "
        f"minutes)."
    )
    wide = _eight()
    theta = tw.minimize(wide, random_starts(wide.space, 64, 0), max_iterations=300, progress=False).theta
    begun = time.perf_counter()
    together = resolve_channels(wide, theta)
    batch = time.perf_counter() - begun
    begun = time.perf_counter()
    for row in theta[:8]:
        resolve_channel(wide, row)
    alone = (time.perf_counter() - begun) * 8
    ends = ", ".join(f"{count} {name}" for name, count in Counter(one.end.value for one in together).most_common())
    return (
        f"{text}\n\n64 states of an 8-8-1 softplus network ({wide.space.size} parameters, N = 1,000) in one call: "
        f"{batch:.1f} s, one at a time {alone:.0f} s (from eight): {alone / batch:.1f} times. Ends: {ends}."
    )


def _eight() -> tw.EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 8, generator=generator, dtype=torch.float64)
    y = torch.log10(0.1 + sum(3 * (x[:, i + 1] - x[:, i] ** 2) ** 2 + (1 - x[:, i]) ** 2 for i in range(7)))
    model = nn.Sequential(nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1)).double()
    return tw.EmpiricalRisk(model, nn.MSELoss(), x, ((y - y.mean()) / y.std()).unsqueeze(1))


def _survey(method: str = "flow") -> str:
    """The grid problem with two units: levels and shares, and what is left unresolved."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        found = tw.survey(
            grid(2),
            SEEDS,
            method=method,
            resolver=channel_resolver,
            storage=Path(folder) / "channels.db",
            workers=WORKERS,
            progress=False,
        )
        took = time.perf_counter() - begun
    levels = "\n".join(
        f"| {row.value:.10f} | {row.kind} | {row.runs} | {100 * row.share:.1f} % ({100 * row.low:.1f} to "
        f"{100 * row.high:.1f} %) |"
        for row in found.levels.itertuples()
    )
    ended = int(found.runs["point"].notna().sum())
    return (
        f"**Grid problem, two units, {SEEDS:,} seeds, method {method!r}:** {took:.0f} s; {ended} runs ended at a "
        f"point, {SEEDS - ended} ({100 * (1 - ended / SEEDS):.2f} %) unresolved.\n\n"
        f"| level | kind | runs | share (95 %) |\n|---|---|---|---|\n{levels}"
    )


def _four(width: int) -> str:
    """Four inputs: what each run ended as."""
    risk, count = sobol(width), FEW[width]
    begun = time.perf_counter()
    found = tw.minimize(
        risk, random_starts(risk.space, count, 0), max_iterations=500, resolver=channel_resolver, progress=False
    )
    took = time.perf_counter() - begun
    kinds = Counter(
        end.kind if end is not None else status.value if status is Status.CONVERGED else "unresolved"
        for end, status in zip(found.ends, found.statuses, strict=True)
    )
    lowest = torch.where(torch.isnan(found.limit), found.value, found.limit).min()
    shares = ", ".join(f"{name} {number} ({100 * number / count:.0f} %)" for name, number in kinds.most_common())
    return (
        f"**4-{width}-1, {risk.space.size} parameters, {count} starts, at most 500 steps of newton:** {took:.0f} s; "
        f"{shares}. Lowest loss {float(lowest):.6g}."
    )


def _real() -> str:
    """Ordinary runs of Adam: where they lead, and what resolving gains."""
    rows = []
    for name, (x, y) in {"diabetes": _data(load_diabetes()), "digits": _data(load_digits())}.items():
        for label, activation in {
            "tanh": nn.Tanh,
            "softplus": nn.Softplus,
            "sigmoid(4z)+softplus(z)": SigmoidSoftplus,
        }.items():
            rows += [f"| {name} | {label} | {w} | {_adam_runs(x, y, activation, w)} |" for w in (3, 6)]
    head = (
        f"**Real data.** {ADAM_RUNS} runs of Adam each ({ADAM_STEPS:,} full-batch steps, step size 0.01 falling like a "
        "cosine; digits as a number from 0 to 9 on ten principal components; inputs and targets standardised), then "
        "newton with the resolver from where Adam ended, at most 500 steps. The gain is relative to Adam's loss.\n\n"
        "| data | activation | units | minimum | channel | unresolved | gain of channels, median (largest) |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows)


def _adam_runs(x: Tensor, y: Tensor, activation: Callable[[], nn.Module], width: int) -> str:
    starts = []
    for seed in range(ADAM_RUNS):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(x.shape[1], width), activation(), nn.Linear(width, 1)).double()
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ADAM_STEPS)
        for _ in range(ADAM_STEPS):
            adam.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            adam.step()
            schedule.step()
        risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
        starts.append(risk.initial)
    theta = torch.stack(starts)
    before = risk.value(theta)
    found = tw.minimize(risk, theta, max_iterations=500, resolver=channel_resolver, progress=False)
    converged = sum(status is Status.CONVERGED for status in found.statuses)
    ends = [end for end in found.ends if end is not None]
    gains = sorted((1 - found.limit / before)[~torch.isnan(found.limit)].tolist())
    gain = f"{100 * statistics.median(gains):.2g} % ({100 * gains[-1]:.2g} %)" if gains else "-"
    return f"{converged} | {len(ends)} | {ADAM_RUNS - converged - len(ends)} | {gain}"


def _data(bunch: object) -> tuple[Tensor, Tensor]:
    x, y = (torch.tensor(getattr(bunch, name), dtype=torch.float64) for name in ("data", "target"))
    x = x - x.mean(0)
    if x.shape[1] > 10:
        x = x @ torch.linalg.svd(x, full_matrices=False).Vh[:10].T
    return x / x.std(0), ((y - y.mean()) / y.std()).unsqueeze(1)
