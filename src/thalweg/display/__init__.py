"""How any result is shown: in a terminal, in a notebook, as a page, as JSON. There is no science in it."""

from thalweg.display.document import Code, Column, Facts, Item, Level, Notice, Paragraph, Report, Section, Table
from thalweg.display.figures import Axis, Caption, Figure, Mark
from thalweg.display.files import write_text_atomically
from thalweg.display.fragment import to_fragment
from thalweg.display.numbers import Quantity, format_duration, format_number, format_value
from thalweg.display.page import to_page
from thalweg.display.plotly_spec import plotly_spec
from thalweg.display.records import to_json, write_json
from thalweg.display.series import Series, bars, histogram, line, points, stems
from thalweg.display.surface import Surface, surface
from thalweg.display.svg import to_svg
from thalweg.display.terminal import print_report, to_text

__all__ = [
    "Axis",
    "Caption",
    "Code",
    "Column",
    "Facts",
    "Figure",
    "Item",
    "Level",
    "Mark",
    "Notice",
    "Paragraph",
    "Quantity",
    "Report",
    "Section",
    "Series",
    "Surface",
    "Table",
    "bars",
    "format_duration",
    "format_number",
    "format_value",
    "histogram",
    "line",
    "plotly_spec",
    "points",
    "print_report",
    "stems",
    "surface",
    "to_fragment",
    "to_json",
    "to_page",
    "to_svg",
    "to_text",
    "write_json",
    "write_text_atomically",
]
