"""Networks in the coordinates of their channels: the same function, even in epsilon, ordinary at its end."""

from __future__ import annotations

from typing import NamedTuple

import mpmath
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError
from thalweg.objectives.networks import explain_network
from thalweg.structure import DenseNetwork, activation_facts
from thalweg.symmetry import ChannelNetwork, Pairs
from thalweg.symmetry.channel_coordinates import from_channel, to_channel


class Case(NamedTuple):
    risk: tw.EmpiricalRisk
    form: tw.EmpiricalRisk
    network: DenseNetwork
    pairs: Pairs
    theta: Tensor


MODELS = {
    "one output": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)), 0, [[1, 3]], [0]),
    "two channels, two outputs": (
        lambda: nn.Sequential(nn.Linear(3, 5, bias=False), nn.Softplus(), nn.Linear(5, 2)),
        0,
        [[4, 0], [1, 3]],
        [1, 0],
    ),
    "second of two hidden layers": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2)),
        1,
        [[5, 2]],
        [1],
    ),
    "first of two hidden layers": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1, bias=False)),
        0,
        [[0, 2]],
        [4],
    ),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    make, layer, units, largest = MODELS[request.param]
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(20, 3, dtype=torch.float64)
    y = torch.randn(20, model[-1].out_features, dtype=torch.float64)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    structure = explain_network(risk).structure
    assert structure is not None
    network = structure.as_dense()
    assert network is not None
    form = risk.with_model(ChannelNetwork(network, layer, len(units), largest, (network.widths[-1],)))
    theta = torch.randn(4, risk.space.size, dtype=torch.float64)
    return Case(risk, form, network, Pairs(layer, torch.tensor(units), torch.tensor(largest)), theta)


def at(case: Case, inner: Tensor, epsilon: float) -> Tensor:
    moved = inner.clone()
    moved[:, case.form.space.slice("epsilon")] = epsilon
    return moved


def test_it_is_the_same_function(case: Case) -> None:
    inner = to_channel(case.network, case.pairs, case.theta, case.form.space)
    assert torch.allclose(case.form.outputs(inner[0]), case.risk.outputs(case.theta[0]), rtol=1e-13, atol=1e-13)
    assert torch.allclose(case.form.value(inner), case.risk.value(case.theta), rtol=1e-13)


@pytest.mark.parametrize("epsilon", [0.3, 0.1, 1e-2])
def test_back_to_weights_and_again(case: Case, epsilon: float) -> None:
    inner = at(case, to_channel(case.network, case.pairs, case.theta, case.form.space), epsilon)
    raw = from_channel(case.network, case.pairs, inner, case.form.space)
    assert torch.allclose(case.risk.value(raw), case.form.value(inner), rtol=1e-10)
    again = to_channel(case.network, case.pairs, raw, case.form.space)
    assert torch.allclose(again, inner, rtol=1e-9, atol=1e-10)


def test_the_end_has_no_finite_weights(case: Case) -> None:
    inner = at(case, to_channel(case.network, case.pairs, case.theta, case.form.space), 0.0)
    with pytest.raises(InvalidInputError, match="epsilon is zero"):
        from_channel(case.network, case.pairs, inner, case.form.space)


def test_even_in_epsilon_and_h_is_half_its_curvature(case: Case) -> None:
    """The rise inside the channel is measured in the network's own weights."""
    inner = to_channel(case.network, case.pairs, case.theta, case.form.space)
    place = case.form.space.slice("epsilon")
    assert torch.allclose(case.form.value(at(case, inner, 0.2)), case.form.value(at(case, inner, -0.2)), rtol=1e-14)
    end = at(case, inner, 0.0)
    found = case.form.evaluate(end, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    assert float(found.gradient[:, place].abs().max()) < 1e-14
    rest = torch.ones(case.form.space.size, dtype=torch.bool)
    rest[place] = False
    assert float(found.hessian[:, place][:, :, rest].abs().max()) < 1e-13
    h = found.hessian[:, place, place].diagonal(dim1=1, dim2=2).sum(1) / 2
    rises = [
        (case.risk.value(from_channel(case.network, case.pairs, at(case, inner, e), case.form.space)) - found.value)
        / e**2
        for e in (4e-3, 2e-3)
    ]
    extrapolated = (4 * rises[1] - rises[0]) / 3
    assert torch.allclose(extrapolated, h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tanh", "softplus", "sigmoid(4z)+softplus(z)", "gelu", "erf(z/sqrt2)"])
@pytest.mark.parametrize("aside", [0.0, 1e-9, 1e-3, 0.1, 0.124, 0.126, 2.0])
def test_the_mean_slope_against_many_digits(name: str, aside: float) -> None:
    functions = {
        "tanh": mpmath.tanh,
        "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
        "sigmoid(4z)+softplus(z)": lambda z: 1 / (1 + mpmath.exp(-4 * z)) + mpmath.log1p(mpmath.exp(z)),
        "gelu": lambda z: z * mpmath.ncdf(z),
        "erf(z/sqrt2)": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
    }
    net = ChannelNetwork.__new__(ChannelNetwork)
    nn.Module.__init__(net)
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(8)
    net._nodes, net._weights = torch.tensor(nodes), torch.tensor(weights) / 2
    z = torch.tensor([-1.3, 0.0, 0.4, 3.0], dtype=torch.float64)
    found = net._mean_slope(activation_facts(name), z, torch.full_like(z, aside))
    with mpmath.workdps(40):
        f = functions[name]
        for number, place in zip(found.tolist(), z.tolist(), strict=True):
            if aside:
                exact = (f(mpmath.mpf(place) + aside) - f(mpmath.mpf(place) - aside)) / (2 * mpmath.mpf(aside))
            else:
                exact = mpmath.diff(f, place)
            assert number == pytest.approx(float(exact), rel=1e-13, abs=1e-14)
