"""Sizes are read as people write them; passes are cut so that they fit, and nothing is left out."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.foundation import (
    Cost,
    InvalidInputError,
    MemoryLimitError,
    Passes,
    available_memory,
    current_limit,
    format_bytes,
    memory,
    memory_limit,
    plan_passes,
    require_memory,
)
from thalweg.foundation.memory import WORKING_SET, parse_bytes

UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


@given(st.integers(1, 10**4), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_parse_bytes_reads_number_and_unit(number: int, unit: str, gap: str) -> None:
    assert parse_bytes(f"{number}{gap}{unit}") == number * UNITS[unit]
    assert parse_bytes(f"{number}.5{gap}{unit}") == int((number + 0.5) * UNITS[unit])


@given(st.integers(1, 2**50))
def test_a_formatted_size_reads_back(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)


@given(st.text(alphabet="0123456789.kKMGTiBbe- x", max_size=8))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert parse_bytes(text) > 0
        return
    with pytest.raises(InvalidInputError, match=re.escape(repr(text))):
        parse_bytes(text)


@pytest.mark.parametrize("size", ["", ".", "1.2.3GiB", "GiB", "two GiB", "-1GiB", "1e3", "0", "0.1B"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(InvalidInputError, match=r"memory size|must be positive"):
        parse_bytes(size)


@pytest.mark.parametrize("size", [0, -1, 0.4, float("inf"), float("nan")])
def test_a_limit_is_positive_and_finite(size: float) -> None:
    with pytest.raises(InvalidInputError, match="must be positive and finite"), memory_limit(size):
        pass


@pytest.mark.parametrize("size", [None, True, [1], b"2GiB"])
def test_what_is_neither_number_nor_text_is_refused(size: Any) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"cannot read {size!r} as a memory size")):
        parse_bytes(size)


def test_numbers_of_any_kind_are_bytes() -> None:
    assert [parse_bytes(n) for n in (2.5e9, np.int64(7), np.float32(8.0))] == [2_500_000_000, 7, 8]


def test_a_variable_that_holds_no_size_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_MEMORY", "plenty")
    with pytest.raises(InvalidInputError, match="variable THALWEG_MEMORY: cannot read 'plenty' as a memory size"):
        current_limit()
    monkeypatch.setenv("THALWEG_MEMORY", "")
    assert current_limit() > 0


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up tree of control groups, in whose inner one this process is."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("1:cpu:/elsewhere\n0::/outer/inner\n")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    return tmp_path


def fill(group: Path, ceiling: str, used: int, inactive: int) -> None:
    (group / "memory.max").write_text(f"{ceiling}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\nfile {2 * inactive}\ninactive_file {inactive}\n")


def test_the_tightest_control_group_decides_and_files_read_long_ago_are_free_memory(groups: Path) -> None:
    machine = available_memory()
    assert machine > 2**20
    fill(groups / "outer" / "inner", "max", 2**40, 0)
    assert available_memory() == pytest.approx(machine, rel=0.5)
    fill(groups / "outer", "1048576", 1_000_000, 900_000)
    assert available_memory() == 1_048_576 - 1_000_000 + 900_000
    fill(groups / "outer" / "inner", "700000", 650_000, 10_000)
    assert available_memory() == 60_000
    fill(groups / "outer" / "inner", "700000", 800_000, 10_000)
    assert available_memory() == 0


def test_the_innermost_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_MEMORY", "7MB")
    assert current_limit() == 7_000_000
    with memory_limit("3KiB"):
        with memory_limit(100):
            assert current_limit() == 100
        assert current_limit() == 3072
    assert current_limit() == 7_000_000
    monkeypatch.delenv("THALWEG_MEMORY")
    assert 0 < current_limit() <= min(4 * 2**30, available_memory() // 2)


def test_a_refusal_holds_both_figures_and_the_way_out() -> None:
    with memory_limit("2GiB"), pytest.raises(MemoryLimitError) as caught:
        require_memory(5 * 2**30 + 1, "a dense matrix", "Use products.")
    text = str(caught.value)
    assert "a dense matrix would need 5.0 GiB, the limit is 2.0 GiB. Use products." in text
    assert "thalweg.memory_limit('6GiB')" in text
    assert (caught.value.needed, caught.value.limit) == (5 * 2**30 + 1, 2**31)
    with memory_limit("2GiB"):
        require_memory(2**31, "exactly the limit", "")


def test_the_way_out_is_one() -> None:
    with memory_limit(10), pytest.raises(MemoryLimitError) as caught:
        require_memory(3 * 2**30, "this", "")
    advice = str(caught.value).split("'")[1]
    with memory_limit(advice):
        require_memory(3 * 2**30, "this", "")


costs = st.builds(Cost, st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**10))


@given(costs, st.integers(1, 10**5), st.integers(2**10, 2**36))
def test_a_pass_fits_or_is_as_small_as_can_be(cost: Cost, copies: int, limit: int) -> None:
    with memory_limit(limit):
        passes = plan_passes(cost, copies)
    assert 1 <= passes.copies <= copies
    assert 1 <= passes.samples <= cost.samples or passes.samples == cost.samples == 0
    held = passes.copies * (cost.bytes_fixed + passes.samples * cost.bytes_per_sample)
    smallest = cost.bytes_fixed + min(1, cost.samples) * cost.bytes_per_sample
    room = min(WORKING_SET, 2 * limit // 5)
    if passes.copies == 1:  # what one vector holds cannot be cut, and samples get half of the room all the same
        room = max(room, cost.bytes_fixed + room // 2)
    assert held <= max(room, smallest)


def test_a_network_larger_than_the_working_set_is_not_taken_sample_by_sample() -> None:
    cost = Cost(samples=10_000, bytes_per_sample=50_000, bytes_fixed=2 * WORKING_SET)
    with memory_limit("8GiB"):
        assert plan_passes(cost, 1) == Passes(1, WORKING_SET // 2 // 50_000)
        assert plan_passes(cost, 5) == Passes(1, WORKING_SET // 2 // 50_000)


@given(costs, st.integers(1, 10**4))
def test_more_memory_never_means_smaller_samples_for_one_copy(cost: Cost, megabytes: int) -> None:
    with memory_limit(megabytes * 2**20):
        less = plan_passes(cost, 1)
    with memory_limit(2 * megabytes * 2**20):
        more = plan_passes(cost, 1)
    assert more.samples >= less.samples


def test_free_memory_is_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def available() -> int:
        asked.append(len(asked))
        return 2**30 * (1 + len(asked))

    monkeypatch.setattr(memory, "available_memory", available)
    monkeypatch.setattr(memory, "_LATELY", [])
    assert current_limit() == current_limit() == 2**29
    assert len(asked) == 1
    monkeypatch.setattr(memory, "FRESH", -1.0)
    assert current_limit() == 3 * 2**28
