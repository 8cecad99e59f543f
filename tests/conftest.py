"""What holds for every test: shapes are checked, one thread a worker, the global random state stays as it was."""

from __future__ import annotations

import os
import platform
import random
import signal
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import shape_checks
import torch

# Before anything of the package is imported: from here on the shapes in its signatures are checked (tests only).
# THALWEG_SHAPE_CHECKS=0 runs the tests without, to see what the checks cost.
CHECKED = os.environ.get("THALWEG_SHAPE_CHECKS", "1") != "0"
if CHECKED:
    shape_checks.install("thalweg")

SOAK = Path(__file__).parent.parent / "benchmarks" / "SOAK.md"


def pytest_configure(config: pytest.Config) -> None:
    # started in the background, a process ignores interrupts; some tests send themselves one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist: its neighbours need the other cores
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full-size campaigns to `make soak`, which asks for them by ``-m soak``."""
    if "soak" in config.option.markexpr:
        return
    soak = [item for item in items if "soak" in item.keywords]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if "soak" not in item.keywords]


@pytest.fixture(autouse=True)
def _default_settings_stay() -> Iterator[None]:
    """A test that changes torch's default type leaks into all later ones; say so where it happens."""
    before = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() == before, "the default dtype was changed"


@pytest.fixture
def untouched_random_state() -> Iterator[None]:
    """Fail unless the global random states of Python, NumPy and torch are afterwards exactly what they were."""
    python_before, torch_before = random.getstate(), torch.get_rng_state()
    numpy_before = np.random.get_state()  # noqa: NPY002  the global state is what is being watched
    yield
    assert random.getstate() == python_before, "Python's global random state was moved"
    assert torch.equal(torch.get_rng_state(), torch_before), "torch's global random state was moved"
    numpy_after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(numpy_before, numpy_after, strict=True)), (
        "NumPy's global random state was moved"
    )


_figures: dict[tuple[str, str], str] = {}
"""What was noted, by test and figure; filled where the reports come in, which under pytest-xdist is not the worker."""


@pytest.fixture
def soak_figure(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Note a figure of a soak campaign for benchmarks/SOAK.md: ``soak_figure("share rightly classified", 0.9998)``."""

    def note(what: str, figure: object) -> None:
        request.node.user_properties.append(("soak figure", (what, str(figure))))

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        test = report.nodeid.split("::", 1)[-1]
        _figures.update({(test, what[0]): what[1] for name, what in report.user_properties if name == "soak figure"})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the figures down; those of tests that did not run this time stay."""
    if not _figures:
        return
    now = f"{date.today()}, Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    rows = {key: f"| `{key[0]}` | {key[1]} | {figure} | {now} |" for key, figure in _figures.items()}
    ran = {test for test, _ in rows}
    for line in SOAK.read_text().splitlines() if SOAK.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 4 and cells[0].strip("`") not in ran:
            rows[cells[0].strip("`"), cells[1]] = line
    lines = ["# Soak", "", "Full-size campaigns, run by `make soak`.", "", "| test | figure | value | run |"]
    lines += ["|---|---|---|---|", *(rows[key] for key in sorted(rows))]
    SOAK.parent.mkdir(exist_ok=True)
    SOAK.write_text("\n".join(lines) + "\n")
