"""Inside channels: states at the bottom, rates, the edge of stability, jumps; against flow and descent themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from channel_cases import Field, planted, split, toy
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.solvers import Status
from thalweg.symmetry import (
    Channel,
    ChannelEnd,
    channel_path,
    channel_rates,
    channel_resolver,
    duplicate,
    jump,
    resolve_channel,
)

# w, c, a, the loss at infinity, h and kappa a^2 of the two channels of the toy, by quadrature
ENDS = {
    "first": (0.866296124, 1.66755616, 1.49668456, 0.0423721519592, 0.00709137554, 0.36057),
    "second": (3.150432442, 2.01781544, -6.51111621, 0.00077333254158, 0.0010146998996, 0.28348),
}


def channel(which: str) -> Channel:
    return resolve_channel(toy(), split(*ENDS[which][:3], 0.02))


@pytest.mark.parametrize("which", ENDS)
def test_rates_of_the_toy(which: str) -> None:
    (rates,) = channel_rates(channel(which))
    _, _, a, value, h, kappa = ENDS[which]
    assert rates.value == pytest.approx(value, abs=1e-11)
    assert rates.h == pytest.approx(h, rel=1e-6)
    assert rates.pull == pytest.approx(abs(a), abs=1e-6)
    assert rates.kappa == pytest.approx(kappa, abs=1e-5)


@pytest.mark.parametrize("which", ENDS)
def test_powers_along_the_path(which: str) -> None:
    found = channel(which)
    path = channel_path(found, [1 / 70 / 2**k for k in range(7)])
    for name, power in {"loss above its limit": -2, "distance of the outputs": -2, "sharpness": 2}.items():
        assert path.slopes()[name] == pytest.approx(power, abs=0.02)
    (rates,) = channel_rates(found)
    for epsilon, value, sharpness in zip(path.epsilon[:, 0], path.value, path.sharpness, strict=True):
        assert float(sharpness) == pytest.approx(rates.sharpness(float(epsilon)), rel=0.01)
        assert float(value) - rates.value == pytest.approx(rates.loss(float(epsilon)) - rates.value, rel=1e-3)
    # the smallest curvature falls like epsilon^4 as long as rounding leaves it
    few = np.polyfit(np.log(path.epsilon[:3, 0].numpy()), np.log(path.softest[:3].numpy()), 1)[0]
    assert few == pytest.approx(4, abs=0.05)
    risk = toy()
    assert torch.allclose(risk.value(path.theta), path.value, rtol=1e-9)
    assert list(path.frame().columns) == ["epsilon_0", "value", "sharpness", "softest", "distance"]
    # at the bottom the gradient points along the channel: the output weights apart, the input weights together
    gradient = risk.gradient(path.theta[0])
    along = torch.tensor([0.0, 0.0, 1.0, -1.0], dtype=torch.float64) / 2**0.5
    assert float((gradient @ along).abs() / gradient.norm()) > 0.99


@pytest.mark.parametrize("which", ENDS)
def test_gradient_flow_keeps_the_law_of_the_fourth_power(which: str) -> None:
    found = channel(which)
    (rates,) = channel_rates(found)
    start = channel_path(found, [0.05])
    times = torch.tensor([1e5, 1e6, 1e7, 1e8, 1e9], dtype=torch.float64)
    flow = tw.gradient_flow(toy(), start.theta[0], times=times)
    assert float(flow.times[-1]) == 1e9
    q = ((flow.theta[..., 2] - flow.theta[..., 3]) / 2**0.5).abs()
    law = (q[0] ** 4 + 4 * rates.h * rates.pull**2 * flow.times) ** 0.25
    assert float((q / law - 1).abs().max()) < 3e-3
    epsilon = rates.epsilon_at(1e9, float(start.epsilon[0, 0]))
    assert rates.pull / (2**0.5 * float(q[-1])) == pytest.approx(epsilon, rel=3e-3)
    assert rates.time_to(epsilon, float(start.epsilon[0, 0])) == pytest.approx(1e9, rel=1e-9)


def descend(theta: Tensor, lr: float, steps: int, last: int) -> tuple[float, Tensor]:
    """Mean of ``lambda_max lr / 2`` over the last steps of gradient descent, and where it ends."""
    risk, seen = toy(), []
    for step in range(steps):
        theta = theta - lr * risk.gradient(theta)
        if step >= steps - last:
            seen.append(theta)
    tops = torch.linalg.eigvalsh(risk.hessian(torch.stack(seen)))[:, -1]
    return float(tops.mean()) * lr / 2, theta


def edge(lr: float, begin: float, steps: int) -> tuple[float, float]:
    found = channel("second")
    start = channel_path(found, [begin])
    beyond = float(start.sharpness[0]) * lr / 2
    ratio, _ = descend(start.theta[0], lr, steps, 256)
    return beyond, ratio


def test_descent_stops_at_the_edge_of_stability() -> None:
    (rates,) = channel_rates(channel("second"))
    assert rates.reach(0.1) == pytest.approx((0.28348 * 0.1 / 2) ** 0.5, rel=1e-4)
    beyond, ratio = edge(0.1, 0.115, 6000)
    assert beyond > 1.05
    assert 0.9 < ratio < 1.1


def test_below_the_edge_descent_creeps_inward_and_never_beyond() -> None:
    found = channel("second")
    (rates,) = channel_rates(found)
    start = channel_path(found, [1.5 * rates.reach(0.1)])
    ratio, theta = descend(start.theta[0], 0.1, 3000, 1)
    assert float(start.sharpness[0]) * 0.05 < ratio < 1.02
    assert abs(float(theta[2] - theta[3])) > abs(float(start.theta[0, 2] - start.theta[0, 3]))


@pytest.mark.soak
@pytest.mark.parametrize(("lr", "begin"), [(0.1, 0.115), (0.05, 0.075), (0.025, 0.05)])
def test_the_edge_of_stability_at_full_length(lr: float, begin: float, soak_figure) -> None:
    beyond, ratio = edge(lr, begin, 20_000)
    soak_figure(f"sharpness times lr / 2 at the edge, lr = {lr}", f"{beyond:.3f} at first, {ratio:.4f} at the end")
    assert 0.9 < ratio < 1.1


def test_from_the_line_of_duplicates_flow_enters_either_channel() -> None:
    """Beyond share 1 two copies are a saddle: down one side lies the first channel, down the other the second."""
    risk = toy()

    class Erf(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.erf(z / 2**0.5)

    single = risk.with_model(nn.Sequential(nn.Linear(1, 1, bias=False), Erf(), nn.Linear(1, 1, bias=False)).double())
    best = tw.minimize(single, torch.ones(2, dtype=torch.float64))
    line = duplicate(single, best.theta, unit=0)
    point = line.at((2.0, -1.0))
    order = [line.wider().space.names.index(name) for name in ("weight_0", "weight_1")]
    assert order == [0, 1]  # the order of the toy's own parameters
    values, vectors = torch.linalg.eigh(risk.hessian(point))
    assert float(values[0]) == pytest.approx(-0.0274940, abs=1e-6)
    starts = torch.stack([point + sign * 1e-3 * vectors[:, 0] for sign in (1.0, -1.0)])
    flow = tw.gradient_flow(risk, starts, times=torch.tensor([1e5], dtype=torch.float64))
    ends = [resolve_channel(risk, theta) for theta in flow.theta[:, -1]]
    assert sorted(end.value for end in ends) == pytest.approx([0.00077333254158, 0.0423721519592], abs=1e-10)


def test_jumps_halve_epsilon_and_leave_the_rest() -> None:
    risk = toy()
    theta = split(0.9, 1.7, 1.5, 0.05)
    inner = jump(risk, theta, [(0, 1)])
    assert torch.allclose(inner, split(0.9, 1.7, 1.5, 0.025), rtol=1e-12)
    assert torch.allclose(jump(risk, inner, [(0, 1)], factor=2.0), theta, rtol=1e-12)
    relaxed = tw.minimize(risk, inner, max_iterations=20, resolver=channel_resolver)
    assert relaxed.status is Status.CHANNEL
    with pytest.raises(InvalidInputError, match="positive factor"):
        jump(risk, theta, [(0, 1)], factor=0.0)
    with pytest.raises(InvalidInputError, match="numbered from 0 to 1"):
        jump(risk, theta, [(0, 2)])


@pytest.mark.parametrize(
    ("make", "layer", "group", "seed"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), 0, (1, 3), 0),
        (lambda: nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), 0, (1, 3), 3),
    ],
    ids=["two outputs", "deep"],
)
def test_the_laws_hold_with_several_outputs_and_layers(make, layer: int, group: tuple[int, int], seed: int) -> None:
    """The curvature's coefficient and the pull, from the weights of the network itself."""
    plant = planted(make(), layer, list(group), (2,), seed=seed)
    found = resolve_channel(plant.risk, plant.theta, layer=layer, groups=[group])
    assert found.end is ChannelEnd.MINIMUM
    (rates,) = channel_rates(found)
    path = channel_path(found, [2e-3, 1e-3])
    epsilon = path.epsilon[:, 0]
    assert torch.allclose(path.sharpness * epsilon**2, torch.full((2,), rates.kappa, dtype=torch.float64), rtol=0.02)
    named = plant.risk.space.unflatten(path.theta)
    outgoing = named[f"{2 * layer + 2}.weight"]
    apart = (outgoing[:, :, group[0]] - outgoing[:, :, group[1]]).norm(dim=1)
    assert torch.allclose(apart * epsilon, torch.full((2,), rates.pull, dtype=torch.float64), rtol=0.01)
    rise = (path.value - found.value) / epsilon**2
    assert torch.allclose(rise, torch.full((2,), rates.h, dtype=torch.float64), rtol=0.02)


def test_what_has_no_path() -> None:
    finite = resolve_channel(toy(), torch.tensor([1.0, 2.0, 0.5, 0.7], dtype=torch.float64))
    for ask in (channel_rates, lambda one: channel_path(one, [0.1])):
        with pytest.raises(NotApplicableError, match="end is: unresolved"):
            ask(finite)
    found = channel("first")
    for epsilons in ([], [0.1, 0.0], [-1.0]):
        with pytest.raises(InvalidInputError, match="epsilons are positive numbers"):
            channel_path(found, epsilons)
    alone = planted(nn.Sequential(nn.Linear(3, 3, bias=False), Field(), nn.Linear(3, 1)), 0, [1], (1,))
    hard = resolve_channel(alone.risk, alone.theta, layer=0, groups=[(1,)])
    with pytest.raises(NotApplicableError, match="rates are known for channels of two units"):
        channel_rates(hard)
    with pytest.raises(NotApplicableError, match="a path needs finite weights"):
        channel_path(hard, [0.1])
