"""Times are read as people write them; work stops when told; a bar shows only where someone looks."""

from __future__ import annotations

import contextlib
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.foundation import InvalidInputError, RunControl, parse_duration, progress_bar


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.sampled_from(["", " "]))
def test_parse_duration_adds_hours_minutes_and_seconds(hours: int, minutes: int, seconds: int, gap: str) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    text = gap.join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)
    if total == 0:
        with pytest.raises(InvalidInputError):
            parse_duration(text)
    else:
        assert parse_duration(text) == total


@given(st.floats(1e-6, 1e9))
def test_a_number_is_seconds(seconds: float) -> None:
    assert parse_duration(seconds) == seconds
    assert parse_duration(f"{seconds:.6f}") == pytest.approx(seconds, abs=1e-6)


@given(st.text(alphabet="0123456789.hms -e", max_size=8))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        found = parse_duration(text)
        assert found is not None
        assert found > 0
        return
    with pytest.raises(InvalidInputError, match=re.escape(repr(text))):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "m", "2 minutes", "1.2.3s", "30s2m", "-3s", "0", 0, -1.0, float("nan")])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(InvalidInputError, match=r"as a time|must be positive"):
        parse_duration(text)  # type: ignore[arg-type]  # misuse is what is tested


@pytest.mark.parametrize("wrong", [[1], True, b"2m", {}])
def test_what_is_neither_number_nor_text_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInputError, match=f"a time is a number .* got {type(wrong).__name__}"):
        parse_duration(wrong)  # type: ignore[arg-type]  # misuse is what is tested


def test_no_budget_never_stops() -> None:
    control = RunControl()
    assert control.why_stop() is None
    assert control.remaining() == float("inf")


def test_a_budget_counts_from_construction() -> None:
    control = RunControl(budget=0.05)
    assert control.why_stop() is None
    assert 0 < control.remaining() <= 0.05
    time.sleep(0.06)
    assert control.why_stop() == "time limit"
    assert control.remaining() <= 0
    assert control.elapsed() >= 0.06


def test_an_event_stops_and_is_named_first() -> None:
    event = threading.Event()
    control = RunControl(budget=1e-9, stop_event=event)
    assert control.why_stop() == "time limit"
    event.set()
    assert control.why_stop() == "interrupted"


def test_a_bar_is_silent_unless_someone_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("counting", total=3) as bar:  # under pytest standard error is no terminal
        bar.update(1)
        bar.update(description="more")
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_a_bar_writes_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("counting sheep", total=2, show=True) as bar:
        bar.update(1)
        bar.update(2, description="counting wolves")
        bar.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "counting" in captured.err


def test_an_error_inside_passes_through_the_bar() -> None:
    with pytest.raises(KeyError, match="lost"), progress_bar("looking", show=True):
        raise KeyError("lost")
