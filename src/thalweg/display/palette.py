"""Colours told apart by people who see colours differently, standing out on white and on near-black alike."""

from __future__ import annotations

__all__ = ["DARK", "DASHES", "LIGHT", "ON_GROUND", "SERIES", "SYMBOLS"]

SERIES = ("#2b7bba", "#d55e00", "#12876a", "#a45fb5", "#9c7a00", "#7b818a")
"""One for each series of a figure, in turn; contrast of at least 3 to both backgrounds."""

ON_GROUND = ("#e8590c", "#d6336c", "#0b7a4b", "#5f3dc4", "#7a5c00", "#343a40")
"""The same for lines and points on coloured ground, each with a white rim."""

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
"""Of points, so that colour is not the only difference."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Of lines, likewise."""

LIGHT = {"background": "#ffffff", "text": "#1b1f24", "muted": "#5a6270", "rule": "#d8dce2", "panel": "#f5f6f8"}
DARK = {"background": "#14171b", "text": "#e6e8eb", "muted": "#a2aab5", "rule": "#363c45", "panel": "#1d2127"}

LIGHT_LEVELS = {"ok": "#0f6b46", "warn": "#8a5a00", "bad": "#b3261e"}
DARK_LEVELS = {"ok": "#5fd1a0", "warn": "#e8b64c", "bad": "#ff8a80"}
