"""What units in a channel compute, and its derivatives, against the same formulas in sixty digits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from thalweg.structure import activation_facts
from thalweg.symmetry.channel_atoms import Asymptotes, hard_jet, hardened, mean_bend, mean_slope, pair_jet, triple_atoms

FUNCTIONS: dict[str, Callable[..., mpf]] = {
    "tanh": mpmath.tanh,
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "sigmoid(4z)+softplus(z)": lambda z: 1 / (1 + mpmath.exp(-4 * z)) + mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "erf(z/sqrt2)": lambda z: mpmath.erf(z / mpmath.sqrt(2)),
}
ASIDES = [0.0, 1e-9, 1e-3, 0.1, 0.124, 0.126, 2.0]
PLACES = torch.tensor([-1.3, 0.0, 0.4, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("aside", ASIDES)
def test_mean_slopes_and_bends(name: str, aside: float) -> None:
    facts, f = activation_facts(name), FUNCTIONS[name]
    t = torch.full_like(PLACES, aside)
    slopes, bends = mean_slope(facts, PLACES, t), mean_bend(facts, PLACES, t)
    with mpmath.workdps(60):
        for place, slope, bend in zip(PLACES.tolist(), slopes.tolist(), bends.tolist(), strict=True):
            z, step = mpf(place), mpf(aside)
            by_slope = (f(z + step) - f(z - step)) / (2 * step) if aside else mpmath.diff(f, z)
            by_bend = (f(z + step) + f(z - step) - 2 * f(z)) / step**2 if aside else mpmath.diff(f, z, 2)
            assert slope == pytest.approx(float(by_slope), rel=1e-13, abs=1e-14)
            assert bend == pytest.approx(float(by_bend), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", ["sigmoid(4z)+softplus(z)", "tanh"])
@pytest.mark.parametrize(("z", "r", "s"), [(0.3, 1.2, 1e-9), (-0.4, 2.0, 3e-3), (0.4, 0.5, 0.24), (1.0, -2.0, 0.7)])
def test_derivatives_of_pairs(name: str, z: float, r: float, s: float) -> None:
    f = FUNCTIONS[name]
    found = pair_jet(activation_facts(name), *(torch.tensor([[[v]]], dtype=torch.float64) for v in (z, r, s)), 2)
    with mpmath.workdps(60):
        atoms = (
            lambda z, r, s: (f(z + s * r) + f(z - s * r)) / 2,
            lambda z, r, s: (f(z + s * r) - f(z - s * r)) / (2 * s),
        )
        place = tuple(map(mpf, (z, r, s)))
        for by, pair in {"": found.values, **found.by, **found.twice}.items():
            orders = tuple(by.count(letter) for letter in "zrs")
            for atom, each in zip(atoms, pair, strict=True):
                assert float(each) == pytest.approx(float(mpmath.diff(atom, place, orders)), rel=1e-12, abs=1e-12)


def test_some_near_and_some_far_are_the_same_as_each_alone() -> None:
    """One array holds arguments for both ways of taking the means."""
    facts = activation_facts("tanh")
    z = torch.tensor([[[0.3, -0.7, 1.0]]], dtype=torch.float64)
    r = torch.tensor([[[1e-4, 0.3, 8.0]]], dtype=torch.float64)
    s = torch.tensor([[[0.3]]], dtype=torch.float64)
    together = pair_jet(facts, z, r, s, 2)
    for k in range(3):
        alone = pair_jet(facts, z[..., k : k + 1], r[..., k : k + 1], s, 2)
        for both, each in ((together.by, alone.by), (together.twice, alone.twice)):
            for by, pair in each.items():
                for one, atom in zip(pair, both[by], strict=True):
                    assert float(one) == pytest.approx(float(atom[..., k]), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("s", [0.6, 0.05, 1e-4])
def test_three_units(s: float) -> None:
    """Against the three units themselves, with output weights of up to 1e8 that cancel."""
    m, p, q, a_0, a_1, a_2 = 0.3, 1.1, -0.6, 0.7, -1.3, 0.9
    atoms = triple_atoms(activation_facts("tanh"), *(torch.tensor(v, dtype=torch.float64) for v in (m, p, q, s)))
    found = sum(float(a * atom) for a, atom in zip((a_0, a_1, a_2), atoms, strict=True))
    with mpmath.workdps(60):
        m, p, q, s, a_0, a_1, a_2 = map(mpf, (m, p, q, s, a_0, a_1, a_2))
        f = mpmath.tanh
        exact = (a_0 + a_1 / s + a_2 / s**2) * f(m + s * p + s**2 * q)
        exact += (a_0 - 2 * a_2 / s**2) * f(m - 2 * s**2 * q)
        exact += (a_0 - a_1 / s + a_2 / s**2) * f(m - s * p + s**2 * q)
        assert found == pytest.approx(float(exact), rel=1e-13)


def test_three_units_near_their_end_by_a_random_draw() -> None:
    """The distance from the limit falls four times when s is halved (second-derivative channels)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    m, p, q = (x @ torch.randn(4, 3, generator=generator, dtype=torch.float64)).T
    facts = activation_facts("tanh")
    limit = triple_atoms(facts, m, p, q, torch.zeros(()).double())
    t = torch.tanh(m)
    slope, bend = 1 - t**2, -2 * t * (1 - t**2)
    for atom, expected in zip(limit, (3 * t, 2 * p * slope, p**2 * bend + 6 * q * slope), strict=True):
        assert torch.allclose(atom, expected, rtol=1e-13, atol=1e-13)
    errors = []
    for s in (0.025, 0.0125, 0.00625):
        atoms = triple_atoms(facts, m, p, q, torch.tensor(s, dtype=torch.float64))
        errors.append(max(float((a - b).abs().max()) for a, b in zip(atoms, limit, strict=True)))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.02)


ENDS = {
    "softplus": ((0.0, 1.0), (0.0, 0.0)),
    "sigmoid(4z)+softplus(z)": ((0.0, 1.0), (0.0, 1.0)),
    "gelu": ((0.0, 1.0), (0.0, 0.0)),
    "silu": ((0.0, 1.0), (0.0, 0.0)),
    "tanh": None,  # both slopes vanish
    "sigmoid": None,
    "exp": None,
    "square": None,
    "sin": None,
}


@pytest.mark.parametrize("name", ENDS)
def test_asymptotes(name: str) -> None:
    found = Asymptotes.of(activation_facts(name))
    if ENDS[name] is None:
        assert found is None
    else:
        assert found is not None
        assert (found.slopes, found.levels) == (pytest.approx(ENDS[name][0]), pytest.approx(ENDS[name][1], abs=1e-9))


@pytest.mark.parametrize(("z", "s"), [(0.3, 0.2), (-0.7, 0.05), (1.1, 2.0), (-2.0, 1e-4), (2.0, 1e-4)])
def test_derivatives_of_units_that_become_hard(z: float, s: float) -> None:
    facts, f = activation_facts("sigmoid(4z)+softplus(z)"), FUNCTIONS["sigmoid(4z)+softplus(z)"]
    asymptotes = Asymptotes.of(facts)
    assert asymptotes is not None
    place: list[Tensor] = [torch.tensor([[[v]]], dtype=torch.float64) for v in (z, s)]
    found = hard_jet(facts, asymptotes, place[0], place[1], 2)
    assert float(hardened(facts, asymptotes, *place)) == pytest.approx(float(found.value), rel=1e-13)
    with mpmath.workdps(60):
        atom = lambda z, s: s * f(z / s)  # noqa: E731
        for by, each in {"": found.value, **found.by, **found.twice}.items():
            orders = tuple(by.count(letter) for letter in "zs")
            exact = float(mpmath.diff(atom, (mpf(z), mpf(s)), orders, h=mpf("1e-20")))
            assert float(each) == pytest.approx(exact, rel=1e-11, abs=1e-12)


def test_a_hard_unit_is_the_limit_of_softer_ones() -> None:
    facts = activation_facts("sigmoid(4z)+softplus(z)")
    asymptotes = Asymptotes.of(facts)
    assert asymptotes is not None
    z = torch.linspace(-2, 2, 40, dtype=torch.float64)
    end = torch.zeros((), dtype=torch.float64, requires_grad=True)
    hard = hardened(facts, asymptotes, z, end)
    assert torch.equal(hard, z.clamp(min=0))
    (slope,) = torch.autograd.grad(hard.sum(), end)
    near = torch.tensor(1e-4, dtype=torch.float64)
    soft = near * facts(z / near)
    assert float(slope) == pytest.approx(float((soft - hard.detach()).sum() / near), rel=1e-9) == 20
