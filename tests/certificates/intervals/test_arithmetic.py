"""The door to python-flint: directed rounding, precision that is given back, and what happens without it."""

from __future__ import annotations

import importlib
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thalweg as tw
from thalweg.certificates import Case, Outcome, certify
from thalweg.certificates.intervals import arithmetic, loss_interval
from thalweg.certificates.intervals.arithmetic import (
    around,
    at_least,
    at_most,
    ball,
    flint,
    half_width,
    known_to_twelve_digits,
    lower,
    magnitude,
    midpoints,
    precision,
    upper,
)
from thalweg.foundation import NotApplicableError

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite.map(abs), st.integers(min_value=2, max_value=200))
def test_ends_lie_outside_of_the_ball(number: float, radius: float, bits: int) -> None:
    with precision(bits):
        found = around(number, radius)
        assert Fraction(number) == Fraction(float(ball(number)))
        low, high = lower(found), upper(found)
        assert math.isinf(low) or Fraction(low) <= Fraction(number) - Fraction(radius)
        assert math.isinf(high) or Fraction(high) >= Fraction(number) + Fraction(radius)
        assert math.isinf(magnitude(found)) or Fraction(magnitude(found)) >= abs(Fraction(number)) + Fraction(radius)
        assert math.isinf(half_width(found)) or Fraction(half_width(found)) >= Fraction(radius)


@given(finite, finite)
def test_a_product_holds_the_exact_one_at_any_precision(one: float, other: float) -> None:
    for bits in (8, 53, 128):
        with precision(bits):
            found = ball(one) * ball(other)
            exact = Fraction(one) * Fraction(other)
            assert math.isinf(lower(found)) or Fraction(lower(found)) <= exact
            assert math.isinf(upper(found)) or exact <= Fraction(upper(found))


@given(finite, st.integers(min_value=1, max_value=12))
def test_what_is_printed_errs_on_the_safe_side(number: float, digits: int) -> None:
    high, low = at_most(number, digits), at_least(number, digits)
    assert high in ("inf", "-inf") or Fraction(high) >= Fraction(number)
    assert low in ("inf", "-inf") or Fraction(low) <= Fraction(number)
    assert at_most(0.25) == at_least(0.25) == "0.25"


def test_what_is_no_number_bounds_nothing() -> None:
    nothing = ball(1.0) / around(0.0, 1.0)
    assert (lower(nothing), upper(nothing), magnitude(nothing)) == (-math.inf, math.inf, math.inf)


def test_the_precision_is_given_back_also_after_an_error() -> None:
    def divide() -> float:
        with precision(300):
            assert flint().ctx.prec == 300
            return 1 / (flint().ctx.prec - 300)

    before = flint().ctx.prec
    with pytest.raises(ZeroDivisionError):
        divide()
    assert flint().ctx.prec == before


@pytest.mark.parametrize("number", [0.3, -1.7159, 1e-3, 30.0, 0.0, 12345.6789])
def test_short_decimals_are_meant_as_they_stand(number: float) -> None:
    assert known_to_twelve_digits(number).rad() == 0


@pytest.mark.parametrize("number", [2 / 3, -math.pi, 1.6732632423543772])
def test_other_constants_are_known_to_twelve_digits(number: float) -> None:
    found = known_to_twelve_digits(number)
    assert found.contains(number * (1 + 1e-12))
    assert found.contains(number * (1 - 1e-12))
    assert not found.contains(number * (1 + 1e-11))


def test_midpoints_of_a_matrix() -> None:
    found = arithmetic.matrix(2, 3, [around(float(k), 0.25) for k in range(6)])
    assert midpoints(found).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_without_python_flint_everything_declines_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(f"no module named {name}")

    risk = tw.EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), torch.ones(3, 2), torch.ones(3, 1))
    monkeypatch.setattr(arithmetic, "import_module", missing)
    flint.cache_clear()
    try:
        for name in ("interval newton", "interval gradient"):
            (found,) = certify(risk, risk.initial, [name])
            assert found.outcome is Outcome.NOT_APPLICABLE
            assert "pip install thalweg[rigorous]" in found.reason
        with pytest.raises(NotApplicableError, match=r"thalweg\[rigorous\]"):
            loss_interval(Case(risk, risk.initial))
    finally:
        flint.cache_clear()
    monkeypatch.setattr(arithmetic, "import_module", importlib.import_module)
    assert flint().arb(1) == 1
