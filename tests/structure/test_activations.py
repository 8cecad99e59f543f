"""Every declared fact, compared with what the function does."""

import math
import pickle

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from thalweg.foundation import InvalidInputError
from thalweg.structure import (
    ActivationFacts,
    activation_facts,
    contradictions,
    elu_facts,
    leaky_relu_facts,
    power_facts,
    register_activation,
    registered_activations,
    softplus_facts,
)

BUILT_IN = [f for f in registered_activations() if not f.name.startswith(("doctest", "test"))]
FAMILIES = [
    leaky_relu_facts(0.3), leaky_relu_facts(-0.5), leaky_relu_facts(2.0), elu_facts(0.5), elu_facts(2.0, 3.0),
    power_facts(4), power_facts(5), softplus_facts(3.0), softplus_facts(0.5, math.inf),
    activation_facts("sigmoid").rescaled(4.0, -2.0), activation_facts("relu").rescaled(-1.0, 0.5),
    activation_facts("gelu").rescaled(-2.0), activation_facts("elu").rescaled(0.5, 3.0),
]  # fmt: skip
EVERY = pytest.mark.parametrize("facts", BUILT_IN + FAMILIES, ids=lambda f: f.name)


def grid(reach=40.0, count=200_001):
    """A dense grid that misses the kinks at small integers and zero."""
    return torch.linspace(-reach, reach, count, dtype=torch.float64) + 1e-7 * math.pi


def by_autograd(facts, z, order):
    z = z.clone().requires_grad_()
    value = facts.function(z)
    for _ in range(order):
        if not value.requires_grad:
            return torch.zeros_like(z)
        (value,) = torch.autograd.grad(value.sum(), z, create_graph=True, materialize_grads=True)
    return value.detach()


@EVERY
def test_closed_derivatives_agree_with_autograd(facts):
    z = grid(count=4001)
    for order in range(1, len(facts.derivatives) + 2):
        expected = by_autograd(facts, z, order)
        assert torch.allclose(facts.derivative(z, order), expected, rtol=1e-9, atol=1e-11), order


@EVERY
def test_parity(facts):
    z = grid()
    even = torch.allclose(facts(-z), facts(z), rtol=1e-12, atol=1e-13)
    odd = torch.allclose(facts(-z), -facts(z), rtol=1e-12, atol=1e-13)
    assert facts.parity == {(True, False): "even", (False, True): "odd", (False, False): "none"}[even, odd]


@EVERY
def test_homogeneity_is_declared_exactly_where_it_holds(facts):
    z = grid(5.0)
    ratio = (facts(3 * z).abs().max() / facts(z).abs().max()).log() / math.log(3)
    degree = round(float(ratio), 6)
    holds = torch.allclose(facts(3 * z), 3**degree * facts(z), rtol=1e-9, atol=1e-11)
    assert (facts.homogeneity is not None) == holds
    if holds:
        assert facts.homogeneity == degree


@EVERY
def test_kinks_and_smoothness(facts):
    """At a kink the first derivative beyond `smoothness` jumps, those up to it do not; elsewhere nothing jumps."""
    step = 1e-6
    for kink in facts.kinks:
        sides = torch.tensor([kink - step, kink + step], dtype=torch.float64)
        for order in range(int(facts.smoothness) + 2):
            left, right = by_autograd(facts, sides, order)
            jumps = abs(float(left - right)) > 1e-3
            assert jumps == (order == facts.smoothness + 1), (kink, order)
    if not facts.kinks:
        assert facts.smoothness == math.inf
    z = grid(20.0)
    for order in range(3):
        value = by_autograd(facts, z, order)
        rise = (value[1:] - value[:-1]).abs() / (1 + value[1:].abs())
        far = torch.ones_like(rise, dtype=torch.bool)
        for kink in facts.kinks:
            far &= ((z[1:] - kink).abs() > 1e-3) & ((z[:-1] - kink).abs() > 1e-3)
        assert float(rise[far].max()) < 0.02, order


@EVERY
def test_limits_and_bounds(facts):
    z = grid(60.0)
    values = facts(z)
    for low, level, at in ((True, facts.limits[0], -1e7), (False, facts.limits[1], 1e7)):
        if level is None:
            end = facts(torch.linspace(1e3, 1e3 + 20, 1001, dtype=torch.float64) * (-1 if low else 1))
            assert float(end.max() - end.min()) > 0.5
        else:
            value = float(facts(torch.tensor(at, dtype=torch.float64)))
            if math.isinf(level):
                assert abs(value) > 1e4
                assert value * level > 0
            else:
                assert abs(value - level) < 1e-6
    for bound, extreme in ((facts.infimum, values.min()), (facts.supremum, values.max())):
        if math.isfinite(bound):
            assert abs(float(extreme) - bound) < 0.03 * (1 + abs(bound))  # arctan comes near its bound slowly
        else:
            assert abs(float(extreme)) > 0.5
    assert float(values.min()) >= facts.infimum - 1e-12
    assert float(values.max()) <= facts.supremum + 1e-12
    assert facts.bounded == (math.isfinite(facts.infimum) and math.isfinite(facts.supremum))


@EVERY
def test_slope_and_curvature_bounds_are_sharp(facts):
    z = torch.cat([grid(8.0, 400_001), grid(40.0)])  # the second reaches slopes that are approached far out
    away = torch.ones_like(z, dtype=torch.bool)
    for kink in facts.kinks:
        away &= (z - kink).abs() > 1e-9
    for order, bound in ((1, facts.lipschitz), (2, facts.curvature)):
        largest = float(by_autograd(facts, z[away], order).abs().max())
        if math.isinf(bound):
            assert float(by_autograd(facts, 3 * z[away], order).abs().max()) > 1.5 * largest
        else:
            assert (1 - 1e-4) * bound - 1e-12 <= largest <= bound * (1 + 1e-12) + 1e-12


@EVERY
def test_monotone_constant_and_reflections(facts):
    z = grid(30.0)
    rising = bool((facts(z)[1:] - facts(z)[:-1] >= -1e-13).all())
    if facts.monotone is not None:
        assert facts.monotone == rising
    if facts.constant_on is None:
        flat = facts(z)[1:] == facts(z)[:-1]
        assert facts.saturates or not bool(flat.any())
    else:
        low, high = facts.constant_on
        inside = facts(z)[(z > low) & (z < high)]
        assert bool((inside == inside[0]).all())
        edge = high if math.isfinite(high) else low
        beyond = facts(torch.tensor(edge + (0.1 if edge == high else -0.1), dtype=torch.float64))
        assert float(beyond) != float(inside[0])
    total, slope = facts(z) + facts(-z), (facts(z) - facts(-z)) / z
    spread = 1e-9 * (1 + float(total.abs().max()))
    assert (facts.reflection_sum is not None) == (float(total.max() - total.min()) < spread)
    if facts.reflection_sum is not None:
        assert float((total - facts.reflection_sum).abs().max()) < spread
    straight = float(slope.max() - slope.min()) < 2e-8
    if facts.reflection_slope is not None:
        assert straight
        assert abs(float(slope.mean()) - facts.reflection_slope) < 1e-8
    else:
        assert not straight or facts.name == "mish"


@EVERY
def test_no_contradiction_is_found_and_facts_pickle(facts):
    assert contradictions(facts) == []
    again = pickle.loads(pickle.dumps(facts))
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert torch.equal(again(z), facts(z))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("relu", functional.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid), ("softplus", functional.softplus),
        ("gelu", functional.gelu), ("gelu(tanh)", lambda z: functional.gelu(z, approximate="tanh")),
        ("silu", functional.silu), ("mish", functional.mish), ("leaky_relu", functional.leaky_relu),
        ("elu", functional.elu), ("selu", functional.selu), ("hardtanh", functional.hardtanh),
        ("relu6", functional.relu6), ("hardswish", functional.hardswish), ("softsign", functional.softsign),
        ("normal_cdf", torch.special.ndtr), ("erf(z/sqrt2)", lambda z: 2 * torch.special.ndtr(z) - 1),
        ("sigmoid(4z)+softplus(z)", lambda z: torch.sigmoid(4 * z) + functional.softplus(z)),
    ],
)  # fmt: skip
def test_functions_are_those_of_torch(name, theirs):
    z = grid(60.0, 10_001)
    assert torch.allclose(activation_facts(name)(z), theirs(z), rtol=1e-14, atol=1e-15)


def test_constants_without_closed_form_against_mpmath():
    mpmath.mp.dps = 25

    def silu(z):
        return z / (1 + mpmath.e**-z)

    def gelu(z):
        return z * mpmath.ncdf(z)

    for function, name, steepest, lowest in ((silu, "silu", 2.4, -1.28), (gelu, "gelu", 1.41, -0.75)):
        facts = activation_facts(name)
        top = mpmath.findroot(lambda z, f=function: mpmath.diff(f, z, 2), steepest)
        bottom = mpmath.findroot(lambda z, f=function: mpmath.diff(f, z), lowest)
        assert abs(mpmath.diff(function, top) - facts.lipschitz) < 1e-15
        assert abs(function(bottom) - facts.infimum) < 1e-15


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BUILT_IN), st.floats(0.2, 3.0), st.booleans(), st.floats(-3, 3).filter(lambda a: abs(a) > 0.1))
def test_rescaled_facts_hold(facts, inner, mirrored, outer):
    scaled = facts.rescaled(-inner if mirrored else inner, outer)
    assert contradictions(scaled) == []
    z = torch.linspace(-4, 4, 101, dtype=torch.float64) + 1e-3
    for order in (1, 2):
        assert torch.allclose(scaled.derivative(z, order), by_autograd(scaled, z, order), rtol=1e-9, atol=1e-10)


def test_value_at_zero():
    values = {name: activation_facts(name).value_at_zero for name in ("tanh", "sigmoid", "softplus", "cos", "relu")}
    assert values == {"tanh": 0.0, "sigmoid": 0.5, "softplus": math.log(2), "cos": 1.0, "relu": 0.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parity": "even"}, "declared even"),
        ({"parity": "none"}, "neither odd nor even"),
        ({"homogeneity": 1}, "homogeneous of degree 1"),
        ({"limits": (0.0, 1.0)}, "approach 0 at minus infinity"),
        ({"supremum": 0.5}, "above its declared supremum"),
        ({"infimum": -0.5}, "below its declared infimum"),
        ({"lipschitz": 0.9}, "slope exceeds"),
        ({"curvature": 0.5}, "second derivative exceeds"),
        ({"constant_on": (1.0, 2.0)}, "declared constant"),
        ({"reflection_sum": 1.0}, "= 1, which does not hold"),
        ({"reflection_slope": 1.0}, "= 1 z, which does not hold"),
    ],
)
def test_wrong_declarations_are_refused(wrong, message):
    facts = ActivationFacts("test wrong tanh", torch.tanh, **wrong)
    with pytest.raises(InvalidInputError, match=message):
        register_activation(facts)
    with pytest.raises(InvalidInputError, match="no activation 'test wrong tanh'"):
        activation_facts("test wrong tanh")


def test_a_falling_function_is_not_monotone():
    with pytest.raises(InvalidInputError, match="slope is negative"):
        register_activation(ActivationFacts("test falling", lambda z: -torch.tanh(z), monotone=True))


def test_names_are_taken_once_and_factors_are_checked():
    with pytest.raises(InvalidInputError, match="'tanh' is registered already"):
        register_activation(activation_facts("tanh"))
    with pytest.raises(InvalidInputError, match="must be finite and not zero"):
        activation_facts("tanh").rescaled(inner=0.0)
    with pytest.raises(InvalidInputError, match="cannot be negative"):
        activation_facts("tanh").derivative(torch.zeros(1), -1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: leaky_relu_facts(1.0), "a finite slope other than 1, got 1.0"),
        (lambda: leaky_relu_facts(float("nan")), "a finite slope other than 1, got nan"),
        (lambda: elu_facts(-1.0), "positive alpha and scale, got -1.0 and 1.0"),
        (lambda: elu_facts(1.0, 0.0), "positive alpha and scale, got 1.0 and 0.0"),
        (lambda: power_facts(1), "integer exponents of at least 2, got 1"),
        (lambda: power_facts(2.5), "integer exponents of at least 2, got 2.5"),
        (lambda: softplus_facts(0.0), "positive beta, got 0.0"),
    ],
)
def test_members_of_a_family_for_which_its_facts_would_be_false(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.sum, "it does not give one number of the same type for every entry"),
        (lambda z: z.tolist(), "it does not give one number of the same type for every entry"),
        (lambda z: z.float(), "it does not give one number of the same type for every entry"),
        (lambda z: z @ torch.ones(3), r"it fails on 879 numbers in float64 \(RuntimeError: "),
        (lambda z: 1 / 0, r"it fails on 879 numbers in float64 \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_what_is_no_elementwise_function_is_not_registered(function, message):
    with pytest.raises(InvalidInputError, match=f"the facts declared of 'odd one' do not hold: {message}"):
        register_activation(ActivationFacts("odd one", function))
    with pytest.raises(InvalidInputError, match="no activation 'odd one'"):
        activation_facts("odd one")
