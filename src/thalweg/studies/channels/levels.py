"""The grid problem, and the one with four inputs: which levels runs end at, and how often at infinity."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from thalweg.catalogue import Catalogue, Survey, survey
from thalweg.display import Axis, Caption, Figure, Table, bars, points
from thalweg.solvers import Status, minimize, random_starts
from thalweg.studies.channels.problems import grid, sobol
from thalweg.studies.channels.settings import Settings
from thalweg.studies.claims import Claim
from thalweg.studies.result import Part, make_folder
from thalweg.symmetry import ChannelEnd, channel_resolver, resolve_channel

__all__ = ["levels", "published_state"]

LEVELS = {
    1: ((0.8573540913, False), (0.9277586732, False)),
    2: ((0.73937214, False), (0.6164632190, True), (0.7353047365, True)),
}
"""By width: levels that must appear, and whether they lie at infinity. Computed without this library, those at
infinity by fits of the limit network."""
DUPLICATES = 1e-6
"""Units whose input weights are nearer than this are copies of one another."""
_AT_INFINITY = re.compile("|".join(kind.value for kind in (ChannelEnd.MINIMUM, ChannelEnd.DEGENERATE)))
PUBLISHED_SECONDS = 2943
"""That the published run was integrated for, to the barrier that keeps it finite."""


def levels(settings: Settings, folder: Path) -> Part:
    """Levels and shares of the grid problem, ``runs * 2^r`` seeds for r units."""
    make_folder(folder)
    claims: list[Claim] = []
    rows: list[tuple[Any, ...]] = []
    finite: list[tuple[int, float]] = []
    infinite: list[tuple[int, float]] = []
    shares: dict[str, list[float]] = {"finite minimum": [], "copies of a unit": [], "at infinity": [], "unresolved": []}
    storage = folder / f"levels-{settings.runs}.db"
    for width in settings.widths:
        found = survey(
            grid(width),
            settings.runs * 2**width,
            storage=storage,
            resolver=channel_resolver,
            workers=settings.workers,
        )
        table = found.levels
        copies = _copies(found, storage, width)
        ended, count = found.runs["point"].notna(), len(found.runs)
        at_infinity = int(table.loc[table["kind"].str.contains(_AT_INFINITY), "runs"].sum())
        away = int((~ended).sum())
        parts = (int(ended.sum()) - at_infinity - copies, copies, at_infinity, away)
        for share, number in zip(shares.values(), parts, strict=True):
            share.append(100 * number / count)
        for row in table.itertuples():
            (infinite if _AT_INFINITY.search(row.kind) else finite).append((width, row.value))
            rows.append((width, f"{row.value:.10f}", row.kind, row.runs, f"{100 * row.share:.1f} %"))
        claims += _level_claims(width, table)
        if width > 1:
            text = f"{_units(width)}: a substantial share of runs ends at infinity"
            claims.append(Claim.between(text, 100 * at_infinity / count, 10, 100, unit="%"))
        claims.append(_without_end(width, away, count))
    shown = _ladder(finite, infinite), _shares(settings, shares), _levels_table(rows)
    return Part("Levels of the grid problem", tuple(claims), shown)


def _units(width: int) -> str:
    return f"{width} unit" + ("s" if width > 1 else "")


def _without_end(width: int, away: int, count: int) -> Claim:
    """Two runs of a hundred at most for one and two units, ten for more; two standard errors are allowed on top."""
    bound = 0.02 if width <= 2 else 0.1
    allowed = 100 * (bound + 2 * (bound * (1 - bound) / count) ** 0.5)
    note = f"{100 * bound:g} % of all seeds, and two standard errors for {count} of them."
    return Claim.between(f"{_units(width)}: runs without an end", 100 * away / count, 0, allowed, unit="%", note=note)


def _level_claims(width: int, table: pd.DataFrame) -> list[Claim]:
    claims = []
    for value, infinite in LEVELS.get(width, ()):
        where = "at infinity" if infinite else "finite"
        kind = ChannelEnd.MINIMUM.value if infinite else "minimum"
        some = table.loc[table["kind"] == kind, "value"]
        here = min(some, key=lambda one: abs(one - value), default=math.nan)
        claims.append(Claim.near(f"{_units(width)}, a level {where}", value, here, within=1e-8))
    return claims


def _copies(found: Survey, storage: Path, width: int) -> int:
    """Runs that ended at finite points with two units alike, whatever their output weights."""
    if width < 2:
        return 0
    count = 0
    with Catalogue(storage, create=False) as catalogue:
        known = catalogue.points().set_index("point")
        for number, runs in found.runs["point"].dropna().astype(int).value_counts().items():
            if known.loc[number, "at_infinity"]:
                continue
            w = catalogue.theta(int(number))[: 2 * width].view(width, 2)
            apart = torch.pdist(w)
            count += int(runs) if float(apart.min()) < DUPLICATES else 0
    return count


def _ladder(finite: list[tuple[int, float]], infinite: list[tuple[int, float]]) -> Figure:
    caption = Caption(
        "Loss at every distinct end of gradient flow, finite or at infinity, by the number of units.",
        "101 x 101 points of the square, a Rosenbrock-like target, sigmoid(4 z) + softplus(z) without biases.",
        "Levels to 1e-9; ends that fewer than one seed in some hundred reaches may be missing.",
    )
    series = [
        points(name, [_units(width) for width, _ in some], [value for _, value in some])
        for name, some in (("finite", finite), ("at infinity", infinite))
        if some
    ]
    return Figure("Levels", caption, Axis("width"), Axis("loss"), series)


def _shares(settings: Settings, shares: dict[str, list[float]]) -> Figure:
    caption = Caption(
        "Share of seeds by what their search ended in.",
        f"The grid problem, {settings.runs} times 2^r seeds for r units, Glorot-normal weights, gradient flow.",
        "One standard error of a share p of n seeds is root (p (1 - p) / n): 5 % at most for 100, 3.5 % for 200.",
    )
    names = [_units(width) for width in settings.widths]
    series = [bars(name, names, some) for name, some in shares.items()]
    return Figure("How runs end", caption, Axis("width"), Axis("share", "%"), series)


def _levels_table(rows: list[tuple[Any, ...]]) -> Table:
    return Table(["units", "loss", "kind", "runs", "share"], rows, "All distinct ends.")


def published_state(settings: Settings, folder: Path) -> Part:
    """The network with four inputs: what was integrated for 49 minutes is resolved in seconds."""
    risk = sobol(4, settings.sobol_samples)
    starts = random_starts(risk.space, settings.sobol_starts, 0)
    search = minimize(risk, starts, max_iterations=200, progress=False)
    away = [k for k, status in enumerate(search.statuses) if status is not Status.CONVERGED]
    rows, seconds, ended = [], [], 0
    for k in away:
        begun = time.perf_counter()
        end = resolve_channel(risk, search.theta[k])
        seconds.append(time.perf_counter() - begun)
        ended += end.end is ChannelEnd.MINIMUM
        rows.append((k, end.end.value, end.entered_at, end.value, seconds[-1]))
    claims = (
        Claim.that(
            "some of the searches that do not converge lead to a minimum at infinity",
            ended > 0,
            here=f"{ended} of {len(away)}, of {len(starts)} in all",
        ),
        Claim.between(
            f"4-4-1 network, {settings.sobol_samples:,} samples: following one of these to its end, whether one is "
            "found or not, median",
            float(np.median(seconds)) if seconds else math.nan,
            0,
            5,
            expected=f"{PUBLISHED_SECONDS:,} s of integration for 10,000 samples",
            unit="s",
        ),
    )
    head = ["seed", "end", "loss where entered", "loss at the end", "seconds"]
    table = Table(head, rows, "Searches that did not converge.")
    return Part("Four inputs", claims, (table,))
