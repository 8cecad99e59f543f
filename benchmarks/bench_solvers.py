"""Solvers against SciPy and torch.optim: time to the same point, and how often the verdict is right.

Three problems, 16 starts each: softmax regression of digits (4 x 4 pixels, one hidden layer of 6 tanh units, ridge
1e-3), the regression of a noisy 4-5-1 tanh teacher by a 4-5-1 student (1000 samples, no ridge), where minima at
infinity abound, and an 8-8-1 softplus network on eight features of the diabetes data with ridge 1e-3. Every solver gets
the same starts, the same gradient and the same Hessian, on one thread. The library searches from many starts in one
call, and so it is timed: 64 starts of digits and 256 of the others together, the time divided by their number. It is
also run one start at a time, as the others are; all of these run one after another from each start, so that a busy
moment hits them alike, and starts are spread over two processes.

The truth about an end point comes from a long continuation by damped Newton steps whose values and gradients are
computed in extended precision (`numpy.longdouble`) by closed forms that share nothing with the library: it is a minimum
if the continuation stays where it is and the Hessian is positive definite there; else it is not.

Run: ``python -m benchmarks.run solvers``.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_diabetes, load_digits
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from thalweg.objectives import L2, EmpiricalRisk, Objective
from thalweg.solvers import minimize, random_starts

TITLE = "Solvers against SciPy and torch.optim from the same starts"
STARTS = 16
TOGETHER = {"digits": 64, "teacher": 256, "diabetes": 256}
"""Starts of one call; the first of them are those that all others get."""
REFERENCE = "thalweg newton, one call"
RIDGE = 1e-3
SECONDS = 60.0
"""For each of our solvers from one start; one that is cut off has not converged."""
LONG = np.longdouble


@dataclass(frozen=True)
class Problem:
    """An objective with starts, and its value and gradient in extended precision."""

    name: str
    objective: Objective
    starts: Tensor
    exact: Callable[[np.ndarray], tuple[Any, np.ndarray]]


@dataclass(frozen=True)
class End:
    """Where one solver ended from one start."""

    theta: np.ndarray
    value: float
    gradient: float
    seconds: float
    says_converged: bool


def digits() -> Problem:
    data = load_digits()
    images = data.images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16) / 16
    x, y = torch.tensor(images - images.mean(0)), torch.tensor(data.target)
    model = nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    risk = EmpiricalRisk(model, nn.CrossEntropyLoss(), x, y)
    objective = risk + L2(risk, RIDGE)
    hot = np.eye(10, dtype=LONG)[data.target]
    starts = random_starts(objective.space, TOGETHER["digits"], 0)
    return Problem("digits 16-6-10, ridge", objective, starts, _exact(x, hot, 6, "softmax"))


def teacher() -> Problem:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(1000, 4, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    shapes = [p.shape for p in model.parameters()]
    w, b, a, c = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    y = torch.tanh(x @ w.T + b) @ a.T + c + 0.1 * torch.randn(1000, 1, generator=generator, dtype=torch.float64)
    objective = EmpiricalRisk(model, nn.MSELoss(), x, y)
    target = y.numpy().astype(LONG)
    starts = random_starts(objective.space, TOGETHER["teacher"], 1)
    return Problem("teacher 4-5-1, noise", objective, starts, _exact(x, target, 5, "squares"))


def diabetes() -> Problem:
    data = load_diabetes()
    x, y = torch.tensor(data.data[:, [0, 2, 3, 4, 5, 6, 8, 9]]), torch.tensor(data.target).unsqueeze(1)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    model = nn.Sequential(nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1)).double()
    risk = EmpiricalRisk(model, nn.MSELoss(), x, y)
    exact = _exact(x, y.numpy().astype(LONG), 8, "ridge")
    starts = random_starts(risk.space, TOGETHER["diabetes"], 2)
    return Problem("diabetes 8-8-1 softplus, ridge", risk + L2(risk, RIDGE), starts, exact)


def _exact(x: Tensor, target: np.ndarray, width: int, loss: str) -> Callable[[np.ndarray], tuple[Any, np.ndarray]]:
    """Value and gradient by hand, for one hidden layer; parameters in the order W, b, A, c."""
    inputs = x.numpy().astype(LONG)
    n, outputs = len(inputs), target.shape[1]
    cuts = np.cumsum([width * inputs.shape[1], width, outputs * width])

    def evaluate(theta: np.ndarray) -> tuple[Any, np.ndarray]:
        w, b, a, c = np.split(theta.astype(LONG), cuts)
        w, a = w.reshape(width, -1), a.reshape(outputs, width)
        z = inputs @ w.T + b
        if loss == "ridge":
            hidden, bent = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), 1 / (1 + np.exp(-z))
        else:
            hidden = np.tanh(z)
            bent = 1 - hidden**2
        out = hidden @ a.T + c
        if loss == "softmax":
            shifted = out - out.max(1, keepdims=True)
            total = np.exp(shifted).sum(1, keepdims=True)
            value = -((shifted - np.log(total)) * target).sum() / n + LONG(RIDGE) / 2 * (theta**2).sum()
            slope = (np.exp(shifted) / total - target) / n
        else:
            value, slope = ((out - target) ** 2).mean(), 2 * (out - target) / out.size
        if loss == "ridge":
            value = value + LONG(RIDGE) / 2 * (theta**2).sum()
        back = (slope @ a) * bent
        gradient = np.concatenate([(back.T @ inputs).ravel(), back.sum(0), (slope.T @ hidden).ravel(), slope.sum(0)])
        return value, gradient + (0 if loss == "squares" else LONG(RIDGE) * theta)

    return evaluate


def is_minimum(problem: Problem, theta: np.ndarray, steps: int = 400) -> bool:
    """Continue with damped Newton steps in extended precision: does the point stay, its Hessian positive definite?"""
    point = start = theta.astype(LONG)
    value, gradient = problem.exact(point)
    damping, size = 0.0, float(np.linalg.norm(theta))
    for _ in range(steps):
        hessian = problem.objective.hessian(torch.tensor(point.astype(np.float64))).numpy()
        eigenvalues, vectors = np.linalg.eigh(hessian)
        floor = 1e-15 * eigenvalues[-1]
        if float(np.abs(gradient).max()) < 1e-16 and eigenvalues[0] > 10 * floor:
            return bool(np.linalg.norm((point - start).astype(np.float64)) < 1e-2 * (1 + size))
        slopes = vectors.T @ gradient.astype(np.float64)
        for _ in range(60):
            step = -vectors @ (slopes / np.maximum(np.abs(eigenvalues) + damping, floor))
            trial_value, trial_gradient = problem.exact(point + step)
            if trial_value < value or np.abs(trial_gradient).max() < 0.9 * np.abs(gradient).max():
                break
            damping = max(4 * damping, 1e-12 * eigenvalues[-1])
        else:
            break
        point, value, gradient, damping = point + step, trial_value, trial_gradient, damping / 8
        if np.linalg.norm((point - start).astype(np.float64)) > 1 + size:
            return False
    return False


def ours(method: str) -> Callable[[Problem, Tensor], End]:
    def solve(problem: Problem, start: Tensor) -> End:
        begun = time.perf_counter()
        found = minimize(problem.objective, start, method=method, time_budget=SECONDS)
        seconds = time.perf_counter() - begun
        return _end(problem, found.theta.numpy(), seconds, bool(found.converged))

    return solve


def scipy_solver(name: str) -> Callable[[Problem, Tensor], End]:
    def solve(problem: Problem, start: Tensor) -> End:
        objective = problem.objective

        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            found = objective.evaluate(torch.from_numpy(x), 1)
            return float(found.value), found.gradient.numpy()

        extra: dict[str, Any] = {"options": {"gtol": 1e-10, "maxiter": 20_000}}
        if name == "trust-exact":
            extra["hess"] = lambda x: objective.hessian(torch.from_numpy(x)).numpy()
            extra["options"]["maxiter"] = 2_000
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = scipy_minimize(both, start.numpy(), jac=True, method=name, **extra)
        return _end(problem, found.x, time.perf_counter() - begun, bool(found.success))

    return solve


def radau_then_newton(problem: Problem, start: Tensor) -> End:
    """What a person writes: gradient flow by SciPy's Radau with the exact Hessian, then plain Newton steps."""
    objective = problem.objective

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        return -objective.gradient(torch.from_numpy(x)).numpy()

    def jacobian(_: float, x: np.ndarray) -> np.ndarray:
        return -objective.hessian(torch.from_numpy(x)).numpy()

    def small(t: float, x: np.ndarray) -> float:
        return float(np.abs(slope(t, x)).max() - 1e-6)

    small.terminal = True  # type: ignore[attr-defined]
    begun = time.perf_counter()
    found = solve_ivp(slope, (0, 1e8), start.numpy(), "Radau", jac=jacobian, events=small, rtol=1e-3, atol=1e-6)
    theta = torch.from_numpy(found.y[:, -1].copy())
    for _ in range(20):
        gradient = objective.gradient(theta)
        if float(gradient.abs().max()) <= 1e-10:
            break
        theta = theta - torch.linalg.solve(objective.hessian(theta), gradient)
    seconds = time.perf_counter() - begun
    end = _end(problem, theta.numpy(), seconds, True)
    return End(end.theta, end.value, end.gradient, seconds, end.gradient <= 1e-10)


def torch_lbfgs(problem: Problem, start: Tensor) -> End:
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta],
        max_iter=20_000,
        max_eval=60_000,
        tolerance_grad=1e-10,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        found = problem.objective.evaluate(theta.detach(), 1)
        theta.grad = found.gradient.clone()
        return found.value

    begun = time.perf_counter()
    optimiser.step(closure)
    seconds = time.perf_counter() - begun
    end = _end(problem, theta.detach().numpy(), seconds, True)
    return End(end.theta, end.value, end.gradient, seconds, end.gradient <= 1e-10)


def _end(problem: Problem, theta: np.ndarray, seconds: float, says_converged: bool) -> End:
    found = problem.objective.evaluate(torch.from_numpy(theta), 1)
    return End(theta, float(found.value), float(found.gradient.abs().max()), seconds, says_converged)


SOLVERS: dict[str, Callable[[Problem, Tensor], End]] = {
    "thalweg newton": ours("newton"),
    "thalweg flow": ours("flow"),
    "thalweg newton-cg": ours("newton-cg"),
    "thalweg lm": ours("lm"),
    "thalweg l-bfgs": ours("l-bfgs"),
    "scipy BFGS": scipy_solver("BFGS"),
    "scipy trust-exact": scipy_solver("trust-exact"),
    "torch LBFGS": torch_lbfgs,
    "Radau, then Newton": radau_then_newton,
}


PROBLEMS: dict[str, Callable[[], Problem]] = {"digits": digits, "teacher": teacher, "diabetes": diabetes}


def from_start(name: str, number: int, given: dict[str, End]) -> dict[str, tuple[End, bool]]:
    """What every solver makes of one start, and whether it is truly a minimum; in a process of its own."""
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's, for SciPy
    problem = PROBLEMS[name]()
    ends = given | {solver: solve(problem, problem.starts[number]) for solver, solve in SOLVERS.items()}
    return {solver: (end, is_minimum(problem, end.theta)) for solver, end in ends.items()}


def compare(name: str, given: dict[str, list[End]], workers: int = 2) -> dict[str, dict[str, float]]:
    """Run all solvers from all starts of one problem; `given` are those that took the starts together."""
    solvers = [*given, *SOLVERS]
    ends: dict[str, list[End]] = {solver: [] for solver in solvers}
    truths: dict[str, list[bool]] = {solver: [] for solver in solvers}
    begun = time.perf_counter()
    rest = [{solver: row[number] for solver, row in given.items()} for number in range(STARTS)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(from_start, [name] * STARTS, range(STARTS), rest)):
            for solver, (end, true) in found.items():
                ends[solver].append(end)
                truths[solver].append(true)
            times = ", ".join(f"{solver} {end.seconds:.2f} s" for solver, (end, _) in found.items())
            print(f"  {name}, {time.perf_counter() - begun:.0f} s: start {number + 1}: {times}", flush=True)
    return {solver: _row(ends[REFERENCE], truths[REFERENCE], ends[solver], truths[solver]) for solver in solvers}


def _row(base: list[End], base_true: list[bool], row: list[End], true: list[bool]) -> dict[str, float]:
    """One solver beside the reference."""
    same = [
        abs(a.value - b.value) <= 1e-9 * (1e-3 + abs(a.value)) and ta and tb
        for a, b, ta, tb in zip(base, row, base_true, true, strict=True)
    ]
    there = [(a.seconds, b.seconds) for a, b, flag in zip(base, row, same, strict=True) if flag]
    nothing = float("nan")
    return {
        "right": sum(e.says_converged == t for e, t in zip(row, true, strict=True)) / len(row),
        "says converged": sum(e.says_converged for e in row) / len(row),
        "minima": sum(true) / len(row),
        "same": len(there),
        "seconds": statistics.median(b for _, b in there) if there else nothing,
        "reference": statistics.median(a for a, _ in there) if there else nothing,
        "median": statistics.median(e.seconds for e in row),
    }


def together(problem: Problem, method: str) -> tuple[list[End], str]:
    """All starts in one call, three times; the ends, with the median time for each start, and the statuses."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        found = minimize(problem.objective, problem.starts, method=method)
        times.append((time.perf_counter() - begun) / len(problem.starts))
    seconds = statistics.median(times)
    ends = [_end(problem, found.theta[i].numpy(), seconds, bool(found.converged[i])) for i in range(STARTS)]
    statuses = ", ".join(f"{n} {status.value}" for status, n in Counter(found.statuses).most_common())
    return ends, statuses


def run() -> str:
    """All problems as Markdown."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return "\n\n".join(map(section, PROBLEMS))
    finally:
        torch.set_num_threads(threads)


def section(name: str) -> str:
    """One problem: what all solvers did from the same starts."""
    problem = PROBLEMS[name]()
    given, statuses = {}, []
    for method in ("newton", "flow"):
        given[f"thalweg {method}, one call"], said = together(problem, method)
        statuses.append(f"`{method}`: {said}")
    many = len(problem.starts)
    head = (
        f"**{problem.name}**, P = {problem.objective.space.size}, {STARTS} starts ({many} in one call), one thread. "
        f"Statuses of all {many}: {'; '.join(statuses)}."
    )
    table = [
        "| solver | rightly classified | says converged | truly minima | same end as newton, one call "
        "| its time / that one's there | median time of all (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for solver, row in compare(name, given).items():
        table.append(
            f"| {solver} | {100 * row['right']:.0f} % | {100 * row['says converged']:.0f} % | "
            f"{100 * row['minima']:.0f} % | {row['same']:.0f} | {row['seconds'] / row['reference']:.2f} "
            f"| {row['median']:.3f} |"
        )
    return head + "\n\n" + "\n".join(table)


if __name__ == "__main__":
    print(run())
