"""Inside the toy's channels: powers along the way, how long flow takes, how far descent and jumps get."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.display import Axis, Caption, Figure, Mark, Paragraph, Table, line, points
from thalweg.objectives import EmpiricalRisk
from thalweg.solvers import gradient_flow
from thalweg.studies.channels.landscape import toy_channel
from thalweg.studies.channels.problems import toy
from thalweg.studies.channels.settings import Settings
from thalweg.studies.claims import Claim
from thalweg.studies.result import Part
from thalweg.symmetry import channel_path, channel_rates, jump

__all__ = ["inside"]

CURVATURES = {"first": 0.36057, "second": 0.28348}
"""``kappa`` times the square of the pull: by quadrature, without this library."""
POWERS = {"loss above its limit": -2, "distance of the outputs": -2, "sharpness": 2}
BEGIN = {0.1: 0.115, 0.05: 0.075, 0.025: 0.05}
"""Where descent begins, a little beyond the edge of each step size."""
LAST = 256
"""Steps over which the sharpness is averaged."""
JUMPS = 6
RELAXED = 1e3
"""Time of flow after each jump."""


def inside(settings: Settings, folder: Path) -> Part:
    """Powers, times and reach."""
    claims, figures = [], []
    for which in CURVATURES:
        some, figure = _powers(which)
        claims += some
        figures.append(figure)
    claims += _jumps()
    some, figure = _flow(settings.longest)
    claims += some
    figures.append(figure)
    some, figure, table = _edge(settings.step_sizes, settings.steps)
    told = Paragraph(
        "The powers are the paper's; coefficients are by quadrature; the law of the fourth power and the coefficient "
        "of the sharpness were derived from the paper's expansion."
    )
    return Part("Inside a channel", (*claims, *some), (told, *figures, figure, table))


def _powers(which: str) -> tuple[list[Claim], Figure]:
    channel = toy_channel(which)
    (rates,) = channel_rates(channel)
    path = channel_path(channel, [1 / 70 / 2**k for k in range(7)])
    found = path.slopes()
    claims = [
        Claim.near(f"{which} channel, power of {name} in 1 / epsilon", power, found[name], within=0.02)
        for name, power in POWERS.items()
    ]
    worst = float((path.sharpness * path.epsilon[:, 0] ** 2 / CURVATURES[which] - 1).abs().max())
    text = f"{which} channel, sharpness times epsilon squared, for 1 / epsilon from 70 on, largest error"
    claims.append(Claim.between(text, 100 * worst, 0, 1, expected=f"{CURVATURES[which]:.5g}", unit="%"))
    depth = 1 / path.epsilon[:, 0]
    caption = Caption(
        "Loss above its limit, distance of the outputs from those at the end (root mean square), largest curvature, at "
        "the bottom of the channel for given epsilon; dashed what the expansion at the end predicts.",
        f"The {which} channel of the toy.",
        "States exact to 1e-10; below some 1e-14 the loss is rounding.",
    )
    epsilons = path.epsilon[:, 0].tolist()
    figure = Figure(
        f"Powers along the {which} channel",
        caption,
        Axis("1 / epsilon", scale="log"),
        Axis("size", scale="log"),
        [
            points("loss above its limit", depth, path.value - path.limit),
            points("distance of the outputs", depth, path.distance),
            points("sharpness", depth, path.sharpness),
            line("predicted loss", depth, [rates.loss(one) - rates.value for one in epsilons]),
            line("predicted sharpness", depth, [rates.sharpness(one) for one in epsilons]),
        ],
    )
    return claims, figure


def _jumps() -> list[Claim]:
    """The procedure of the paper: halve epsilon, let the flow relax, again."""
    risk, channel = toy(), toy_channel("first")
    theta = channel_path(channel, [1 / 20]).theta[0]
    depth, above = [], []
    for _ in range(JUMPS):
        theta = jump(risk, theta, [(0, 1)])
        theta = gradient_flow(risk, theta, times=torch.tensor([RELAXED], dtype=torch.float64)).theta[-1]
        depth.append(2 / abs(float(theta[0] - theta[1])))
        above.append(float(risk.value(theta)) - channel.value)
    power = float(np.polyfit(np.log(depth), np.log(above), 1)[0])
    return [
        Claim.near(f"{JUMPS} jumps, each with flow after it: power of the loss above its limit", -2, power, within=0.02)
    ]


def _flow(longest: float) -> tuple[list[Claim], Figure]:
    """Gradient flow against the law of the fourth power."""
    channel = toy_channel("second")
    (rates,) = channel_rates(channel)
    start = channel_path(channel, [0.05])
    times = torch.logspace(5, math.log10(longest), 9, dtype=torch.float64)
    flow = gradient_flow(toy(), start.theta[0], times=times)
    q = ((flow.theta[..., 2] - flow.theta[..., 3]) / 2**0.5).abs()
    begun = abs(float(start.theta[0, 2] - start.theta[0, 3])) / 2**0.5
    law = (begun**4 + 4 * rates.h * rates.pull**2 * flow.times) ** 0.25
    worst = float((q / law - 1).abs().max())
    text = f"distance of the output weights under flow up to t = {longest:.0e}, against the law of the fourth power"
    claim = Claim.between(text, 100 * worst, 0, 0.3, expected="q^4 = q_0^4 + 4 h a^2 t", unit="%")
    caption = Caption(
        "Distance of the output weights, over root 2, of two units in a channel under gradient flow; the line is "
        "q^4 = q_0^4 + 4 h a^2 t, with h and a from the end of the channel.",
        "The second channel of the toy, from epsilon = 0.05.",
        "Flow by an implicit method, the error of each step below 1e-6 of what it moves.",
    )
    figure = Figure(
        "How long flow takes",
        caption,
        Axis("time", scale="log"),
        Axis("distance of the output weights", scale="log"),
        [points("gradient flow", flow.times, q), line("predicted", flow.times, law)],
    )
    return [claim], figure


def _edge(step_sizes: tuple[float, ...], steps: int) -> tuple[list[Claim], Figure, Table]:
    """Descent begun beyond the edge of stability, and below it."""
    channel = toy_channel("second")
    (rates,) = channel_rates(channel)
    claims, series, rows = [], [], []
    for lr in step_sizes:
        begin = BEGIN.get(lr, 0.85 * rates.reach(lr))
        beyond = channel_path(channel, [begin])
        seen = _descend(beyond.theta[0], lr, steps)
        ratio = float(seen[-LAST:, 1].mean()) * lr / 2
        text = f"sharpness times step / 2 where descent with step {lr:g} settles"
        claims.append(Claim.between(text, ratio, 0.9, 1.1, expected="1"))
        first = float(beyond.sharpness[0]) * lr / 2
        rows.append((lr, begin, first, ratio, rates.reach(lr), float(seen[-1, 2])))
        few = seen[:: max(1, len(seen) // 400)]
        series.append(line(f"step {lr:g}", few[:, 0], few[:, 1] * lr / 2))
    lr = step_sizes[0]
    below = channel_path(channel, [1.5 * rates.reach(lr)])
    seen = _descend(below.theta[0], lr, steps // 2)
    claims.append(
        Claim.that(
            f"begun below the edge, descent with step {lr:g} creeps inward and never beyond",
            float(seen[-1, 2]) < float(below.epsilon[0, 0]) and float(seen[:, 1].max()) * lr / 2 < 1.02,
            here=f"epsilon {float(below.epsilon[0, 0]):.7f} to {float(seen[-1, 2]):.7f}",
        )
    )
    caption = Caption(
        "Largest curvature times the step size over two along gradient descent; above one no descent is stable.",
        "The second channel of the toy, begun a little further inside than each step size allows.",
        "Curvatures exact to rounding, one every few steps.",
    )
    figure = Figure(
        "The edge of stability",
        caption,
        Axis("step"),
        Axis("sharpness times step size / 2"),
        series,
        [Mark(1.0, "edge of stability")],
    )
    head = ["step size", "epsilon at first", "ratio at first", "ratio at the end", "predicted reach", "epsilon reached"]
    return claims, figure, Table(head, rows, "Gradient descent at the edge of stability.")


def _descend(theta: Float[Tensor, " 4"], lr: float, steps: int) -> Float[Tensor, "k 3"]:
    """Step, sharpness and epsilon along gradient descent: every few steps, and all of the last."""
    risk, seen = toy(), []
    stride = max(1, steps // 2000)
    for step in range(steps):
        theta = theta - lr * risk.gradient(theta)
        if step % stride == 0 or step >= steps - LAST:
            seen.append((step, theta))
    return torch.stack([torch.tensor([s for s, _ in seen], dtype=theta.dtype), _sharpness(risk, seen), _apart(seen)], 1)


def _sharpness(risk: EmpiricalRisk, seen: list[tuple[int, Tensor]]) -> Float[Tensor, " k"]:
    return torch.linalg.eigvalsh(risk.hessian(torch.stack([theta for _, theta in seen])))[:, -1]


def _apart(seen: list[tuple[int, Tensor]]) -> Float[Tensor, " k"]:
    return torch.stack([(theta[0] - theta[1]).abs() / 2 for _, theta in seen])
