"""Ends at infinity are points of a catalogue too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from channel_cases import toy
from sqlalchemy import text

import thalweg as tw
from thalweg.catalogue import Batch, Catalogue, survey
from thalweg.foundation import InvalidInputError
from thalweg.solvers import Solution, Status, random_starts
from thalweg.symmetry import channel_resolver, limit_objective, resolve_channel

LEVELS = (0.00077333254158, 0.0423721519592)  # of the toy at infinity, by quadrature


@pytest.fixture(scope="module")
def found() -> tuple[tw.EmpiricalRisk, Solution]:
    risk = toy()
    return risk, tw.minimize(risk, random_starts(risk.space, 40, 0), resolver=channel_resolver)


def filled(place: str | Path, found: tuple[tw.EmpiricalRisk, Solution]) -> Catalogue:
    """A catalogue that was written in two batches."""
    risk, solution = found
    catalogue = Catalogue(place)
    number = catalogue.open_survey(risk, {"method": "newton", "initializer": "any"}, 25)
    catalogue.add_batch(number, 0, Batch(torch.arange(25), part(solution, 0, 25), 1.0, "here:1"))
    catalogue.add_batch(number, 1, Batch(torch.arange(25, 40), part(solution, 25, 40), 1.0, "here:1"))
    return catalogue


def part(solution: Solution, first: int, last: int) -> Solution:
    from thalweg.solvers.minimize import _subset

    return _subset(solution, list(range(first, last)))


def test_runs_that_share_an_end_share_a_point(found: tuple[tw.EmpiricalRisk, Solution]) -> None:
    _, solution = found
    with filled("sqlite://", found) as catalogue:
        points, runs = catalogue.points(), catalogue.runs()
        limits = points[points["at_infinity"]]
        assert set(limits["kind"]) == {"minimum at infinity"}
        assert limits["value"].tolist() == pytest.approx(LEVELS, abs=1e-11)
        for level, number, count in zip(LEVELS, limits["point"], limits["multiplicity"], strict=True):
            alike = (solution.limit - level).abs() < 1e-9
            assert count == int(alike.sum()) > 2
            assert runs["seed"][runs["point"] == number].tolist() == alike.nonzero().squeeze(1).tolist()
        assert not points["at_infinity"][points["kind"] == "minimum"].any()
        assert catalogue.progress(1).best == pytest.approx(min(points["value"]))
        again = catalogue.solution(1)
    assert torch.equal(torch.isnan(again.limit), torch.isnan(solution.limit))
    assert torch.allclose(again.limit.nan_to_num(), solution.limit.nan_to_num(), rtol=1e-12)
    assert [status is Status.CHANNEL for status in again.statuses] == [end is not None for end in again.ends]


def test_the_network_at_a_limit_point(found: tuple[tw.EmpiricalRisk, Solution]) -> None:
    risk, _ = found
    with filled("sqlite://", found) as catalogue:
        number = int(catalogue.points().query("at_infinity")["point"].iloc[0])
        end = catalogue.limit_point(number)
        assert torch.equal(catalogue.theta(number), end.theta)
        with pytest.raises(InvalidInputError, match="is not at infinity"):
            catalogue.limit_point(int(catalogue.points().query("not at_infinity")["point"].iloc[0]))
        with pytest.raises(InvalidInputError, match="no point 999"):
            catalogue.limit_point(999)
    form = limit_objective(risk, end)
    assert float(form.value(end.theta)) == pytest.approx(LEVELS[0], abs=1e-11)
    outputs = form.network_at(end.theta)(risk.inputs).detach()
    assert float((outputs - risk.targets).square().mul(risk.factors.unsqueeze(1)).sum()) == pytest.approx(
        LEVELS[0], abs=1e-11
    )
    other = tw.EmpiricalRisk(torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)),
                             torch.nn.MSELoss(), risk.inputs, risk.targets)  # fmt: skip
    with pytest.raises(InvalidInputError, match="has 4 parameters, the channels of this network 10"):
        limit_objective(other, end)
    with pytest.raises(InvalidInputError, match="does not say 'sizes'"):
        limit_objective(risk, type(end)(0.0, 0.0, 0, "somewhere", end.theta, {}, end.signature))


def test_an_older_catalogue_learns_of_limits(tmp_path: Path, found: tuple[tw.EmpiricalRisk, Solution]) -> None:
    """A catalogue without these columns: as the first layout was."""
    risk, solution = found
    file = tmp_path / "old.db"
    one = solution.statuses.index(Status.CONVERGED)
    with Catalogue(file) as catalogue:
        number = catalogue.open_survey(risk, {"method": "newton", "initializer": "any"}, 1)
        catalogue.add_batch(number, 0, Batch(torch.arange(1), part(solution, one, one + 1), 1.0, "here:1"))

        def older(connection: object) -> None:
            for column in ("form", "signature"):
                connection.execute(text(f"ALTER TABLE points DROP COLUMN {column}"))  # type: ignore[attr-defined]
            connection.execute(text("UPDATE thalweg_catalogue SET schema_version = 1"))  # type: ignore[attr-defined]

        catalogue._storage.write(older)
    with Catalogue(file) as catalogue:
        assert catalogue.points()["at_infinity"].tolist() == [False]
        number = catalogue.open_survey(risk, {"method": "newton", "initializer": "any"}, 25)
        catalogue.add_batch(number, 0, Batch(torch.arange(25), part(solution, 0, 25), 1.0, "here:1"))
        assert catalogue.points()["at_infinity"].sum() == 2


def test_two_channels_with_one_loss_are_two_points() -> None:
    """A target that is even in two inputs alike: the channels of either input reach the same loss."""
    x = torch.linspace(-2, 2, 21, dtype=torch.float64)
    grid = torch.cartesian_prod(x, x)
    target = (torch.tanh(3 * grid + 2) + torch.tanh(3 * grid - 2)).sum(1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Tanh(), torch.nn.Linear(2, 1, bias=False))
    risk = tw.EmpiricalRisk(model, torch.nn.MSELoss(), grid, target)
    first = torch.tensor([1.9, 0.0, 1.7, 0.0, -10.0, 12.0], dtype=torch.float64)
    second = torch.tensor([0.0, 1.9, 0.0, 1.7, -10.0, 12.0], dtype=torch.float64)
    found = tw.minimize(risk, torch.stack([first, second, first]), resolver=channel_resolver)
    assert [end is not None for end in found.ends] == [True] * 3
    assert float((found.limit - found.limit[0]).abs().max()) < 1e-9
    with Catalogue("sqlite://") as catalogue:
        number = catalogue.open_survey(risk, {"method": "newton"}, 3)
        catalogue.add_batch(number, 0, Batch(torch.arange(3), found, 1.0, "here:1"))
        same = torch.allclose(found.ends[0].signature, found.ends[1].signature, atol=1e-6)
        assert catalogue.points()["multiplicity"].sum() == 3
        assert len(catalogue.points()) == (1 if same else 2)


def test_a_survey_shows_them(tmp_path: Path) -> None:
    risk = toy()
    found = survey(risk, 24, storage=tmp_path / "toy.db", workers=0, resolver=channel_resolver, progress=False)
    kinds = set(found.levels["kind"])
    assert "minimum at infinity" in kinds
    assert "minimum at infinity" in found.summary()
    names = {series.name for series in found.levels_figure().series}
    assert "minimum at infinity" in names
    assert not any("on the way to infinity" in name for name in names)


def test_an_end_by_itself_is_a_point_as_well() -> None:
    risk = toy()
    theta = torch.tensor([1.9, 1.7, -10.0, 12.0], dtype=torch.float64)
    channel = resolve_channel(risk, theta)
    end = channel.limit_point()
    assert end.value == channel.value
    assert repr(end).startswith("<minimum at infinity: 0.0")
    assert torch.equal(limit_objective(risk, end).outputs(end.theta), channel.network()(risk.inputs).detach())
