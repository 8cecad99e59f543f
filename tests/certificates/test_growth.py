"""Bounds of the derivatives of networks, against derivatives along sampled directions at sampled points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case
from thalweg.certificates.activation_bounds import third_derivative_bound
from thalweg.certificates.curvature_change import hessian_lipschitz
from thalweg.certificates.growth import growth
from thalweg.foundation import NotApplicableError
from thalweg.structure import activation_facts, registered_activations


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETWORKS = {
    "one hidden layer": lambda: nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)),
    "no biases": lambda: nn.Sequential(nn.Linear(2, 5, bias=False), nn.Sigmoid(), nn.Linear(5, 1, bias=False)),
    "deep": lambda: nn.Sequential(
        nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)
    ),
    "activated output": lambda: nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 2), nn.Tanh()),
    "linear": lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 1)),
}


def seeded(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NETWORKS[name]()


def derivatives(risk: tw.EmpiricalRisk, theta: Tensor, direction: Tensor) -> list[Tensor]:
    """Norms of the first three derivatives of each sample's outputs along a direction."""
    (chunk,) = risk.chunks(risk.n_samples)

    def along(step: Tensor) -> Tensor:
        return risk.chunk_outputs(theta + step * direction, chunk)

    found, function = [], along
    for _ in range(3):
        inner = function
        function = lambda t, inner=inner: torch.func.jvp(inner, (t,), (torch.ones_like(t),))[1]  # noqa: E731
        found.append(function(torch.zeros((), dtype=torch.float64)).norm(dim=1))
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("radius", [0.0, 0.5])
def test_no_derivative_in_the_ball_exceeds_its_bound(name: str, radius: float) -> None:
    outputs = risk_outputs(name)
    risk = tw.EmpiricalRisk(seeded(name), nn.MSELoss(), draw(4, 2), torch.zeros(4, outputs))
    bounds = growth(Case(risk, risk.initial).dense(), risk.initial, risk.inputs, radius, order=3)
    assert bounds.third is not None
    size = risk.space.size
    nearest = torch.zeros(3, dtype=torch.float64)
    for seed in range(40):
        direction = nn.functional.normalize(draw(size, seed=seed), dim=0)
        away = radius * nn.functional.normalize(draw(size, seed=seed + 500), dim=0)
        for order, seen in enumerate(derivatives(risk, risk.initial + away, direction)):
            bound = (bounds.first, bounds.second, bounds.third)[order]
            assert (seen <= bound * (1 + 1e-12)).all()
            nearest[order] = max(nearest[order], float((seen / bound.clamp_min(1e-300)).max()))
    assert nearest[0] > 0.02


def risk_outputs(name: str) -> int:
    return {"no biases": 1, "linear": 1}.get(name, 2)


def test_one_hidden_layer_in_closed_form() -> None:
    """``p/2 + sqrt(p^2/4 + q^2)`` with ``p = max|a| s2 |x|^2`` and ``q = s1 |x|``, below ``p + q``."""
    risk = tw.EmpiricalRisk(seeded("no biases"), nn.MSELoss(), draw(4, 2), torch.zeros(4, 1))
    found = growth(Case(risk, risk.initial).dense(), risk.initial, risk.inputs, 0.25).second
    facts, outer = activation_facts("sigmoid"), risk.space.unflatten(risk.initial)["2.weight"]
    p = (float(outer.abs().max()) + 0.25) * facts.curvature * risk.inputs.norm(dim=1) ** 2
    q = facts.lipschitz * risk.inputs.norm(dim=1)
    assert torch.allclose(found, p / 2 + (p**2 / 4 + q**2).sqrt(), rtol=1e-8)
    assert (found <= p + q).all()


def test_the_bound_of_the_second_derivative_is_nearly_reached() -> None:
    """One unit at the steepest bend of its tanh: the bound is no bound in name only."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), torch.ones(2, 1) * 3, torch.zeros(2, 1))
    theta = torch.tensor([math.atanh(1 / math.sqrt(3)) / 3, 2.0], dtype=torch.float64)
    bound = float(growth(Case(risk, theta).dense(), theta, risk.inputs, 0.0).second[0])
    seen = max(
        float(derivatives(risk, theta, torch.tensor([math.cos(a), math.sin(a)]).double())[1][0])
        for a in torch.linspace(0, math.pi, 200).tolist()
    )
    assert 0.9 * bound < seen <= bound


def test_third_derivatives_of_activations() -> None:
    z = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    declared = 0
    for facts in registered_activations():
        try:
            bound = third_derivative_bound(facts)
        except NotApplicableError:
            continue
        seen = float(facts.derivative(z, 3).abs().max())
        assert seen <= bound
        assert seen > 0.9999 * bound or facts.linear
        declared += 1
    assert declared >= 15


CASES = {
    "squares": (nn.MSELoss(), draw(5, 2)),
    "labels": (nn.CrossEntropyLoss(), torch.tensor([0, 1, 1, 0, 1])),
    "bits": (nn.BCEWithLogitsLoss(), draw(5, 2).sigmoid()),
}


@pytest.mark.parametrize("loss", CASES)
@pytest.mark.parametrize("name", ["one hidden layer", "deep", "activated output"])
def test_the_hessian_changes_no_faster_than_told(loss: str, name: str) -> None:
    risk = tw.EmpiricalRisk(seeded(name), CASES[loss][0], draw(5, 2), CASES[loss][1])
    objective = risk + tw.L2(risk, 0.1)
    radius = 0.3
    constant = hessian_lipschitz(Case(objective, risk.initial), radius)
    size = risk.space.size
    for seed in range(12):
        first = risk.initial + radius * nn.functional.normalize(draw(size, seed=seed), dim=0)
        second = first + 1e-3 * nn.functional.normalize(draw(size, seed=seed + 90), dim=0)
        second = risk.initial + (second - risk.initial) * min(1.0, radius / float((second - risk.initial).norm()))
        change = torch.linalg.matrix_norm(objective.hessian(first) - objective.hessian(second), 2)
        assert float(change) <= constant * float((first - second).norm())


@pytest.mark.parametrize("x", [1e-6, 2.0, 1e6])
def test_the_constant_is_reached_by_a_product(x: float) -> None:
    """``(w2 w1 x)^2`` with equal weights: along the diagonal the third derivative is ``6 f' f''``, and nothing else."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    theta, inputs = torch.tensor([0.7, 0.7], dtype=torch.float64), torch.full((2, 1), x, dtype=torch.float64)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), inputs, inputs * 0.49)
    bound = hessian_lipschitz(Case(risk, theta), 0.0)
    assert bound == pytest.approx(6 * math.sqrt(2) * 0.7 * x**2, rel=1e-6)
    step = 1e-4 * torch.ones(2, dtype=torch.float64) / math.sqrt(2)
    change = (risk.hessian(theta + step) - risk.hessian(theta - step)) / 2e-4
    assert float(torch.linalg.matrix_norm(change, 2)) == pytest.approx(bound, rel=1e-4)


def test_what_has_no_bound_is_declined() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(torch.tanh(self.a(x)))

    for model, why in (
        (Twice(), "share no parameters"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), "continuous derivatives, not relu"),
        (nn.Sequential(nn.Linear(2, 3), nn.ELU(), nn.Linear(3, 2)), "2 continuous derivatives, not elu"),
    ):
        risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(4, 2), torch.zeros(4, 2))
        with pytest.raises(NotApplicableError, match=why):
            growth(Case(risk, risk.initial).dense(), risk.initial, risk.inputs, 0.1, order=3)
    penalised = risk + tw.Penalty(risk, lambda p: (p["0.weight"] ** 4).sum(), name="fourth")
    with pytest.raises(NotApplicableError, match=r"Penalty\(fourth\) changes is not known"):
        hessian_lipschitz(Case(penalised, risk.initial), 0.1)
