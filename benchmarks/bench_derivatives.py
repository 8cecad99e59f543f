"""Closed-form derivatives of multilayer perceptrons against automatic differentiation, on one thread, in float64.

One hidden layer of 10, 50 and 100 softplus units over two inputs (41, 201 and 401 parameters), squared errors of N
samples. What is timed is `objective.hessian(theta)` as a user calls it, with all its checks; the others get a plain
function of one flat vector, as their documentation shows it. All are called in turn, so that a busy moment hits them
alike; medians. Then values and gradients, and many parameter vectors at once against one after another.

Run: ``python -m benchmarks.run derivatives``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import thalweg as tw

TITLE = "Derivatives in closed form against automatic differentiation"
UNITS, SAMPLES = (10, 50, 100), (10, 100, 1_000, 10_000)
SEEDS = 64
SLOW = 3.0
"""Seconds of one call beyond which it is made only once."""
QUICK = 0.05
"""Seconds of one call up to which it is made once untimed before each time that counts."""


def problem(units: int, samples: int) -> tuple[tw.EmpiricalRisk, Callable[[Tensor], Tensor]]:
    """The objective, and the same loss as a plain function."""
    generator = torch.Generator().manual_seed(units + samples)
    x, y = (torch.randn(samples, d, generator=generator, dtype=torch.float64) for d in (2, 1))
    model = nn.Sequential(nn.Linear(2, units), nn.Softplus(), nn.Linear(units, 1)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    cuts = (2 * units, units, units, 1)

    def plain(theta: Tensor) -> Tensor:
        w, b, a, c = theta.split(cuts)
        hidden = nn.functional.softplus(x @ w.view(units, 2).T + b)
        return ((hidden @ a.view(1, units).T + c - y) ** 2).mean()

    return risk, plain


def medians(calls: dict[str, Callable[[], object]], repeats: int = 9) -> dict[str, float]:
    """Median seconds of each, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            if number > 1 and times[name][0] > SLOW:
                continue
            if times[name] and times[name][0] < QUICK:
                call()  # what came before has thrown it out of the caches, as no loop of its own calls would
            started = time.perf_counter()
            call()
            if number or name != "thalweg":  # the first call of ours reads the network
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def run() -> str:
    """All tables as Markdown."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return "\n\n".join([hessians(), gradients(), batches()])
    finally:
        torch.set_num_threads(threads)


def hessians() -> str:
    """One parameter vector."""
    lines = [
        "| parameters | N | thalweg (us) | `autograd.functional.hessian` / thalweg | `torch.func.hessian` / thalweg |",
        "|---|---|---|---|---|",
    ]
    for units in UNITS:
        for samples in SAMPLES:
            risk, plain = problem(units, samples)
            theta = risk.initial
            reference = torch.autograd.functional.hessian(plain, theta)
            assert torch.allclose(risk.hessian(theta), reference, rtol=1e-10, atol=1e-12)
            found = medians(
                {
                    "thalweg": lambda risk=risk, theta=theta: risk.hessian(theta),
                    "functional": lambda f=plain, theta=theta: torch.autograd.functional.hessian(f, theta),
                    "func": lambda f=plain, theta=theta: torch.func.hessian(f)(theta),
                }
            )
            ours = found["thalweg"]
            lines.append(
                f"| {len(theta)} | {samples:,} | {1e6 * ours:.0f} | {found['functional'] / ours:.1f} "
                f"| {found['func'] / ours:.1f} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def gradients() -> str:
    """Value and gradient of one parameter vector, against a pass forward and back of the same loss written by hand."""
    lines = [
        "Value and gradient in one call, against `torch.autograd.grad` of the plain function and against our own "
        'objective with `derivatives="autograd"`.',
        "",
        '| parameters | N | thalweg (us) | plain torch / thalweg | derivatives="autograd" / thalweg |',
        "|---|---|---|---|---|",
    ]

    def by_torch(f: Callable[[Tensor], Tensor], theta: Tensor) -> object:
        leaf = theta.requires_grad_()
        value = f(leaf)
        return value.detach(), torch.autograd.grad(value, leaf)

    for units in UNITS:
        for samples in SAMPLES:
            risk, plain = problem(units, samples)
            slow = tw.EmpiricalRisk(
                nn.Sequential(nn.Linear(2, units), nn.Softplus(), nn.Linear(units, 1)).double(), nn.MSELoss(),
                risk.inputs, risk.targets, derivatives="autograd",
            )  # fmt: skip
            found = medians(
                {
                    "thalweg": lambda risk=risk: risk.evaluate(risk.initial, 1),
                    "torch": lambda f=plain, risk=risk: by_torch(f, risk.initial.clone()),
                    "autograd": lambda slow=slow: slow.evaluate(slow.initial, 1),
                },
                repeats=201,
            )
            ours = found["thalweg"]
            lines.append(
                f"| {risk.space.size} | {samples:,} | {1e6 * ours:.0f} | {found['torch'] / ours:.2f} "
                f"| {found['autograd'] / ours:.2f} |"
            )
    return "\n".join(lines)


def batches() -> str:
    """Many parameter vectors: value, gradient and Hessian in one call, against one call for each."""
    lines = [
        f"{SEEDS} parameter vectors, N = 1,000: value, gradient and Hessian in one call, and in a loop of calls.",
        "",
        "| parameters | one call (ms) | loop / one call |",
        "|---|---|---|",
    ]
    for units in (4, 8, 16):
        risk, _ = problem(units, 1_000)
        thetas = torch.randn(SEEDS, risk.space.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = medians(
            {
                "thalweg": lambda risk=risk, thetas=thetas: risk.evaluate(thetas, 2),
                "loop": lambda risk=risk, thetas=thetas: [risk.evaluate(theta, 2) for theta in thetas.unbind()],
            }
        )
        lines.append(f"| {risk.space.size} | {1e3 * found['thalweg']:.1f} | {found['loop'] / found['thalweg']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(run())
