"""Population risks against quadrature, samples, and values known to many digits."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError, MemoryLimitError, NotApplicableError, memory_limit
from thalweg.objectives import PopulationRisk, gauss_hermite_risk, population_risk
from thalweg.zoo import check_objective


class Erf(nn.Module):
    def __init__(self, inside: float = 1 / math.sqrt(2)) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, z: Tensor) -> Tensor:
        return torch.erf(self.inside * z)


class Normal(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-z / 2**0.5)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def network(
    inputs: int, units: int, outputs: int, activation: nn.Module,
    *, bias: bool = True, seed: int = 0, scale: float = 1.0,
) -> nn.Sequential:  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(inputs, units, bias=bias), activation, nn.Linear(units, outputs, bias=bias))
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=scale)
        return made.double()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "erf(z/sqrt2)": Erf, "erf": lambda: Erf(1.0), "normal_cdf": Normal, "relu": nn.ReLU
}  # fmt: skip


def test_the_spot_value_of_the_sheet() -> None:
    """1-D student w = (0.9, 1.4), a = (2, -0.3) against erf((5x + 2.5)/sqrt2) + erf((5x - 2.5)/sqrt2)."""
    student = nn.Sequential(nn.Linear(1, 2, bias=False), Erf(), nn.Linear(2, 1, bias=False)).double()
    teacher = nn.Sequential(nn.Linear(1, 2), Erf(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        student[0].weight.copy_(torch.tensor([[0.9], [1.4]], dtype=torch.float64))
        student[2].weight.copy_(torch.tensor([[2.0, -0.3]], dtype=torch.float64))
        teacher[0].weight.fill_(5.0)
        teacher[0].bias.copy_(torch.tensor([2.5, -2.5]))
        teacher[2].weight.fill_(1.0)
    risk = PopulationRisk(student, teacher)
    assert float(risk.value(risk.initial)) == pytest.approx(0.410127415723, abs=1e-11)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "relu"])
@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_value_gradient_and_hessian_are_those_of_quadrature(name: str, inputs: int, bias: bool) -> None:
    student = network(inputs, 3, 2, ACTIVATIONS[name](), bias=bias, scale=0.7)
    teacher = network(inputs, 2, 2, ACTIVATIONS[name](), seed=1, scale=0.7)
    closed = population_risk(student, teacher)
    assert isinstance(closed, PopulationRisk)
    assert closed.activation == name
    nodes = gauss_hermite_risk(student, teacher, nodes=None if inputs == 1 else 150)
    for theta in (closed.initial, closed.initial + 0.3 * torch.sin(torch.arange(len(closed.initial)).double())):
        found, wanted = closed.evaluate(theta, 2), nodes.evaluate(theta, 2)
        assert torch.allclose(found.value, wanted.value, atol=1e-10, rtol=0)
        assert torch.allclose(found.gradient, wanted.gradient, atol=1e-10, rtol=0)
        assert torch.allclose(found.hessian, wanted.hessian, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_million_samples_agree_within_their_error(name: str, bias: bool) -> None:
    student = network(3, 4, 1, ACTIVATIONS[name](), bias=bias, scale=0.8)
    teacher = network(3, 2, 1, ACTIVATIONS[name](), bias=bias, seed=1, scale=0.8)
    risk = PopulationRisk(student, teacher)
    x = torch.randn(1_000_000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        squares = (student(x) - teacher(x)).square().sum(1)
    error = float(squares.std()) / 1000
    assert abs(float(squares.mean()) - float(risk.value(risk.initial))) < 4 * error
    assert error < 0.01 * float(squares.mean())


def test_relus_with_biases_against_a_fine_sum_in_one_dimension() -> None:
    student = network(1, 3, 1, nn.ReLU(), scale=0.9)
    teacher = network(1, 2, 1, nn.ReLU(), seed=1)
    risk = PopulationRisk(student, teacher)
    x = torch.linspace(-10, 10, 2_000_001, dtype=torch.float64).unsqueeze(1)
    density = torch.exp(-(x.squeeze(1) ** 2) / 2) / math.sqrt(2 * math.pi) * 1e-5
    with torch.no_grad():
        wanted = float(((student(x) - teacher(x)).squeeze(1) ** 2 * density).sum())
    assert float(risk.value(risk.initial)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_derivatives_are_those_of_the_value(name: str, bias: bool) -> None:
    risk = PopulationRisk(
        network(3, 3, 2, ACTIVATIONS[name](), bias=bias), network(3, 2, 2, ACTIVATIONS[name](), bias=bias, seed=1)
    )
    check_objective(risk, risk.initial + 0.1 * drawn(3, risk.space.size))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_teacher_itself_is_a_global_minimum(name: str) -> None:
    teacher = network(3, 2, 1, ACTIVATIONS[name](), scale=0.8)
    risk = PopulationRisk(teacher, teacher)
    found = risk.evaluate(risk.initial, 2)
    size = float(PopulationRisk(teacher, network(3, 1, 1, ACTIVATIONS[name](), scale=1e-9)).value(risk.initial))
    assert abs(float(found.value)) < 2e-13 * (1 + size)
    assert float(found.gradient.abs().max()) < 1e-13 * (1 + size)
    assert float(torch.linalg.eigvalsh(found.hessian)[0]) > (-1e-4 if name == "relu" else -1e-12)
    verdict = tw.find_critical_point(risk, risk.initial + 0.02 * drawn(risk.space.size))
    assert float(risk.value(verdict.theta)) < 1e-12


def test_frozen_parameters_stay() -> None:
    student = network(2, 3, 1, Erf())
    student[0].bias.requires_grad_(False)
    teacher = network(2, 2, 1, Erf(), seed=1)
    part, whole = PopulationRisk(student, teacher), PopulationRisk(network(2, 3, 1, Erf()), teacher)
    assert part.space.size == whole.space.size - 3
    assert float(part.value(part.initial)) == pytest.approx(float(whole.value(whole.initial)), rel=1e-14)
    again = pickle.loads(pickle.dumps(part))
    assert again.fingerprint() == part.fingerprint() != whole.fingerprint()


@pytest.mark.soak
def test_a_sample_is_minimised_at_a_distance_that_falls_as_its_size(
    soak_figure: Callable[[str, object], None],
) -> None:
    """The squared distance of the minimiser of N samples to that of the population falls as 1/N."""
    teacher, student = network(3, 2, 1, Erf(), seed=3), network(3, 1, 1, Erf(), seed=4)
    population = PopulationRisk(student, teacher)
    best = tw.minimize(population, population.initial)
    assert bool(best.converged.all())
    means = []
    for samples in (1_000, 10_000, 100_000):
        squares = []
        for seed in range(12):
            x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            with torch.no_grad():
                risk = tw.EmpiricalRisk(student, nn.MSELoss(), x, teacher(x))
            squares.append(float((tw.minimize(risk, best.theta).theta - best.theta).square().sum()))
        means.append(math.log(sum(squares) / len(squares)))
    slope = (means[2] - means[0]) / math.log(100)
    soak_figure("slope of the squared distance in the number of samples", f"{slope:.3f}")
    assert slope == pytest.approx(-1, abs=0.15)


def test_what_has_no_closed_form_is_integrated_or_refused_by_name() -> None:
    tanh = network(2, 3, 1, nn.Tanh())
    with pytest.raises(NotApplicableError, match="no averages are written for tanh"):
        PopulationRisk(tanh, tanh)
    assert isinstance(population_risk(tanh, tanh), tw.EmpiricalRisk)
    with pytest.raises(NotApplicableError, match=r"tanh.*and a grid over 4 inputs"):
        population_risk(network(4, 2, 1, nn.Tanh()), network(4, 2, 1, nn.Tanh()))
    with pytest.raises(NotApplicableError, match=r"one activation, not erf\(z/sqrt2\) here and relu"):
        PopulationRisk(network(2, 3, 1, Erf()), network(2, 3, 1, nn.ReLU()))
    deep = nn.Sequential(nn.Linear(2, 3), Erf(), nn.Linear(3, 3), Erf(), nn.Linear(3, 1))
    with pytest.raises(NotApplicableError, match=r"the student must be a perceptron .* it has 2 hidden layers"):
        PopulationRisk(deep, deep)
    bent = nn.Sequential(nn.Linear(2, 3), Erf(), nn.Linear(3, 1), nn.Sigmoid())
    with pytest.raises(NotApplicableError, match=r"the teacher must be .* pass through sigmoid"):
        PopulationRisk(network(2, 3, 1, Erf()), bent)
    with pytest.raises(InvalidInputError, match="the student has 1 outputs, the teacher 2"):
        PopulationRisk(network(2, 3, 1, Erf()), network(2, 3, 2, Erf()))
    with pytest.raises(InvalidInputError, match="give it as dimension="):
        gauss_hermite_risk(nn.Bilinear(2, 2, 1), torch.sin)
    with pytest.raises(MemoryLimitError, match="nodes"), memory_limit("1MB"):
        gauss_hermite_risk(network(2, 3, 1, nn.Tanh()), torch.sin, nodes=1000)


def test_bad_networks_are_named() -> None:
    for maker in (Erf, nn.Tanh):  # in closed form, and by quadrature
        with pytest.raises(InvalidInputError, match=r"the teacher fails on inputs of 2 number\(s\): mat1"):
            population_risk(network(2, 3, 1, maker()), network(3, 3, 1, maker()))
        broken = network(2, 3, 1, maker())
        with torch.no_grad():
            broken[0].weight[0, 0] = math.nan
        with pytest.raises(InvalidInputError, match=r"the teacher's parameter '0.weight' holds NaN"):
            population_risk(network(2, 3, 1, maker()), broken)
        with pytest.raises(InvalidInputError, match=r"the student fails on inputs of 3 number\(s\)"):
            population_risk(network(2, 3, 1, maker()), network(3, 3, 1, maker()), dimension=3)
    with pytest.raises(InvalidInputError, match="the student has no trainable parameter"):
        PopulationRisk(network(2, 3, 1, Erf()).requires_grad_(False), network(2, 3, 1, Erf()))
    with pytest.raises(InvalidInputError, match=r"whole number of at least 1, got 2\.5"):
        gauss_hermite_risk(network(2, 3, 1, Erf()), torch.sin, nodes=2.5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"the student must be an nn.Module, got str"):
        population_risk("student", broken)  # type: ignore[arg-type]
