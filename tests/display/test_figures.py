from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.display import Axis, Caption, Figure, Mark, bars, histogram, line, plotly_spec, points, stems
from thalweg.foundation import InvalidInputError

CAPTION = Caption("c", "o", "u")


def test_a_caption_must_say_all_three() -> None:
    with pytest.raises(InvalidInputError, match="must say 'uncertainty'"):
        Caption("c", "o", " ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Figure("t", CAPTION, Axis("x"), Axis("y"), []), "no data to draw"),
        (lambda: Figure("t", CAPTION, Axis("x"), Axis("y"), [line("a", [], [])]), "no data to draw"),
        (
            lambda: Figure("t", CAPTION, Axis("x"), Axis("y"), [bars("a", ["p"], [1]), line("b", [1], [1])]),
            "mixes categories",
        ),
        (lambda: Figure("t", CAPTION, Axis("x", scale="log"), Axis("y"), [bars("a", ["p"], [1])]), "no log scale"),
        (lambda: line("a", [1, 2], [1]), "2 positions and 1 heights"),
        (lambda: line("a", [1, 2], [1, 2], error=[1]), "2 positions and 1 errors"),
        (lambda: points("a", [1, 2], [1, 2], labels=["p"]), "2 positions and 1 labels"),
        (lambda: line("a", [1, 2], torch.zeros(2, 2)), "flatten the array"),
        (lambda: histogram("a", [math.nan]), "needs a finite value"),
        (lambda: histogram("a", [1.0], bins=0), "at least one interval"),
    ],
)
def test_misuse_is_refused(make, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_tensors_arrays_and_lists_are_the_same() -> None:
    plain = line("a", [0, 1], [2.0, 3.0], error=[0.1, 0.2])
    assert line("a", torch.arange(2), torch.tensor([2.0, 3.0], requires_grad=True), error=np.array([0.1, 0.2])) == plain


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    series = points("a", [0, 1, math.nan, 3], [1.0, math.inf, 2.0, 4.0], error=[0.1, 0.2, 0.3, math.nan], labels="pqrs")
    assert series.x == (0.0, 3.0)
    assert series.y == (1.0, 4.0)
    assert series.error == (0.1, 0.0)
    assert series.labels == ("p", "s")
    assert series.left_out == 2
    figure = Figure("t", CAPTION, Axis("x"), Axis("y", scale="log"), [series, line("b", [0, 1, 2], [-1.0, 1.0, 0.0])])
    assert figure.left_out == 4
    assert dict(figure.caption_parts())["Left out"].startswith("4 data are not drawn")


@given(st.lists(st.integers(-400, 400), min_size=1, max_size=60), st.integers(1, 20))
def test_histogram_is_a_density(quarters: list[int], bins: int) -> None:
    values = [number / 4 for number in quarters]
    series = histogram("h", values, bins=bins)
    assert math.isclose(sum(series.y) * series.width, 1.0, rel_tol=1e-9)
    inside = [  # by brute force: the share of values near each middle
        sum(abs(value - middle) <= series.width / 2 * (1 + 1e-9) for value in values) / len(values)
        for middle in series.x
    ]
    for share, height in zip(inside, series.y, strict=True):
        assert height * series.width <= share + 1e-9


@pytest.mark.parametrize("values", [[1.0, 1.0 + 2e-16], [0.0], [5e-324, 0.0], [1e300, 1e300]])
def test_histogram_of_values_equal_but_for_rounding(values: list[float]) -> None:
    series = histogram("h", values, bins=30)
    assert sum(series.y) * series.width == pytest.approx(1.0)


def test_histogram_of_a_tensor_in_a_graph() -> None:
    assert histogram("h", torch.tensor([[0.0], [1.0]], requires_grad=True), bins=1).y == (1.0,)


def test_histogram_leaves_out_what_is_not_finite() -> None:
    series = histogram("h", [0.0, 1.0, math.nan, math.inf], bins=1)
    assert series.left_out == 2
    assert series.y == (1.0,)


def test_plotly_accepts_every_figure(figures: list[Figure]) -> None:
    for figure in figures:
        drawn = figure.to_plotly()  # Plotly checks every property by name and type
        assert len(drawn.data) >= len(figure.series)
        json.dumps(plotly_spec(figure), allow_nan=False)


def test_symlog_positions_and_error_bars() -> None:
    threshold = 0.5
    series = points("a", [0, 1], [-10.0, 3.0], error=[1.0, 4.0])
    axis = Axis("y", scale="symlog", threshold=threshold)
    (trace,) = plotly_spec(Figure("t", CAPTION, Axis("x"), axis, [series]))["data"]

    def at(value: float) -> float:  # the definition
        return math.copysign(math.log10(1 + abs(value) / threshold), value)

    assert trace["y"] == pytest.approx([at(-10), at(3)])
    top = [y + up for y, up in zip(trace["y"], trace["error_y"]["array"], strict=True)]
    low = [y - down for y, down in zip(trace["y"], trace["error_y"]["arrayminus"], strict=True)]
    assert top == pytest.approx([at(-9), at(7)])
    assert low == pytest.approx([at(-11), at(-1)])


def test_a_logarithmic_axis_gets_no_value_below_zero() -> None:
    figure = Figure(
        "t",
        CAPTION,
        Axis("x"),
        Axis("y", scale="log"),
        [
            line("a", [0, 1], [1.0, 0.1], error=[2.0, 0.05]),
            stems("b", [0, 1], [0.0, 5.0]),
            points("c", [0], [1.0], [9.0]),
        ],
        [Mark(0.0, "nowhere"), Mark(0.5, "here")],
    )
    spec = plotly_spec(figure)
    for trace in spec["data"]:
        assert all(y is None or y > 0 for y in trace["y"])
    (bar,) = [trace["error_y"] for trace in spec["data"] if "error_y" in trace]
    assert 1.0 - bar["arrayminus"][0] > 0
    assert [note["text"] for note in spec["layout"]["annotations"]] == ["here"]
    assert spec["layout"]["annotations"][0]["y"] == pytest.approx(math.log10(0.5))
    assert spec["layout"]["shapes"][0]["y0"] == 0.5


def test_names_from_outside_are_not_mark_up() -> None:
    figure = Figure(
        "t", CAPTION, Axis("<i>x</i>"), Axis("y"), [points("<b>", [0], [1], labels=["<a href=x>"])], [Mark(1, "<u>")]
    )
    spec = plotly_spec(figure)
    assert spec["layout"]["xaxis"]["title"]["text"] == "&lt;i&gt;x&lt;/i&gt;"
    assert spec["layout"]["annotations"][0]["text"] == "&lt;u&gt;"
    assert "<a" not in spec["data"][0]["text"][0]


def test_a_line_with_errors_has_a_band_of_one_standard_error() -> None:
    spec = plotly_spec(Figure("t", CAPTION, Axis("x"), Axis("y"), [line("a", [0, 1], [5.0, 6.0], error=[1.0, 2.0])]))
    band = spec["data"][0]
    assert band["fill"] == "toself"
    assert list(zip(band["x"], band["y"], strict=True)) == [(0, 6), (1, 8), (1, 4), (0, 4)]
