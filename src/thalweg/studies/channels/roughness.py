"""Targets of growing roughness: how often small networks end in channels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from thalweg.display import Axis, Caption, Figure, Table, line
from thalweg.solvers import Status, minimize, random_starts
from thalweg.studies.channels.problems import SigmoidSoftplus, rough
from thalweg.studies.channels.settings import Settings
from thalweg.studies.claims import Claim
from thalweg.studies.result import Part
from thalweg.symmetry import channel_resolver

__all__ = ["roughness"]

STEPS = 500
KINDS = ("finite minimum", "at infinity", "unresolved")


def roughness(settings: Settings, folder: Path) -> Part:
    """Shares of ends against s, for Gaussian processes with the Matern-3/2 kernel."""
    rows, series, claims = [], [], []
    for inputs in settings.inputs:
        for width in settings.units:
            shares, errors = [], []
            for s in sorted(settings.roughness):
                count = _ends(settings, s, inputs, width)
                total = settings.targets * settings.seeds
                share = count["at infinity"] / total
                shares.append(share)
                errors.append((share * (1 - share) / total) ** 0.5)
                rows.append((inputs, width, s, total, *(f"{100 * count[kind] / total:.0f} %" for kind in KINDS)))
            name = f"{inputs} inputs, {width} units"
            percent = [100 * share for share in shares], [100 * error for error in errors]
            series.append(line(name, sorted(settings.roughness), percent[0], error=percent[1]))
            claims.append(_grows(name, shares, errors))
    caption = Caption(
        "Share of runs that end at infinity, at a minimum or level as far as rounding shows, against the roughness s "
        "of the target, with one standard error of the share.",
        f"Standard-normal inputs, {settings.samples:,} samples, targets from a Gaussian process with the Matern-3/2 "
        f"kernel; {settings.targets} draws with {settings.seeds} seeds each, sigmoid(4 z) + softplus(z) with biases.",
        "Seeds of one draw share a target, so the true error is larger; searches without an end are in the table.",
    )
    figure = Figure("Channels and roughness", caption, Axis("s", scale="log"), Axis("share", "%"), series)
    table = Table(["inputs", "units", "s", "runs", *KINDS], rows, "How runs end.")
    return Part("Roughness of the target", tuple(claims), (figure, table))


def _grows(name: str, shares: list[float], errors: list[float]) -> Claim:
    """The rougher half of the targets against the smoother one."""
    half = len(shares) // 2
    smooth, rough_ones = sum(shares[:half]) / half, sum(shares[-half:]) / half
    error = (sum(error**2 for error in errors[:half]) + sum(error**2 for error in errors[-half:])) ** 0.5 / half
    text = f"{name}: share of runs that end at infinity, rougher half of the targets against the smoother half"
    return Claim.larger(text, 100 * rough_ones, 100 * smooth, 100 * error, expected="grows with s", unit="%")


def _ends(settings: Settings, s: float, inputs: int, width: int) -> Counter[str]:
    count: Counter[str] = Counter()
    for draw in range(settings.targets):
        risk = rough(s, inputs=inputs, width=width, samples=settings.samples, seed=draw, activation=SigmoidSoftplus)
        starts = random_starts(risk.space, settings.seeds, draw)
        found = minimize(risk, starts, max_iterations=STEPS, resolver=channel_resolver, progress=False)
        for end, status in zip(found.ends, found.statuses, strict=True):
            if end is not None:
                count["at infinity"] += 1
            else:
                count["finite minimum" if status is Status.CONVERGED else "unresolved"] += 1
    return count
