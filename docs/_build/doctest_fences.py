"""Examples in docstrings, given to the documentation as code.

A docstring of this project ends in a doctest without a heading. Read as Markdown, its lines would run together and its brackets
would be taken for links; here each block becomes a fenced one before mkdocstrings reads it.
"""

from __future__ import annotations

import textwrap
from typing import Any

import griffe


class DoctestFences(griffe.Extension):
    """Fences every doctest of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Put fences around blocks that begin with a prompt and end with an empty line."""
    done: list[str] = []
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith(">>>") or (block and line.strip()):
            block.append(line)
            continue
        if block:
            code = textwrap.dedent("\n".join(block)).replace("<BLANKLINE>", "")
            done += ["", "```pycon", *code.splitlines(), "```"]
            block = []
        done.append(line)
    return "\n".join(done).rstrip()
