"""Saddles that the Hessian does not show, true minima that must never be refuted, and what breaks the moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Certificate, FibreDescent, FibreSearch, Level, Outcome, certify
from thalweg.certificates.fibre_moves import find_moves

DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def descent(objective: tw.Objective, theta: Tensor) -> Certificate:
    return certify(objective, theta, ["fibre descent"])[0]


def shown(objective: tw.Objective, theta: Tensor, found: Certificate) -> bool:
    """Whether the point in evidence is lower by what is said, and moving along the direction changes nothing."""
    there, direction = found.evidence["theta"], found.evidence["direction"]
    assert isinstance(there, Tensor)
    assert isinstance(direction, Tensor)
    here = objective.value(theta)
    lower = here - objective.value(there) >= float(found.evidence["decrease"]) - 1e-14 * (1 + abs(float(here)))
    flat = [abs(float(objective.value(theta + part * direction) - here)) for part in (1.0, 0.1, -0.5)]
    return bool(lower) and max(flat) <= 1e-9 * (1 + abs(float(here)))


def product_of(depth: int, samples: int) -> tw.EmpiricalRisk:
    net = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(depth)])
    return tw.EmpiricalRisk(net, nn.MSELoss(), torch.ones(samples, 1), torch.ones(samples, 1))


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("samples", [1, 3])
def test_products_at_zero_have_no_gradient_and_no_hessian_and_are_refuted(depth: int, samples: int) -> None:
    risk, origin = product_of(depth, samples), torch.zeros(depth, dtype=DOUBLE)
    assert not bool(risk.gradient(origin).any())
    assert not bool(risk.hessian(origin).any())
    found = descent(risk, origin)
    assert found.established, found.reason
    assert shown(risk, origin, found)
    assert found.level is (Level.RIGOROUS if samples > 1 else Level.NUMERIC)  # one sample cannot be traced as dense


class Skip(nn.Module):
    """A linear skip and a few tanh units."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.skip = nn.Linear(inputs, 1, bias=False)
        self.into, self.out = nn.Linear(inputs, units, bias=False), nn.Linear(units, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.out(torch.tanh(self.into(x)))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_least_squares_with_a_silent_unit(scale: float) -> None:
    """The Hessian is positive semidefinite with a triple zero; a third-order term leads down."""
    x, y = drawn(30, 2) * scale, drawn(30, 1, seed=1)
    risk = tw.EmpiricalRisk(Skip(2, 1), nn.MSELoss(), x, y)
    theta = torch.zeros(5, dtype=DOUBLE)
    theta[:2] = torch.linalg.lstsq(x, y).solution[:, 0]
    eigenvalues = torch.linalg.eigvalsh(risk.hessian(theta))
    assert float(eigenvalues[0]) >= -1e-9 * float(eigenvalues[-1])
    found = descent(risk, theta)
    assert found.established, found.reason
    assert shown(risk, theta, found)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W, self.V, self.U = (nn.Linear(3, k, bias=False) for k in (2, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.W(x + self.V(torch.tanh(self.U(x))))


def test_a_residual_network_without_last_weights() -> None:
    """W = 0 and ``G1 + G2 V^T = 0``: stationary, above the best linear predictor."""
    x, y = drawn(30, 3), drawn(30, 2, seed=1)
    risk = tw.EmpiricalRisk(Residual(), nn.MSELoss(), x, y)
    theta = drawn(risk.space.size, seed=2)
    theta[risk.space.slice("W.weight")] = 0
    z = torch.tanh(x @ theta[risk.space.slice("U.weight")].reshape(3, 3).T)
    theta[risk.space.slice("V.weight")] = torch.linalg.lstsq(y.T @ z, -y.T @ x).solution.T.reshape(-1)
    assert float(risk.gradient(theta).norm()) < 1e-12
    found = descent(risk, theta)
    assert found.established, found.reason
    assert shown(risk, theta, found)


def test_kernels_of_linear_products() -> None:
    """A bottleneck read by a wider layer: its columns may move where the reader does not look."""
    net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False))
    x = drawn(12, 2)
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), x, drawn(12, 1, seed=3))
    theta = drawn(risk.space.size, seed=1)
    moves = find_moves(Case(risk, theta))
    assert [move.text for move in moves] == ["'0' may move in the kernel of '1'"]
    v = moves[0].draw(torch.Generator().manual_seed(0), 1.0)
    assert float((risk.outputs(theta + v) - risk.outputs(theta)).abs().max()) < 1e-13
    assert float(v.norm()) > 0.1
    narrow = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 3, bias=False))
    other = tw.EmpiricalRisk(narrow, nn.MSELoss(), x, drawn(12, 3, seed=3))
    found = descent(other, drawn(other.space.size))
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "it needs parameters that change no output" in found.reason


def silenced(activation: nn.Module, seed: int = 0, depth: int = 1) -> tuple[tw.EmpiricalRisk, Tensor]:
    """A stationary point: no outgoing weights, the last bias at the mean."""
    hidden: list[nn.Module] = [nn.Linear(2, 4), activation]
    for _ in range(depth - 1):
        hidden += [nn.Linear(4, 4), activation]
    x, y = drawn(9, 2, seed=seed), drawn(9, 1, seed=seed + 1)
    risk = tw.EmpiricalRisk(nn.Sequential(*hidden, nn.Linear(4, 1)), nn.MSELoss(), x, y)
    theta = drawn(risk.space.size, seed=seed + 2)
    theta[risk.space.slice(risk.space.names[-2])] = 0
    theta[risk.space.slice(risk.space.names[-1])] = y.mean()
    return risk, theta


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.ReLU(), nn.ELU()])
@pytest.mark.parametrize("depth", [1, 2])
def test_units_without_outgoing_weights(activation: nn.Module, depth: int) -> None:
    risk, theta = silenced(activation, depth=depth)
    found = descent(risk, theta)
    smooth = not isinstance(activation, nn.ReLU | nn.ELU)
    assert found.established or not smooth, found.reason
    if found.established:
        assert shown(risk, theta, found)
        assert found.level is Level.RIGOROUS


def test_a_unit_on_its_corner_leaves_it_at_once() -> None:
    """A ReLU unit with nothing in and nothing out: not differentiable here, but wherever it is moved."""
    x, y = drawn(9, 2), drawn(9, 1, seed=1)
    risk = tw.EmpiricalRisk(nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)), nn.MSELoss(), x, y - y.mean())
    theta = torch.zeros(5, dtype=DOUBLE)
    found = descent(risk, theta)
    assert found.established, found.reason
    assert shown(risk, theta, found)


# -- what must never be refuted ----------------------------------------------------------------------------------------


def refuted_at_its_teacher(samples: int, teachers: int, seeds: int) -> int:
    """How often a student that stands at its teacher is said to be no minimum."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    x = drawn(samples, 2)
    base = tw.EmpiricalRisk(net, nn.MSELoss(), x, torch.zeros(samples, 2))
    wrong = 0
    for number in range(teachers):
        teacher = drawn(12, seed=number)
        risk = base.on(x, base.outputs(teacher))
        for seed in range(seeds):
            found = certify(risk, teacher, [FibreDescent(), FibreSearch()], seed=seed)
            wrong += any(each.established for each in found)
    return wrong


def test_a_student_at_its_teacher_is_never_refuted() -> None:
    """With many samples a strict minimum, with few one of many."""
    assert refuted_at_its_teacher(40, 5, 4) == 0
    assert refuted_at_its_teacher(2, 2, 2) == 0


@pytest.mark.soak
@pytest.mark.parametrize("samples", [2, 40])
def test_a_hundred_trials_at_teachers(samples: int, soak_figure: Callable[[str, object], None]) -> None:
    wrong = refuted_at_its_teacher(samples, 10, 10)
    soak_figure(f"fibre trials at teachers of {samples} samples: refuted of 100", wrong)
    assert wrong == 0


def test_targets_that_are_met_or_lie_evenly_around_withdraw_it() -> None:
    """Silent units, but the constant is best for every input: a global minimum."""
    x = drawn(6, 2)
    x = torch.cat([x, x])
    apart = drawn(6, 1, seed=1).round()
    risk = tw.EmpiricalRisk(
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), nn.MSELoss(), x, torch.cat([apart, -apart])
    )
    theta = drawn(risk.space.size, seed=2)
    theta[risk.space.slice("2.weight")] = 0
    theta[risk.space.slice("2.bias")] = 0
    assert descent(risk, theta).outcome is Outcome.UNDECIDED
    uneven = risk.on(x, torch.cat([apart, -apart + torch.eye(6, dtype=DOUBLE)[:, :1]]))
    assert descent(uneven, theta).established


def test_weight_decay_on_what_moves_withdraws_it() -> None:
    risk, theta = silenced(nn.Tanh())
    assert descent(risk, theta).established
    assert descent(risk + tw.L2(risk, 1e-3), theta).outcome is Outcome.NOT_APPLICABLE
    elsewhere = risk + tw.L2(risk, 1e-3, parameters="2.weight")
    assert descent(elsewhere, theta).established
    penalty = risk + tw.Penalty(risk, lambda p: (p["0.weight"] ** 2).sum(), name="own")
    found = descent(penalty, theta)
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "Penalty(own)" in found.reason


def test_one_small_outgoing_weight_withdraws_it() -> None:
    risk, theta = silenced(nn.Tanh())
    theta[risk.space.slice("2.weight")] = 1e-300
    assert descent(risk, theta).outcome is Outcome.NOT_APPLICABLE


def test_frozen_and_tied_weights_do_not_move() -> None:
    risk, theta = silenced(nn.Tanh())
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    risk.load_into_model(theta, model)
    frozen = tw.EmpiricalRisk(model, nn.MSELoss(), risk.inputs, risk.targets, parameters="2.*")
    assert descent(frozen, frozen.initial).outcome is Outcome.NOT_APPLICABLE

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.w.T) @ self.w

    x = drawn(7, 2)
    tied = tw.EmpiricalRisk(Tied(), nn.MSELoss(), x, drawn(7, 2, seed=1))
    assert descent(tied, torch.zeros(4, dtype=DOUBLE)).outcome is Outcome.NOT_APPLICABLE


def test_a_norm_that_mixes_units_is_noticed() -> None:
    """Under a layer norm a unit without outgoing weights still scales the others."""
    net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
    risk = tw.EmpiricalRisk(net, nn.MSELoss(), drawn(9, 2), drawn(9, 1, seed=1))
    theta = drawn(risk.space.size, seed=2)
    weight = theta[risk.space.slice("3.weight")]
    weight[0] = 0
    found = descent(risk, theta)
    if found.established:
        assert shown(risk, theta, found)


# -- random moves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 4])
def test_random_moves_find_the_saddle_too_and_say_that_they_sampled(depth: int) -> None:
    (found,) = certify(product_of(depth, 1), torch.zeros(depth, dtype=DOUBLE), ["fibre search"])
    assert found.established, found.reason
    assert found.level is Level.HEURISTIC
    assert "as far as sampling shows" in found.claim


def test_random_moves_are_declined_where_they_cannot_succeed() -> None:
    risk, theta = silenced(nn.Tanh())
    reasons: list[tuple[Callable[[], tw.Objective], str]] = [
        (lambda: risk + tw.L2(risk, 0.1), "a loss without other terms"),
        (lambda: risk.on(drawn(30, 2), drawn(30, 1)), "more parameters than outputs"),
    ]
    for make, why in reasons:
        (found,) = certify(make(), theta, ["fibre search"])
        assert found.outcome is Outcome.NOT_APPLICABLE
        assert why in found.reason
