"""Pages and fragments: nothing gets through unescaped, nothing is fetched, and a browser draws the figures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.display import (
    Axis,
    Caption,
    Code,
    Column,
    Facts,
    Figure,
    Notice,
    Report,
    Section,
    Table,
    bars,
    palette,
    points,
    to_fragment,
    to_page,
)

VOID = {"meta", "line", "rect", "circle", "polyline", "polygon"}


class Reader(HTMLParser):
    """Collects elements and text, and checks that what is opened is closed."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def hostile(text: str) -> Report:
    """A report with the same text in every place that takes one."""
    figure = Figure(
        text, Caption(text, text, text), Axis(text, text), Axis(text), [points(text, [0], [1], labels=[text])]
    )
    named = Figure(text, Caption(text, text, text), Axis(text), Axis(text), [bars(text, [text], [1])])
    items = [text, Code(text), Notice("ok", text, text), Facts([(text, text, text)]), figure, named]
    return Report(
        text, [Section(text, [*items, Table([Column(text, text)], [(text,)], text)])], summary=[text], footer=text
    )


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="<>&\"'`/ab!-{}\\\u2028", min_size=1, max_size=12).filter(lambda text: text.strip("`").strip()))
def test_no_text_becomes_mark_up(text: str) -> None:
    harmless, source = Reader(to_fragment(hostile("ab"))), Reader(to_fragment(hostile(text)))
    assert [t for t in source.tags() if t != "code"] == [t for t in harmless.tags() if t != "code"]
    assert [set(a) for t, a in source.elements if t != "code"] == [set(a) for t, a in harmless.elements if t != "code"]


def test_a_script_in_a_name_stays_text() -> None:
    evil = "</script><script>alert(1)</script><!--"
    report = hostile(evil)
    reader = Reader(to_fragment(report))
    assert "script" not in reader.tags()
    assert evil in "".join(reader.text)
    page = Reader(to_page(report))
    assert page.tags().count("script") == 4  # two figures, the library, the drawing
    specs = [json.loads(script) for script in page.scripts[:2]]
    assert specs[0]["data"][0]["name"] == evil


def test_a_page_is_whole_and_fetches_nothing(report: Report) -> None:
    page = to_page(report)
    reader = Reader(page)
    for tag, attributes in reader.elements:
        assert tag not in ("link", "img", "iframe", "base", "object")
        for name, value in attributes.items():
            if name in ("href", "src"):
                assert (value or "").startswith("#")
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_library_is_in_a_page_once_and_only_with_figures(report: Report) -> None:
    marker = "plotly.js v"
    assert to_page(report).count(marker) == 1
    assert marker not in to_page(Report("No picture", [Section("a", ["b"])]))
    assert len(to_page(Report("No picture"))) < 20_000


def test_the_drawing_offers_no_upload() -> None:
    script = Path(palette.__file__).with_name("page.js").read_text()
    assert "showSendToCloud: false" in script
    assert '"sendChartToCloud"' in script


def test_headings_landmarks_and_identifiers(report: Report) -> None:
    reader = Reader(to_page(report))
    levels = [int(tag[1]) for tag in reader.tags() if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= set(reader.tags())
    names = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {a["href"] for t, a in reader.elements if t == "a"}
    assert targets <= {f"#{name}" for name in names}


def test_every_figure_says_what_on_what_and_how_sure(report: Report, figures: list[Figure]) -> None:
    for source in (to_page(report), to_fragment(report)):
        reader = Reader(source)
        assert reader.tags().count("figcaption") == reader.tags().count("figure") == len(figures)
        text = " ".join(reader.text)
        for heading in ("Computed:", "On:", "Uncertainty:"):
            assert text.count(heading) == len(figures)


def test_the_numbers_of_a_figure_are_there_as_a_table() -> None:
    caption = Caption("c", "o", "u")
    small = Figure("t", caption, Axis("x"), Axis("y"), [points("a", [0.5], [7.25], error=[0.125])])
    text = " ".join(Reader(to_fragment(small)).text)
    assert "7.25" in text
    assert "0.12" in text
    large = Figure("t", caption, Axis("x"), Axis("y"), [points("a", range(1000), range(1000))])
    reader = Reader(to_fragment(large))
    assert reader.tags().count("tr") == 201
    assert "The first 200 of 1000." in " ".join(reader.text)


def test_fragments_style_nothing_outside_themselves(report: Report) -> None:
    style = re.search("<style>(.*?)</style>", to_fragment(report), re.DOTALL)
    assert style is not None
    flat = re.sub(r"@media[^{]*\{", "", style[1])
    for selectors in re.findall(r"([^{}]+)\{", flat):
        for selector in selectors.split(","):
            assert selector.strip().startswith(".thalweg"), selector


def test_save_html_writes_the_page(report: Report, tmp_path: Path) -> None:
    report.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == report.to_html()


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("theme", "levels"), [(palette.LIGHT, palette.LIGHT_LEVELS), (palette.DARK, palette.DARK_LEVELS)]
)
def test_contrast(theme: dict[str, str], levels: dict[str, str]) -> None:
    for ground in ("background", "panel"):
        for text in ("text", "muted"):
            assert contrast(theme[text], theme[ground]) >= 4.5
        for colour in levels.values():
            assert contrast(colour, theme[ground]) >= 4.5
    for colour in palette.SERIES:
        assert contrast(colour, theme["background"]) >= 3


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_figure_from_the_file(report: Report, figures: list[Figure], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    report.save_html(path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    run = subprocess.run(
        [str(CHROMIUM), *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.count("tw-drawn") >= len(figures)
    assert run.stdout.count('class="plot-container') == len(figures)
    assert "tw-svg" not in run.stdout[run.stdout.index("<main") :]  # the still pictures have made room
    assert "Share chart" not in run.stdout[run.stdout.index("<main") : run.stdout.index("</main>")]
    assert "CONSOLE" not in run.stderr, [text for text in run.stderr.splitlines() if "CONSOLE" in text]
