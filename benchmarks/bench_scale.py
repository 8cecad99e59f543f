"""A network of a million parameters: time, memory and residuals of an inspection; then a CNN and an attention block.

python -m benchmarks.bench_scale mlp 2000      # one model, so many samples
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

import thalweg as tw

TITLE = "A million parameters on two cores"
SAMPLES = {"mlp": 20_000, "cnn": 2_000, "attention": 2_000}


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(784, 900), nn.Tanh(), nn.Linear(900, 310), nn.Tanh(), nn.Linear(310, 10)), (784,)


def cnn() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    ), (1, 28, 28)  # fmt: skip


class Attention(nn.Module):
    """One encoder block over 28 rows of 28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.block(self.embed(x)).mean(1))


def attention() -> tuple[nn.Module, tuple[int, ...]]:
    return Attention().eval(), (28, 28)


def data(samples: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ten noisy prototypes: labels that can be learnt, without a download."""
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.randn(10, *shape, generator=generator)
    labels = torch.randint(0, 10, (samples,), generator=generator)
    return prototypes[labels] + 2.0 * torch.randn(samples, *shape, generator=generator), labels


def median_time(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_ratios(risk: tw.EmpiricalRisk, repeats: int) -> dict[str, float]:
    """Cost of a Hessian product in gradients, by chunks and with the graph kept; interleaved, medians."""
    theta = risk.initial
    vector = torch.randn(theta.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradient = median_time(lambda: risk.gradient(theta), repeats)
    fresh = risk.hessian_operator(theta, keep=False)
    chunked = median_time(lambda: fresh @ vector, repeats)
    with tw.memory_limit("6GiB"):
        kept = risk.hessian_operator(theta, keep=True)
    ratio = median_time(lambda: kept @ vector, repeats)
    gradient = (gradient + median_time(lambda: risk.gradient(theta), repeats)) / 2
    return {
        "gradient (s)": gradient,
        "product by chunks / gradient": chunked / gradient,
        "product kept / gradient": ratio / gradient,
    }


def measure(name: str, samples: int, repeats: int = 3) -> list[tuple[str, str]]:
    """Measure one model; rows of figure and value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, shape = {"mlp": mlp, "cnn": cnn, "attention": attention}[name]()
    inputs, labels = data(samples, shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in torch.randperm(samples, generator=torch.Generator().manual_seed(3)).split(128):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, labels)
    rows = [("parameters", f"{risk.space.size:,}"), ("samples", f"{samples:,}")]
    rows += [(key, f"{value:.3g}") for key, value in product_ratios(risk, repeats).items()]
    start = time.perf_counter()
    verdict = tw.inspect(risk)
    seconds = time.perf_counter() - start
    curvature = verdict.curvature
    assert curvature is not None
    rows.append(("inspection", f"{seconds / 60:.1f} min"))
    rows.append(("peak memory of the process", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"))
    rows.append(("largest eigenvalue", f"{curvature.highest:.6g}"))
    rows.append(("most negative Rayleigh quotient", f"{curvature.lowest.value:.6g} +- {curvature.lowest.residual:.1g}"))
    if curvature.pairs is not None:
        worst = float(curvature.pairs.residuals.max()) / curvature.scale
        rows.append(("worst residual / largest eigenvalue", f"{worst:.1e} after {curvature.products} products"))
    rows.append(("certificates", told(verdict.certificates)))
    if verdict.best_step is not None:
        step = verdict.best_step
        rows.append((f"suggested step ({step.name})", f"predicted {step.predicted:.4g}, measured {step.measured:.4g}"))
    return rows


def told(certificates: tuple[tw.certificates.Certificate, ...]) -> str:
    """How many of each outcome, and in what time."""
    counts = Counter(certificate.outcome.value for certificate in certificates)
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
    return f"{outcomes}; {sum(certificate.seconds for certificate in certificates):.0f} s"


def run() -> str:
    """Measure every model in a process of its own, so that peak memory is that model's."""
    parts = []
    for name, samples in SAMPLES.items():
        command = [sys.executable, "-m", "benchmarks.bench_scale", name, str(samples)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        parts.append(done.stdout if not done.returncode else f"**{name}**\n\nfailed: {done.stderr.splitlines()[-1]}\n")
        print(parts[-1], flush=True)
    return "\n".join(parts)


if __name__ == "__main__":
    chosen = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else SAMPLES[chosen]
    print(f"**{chosen}**\n\n| figure | value |\n|---|---|")
    for key, figure in measure(chosen, count):
        print(f"| {key} | {figure} |", flush=True)
