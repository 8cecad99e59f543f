"""``thalweg demo``: the main job on real data, from training to a better network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from thalweg.display import Code, Facts, Paragraph, Report, Section, format_number, to_page
from thalweg.display import write_text_atomically as write_text
from thalweg.foundation import InvalidInputError
from thalweg.inspection import Verdict, inspect
from thalweg.objectives import L2, EmpiricalRisk, Objective
from thalweg.solvers import Solution, minimize

__all__ = ["run_demo"]

DECAY = 1e-3
LEARNING_RATE = 1e-3
BATCH = 64
HIDDEN = 16
AFTER = "after.html"
BRIEFLY = ("The point", "Curvature")
"""Sections of the second verdict that the page repeats."""


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's handwritten digits: 8 x 8 grey values in [0, 1], split 4 to 1."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def run_demo(
    folder: Path, *, epochs: int, seed: int, say: Callable[[str], None], seconds: float = 60.0
) -> tuple[Verdict, Verdict]:
    """Train as an ordinary user would, inspect, take the advice, inspect again, write the page.

    Args:
        folder: where ``report.html``, ``after.html`` and ``verdict.json`` go; made if missing.
        epochs: of Adam.
        seed: of the weights and the order of samples.
        say: told what happens.
        seconds: spent on taking the advice.

    Returns:
        The verdicts before and after.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot make the folder {folder}: {error.strerror}") from error
    digits = load_digits()
    say(f"Training a 64-{HIDDEN}-10 network on {len(digits.train_y)} handwritten digits with Adam, {epochs} epochs ...")
    model = train(digits, epochs, seed)
    objective = EmpiricalRisk(model, nn.CrossEntropyLoss(), digits.train_x, digits.train_y)
    total = objective + L2(objective, DECAY)
    say(f"Done: {accuracy(model, digits):.1f} % of the test digits right. Inspecting ...\n")
    before = inspect(total, model, seed=seed)
    before.print()
    say("Taking the advice: second-order steps from the suggested point ...\n")
    start = before.suggested_theta if before.suggested_theta is not None else before.theta
    solution = minimize(total, start, method=before.suggested_method, time_budget=seconds)
    after = inspect(total, solution, seed=seed)
    after.print()
    better = nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10))
    objective.load_into_model(solution.theta, better)
    report = _page(before, after, solution, accuracy(model, digits), accuracy(better, digits), total)
    write_text(folder / "report.html", to_page(report))
    after.save_html(folder / AFTER)
    before.save_json(folder / "verdict.json")
    say(f"\nLoss {before.value:.6g} -> {after.value:.6g}. The page: {folder / 'report.html'}")
    return before, after


def load_digits() -> Digits:
    """Read the digits that scikit-learn bundles."""
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    x = torch.as_tensor(data.data / 16.0, dtype=torch.float32)
    y = torch.as_tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    held, kept = order[: len(y) // 5], order[len(y) // 5 :]
    return Digits(x[kept], y[kept], x[held], y[held])


def train(digits: Digits, epochs: int, seed: int) -> nn.Module:
    """An ordinary training loop: Adam, mini-batches, weight decay."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    loss = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train_y), generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss(model(digits.train_x[batch]), digits.train_y[batch]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Percentage of test digits recognised."""
    with torch.no_grad():
        right = model(digits.test_x).argmax(1) == digits.test_y
    return 100 * float(right.double().mean())


def _then_and_now(name: str, before: float, after: float) -> tuple[str, str, str]:
    return name, format_number(after, 2), f"before: {format_number(before, 2)}"


def _page(
    before: Verdict,
    after: Verdict,
    solution: Solution,
    accuracy_before: float,
    accuracy_after: float,
    total: Objective,
) -> Report:
    gained = before.value - after.value
    ended = f"{solution.status.value} in {int(solution.iterations)} iterations"
    story = Section(
        "What happened",
        [
            Paragraph(
                "A small network was trained on handwritten digits by Adam, inspected, improved as the inspection "
                "advised, and inspected again. The first verdict stands below in full, the second after it."
            ),
            Facts(
                [
                    ("loss after Adam", before.value, ""),
                    ("loss after the advice", after.value, ended),
                    ("gained", gained, f"{100 * gained / before.value:.3g} %"),
                    _then_and_now("gradient, maximum norm", before.gradient_norm, after.gradient_norm),
                    ("test digits right", f"{accuracy_after:.1f} %", f"before: {accuracy_before:.1f} %"),
                ]
            ),
            Code(
                "objective = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, labels)\n"
                f"objective = objective + tw.L2(objective, {DECAY})   # the weight decay of the training\n"
                "verdict = tw.inspect(objective, model)\n"
                f'solution = tw.minimize(objective, verdict.suggested_theta, method="{before.suggested_method}")'
            ),
        ],
    )
    first, second = before.report(), after.report()
    rest = [section for section in second.sections if section.title in BRIEFLY]
    sections = [
        story,
        Section("First verdict: after Adam", first.summary),
        *first.sections,
        Section("Second verdict: after the advice", [*second.summary, f"In full it stands in `{AFTER}`."]),
        *(Section(f"{section.title}, after the advice", section.items) for section in rest),
    ]
    return Report("Thalweg demo: digits", sections, footer=second.footer)
