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
            for s in settings.roughness:
                count = _ends(settings, s, inputs, width)
                total = settings.targets * settings.seeds
                share = count["at infinity"] / total
                shares.append(100 * share)
                errors.append(100 * (share * (1 - share) / total) ** 0.5)
                rows.append((inputs, width, s, total, *(f"{100 * count[kind] / total:.0f} %" for kind in KINDS)))
            name = f"{inputs} inputs, {width} units"
            series.append(line(name, settings.roughness, shares, error=errors))
            text = f"{name}: share of runs that end at infinity, s = {', '.join(f'{s:g}' for s in settings.roughness)}"
            claims.append(Claim.rising(text, shares, published="grows with s", unit="%"))
    caption = Caption(
        "Share of runs that end at a minimum at infinity, against the roughness s of the target, with one standard "
        "error of the share.",
        f"Standard-normal inputs, {settings.samples:,} samples, targets from a Gaussian process with the Matern-3/2 "
        f"kernel; {settings.targets} draws with {settings.seeds} seeds each, sigmoid(4 z) + softplus(z) with biases.",
        "Seeds of one draw share a target, so the true error is larger; searches without an end are in the table.",
    )
    figure = Figure("Channels and roughness", caption, Axis("s", scale="log"), Axis("share", "%"), series)
    table = Table(["inputs", "units", "s", "runs", *KINDS], rows, "How runs end.")
    return Part("Roughness of the target", tuple(claims), (figure, table))


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
