from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.display import Quantity, format_duration, format_number, format_value
from thalweg.display.numbers import is_number


def read_back(text: str) -> float:
    return float(text.replace(",", ""))


@given(st.floats(-1e300, 1e300))
def test_four_digits_are_right(number: float) -> None:
    text = format_number(number)
    assert math.isclose(read_back(text), number, rel_tol=5.0001e-4, abs_tol=1e-307)
    mantissa = text.split("e")[0].replace(",", "").replace("-", "").replace(".", "").lstrip("0")
    significant = mantissa.rstrip("0") if abs(number) >= 1e3 else mantissa
    assert len(significant) <= 4


@given(st.integers(-(10**14), 10**14))
def test_whole_numbers_are_written_in_full(number: int) -> None:
    assert int(format_number(number).replace(",", "")) == number


def test_numbers_that_are_none() -> None:
    assert format_number(float("nan")) == "not a number"
    assert format_number(10**400).startswith("about 10^")
    assert format_number(-(10**20)) == "-1e20"


def test_rounding_up_to_the_next_power_keeps_its_form() -> None:
    assert format_number(9999.96) == "10,000"
    assert format_number(99999.6) == "1e5"
    assert format_number(0.99999) == "1"


@given(st.floats(1e-9, 1e7))
def test_durations_have_two_digits_or_whole_seconds(seconds: float) -> None:
    text = format_duration(seconds)
    units = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    words = text.split()
    read = sum(read_back(value) * units[unit] for value, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(read - seconds) <= max(0.051 * seconds if seconds < 60 else 0.5, 30.001 if seconds > 3599 else 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(0.25), "0.25"),
        (torch.tensor([1.0, 2.5], requires_grad=True), "1, 2.5"),
        (np.float64(3.14159), "3.142"),
        (np.int64(12345), "12,345"),
        (np.array([True, False]), "yes, no"),
        ([], ""),
    ],
)
def test_arrays_and_tensors_in_cells(value: object, expected: str) -> None:
    assert format_value(value) == expected


def test_what_is_aligned_as_a_number() -> None:
    assert all(map(is_number, (1, 2.5, Quantity(1.0), torch.tensor(1.0), np.float64(1.0))))
    assert not any(map(is_number, (True, "1", None, torch.ones(2))))


def test_an_error_has_two_digits() -> None:
    assert str(Quantity(1.23456, 0.01234, "kg")) == "1.235 ± 0.012 kg"
    assert str(Quantity(2.0)) == "2"
