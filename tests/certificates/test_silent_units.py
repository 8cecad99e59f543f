"""Units that are switched off: when their signals cancel, and everything that must withdraw the claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Certificate, Level, Outcome, certify
from thalweg.certificates.forward import Bounded
from thalweg.certificates.silent_units import NON_POLYNOMIAL, separated_groups
from thalweg.structure import activation_facts

DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def silent(objective: tw.Objective, theta: Tensor) -> Certificate:
    return certify(objective, theta, ["silent units"])[0]


def switched_off(
    activation: nn.Module | None = None, scale: float = 1.0, bias: bool = True
) -> tuple[tw.EmpiricalRisk, Tensor]:
    """One of three units off; everything else as it happens to be. Every input is there twice."""
    x = drawn(4, 2) * scale
    x = torch.cat([x, x])
    net = nn.Sequential(nn.Linear(2, 3, bias=bias), activation or nn.Tanh(), nn.Linear(3, 2))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), x, drawn(8, 2, seed=1))
    theta = drawn(risk.space.size, seed=2)
    theta[risk.space.slice("2.weight")].reshape(2, 3)[:, 1] = 0
    return risk, theta


def group_sums(risk: tw.EmpiricalRisk, theta: Tensor) -> Tensor:
    g = risk.output_gradient(theta)
    return g[:4] + g[4:]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.GELU()])
def test_the_largest_group_sum_is_found(activation: nn.Module, scale: float) -> None:
    risk, theta = switched_off(activation, scale)
    found = silent(risk, theta)
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    truth = float(group_sums(risk, theta).abs().max())
    assert truth * (1 - 1e-6) <= float(found.evidence["group sum"]) <= truth
    assert found.evidence["unit"] == 1


def test_random_units_show_what_the_theorem_says() -> None:
    """The derivative by the outgoing weight is not zero for random incoming weights, however small their change."""
    risk, theta = switched_off()
    for size in (1.0, 1e-3, 1e-6):
        moved = theta.clone()
        moved[risk.space.slice("0.weight")].reshape(3, 2)[1] += size * drawn(2, seed=5)
        slopes = [risk.gradient(at)[risk.space.slice("2.weight")].reshape(2, 3)[:, 1] for at in (theta, moved)]
        assert float(slopes[1].abs().max()) > 0
        assert bool((slopes[0] != slopes[1]).any())


def test_targets_evenly_around_the_outputs_withdraw_it() -> None:
    risk, theta = switched_off()
    f = risk.outputs(theta)
    apart = drawn(4, 2, seed=7)
    even = risk.on(risk.inputs, f + torch.cat([apart, -apart]))
    found = silent(even, theta)
    assert found.outcome is Outcome.UNDECIDED
    assert "cancel within rounding" in found.reason
    flipped = even.targets.clone()
    flipped[0, 0] += 1e-6
    assert silent(even.on(risk.inputs, flipped), theta).established


def test_moving_one_of_two_equal_inputs_brings_it_back() -> None:
    risk, theta = switched_off()
    f = risk.outputs(theta)
    apart = drawn(4, 2, seed=7)
    inputs = risk.inputs.clone()
    inputs[0, 0] += 1e-3
    assert silent(risk.on(inputs, f + torch.cat([apart, -apart])), theta).established


@pytest.mark.parametrize(
    ("activation", "bias", "why"),
    [
        (nn.ReLU(), True, "analytic and no polynomial, not relu"),
        (nn.Identity(), True, "analytic and no polynomial, not identity"),
        (nn.Tanh(), False, "a bias"),
    ],
)
def test_an_activation_that_does_not_discriminate_withdraws_it(activation: nn.Module, bias: bool, why: str) -> None:
    found = silent(*switched_off(activation, bias=bias))
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert why in found.reason


def test_a_small_outgoing_weight_decay_and_freezing_withdraw_it() -> None:
    risk, theta = switched_off()
    on = theta.clone()
    on[risk.space.slice("2.weight")].reshape(2, 3)[0, 1] = 1e-300
    assert silent(risk, on).outcome is Outcome.NOT_APPLICABLE
    assert silent(risk + tw.L2(risk, 0.1), theta).outcome is Outcome.NOT_APPLICABLE
    assert silent(risk + tw.L2(risk, 0.1, parameters="2.*"), theta).established
    pulled = risk + tw.L2(risk, 0.1, parameters="2.*", center=torch.ones_like(theta))
    assert silent(pulled, theta).outcome is Outcome.NOT_APPLICABLE
    penalty = risk + tw.Penalty(risk, lambda p: p["0.bias"].sum(), name="own")
    assert silent(penalty, theta).outcome is Outcome.NOT_APPLICABLE
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    risk.load_into_model(theta, model)
    model[0].bias.requires_grad_(False)
    frozen = tw.EmpiricalRisk(model, nn.MSELoss(), risk.inputs, risk.targets)
    assert silent(frozen, frozen.initial).outcome is Outcome.NOT_APPLICABLE


def test_a_unit_deeper_inside_and_a_corner_after_it() -> None:
    x, y = drawn(6, 2), drawn(6, 1, seed=1)
    for activation, established in ((nn.Tanh(), True), (nn.ReLU(), True)):
        net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4), activation, nn.Linear(4, 1))
        risk = tw.EmpiricalRisk(net, nn.MSELoss(), x, y)
        theta = drawn(risk.space.size, seed=3)
        theta[risk.space.slice("2.weight")].reshape(4, 3)[:, 0] = 0
        found = silent(risk, theta)
        assert found.established is established
        assert found.evidence["layer"] == 0
        if isinstance(activation, nn.ReLU):
            theta[risk.space.slice("2.weight")] = 0
            theta[risk.space.slice("2.bias")] = 0  # every argument on the corner
            assert not silent(risk, theta).established


def test_groups_separate_what_differs_for_certain_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    rows = torch.tensor(rng.normal(size=(20, 3)))
    rows = torch.cat([rows, rows])
    groups = separated_groups(Bounded(rows, torch.zeros_like(rows)))
    assert torch.equal(groups[:20], groups[20:])
    assert int(groups.max()) + 1 == 20
    wide = separated_groups(Bounded(rows, torch.full_like(rows, 100.0)))
    assert int(wide.max()) == 0
    apart = torch.tensor([[0.0], [1e-12], [1.0]], dtype=DOUBLE)
    assert separated_groups(Bounded(apart, torch.full_like(apart, 1e-11))).tolist() in ([0, 0, 1], [1, 1, 0])


@pytest.mark.parametrize("name", sorted(NON_POLYNOMIAL))
def test_the_activations_named_are_analytic_and_no_polynomials(name: str) -> None:
    facts = activation_facts(name)
    assert facts.analytic
    z = torch.linspace(-2, 2, 9, dtype=DOUBLE)
    design = torch.stack([z**k for k in range(7)], 1)
    values = facts(z)
    fitted = design @ torch.linalg.lstsq(design, values.unsqueeze(1)).solution[:, 0]
    assert float((fitted - values).abs().max()) > 1e-9
