"""Several writers, writers that die, and storage that fails: what was committed stays, and nothing is counted twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import catalogue_cases
import pytest
import torch
from catalogue_cases import batch, bowl, draws, pooled_batch, risk, write_surveys
from sqlalchemy import text

from thalweg.catalogue import Catalogue, CatalogueError

SUPPORT = str(Path(catalogue_cases.__file__).parent)


@pytest.fixture(scope="module")
def drivers() -> Iterator[ProcessPoolExecutor]:
    """Two processes of their own."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_processes_lose_nothing_and_count_nothing_twice(place: str, drivers: ProcessPoolExecutor) -> None:
    pool, size, many = 4, 6, 12
    forward = list(range(many))
    jobs = [  # the first survey from both ends, meeting in between; of the second, one writes a part of what both do
        [("a", forward), ("b", forward[::2])],
        [("a", forward[::-1]), ("b", forward)],
    ]
    futures = [drivers.submit(write_surveys, place, job, pool, size) for job in jobs]  # they make the tables, too
    wrote = [future.result(timeout=120) for future in futures]
    with Catalogue(place, create=False) as catalogue:
        surveys = catalogue.surveys()
        assert surveys["seeds"].tolist() == [many * size] * 2
        assert len(catalogue.objectives()) == 1
        runs, points = catalogue.runs(), catalogue.points()
        for survey in surveys["survey"]:
            assert runs[runs["survey"] == survey]["seed"].tolist() == list(range(many * size))
            assert catalogue.thetas_of(survey).shape == (many * size, 13)
        for which in (0, 1):  # every batch was written by exactly one of the two
            pairs = [zip(jobs[who][which][1], wrote[who][which], strict=True) for who in (0, 1)]
            assert sorted(number for pair in pairs for number, new in pair if new) == forward
        assert len(points) == pool
        converged = 2 * sum(seed % 5 != 4 for seed in range(many * size))
        assert points["multiplicity"].sum() == (runs["status"] == "converged").sum() == converged
        counted = runs["point"].dropna().value_counts().to_dict()
        assert counted == dict(zip(points["point"], points["multiplicity"], strict=True))


DYING = """
    import os, signal, sys
    sys.path.insert(0, {support!r})
    from catalogue_cases import bowl, pooled_batch
    from thalweg.catalogue import Catalogue, recording

    catalogue = Catalogue({place!r})
    survey = catalogue.open_survey(bowl(), {{}}, 10)
    for number in range(2):
        assert catalogue.add_batch(survey, number, pooled_batch(bowl(), number, 3, 10))
    recording.Recording._run_rows = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # points and theta are in, runs not
    catalogue.add_batch(survey, 2, pooled_batch(bowl(), 2, 3, 10))
"""


def test_a_writer_killed_in_the_middle_leaves_whole_batches(place: str) -> None:
    code = textwrap.dedent(DYING.format(support=SUPPORT, place=place))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    with Catalogue(place, create=False) as catalogue:
        survey = catalogue.open_survey(bowl(), {}, 10)
        assert catalogue.finished_batches(survey) == {0, 1}
        assert len(catalogue.runs()) == 20
        assert catalogue.points()["multiplicity"].sum() == 16
        started = time.perf_counter()
        assert catalogue.add_batch(survey, 2, pooled_batch(bowl(), 2, 3, 10))  # no lock is left behind
        assert time.perf_counter() - started < 10
        assert catalogue.points()["multiplicity"].sum() == 24
        assert len(catalogue.points()) == 3


@contextlib.contextmanager
def _little_space(folder: Path) -> Iterator[tuple[Path, contextlib.ExitStack]]:
    """A folder with space for a few batches, and what makes more when it is closed."""
    more = contextlib.ExitStack()
    mounted = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if mounted:
        more.callback(subprocess.run, ["mount", "-o", "remount,size=64m", folder], check=True)
    else:  # no disk of our own: files may not grow beyond a size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, hard))
        more.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
    try:
        yield folder, more
    finally:
        more.close()
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("means", ["disk", "file size"])
def test_a_full_disk_is_said_and_survived(means: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if means == "file size":
        monkeypatch.setattr(os, "getuid", lambda: 1)
    objective = bowl(5000)

    def one(number: int) -> catalogue_cases.Batch:
        return batch(objective, draws(objective, 4, number), 4 * number)  # some 320 KiB with its points

    with _little_space(tmp_path) as (folder, more), Catalogue(folder / "full.db") as catalogue:
        survey = catalogue.open_survey(objective, {}, 4)
        done = 0
        with pytest.raises(CatalogueError, match=r"committed so far is safe.*make\s+space") as error:  # noqa: PT012
            while done < 40:
                assert catalogue.add_batch(survey, done, one(done))
                done += 1
        assert done >= 1
        assert "full.db cannot be written" in str(error.value)
        assert catalogue.finished_batches(survey) == set(range(done))
        assert torch.equal(catalogue.thetas_of(survey), torch.cat([draws(objective, 4, n) for n in range(done)]))
        more.close()
        assert catalogue.add_batch(survey, done, one(done))
        assert catalogue.finished_batches(survey) == set(range(done + 1))
        assert catalogue.points()["multiplicity"].sum() == len(catalogue.points()) == 4 * (done + 1)


def test_a_lost_server_is_said_and_found_again(postgres: str) -> None:
    objective = risk()
    with Catalogue(postgres) as catalogue, Catalogue(postgres) as other:
        survey = catalogue.open_survey(objective, {}, 10)
        assert catalogue.add_batch(survey, 0, pooled_batch(objective, 0, 3, 10))

        def cut_off(connection: object) -> None:
            end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            other._storage.read(lambda c: c.execute(end).all())
            connection.execute(text("SELECT 1"))  # type: ignore[attr-defined]

        with pytest.raises(CatalogueError, match=r"nothing of this call was kept.*see that the database runs"):
            catalogue._storage.write(cut_off)
        assert catalogue.finished_batches(survey) == {0}
        assert catalogue.add_batch(survey, 1, pooled_batch(objective, 1, 3, 10))


def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    objective = risk()
    with Catalogue(tmp_path / "c.db") as catalogue:
        survey = catalogue.open_survey(objective, {}, 10)
        catalogue._storage.write(lambda c: None)
        with pytest.raises(CatalogueError, match=r"readonly.*permissions"):
            catalogue._storage.write(
                lambda c: (c.exec_driver_sql("PRAGMA query_only = ON"), c.exec_driver_sql("DELETE FROM runs"))
            )
        assert catalogue.add_batch(survey, 0, pooled_batch(objective, 0, 3, 10))
