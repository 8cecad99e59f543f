from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from thalweg.display import Axis, Caption, Figure, bars, line, points, stems, to_svg
from thalweg.display.svg import HEIGHT, WIDTH

CAPTION = Caption("c", "o", "u")


def drawn(figure: Figure) -> ET.Element:
    return ET.fromstring(to_svg(figure))


def test_everything_lies_inside_the_picture(figures: list[Figure]) -> None:
    for figure in figures:
        for element in drawn(figure).iter():
            for key, value in element.attrib.items():
                if key in ("x", "x1", "x2", "cx"):
                    assert -1 <= float(value) <= WIDTH + 1
                if key in ("y", "y1", "y2", "cy"):
                    assert -1 <= float(value) <= HEIGHT + 1


def test_a_file_of_its_own_needs_no_page_around_it(figures: list[Figure]) -> None:
    for figure in figures:
        root = ET.fromstring(to_svg(figure, standalone=True))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        plain = [one.tag for one in drawn(figure).iter()]
        assert [one.tag.partition("}")[2] for one in root.iter()] == [plain[0], "style", "rect", *plain[1:]]


def test_points_keep_their_proportions() -> None:
    root = drawn(Figure("t", CAPTION, Axis("x"), Axis("y"), [points("", [0, 1, 4], [0, 2, 3])]))
    (x0, y0), (x1, y1), (x2, y2) = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4, abs=1e-3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(2 / 3, abs=1e-3)
    assert y2 < y0  # larger values lie higher


def test_ticks_stand_where_their_values_are() -> None:
    root = drawn(Figure("t", CAPTION, Axis("x"), Axis("y"), [points("", [0, 10], [0, 1])]))
    circles = [float(c.get("cx")) for c in root.iter("circle")]
    texts = {t.text: float(t.get("x")) for t in root.iter("text") if t.get("text-anchor") == "middle"}
    assert texts["0"] == pytest.approx(circles[0], abs=0.1)
    assert texts["10"] == pytest.approx(circles[1], abs=0.1)


def test_bars_have_heights_in_proportion_and_stand_side_by_side() -> None:
    series = [bars("a", ["p", "q"], [1, 2]), bars("b", ["p", "q"], [4, -2])]
    root = drawn(Figure("t", CAPTION, Axis("x"), Axis("y"), series))
    boxes = [b for b in root.iter("rect") if b.get("opacity")]
    heights = [float(b.get("height")) for b in boxes]
    assert heights[1] / heights[0] == pytest.approx(2, abs=0.01)
    assert heights[2] / heights[0] == pytest.approx(4, abs=0.02)
    assert float(boxes[3].get("y")) == pytest.approx(float(boxes[0].get("y")) + heights[0], abs=0.2)  # below the foot
    spans = sorted((float(b.get("x")), float(b.get("x")) + float(b.get("width"))) for b in boxes)
    assert all(left[1] <= right[0] + 0.2 for left, right in pairwise(spans))


def test_bars_of_a_category_stand_around_its_name() -> None:
    series = [bars("a", ["p", "q"], [1, 2]), bars("b", ["p", "q"], [4, 2])]
    root = drawn(Figure("t", CAPTION, Axis("x"), Axis("y"), series))
    boxes = [b for b in root.iter("rect") if b.get("opacity")]
    names = {t.text: float(t.get("x")) for t in root.iter("text") if t.get("text-anchor") == "middle"}
    for number, name in enumerate(("p", "q")):
        first, second = boxes[number], boxes[number + 2]
        assert float(second.get("x")) == pytest.approx(names[name], abs=0.2)  # where the first ends, the second begins
        assert float(first.get("x")) + float(first.get("width")) == pytest.approx(names[name], abs=0.2)


def test_stems_start_at_zero() -> None:
    root = drawn(Figure("t", CAPTION, Axis("x"), Axis("y"), [stems("", [1, 2], [1.0, -1.0])]))
    stalks = [one for one in root.iter("line") if one.get("stroke")]
    assert {float(one.get("y1")) for one in stalks} == {float(stalks[0].get("y1"))}
    assert float(stalks[0].get("y2")) < float(stalks[0].get("y1")) < float(stalks[1].get("y2"))


def test_texts_are_escaped_and_the_picture_has_a_name() -> None:
    root = drawn(
        Figure('a "<b>', CAPTION, Axis("<x>"), Axis("y & z"), [line("<s>", [0, 1], [0, 1]), line("t", [0], [0])])
    )
    assert root.get("aria-label") == 'a "<b>. c'
    assert root.get("role") == "img"
    assert {"<x>", "y & z", "<s>"} <= {text.text for text in root.iter("text")}
