"""Layers whose units have different activations: read from the module, and their closed forms against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import NotApplicableError
from thalweg.objectives import PopulationRisk
from thalweg.objectives.closed_form import closed_form
from thalweg.structure import activation_facts, trace
from thalweg.structure.mixed import MixedFacts, facts_of_units

X = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Halves(nn.Module):
    """Two tanh units and three softplus units beside each other."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.last(torch.cat([torch.tanh(z[:, :2]), nn.functional.softplus(z[:, 2:])], dim=1))


class OneByOne(nn.Module):
    """A list of activations, one for each unit, stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.each = nn.ModuleList([nn.Sigmoid(), nn.Tanh(), nn.Sigmoid(), nn.GELU()])

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        h = torch.stack([f(z[:, i]) for i, f in enumerate(self.each)], dim=1)
        return self.last(torch.tanh(self.middle(h)))


class Chunks(nn.Module):
    """Split in the middle, one half without any function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, dim=-1)
        return self.last(torch.cat((left, torch.erf(right)), -1))


class Swapped(Halves):
    """The halves change places: entries are no longer where the next layer expects them."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.last(torch.cat([torch.tanh(z[:, 2:]), nn.functional.softplus(z[:, :2])], dim=1))


class BySample(Halves):
    """The first samples get another function than the rest."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.last(torch.cat([torch.tanh(z[:1]), torch.sigmoid(z[1:])], dim=0))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (Halves, ["tanh", "tanh", "softplus", "softplus", "softplus"]),
        (OneByOne, ["sigmoid", "tanh", "sigmoid", "gelu"]),
        (Chunks, ["identity", "identity", "identity", "erf", "erf", "erf"]),
    ],
)
def test_closed_forms_are_those_of_autograd(make: Callable[[], nn.Module], names: list[str]) -> None:
    torch.manual_seed(0)
    module = make().double()
    structure = trace(module, X)
    network = structure.as_dense(mixed=True)
    assert network is not None
    facts = network.layers[0].activation
    assert isinstance(facts, MixedFacts)
    assert [one.name for one in facts.of_unit] == names
    assert structure.as_dense() is None
    assert "different activations" in structure.explain_dense()
    assert structure.explain_dense(mixed=True) == ""
    own = tw.EmpiricalRisk(module, nn.MSELoss(), X, Y)
    assert closed_form(own) is not None
    other = tw.EmpiricalRisk(module, nn.MSELoss(), X, Y, derivatives="autograd")
    theta = torch.randn(4, own.space.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for order in (0, 1, 2):
        for mine, theirs in zip(own.evaluate(theta, order), other.evaluate(theta, order), strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.allclose(mine, theirs, rtol=1e-11, atol=1e-12)
    assert torch.allclose(own.gauss_newton(theta), other.gauss_newton(theta), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("make", [Swapped, BySample])
def test_what_only_looks_alike_is_no_perceptron(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().double()
    risk = tw.EmpiricalRisk(module, nn.MSELoss(), X, Y)
    assert closed_form(risk) is None
    theta = torch.randn(risk.space.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    outputs = torch.func.functional_call(module, dict(risk.space.unflatten(theta)), (X,))
    expected = nn.functional.mse_loss(outputs, Y)
    assert float(risk.value(theta)) == pytest.approx(float(expected), rel=1e-13)


def test_one_activation_for_all_is_not_mixed() -> None:
    class Same(Halves):
        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            return self.last(torch.cat([torch.tanh(z[:, :2]), torch.tanh(z[:, 2:])], dim=1))

    network = trace(Same().double(), X).as_dense()
    assert network is not None
    assert network.layers[0].activation.name == "tanh"


def test_facts_hold_for_every_unit() -> None:
    one, two = activation_facts("sigmoid"), activation_facts("leaky_relu")
    found = facts_of_units([one, two, one])
    assert found.kinks == two.kinks
    assert (found.infimum, found.supremum) == (-float("inf"), float("inf"))
    assert found.lipschitz == max(one.lipschitz or 0, two.lipschitz or 0)
    assert found.analytic is False
    assert found.parity == "none"
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).repeat(3, 1).mT + 0.1
    for order in (0, 1, 2):
        expected = torch.stack([f.derivative(z[:, i], order) for i, f in enumerate((one, two, one))], 1)
        assert torch.allclose(found.derivative(z, order) if order else found(z), expected, rtol=1e-14, atol=1e-15)


def test_averages_over_gaussian_inputs_decline() -> None:
    with pytest.raises(NotApplicableError, match="no averages are written for tanh x2, softplus x3"):
        PopulationRisk(Halves(1).double(), Halves(1).double())
