"""A figure as a still picture, for where no script runs: notebooks, print, pages read with scripts off.

Colours come from the style sheet of the page around it (`fragment`), so the picture follows its light or dark theme.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import pairwise

from thalweg.display.figures import Figure
from thalweg.display.palette import LIGHT, ON_GROUND, SERIES
from thalweg.display.scales import Placing, place_x, place_y
from thalweg.display.series import Series

__all__ = ["to_svg"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 34, 56
CHARACTER = 7.2
"""About the width of a character at the size of the ticks."""

Places = list[tuple[float, float]]


def to_svg(figure: Figure, *, standalone: bool = False) -> str:
    """The figure as an ``<svg>`` element with no identifiers in it, so that many may stand on one page.

    Args:
        figure: what is drawn.
        standalone: with a white ground and colours of its own, for a file: there is no page around it then.
    """
    drawn = _Canvas(figure).draw()
    if not standalone:
        return drawn
    rules = (
        "text{{fill:{text};font:13px sans-serif}}.tw-grid{{stroke:{rule}}}.tw-axis{{stroke:{muted}}}"
        ".tw-mark{{stroke:{muted};stroke-width:1.5;stroke-dasharray:6 4}}".format(**LIGHT)
    )
    ground = f'<style>{rules}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="{LIGHT["background"]}"/>'
    head, inside = drawn.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{ground}{inside}\n'


class _Canvas:
    """Lays out one figure; positions are in units of the view box."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.categories = figure.categories
        self.x: Placing | None = None if self.categories else place_x(figure)
        self.y = place_y(figure)
        self.parts: list[str] = []
        self.colours = SERIES if figure.ground is None else ON_GROUND

    def draw(self) -> str:
        self._ground()
        self._vertical_axis()
        self._horizontal_axis()
        for number, series in enumerate(self.figure.series):
            self._series(series, number)
        self._marks()
        self._legend()
        label = escape(f"{self.figure.title}. {self.figure.caption.computed}")
        head = f'<svg class="tw-svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        return head + "".join(self.parts) + "</svg>"

    # -- places --------------------------------------------------------------------------------------------------------

    def across(self, value: float | str) -> float:
        room = WIDTH - LEFT - RIGHT
        if self.x is None:
            return LEFT + room * (self.categories.index(str(value)) + 0.5) / len(self.categories)
        return LEFT + room * min(max(self.x.share(float(value)), 0.0), 1.0)

    def up(self, value: float) -> float:
        if self.y.axis.scale == "log":
            value = max(value, self.y.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(self.y.share(value), 0.0), 1.0)

    def foot(self) -> float:
        """Where bars and stems stand."""
        return self.up(self.y.low if self.y.axis.scale == "log" else 0.0)

    # -- pieces --------------------------------------------------------------------------------------------------------

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>')

    def text(self, x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>')

    def _ground(self) -> None:
        ground = self.figure.ground
        if ground is None:
            return
        across, up = list(map(self.across, ground.x)), list(map(self.up, ground.y))
        edges_x, edges_y = [across[0], *_between(across), across[-1]], [up[0], *_between(up), up[-1]]
        for (low, high), row in zip(pairwise(edges_y), ground.heights, strict=True):
            for (left, right), height in zip(pairwise(edges_x), row, strict=True):
                # a little wider than they are: no seams between them
                box = f'x="{left:.1f}" y="{high:.1f}" width="{right - left + 0.5:.1f}" height="{low - high + 0.5:.1f}"'
                self.parts.append(f'<rect {box} fill="{ground.colour(height)}"/>')

    def _vertical_axis(self) -> None:
        for value, text in self.y.ticks():
            self.line(LEFT, self.up(value), WIDTH - RIGHT, self.up(value), 'class="tw-grid"')
            self.text(LEFT - 8, self.up(value) + 4, text, "end")
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self.text(14, middle, self.figure.y.title, more=f'transform="rotate(-90 14 {middle:.1f})"')

    def _horizontal_axis(self) -> None:
        floor = HEIGHT - BOTTOM
        self.line(LEFT, floor, WIDTH - RIGHT, floor, 'class="tw-axis"')
        if self.x is None:
            room = (WIDTH - LEFT - RIGHT) / len(self.categories)
            stride = max(1, round(42 / room + 0.5)) if room < 42 else 1
            for name in self.categories[::stride]:
                self.text(self.across(name), floor + 18, _cut(name, int(stride * room / CHARACTER)))
        else:
            for value, text in self.x.ticks():
                self.line(self.across(value), floor, self.across(value), floor + 5, 'class="tw-axis"')
                self.text(self.across(value), floor + 20, text)
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, self.figure.x.title)

    def _series(self, series: Series, number: int) -> None:
        colour = self.colours[number % len(self.colours)]
        keep = [i for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)) if self.figure.drawable(x, y)]
        places = [(self.across(series.x[i]), self.up(series.y[i])) for i in keep]
        spans = [(series.y[i], series.error[i]) for i in keep] if series.error else []
        errors = [(self.up(y - error), self.up(y + error)) for y, error in spans]
        if series.kind == "bars":
            places = self._bars(series, number, places, colour)
        elif series.kind == "line":
            if errors:
                hull = [(x, top) for (x, _), (_, top) in zip(places, errors, strict=True)]
                hull += [(x, low) for (x, _), (low, _) in reversed(list(zip(places, errors, strict=True)))]
                self.parts.append(f'<polygon points="{_path(hull)}" fill="{colour}" opacity="0.2"/>')
            rim = [("#ffffff", 4.5)] if self.figure.ground is not None else []
            for paint, width in [*rim, (colour, 2)]:
                drawn = f'fill="none" stroke="{paint}" stroke-width="{width}"'
                self.parts.append(f'<polyline points="{_path(places)}" {drawn}/>')
            return
        else:
            radius = 3.5 if len(places) < 200 else 2
            for x, y in places:
                if series.kind == "stems":
                    self.line(x, self.foot(), x, y, f'stroke="{colour}"')
                edge = "" if self.figure.ground is None else ' stroke="#ffffff" stroke-width="1.5"'
                self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"{edge}/>')
        for (x, _), (low, top) in zip(places, errors, strict=False):  # no errors, nothing to draw
            self.line(x, low, x, top, f'stroke="{colour}" stroke-width="1.5" class="tw-error"')

    def _bars(self, series: Series, number: int, places: Places, colour: str) -> Places:
        """Draw bars; give the middles of their tops."""
        foot = self.foot()
        if self.x is not None:
            share = series.width / (self.x.high - self.x.low) if self.x.axis.scale == "linear" else 0.005
            width, shift = (WIDTH - LEFT - RIGHT) * share, 0.0
        else:
            groups = [i for i, one in enumerate(self.figure.series) if one.kind == "bars"]
            room = 0.8 * (WIDTH - LEFT - RIGHT) / len(self.categories)
            width = room / len(groups)
            shift = (groups.index(number) + 0.5) * width - room / 2
        moved = [(x + shift, y) for x, y in places]
        for x, y in moved:
            top, height = min(y, foot), abs(foot - y)
            box = f'x="{x - width / 2:.1f}" y="{top:.1f}" width="{width:.2f}" height="{height:.1f}"'
            self.parts.append(f'<rect {box} fill="{colour}" opacity="0.85"/>')
        return moved

    def _marks(self) -> None:
        for mark in self.figure.marks:
            style = 'class="tw-mark"'
            placing = self.x if mark.axis == "x" else self.y
            if placing is None or (placing.axis.scale == "log" and mark.value <= 0):
                continue
            if mark.axis == "x":
                at, left = self.across(mark.value), placing.share(mark.value) < 0.5
                self.line(at, TOP, at, HEIGHT - BOTTOM, style)
                self.text(at + (5 if left else -5), TOP + 12, mark.label, "start" if left else "end")
            else:
                at = self.up(mark.value)
                self.line(LEFT, at, WIDTH - RIGHT, at, style)
                self.text(WIDTH - RIGHT - 4, at - 5, mark.label, "end")

    def _legend(self) -> None:
        named = [(number, one.name) for number, one in enumerate(self.figure.series) if one.name]
        if len(named) < 2:
            return
        at = float(LEFT)
        for number, name in named:
            colour = self.colours[number % len(self.colours)]
            self.parts.append(f'<rect x="{at:.1f}" y="10" width="12" height="12" fill="{colour}"/>')
            self.text(at + 17, 20, name, "start")
            at += 34 + CHARACTER * len(name)


def _between(places: Iterable[float]) -> list[float]:
    """The middles between neighbours."""
    return [(a + b) / 2 for a, b in pairwise(places)]


def _path(places: Places) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= max(3, length) else text[: max(2, length - 1)] + "…"
