"""What is predicted is what is taken: the peak of a process, measured from outside the planner.

Each case runs in a process of its own, which watches its resident memory while the work is done. The libraries' own
buffers, some tens of MiB that do not grow with the work, come on top of what is predicted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import gc, json, sys, threading, time
import psutil, torch
from torch import nn
from thalweg.foundation import MemoryLimitError, memory_limit, plan_passes
import thalweg.foundation.memory as memory
from thalweg.objectives import EmpiricalRisk
from thalweg.objectives.closed_form import closed_form

torch.set_num_threads(1)
torch.manual_seed(0)
task, samples, hidden = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(hidden, 4, 2 * hidden, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x).mean(1)

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(8, hidden, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0][:, -1]

def convolutional():
    first = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(16, hidden, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*first, *second).eval()

def deep():
    layers = [nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers)

outputs = 12 if task == "closed form of many outputs" else 1
kind = task.removeprefix("kept ") if task.startswith("kept ") else "deep" if "closed" in task else "dense"
model, inputs = {
    "dense": lambda: (nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1)), (2,)),
    "deep": lambda: (deep(), (8,)),
    "convolution": lambda: (convolutional(), (3, 16, 16)),
    "attention": lambda: (Attention(), (20, hidden)),
    "recurrence": lambda: (Recurrent(), (20, 8)),
}[kind]()
targets = torch.randn(samples, {"dense": 1, "deep": outputs}.get(kind, hidden))
risk = EmpiricalRisk(model, nn.MSELoss(), torch.randn(samples, *inputs), targets)
theta, cost, process = risk.initial, risk.cost, psutil.Process()
few = risk.subset(range(64))
few.hessian_operator(theta, keep=kind != "dense") @ theta  # what libraries set up once
if kind in ("dense", "deep"):
    few.hessian(theta), few.hessian_product(theta, theta), few.sample_gradients(theta)
seeds = theta.repeat(12, 1)
LIMIT = 300 * 2**20

def refuse():
    with memory_limit(LIMIT):
        for ask in (lambda: risk.hessian(seeds.repeat(40, 1)), lambda: risk.hessian_operator(theta, keep=True)):
            try:
                ask()
            except MemoryLimitError as error:
                assert error.needed > LIMIT
            else:
                raise AssertionError("not refused")

def within(work):
    def limited():
        with memory_limit(LIMIT):
            work()
    return limited

one = cost.bytes_fixed + cost.samples * cost.bytes_per_sample
if task in ("gradient", "closed form", "closed form of many outputs"):
    memory.WORKING_SET = 2**40  # in one pass
if kind == "deep":
    closed = closed_form(risk).hessian_cost
    at_once = closed.bytes_fixed + samples * closed.bytes_per_sample
else:
    at_once = 0
TASKS = {
    "closed form": (lambda: risk.hessian(theta), at_once),
    "closed form of many outputs": (lambda: risk.hessian(theta), at_once),
    "closed in parts": (within(lambda: risk.hessian(theta)), at_once),
    "closed for seeds": (within(lambda: risk.hessian(seeds)), 12 * at_once),
    "gradient": (lambda: risk.gradient(theta), one),
    **dict.fromkeys(
        ("kept", "kept convolution", "kept attention", "kept recurrence"),
        (lambda: risk.hessian_operator(theta, keep=True) @ theta, risk.kept_bytes()),
    ),
    "seeds": (within(lambda: risk.gradient(seeds)), 12 * one),
    "products": (within(lambda: risk.hessian_product(seeds, seeds)), 24 * one),
    "columns": (within(lambda: risk.hessian(theta)), 2 * theta.numel() * one),
    "seeds and columns": (within(lambda: risk.hessian(seeds[:3])), 6 * theta.numel() * one),
    "gauss-newton": (within(lambda: risk.gauss_newton(theta)), 8 * samples * theta.numel()),
    "outputs": (within(lambda: risk.outputs(seeds)), 12 * one),
    "refused": (refuse, 2 * 480 * 8 * theta.numel() ** 2),
}
work, uncut = TASKS[task]
gc.collect()
peak, done = 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.0005)

before = process.memory_info().rss
watcher = threading.Thread(target=watch)
watcher.start()
work()
done = True
watcher.join()
print(json.dumps({"taken": peak - before, "uncut": uncut, "limit": LIMIT}))
"""


def measured(task: str, samples: int, hidden: int) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, task, str(samples), str(hidden)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(run.stdout)


BUFFERS = 64 * 2**20


soak = pytest.mark.soak


@pytest.mark.soak
def test_the_predicted_memory_of_a_pass_is_that_measured() -> None:
    """Within a factor of 1.5 above and 2 below, the libraries' own buffers left out."""
    found = measured("gradient", 12000, 512)
    assert found["uncut"] > 2 * BUFFERS
    assert found["taken"] <= 1.5 * found["uncut"] + BUFFERS
    assert found["taken"] >= found["uncut"] / 2


@pytest.mark.parametrize(
    ("task", "samples", "hidden"),
    [
        pytest.param("kept", 12000, 512, marks=soak),
        ("kept convolution", 600, 32),
        pytest.param("kept convolution", 1500, 32, marks=soak),
        pytest.param("kept attention", 1000, 32, marks=soak),
        pytest.param("kept attention", 3000, 32, marks=soak),
        pytest.param("kept recurrence", 2000, 32, marks=soak),
    ],
)
def test_a_kept_graph_never_takes_more_than_predicted(task: str, samples: int, hidden: int) -> None:
    """What the allocator holds back is in the prediction, which is at most about twice too high."""
    found = measured(task, samples, hidden)
    assert found["uncut"] > 3 * BUFFERS
    assert found["taken"] <= found["uncut"]
    assert found["taken"] >= found["uncut"] / 2.5


@pytest.mark.parametrize(
    ("task", "samples", "hidden"),
    [
        ("closed form", 3000, 40),
        pytest.param("closed form", 20000, 20, marks=soak),
        ("closed form of many outputs", 1000, 40),
        pytest.param("closed form of many outputs", 20000, 10, marks=soak),
    ],
)
def test_a_hessian_in_one_pass_takes_no_more_than_predicted(task: str, samples: int, hidden: int) -> None:
    found = measured(task, samples, hidden)
    assert found["uncut"] > 3 * BUFFERS
    assert found["taken"] <= found["uncut"]
    assert found["taken"] >= found["uncut"] / 3


@pytest.mark.parametrize(
    ("task", "samples", "hidden"),
    [
        pytest.param("seeds", 20000, 256, marks=soak),
        pytest.param("products", 20000, 256, marks=soak),
        pytest.param("columns", 2000, 100, marks=soak),
        ("seeds and columns", 1000, 100),
        pytest.param("gauss-newton", 60000, 200, marks=soak),
        pytest.param("outputs", 20000, 256, marks=soak),
        pytest.param("closed in parts", 20000, 30, marks=soak),
        ("closed for seeds", 3000, 30),
    ],
)
def test_what_would_not_fit_at_once_is_cut_to_fit(task: str, samples: int, hidden: int) -> None:
    found = measured(task, samples, hidden)
    assert found["uncut"] > found["limit"]
    assert found["taken"] < found["limit"]


def test_a_refusal_takes_nothing() -> None:
    found = measured("refused", 40000, 256)
    assert found["uncut"] > 2 * found["limit"]
    assert found["taken"] < BUFFERS / 4
