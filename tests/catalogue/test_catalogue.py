"""What is written is read again, points are merged, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from catalogue_cases import batch, draws, ends, pooled_batch, risk
from pyarrow import parquet

import thalweg
from thalweg.catalogue import Batch, Catalogue, CatalogueError, symmetries_of
from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import L2, Objective
from thalweg.solvers import Status

SETTINGS = {"method": "auto", "tolerance": 1e-9, "starts": {"seed": 3}}


def test_objectives_and_surveys_are_recorded_once(place: str) -> None:
    with Catalogue(place) as catalogue:
        first = catalogue.open_survey(risk(), SETTINGS, 8)
        assert catalogue.add_objective(risk()) == risk().fingerprint()
        assert catalogue.open_survey(risk(), dict(reversed(SETTINGS.items())), 8) == first
        others = {
            catalogue.open_survey(risk(), SETTINGS, 16),
            catalogue.open_survey(risk(), SETTINGS | {"method": "lbfgs"}, 8),
            catalogue.open_survey(risk("relu"), SETTINGS, 8),
        }
        assert len(others | {first}) == 4
    with Catalogue(place, create=False) as catalogue:
        assert catalogue.open_survey(risk(), SETTINGS, 8) == first
        table = catalogue.objectives()
        assert list(table["fingerprint"]) == [risk().fingerprint(), risk("relu").fingerprint()]
        assert table["parameters"].tolist() == [13, 13]
        assert table["blocks"][0][0] == ["0.weight", [3, 2]]
        assert "permutation, sign" in table["symmetries"][0]
        assert set(table["library"]) == {thalweg.__version__}
        surveys = catalogue.surveys(risk())
        assert surveys["survey"].tolist()[0] == first
        assert len(surveys) == 3
        assert surveys["settings"][0] == SETTINGS


def test_every_field_of_a_run_comes_back(place: str) -> None:
    objective = risk()
    theta = draws(objective, 5, 1)
    statuses = [Status.CONVERGED, Status.CHANNEL, Status.NOT_FINITE, Status.SEPARABLE, Status.ITERATION_LIMIT]
    nan, inf = math.nan, math.inf
    result = batch(
        objective,
        theta,
        statuses=statuses,
        value=torch.tensor([0.1, -inf, nan, inf, 1e-320], dtype=torch.float64),
        gradient_norm=torch.tensor([1e-12, inf, nan, 0.0, 0.1], dtype=torch.float64),
        index=torch.tensor([0, -1, -1, 3, 2]),
    )
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 5)
        assert catalogue.finished_batches(survey) == set()
        assert catalogue.add_batch(survey, 0, result) is True
        assert catalogue.finished_batches(survey) == {0}
        back, given = catalogue.solution(survey), result.solution
        for field in dataclasses.fields(back):
            one, other = getattr(back, field.name), getattr(given, field.name)
            if isinstance(one, torch.Tensor):
                assert one.dtype == other.dtype
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert list(back.status) == statuses
        assert list(back.message) == [f"message {i}" for i in range(5)]
        assert (back.method, back.seconds) == ("by hand", 2.0)
        assert torch.equal(catalogue.thetas_of(survey), theta)
        frame = catalogue.runs(survey)
        assert frame["seed"].tolist() == [0, 1, 2, 3, 4]
        assert frame["value"].tolist()[1] == -inf
        assert np.isnan(frame["value"][2])
        assert frame["point"].isna().tolist() == [False, True, True, True, True]
        progress = catalogue.progress(survey)
        assert (progress.seeds, progress.converged, progress.points, progress.best) == (5, 1, 1, 0.1)
        assert progress.statuses == {status.value: 1 for status in statuses}
        assert "5 runs, 1 point>" in repr(catalogue)


def test_the_same_batch_again_changes_nothing(place: str) -> None:
    objective = risk()
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 10)
        assert catalogue.add_batch(survey, 0, pooled_batch(objective, 0, 3, 10))
        before = [catalogue.points(), catalogue.runs()]
        assert not catalogue.add_batch(survey, 0, pooled_batch(objective, 0, 3, 10))
        for one, other in zip(before, [catalogue.points(), catalogue.runs()], strict=True):
            pd.testing.assert_frame_equal(one, other)


def test_copies_are_merged_across_batches_surveys_and_openings(place: str) -> None:
    objective = risk()
    for number in range(4):
        with Catalogue(place) as catalogue:
            survey = catalogue.open_survey(objective, {"half": number // 2}, 10)
            catalogue.add_batch(survey, number, pooled_batch(objective, number, 3, 10))
    with Catalogue(place) as catalogue:
        points, runs = catalogue.points(), catalogue.runs()
        assert len(points) == 3
        assert points["multiplicity"].sum() == (runs["status"] == "converged").sum() == 32
        counted = runs["point"].dropna().value_counts()
        assert counted.to_dict() == dict(zip(points["point"], points["multiplicity"], strict=True))
        assert points["value"].is_monotonic_increasing
        pool = draws(objective, 3, 99)
        same = symmetries_of(objective).same
        for point, seed in zip(points["point"], points["first_seed"], strict=True):
            assert same(catalogue.theta(point), pool[seed % 3])
        assert runs[runs["seed"] % 3 == 1]["point"].dropna().nunique() == 1
        assert catalogue.progress(1).points == 3


def test_the_run_with_the_smallest_gradient_stands_for_a_point(place: str) -> None:
    objective = risk()
    theta = draws(objective, 1, 4).repeat(3, 1) + torch.tensor([[0.0], [1e-11], [2e-11]], dtype=torch.float64)
    norms = torch.tensor([1e-9, 1e-11, 1e-10], dtype=torch.float64)
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 1)
        for seed in range(3):
            index = torch.tensor([seed])
            one = batch(objective, theta[seed : seed + 1], seed, gradient_norm=norms[seed : seed + 1], index=index)
            assert catalogue.add_batch(survey, seed, one)
        points = catalogue.points()
        assert points[["multiplicity", "index", "kind", "first_seed"]].values.tolist() == [[3, 1, "saddle", 0]]
        assert torch.equal(catalogue.theta(int(points["point"][0])), theta[1])
        assert points["gradient_norm"].tolist() == [1e-11]


def test_near_ties_within_a_batch_are_merged_and_other_points_are_not(place: str) -> None:
    objective = risk()
    theta = draws(objective, 1, 8)[0]
    theta[2:4], theta[7] = theta[:2] + 1e-12, theta[6]  # two units with nearly the same incoming weights
    other = theta + 1e-3
    copies = symmetries_of(objective).moved(torch.stack([theta, other]).repeat(20, 1), 3)
    copies = copies + 1e-10 * draws(objective, 40, 2)
    value = objective.value(theta).expand(40).clone()  # equal values do not make points equal
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 40)
        catalogue.add_batch(survey, 0, batch(objective, copies, value=value))
        assert catalogue.points()["multiplicity"].tolist() == [20, 20]


def test_equal_parameters_of_different_objectives_are_different_points(place: str) -> None:
    with Catalogue(place) as catalogue:
        for objective in (risk(), risk("gelu")):
            survey = catalogue.open_survey(objective, {}, 2)
            catalogue.add_batch(survey, 0, batch(objective, draws(risk(), 2, 0)))
        assert len(catalogue.points()) == 4
        assert len(catalogue.points(risk("gelu"))) == len(catalogue.points(risk().fingerprint())) == 2
        assert len(catalogue.runs(objective=risk())) == 2


def test_a_batch_that_grew_is_completed(place: str) -> None:
    objective = risk()
    whole = pooled_batch(objective, 1, 3, 10)
    some = Batch(whole.seeds[:4], ends(objective, whole.solution.theta[:4]), 1.0, "w")
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 10)
        assert catalogue.add_batch(survey, 1, some)
        assert catalogue.finished_batches(survey) == set()
        assert catalogue.finished_batches(survey, starts=14) == {1}
        assert catalogue.finished_batches(survey, starts=15) == set()
        assert not catalogue.add_batch(survey, 1, some)
        assert catalogue.add_batch(survey, 1, whole)
        assert not catalogue.add_batch(survey, 1, some)
        assert catalogue.finished_batches(survey) == {1}
        runs = catalogue.runs()
        assert runs["seed"].tolist() == list(range(10, 20))
        assert torch.equal(catalogue.thetas_of(survey), whole.solution.theta)
        assert catalogue.points()["multiplicity"].sum() == runs["point"].notna().sum()


def test_an_empty_catalogue_gives_empty_tables_with_all_columns(place: str, tmp_path: Path) -> None:
    objective = risk()
    with Catalogue(place) as catalogue:
        empty = [catalogue.objectives(), catalogue.surveys(), catalogue.runs(), catalogue.points()]
        files = catalogue.export(tmp_path / "out")
        assert [pd.read_parquet(file).shape for file in files] == [(0, 13), (0, 14)]
        survey = catalogue.open_survey(objective, {}, 4)
        progress = catalogue.progress(survey)
        assert (progress.seeds, progress.points, dict(progress.statuses)) == (0, 0, {})
        assert math.isnan(progress.best)
        assert catalogue.thetas_of(survey).shape == (0, 13)
        with pytest.raises(InvalidInputError, match="no runs yet"):
            catalogue.solution(survey)
        catalogue.add_batch(survey, 0, batch(objective, draws(objective, 4, 0)))
        full = [catalogue.objectives(), catalogue.surveys(), catalogue.runs(), catalogue.points()]
    for one, other in zip(empty, full, strict=True):
        assert len(one) == 0
        assert list(one.columns) == list(other.columns)
        numbers = [name for name, kind in other.dtypes.items() if str(kind) not in ("object", "str")]
        assert one.dtypes[numbers].equals(other.dtypes[numbers])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parameters_come_back_bit_for_bit(place: str, dtype: torch.dtype) -> None:
    objective = L2(ParameterSpace({"x": (100_000,)}), 1.0, dtype=dtype)
    theta = draws(objective, 2, 0)
    theta[0, :3] = torch.tensor([5e-40, -0.0, 3.4e38], dtype=dtype)
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 2)
        catalogue.add_batch(survey, 0, batch(objective, theta))
        back = catalogue.thetas_of(survey)
        assert back.dtype == dtype
        assert back.numpy().tobytes() == theta.numpy().tobytes()
        number = catalogue.runs()["point"][1]
        assert catalogue.theta(number).numpy().tobytes() == theta[1].numpy().tobytes()


def test_single_precision_has_a_tolerance_of_its_own(place: str) -> None:
    objective = risk(dtype=torch.float32)
    theta = draws(objective, 1, 0).repeat(2, 1)
    theta[1] += 1e-5
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 2)
        value = objective.value(theta[:1]).expand(2).clone()
        catalogue.add_batch(survey, 0, batch(objective, symmetries_of(objective).moved(theta, 1), value=value))
        assert catalogue.points()["multiplicity"].tolist() == [2]
        assert catalogue.objectives()["tolerance"].tolist() == [1e-3]


def test_the_tolerance_can_be_chosen_once(place: str) -> None:
    objective = risk()
    theta = draws(objective, 1, 0).repeat(2, 1)
    theta[1] += 1e-4
    with Catalogue(place) as catalogue:
        catalogue.add_objective(objective, tolerance=1e-3)
        survey = catalogue.open_survey(objective, {}, 2)
        catalogue.add_batch(survey, 0, batch(objective, theta, value=torch.zeros(2, dtype=torch.float64)))
        assert len(catalogue.points()) == 1
        with pytest.raises(InvalidInputError, match=r"cannot\s+change to 1e-06"):
            catalogue.add_objective(objective, tolerance=1e-6)


def test_export_holds_everything(place: str, tmp_path: Path) -> None:
    objectives: list[Objective] = [risk(), risk("tanh", (1, 4, 2))]  # of different numbers of parameters
    with Catalogue(place) as catalogue:
        for objective in objectives:
            survey = catalogue.open_survey(objective, {}, 6)
            catalogue.add_batch(survey, 0, batch(objective, draws(objective, 6, 0)))
        points, runs = catalogue.export(tmp_path / "out")
        table = parquet.read_table(points).to_pandas()
        pd.testing.assert_frame_equal(table.drop(columns="theta"), catalogue.points(), check_dtype=False)
        for number, theta in zip(table["point"], table["theta"], strict=True):
            assert theta.tobytes() == catalogue.theta(number).numpy().tobytes()
        assert len(parquet.read_table(runs)) == 12
        alone = catalogue.export(tmp_path / "some.parquet", objectives[1])
        assert alone == [tmp_path / "some.parquet"]
        assert len(parquet.read_table(alone[0])) == 6
        assert sorted(path.name for path in tmp_path.rglob("*.parquet*")) == [
            "points.parquet", "runs.parquet", "some.parquet",
        ]  # fmt: skip
        with pytest.raises(InvalidInputError, match="cannot be made"):
            catalogue.export(tmp_path / "some.parquet" / "below")


def test_a_failed_export_leaves_what_was_there(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "points.parquet").write_text("old")
    with Catalogue(place) as catalogue:
        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(CatalogueError, match=r"No space left.*make\s+space"):
            catalogue.export(tmp_path / "points.parquet")
    assert (tmp_path / "points.parquet").read_text() == "old"
    assert not list(tmp_path.glob(".points*"))


def test_refusals_say_what_to_do(place: str) -> None:
    objective = risk()
    with Catalogue(place) as catalogue:
        survey = catalogue.open_survey(objective, {}, 4)
        good = batch(objective, draws(objective, 4, 0), 4)
        for number in (0, 2):
            with pytest.raises(InvalidInputError, match="up to 4 seeds from"):
                catalogue.add_batch(survey, number, good)
        other = risk("tanh", (1, 4, 2))
        longer = batch(other, draws(other, 4, 0))
        with pytest.raises(InvalidInputError, match="about 13 parameters"):
            catalogue.add_batch(survey, 0, longer)
        with pytest.raises(InvalidInputError, match="no survey 99"):
            catalogue.add_batch(99, 0, good)
        with pytest.raises(InvalidInputError, match="no survey 99"):
            catalogue.progress(99)
        with pytest.raises(InvalidInputError, match="no point 5"):
            catalogue.theta(5)
        with pytest.raises(InvalidInputError, match="numbers, texts"):
            catalogue.open_survey(objective, {"model": objective}, 4)
        with pytest.raises(InvalidInputError, match="numbers, texts"):
            catalogue.open_survey(objective, {"rate": math.nan}, 4)
        with pytest.raises(InvalidInputError, match="at least 1 seed"):
            catalogue.open_survey(objective, {}, 0)
        assert len(catalogue.runs()) == 0
    with Catalogue(place) as catalogue, pytest.raises(InvalidInputError, match="open_survey"):
        catalogue.add_batch(survey, 1, good)


def test_batches_are_checked_and_pickle() -> None:
    objective = risk()
    solution = ends(objective, draws(objective, 3, 0))
    again = pickle.loads(pickle.dumps(Batch(torch.arange(3, 6), solution, 1.0, "w")))
    assert torch.equal(again.solution.theta, solution.theta)
    for seeds in (torch.arange(3.0), torch.tensor([1, 3, 4]), torch.arange(2), torch.arange(-1, 2)):
        with pytest.raises(InvalidInputError, match="seeds"):
            Batch(seeds, solution, 1.0, "w")


def test_settings_are_one_text() -> None:
    from thalweg.catalogue.recording import canonical_json

    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert json.loads(canonical_json(SETTINGS)) == SETTINGS
