"""The matrix of strangers and verbs as Markdown.

``python -m tests.strangers.matrix`` prints it, ``--write`` puts it into the README.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- strangers:begin -->", "<!-- strangers:end -->"

if __name__ == "__main__":  # run as a script, nothing has put the helpers of the tests within reach
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tests.strangers.cells import VERBS, answer, case  # noqa: E402  found only from here on when run as a script
from tests.strangers.models import FACTORIES  # noqa: E402


def matrix() -> str:
    """A row for every stranger, a column for every verb; the reasons of refusals below."""
    reasons: list[str] = []
    lines = [
        "| model | loss | " + " | ".join(VERBS) + " |",
        "|---|---|" + ":-:|" * len(VERBS),
    ]
    for name in FACTORIES:
        found = [answer(name, verb) for verb in VERBS]
        cells = [_cell(one, reasons) for one in found]
        lines.append(f"| {name} | {case(name).risk.loss_facts.name} | " + " | ".join(cells) + " |")
    notes = [f"{_mark(number)} {reason}" for number, reason in enumerate(reasons)]
    return "\n".join(lines + ([""] if notes else []) + [note + "  " for note in notes])


def _cell(found: str, reasons: list[str]) -> str:
    if found == "ok":
        return "ok"
    reason = found.removeprefix("refused: ")
    if reason not in reasons:
        reasons.append(reason)
    return f"refused {_mark(reasons.index(reason))}"


def _mark(number: int) -> str:
    return f"[{chr(ord('a') + number)}]"


class Standing(NamedTuple):
    """The matrix that stands in the README: what each cell says as `answer` would, and each row's loss."""

    cells: dict[tuple[str, str], str]
    losses: dict[str, str]


def in_readme() -> Standing:
    """Read it back."""
    lines = README.read_text().split(BEGIN, 1)[1].split(END, 1)[0].strip().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    reasons = {line[:3]: line[4:].strip() for line in lines if line.startswith("[")}
    verbs = table[0][2:]
    cells = {
        (row[0], verb): f"refused: {reasons[cell[-3:]]}" if cell.startswith("refused ") else cell
        for row in table[2:]
        for verb, cell in zip(verbs, row[2:], strict=True)
    }
    return Standing(cells, {row[0]: row[1] for row in table[2:]})


def write() -> None:
    """Put the matrix between the markers of the README."""
    before, rest = README.read_text().split(BEGIN, 1)
    README.write_text(f"{before}{BEGIN}\n\n{matrix()}\n\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        print(matrix())
