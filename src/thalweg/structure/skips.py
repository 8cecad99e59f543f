"""Where two ways through a network meet again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.structure.steps import Step

__all__ = ["Skip", "find_skips"]

_JOINS = frozenset({"add", "multiply", "concatenate", "matmul", "other"})


@dataclass(frozen=True)
class Skip:
    """Two or more ways from one step to another.

    Attributes:
        source: number of the last step that all ways pass.
        join: number of the step where they meet.
        kind: how they are joined: ``"add"`` for a residual connection, ``"multiply"`` for a gate, ...
    """

    source: int
    join: int
    kind: str


def find_skips(steps: Sequence[Step]) -> tuple[Skip, ...]:
    """All joins of two ways that come from one step.

    Args:
        steps: a description, each step after those it reads.
    """
    above = _dominators(steps)
    found = []
    for step in steps:
        if step.kind in _JOINS and len(step.reads) > 1:
            common = set.intersection(*(above[r] | {r} for r in step.reads))
            if common:
                found.append(Skip(max(common), step.index, step.kind))
    return tuple(found)


def _dominators(steps: Sequence[Step]) -> list[set[int]]:
    """For each step the steps that every way to it passes, itself left out."""
    above: list[set[int]] = []
    for step in steps:
        ways = [above[r] | {r} for r in step.reads]
        above.append(set.intersection(*ways) if ways else set())
    return above
