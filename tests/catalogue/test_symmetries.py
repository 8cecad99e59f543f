"""Which points are one and the same, against every copy written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from catalogue_cases import ACTIVATIONS, all_copies, changed, draws, perceptron, risk
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thalweg.catalogue import symmetries_of
from thalweg.foundation import InvalidInputError
from thalweg.objectives import L2, EmpiricalRisk, Penalty, PopulationRisk

SHAPES = ((2, 3, 1), (1, 4, 2), (2, 2, 3, 1))


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from(SHAPES),
    st.booleans(),
    st.integers(0, 2**31),
    st.sampled_from(["anywhere", "equal units", "sign near zero", "zeros"]),
    st.sampled_from([0.0, 1e-9]),
)
def test_every_copy_has_one_form_and_no_distance(
    activation: str, widths: tuple[int, ...], bias: bool, seed: int, special: str, noise: float
) -> None:
    if activation == "relu" and special in ("sign near zero", "zeros"):
        noise = 0.0  # what a unit that vanishes points to is noise itself, and scaling brings it to light
    objective = risk(activation, widths, bias)
    found = symmetries_of(objective)
    theta = _special(draws(objective, 1, seed)[0], widths, bias, special)
    copies = list(all_copies(theta, widths, bias, odd=activation == "tanh"))
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(copies), generator=generator)[:8].tolist()
    for number in some:
        other = copies[number] + noise * torch.randn(len(theta), generator=generator, dtype=torch.float64)
        assert found.distance(theta, other) < 1e-7
        assert found.same(theta, other)
        assert abs(float(found.invariant(theta) - found.invariant(other))) <= found.invariant_error(1e-8)
    if special == "anywhere" and activation != "relu":
        forms = found.canonical(torch.stack(copies))
        assert _difference(forms, forms[:1]) < 1e-12
        assert min(_difference(forms[0], one) for one in copies) < 1e-12  # it is a copy itself


def _special(theta: Tensor, widths: tuple[int, ...], bias: bool, special: str) -> Tensor:
    theta, d = theta.clone(), widths[0]
    start = d * widths[1]
    if special == "equal units":  # two units with nearly the same incoming weights
        theta[d : 2 * d] = theta[:d] + 1e-12
        if bias:
            theta[start + 1] = theta[start]
    if special == "sign near zero":
        theta[:d] *= 1e-11
        if bias:
            theta[start] = 0
    if special == "zeros":
        theta[: 2 * d] = 0
    return theta


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from(SHAPES), st.booleans(), st.integers(0, 2**31))
def test_same_is_what_trying_all_copies_says(activation: str, widths: tuple[int, ...], bias: bool, seed: int) -> None:
    objective = risk(activation, widths, bias)
    found = symmetries_of(objective)
    theta, other = draws(objective, 2, seed)
    copies = list(all_copies(other, widths, bias, odd=activation == "tanh"))
    nearly = copies[seed % len(copies)] + 1e-3 * theta  # near a copy, but another point
    for point in (other, nearly):
        assert found.same(theta, point) is False
    if activation != "relu":  # no scaling: the least distance over all copies is below what alignment finds
        least = min(_difference(other, one) for one in all_copies(nearly, widths, bias, odd=activation == "tanh"))
        assert least - 1e-12 <= found.distance(other, nearly) <= 1e-3 * float(theta.abs().max()) + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.booleans(), st.integers(0, 2**31))
def test_scales_of_relu_units_do_not_count(widths: tuple[int, ...], bias: bool, seed: int) -> None:
    if bias and len(widths) > 3:
        bias = False  # by hand the bias of the next layer would scale too; the first layer is tried with biases
    objective = risk("relu", widths, bias)
    found = symmetries_of(objective)
    theta = draws(objective, 1, seed)[0]
    generator = torch.Generator().manual_seed(seed)
    other = theta
    for layer, width in enumerate(widths[1:-1]):
        scales = torch.exp(2 * torch.randn(width, generator=generator, dtype=torch.float64))
        other = changed(other, widths, bias, layer, torch.randperm(width, generator=generator).tolist(), None, scales)
    assert float(objective.value(other)) == pytest.approx(float(objective.value(theta)), rel=1e-10)
    assert found.same(theta, other)
    assert found.distance(theta, other) < 1e-10 * (1 + float(theta.abs().max())) ** 3
    assert _difference(found.canonical(theta), found.canonical(other)) < 1e-8
    assert float(objective.value(found.canonical(theta))) == pytest.approx(float(objective.value(theta)), rel=1e-9)


def test_form_is_batched_and_keeps_the_value() -> None:
    objective = risk("tanh", (2, 2, 3, 1))
    found = symmetries_of(objective)
    theta = draws(objective, 6, 1).reshape(2, 3, -1)
    forms = found.canonical(theta)
    assert forms.shape == theta.shape
    torch.testing.assert_close(objective.value(forms), objective.value(theta))
    torch.testing.assert_close(forms[1, 2], found.canonical(theta[1, 2]))
    assert found.invariant(theta).shape == (2, 3)


def test_sign_of_an_even_activation_is_that_of_incoming_weights_alone() -> None:
    class Square(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.square()

    torch.manual_seed(0)
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    objective = EmpiricalRisk(nn.Sequential(nn.Linear(2, 2), Square(), nn.Linear(2, 1)), nn.MSELoss(), x, y)
    found = symmetries_of(objective)
    assert found.units[0].kinds == ("permutation", "sign", "scaling")
    theta = draws(objective, 1, 0)[0]
    other = theta.clone()
    other[[0, 1, 4]] *= -1
    assert found.same(theta, other)
    other[6] *= -1
    assert not found.same(theta, other)
    other = theta.clone()
    other[[0, 1, 4]] *= 3
    other[6] /= 9  # of degree two
    assert found.same(theta, other)


def test_weight_decay_breaks_scaling_and_keeps_permutations() -> None:
    plain = risk("relu")
    decayed = plain + L2(plain, 1e-6)
    assert symmetries_of(plain).units[0].kinds == ("permutation", "scaling")
    found = symmetries_of(decayed)
    assert found.units[0].kinds == ("permutation",)
    assert "scaling" in found.reason
    theta = draws(plain, 1, 0)[0]
    assert not found.same(theta, changed(theta, (2, 3, 1), True, 0, [0, 1, 2], None, torch.tensor([2.0, 1.0, 1.0])))
    assert found.same(theta, changed(theta, (2, 3, 1), True, 0, [2, 0, 1]))


def test_a_penalty_that_knows_a_unit_leaves_nothing() -> None:
    plain = risk()
    favourite = Penalty(plain, lambda p: 1e-9 * p["0.weight"][0].sum(), name="favourite unit")
    found = symmetries_of(plain + favourite)
    assert found.units == ()
    theta = draws(plain, 1, 0)[0]
    assert not found.same(theta, changed(theta, (2, 3, 1), True, 0, [1, 0, 2]))
    assert found.same(theta, theta)
    assert symmetries_of(plain + L2(plain, 1.0, "0.weight")).units[0].kinds == ("permutation", "sign")


def test_frozen_tied_and_unknown_weights_have_only_the_identity() -> None:
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    frozen = perceptron("tanh", (2, 3, 1))
    frozen[0].weight.requires_grad_(False)
    objective = EmpiricalRisk(frozen, nn.MSELoss(), x, y)
    found = symmetries_of(objective)
    theta = draws(objective, 1, 0)[0]  # biases (3,), outgoing weights (1, 3), bias
    assert found.units == ()
    assert "identity" in repr(found)
    assert not found.same(theta, theta[[1, 0, 2, 4, 3, 5, 6]])

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, z: Tensor) -> Tensor:
            return torch.tanh(self.layer(torch.tanh(self.layer(z))))

    assert symmetries_of(EmpiricalRisk(Tied(), nn.MSELoss(), x, torch.randn(9, 2))).units == ()
    bowl = L2(objective, 1.0)
    assert symmetries_of(bowl).units == ()
    assert "no term over data" in symmetries_of(bowl).reason


def test_population_risks_have_the_symmetries_of_the_student() -> None:
    torch.manual_seed(0)
    student, teacher = perceptron("relu", (2, 3, 1)), perceptron("relu", (2, 2, 1))
    objective = PopulationRisk(student, teacher)
    found = symmetries_of(objective)
    assert found.units[0].kinds == ("permutation", "scaling")
    theta = draws(objective, 1, 0)[0]
    scales = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    assert found.same(theta, changed(theta, (2, 3, 1), True, 0, [2, 0, 1], None, scales))
    assert symmetries_of(objective + L2(objective, 1.0)).units[0].kinds == ("permutation",)
    partly = copy.deepcopy(student)
    partly[0].bias.requires_grad_(False)
    assert symmetries_of(PopulationRisk(partly, teacher)).units == ()


def test_mirror_images_of_equal_value_are_different_points() -> None:
    # swapping the two inputs leaves the loss as it is, for symmetric data, but is no symmetry of the network
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.5, -1.0], [-1.0, 0.5]], dtype=torch.float64)
    objective = EmpiricalRisk(perceptron("gelu", (2, 2, 1)), nn.MSELoss(), x, x.sum(1, keepdim=True).sin())
    theta = draws(objective, 1, 3)[0]
    mirror = theta[[1, 0, 3, 2, 4, 5, 6, 7, 8]]
    assert float(objective.value(theta)) == pytest.approx(float(objective.value(mirror)), rel=1e-14)
    found = symmetries_of(objective)
    assert not found.same(theta, mirror)
    assert abs(float(found.invariant(theta) - found.invariant(mirror))) > 1e-3  # and they are not even candidates


def test_refusals() -> None:
    found = symmetries_of(risk())
    theta = draws(risk(), 2, 0)
    with pytest.raises(InvalidInputError, match="expected"):
        found.canonical(theta[:, :4])
    with pytest.raises(InvalidInputError, match="two parameter vectors"):
        found.distance(theta, theta)
    with pytest.raises(InvalidInputError, match="positive"):
        found.same(theta[0], theta[1], 0.0)
