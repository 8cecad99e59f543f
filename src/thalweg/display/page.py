"""A report as one HTML file that needs nothing but itself: no network, no folder beside it."""

from __future__ import annotations

import json
from importlib.resources import files

from thalweg.display.document import Report
from thalweg.display.figures import Figure
from thalweg.display.fragment import body_html, inline, style_sheet
from thalweg.display.plotly_spec import plotly_spec
from thalweg.display.svg import to_svg

__all__ = ["to_page"]

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""Told to the browser, which then refuses every request to the network, whatever the page may hold."""

NAVIGATION_FROM = 3
"""Number of sections from which a page has a list of them."""


def to_page(report: Report) -> str:
    """The report as a complete page. The drawing library is in it once, and only where there is a figure."""
    drawn = [item for section in report.sections for item in section.items] + list(report.summary)
    scripts = _scripts() if any(isinstance(item, Figure) for item in drawn) else ""
    style = style_sheet() + _resource("page.css")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_plain(report.title)}</title>\n<style>{style}</style>\n</head>\n"
        '<body class="thalweg">\n<a class="tw-skip" href="#content">Skip to the content</a>\n'
        f'<header class="tw-head"><h1>{inline(report.title)}</h1></header>\n{_navigation(report)}'
        f'<main id="content">{body_html(report, _plot, level=2)}</main>\n{scripts}</body>\n</html>\n'
    )


def _plot(figure: Figure) -> str:
    """A still picture, and the data from which the script draws the live one in its place."""
    data = f'<script type="application/json" data-plot>{_data(figure)}</script>'
    return f'<div class="tw-plot">{to_svg(figure)}</div>{data}'


def _data(figure: Figure) -> str:
    text = json.dumps(plotly_spec(figure), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # nothing in the data can end the script element


def _scripts() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>\n<script>{_resource('page.js')}</script>\n"


def _navigation(report: Report) -> str:
    if len(report.sections) < NAVIGATION_FROM:
        return ""
    links = "".join(
        f'<li><a href="#section-{number}">{inline(section.title)}</a></li>'
        for number, section in enumerate(report.sections)
    )
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'


def _plain(text: str) -> str:
    from html import escape

    return escape(text.replace("`", ""))


def _resource(name: str) -> str:
    return files("thalweg.display").joinpath(name).read_text(encoding="utf-8")
