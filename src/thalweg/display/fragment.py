"""Reports as HTML. Every text that comes from outside goes through `escape`; nothing else may write angle brackets."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from thalweg.display import palette
from thalweg.display.document import LEVELS, Code, Facts, Item, Notice, Paragraph, Report, Section, Table, split_code
from thalweg.display.figures import Figure
from thalweg.display.numbers import format_number, format_value, is_number
from thalweg.display.svg import to_svg

__all__ = ["Draw", "body_html", "item_html", "style_sheet", "to_fragment"]

Draw = Callable[[Figure], str]
"""How a figure becomes HTML: a still picture in a fragment, one that answers the mouse in a page."""

MOST_ROWS = 200
"""Of the numbers behind a figure, given as a table for those who cannot see it."""


def to_fragment(what: Report | Figure) -> str:
    """HTML to stand inside another page, such as a notebook: no script, and a style that touches nothing outside."""
    if isinstance(what, Figure):
        inside = item_html(what, to_svg)
    else:
        inside = f'<p class="tw-title">{inline(what.title)}</p>{body_html(what, to_svg, level=3)}'
    return f'<div class="thalweg"><style>{style_sheet()}</style>{inside}</div>'


def body_html(report: Report, draw: Draw, *, level: int) -> str:
    """Summary, sections and footer of a report; its title is left to the caller.

    Args:
        report: what to show.
        draw: how figures become HTML.
        level: of the headings of sections, 1 to 6.
    """
    parts = []
    if report.summary:
        parts.append(f'<div class="tw-summary">{"".join(item_html(item, draw) for item in report.summary)}</div>')
    for number, section in enumerate(report.sections):
        parts.append(_section(section, number, draw, level))
    if report.footer:
        parts.append(f'<footer class="tw-footer">{inline(report.footer)}</footer>')
    return "".join(parts)


def item_html(item: Item, draw: Draw) -> str:
    """One item of a report."""
    if isinstance(item, Paragraph):
        return f"<p>{inline(item.text)}</p>"
    if isinstance(item, Code):
        return f"<pre><code>{escape(item.text)}</code></pre>"
    if isinstance(item, Notice):
        return _notice(item)
    if isinstance(item, Facts):
        return _facts(item)
    if isinstance(item, Table):
        return _table(item)
    return _figure(item, draw)


def inline(text: str) -> str:
    """Escaped text with `backticks` as code."""
    return "".join(f"<code>{escape(piece)}</code>" if code else escape(piece) for piece, code in split_code(text))


def _section(section: Section, number: int, draw: Draw, level: int) -> str:
    inside = "".join(item_html(item, draw) for item in section.items)
    return f'<section id="section-{number}"><h{level}>{inline(section.title)}</h{level}>{inside}</section>'


def _notice(notice: Notice) -> str:
    sign, word = LEVELS[notice.level]
    detail = f'<span class="tw-detail">{inline(notice.detail)}</span>' if notice.detail else ""
    mark = f'<span class="tw-sign" role="img" aria-label="{word}">{sign}</span>'
    told = f"<div><strong>{inline(notice.text)}</strong>{detail}</div>"
    return f'<div class="tw-notice tw-{notice.level}" role="note">{mark}{told}</div>'


def _facts(facts: Facts) -> str:
    rows = []
    for name, value, remark in facts.rows:
        note = f'<span class="tw-remark">{inline(remark)}</span>' if remark else ""
        rows.append(f"<div><dt>{inline(name)}</dt><dd>{inline(format_value(value))}{note}</dd></div>")
    return f'<dl class="tw-facts">{"".join(rows)}</dl>'


def _table(table: Table) -> str:
    right = [all(is_number(row[i]) or row[i] is None for row in table.rows) for i in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{_aligned(to_right)}>{inline(column.heading)}</th>'
        for column, to_right in zip(table.columns, right, strict=True)
    )
    cells = (
        "".join(f"<td{_aligned(r)}>{inline(format_value(value))}</td>" for value, r in zip(row, right, strict=True))
        for row in table.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    # above the part that scrolls, so that a narrow window wraps it; the region carries it as its name
    caption = f'<p class="tw-caption">{inline(table.caption)}</p>' if table.caption else ""
    name = escape(table.caption or "table")
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{caption}<div class="tw-scroll" role="region" aria-label="{name}" tabindex="0">{inside}</div>'


def _aligned(right: bool) -> str:
    return ' class="tw-number"' if right else ""


def _figure(figure: Figure, draw: Draw) -> str:
    told = " ".join(f"<b>{escape(name)}:</b> {inline(text)}" for name, text in figure.caption_parts())
    caption = f'<figcaption><span class="tw-figure-title">{inline(figure.title)}</span> {told}</figcaption>'
    return f"<figure>{draw(figure)}{caption}{_numbers(figure)}</figure>"


def _numbers(figure: Figure) -> str:
    """The numbers behind a figure, folded away."""
    heads = ["series", figure.x.title, figure.y.title, "standard error"]
    rows = [
        (one.name, x, format_number(y), format_number(one.error[i], digits=2) if one.error else None)
        for one in figure.series
        for i, (x, y) in enumerate(zip(one.x, one.y, strict=True))
    ]
    shown = rows[:MOST_ROWS]
    more = f"<p>The first {MOST_ROWS} of {len(rows)}.</p>" if len(rows) > MOST_ROWS else ""
    if not any(one.error for one in figure.series):
        heads, shown = heads[:3], [row[:3] for row in shown]  # type: ignore[misc]  # rows lose their last column together
    inside = _table(Table(heads, shown, f"Numbers of the figure “{figure.title}”"))
    return f"<details><summary>Numbers</summary>{more}{inside}</details>"


def style_sheet(root: str = ".thalweg") -> str:
    """Rules for everything under `root`, with the colours of both themes."""
    from importlib.resources import files

    rules = files("thalweg.display").joinpath("report.css").read_text(encoding="utf-8")
    light, dark = _variables(palette.LIGHT, palette.LIGHT_LEVELS), _variables(palette.DARK, palette.DARK_LEVELS)
    themes = f"{root}{{{light}}}@media screen and (prefers-color-scheme: dark){{{root}{{{dark}}}}}"
    return themes + rules


def _variables(colours: dict[str, str], levels: dict[str, str]) -> str:
    return "".join(f"--tw-{name}:{value};" for name, value in {**colours, **levels}.items())
