from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from thalweg.display import Axis, Caption, Figure, Mark, bars, histogram, plotly_spec, points, to_svg
from thalweg.display.scales import place_x, place_y

CAPTION = Caption("c", "o", "u")
reals = st.floats(-1e12, 1e12)
positive = st.floats(1e-12, 1e12)


def placed(values: list[float], scale: str):
    figure = Figure("t", CAPTION, Axis("x"), Axis("y", scale=scale), [points("", range(len(values)), values)])
    return place_y(figure)


@given(st.lists(reals, min_size=1, max_size=8), st.sampled_from(["linear", "symlog"]))
def test_all_data_are_in_sight(values: list[float], scale: str) -> None:
    placing = placed(values, scale)
    assert placing.low < placing.high
    for value in values:
        assert -1e-9 <= placing.share(value) <= 1 + 1e-9


@given(st.lists(positive, min_size=1, max_size=8))
def test_all_data_are_in_sight_on_a_logarithmic_axis(values: list[float]) -> None:
    placing = placed(values, "log")
    assert 0 < placing.low < min(values) <= max(values) < placing.high


@given(st.lists(reals, min_size=2, max_size=8), st.sampled_from(["linear", "symlog", "log"]))
def test_ticks_are_few_rising_and_in_sight(values: list[float], scale: str) -> None:
    values = [abs(value) + 1e-12 for value in values] if scale == "log" else values
    assume(max(values) - min(values) > 1e-6 * max(map(abs, values)))
    placing = placed(values, scale)
    ticks = [value for value, _ in placing.ticks()]
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 9
    assert all(placing.low <= value <= placing.high for value in ticks)
    if scale == "linear":
        steps = [b - a for a, b in pairwise(ticks)]
        assert len(ticks) >= 3
        assert max(steps) <= min(steps) * (1 + 1e-6) + 1e-9 * placing.high


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1.0), st.sampled_from(["linear", "symlog"]))
def test_ticks_have_different_texts(start: float, length: float, scale: str) -> None:
    """However near each other: three decimals are not enough for a loss between 0.113922 and 0.113932."""
    ticks = placed([start, start + length], scale).ticks()
    assert len({text for _, text in ticks}) == len(ticks)


def test_symlog_is_symmetric_and_keeps_order() -> None:
    placing = placed([-100.0, -0.01, 0.0, 0.01, 100.0], "symlog")
    places = [placing.at(value) for value in (-100.0, -0.01, 0.0, 0.01, 100.0)]
    assert places == sorted(places)
    assert places[2] == 0.0
    assert places[0] == -places[4]
    assert placing.threshold == pytest.approx(0.01)
    assert placed([1e-30, 1.0], "symlog").threshold == pytest.approx(1e-8)
    assert placed([0.0, 0.0], "symlog").threshold == 1.0


def test_symlog_ticks_are_powers_of_ten_and_zero() -> None:
    values = [value for value, _ in placed([-1e-3, 1e4], "symlog").ticks()]
    assert 0.0 in values
    assert all(math.log10(abs(value)) == pytest.approx(round(math.log10(abs(value)))) for value in values if value)


def test_bars_stand_on_zero_and_marks_are_in_sight() -> None:
    figure = Figure("t", CAPTION, Axis("x"), Axis("y"), [bars("", ["a", "b"], [5.0, 6.0])], [Mark(9.0, "m")])
    placing = place_y(figure)
    assert placing.low == 0.0
    assert placing.high > 9.0


def test_error_bars_wide_bars_and_marks_are_in_sight() -> None:
    series = [points("", [1.0, 2.0], [5.0, 6.0], error=[4.0, 3.0]), histogram("", [1.0, 3.0], bins=2)]
    figure = Figure("t", CAPTION, Axis("x"), Axis("y"), series, [Mark(-7.0, "m", "x")])
    assert place_y(figure).high >= 9.0
    assert place_x(figure).low <= -7.0
    assert place_x(figure).high >= 3.0


def test_error_bars_reach_down_too() -> None:
    figure = Figure("t", CAPTION, Axis("x"), Axis("y"), [points("", [1.0, 2.0], [5.0, 6.0], error=[4.0, 0.0])])
    assert place_y(figure).low <= 1.0


def test_single_values_get_room() -> None:
    figure = Figure("t", CAPTION, Axis("x"), Axis("y"), [points("", [3.0], [0.0])])
    assert place_x(figure).low < 3.0 < place_x(figure).high
    assert place_y(figure).low < 0.0 < place_y(figure).high


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
@pytest.mark.parametrize("mark", [0.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1e15, 1e15 + 1], [-1e249, 1e249], [5e-324, 1e-320], [1e-300, 1e249], [1e300, 1.0], [-1.0]]
)
def test_whatever_the_values_a_figure_is_drawn(values: list[float], mark: float, scale: str) -> None:
    """As a still picture and as data for the script, neither of which has room for a NaN."""
    series = [points("", range(len(values)), values)]
    figure = Figure("t", CAPTION, Axis("x"), Axis("y", scale=scale), series, [Mark(mark, "m"), Mark(mark, "m", "x")])
    assert "nan" not in to_svg(figure)
    json.dumps(plotly_spec(figure), allow_nan=False)
