"""Ten thousand seeds of a two-dimensional problem, by two processes.

The grid problem of Martinelli et al. (arXiv 2506.14951): 101 x 101 points of a square, a rough target, two units of
sigmoid(4 z) + softplus(z) without biases. Most runs end in channels to infinity.

Run: ``python -m benchmarks.run survey``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import thalweg as tw
from thalweg.studies.channels.problems import grid

TITLE = "A survey of ten thousand seeds"
STARTS = 10_000
WORKERS = 2
ITERATIONS = 200
"""Of each search: one run in a hundred turns into steps between the points of the grid, and comes to no end."""


def run(starts: int = STARTS) -> str:
    """The survey as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        found = tw.survey(grid(2), starts, storage=Path(folder) / "c.db", workers=WORKERS, max_iterations=ITERATIONS)
        seconds = time.perf_counter() - begun
        again = time.perf_counter()
        tw.survey(grid(2), starts, storage=Path(folder) / "c.db", workers=WORKERS, max_iterations=ITERATIONS)
        resumed = time.perf_counter() - again
    rows = "\n".join(
        f"| {row.status} | {row.runs} | {100 * row.share:.1f} % | {100 * row.low:.1f} to {100 * row.high:.1f} % |"
        for row in found.shares.itertuples()
    )
    levels = ", ".join(f"{row.value:.10g} ({row.runs} runs)" for row in found.levels.itertuples())
    away = found.runs[found.runs["status"] == "diverging along a channel"]["value"]
    return (
        f"{starts:,} starts, N = 10,201, P = 6, {WORKERS} processes of one thread: {seconds:.0f} s, "
        f"{1e3 * WORKERS * seconds / starts:.0f} ms of a core for each; asked again, {resumed:.1f} s. Levels of "
        f"converged runs: {levels}. Least value on the way to infinity: {float(away.min()):.8g}.\n\n"
        f"| how runs ended | runs | share | 95 % interval |\n|---|---|---|---|\n{rows}"
    )


if __name__ == "__main__":
    print(run())
