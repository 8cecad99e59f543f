"""Which certifiers are asked, what they may cost, and what becomes of those that fail."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.certificates import (
    Case,
    Certificate,
    Certifier,
    ClaimKind,
    Hypothesis,
    Level,
    Outcome,
    Scope,
    State,
    Work,
    certify,
    register_certifier,
    registered_certifiers,
)
from thalweg.certificates import registry as registry_module
from thalweg.foundation import (
    InvalidInputError,
    MemoryLimitError,
    NotApplicableError,
    ParameterSpace,
    RunControl,
    memory_limit,
)
from thalweg.objectives import L2

BOWL = L2(ParameterSpace({"x": (2,)}), 1.0)
HERE = torch.zeros(2, dtype=torch.float64)


class Own(Certifier):
    """A user's certifier: the loss is a bowl."""

    name: ClassVar[str] = "own"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "a user"
    stage: ClassVar[int] = 1

    def __init__(self, work: Work | None = None, error: BaseException | None = None, met: bool = True) -> None:
        self.cost, self.error, self.met, self.asked = work or Work(), error, met, 0

    def work(self, case: Case) -> Work:
        return self.cost

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        self.asked += 1
        if self.error is not None:
            raise self.error
        state = State.PROVED if self.met else State.NOT_MET
        hypothesis = Hypothesis("it is a bowl", state, note="one sees it")
        return self.claimed("nothing is below zero", level=Level.RIGOROUS, bound=0.0, hypotheses=[hypothesis])


@pytest.fixture(autouse=True)
def _registry_stays() -> Iterator[None]:
    before = dict(registry_module._REGISTERED)
    yield
    registry_module._REGISTERED.clear()
    registry_module._REGISTERED.update(before)


def test_a_users_certifier_is_asked_by_name_and_among_all() -> None:
    own = register_certifier(Own())
    assert own in registered_certifiers()
    (found,) = certify(BOWL, HERE, ["own"])
    assert found.established
    assert found.bound == 0
    everything = certify(BOWL, HERE)
    assert everything[0].name == "own"
    assert len(everything) == len(registered_certifiers())

    class Other(Own):
        pass

    with pytest.raises(InvalidInputError, match="a certifier named 'own' already"):
        register_certifier(Other())


def test_a_hypothesis_not_met_withdraws_the_claim() -> None:
    (found,) = certify(BOWL, HERE, [Own(met=False)])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert found.reason == "it needs that it is a bowl (one sees it)"
    assert found.level is None
    assert found.bound is None


def test_unknown_names_are_told() -> None:
    with pytest.raises(InvalidInputError, match=r"no certificate is named 'collision'; there are .*label collisions"):
        certify(BOWL, HERE, ["collision"])


def test_errors_of_the_family_become_outcomes() -> None:
    (found,) = certify(BOWL, HERE, [Own(error=NotApplicableError("no network"))])
    assert (found.outcome, found.reason) == (Outcome.NOT_APPLICABLE, "no network")
    (found,) = certify(BOWL, HERE, [Own(error=MemoryLimitError("a matrix", 2**40, 2**30, "Less."))])
    assert found.outcome is Outcome.NOT_ATTEMPTED
    assert "a matrix would need" in found.reason
    with pytest.raises(ZeroDivisionError):  # mistakes are not hidden
        certify(BOWL, HERE, [Own(error=ZeroDivisionError())])


def test_what_costs_too_much_is_declined_with_its_cost() -> None:
    dear = Own(Work(flops=1e18))
    (found,) = certify(BOWL, HERE, [dear])
    assert found.outcome is Outcome.NOT_ATTEMPTED
    assert "it would take about" in found.reason
    assert "1.0e+18 operations" in found.reason
    assert dear.asked == 0
    assert found.work == Work(flops=1e18)
    wide = Own(Work(bytes=2**33))
    with memory_limit("1GiB"):
        (found,) = certify(BOWL, HERE, [wide])
    assert found.outcome is Outcome.NOT_ATTEMPTED
    assert "8.0 GiB, and requests are limited to" in found.reason
    assert wide.asked == 0


def test_a_budget_allows_more_or_less() -> None:
    seconds = 1e6 / registry_module.flops_per_second()
    work = Work(flops=1e6 * 3600 / seconds)  # an hour
    assert certify(BOWL, HERE, [Own(work)])[0].outcome is Outcome.NOT_ATTEMPTED
    assert certify(BOWL, HERE, [Own(work)], budget="2h")[0].established
    assert certify(BOWL, HERE, [Own(Work(flops=1e6))], budget="1s")[0].established
    assert certify(BOWL, HERE, [Own(work)], budget="10s")[0].outcome is Outcome.NOT_ATTEMPTED


def test_of_all_none_may_take_more_than_half_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(number: float) -> Own:
        return Own(Work(flops=number * registry_module.flops_per_second()))

    for taken, budget, allowed in ((40.0, None, False), (20.0, None, True), (40.0, 100.0, True), (60.0, 100.0, False)):
        monkeypatch.setattr(registry_module, "_REGISTERED", {"own": seconds(taken)})
        (found,) = certify(BOWL, HERE, budget=budget)
        assert found.established is allowed, (taken, budget, found.reason)
    monkeypatch.setattr(registry_module, "_REGISTERED", {"own": seconds(200.0)})
    long_run = RunControl(None, None, started=time.monotonic() - 500)
    assert certify(BOWL, HERE, control=long_run)[0].established  # a run that takes minutes may prove for minutes
    assert not certify(BOWL, HERE)[0].established


def test_an_interrupt_keeps_what_was_proved() -> None:
    first, second, third = Own(), Own(error=KeyboardInterrupt()), Own()
    found = certify(BOWL, HERE, [first, second, third])
    assert [c.outcome for c in found] == [Outcome.ESTABLISHED, Outcome.NOT_ATTEMPTED, Outcome.NOT_ATTEMPTED]
    assert found[1].reason == found[2].reason == "interrupted"
    assert third.asked == 0


def test_points_that_cannot_be_certified_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="certificates are made at one point"):
        certify(BOWL, torch.zeros(3, 2, dtype=torch.float64))
    risk = tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), torch.ones(2, 2), torch.ones(2, 1), dtype=torch.float32)
    with pytest.raises(InvalidInputError, match="need an objective in float64"):
        certify(risk, risk.initial)


def test_a_gradient_that_does_not_vanish_refutes_and_one_that_does_says_nothing() -> None:
    (found,) = certify(BOWL, torch.tensor([3.0, 4.0], dtype=torch.float64), ["gradient"])
    assert found.established
    assert found.kind is ClaimKind.NOT_A_MINIMUM
    direction = found.evidence["direction"]
    assert isinstance(direction, torch.Tensor)
    there = torch.tensor([3.0, 4.0], dtype=torch.float64) + 1e-3 * direction
    assert float(BOWL.value(there)) < 12.5
    assert certify(BOWL, HERE, ["gradient"])[0].outcome is Outcome.UNDECIDED


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_gradient_of_rounding_refutes_nothing(scale: float) -> None:
    """At the computed solution of least squares the gradient is what rounding leaves."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=generator).double() * scale, torch.randn(40, 1, generator=generator).double()
    risk = tw.EmpiricalRisk(nn.Linear(3, 1), nn.MSELoss(), x, y)
    design = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(design, y).solution[:, 0]
    assert certify(risk, best, ["gradient"])[0].outcome is Outcome.UNDECIDED
    assert certify(risk, best * (1 + 1e-6), ["gradient"])[0].established
