"""Heights as colours: shapes, scales and places."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from thalweg.display import Axis, Caption, Figure, Mark, Report, Section, bars, plotly_spec, points, surface, to_svg
from thalweg.display.surface import shade
from thalweg.foundation import InvalidInputError

CAPTION = Caption("c", "o", "u")


def figure(scale: str = "linear", **given) -> Figure:
    heights = given.get("heights", [[0.0, 1.0, 2.0], [3.0, math.nan, 10.0]])
    return Figure(
        "t", CAPTION, Axis("x"), Axis("y"), ground=surface("loss", [0.0, 1.0, 3.0], [0.0, 2.0], heights, scale)
    )


def test_colours_go_from_dark_to_light_as_heights_rise() -> None:
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = [luminance(shade(k / 50)) for k in range(51)]
    assert all(a < b for a, b in itertools.pairwise(shades))
    assert shade(-1) == shade(0)
    assert shade(2) == shade(1)


def test_cells_meet_halfway_between_positions_and_blanks_stay_blank() -> None:
    root = ET.fromstring(to_svg(figure()))
    cells = [one for one in root.iter("rect") if one.get("class") is None and float(one.get("height", 0)) > 100]
    assert len(cells) == 6
    lower = cells[:3]
    left, middle, right = (float(one.get("x")) for one in lower)
    whole = float(right) + float(lower[2].get("width")) - 0.5 - left
    assert (middle - left) / whole == pytest.approx(0.5 / 3, abs=2e-3)
    assert (right - left) / whole == pytest.approx(2 / 3, abs=2e-3)
    assert cells[0].get("fill") == shade(0.0)
    assert cells[5].get("fill") == shade(1.0)
    assert cells[4].get("fill") == "none"
    assert float(cells[3].get("y")) < float(cells[0].get("y"))  # larger positions lie higher


def test_a_logarithmic_scale_shades_by_the_logarithm() -> None:
    made = surface("loss", [0, 1], [0, 1], [[1.0, 10.0], [100.0, -1.0]], scale="log")
    assert made.span == (0.0, 2.0)
    assert made.colour(10.0) == shade(0.5)
    assert made.colour(-1.0) == "none"
    flat = surface("loss", [0, 1], [0, 1], [[1.0, 1.0], [1.0, 1.0]])
    assert flat.colour(1.0) == shade(0.5)


def test_a_live_picture_has_the_same_levels() -> None:
    import plotly.graph_objects as go

    spec = plotly_spec(figure("log", heights=[[1.0, 10.0, 0.0], [100.0, math.inf, 1e3]]))
    assert spec["data"][0]["z"] == [[0.0, 1.0, None], [2.0, None, 3.0]]
    assert spec["layout"]["xaxis"]["range"] == [0.0, 3.0]
    go.Figure(spec)


def test_the_caption_and_the_terminal_say_what_colours_mean() -> None:
    assert dict(figure().caption_parts())["Colour"] == "loss, from 0 (dark) to 10 (light)."
    assert "loss on a grid of 3 x 2" in Report("r", [Section("s", [figure()])]).to_text()


def test_what_lies_beyond_the_ground_is_in_sight_and_in_its_place() -> None:
    data, mark = points("p", [0.0, 6.0], [0.0, 2.0]), Mark(4.0, "m")
    beyond = Figure("t", CAPTION, Axis("x"), Axis("y"), [data], [mark], ground=figure().ground)
    assert plotly_spec(beyond)["layout"]["xaxis"]["range"] == [0.0, 6.0]
    assert plotly_spec(beyond)["layout"]["yaxis"]["range"] == [0.0, 4.0]
    root = ET.fromstring(to_svg(beyond))
    first, last = [float(one.get("cx")) for one in root.iter("circle")]
    cells = [one for one in root.iter("rect") if float(one.get("height", 0)) > 50]
    right = max(float(one.get("x")) + float(one.get("width")) for one in cells)
    assert (right - first) / (last - first) == pytest.approx(0.5, abs=0.01)


def test_arrays_and_tensors_are_the_same() -> None:
    plain = surface("a", [0, 1], [2, 3], [[1, 2], [3, 4]])
    tensor = surface("a", torch.arange(2), torch.tensor([2.0, 3.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert plain == tensor == surface("a", np.arange(2), np.array([2, 3]), np.array([[1, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: surface("a", [0, 1], [0, 1], [[1, 2]]), r"needs heights \(2, 2\), got \(1, 2\)"),
        (lambda: surface("a", [0, 1], [0, 1], [[1, 2, 3], [1, 2, 3]]), r"got \(2, 3\)"),
        (lambda: surface("a", [0], [0, 1], [[1], [2]]), "two or more ascending"),
        (lambda: surface("a", [1, 0], [0, 1], [[1, 2], [3, 4]]), "two or more ascending"),
        (lambda: surface("a", [0, 1], [0, 1], [[math.nan] * 2] * 2), "no height that can be drawn"),
        (lambda: surface("a", [0, math.inf], [0, 1], [[1, 2], [3, 4]]), "positions that are not finite"),
        (lambda: surface("a", [0, 1], [0, 1], [[1, 2], [3, 4]], scale="logg"), "'linear' or 'log'"),
        (
            lambda: Figure("t", CAPTION, Axis("x"), Axis("y", scale="log"), ground=figure().ground),
            "has ground at 0",
        ),
        (
            lambda: Figure("t", CAPTION, Axis("x"), Axis("y"), [bars("b", ["p"], [1])], ground=figure().ground),
            "beneath which there is no ground",
        ),
    ],
)
def test_misuse_is_refused(make, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()
