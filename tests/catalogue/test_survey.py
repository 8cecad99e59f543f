"""Surveys: what is drawn, what is kept, and what happens when something dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surveyed
import torch
from surveyed import Deadly, fatal_at_eight, mark_eight, slow, student
from torch import nn

import thalweg as tw
from thalweg.catalogue import Catalogue, CatalogueError, confidence_interval, surveying, workers
from thalweg.catalogue.starting import INITIALIZERS, Initializer, starts_of
from thalweg.catalogue.surveying import default_batch_size
from thalweg.catalogue.workers import run_task
from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.solvers.minimize import as_method
from thalweg.solvers.solution import in_batch_shape

SUPPORT = Path(surveyed.__file__).parent


def draw_ones(space: ParameterSpace, generator: torch.Generator) -> torch.Tensor:
    return torch.ones(space.size, dtype=torch.float64)


# -- what is found -----------------------------------------------------------------------------------------------------


def test_a_survey_is_all_its_searches(tmp_path: Path) -> None:
    """Runs, levels and multiplicities are those of the same searches made by hand."""
    objective = student()
    found = tw.survey(objective, 50, storage=tmp_path / "a.db", workers=0, batch_size=16)
    starts = starts_of(objective, INITIALIZERS["glorot"], 0, 0, 50)
    alone = tw.minimize(objective, starts, method="flow")
    assert found.progress.seeds == len(found.runs) == 50
    assert found.runs["seed"].tolist() == list(range(50))
    assert [s.value for s in alone.statuses] == found.runs["status"].tolist()
    assert np.allclose(found.runs["value"], alone.value, rtol=1e-9)
    assert int(found.points["multiplicity"].sum()) == found.progress.converged == int(alone.converged.sum())
    levels = Counter(round(float(value), 8) for value in alone.value[alone.converged])
    assert sorted(levels) == [round(value, 8) for value in found.levels["value"]]
    assert [levels[level] for level in sorted(levels)] == found.levels["runs"].tolist()
    assert float(found.shares["share"].sum()) == pytest.approx(1.0)
    least = torch.linalg.eigvalsh(objective.hessian(Catalogue(tmp_path / "a.db").theta(int(found.points["point"][0]))))
    assert found.points["smallest_eigenvalue"][0] == pytest.approx(float(least[0]), rel=1e-6)


def test_starts_do_not_depend_on_batches() -> None:
    objective = student()
    whole = starts_of(objective, INITIALIZERS["normal"], 3, 0, 7)
    assert torch.equal(whole[4:], starts_of(objective, INITIALIZERS["normal"], 3, 4, 3))
    assert not torch.equal(whole, starts_of(objective, INITIALIZERS["normal"], 4, 0, 7))
    glorot = starts_of(objective, INITIALIZERS["glorot"], 0, 0, 400)
    space = objective.space
    assert not bool(glorot[:, space.slice("0.bias")].any())
    assert float(glorot[:, space.slice("0.weight")].std()) == pytest.approx((2 / 4) ** 0.5, rel=0.1)


def test_more_starts_go_on_and_repeat_nothing(tmp_path: Path) -> None:
    objective, place = student(), tmp_path / "a.db"
    first = tw.survey(objective, 10, storage=place, workers=0, batch_size=8)
    again = tw.survey(objective, 10, storage=place, workers=0, batch_size=8)
    more = tw.survey(objective, 25, storage=place, workers=0, batch_size=8)
    assert again.number == first.number == more.number
    assert again.progress.seconds == first.progress.seconds  # nothing was run
    assert more.runs["seed"].tolist() == list(range(25))
    assert more.runs[:10].equals(first.runs)
    at_once = tw.survey(objective, 25, storage="sqlite://", workers=0, batch_size=8)
    assert np.allclose(at_once.runs["value"], more.runs["value"], rtol=1e-9)
    assert at_once.points["multiplicity"].tolist() == more.points["multiplicity"].tolist()


def test_other_settings_are_another_survey(tmp_path: Path) -> None:
    objective, place = student(), tmp_path / "a.db"
    numbers = {
        tw.survey(objective, 2, storage=place, workers=0, **settings).number
        for settings in ({}, {"seed": 1}, {"method": "newton"}, {"initializer": "normal"}, {"initializer": draw_ones})
    }
    assert len(numbers) == 5
    with pytest.raises(InvalidInputError, match=r"has 2 runs in .* already"):
        tw.survey(objective, 2, storage=place, workers=0, resume=False)


def test_functions_that_differ_only_in_what_they_hold_are_other_surveys(tmp_path: Path) -> None:
    """Two of one source line, and a resolver that is an object: its address must not count, its settings must."""

    def spread(width: float) -> Initializer:
        return lambda space, generator: width * torch.randn(space.size, generator=generator, dtype=torch.float64)

    def number(initializer: Initializer, resolver: Deadly) -> int:
        settings = {"initializer": initializer, "resolver": resolver, "max_iterations": 1, "workers": 0}
        return tw.survey(student(), 2, storage=tmp_path / "a.db", **settings).number

    here, there = tmp_path / "here", tmp_path / "there"
    here.touch()
    there.touch()
    first = number(spread(1.0), Deadly(here))
    assert number(spread(1.0), Deadly(here)) == first
    assert number(spread(2.0), Deadly(here)) != first
    assert number(spread(1.0), Deadly(there)) != first


def test_what_comes_back_while_a_survey_is_stopped_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch ends, and the stop is asked for, while the first is written down; the third never starts."""
    waiting: list[tuple[Future[Any], Any]] = []
    stop, write = threading.Event(), Catalogue.add_batch

    class ByHand(Executor):
        def submit(self, run: Any, /, *task: Any, **_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            waiting.append((future, task[0]))
            if len(waiting) == 1:
                future.set_result(run(*task))
            return future

    def written(self: Catalogue, *batch: Any) -> None:
        write(self, *batch)
        if not stop.is_set():
            stop.set()
            waiting[1][0].set_result(run_task(waiting[1][1]))

    monkeypatch.setattr(Catalogue, "add_batch", written)
    found = tw.survey(
        student(), 6, storage=tmp_path / "a.db", batch_size=2, executor=ByHand, stop_event=stop, max_iterations=1
    )
    assert found.stopped == "interrupted"
    assert found.runs["seed"].tolist() == [0, 1, 2, 3]
    assert waiting[2][0].cancelled()


def test_what_a_person_sees(tmp_path: Path) -> None:
    found = tw.survey(student(3), 40, storage=tmp_path / "a.db", workers=0, max_iterations=30)
    text = found.summary()
    for word in ("Survey of 40 starts", "How runs ended", "Levels", "minimum", "95 % interval", "glorot"):
        assert word in text
    assert "complete" in repr(found)
    titles = [figure.title for figure in found.figures()]
    assert titles == ["Loss levels", "How runs ended", "Gradient and smallest curvature"]
    found.save_html(tmp_path / "page.html")
    assert "Loss levels" in (tmp_path / "page.html").read_text()
    unfinished = tw.survey(student(3), 40, storage=tmp_path / "b.db", workers=0, max_iterations=1)
    assert unfinished.progress.converged == 0
    assert unfinished.report() is not None
    assert len(unfinished.levels) == 0


def test_confidence_intervals_hold_the_truth() -> None:
    """Wilson's interval, from its definition: the shares p with |k/n - p| <= z sqrt(p (1 - p) / n)."""
    z = 1.959963984540054
    for k, n in ((0, 7), (3, 7), (7, 7), (40, 1000)):
        for end in confidence_interval(k, n):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5, abs=1e-9)


# -- what dies ---------------------------------------------------------------------------------------------------------


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    alone = tw.survey(student(), 24, storage=tmp_path / "a.db", workers=0, batch_size=8)
    two = tw.survey(student(), 24, storage=tmp_path / "b.db", workers=2, batch_size=8)
    assert two.runs["seed"].tolist() == list(range(24))
    assert two.runs["status"].tolist() == alone.runs["status"].tolist()
    assert np.allclose(two.runs["value"], alone.runs["value"], rtol=1e-9)
    assert two.levels["runs"].tolist() == alone.levels["runs"].tolist()


def test_a_dead_worker_costs_no_batch(tmp_path: Path) -> None:
    deadly = Deadly(tmp_path / "flag")
    found = tw.survey(
        student(), 12, storage=tmp_path / "a.db", workers=2, batch_size=4, max_iterations=1, resolver=deadly
    )
    assert (tmp_path / "flag").exists(), "no worker died"
    assert found.runs["seed"].tolist() == list(range(12))
    assert found.stopped is None


@pytest.mark.soak
def test_a_batch_that_kills_every_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "_DEATHS", 1)
    deadly = Deadly(tmp_path / "flag", always=True)
    with pytest.raises(CatalogueError, match=r"batch 0 \(starts 0 to 3\) ended its worker 2 times"):
        tw.survey(student(), 4, storage=tmp_path / "a.db", workers=1, batch_size=4, max_iterations=1, resolver=deadly)
    assert Catalogue(tmp_path / "a.db").progress(1).seeds == 0


@pytest.mark.soak
def test_the_batch_to_blame_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    """Four batches in flight, one of which ends every worker that touches it."""
    with pytest.raises(CatalogueError, match=r"batch 2 \(starts 8 to 11\) ended its worker 4 times"):
        tw.survey(
            student(), 16, storage=tmp_path / "a.db", workers=2, batch_size=4, max_iterations=1, initializer=mark_eight,
            resolver=fatal_at_eight,
        )  # fmt: skip
    kept = Catalogue(tmp_path / "a.db").runs(survey=1)["seed"].tolist()
    assert kept == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15]


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, surveyed.__file__, place], env=environment)
    deadline = time.monotonic() + 60
    seeds = 0
    while seeds < 8 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.05)
        if place.exists():
            try:
                with Catalogue(place, create=False) as catalogue:
                    seeds = catalogue.progress(1).seeds
            except (CatalogueError, InvalidInputError):  # not made yet
                continue
    workers = _children(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert 8 <= seeds < 64, "it was not killed in the middle"
    with Catalogue(place) as catalogue:
        before = catalogue.runs(survey=1)
    found = tw.survey(student(), 64, storage=place, workers=0, batch_size=4, max_iterations=2, resolver=slow)
    assert found.number == 1
    assert found.runs["seed"].tolist() == list(range(64))
    kept = found.runs[found.runs["seed"].isin(before["seed"])].reset_index(drop=True)
    assert kept.equals(before)
    assert workers, "the driver had no workers"
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in workers), "workers outlive their driver"


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_two_surveys_fill_one_catalogue(tmp_path: Path) -> None:
    """Two drivers at once on one survey, and a third on another: nothing lost, nothing doubled."""
    place = tmp_path / "a.db"
    tw.survey(student(), 1, storage=place, workers=0, batch_size=4)  # the file is there

    def run(seed: int) -> None:
        tw.survey(student(), 20, storage=place, workers=0, batch_size=4, seed=seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Catalogue(place) as catalogue:
        for survey in (1, 2):
            assert catalogue.runs(survey=survey)["seed"].tolist() == list(range(20))
        runs, points = catalogue.runs(), catalogue.points()
    assert int(points["multiplicity"].sum()) == int(runs["point"].notna().sum())


def test_dask_finds_the_same_and_bears_a_dead_worker(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    alone = tw.survey(student(), 24, storage=tmp_path / "a.db", workers=0, batch_size=4)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(sys.path.append, str(SUPPORT))
        found = tw.survey(student(), 24, storage=tmp_path / "b.db", batch_size=4, executor=client.get_executor)
        deadly = Deadly(tmp_path / "flag")
        hurt = tw.survey(
            student(), 12, storage=tmp_path / "b.db", batch_size=4, max_iterations=1, resolver=deadly,
            executor=client.get_executor,
        )  # fmt: skip
    assert found.runs["status"].tolist() == alone.runs["status"].tolist()
    assert np.allclose(found.runs["value"], alone.runs["value"], rtol=1e-9)
    assert found.levels["runs"].tolist() == alone.levels["runs"].tolist()
    assert (tmp_path / "flag").exists(), "no worker died"
    assert hurt.runs["seed"].tolist() == list(range(12))


def test_time_and_interrupts_keep_what_is_done(tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    found = tw.survey(
        student(), 400, storage=place, workers=0, batch_size=4, max_iterations=1, resolver=slow, time_budget=1.0
    )
    assert found.stopped == "time limit"
    assert 0 < found.progress.seeds < 400
    assert "NOT COMPLETE" in repr(found)
    assert "time limit" in found.summary()
    stop = threading.Event()
    stop.set()
    nothing = tw.survey(student(), 8, storage="sqlite://", workers=0, stop_event=stop)
    assert nothing.stopped == "interrupted"
    assert nothing.progress.seeds == 0
    assert "interrupted" in nothing.summary()


# -- what makes no sense -----------------------------------------------------------------------------------------------


def test_what_makes_no_sense(tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    for settings, message in (
        ({"starts": 0}, "starts must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"workers": -1}, "workers must be a whole number"),
        ({"method": "simplex"}, "no method 'simplex'"),
        ({"initializer": "he"}, "no initializer 'he'; there are 'glorot', 'normal'"),
        ({"initializer": lambda space, generator: torch.ones(3)}, "finite numbers of shape (9,), got (3,)"),
        ({"initializer": lambda space, generator: torch.full((9,), torch.nan)}, "NaN or infinite"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            tw.survey(student(), **{"starts": 4, "storage": place, "workers": 0, **settings})
        assert message in str(caught.value)
    with pytest.raises(InvalidInputError, match="an objective is needed, got Linear"):
        tw.survey(torch.nn.Linear(2, 1), 4, storage=place)  # type: ignore[arg-type]
    local = tw.Penalty(ParameterSpace({"x": (1, 1)}), lambda p: p["x"].square().sum(), name="bowl")
    with pytest.raises(InvalidInputError, match=r"workers=0|top level"):
        tw.survey(local, 4, storage=place, workers=1)


def test_a_batch_interrupted_in_this_process_is_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its searches ended early: written down, their seeds would never be searched to the end."""
    calls = []

    def interrupted_once(*given: Any, **named: Any) -> tw.Solution:
        calls.append(1)
        found = tw.minimize(*given, **named)
        if len(calls) == 2:  # what Ctrl-C does inside of a search: it returns what it has
            found = replace(found, status=in_batch_shape([tw.Status.INTERRUPTED] * 8, (8,)))
        return found

    monkeypatch.setattr(workers, "minimize", interrupted_once)
    first = tw.survey(student(), 24, storage=tmp_path / "a.db", workers=0, batch_size=8)
    assert first.stopped == "interrupted"
    assert len(first.runs) == 8
    whole = tw.survey(student(), 24, storage=tmp_path / "a.db", workers=0, batch_size=8)
    assert whole.stopped is None
    assert sorted(whole.runs["seed"]) == list(range(24))
    assert "interrupted" not in set(whole.runs["status"])


@pytest.mark.parametrize(
    ("samples", "width", "size"), [(100, 2, 256), (2048, 2, 256), (4096, 2, 128), (10_201, 2, 32), (10**6, 2, 16)]
)
def test_batches_are_small_where_data_are_many(samples: int, width: int, size: int) -> None:
    """A batch is what an interruption may lose."""
    x = torch.zeros(samples, 1, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, x)
    assert default_batch_size(risk, as_method("flow")) == size
    assert default_batch_size(risk + tw.NormBarrier(risk), as_method("flow")) == size
