"""What a paper says, what came out here, and whether the two agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.display import format_number

__all__ = ["Claim"]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, held against a figure of ours.

    Attributes:
        text: the statement.
        expected: the paper's figure, or one found independently of this library; empty where there is none. The study
            says whose it is.
        here: ours.
        tolerance: how far the two may differ.
        holds: whether they agree.
        note: what a reader has to know of the difference.

    >>> Claim.near("loss at infinity", 0.0423721519592, 0.04237215196, within=1e-8).holds
    True
    """

    text: str
    expected: str
    here: str
    tolerance: str
    holds: bool
    note: str = ""

    @staticmethod
    def near(
        text: str, expected: float, here: float, *, within: float, relative: bool = False, note: str = ""
    ) -> Claim:
        """Two numbers differ by no more than `within`, of the expected one where `relative`."""
        bound = within * abs(expected) if relative else within
        digits = _digits(expected, bound)
        told = f"{100 * within:.3g} %" if relative else f"{within:.0e}"
        holds = math.isfinite(here) and abs(here - expected) <= bound
        return Claim(text, format_number(expected, digits), format_number(here, digits), told, holds, note)

    @staticmethod
    def between(
        text: str, here: float, low: float, high: float, *, expected: str = "", unit: str = "", note: str = ""
    ) -> Claim:
        """A number lies in an interval, whose ends belong to it."""
        ends = [format_number(low) if math.isfinite(low) else "", format_number(high) if math.isfinite(high) else ""]
        told = f"{ends[0]} to {ends[1]}" if all(ends) else (f"at most {ends[1]}" if ends[1] else f"at least {ends[0]}")
        unit = f" {unit}" if unit else ""
        return Claim(text, expected, f"{format_number(here)}{unit}", told + unit, low <= here <= high, note)

    @staticmethod
    def larger(
        text: str, here: float, than: float, error: float, *, expected: str = "", unit: str = "", note: str = ""
    ) -> Claim:
        """One number is larger than another by more than 1.64 standard errors of their difference: one chance in 20."""
        told = f"{format_number(here, 3)} against {format_number(than, 3)}" + (f" {unit}" if unit else "")
        bound = 1.64 * error
        return Claim(text, expected, told, f"by {format_number(bound, 2)} or more", here - than > bound, note)

    @staticmethod
    def that(text: str, holds: bool, *, expected: str = "", here: str = "", note: str = "") -> Claim:
        """Something is so, or is not."""
        return Claim(text, expected, here or ("yes" if holds else "no"), "", bool(holds), note)


def _digits(value: float, bound: float) -> int:
    """As many as it takes to show a difference of `bound`, and one more."""
    if value == 0 or bound <= 0:
        return 6
    return min(15, max(3, math.ceil(math.log10(abs(value)) - math.log10(bound)) + 3))
