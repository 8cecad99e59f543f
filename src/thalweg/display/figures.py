"""Pictures as plain data: what is drawn is decided here, how it is drawn by `plotly_spec` and `svg`.

A figure cannot be made without saying what was computed, on what, and with which uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from thalweg.display.numbers import format_number
from thalweg.display.series import SMALLEST, Series
from thalweg.display.surface import Surface
from thalweg.foundation import InvalidInputError

if TYPE_CHECKING:
    import plotly.graph_objects

__all__ = ["Axis", "Caption", "Figure", "Mark"]

Scale = Literal["linear", "log", "symlog"]


@dataclass(frozen=True)
class Caption:
    """What a reader has to know to believe a picture; all three are required.

    Attributes:
        computed: what was computed: "Eigenvalues of the Hessian, by Lanczos with full reorthogonalisation."
        on: on what: "The trained network, 1,200 training samples."
        uncertainty: how far to trust it: "Residuals below 1e-6 of the largest." or "Exact up to rounding."
    """

    computed: str
    on: str
    uncertainty: str

    def __post_init__(self) -> None:
        for name in ("computed", "on", "uncertainty"):
            if not getattr(self, name).strip():
                raise InvalidInputError(f"the caption of a figure must say {name!r}; it is empty")

    def parts(self) -> tuple[tuple[str, str], ...]:
        """Headed sentences, in order."""
        return (("Computed", self.computed), ("On", self.on), ("Uncertainty", self.uncertainty))


@dataclass(frozen=True)
class Axis:
    """What an axis measures.

    Attributes:
        label: the quantity.
        unit: its unit.
        scale: ``"linear"``, ``"log"``, or ``"symlog"``: logarithmic on both sides of zero, linear within `threshold`.
        threshold: for ``"symlog"``; 0 chooses the smallest size drawn, but no less than 1e-8 of the largest.
    """

    label: str
    unit: str = ""
    scale: Scale = "linear"
    threshold: float = 0.0

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Mark:
    """A straight line across the figure where something is worth comparing with: a tolerance, a limit, a prediction.

    Attributes:
        value: where on the axis.
        label: what it is.
        axis: the axis on which `value` lies; ``"x"`` gives an upright line.
    """

    value: float
    label: str
    axis: Literal["x", "y"] = "y"


@dataclass(frozen=True, init=False)
class Figure:
    """A picture with its caption.

    Args:
        title: one line.
        caption: what was computed, on what, with which uncertainty.
        x: the horizontal axis.
        y: the vertical axis.
        series: the data.
        marks: lines to compare with; one whose value is not finite has no place and is left out.
        ground: colours beneath the series.

    Raises:
        InvalidInputError: if there are no data, or categories and positions are mixed.

    >>> from thalweg.display import line
    >>> caption = Caption("Loss after each step.", "Digits, 1,200 samples.", "Exact up to rounding.")
    >>> adam = line("Adam", [0, 1, 2], [1.0, 0.1, 0.01])
    >>> figure = Figure("Descent", caption, Axis("step"), Axis("loss", scale="log"), [adam])
    >>> figure.series[0].y
    (1.0, 0.1, 0.01)
    """

    title: str
    caption: Caption
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...]
    ground: Surface | None

    def __init__(
        self,
        title: str,
        caption: Caption,
        x: Axis,
        y: Axis,
        series: Iterable[Series] = (),
        marks: Iterable[Mark] = (),
        ground: Surface | None = None,
    ) -> None:
        for name, value in (("title", title), ("caption", caption), ("x", x), ("y", y), ("ground", ground)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "series", tuple(series))
        object.__setattr__(self, "marks", tuple(mark for mark in marks if isfinite(mark.value)))
        if ground is None and not any(one.x for one in self.series):
            raise InvalidInputError(f"the figure {title!r} has no data to draw")
        if len({isinstance(one.x[0], str) for one in self.series if one.x}) > 1:
            raise InvalidInputError(f"the figure {title!r} mixes categories and positions on its horizontal axis")
        if self.categories and ground is not None:
            raise InvalidInputError(f"the figure {title!r} has categories, beneath which there is no ground")
        for axis, places in ((x, ground.x), (y, ground.y)) if ground is not None else ():
            if axis.scale == "log" and places[0] < SMALLEST:
                raise InvalidInputError(
                    f"the figure {title!r} has ground at {places[0]:g}, where a log scale has no place"
                )
        if self.categories and x.scale != "linear":
            raise InvalidInputError(f"the figure {title!r} has categories, which have no {x.scale} scale")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names on the horizontal axis in order of appearance; empty where it holds numbers."""
        return tuple(dict.fromkeys(x for one in self.series for x in one.x if isinstance(x, str)))

    @property
    def left_out(self) -> int:
        """Number of data that cannot be drawn: not a number, or not positive on a logarithmic axis."""
        shown = sum(self.drawable(x, y) for one in self.series for x, y in zip(one.x, one.y, strict=True))
        return sum(len(one.x) + one.left_out for one in self.series) - shown

    def drawable(self, x: float | str, y: float) -> bool:
        """True unless a logarithmic axis has no place for the datum."""
        pairs = [(y, self.y)] if isinstance(x, str) else [(x, self.x), (y, self.y)]
        return all(axis.scale != "log" or value >= SMALLEST for value, axis in pairs)

    def caption_parts(self) -> tuple[tuple[str, str], ...]:
        """The caption, with what colours mean and a remark on data that cannot be drawn."""
        parts = self.caption.parts()
        if self.ground is not None:
            low, high = (format_number(10**end if self.ground.scale == "log" else end) for end in self.ground.span)
            scale = ", on a logarithmic scale" if self.ground.scale == "log" else ""
            parts = (*parts, ("Colour", f"{self.ground.name}, from {low} (dark) to {high} (light){scale}."))
        if self.left_out:
            why = "not finite, beyond 1e250, or not positive on a logarithmic axis"
            remark = f"{self.left_out} data are not drawn: {why}."
            parts = (*parts, ("Left out", remark))
        return parts

    def to_plotly(self) -> plotly.graph_objects.Figure:
        """The figure as a Plotly figure, to be changed at will."""
        from plotly.graph_objects import Figure as PlotlyFigure

        from thalweg.display.plotly_spec import plotly_spec

        return PlotlyFigure(plotly_spec(self))

    def _repr_html_(self) -> str:
        from thalweg.display.fragment import to_fragment

        return to_fragment(self)
