"""How studies are run: claims, presets, parts that are kept, pages, and what the command says."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import thalweg.studies
from thalweg.cli import app
from thalweg.commands import studying
from thalweg.display import Axis, Caption, Column, Figure, Mark, Paragraph, Table, line, points, surface
from thalweg.foundation import InvalidInputError
from thalweg.studies import Claim, Part, Study, gallery, run_study, study

CAPTION = Caption("c", "o", "u")


@dataclass(frozen=True)
class Settings:
    size: int = 3
    lengths: tuple[float, ...] = (1.0, 2.0)
    label: str = "a"
    rate: float = 0.5


CALLS: list[tuple[str, object]] = []


def first(settings: Settings, folder: Path) -> Part:
    CALLS.append(("first", settings.size))
    ground = surface("loss", [0, 1], [1, 2], [[1.0, math.nan], [math.inf, 2.0]])
    figures = (
        Figure("f", CAPTION, Axis("x"), Axis("y", scale="log"), [line("l", [1, 2], [3, 4], error=[0.1, 0.2])]),
        Figure("g", CAPTION, Axis("x"), Axis("y"), [points("p", [0.5], [1.5])], [Mark(1.0, "m")], ground=ground),
    )
    table = Table([Column("time", "s"), "name"], [(0.5, "x, y"), (None, "z")], "times")
    return Part(
        "First part", (Claim.near("a number", 1.0, 1.0 + 1e-9, within=1e-8),), (*figures, table, Paragraph("p"))
    )


def second(settings: Settings, folder: Path) -> Part:
    CALLS.append(("second", settings.label))
    if settings.label == "stop":
        raise KeyboardInterrupt
    held = Claim.that("it holds", settings.label != "wrong", note="with a remark")
    return Part("Second part", (held,), ())


STUDY = Study(
    "small", "A small study", "Nobody, 2026", "Nothing.", {"quick": Settings(), "full": Settings(9)}, (first, second)
)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def names() -> list[str]:
    return [name for name, _ in CALLS]


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (Claim.near("x", 2.0, 2.01, within=0.01), True),
        (Claim.near("x", 2.0, 2.011, within=0.01), False),
        (Claim.near("x", 200.0, 201.0, within=0.01, relative=True), True),
        (Claim.near("x", 200.0, 203.0, within=0.01, relative=True), False),
        (Claim.near("x", 2.0, math.nan, within=1e9), False),
        (Claim.between("x", 1.0, 1.0, 2.0), True),
        (Claim.between("x", math.nan, 1.0, 2.0), False),
        (Claim.between("x", 2.1, -math.inf, 2.0), False),
        (Claim.larger("x", 2.0, 1.0, 0.5), True),
        (Claim.larger("x", 2.0, 1.0, 0.7), False),
        (Claim.larger("x", math.nan, 1.0, 0.1), False),
        (Claim.that("x", False), False),
    ],
)
def test_claims_hold_or_not(claim: Claim, holds: bool) -> None:
    assert claim.holds is holds


def test_figures_of_a_claim_show_where_they_differ() -> None:
    claim = Claim.near("x", 0.04237215195, 0.04237225195, within=1e-8)
    assert not claim.holds
    assert claim.expected != claim.here


def test_finished_parts_are_kept_and_come_back_as_they_were(tmp_path: Path) -> None:
    told: list[str] = []
    one = run_study(STUDY, folder=tmp_path, say=told.append)
    assert names() == ["first", "second"]
    again = run_study(STUDY, folder=tmp_path, say=told.append)
    assert names() == ["first", "second"]
    assert again.report().to_html() == one.report().to_html()
    assert repr(again.parts) == repr(one.parts)  # NaN is not equal to itself
    assert any("there already" in line for line in told)
    run_study(STUDY, folder=tmp_path, fresh=True)
    assert names() == ["first", "second"] * 2
    run_study(STUDY, folder=tmp_path, size=4)  # the first part reads it, the second does not
    assert names() == ["first", "second"] * 2 + ["first"]
    run_study(STUDY, folder=tmp_path)  # what was there before is there still
    run_study(STUDY, folder=tmp_path, rate=0.1)  # nobody reads it
    assert names() == ["first", "second"] * 2 + ["first"]
    run_study(STUDY)
    assert names() == [*["first", "second"] * 2, "first", "first", "second"]


def test_other_code_makes_other_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_study(STUDY, folder=tmp_path)
    monkeypatch.setattr(study, "_code", lambda: "0" * 64)
    run_study(STUDY, folder=tmp_path)
    assert names() == ["first", "second"] * 2


def test_parts_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def made(holds: bool):
        def part(settings: Settings, folder: Path) -> Part:
            return Part("Part", (Claim.that("it holds", holds),), ())

        return part

    twins = Study("twins", "t", "s", "a", {"quick": Settings()}, (made(True), made(False)))
    for _ in range(2):
        assert [claim.holds for claim in run_study(twins, folder=tmp_path).claims] == [True, False]


def test_a_search_that_was_stopped_makes_no_part(tmp_path: Path) -> None:
    """Searches end early on Ctrl-C and say so; what a part makes of that is not kept."""
    pressed = []

    def searching(settings: Settings, folder: Path) -> Part:
        pressed.append(settings.size)
        if len(pressed) == 1:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        return Part("Part", (Claim.that("it holds", True),), ())

    one = Study("one", "t", "s", "a", {"quick": Settings()}, (searching,))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_study(one, folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.rglob("*.json"))
    assert run_study(one, folder=tmp_path).holds
    assert len(pressed) == 2


def test_an_interrupted_study_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, folder=tmp_path, label="stop")
    assert names() == ["first", "second"]
    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, folder=tmp_path, label="stop")
    assert names() == ["first", "second", "second"]


@pytest.mark.parametrize("damage", ["", "{", '{"key": 1}', '{"a record of": "Part"}'])
def test_a_damaged_part_is_computed_anew(tmp_path: Path, damage: str) -> None:
    run_study(STUDY, folder=tmp_path)
    (file,) = tmp_path.rglob("1-first-*.json")
    file.write_text(damage)
    run_study(STUDY, folder=tmp_path)
    assert names() == ["first", "second", "first"]
    text = json.loads(file.read_text())
    text["part"]["a record of"] = "Path"  # names no kind that a part is made of
    file.write_text(json.dumps(text))
    run_study(STUDY, folder=tmp_path)
    assert names() == ["first", "second", "first", "first"]


def test_settings_are_read_as_what_they_replace() -> None:
    changes = {"size": "7", "lengths": "3,4.5", "rate": "1e-3", "label": "7"}
    assert STUDY.settings("quick", changes) == Settings(7, (3.0, 4.5), "7", 1e-3)
    assert STUDY.settings("full", {}).size == 9
    for preset, change, message in (
        ("other", {}, "the presets are quick, full"),
        ("quick", {"width": 1}, "no setting 'width'; it has size"),
        ("quick", {"size": "large"}, r"the setting size is like 3 \(int\); cannot read 'large'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            STUDY.settings(preset, change)


def test_pages_tables_and_gallery(tmp_path: Path) -> None:
    good, bad = run_study(STUDY), run_study(STUDY, label="wrong")
    assert good.holds
    assert good.verdict == "2 of 2 claims hold"
    assert not bad.holds
    assert "Not: it holds." in str(bad)
    assert "it holds: with a remark" in str(bad)
    page = good.save(tmp_path)
    assert page.read_text().count("<figure>") == 2
    saved = json.loads((tmp_path / "small.json").read_text())
    assert saved["schema"] == "thalweg.study"
    assert saved["parts"][0]["claims"][0]["holds"] is True
    assert (tmp_path / "small" / "1-first-part.csv").read_text() == 'time (s),name\n0.5,"x, y"\n,z\n'
    index = gallery([bad], tmp_path).read_text()
    assert '<a href="small.html">small</a>' in index
    assert "Claims that do not hold: small" in index
    with pytest.raises(InvalidInputError, match="cannot make the folder"):
        run_study(STUDY, folder=tmp_path / "small.json")


def test_the_command_exits_by_the_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studying, "names", lambda: ("small",))
    monkeypatch.setattr(studying, "find_study", lambda name: STUDY)
    runner = CliRunner()

    def call(*words: str) -> tuple[int, str]:
        result = runner.invoke(app, ["study", *words, "--folder", str(tmp_path)])
        return result.exit_code, result.output

    code, text = call()
    assert code == 0
    assert "A small study" in text
    code, text = call("small")
    assert code == 0
    assert "2 of 2 claims hold" in text
    assert (tmp_path / "small.html").exists()
    code, text = call("small", "--set", "label=wrong")
    assert code == 1
    assert "1 of 2 claims hold" in text
    code, text = call("small", "--set", "label=stop")
    assert code == 3
    assert "goes on from there" in text
    code, text = call("--all")
    assert code == 0
    assert (tmp_path / "index.html").exists()
    for words, message in (
        (("small", "--set", "label"), "NAME=VALUE"),
        (("small", "--set", "depth=3"), "no setting 'depth'"),
        (("small", "--preset", "huge"), "the presets are quick, full"),
        (("--all", "--set", "size=3"), "settings belong to one study"),
        (("small", "--all"), "--all means every study"),
        (("--fresh",), "say which study"),
    ):
        code, text = call(*words)
        assert code == 2
        assert message in text


def test_every_study_has_both_presets_and_one_name() -> None:
    for name in thalweg.studies.names():
        study = thalweg.studies.find_study(name)
        assert study.name == name
        assert set(study.presets) == {"quick", "full"}
        assert len({type(one) for one in study.presets.values()}) == 1
    with pytest.raises(InvalidInputError, match="there is no study 'nothing'; there are: channels"):
        thalweg.studies.run("nothing")
