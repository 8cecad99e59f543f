"""Gradients with proved errors against 80-bit and 50-digit arithmetic, and what must withdraw the refutation."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from long_networks import ACTIVATIONS, LONG, LongNetwork, has_long
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Case, Level, NonzeroGradient, Outcome, Scope, State, certify
from thalweg.certificates.bounded_arithmetic import added, exactly, matrix_product, multiplied, scaled, summed
from thalweg.certificates.forward import Bounded
from thalweg.certificates.gradient_bounds import EXACT_SLOPES, bounded_derivative
from thalweg.certificates.line_derivatives import EXACT_BENDS, bounded_bending, proved_line_derivatives
from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.structure import activation_facts

needs_long = pytest.mark.skipif(not has_long(), reason="no long double longer than a double on this machine")
mp = mpmath.mp


def targets(loss: str, n: int, outputs: int, rng: np.random.Generator) -> np.ndarray:
    if loss == "labels":
        return rng.integers(0, outputs, n)
    return {
        "squares": rng.normal(size=(n, outputs)),
        "bits": rng.random((n, outputs)),
        "signs": rng.integers(0, 2, (n, outputs)) * 2.0 - 1,
    }[loss]


def network(activation: str, loss: str, seed: int, scale: float = 1.0, **more: object) -> LongNetwork:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 3)) * scale
    return LongNetwork((3, 5, 4, 3), activation, True, loss, x, targets(loss, 6, 3, rng), **more)  # type: ignore[arg-type]


# -- sums and products with errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_arithmetic_holds_whatever_the_numbers_are_within_their_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> tuple[Bounded, np.ndarray]:
        value = rng.normal(size=shape) * 10.0 ** rng.integers(-8, 8, shape)
        error = np.abs(value) * 10.0 ** -rng.integers(1, 18, shape)
        exact = value.astype(LONG) + error.astype(LONG) * rng.choice([-1, 1, 0.3], shape)
        return Bounded(torch.tensor(value), torch.tensor(error)), exact

    (a, a_exact), (b, b_exact), (c, c_exact) = drawn(4, 3), drawn(4, 3), drawn(3, 5)
    for found, exact in (
        (added(a, b), a_exact + b_exact),
        (multiplied(a, b), a_exact * b_exact),
        (scaled(a, 0.3), a_exact * LONG(0.3)),
        (matrix_product(a, c), a_exact @ c_exact),
        (summed(a, 1), a_exact.sum(1)),
        (exactly(a.value), a.value.numpy().astype(LONG)),
    ):
        gap = np.abs(found.value.numpy().astype(LONG) - exact)
        assert (gap <= found.error.numpy().astype(LONG) * (1 + LONG(1e-17)) + LONG(1e-300)).all()


EXACT = {
    "arctan": mpmath.atan,
    "cos": mpmath.cos,
    "elu": lambda z: z if z > 0 else mpmath.expm1(z),
    "erf": mpmath.erf,
    "erf(z/sqrt2)": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
    "gaussian": lambda z: mpmath.exp(-z * z),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "log(1+exp(z))": lambda z: mpmath.log1p(mpmath.exp(z)),
    "normal_cdf": mpmath.ncdf,
    "selu": lambda z: (
        mpmath.mpf(1.0507009873554804934193349852946)
        * (z if z > 0 else mpmath.mpf(1.6732632423543772848170429916717) * mpmath.expm1(z))
    ),
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "sin": mpmath.sin,
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "tanh": mpmath.tanh,
}
ARGUMENTS = torch.tensor(
    [-50.0, -19.5, -6.3, -3.1, -1.7, -0.9, -0.31, -1e-3, -1e-9, 1e-12, 1e-4, 0.27, 0.8, 1.3, 2.9, 7.7, 14.9, 19.7, 20.3,
     44.0],
    dtype=torch.float64,
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXACT_SLOPES))
def test_slopes_and_second_derivatives_are_within_their_errors(name: str) -> None:
    facts = activation_facts(name)
    with mpmath.workdps(60):
        for error in (0.0, 1e-7):
            clear = ARGUMENTS[ARGUMENTS.abs() > error] if facts.kinks else ARGUMENTS
            z = Bounded(clear, torch.full_like(clear, error))
            slope = bounded_derivative(facts, z)
            bend = bounded_bending(facts, z) if name in EXACT_BENDS else None
            for sign in (-1, 1):
                for place, argument in enumerate(clear.tolist()):
                    at = mpmath.mpf(argument) + sign * mpmath.mpf(error) * mpmath.mpf("0.999")
                    truth = mpmath.diff(EXACT[name], at)
                    assert abs(truth - float(slope.value[place])) <= float(slope.error[place])
                    if bend is not None:
                        truth = mpmath.diff(EXACT[name], at, 2)
                        assert abs(truth - float(bend.value[place])) <= float(bend.error[place])


def test_slopes_of_unknown_accuracy_and_arguments_on_corners_are_refused() -> None:
    z = Bounded(torch.tensor([1e-17]).double(), torch.tensor([1e-16]).double())
    with pytest.raises(NotApplicableError, match="may lie on its corner"):
        bounded_derivative(activation_facts("relu"), z)
    with pytest.raises(NotApplicableError, match="no rounding bound is written for the slope of mish"):
        bounded_derivative(activation_facts("mish"), z)


# -- gradients ---------------------------------------------------------------------------------------------------------


@needs_long
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["squares", "labels", "bits", "signs"])
def test_the_gradient_is_within_its_error(activation: str, loss: str) -> None:
    rng = np.random.default_rng(1)
    large = 1e6 if loss != "signs" else 10.0  # torch's own loss overflows beyond
    for seed, (scale, size, decay) in enumerate(
        [(1.0, 1.0, 0.0), (large, 1e-3, 0.3), (1e-6, 3.0, 0.0), (1.0, 1e-6, 1e-4)]
    ):
        problem = network(activation, loss, seed, scale, decay=decay, weights=rng.random(6))
        theta = rng.normal(size=problem.parameters) * size
        case = Case(problem.objective, torch.tensor(theta))
        exact, found = problem.gradient(theta), case.bounded_gradient
        assert (np.abs(found.value.numpy().astype(LONG) - exact) <= found.error.numpy()).all()
        assert float(found.error.max()) <= 1e-9 * (1 + float(found.value.abs().max())) * max(1.0, scale * size) ** 2
        estimated = case.gradient_error.numpy()
        assert (np.abs(case.gradient.numpy().astype(LONG) - exact) <= estimated).all()


@needs_long
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "relu", "leaky", "identity"])
@pytest.mark.parametrize("loss", ["squares", "labels", "bits", "signs"])
def test_derivatives_along_a_line_are_within_their_errors(activation: str, loss: str) -> None:
    rng = np.random.default_rng(5)
    problem = network(activation, loss, 7, decay=0.2)
    theta, v = rng.normal(size=problem.parameters), rng.normal(size=problem.parameters)
    found = proved_line_derivatives(Case(problem.objective, torch.tensor(theta)), torch.tensor(v))
    first = (problem.gradient(theta) * v).sum()
    assert abs(LONG(found.first.value) - first) <= found.first.error
    h, seen = LONG(1e-6), []
    for step in (h, h / 2):
        ahead, behind = (problem.gradient(theta + sign * step * v) for sign in (1, -1))
        seen.append(((ahead - behind) * v).sum() / (2 * step))
    extrapolated = (4 * seen[1] - seen[0]) / 3  # the difference is of second order
    assert abs(LONG(found.second.value) - extrapolated) <= found.second.error + LONG(1e-10) * (1 + abs(extrapolated))
    assert found.second.error <= 1e-10 * (1 + abs(found.second.value))


def test_tied_and_frozen_weights_are_added_up_or_left_out() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[0.3, -0.4], [0.5, 0.2]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.w.T) @ self.w.T

    x, y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double(), torch.ones(5, 2).double()
    risk = tw.EmpiricalRisk(Tied(), nn.MSELoss(), x, y)
    case = Case(risk, risk.initial)
    assert case.dense().tied
    assert bool(((case.bounded_gradient.value - case.gradient).abs() <= case.bounded_gradient.error).all())
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    part = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, parameters="2.*")
    case = Case(part, part.initial)
    assert len(case.bounded_gradient.value) == 8
    assert bool(((case.bounded_gradient.value - case.gradient).abs() <= 2 * case.bounded_gradient.error).all())


# -- the refutation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_terms_that_cancel_in_the_sum_refute_nothing(own: bool) -> None:
    """At theta = 0 the gradient is a sum over samples that is exactly zero; in floating point it is 3e-18."""
    x = torch.tensor([0.1, 0.7, 0.3, -0.1, -0.3, -0.7], dtype=torch.float64).reshape(-1, 1)
    loss = (lambda f, y: ((f - y) ** 2).mean()) if own else nn.MSELoss()
    risk = tw.EmpiricalRisk(nn.Linear(1, 1, bias=False), loss, x, torch.ones(6, 1), reduction="mean" if own else None)
    (found,) = certify(risk, torch.zeros(1).double(), ["gradient"])
    assert float(risk.gradient(torch.zeros(1).double()).abs()) < 1e-15
    assert found.outcome is Outcome.UNDECIDED


def test_balanced_classes_at_zero_refute_nothing() -> None:
    def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels)

    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    for loss, reduction in ((nn.CrossEntropyLoss(), None), (cross_entropy, "mean")):
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
        risk = tw.EmpiricalRisk(model, loss, x, torch.tensor([0, 1, 2, 2, 1, 0]), reduction=reduction)
        assert certify(risk, torch.zeros(risk.space.size).double(), ["gradient"])[0].outcome is Outcome.UNDECIDED


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_corner_within_rounding_withdraws_it(scale: float) -> None:
    """|w x - 1| has its minimum on the corner, where the computed slope is one."""
    x = torch.tensor([[0.1 * scale]], dtype=torch.float64)

    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, 1))

        def forward(self, inputs: Tensor) -> Tensor:
            z = inputs @ self.w.T - 1.0
            return torch.relu(z) + torch.relu(-z)

    risk = tw.EmpiricalRisk(Distance(), lambda f, _: f.mean(), x, torch.zeros(1, 1), reduction="mean")
    corner = torch.tensor([1 / (0.1 * scale)], dtype=torch.float64)
    for theta in (corner, corner * (1 + 2e-16), corner * (1 - 2e-16)):
        assert certify(risk, theta, ["gradient"])[0].outcome is not Outcome.ESTABLISHED
    (found,) = certify(risk, corner * 1.01, ["gradient"])
    assert found.established
    assert found.level is Level.NUMERIC


def test_rigorous_for_perceptrons_numeric_for_others_and_a_branch_withdraws() -> None:
    x, y = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double(), torch.ones(5, 1).double()
    plain = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    risk = tw.EmpiricalRisk(plain, nn.MSELoss(), x, y)
    (found,) = certify(risk, risk.initial, ["gradient"])
    assert found.level is Level.RIGOROUS
    assert found.hypotheses[0].state is State.PROVED
    penalty = tw.Penalty(risk, lambda p: (p["0.weight"] ** 4).sum(), name="quartic")
    assert certify(risk + penalty, risk.initial, ["gradient"])[0].level is Level.NUMERIC
    assert certify(risk + tw.L2(risk, 0.1), risk.initial, ["gradient"])[0].level is Level.RIGOROUS

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, 2))

        def forward(self, inputs: Tensor) -> Tensor:
            f = inputs @ self.w.T
            return f if float(self.w.detach().sum()) > 0 else 2 * f

    branching = tw.EmpiricalRisk(Branching(), nn.MSELoss(), x, y)
    (found,) = certify(branching, branching.initial, ["gradient"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "branches" in found.reason


def test_a_lipschitz_constant_makes_a_ball_of_it() -> None:
    bowl = tw.L2(tw.ParameterSpace({"x": (2,)}), 2.0)
    there = torch.tensor([3.0, 4.0]).double()
    (found,) = certify(bowl, there, [NonzeroGradient(gradient_lipschitz=2.0)])
    assert found.scope is Scope.BALL
    assert found.bound is not None
    assert 4.999 < found.bound <= 5  # the minimum lies exactly that far
    assert any(h.state is State.ASSUMED for h in found.hypotheses)
    with pytest.raises(InvalidInputError, match="gradient_lipschitz must be positive"):
        NonzeroGradient(gradient_lipschitz=0.0)
