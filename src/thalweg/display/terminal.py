"""Reports in a terminal. Texts are never read as mark-up, so brackets in a layer's name stay brackets."""

from __future__ import annotations

import io
import sys
import textwrap
from typing import IO, TYPE_CHECKING, Any, cast

from thalweg.display.document import LEVELS, Code, Facts, Item, Notice, Paragraph, Report, Table, split_code
from thalweg.display.figures import Figure
from thalweg.display.numbers import format_number, format_value
from thalweg.display.terminal_table import TableView
from thalweg.foundation import InvalidInputError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["print_report", "to_text"]

STYLES = {"ok": "bold green", "warn": "bold yellow", "bad": "bold red"}
NARROWEST = 20
PLAIN = str.maketrans({"✓": "+", "✗": "x", "±": "+-", "∞": "inf", "–": "-", "…": "...", "─": "-", "µ": "u", "·": "-"})
"""What to write where the encoding of the terminal has not the sign."""


def print_report(report: Report, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print a report, coloured where the file is a terminal.

    Args:
        report: what to show.
        file: where to; None is standard output.
        width: in characters; None takes the terminal's.
    """
    from rich.console import Console

    _show(report, Console(file=_writable(file or sys.stdout), width=_checked(width), highlight=False))


class _Plainer:
    """A text file that takes every sign, whatever its encoding; otherwise the file itself."""

    def __init__(self, file: IO[str], encoding: str) -> None:
        self._file = file
        self._encoding = encoding

    def write(self, text: str) -> int:
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            text = text.translate(PLAIN).encode(self._encoding, errors="replace").decode(self._encoding)
        return self._file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _writable(file: IO[str]) -> IO[str]:
    encoding: str | None = getattr(file, "encoding", None)
    if not encoding or encoding.lower().startswith("utf"):
        return file
    return cast("IO[str]", _Plainer(file, encoding))


def to_text(report: Report, width: int = 80) -> str:
    """A report as plain text, without colours and without blanks at the ends of lines.

    Args:
        report: what to show.
        width: in characters, at least 20.

    Raises:
        InvalidInputError: for a width below that.
    """
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file,
        width=_checked(width),
        highlight=False,
        color_system=None,
        force_terminal=False,
        legacy_windows=False,
    )
    _show(report, console)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _checked(width: int | None) -> int | None:
    if width is not None and width < NARROWEST:
        raise InvalidInputError(f"a report needs a width of at least {NARROWEST} characters, got {width}")
    return width


def _show(report: Report, console: Console) -> None:
    from rich.rule import Rule
    from rich.text import Text

    console.print(Text(report.title.replace("`", ""), style="bold"))
    console.print(Rule(style="dim", characters="─"))
    for item in report.summary:
        console.print(_item(item), soft_wrap=isinstance(item, Code))
    for section in report.sections:
        console.print()
        console.print(Text(section.title.replace("`", ""), style="bold underline"))
        for item in section.items:
            console.print(_item(item), soft_wrap=isinstance(item, Code))  # what is to be typed keeps its lines
    if report.footer:
        console.print()
        console.print(_inline(report.footer, style="dim"))


def _item(item: Item) -> RenderableType:
    if isinstance(item, Paragraph):
        return _inline(item.text)
    if isinstance(item, Code):
        return _code(item)
    if isinstance(item, Notice):
        return _notice(item)
    if isinstance(item, Facts):
        return _facts(item)
    if isinstance(item, Table):
        return TableView(item, _inline)
    return _figure(item)


def _inline(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text.assemble(*((piece, "cyan" if code else "") for piece, code in split_code(text)), style=style)


def _code(code: Code) -> RenderableType:
    from rich.text import Text

    return Text(textwrap.indent(code.text.strip("\n"), "    "), style="cyan")


def _notice(notice: Notice) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(LEVELS[notice.level][0], style=STYLES[notice.level]), _inline(notice.text, style="bold"))
    if notice.detail:
        grid.add_row("", _inline(notice.detail))
    return grid


def _facts(facts: Facts) -> RenderableType:
    from rich.padding import Padding
    from rich.table import Table as Grid

    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", overflow="fold", ratio=None)
    grid.add_column(overflow="fold")
    for name, value, remark in facts.rows:
        shown = _inline(format_value(value))
        if remark:
            shown.append_text(_inline(f" ({remark})", style="dim"))
        grid.add_row(_inline(name), shown)
    return Padding(grid, (0, 0, 0, 2))


def _figure(figure: Figure) -> RenderableType:
    """A picture in words: its caption and what it ranges over. Bars are drawn."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    title = _inline(f"Figure: {figure.title}", style="italic")
    told = Text("\n").join(_inline(f"{name}: {text}", style="dim") for name, text in figure.caption_parts())
    drawn = _bars(figure) if figure.categories else _ranges(figure)
    return Padding(Group(title, drawn, told), (0, 0, 1, 2))


def _ranges(figure: Figure) -> RenderableType:
    from rich.text import Text

    lines = []
    if figure.ground is not None:
        lines.append(f"{figure.ground.name} on a grid of {len(figure.ground.x)} x {len(figure.ground.y)}")
    for series in figure.series:
        if series.y:
            low, high = format_number(min(series.y)), format_number(max(series.y))
            name = f"{series.name}: " if series.name else ""
            lines.append(f"{name}{len(series.y):,} values of {figure.y.title} from {low} to {high}")
    return Text("\n".join(lines))


def _bars(figure: Figure) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 2, 0, 0))
    several = len(figure.series) > 1
    largest = max((abs(y) for one in figure.series for y in one.y), default=0.0) or 1.0
    for category in figure.categories:
        for series in figure.series:
            for x, y in zip(series.x, series.y, strict=True):
                if x == category:
                    name = f"{category} · {series.name}" if several else category
                    bar = ProgressBar(total=largest, completed=abs(y), width=20)
                    grid.add_row(Text(name), bar, Text(format_number(y)))
    return grid
