"""Tables in a terminal: columns as wide as their longest word at least, and row by row where that does not fit.

A number broken over two lines is read as two numbers, so no cell is ever broken within a word while there is a way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from thalweg.display.document import Table
from thalweg.display.numbers import format_value, is_number

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

__all__ = ["TableView", "column_widths"]

GAP = 3
"""Blanks between columns."""
INDENT = 2
WIDEST = 60
"""A column of text is given no more than this before the others have what they need."""


def column_widths(cells: Sequence[Sequence[str]], whole: Sequence[bool], room: int) -> list[int] | None:
    """Widths of columns that break no word, or None where there is not enough room.

    Args:
        cells: one sequence of texts for each column, the heading first.
        whole: columns whose cells below the heading must not be broken even between words.
        room: characters for all columns together, gaps aside.

    >>> column_widths([["step", "Gauss-Newton"], ["gain", "one two three"]], [False, False], 25)
    [12, 13]
    >>> column_widths([["step", "Gauss-Newton"], ["gain", "one two three"]], [False, False], 19)
    [12, 7]
    >>> column_widths([["step", "Gauss-Newton"], ["gain", "one two three"]], [False, False], 16) is None
    True
    """
    least, wished = [], []
    for texts, kept in zip(cells, whole, strict=True):
        natural = max(_width(text) for text in texts)
        words = [max(map(_width, text.split()), default=0) for text in (texts[:1] if kept else texts)]
        least.append(max([*words, *(map(_width, texts[1:]) if kept else ()), 1]))
        wished.append(max(least[-1], min(natural, WIDEST)))
    if sum(least) > room:
        return None
    widths, left = list(least), room - sum(least)
    for most in (wished, [max(map(_width, texts)) for texts in cells]):
        while left > 0:
            short = [i for i, width in enumerate(widths) if width < most[i]]
            if not short:
                break
            for i in short[:left]:
                widths[i] += 1
            left -= min(len(short), left)
    return widths


def _width(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()), default=0)


class TableView:
    """A table that looks at the width of the console when it is printed.

    Args:
        table: what to show.
        inline: from text with `backticks` to styled text.
    """

    def __init__(self, table: Table, inline: Callable[..., Text]) -> None:
        self.table = table
        self.inline = inline
        self.right = [all(is_number(row[i]) or row[i] is None for row in table.rows) for i in range(len(table.columns))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The caption, then columns or, where they do not fit, row by row."""
        from rich.padding import Padding

        if self.table.caption:
            yield Padding(self.inline(self.table.caption, style="italic"), (0, 0, 0, INDENT))
        heads = [column.heading.replace("`", "") for column in self.table.columns]
        shown = [[format_value(value).replace("`", "") for value in row] for row in self.table.rows]
        cells = [[head, *(row[i] for row in shown)] for i, head in enumerate(heads)]
        room = options.max_width - INDENT - GAP * (len(heads) - 1)
        widths = column_widths(cells, self.right, room)
        if widths is None:
            yield from self._row_by_row()
        else:
            yield Padding(self._columns(widths), (0, 0, 1, INDENT))

    def _columns(self, widths: Sequence[int]) -> RenderableType:
        from rich import box
        from rich.table import Table as RichTable

        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column, right, width in zip(self.table.columns, self.right, widths, strict=True):
            shown.add_column(
                self.inline(column.heading), justify="right" if right else "left", width=width, overflow="fold"
            )
        for row in self.table.rows:
            shown.add_row(*(self.inline(format_value(value)) for value in row))
        return shown

    def _row_by_row(self) -> Iterator[RenderableType]:
        """The first cell of each row as a heading, the others under it with their columns' names."""
        from rich.padding import Padding
        from rich.table import Table as Grid

        for row in self.table.rows:
            yield Padding(self.inline(_first(row), style="bold"), (0, 0, 0, INDENT))
            grid = Grid.grid(padding=(0, 2, 0, 0))
            grid.add_column(style="dim", overflow="fold")
            grid.add_column(overflow="fold")
            for column, value in list(zip(self.table.columns, row, strict=True))[1:]:
                grid.add_row(self.inline(column.heading), self.inline(format_value(value)))
            yield Padding(grid, (0, 0, 1, 2 * INDENT))


def _first(row: Sequence[Any]) -> str:
    return format_value(row[0]) if row else ""
