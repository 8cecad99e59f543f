"""Numbers as people read them: four significant digits, units, and errors beside values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Quantity", "format_duration", "format_number", "format_value"]

NO_VALUE = "–"


@dataclass(frozen=True)
class Quantity:
    """A number with its standard error and its unit.

    Attributes:
        value: the number.
        error: one standard error, in the same unit; None where there is none to give.
        unit: written behind the number.

    >>> str(Quantity(0.123456, error=0.00378, unit="s"))
    '0.1235 ± 0.0038 s'
    >>> str(Quantity(1234567, unit="parameters"))
    '1,234,567 parameters'
    """

    value: float
    error: float | None = None
    unit: str = ""

    def __str__(self) -> str:
        text = format_number(self.value)
        if self.error is not None:
            text += f" ± {format_number(self.error, digits=2)}"
        return f"{text} {self.unit}" if self.unit else text


def format_number(number: float, digits: int = 4) -> str:
    """Write one number to `digits` significant digits; integers below 10^15 in full, with separators.

    Trailing zeros are left out, so ``0.5`` does not look like a measured ``0.5000``.

    >>> [format_number(x) for x in (3.14159265, 0.5, 60000, 1234567.8, 1.5e-7, -2.0e12, 0.0, -0.0)]
    ['3.142', '0.5', '60,000', '1.235e6', '1.5e-7', '-2e12', '0', '0']
    >>> [format_number(x) for x in (float("nan"), float("inf"), -float("inf"))]
    ['not a number', '∞', '-∞']
    """
    if isinstance(number, int) and abs(number) < 10**15:
        return f"{number:,}"
    try:
        number = float(number)
    except OverflowError:  # an integer beyond the floats
        return f"about 10^{len(str(abs(int(number)))) - 1}"
    if math.isnan(number):
        return "not a number"
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    if -4 <= int(exponent) < 5:
        places = max(0, digits - 1 - int(exponent))
        return _without_zeros(f"{round(number, digits - 1 - int(exponent)):,.{places}f}")
    return f"{_without_zeros(mantissa)}e{int(exponent)}"


def format_duration(seconds: float) -> str:
    """Write a time.

    >>> [format_duration(t) for t in (0.0000032, 0.0123, 4.56, 59.96, 92, 3725)]
    ['3.2 µs', '12 ms', '4.6 s', '1 min 00 s', '1 min 32 s', '1 h 02 min']
    """
    if not math.isfinite(seconds):
        return format_number(seconds)
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (59.95, 1.0, "s")):
        if abs(seconds) < limit:
            return f"{format_number(seconds * factor, digits=2)} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def format_value(value: Any) -> str:
    """Write whatever stands in a cell: text as it is, numbers for people, None as a dash, small tensors by entry.

    >>> [format_value(v) for v in ("saddle", True, None, 0.1 + 0.2, 12, Quantity(2.0, unit="GiB"), (1, 2.5))]
    ['saddle', 'yes', '–', '0.3', '12', '2 GiB', '1, 2.5']
    """
    if value is None:
        return NO_VALUE
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, tuple | list):
        return ", ".join(format_value(part) for part in value)
    if hasattr(value, "tolist"):  # tensors and arrays
        return format_value(value.tolist())
    return str(value)


def is_number(value: Any) -> bool:
    """True for what is aligned to the right in a table."""
    if isinstance(value, bool | str) or value is None:
        return False
    return isinstance(value, int | float | Quantity) or (hasattr(value, "ndim") and value.ndim == 0)


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
