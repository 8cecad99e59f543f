"""How much of an inspection its parts are, for the progress bar."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.foundation import Progress

__all__ = ["SHARES", "Piece"]

SHARES = {
    "curvature": 50,
    "flat directions": 5,
    "what a step would gain": 20,
    "hidden units": 2,
    "noise of mini-batches": 5,
    "slices": 8,
    "certificates": 10,
}
"""Hundredths of the work that a part takes, roughly, on a large network."""


@dataclass(frozen=True)
class Piece:
    """A part of a bar: counts to `total` between `start` and ``start + width`` hundredths."""

    bar: Progress
    start: float
    width: float
    total: float

    def update(self, completed: float | None = None, *, description: str | None = None) -> None:
        """Say how much of the piece is done."""
        if completed is not None:
            self.bar.update(self.start + self.width * min(completed / self.total, 1.0), description=description)
