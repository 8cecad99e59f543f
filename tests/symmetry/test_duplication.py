"""Units taken several times: signs of the wider network's Hessian, predicted from a small matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from channel_cases import Field, grid, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.studies.channels.problems import Erf
from thalweg.symmetry import Duplication, Signs, duplicate
from thalweg.tangent import inertia


def one_unit() -> tuple[tw.EmpiricalRisk, Tensor]:
    """The toy with one unit, at its minimum."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), Erf(), nn.Linear(1, 1, bias=False)).double()
    risk = toy().with_model(model)
    return risk, tw.minimize(risk, torch.ones(2, dtype=torch.float64)).theta


def measured(found: Duplication, shares: tuple[float, ...]) -> Signs:
    """From the Hessian of the wider network itself."""
    wider = found.wider(len(shares))
    return Signs.of(inertia(wider.hessian(found.at(shares)), samples=wider.n_samples))


def test_the_line_of_the_toy_has_the_spectrum_of_the_paper() -> None:
    risk, theta = one_unit()
    assert theta.tolist() == pytest.approx([1.399554143, 2.15278365], abs=1e-8)
    found = duplicate(risk, theta, unit=0)
    for gamma, spectrum in ((0.5, (0, 0.0284489, 0.1025281, 2.0388847)), (2.0, (-0.0274940, 0, 0.4098016, 4.2225956))):
        wider = found.wider()
        point = found.at((gamma, 1 - gamma))
        assert float(wider.value(point)) == pytest.approx(0.047116027496, abs=1e-11)
        assert float(wider.gradient(point).abs().max()) < 1e-12
        assert torch.linalg.eigvalsh(wider.hessian(point)).tolist() == pytest.approx(spectrum, abs=1e-7)
        assert found.signs((gamma, 1 - gamma)) == measured(found, (gamma, 1 - gamma))
    assert found.plateau == "between"


def test_the_grid_problem() -> None:
    single = grid(1)
    minima = tw.minimize(single, starts=8, seed=0)
    levels = sorted({round(value, 10) for value in minima.value.tolist()})
    assert levels == [0.8573540913, 0.9277586732]
    second = minima.theta[(minima.value - 0.9277586732).abs().argmin()]
    assert duplicate(single, second, unit=0).bends.tolist() == pytest.approx([0.0158523, 0.0659331], abs=1e-7)

    risk = grid(2)
    near = [0.536905, -0.181299, -1.616872, 1.023897, -0.283692, 0.236269]
    minimum = tw.minimize(risk, torch.tensor(near, dtype=torch.float64))
    assert float(minimum.value) == pytest.approx(0.73937214, abs=1e-8)
    found = duplicate(risk, minimum.theta, unit=0)
    assert found.bends.tolist() == pytest.approx([0.0351793, 0.2992919], abs=1e-6)
    for gamma, negative, zero in ((0.5, 0, 1), (2.0, 2, 1), (0.0, 0, 3), (1.0, 0, 3)):
        shares = (gamma, 1 - gamma)
        assert found.signs(shares) == measured(found, shares) == Signs(negative, zero, 9 - negative - zero, 0)
    for shares in ((0.3, 0.3, 0.4), (2.0, -0.5, -0.5), (0.7, 0.3, 0.0), (-1.0, 0.5, 1.0, 0.5)):
        below, nought, copies = sum(s < 0 for s in shares), sum(s == 0 for s in shares), len(shares)
        negative, zero = 2 * below, copies - 1 + 2 * nought
        assert found.signs(shares) == Signs(negative, zero, 6 + 3 * (copies - 1) - negative - zero, 0)
        assert found.signs(shares) == measured(found, shares)
    told = str(found)
    assert "B (2 x 2): eigenvalues 0.0351793, 0.299292" in told
    assert "gamma outside: 2 negative, 1 zero, 6 positive" in told
    assert told.endswith("a plateau of minima: between")


SHARES = [(0.5, 0.5), (0.2, 0.8), (1.7, -0.7), (1.0, 0.0), (0.4, 0.4, 0.2), (2.0, -0.5, -0.5)]
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], int]] = {
    "two outputs": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), 0),
    "first of two layers": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Softplus(), nn.Linear(2, 1)), 0
    ),
    "second of two layers": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Softplus(), nn.Linear(2, 2)), 1
    ),
    "one output, with biases": (lambda: nn.Sequential(nn.Linear(2, 2), Field(), nn.Linear(2, 1)), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_signs_in_any_layer_with_any_number_of_outputs(name: str, shares: tuple[float, ...]) -> None:
    """At points that are critical because the targets were made so; nothing says that they are minima."""
    make, layer = NETWORKS[name]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    model = make().double()
    width = model[-1].out_features
    plain = tw.EmpiricalRisk(model, nn.MSELoss(), x, torch.zeros(60, width, dtype=torch.float64))
    theta = 1.5 * torch.randn(plain.space.size, generator=generator, dtype=torch.float64)
    tangents, outputs = plain.jacobian(theta), plain.outputs(theta)
    residual = torch.randn(60 * width, 1, generator=generator, dtype=torch.float64)
    for _ in range(3):  # once more, for what rounding left
        residual = residual - tangents @ torch.linalg.lstsq(tangents, residual, driver="gelsd").solution
    risk = plain.on(x, outputs + residual.view(60, width))
    found = duplicate(risk, theta, unit=1, layer=layer)
    assert found.gradient_norm < 1e-13
    wider = found.wider(len(shares))
    assert float(wider.gradient(found.at(shares)).abs().max()) < 1e-11
    assert float(wider.value(found.at(shares))) == pytest.approx(float(risk.value(theta)), rel=1e-13)
    told, seen = found.signs(shares), measured(found, shares)
    assert told.undecided == 0
    # what the whole Hessian cannot tell from zero the small matrix says is zero
    assert told == Signs(seen.negative, seen.zero + seen.undecided, seen.positive, 0)
    outgoing = wider.space.unflatten(found.at(shares))[f"weight_{layer + 1}"]
    a = risk.space.unflatten(theta)[f"{2 * layer + 2}.weight"][:, 1]
    assert float((found.tension @ a).abs().max()) < 1e-10  # that the input weights are critical
    assert outgoing.shape[1] == 2 + len(shares) - 1
    if outgoing.shape[0] > 1:
        assert found.plateau == "nowhere"
        assert int(torch.linalg.matrix_rank(found.tension, atol=1e-10)) == outgoing.shape[0] - 1


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 4), st.integers(0, 10**6))
def test_the_line_is_symmetric_and_level(gamma: float, seed: int) -> None:
    risk, theta = one_unit()
    found = duplicate(risk, theta, unit=0)
    wider = found.wider()
    shares, turned = (gamma, 1 - gamma), (1 - gamma, gamma)
    assert float(wider.value(found.at(shares))) == pytest.approx(0.0471160274958, abs=1e-12)
    assert found.signs(shares) == found.signs(turned)


def test_an_indefinite_bend_has_no_plateau() -> None:
    found = one_dimensional_bend(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))
    assert found.plateau == "nowhere"
    assert one_dimensional_bend(-torch.eye(2, dtype=torch.float64)).plateau == "outside"
    assert one_dimensional_bend(torch.eye(2, dtype=torch.float64)).plateau == "between"
    assert one_dimensional_bend(torch.diag(torch.tensor([1.0, 1e-18], dtype=torch.float64))).plateau == "undecided"


def one_dimensional_bend(bend: Tensor) -> Duplication:
    risk, theta = one_unit()
    template = duplicate(risk, theta, unit=0)
    tension = torch.zeros(2, 1, dtype=torch.float64)
    return Duplication(risk, theta, 0, 0, Signs(0, 0, 2, 0), 0.0, bend, tension, 1e-16, template._network)


def test_what_cannot_be_asked() -> None:
    risk, theta = one_unit()
    found = duplicate(risk, theta, unit=0)
    for shares in ((1.0,), (0.5, 0.6), (float("nan"), 1.0), (0.5, float("inf"))):
        with pytest.raises(InvalidInputError, match="two or more numbers that add up to one"):
            found.signs(shares)
    with pytest.raises(InvalidInputError, match="at least twice, got 1"):
        found.wider(1)
    with pytest.raises(InvalidInputError, match="has units 0 to 0; got 1"):
        duplicate(risk, theta, unit=1)
    with pytest.raises(InvalidInputError, match="1 hidden layers"):
        duplicate(risk, theta, unit=0, layer=1)
    with pytest.raises(InvalidInputError, match="got a batch"):
        duplicate(risk, theta.expand(2, -1), unit=0)
    with pytest.raises(NotApplicableError, match="grows without bound"):
        duplicate(risk + tw.L2(risk, 0.1), theta, unit=0)
    with pytest.raises(NotApplicableError, match="the loss alone"):
        duplicate(risk + tw.NormBarrier(risk), theta, unit=0)
