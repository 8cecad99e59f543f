"""Several checkpoints: the budget is one, and what was found of the first ones is never lost."""

from __future__ import annotations

import pytest
import torch

import thalweg as tw
from thalweg.foundation import ParameterSpace
from thalweg.inspection import Kind, follow_course, inspect_course
from thalweg.inspection import course as module
from thalweg.zoo import Quadratic

QUADRATIC = Quadratic([1.0, 2.0, 3.0], seed=None)
POINTS = [torch.full((3,), value) for value in (3.0, 2.0, 0.0)]


def test_one_verdict_for_each_in_order():
    course = inspect_course(QUADRATIC, POINTS, ["a", "b", "c"])
    assert course.complete
    assert [v.value for v in course.verdicts] == [27.0, 12.0, 0.0]
    assert course.verdicts[-1].kind is Kind.STRICT_MINIMUM
    text = str(course)
    assert "At the last checkpoint, c:" in text
    assert course.verdicts[-1].fingerprint[:16] in text


def test_the_budget_is_for_all_together(monkeypatch):
    """What one leaves over goes to the others: each gets what is left, divided by those to come."""
    given: list[float] = []
    real = module.inspect

    def recorded(objective, *, theta, budget, **settings):
        given.append(budget)
        return real(objective, theta=theta, **settings)

    monkeypatch.setattr(module, "inspect", recorded)
    inspect_course(QUADRATIC, POINTS, budget="60s")
    assert given[0] == pytest.approx(20, rel=0.2)
    assert sum(given[:1]) < 60
    assert given[1] == pytest.approx(30, rel=0.2)
    assert given[2] == pytest.approx(60, rel=0.2)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_before_the_gradient_is_known_keeps_the_checkpoints_before(monkeypatch, at):
    count = iter(range(10))
    real = module.inspect

    def interrupted(*words, **settings):
        if next(count) == at:
            raise KeyboardInterrupt
        return real(*words, **settings)

    monkeypatch.setattr(module, "inspect", interrupted)
    course = inspect_course(QUADRATIC, POINTS)
    assert len(course.verdicts) == at
    assert not course.complete
    assert f"Stopped after {at} of them: interrupted" in str(course)
    assert course.to_dict()["stopped"] == "interrupted"


def test_an_interrupt_in_the_first_goes_to_the_caller(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "inspect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inspect_course(QUADRATIC, POINTS)


def test_a_checkpoint_where_the_loss_is_not_finite_keeps_those_before():
    space = ParameterSpace({"x": (1,)})
    logarithm = tw.Penalty(space, lambda p: (p["x"] - torch.log(p["x"])).sum(), name="logarithm")
    course = inspect_course(logarithm, [torch.ones(1), -torch.ones(1), torch.ones(1)], ["a", "b", "c"])
    assert len(course.verdicts) == 1
    assert course.stopped.startswith("b cannot be inspected: the loss is nan at this point")
    with pytest.raises(tw.InvalidInputError, match="the loss is nan"):
        inspect_course(logarithm, [-torch.ones(1), torch.ones(1)])


def test_objectives_may_differ():
    pairs = [(Quadratic([1.0]), torch.zeros(1)), (Quadratic([-1.0]), torch.zeros(1))]
    kinds = [verdict.kind for verdict in follow_course(pairs, ["up", "down"]).verdicts]
    assert kinds == [Kind.STRICT_MINIMUM, Kind.SADDLE]


def test_misuse_is_refused():
    with pytest.raises(tw.InvalidInputError, match="at least one checkpoint"):
        inspect_course(QUADRATIC, [])
    with pytest.raises(tw.InvalidInputError, match="1 names for 3 checkpoints"):
        inspect_course(QUADRATIC, POINTS, ["a"])
