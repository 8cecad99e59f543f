"""A figure as a Plotly specification: dictionaries only, so that Plotly itself is not imported to write a page."""

from __future__ import annotations

import math
from typing import Any

from thalweg.display.figures import Figure
from thalweg.display.numbers import format_number
from thalweg.display.palette import DASHES, ON_GROUND, SERIES, SYMBOLS
from thalweg.display.scales import Placing, place_x, place_y
from thalweg.display.series import Series
from thalweg.display.surface import COLOURS, Surface

__all__ = ["plotly_spec"]


def plotly_spec(figure: Figure) -> dict[str, Any]:
    """Data and layout of a Plotly figure.

    Colours of text, background and grid are left to whoever draws it, since they depend on the reader's theme.
    """
    x = None if figure.categories else place_x(figure)
    y = place_y(figure)
    data: list[dict[str, Any]] = [] if figure.ground is None else [_ground(figure.ground, figure)]
    for number, series in enumerate(figure.series):
        data += _traces(series, number, x, y, rim=figure.ground is not None)
    named = [one for one in figure.series if one.name]
    layout: dict[str, Any] = {
        "xaxis": _axis(x, figure.x.title),
        "yaxis": _axis(y, figure.y.title),
        "showlegend": len(named) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 64, "r": 16, "t": 36, "b": 56},
        "hovermode": "closest",
        "barmode": "overlay" if any(one.width for one in figure.series) else "group",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 13},
    }
    _add_marks(layout, figure, x, y)
    return {"data": data, "layout": layout}


def _ground(ground: Surface, figure: Figure) -> dict[str, Any]:
    """Colours with lines of equal height; where their scale is logarithmic it is computed here."""
    low, high = ground.span
    texts = [
        [
            f"{figure.x.title} {format_number(x)}<br>{figure.y.title} {format_number(y)}<br>{format_number(height)}"
            for x, height in zip(ground.x, row, strict=True)
        ]
        for y, row in zip(ground.y, ground.heights, strict=True)
    ]
    ticks = [low + (high - low) * k / 4 for k in range(5)]
    values = [10**tick if ground.scale == "log" else tick for tick in ticks]
    return {
        "type": "contour",
        "x": list(ground.x),
        "y": list(ground.y),
        "z": [[level if math.isfinite(level) else None for level in row] for row in ground.levels],
        "colorscale": [[k / (len(COLOURS) - 1), colour] for k, colour in enumerate(COLOURS)],
        "ncontours": 24,
        "line": {"width": 0.5, "color": "rgba(255,255,255,0.35)"},
        "colorbar": {
            "title": {"text": _plain(ground.name), "side": "right"},
            "thickness": 14,
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [format_number(value, 2) for value in values],
        },
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }


def _traces(series: Series, number: int, x: Placing | None, y: Placing, *, rim: bool) -> list[dict[str, Any]]:
    colours = ON_GROUND if rim else SERIES
    colour = colours[number % len(colours)]
    across = [_position(value, x) for value in series.x]
    heights = [_position(value, y) for value in series.y]
    trace: dict[str, Any] = {
        "name": series.name,
        "x": across,
        "y": heights,
        "text": _hover_texts(series),
        "hovertemplate": "%{text}<extra></extra>",
        "textposition": "none",
    }
    extra: list[dict[str, Any]] = []
    if series.kind == "bars":
        trace |= {"type": "bar", "marker": {"color": colour}, **({"width": series.width} if series.width else {})}
        if series.width:
            trace["opacity"] = 0.75
    elif series.kind == "line":
        drawn = {"color": colour, "dash": DASHES[number % len(DASHES)], "width": 2}
        trace |= {"type": "scatter", "mode": "lines", "line": drawn}
        if rim:
            below = {"color": "#ffffff", "width": 4.5}
            extra.append(_silent({"mode": "lines", "x": across, "y": heights, "line": below}))
    else:
        marker: dict[str, Any] = {
            "color": colour,
            "symbol": SYMBOLS[number % len(SYMBOLS)],
            "size": 7 if len(across) < 200 else 4,
        }
        if rim:
            marker = {**marker, "line": {"color": "#ffffff", "width": 1.5}, "size": 9}
        trace |= {"type": "scatter", "mode": "markers", "marker": marker}
    if trace["type"] == "scatter":
        trace.pop("textposition")
    if series.kind == "stems":
        extra.append(_stalks(across, heights, y.low if y.axis.scale == "log" else 0.0, colour))
    if series.error and series.kind == "line":
        extra.append(_band(series, x, y, colour))
    elif series.error:
        trace["error_y"] = _error_bars(series, y)
    return [*extra, trace]


def _error_bars(series: Series, y: Placing) -> dict[str, Any]:
    """Lengths up and down in the coordinates of the axis; on a symlog scale the two differ."""
    up, down = [], []
    for value, error in zip(series.y, series.error, strict=True):
        if y.axis.scale == "symlog":
            up.append(y.at(value + error) - y.at(value))
            down.append(y.at(value) - y.at(value - error))
        else:
            up.append(error)
            down.append(min(error, value - y.low) if y.axis.scale == "log" else error)  # a bar beyond zero ends below
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 4}


def _position(value: float | str, placing: Placing | None) -> float | str | None:
    """Where Plotly puts a value: it takes logarithms itself, where there are any; symlog scales are computed here."""
    if placing is None or isinstance(value, str):
        return value
    if placing.axis.scale == "symlog":
        return placing.at(value)
    return None if placing.axis.scale == "log" and value <= 0 else value


def _hover_texts(series: Series) -> list[str]:
    texts = []
    for number, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        text = f"{x if isinstance(x, str) else format_number(x)}: {format_number(y)}"
        if series.error:
            text += f" ± {format_number(series.error[number], digits=2)}"
        if series.labels:
            text = f"{series.labels[number]}\n{text}"
        texts.append(_plain(f"{series.name}\n{text}" if series.name else text))
    return texts


def _plain(text: str) -> str:
    """Text in which Plotly finds no mark-up."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def _stalks(across: list[Any], heights: list[Any], foot: float, colour: str) -> dict[str, Any]:
    x, y = [], []
    for at, top in zip(across, heights, strict=True):
        x += [at, at, None]
        y += [foot, top, None]
    line = {"color": colour, "width": 1}
    return _silent({"mode": "lines", "x": x, "y": y, "line": line})


def _silent(trace: dict[str, Any]) -> dict[str, Any]:
    """Drawn, and not spoken of."""
    return {"type": "scatter", **trace, "hoverinfo": "skip", "showlegend": False}


def _band(series: Series, x: Placing | None, y: Placing, colour: str) -> dict[str, Any]:
    across = [_position(value, x) for value in series.x]
    spans = list(zip(series.y, series.error, strict=True))
    top = [_position(value + error, y) for value, error in spans]
    floor = y.low if y.axis.scale == "log" else -float("inf")
    low = [_position(max(value - error, floor), y) for value, error in spans]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return _silent(
        {
            "mode": "lines",
            "x": [*across, *reversed(across)],
            "y": [*top, *reversed(low)],
            "fill": "toself",
            "fillcolor": f"rgba({red},{green},{blue},0.2)",
            "line": {"width": 0},
        }
    )


def _axis(placing: Placing | None, title: str) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": _plain(title), "standoff": 12}, "automargin": True}
    if placing is None:
        return axis | {"type": "category"}
    start, end = placing.at(placing.low), placing.at(placing.high)
    axis |= {"range": [start, end], "exponentformat": "power", "zeroline": placing.axis.scale != "log"}
    if placing.axis.scale == "log":
        axis |= {"type": "log", "dtick": "D2" if end - start < 1.5 else math.ceil((end - start) / 7)}
        if end - start < 0.7:  # two ticks of D2, or fewer
            axis |= {"tickmode": "array"}
            axis |= {"tickvals": [value for value, _ in placing.ticks()], "ticktext": [t for _, t in placing.ticks()]}
    elif placing.axis.scale == "symlog":
        places, texts = [placing.at(value) for value, _ in placing.ticks()], [text for _, text in placing.ticks()]
        axis |= {"tickmode": "array", "tickvals": places, "ticktext": texts}
    return axis


def _add_marks(layout: dict[str, Any], figure: Figure, x: Placing | None, y: Placing) -> None:
    shapes, notes = [], []
    for mark in figure.marks:
        placing = x if mark.axis == "x" else y
        if placing is None or (placing.axis.scale == "log" and mark.value <= 0):
            continue
        at = _position(mark.value, placing)
        note_at = placing.at(mark.value)  # on a logarithmic axis Plotly places shapes by value, notes by logarithm
        upright = mark.axis == "x"
        shape: dict[str, Any] = {"type": "line", "line": {"dash": "dash", "width": 1.5, "color": SERIES[-1]}}
        note: dict[str, Any] = {"text": _plain(mark.label), "showarrow": False, "font": {"size": 12}}
        if upright:
            shape |= {"xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1}
            left = placing.share(mark.value) < 0.5
            note |= {"xref": "x", "yref": "paper", "x": note_at, "y": 1, "yanchor": "top"}
            note["xanchor"] = "left" if left else "right"
        else:
            shape |= {"xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": at, "y1": at}
            note |= {"xref": "paper", "yref": "y", "x": 1, "y": note_at, "xanchor": "right", "yanchor": "bottom"}
        shapes.append(shape)
        notes.append(note)
    layout["shapes"], layout["annotations"] = shapes, notes
