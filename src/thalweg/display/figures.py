"""Pictures as plain data: what is drawn is decided here, how it is drawn by `plotly_spec` and `svg`.

A figure cannot be made without saying what was computed, on what, and with which uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from thalweg.foundation import InvalidInputError

if TYPE_CHECKING:
    import plotly.graph_objects

__all__ = [
    "Axis",
    "Caption",
    "Figure",
    "Mark",
    "Series",
    "bars",
    "histogram",
    "line",
    "points",
    "stems",
]

Kind = Literal["line", "points", "stems", "bars"]
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
class Series:
    """One set of data in a figure; made by `line`, `points`, `stems`, `bars` and `histogram`.

    Attributes:
        kind: how it is drawn.
        name: for the legend.
        x: positions, or names of categories.
        y: heights.
        error: one standard error of each height; empty without. Bars of error, and a band around a line.
        width: of bars at positions; 0 lets them share the room of their category.
        labels: shown at each datum on demand; empty without.
        left_out: number of data that were given but are not numbers.
    """

    kind: Kind
    name: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    width: float = 0.0
    labels: tuple[str, ...] = ()
    left_out: int = 0


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
        marks: lines to compare with.

    Raises:
        InvalidInputError: if there are no data, or categories and positions are mixed.

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

    def __init__(
        self, title: str, caption: Caption, x: Axis, y: Axis, series: Iterable[Series], marks: Iterable[Mark] = ()
    ) -> None:
        for name, value in (("title", title), ("caption", caption), ("x", x), ("y", y)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "series", tuple(series))
        object.__setattr__(self, "marks", tuple(marks))
        if not any(one.x for one in self.series):
            raise InvalidInputError(f"the figure {title!r} has no data to draw")
        if len({isinstance(one.x[0], str) for one in self.series if one.x}) > 1:
            raise InvalidInputError(f"the figure {title!r} mixes categories and positions on its horizontal axis")
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
        return all(axis.scale != "log" or value > 0 for value, axis in pairs)

    def caption_parts(self) -> tuple[tuple[str, str], ...]:
        """The caption, with a remark on data that cannot be drawn."""
        parts = self.caption.parts()
        if self.left_out:
            remark = f"{self.left_out} data are not drawn: not finite, or not positive on a logarithmic axis."
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


def line(name: str, x: Any, y: Any, error: Any = None) -> Series:
    """A line through data in their order, with a band of one standard error where `error` is given.

    Args:
        name: for the legend.
        x: ``(n,)`` positions: a sequence, array or tensor.
        y: ``(n,)`` heights.
        error: ``(n,)`` standard errors of the heights.

    Raises:
        InvalidInputError: for lengths that differ.
    """
    return _series("line", name, x, y, error)


def points(name: str, x: Any, y: Any, error: Any = None, labels: Sequence[str] = ()) -> Series:
    """Single points, with bars of one standard error where `error` is given; arguments as for `line`.

    Args:
        name: for the legend.
        x: ``(n,)`` positions.
        y: ``(n,)`` heights.
        error: ``(n,)`` standard errors of the heights.
        labels: ``(n,)`` texts, shown at each point on demand.

    Raises:
        InvalidInputError: for lengths that differ.
    """
    return _series("points", name, x, y, error, labels)


def stems(name: str, x: Any, y: Any, labels: Sequence[str] = ()) -> Series:
    """Points on stems from zero, as for a spectrum: eigenvalue against its number; arguments as for `points`."""
    return _series("stems", name, x, y, None, labels)


def bars(name: str, categories: Sequence[str], heights: Any, error: Any = None) -> Series:
    """One bar for each category; several such series in one figure stand side by side.

    Args:
        name: for the legend.
        categories: ``(n,)`` texts.
        heights: ``(n,)``.
        error: ``(n,)`` standard errors.

    Raises:
        InvalidInputError: for lengths that differ.
    """
    return _series("bars", name, [str(one) for one in categories], heights, error)


def histogram(name: str, values: Any, bins: int | None = None) -> Series:
    """Bars for the share of values in each interval.

    The heights are densities: the areas of the bars sum to 1 over the values that are finite.

    Args:
        name: for the legend.
        values: ``(n,)``; what is not finite is left out and counted.
        bins: number of intervals; None takes 2 n^(1/3) (the Rice rule), at most 200.

    Raises:
        InvalidInputError: if no value is finite, or for less than one interval.

    >>> histogram("eigenvalues", [0.0, 0.1, 0.9, 1.0], bins=2).y
    (1.0, 1.0)
    """
    import numpy as np

    given = np.asarray(_plain_array(values), dtype=float).ravel()
    finite = given[np.isfinite(given)]
    if not len(finite):
        raise InvalidInputError(f"the histogram {name!r} needs a finite value, got {len(given)} that are not")
    count = bins if bins is not None else min(200, max(1, math.ceil(2 * len(finite) ** (1 / 3))))
    if count < 1:
        raise InvalidInputError(f"a histogram needs at least one interval, got bins={bins}")
    low, high = float(finite.min()), float(finite.max())
    size = max(abs(low), abs(high))
    size = size if size > 1e-290 else 1.0
    if high - low < 1e-9 * size:  # equal but for rounding: intervals between them would have no width
        low, high = low - size / 20, high + size / 20
    heights, edges = np.histogram(finite, bins=count, range=(low, high), density=True)
    centres, width = (edges[:-1] + edges[1:]) / 2, (high - low) / count
    left_out = len(given) - len(finite)
    return Series("bars", name, tuple(centres.tolist()), tuple(heights.tolist()), width=width, left_out=left_out)


def _series(kind: Kind, name: str, x: Any, y: Any, error: Any, labels: Sequence[str] = ()) -> Series:
    """Check lengths, and leave out what is not finite."""
    across: list[Any] = list(x) if _is_text(x) else _floats(x)
    heights = _floats(y)
    errors = [] if error is None else _floats(error)
    for what, given in (("heights", heights), ("errors", errors), ("labels", labels)):
        if len(given) != len(across) and (len(given) > 0 or what == "heights"):
            raise InvalidInputError(f"the series {name!r} has {len(across)} positions and {len(given)} {what}")
    keep = [
        number
        for number, (a, b) in enumerate(zip(across, heights, strict=True))
        if math.isfinite(b) and (isinstance(a, str) or math.isfinite(a))
    ]
    return Series(
        kind,
        name,
        tuple(across[i] for i in keep),
        tuple(heights[i] for i in keep),
        error=tuple(errors[i] if math.isfinite(errors[i]) else 0.0 for i in keep) if errors else (),
        labels=tuple(str(labels[i]) for i in keep) if len(labels) else (),
        left_out=len(across) - len(keep),
    )


def _is_text(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and isinstance(values[0], str)


def _floats(values: Any) -> list[float]:
    """Numbers out of a sequence, an array or a tensor on any device."""
    values = _plain_array(values)
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    if not isinstance(found, list) or any(isinstance(one, list | tuple) for one in found):
        raise InvalidInputError("a series of a figure takes one axis of numbers; flatten the array first")
    return [float(one) for one in found]


def _plain_array(values: Any) -> Any:
    """A tensor without its graph, on the CPU; anything else as it is."""
    return values.detach().cpu() if hasattr(values, "detach") else values
