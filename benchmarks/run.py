"""Runs every benchmark and writes benchmarks/RESULTS.md.

A benchmark is a file ``bench_NAME.py`` beside this one with a ``TITLE`` and a function ``run() -> str`` that gives the
Markdown under that title: what was compared, on what, and the figures.

    python -m benchmarks.run            all of them
    python -m benchmarks.run solvers    those whose name contains a word; the other sections of the file stay
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import time
from datetime import date
from pathlib import Path

import torch

from thalweg.display import format_duration, write_text_atomically

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"


def main(words: list[str]) -> None:
    """Run the benchmarks that were asked for, in alphabetical order; each result is written as soon as it is there."""
    names = sorted(path.stem for path in FOLDER.glob("bench_*.py"))
    chosen = [name for name in names if not words or any(word in name for word in words)]
    if not chosen:
        asked = " or ".join(words) or "bench_*.py"
        sys.exit(f"no benchmark is named like {asked}; there are {', '.join(names) or 'none'}")
    sections = earlier_sections(names)
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"{name}: {module.TITLE} ...", flush=True)
        started = time.perf_counter()
        body = module.run()
        took = format_duration(time.perf_counter() - started)
        sections[name] = f"{body.strip()}\n\n*{where()}; took {took}.*"
        write(sections)
        print(f"{name}: {took}", flush=True)


def write(sections: dict[str, str]) -> None:
    """Write all sections; a mark in each heading tells the next run which benchmark it is from."""
    parts = ["# Benchmarks", "Written by `make bench`. Ratios say more than times: these depend on the machine."]
    for name in sorted(sections):
        title = importlib.import_module(f"benchmarks.{name}").TITLE
        parts.append(f"## {title}\n<!-- {name} -->\n\n{sections[name]}")
    write_text_atomically(RESULTS, "\n\n".join(parts) + "\n")


def earlier_sections(names: list[str]) -> dict[str, str]:
    """What the file holds of benchmarks that still exist."""
    if not RESULTS.exists():
        return {}
    found = re.findall(r"^## [^\n]*\n<!-- (\w+) -->\n(.*?)(?=^## |\Z)", RESULTS.read_text(), re.MULTILINE | re.DOTALL)
    return {name: body.strip() for name, body in found if name in names}


def where() -> str:
    """Date and machine."""
    threads = torch.get_num_threads()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{date.today()}, {versions}, {os.cpu_count()} cores, {threads} threads"


if __name__ == "__main__":
    main(sys.argv[1:])
