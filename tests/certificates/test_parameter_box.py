"""Branch and bound: enclosures against Arb and samples, minima against grids, and what must withdraw the claim."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import flint
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Certificate, Level, Outcome, ParameterBox, Scope, certify
from thalweg.certificates.box_intervals import Interval, activate, multiply, total, widened
from thalweg.certificates.box_losses import enclosure_of_loss
from thalweg.certificates.parameter_box import search_box
from thalweg.foundation import InvalidInputError
from thalweg.structure import activation_facts, leaky_relu_facts


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def ask(objective: tw.Objective, **settings: Any) -> Certificate:
    risk = objective.terms[0] if isinstance(objective, tw.SumObjective) else objective
    return certify(objective, risk.initial, [ParameterBox(**settings)])[0]  # type: ignore[attr-defined]


def model_of(*widths: int, activation: nn.Module | None = None, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), activation or nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(draw(70 + number, *p.shape))
    return model


# -- arithmetic --------------------------------------------------------------------------------------------------------


def balls(x: Interval) -> list[Any]:
    return [flint.arb(a).union(flint.arb(b)) for a, b in zip(x.low.tolist(), x.high.tolist(), strict=True)]


def holds(outer: Interval, inner: list[Any]) -> bool:
    """Whether intervals hold Arb's enclosures of the same, taken at single points, where they are tight."""
    return all(a <= float(x.lower()) and float(x.upper()) <= b
               for a, b, x in zip(outer.low.tolist(), outer.high.tolist(), inner, strict=True))  # fmt: skip


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_arithmetic_holds_exact_results(scale: float) -> None:
    a, b = draw(0, 500) * scale, draw(1, 500)
    with flint.ctx.workprec(200):
        exact = [flint.arb(x) * flint.arb(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        sum_of = sum((x for x in exact), flint.arb(0))
        found = multiply(Interval(a, a), Interval(b, b))
        assert holds(found, exact)
        assert holds(total(found, 0).at((1,)), [sum_of])
        plus = widened(a + b, a + b, 0.0)
        assert holds(plus, [flint.arb(x) + flint.arb(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    assert float((found.high - found.low).max()) <= 1e-14 * scale * 30


ARB: dict[str, Callable[[Any], Any]] = {
    "tanh": lambda z: z.tanh(),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "softplus": lambda z: z.exp().log1p(),
    "relu": lambda z: z if z > 0 else flint.arb(0),
    "abs": lambda z: abs(z),
    "sin": lambda z: z.sin(),
    "gelu": lambda z: z * (1 + (z / flint.arb(2).sqrt()).erf()) / 2,
    "silu": lambda z: z / (1 + (-z).exp()),
    "hardtanh": lambda z: flint.arb(1) if z > 1 else flint.arb(-1) if z < -1 else z,
}


@pytest.mark.parametrize("name", ARB)
@pytest.mark.parametrize("width", [0.0, 1e-6, 0.3, 5.0])
def test_activations_hold_values_and_slopes_of_all_points(name: str, width: float) -> None:
    facts = activation_facts(name)
    start = 4 * draw(0, 200)
    z = Interval(start, start + width)
    values, slopes = activate(facts, z)
    inside = [z.low + share * (z.high - z.low) for share in (0.0, 0.21, 0.5, 0.77, 1.0)]
    with flint.ctx.workprec(120):
        for points in inside:
            assert holds(values, [ARB[name](flint.arb(p)) for p in points.tolist()])
    steep = facts.derivative(torch.stack(inside))
    assert bool((slopes.low <= steep + 1e-12).all())
    assert bool((slopes.high >= steep - 1e-12).all())
    for one, other in ((inside[0], inside[4]), (inside[1], inside[2])):  # and all secants, which is what is used
        secant = (facts(other) - facts(one)) / (other - one)
        far = (other - one).abs() > 1e-3
        assert bool(((secant >= slopes.low - 1e-9) & (secant <= slopes.high + 1e-9))[far].all())
    if width == 0:
        assert float((values.high - values.low).max()) < 1e-6


def test_a_leaky_slope_is_either_or_both() -> None:
    facts = leaky_relu_facts(0.25)
    z = Interval(torch.tensor([-2.0, -1.0, 1.0]).double(), torch.tensor([-1.0, 1.0, 2.0]).double())
    slopes = activate(facts, z)[1]
    assert torch.allclose(slopes.low, torch.tensor([0.25, 0.25, 1.0]).double())
    assert torch.allclose(slopes.high, torch.tensor([0.25, 1.0, 1.0]).double())


CLASSES = torch.tensor([1.0, 2.0, 0.5])
LOSSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[], Tensor]]] = {
    "squares": (nn.MSELoss, (1, 1, 1), lambda: draw(5, 6, 1)),
    "labels": (nn.CrossEntropyLoss, (1, 2), lambda: torch.arange(6) % 2),
    "three labels": (lambda: nn.CrossEntropyLoss(weight=CLASSES), (1, 3), lambda: torch.arange(6) % 3),
    "bits": (nn.BCEWithLogitsLoss, (1, 1, 1), lambda: (torch.arange(6) % 2).double().unsqueeze(1)),
    "signs": (nn.SoftMarginLoss, (2, 1), lambda: (2.0 * (torch.arange(6) % 2) - 1).double().unsqueeze(1)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("width", [0.0, 1e-3, 1.0])
def test_values_and_gradients_of_a_box_hold_those_of_its_points(name: str, width: float) -> None:
    make, widths, targets = LOSSES[name]
    weights = draw(6, 6).abs()
    risk = tw.EmpiricalRisk(model_of(*widths), make(), draw(4, 6, widths[0]), targets(), sample_weight=weights)
    objective = risk + tw.L2(risk, 0.1, center=draw(8, risk.space.size))
    case = Case(objective, risk.initial)
    size = risk.space.size
    low = draw(7, 20, size)
    value, gradient = enclosure_of_loss(case, case.dense())(Interval(low, low + width))
    for seed in range(5):
        share = torch.from_numpy(np.random.default_rng(seed).random((20, size)))
        found = objective.evaluate(low + width * share, 1)
        assert found.gradient is not None
        assert bool(((value.low <= found.value + 1e-13) & (found.value <= value.high + 1e-13)).all())
        inside = (gradient.low <= found.gradient + 1e-12) & (found.gradient <= gradient.high + 1e-12)
        assert bool(inside.all())
    if width == 0:
        assert float((value.high - value.low).max()) < 1e-11
        assert float((gradient.high - gradient.low).max()) < 1e-11


# -- the search --------------------------------------------------------------------------------------------------------


def test_a_function_with_two_minima_in_closed_form() -> None:
    """``(x^2 - 1)^2 + x / 5``; the lower minimum is on the left."""

    def enclose(box: Interval) -> tuple[Interval, Interval]:
        x = Interval(box.low[:, 0], box.high[:, 0])
        inner = multiply(x, x)
        inner = widened(inner.low - 1, inner.high - 1, 0.0)
        outer = multiply(inner, inner)
        slope = multiply(Interval(4 * x.low, 4 * x.high), inner)
        slope = widened(slope.low + 0.2, slope.high + 0.2, 0.0)
        tilt = Interval(x.low / 5, x.high / 5)
        return (widened(outer.low + tilt.low, outer.high + tilt.high, 0.0),
                Interval(slope.low.unsqueeze(1), slope.high.unsqueeze(1)))  # fmt: skip

    grid = np.linspace(-3, 3, 600_001)
    truth = ((grid**2 - 1) ** 2 + grid / 5).min()
    found = search_box(enclose, torch.tensor([-3.0]).double(), torch.tensor([3.0]).double(), tolerance=1e-6)
    assert truth - 1e-6 <= found.below <= truth
    assert truth <= found.above + 1e-9
    assert float(found.point) == pytest.approx(-1.0243, abs=1e-3)
    edge = search_box(enclose, torch.tensor([2.0]).double(), torch.tensor([3.0]).double())
    assert edge.below == pytest.approx(9.4, rel=1e-9)  # the least is on a face


def test_ends_that_are_no_numbers_discard_nothing() -> None:
    """Where an overflow makes intervals useless the bound is useless, not false."""

    def enclose(box: Interval) -> tuple[Interval, Interval]:
        nothing = torch.full_like(box.low, math.nan)
        return Interval(nothing[:, 0], nothing[:, 0]), Interval(nothing, nothing)

    found = search_box(enclose, torch.zeros(2).double(), torch.ones(2).double(), boxes=200)
    assert found.below == -math.inf


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "abs"])
def test_minima_against_a_grid(name: str) -> None:
    """Two weights in a row: the loss on a fine grid is nowhere below the bound, and nearly reaches it."""

    class Abs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs()

    modules = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid(), "abs": Abs()}
    model = model_of(1, 1, 1, activation=modules[name], bias=False)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(0, 6, 1), draw(1, 6, 1))
    objective = risk + tw.L2(risk, 0.05)
    found = ask(objective)
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    assert found.scope is Scope.ARCHITECTURE
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    lowest = float(objective.value(torch.cartesian_prod(axis, axis)).min())
    assert found.bound is not None
    assert found.bound <= lowest
    assert found.bound >= 0.98 * lowest
    assert float(objective.value(found.evidence["theta"])) <= float(found.evidence["upper bound"]) * (1 + 1e-12)


def test_four_parameters_are_bounded() -> None:
    risk = tw.EmpiricalRisk(model_of(1, 1, 1), nn.MSELoss(), draw(0, 6, 1), draw(1, 6, 1))
    objective = risk + tw.L2(risk, 0.2)
    found = ask(objective)
    points = 3 * draw(3, 20_000, 4)
    assert found.bound is not None
    assert 0 < found.bound <= float(objective.value(points).min())
    assert found.bound >= 0.5 * float(found.evidence["upper bound"])


def test_a_box_around_the_point_says_nothing_of_the_rest() -> None:
    risk = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.MSELoss(), draw(0, 6, 1), draw(1, 6, 1))
    theta = torch.tensor([5.0, 5.0], dtype=torch.float64)
    (found,) = certify(risk, theta, [ParameterBox(0.5)])
    assert found.scope is Scope.BALL
    near = theta + (torch.rand(5000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5)
    lowest = float(risk.value(near).min())
    assert found.bound is not None
    assert 0.97 * lowest <= found.bound <= lowest
    assert found.bound > float(risk.value(torch.zeros(2, dtype=torch.float64)))  # outside of it the loss is lower
    assert "within 0.5 of these" in found.claim


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales(scale: float) -> None:
    risk = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.MSELoss(reduction="sum"), draw(0, 6, 1), draw(1, 6, 1) * scale)
    objective = risk + tw.L2(risk, 0.1)
    design = torch.cat([draw(0, 6, 1), torch.ones(6, 1, dtype=torch.float64)], 1)
    y = draw(1, 6, 1) * scale
    best = torch.linalg.solve(design.T @ design + 0.05 * torch.eye(2, dtype=torch.float64), design.T @ y)[:, 0]
    truth = float(objective.value(best))
    found = ask(objective)
    if found.established:
        assert found.bound is not None
        assert found.bound <= truth * (1 + 1e-12)
    (near,) = certify(objective, best, [ParameterBox(0.5 * scale)])
    assert near.bound == pytest.approx(truth, rel=0.02)
    assert near.bound is not None
    assert near.bound <= truth * (1 + 1e-12)


# -- what must withdraw it ---------------------------------------------------------------------------------------------


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(1, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) if len(x) <= 4 else torch.tanh(self.map(x))


def test_hypotheses_broken_one_by_one() -> None:
    x, y = draw(0, 12, 1), draw(1, 12, 1)
    risk = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.MSELoss(), x, y)
    assert ask(risk + tw.L2(risk, 0.1)).established
    assert "or a box" in ask(risk).reason
    assert "or a box" in ask(risk + tw.L2(risk, 0.1, "weight")).reason
    reward = tw.Penalty(risk, lambda p: -(p["weight"] ** 2).sum(), name="reward")
    assert ask(risk + tw.L2(risk, 0.1) + reward).outcome is Outcome.NOT_APPLICABLE
    wide = tw.EmpiricalRisk(model_of(2, 2, 1), nn.MSELoss(), draw(0, 12, 2), y)
    assert "at most 4 parameters" in ask(wide + tw.L2(wide, 0.1)).reason
    other = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.HuberLoss(), x, y)
    assert not ask(other + tw.L2(other, 0.1)).established
    sized = tw.EmpiricalRisk(Sized(), nn.MSELoss(), x, y, batch_size=12)
    assert not ask(sized + tw.L2(sized, 0.1)).established
    exact = tw.EmpiricalRisk(nn.Linear(1, 1).double(), nn.MSELoss(), x, 2 * x)
    assert ask(exact, radius=5.0, boxes=2000).outcome is Outcome.UNDECIDED


def test_settings_are_checked() -> None:
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InvalidInputError, match="a radius is positive and finite"):
            ParameterBox(bad)
