"""Networks in the coordinates of their channels: the same function, ordinary at the end, its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from channel_cases import Field
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError
from thalweg.objectives.networks import explain_network
from thalweg.structure import DenseNetwork
from thalweg.symmetry import ChannelNetwork, Merging
from thalweg.symmetry.channel_coordinates import from_channel, half_distances, merging_of, scales, to_channel


class Case(NamedTuple):
    risk: tw.EmpiricalRisk
    form: tw.EmpiricalRisk
    auto: tw.EmpiricalRisk
    network: DenseNetwork
    merging: Merging
    units: Tensor
    theta: Tensor


class Kind(NamedTuple):
    model: Callable[[], nn.Sequential]
    layer: int
    units: list[int]
    sizes: tuple[int, ...]
    closed: bool


KINDS = {
    "one output": Kind(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)), 0, [1, 3], (2,), True),
    "two channels, two outputs": Kind(
        lambda: nn.Sequential(nn.Linear(3, 5, bias=False), nn.Softplus(), nn.Linear(5, 2)),
        0, [4, 0, 1, 3], (2, 2), True,
    ),
    "no bias at the end": Kind(
        lambda: nn.Sequential(nn.Linear(3, 4), Field(), nn.Linear(4, 3, bias=False)), 0, [2, 1], (2,), True
    ),
    "second of two hidden layers": Kind(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2)),
        1, [5, 2], (2,), False,
    ),
    "first of two hidden layers": Kind(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1, bias=False)),
        0, [0, 2], (2,), False,
    ),
    "three units": Kind(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), 0, [1, 3, 0], (3,), False),
    "two and three units": Kind(
        lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)), 0, [1, 3, 0, 4, 5], (2, 3), False
    ),
    "units alone and a pair": Kind(
        lambda: nn.Sequential(nn.Linear(3, 5), Field(), nn.Linear(5, 2)), 0, [2, 0, 3, 1], (1, 1, 2), True
    ),
    "one, two and three units in a deep network": Kind(
        lambda: nn.Sequential(nn.Linear(3, 7), nn.Softplus(), nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, 2)),
        0, [6, 1, 3, 0, 4, 5], (1, 2, 3), False,
    ),
}  # fmt: skip


def make(kind: Kind, loss: nn.Module) -> Case:
    torch.manual_seed(0)
    model = kind.model().double()
    x = torch.randn(20, 3, dtype=torch.float64)
    y = torch.randn(20, model[-1].out_features, dtype=torch.float64)
    risk = tw.EmpiricalRisk(model, loss, x, y)
    structure = explain_network(risk).structure
    assert structure is not None
    network = structure.as_dense()
    assert network is not None
    # of one kind: the signs of what pulls channels of one and of three units are fixed
    units, theta = torch.tensor(kind.units), torch.randn(64, risk.space.size, dtype=torch.float64)
    merging = merging_of(network, kind.layer, kind.sizes, units, theta[0])
    alike = [row for row in theta if _same(merging, merging_of(network, kind.layer, kind.sizes, units, row))]
    form = risk.with_model(ChannelNetwork(network, merging, (network.widths[-1],)))
    auto = tw.EmpiricalRisk(ChannelNetwork(network, merging, (network.widths[-1],)), loss, x, y, derivatives="autograd")
    return Case(risk, form, auto, network, merging, units, torch.stack(alike[:3]))


def _same(one: Merging, other: Merging) -> bool:
    return one.signs == other.signs and one.largest == other.largest


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest) -> Case:
    return make(KINDS[request.param], nn.MSELoss())


def opened(case: Case, inner: Tensor, opening: float | Tensor, *, alone: bool = True) -> Tensor:
    moved = inner.clone()
    for name in ("softness", "opening") if alone else ("opening",):
        if name in case.form.space:
            moved[:, case.form.space.slice(name)] = opening
    return moved


def within(case: Case, theta: Tensor) -> Tensor:
    return to_channel(case.network, case.merging, case.units, theta, case.form.space)


def without(case: Case, inner: Tensor) -> Tensor:
    return from_channel(case.network, case.merging, case.units, inner, case.form.space)


def test_it_is_the_same_function(case: Case) -> None:
    inner = within(case, case.theta)
    assert case.form.space.size == case.risk.space.size
    assert torch.allclose(case.form.outputs(inner[0]), case.risk.outputs(case.theta[0]), rtol=1e-12, atol=1e-12)
    assert torch.allclose(case.form.value(inner), case.risk.value(case.theta), rtol=1e-12)


@pytest.mark.parametrize("opening", [0.3, 0.1, 1e-2])
def test_back_to_weights_and_again(case: Case, opening: float) -> None:
    inner = opened(case, within(case, case.theta), opening)
    raw = without(case, inner)
    assert torch.allclose(case.risk.value(raw), case.form.value(inner), rtol=1e-9)
    assert torch.allclose(within(case, raw), inner, rtol=1e-9, atol=1e-9)


def test_epsilon_is_half_the_distance_of_the_units(case: Case) -> None:
    weight = case.risk.space.unflatten(case.theta)[f"{2 * case.merging.layer}.weight"]
    bias = case.risk.space.unflatten(case.theta).get(f"{2 * case.merging.layer}.bias")
    rows = (weight if bias is None else torch.cat([weight, bias.unsqueeze(-1)], -1))[:, case.units]
    expected, at = [], 0
    for size in case.merging.sizes:
        if size == 1:
            expected.append(1 / rows[:, at].norm(dim=-1))
        else:
            expected.append((rows[:, at] - rows[:, at + size - 1]).norm(dim=-1) / 2)
        at += size
    found = half_distances(case.merging, within(case, case.theta), case.form.space)
    assert torch.allclose(found, torch.stack(expected, 1), rtol=1e-12)


def test_the_end_has_no_finite_weights(case: Case) -> None:
    inner = opened(case, within(case, case.theta), 0.0)
    with pytest.raises(InvalidInputError, match="opening is zero"):
        without(case, inner)


def test_the_loss_is_even_in_the_opening_and_h_is_half_its_curvature(case: Case) -> None:
    """The rise inside the channels of two and three units is measured in the network's own weights."""
    if "opening" not in case.form.space:
        pytest.fail("no channel to test")
    inner = within(case, case.theta)
    place = case.form.space.slice("opening")
    up, down = (case.form.value(opened(case, inner, s, alone=False)) for s in (0.2, -0.2))
    assert torch.allclose(up, down, rtol=1e-12)
    end = opened(case, inner, 0.0, alone=False)
    found = case.form.evaluate(end, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    assert float(found.gradient[:, place].abs().max()) < 1e-11 * float(found.gradient.abs().max())
    rest = torch.ones(case.form.space.size, dtype=torch.bool)
    rest[place] = False
    assert float(found.hessian[:, place][:, :, rest].abs().max()) < 1e-12 * float(found.hessian.abs().max())
    h = found.hessian[:, place, place].diagonal(dim1=1, dim2=2) / 2
    scale = scales(case.merging, end, case.form.space)[:, case.merging.alone :]
    step = 2e-3 / scale  # where epsilon of every channel is 2e-3

    def rise(factor: float) -> Tensor:
        weights = without(case, opened(case, inner, factor * step, alone=False))
        return (case.risk.value(weights) - found.value) / (2e-3 * factor) ** 2

    extrapolated = (4 * rise(1.0) - rise(2.0)) / 3
    assert torch.allclose(extrapolated, (h / scale.square()).sum(1), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.closed])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.SmoothL1Loss(), nn.MSELoss(reduction="sum")], ids=str)
@pytest.mark.parametrize("factor", [1.0, 0.1, 0.0])
def test_closed_forms_are_the_derivatives_by_autograd(name: str, loss: nn.Module, factor: float) -> None:
    case = make(KINDS[name], loss)
    inner = within(case, case.theta)
    for block in ("softness", "opening"):
        if block in case.form.space:
            inner[:, case.form.space.slice(block)] *= factor
    found, expected = case.form.evaluate(inner, 2), case.auto.evaluate(inner, 2)
    assert case.form._form is not None, "there is no closed form to test"
    pairs = [
        (found.value, expected.value),
        (found.gradient, expected.gradient),
        (found.hessian, expected.hessian),
        (case.form.gradient(inner), expected.gradient),
        (case.form.value(inner), expected.value),
        (case.form.gauss_newton(inner), case.auto.gauss_newton(inner)),
        (case.form.jacobian(inner[0]), case.auto.jacobian(inner[0])),
    ]
    for one, other in pairs:
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-12 * float(other.abs().max()))


def test_closed_forms_in_parts_of_the_data() -> None:
    case = make(KINDS["units alone and a pair"], nn.MSELoss())
    model = case.form.network_at(case.form.initial)
    cut = tw.EmpiricalRisk(model, nn.MSELoss(), case.form.inputs, case.form.targets, batch_size=7)
    inner = within(case, case.theta)
    whole, parts = case.form.evaluate(inner, 2), cut.evaluate(inner, 2)
    assert cut._form is not None
    assert whole.hessian is not None
    assert parts.hessian is not None
    assert torch.allclose(whole.value, parts.value, rtol=1e-13)
    assert torch.allclose(whole.hessian, parts.hessian, rtol=1e-11, atol=1e-12)


def test_channels_that_cannot_be() -> None:
    case = make(KINDS["one output"], nn.MSELoss())
    for sizes, largest, signs, message in (
        ((3, 2), (0, 0), (1.0, 1.0), "in this order; got"),
        ((4,), (0,), (1.0,), "one, two or three units"),
        ((2, 2, 2), (0, 0, 0), (1.0, 1.0, 1.0), "6 units cannot be in channels of a layer of 5"),
        ((2,), (1,), (1.0,), "the next layer has 1 units"),
        ((2,), (0,), (0.5,), "one sign"),
        ((1,), (0,), (1.0,), "tanh has no sloping asymptotes"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            ChannelNetwork(case.network, Merging(0, sizes, largest, signs), (1,))
    flat = case.theta.clone()
    flat[:, case.risk.space.slice("2.weight")] = 1.0
    with pytest.raises(InvalidInputError, match="nothing pulls it open"):
        within(case, flat)
