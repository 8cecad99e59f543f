"""The toy: its ends at infinity, the line of duplicates between them, and the landscape as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from thalweg.display import Axis, Caption, Figure, Paragraph, Table, line, points, surface
from thalweg.objectives import EmpiricalRisk, restrict
from thalweg.solvers import Status, gradient_flow, minimize, random_starts
from thalweg.studies.channels.problems import normal_inputs, split, toy
from thalweg.studies.channels.settings import Settings
from thalweg.studies.claims import Claim
from thalweg.studies.result import Part
from thalweg.symmetry import Channel, ChannelEnd, channel_resolver, duplicate, resolve_channel

__all__ = ["ENDS", "landscape", "toy_channel"]

ENDS = {
    "first": (0.866296124, 1.66755616, 1.49668456, 0.0423721519592, 0.00709137554),
    "second": (3.150432442, 2.01781544, -6.51111621, 0.00077333254158, 0.0010146998996),
}
"""w, c, a, the loss at infinity and h of both channels: by quadrature and root finding, without this library."""
RISES = (0.7992179, 3.2022697)
"""Between these w the loss rises as the channel opens."""
SADDLE = {0.5: (0.0, 0.0284489, 0.1025281, 2.0388847), 2.0: (-0.0274940, 0.0, 0.4098016, 4.2225956)}
"""Eigenvalues of the Hessian on the line of duplicates, by the share of one copy."""
STARTS = 24
LEAST = 2e-4
"""The smallest epsilon in the picture; the ends lie below."""


def toy_channel(which: str) -> Channel:
    """One of the toy's channels, entered a little inside."""
    return resolve_channel(toy(), split(*ENDS[which][:3], 0.02))


def landscape(settings: Settings, folder: Path) -> Part:
    """Ends from random starts, the line of duplicates, and which way the flow goes from it."""
    risk = toy()
    found = minimize(risk, random_starts(risk.space, STARTS, 0), resolver=channel_resolver, progress=False)
    levels = [ENDS[which][3] for which in ENDS]
    at = [[end is not None and abs(end.value - level) < 1e-10 for end in found.ends] for level in levels]
    finite = [status is Status.CONVERGED for status in found.statuses]
    claims = [
        Claim.that(
            f"searches from {STARTS} random starts all end at one of the channels or at a finite minimum, some at each "
            "channel",
            all(map(any, zip(*at, finite, strict=True))) and all(map(any, at)),
            here=", ".join(f"{sum(some)} at {level:.6g}" for some, level in zip(at, levels, strict=True))
            + f", {sum(finite)} finite",
        )
    ]
    for which in ENDS:
        claims += _end_claims(which)
    claims += _opening_claims()
    paths, more = _from_the_line(risk)
    claims += more
    told = Paragraph("Expected values are the paper's problem solved by quadrature and root finding, to nine digits.")
    return Part("The toy landscape", tuple(claims), (told, _table(), _picture(risk, paths)))


def _end_claims(which: str) -> list[Claim]:
    w, _, _, value, h = ENDS[which]
    channel = toy_channel(which)
    assert channel.objective is not None
    middle = float(channel.objective.space.unflatten(channel.theta)["weight_0"][0, 0])
    return [
        Claim.near(f"{which} channel, loss at infinity", value, channel.value, within=1e-8),
        Claim.near(f"{which} channel, w", w, abs(middle), within=1e-6),
        Claim.near(f"{which} channel, h", h, float(channel.h[0]), within=1e-6),
        Claim.that(f"{which} channel ends in a minimum at infinity", channel.end is ChannelEnd.MINIMUM),
    ]


def _opening_claims() -> list[Claim]:
    """Where h, of the best channel with a given w, changes its sign."""
    form = toy_channel("first").objective
    assert form is not None

    def h(w: float) -> float:
        origin = torch.zeros(form.space.size, dtype=torch.float64)
        origin[form.space.slice("weight_0")] = torch.tensor([w, 1.0], dtype=torch.float64)
        free = [name for name in form.space.names if name not in ("opening",)]
        held = restrict(form, free, origin)
        # c and v = a along the inputs are found exactly: the loss is a square in both
        hessian, gradient = held.hessian(held.embed(origin)), held.gradient(held.embed(origin))
        places = [held.space.slice("weight_0").start + 1, held.space.slice("weight_1").start]
        step = torch.linalg.solve(hessian[places][:, places], gradient[places])
        best = held.embed(origin)
        best[places] -= step
        end = held.project(best)
        v = float(end[form.space.slice("weight_0")][1])
        opening = form.space.slice("opening").start
        return float(form.hessian(end)[opening, opening]) / 2 / v**2

    ends = [_root(h, 0.6, 0.95), _root(h, 2.9, 3.5)]
    return [
        Claim.near(f"h is positive {word} w =", expected, here, within=1e-6)
        for word, expected, here in zip(("from", "up to"), RISES, ends, strict=True)
    ]


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where it changes its sign; NaN where it does not."""
    return float(brentq(function, low, high, xtol=1e-10)) if function(low) * function(high) < 0 else math.nan


def _from_the_line(risk: EmpiricalRisk) -> tuple[list[Float[Tensor, "T 4"]], list[Claim]]:
    """Spectra on the line of duplicates, and the flow from its saddles to either side."""
    single = toy(1)
    best = minimize(single, torch.ones(2, dtype=torch.float64), progress=False)
    copies = duplicate(single, best.theta, unit=0)
    claims = [
        Claim.that(
            "two copies are minima between shares 0 and 1, saddles outside",
            copies.plateau == "between",
            expected="between",
            here=copies.plateau,
        )
    ]
    for share, spectrum in SADDLE.items():
        values = torch.linalg.eigvalsh(risk.hessian(copies.at((share, 1 - share))))
        worst = max(abs(a - b) for a, b in zip(spectrum, values.tolist(), strict=True))
        text = f"spectrum on the line of duplicates at share {share:g}, largest difference"
        claims.append(Claim.between(text, worst, 0.0, 1e-6, expected=", ".join(f"{one:.7g}" for one in spectrum)))
    saddle = copies.at((2.0, -1.0))
    vectors = torch.linalg.eigh(risk.hessian(saddle)).eigenvectors
    starts = torch.stack([saddle + sign * 1e-3 * vectors[:, 0] for sign in (1.0, -1.0)])
    times = torch.logspace(0, 9, 200, dtype=torch.float64)
    flow = gradient_flow(risk, starts, times=times)
    ends = sorted(resolve_channel(risk, theta).value for theta in flow.theta[:, -1])
    for which, value in zip(("second", "first"), ends, strict=True):
        text = f"the flow from the saddle at share 2 enters, to one side, the {which} channel"
        claims.append(Claim.near(text, ENDS[which][3], value, within=1e-8))
    return [torch.cat([start[None], path]) for start, path in zip(starts, flow.theta, strict=True)], claims


def _table() -> Table:
    rows = []
    for which in ENDS:
        channel = toy_channel(which)
        rows.append((which, channel.value, float(channel.h[0]), channel.gradient_norm, channel.end.value))
    return Table(["channel", "loss at infinity", "h", "gradient", "end"], rows, "Both channels of the toy.")


def _picture(risk: EmpiricalRisk, paths: list[Float[Tensor, "T 4"]]) -> Figure:
    middles, epsilons = np.linspace(0.3, 4.2, 90), np.logspace(math.log10(LEAST), 0.5, 60)
    heights = torch.stack([_lowest(risk, torch.from_numpy(middles), float(epsilon)) for epsilon in epsilons])
    series = []
    for number, path in enumerate(paths):
        w, apart = (path[:, 0] + path[:, 1]) / 2, (path[:, 0] - path[:, 1]).abs() / 2
        series.append(line(f"flow, side {number + 1}", w.abs(), apart))
    ends = [abs(ENDS[which][0]) for which in ENDS]
    series.append(points("ends at infinity", ends, [1.2 * LEAST] * len(ends)))
    caption = Caption(
        "Loss of two units with input weights w ± epsilon, both output weights at their best; the lines are "
        "gradient flow from the line of duplicates, seen from above.",
        "The toy: two erf units against two of slope 5, standard normal input.",
        "Exact to 1e-12; the flow has other output weights than the best, so it need not run downhill in the picture. "
        "The ends lie at epsilon = 0, below the picture, and are marked at its lower rim.",
    )
    return Figure(
        "The toy landscape",
        caption,
        Axis("w"),
        Axis("epsilon", scale="log"),
        series,
        ground=surface("loss", middles, epsilons, heights, scale="log"),
    )


def _lowest(risk: EmpiricalRisk, middles: Float[Tensor, " m"], epsilon: float) -> Float[Tensor, " m"]:
    """Over both output weights, in which the loss is a square: by the normal equations, for many w at once."""
    inputs, weight = normal_inputs()
    assert risk.targets is not None
    x, y = inputs[:, 0], risk.targets[:, 0]
    ends = [torch.erf((middles + sign * epsilon).unsqueeze(1) * x / 2**0.5) for sign in (1, -1)]
    columns = torch.stack([ends[0] + ends[1], (ends[0] - ends[1]) / epsilon], 1)
    weighted = columns * weight
    best = torch.linalg.solve(weighted @ columns.mT, weighted @ y)
    rest = (best.unsqueeze(1) @ columns).squeeze(1) - y
    lowest: Tensor = rest.square() @ weight
    return lowest
