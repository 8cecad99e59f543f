"""The Gaussian averages against quadrature in many digits, and their derivatives near and at the singular points."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import owens_t

from thalweg.objectives import arc_cosine_kernel, erf_kernel, erf_mean, relu_kernel, relu_mean, relu_square
from thalweg.objectives.kinks import record_kinks
from thalweg.objectives.paths import quiet


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def vector(angle: float, length: float = 1.0) -> torch.Tensor:
    return tensor(length * np.cos(angle), length * np.sin(angle))


def exact_kernel(w: torch.Tensor, v: torch.Tensor) -> mpmath.mpf:
    """The arc-cosine kernel in 50 digits."""
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(float(x)) for x in u] for u in (w, v))
        dot = mpmath.fdot(a, b)
        cross = abs(a[0] * b[1] - a[1] * b[0])
        return (cross + (mpmath.pi - mpmath.atan2(cross, dot)) * dot) / (2 * mpmath.pi)


# -- ReLU ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2, np.pi / 2, 2.0, 3.0, np.pi])
def test_arc_cosine_is_the_average_over_directions(angle) -> None:
    """In the plane the average over a Gaussian is one over the angle, times the mean squared radius 2."""
    w, v = vector(0.4, 1.5), vector(0.4 + angle, 0.7)

    def product(t):
        a, b = (max(0, u[0] * mpmath.cos(t) + u[1] * mpmath.sin(t)) for u in (w.tolist(), v.tolist()))
        return 2 * a * b / (2 * mpmath.pi)

    quarters = (np.pi / 2, -np.pi / 2)
    corners = sorted((0.4 + shift + quarter) % (2 * np.pi) for shift in (0, angle) for quarter in quarters)
    wanted = mpmath.quad(product, [0, *corners, 2 * np.pi])
    assert float(arc_cosine_kernel(w, v)) == pytest.approx(float(wanted), abs=1e-13)


def test_spot_value_of_the_sheet() -> None:
    """Lengths 0.8 and 1.7, cosine 0.4. The 12th digit for erf is ours, from the arcsine in 30 digits."""
    w, v = vector(0.0, 0.8), vector(np.arccos(0.4), 1.7)
    assert float(arc_cosine_kernel(w, v)) == pytest.approx(0.370009611591, abs=1e-12)
    assert float(erf_kernel(w, v)) == pytest.approx(0.138196988607, abs=1e-12)


ANGLES = [0.0, 1e-300, 1e-16, 1e-12, 1e-8, 1e-4, 0.1, 0.3, 0.34, 0.3537, 0.37, 0.45, 1.0, np.pi / 2, 2.5]
ANGLES += [np.pi - angle for angle in (0.45, 0.37, 0.3537, 0.34, 0.1, 1e-4, 1e-8, 1e-12)] + [np.pi]


@pytest.mark.parametrize("angle", ANGLES)
def test_values_and_two_derivatives_are_accurate_at_every_angle(angle) -> None:
    """Against the closed forms of gradient and Hessian in 50 digits, by reverse, double reverse and mixed modes."""
    w, v = vector(0.0, 1.3), vector(angle, 0.8)
    assert float(arc_cosine_kernel(w, v)) == pytest.approx(float(exact_kernel(w, v)), abs=1e-15)
    gradient, hessian = closed_form(w, v)
    both = torch.cat([w, v])

    def joint(x: torch.Tensor) -> torch.Tensor:
        return arc_cosine_kernel(x[:2], x[2:])

    reverse = torch.autograd.functional.jacobian(joint, both)
    np.testing.assert_allclose(reverse.numpy(), gradient, atol=1e-14)
    np.testing.assert_allclose(torch.autograd.functional.hessian(joint, both).numpy(), hessian, atol=1e-13)
    with quiet():
        columns = [torch.func.jvp(torch.func.grad(joint), (both,), (e,))[1] for e in torch.eye(4, dtype=torch.float64)]
    np.testing.assert_allclose(torch.stack(columns).numpy(), hessian, atol=1e-13)


def closed_form(w: torch.Tensor, v: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian in (w, v) after Safran and Shamir: with t the angle, n_wv the unit rejection of v from w,

    ``f_w = (|v| sin t a + (pi - t) v) / 2 pi``, ``f_ww = sin t |v| / (2 pi |w|) (I - a a^T + n_wv n_wv^T)``,
    ``f_wv = ((pi - t) I + a n_wv^T + b n_vw^T) / 2 pi``; where sin t = 0 the limits 0, and I/2 or 0.
    """
    with mpmath.workdps(60):
        x, y = (mpmath.matrix([mpmath.mpf(float(c)) for c in u]) for u in (w, v))
        p, q = mpmath.norm(x), mpmath.norm(y)
        a, b, eye = x / p, y / q, mpmath.eye(2)
        cosine, sine = (a.T * b)[0], abs(a[0] * b[1] - a[1] * b[0])
        rest = mpmath.pi - mpmath.atan2(sine, cosine)
        if sine == 0:
            n, k = mpmath.matrix(2, 1), mpmath.matrix(2, 1)
        else:
            n, k = (b - cosine * a) / sine, (a - cosine * b) / sine
        fw, fv = (sine * q * a + rest * y) / (2 * mpmath.pi), (sine * p * b + rest * x) / (2 * mpmath.pi)
        ww = sine * q / p * (eye - a * a.T + n * n.T) / (2 * mpmath.pi)
        vv = sine * p / q * (eye - b * b.T + k * k.T) / (2 * mpmath.pi)
        wv = (rest * eye + a * n.T + b * k.T) / (2 * mpmath.pi)
        gradient = np.array([float(c) for c in [*fw, *fv]])
        top = [[ww[i, 0], ww[i, 1], wv[i, 0], wv[i, 1]] for i in range(2)]
        bottom = [[wv[0, i], wv[1, i], vv[i, 0], vv[i, 1]] for i in range(2)]
    return gradient, np.array([[float(c) for c in row] for row in top + bottom])


def test_a_vanishing_vector_has_value_zero_and_the_mean_of_opposite_slopes() -> None:
    v = tensor(0.6, -1.1)
    zero = torch.zeros(2, dtype=torch.float64)
    assert float(arc_cosine_kernel(zero, v)) == 0
    gradient = torch.autograd.functional.jacobian(lambda w: arc_cosine_kernel(w, v), zero)
    for direction in (tensor(1.0, 0.0), tensor(0.3, 0.7)):
        there, back = (float(arc_cosine_kernel(s * 1e-6 * direction, v)) / (s * 1e-6) for s in (1, -1))
        assert float(gradient @ direction) == pytest.approx((there + back) / 2, abs=1e-9)
    assert torch.isfinite(torch.autograd.functional.hessian(lambda w: arc_cosine_kernel(w, v), zero)).all()
    assert torch.isfinite(torch.autograd.functional.jacobian(lambda w: arc_cosine_kernel(w, zero), zero)).all()


def test_the_only_kink_is_a_vanishing_vector() -> None:
    for angle in (1e-3, 0.35, 1.5):
        both = torch.cat([vector(0.0, 3.0), vector(angle, 0.5)])
        report = record_kinks(lambda x, chunk: arc_cosine_kernel(x[:2], x[2:]), both, [None])
        assert report.margin == pytest.approx(0.5)
        assert (report.order, report.branches) == (1, False)


@pytest.mark.parametrize("angle", [0.15, 0.35, 1.3, 2.8])
def test_third_derivatives_away_from_the_singular_points(angle) -> None:
    w, v, step = vector(0.0, 1.3), vector(angle, 0.8), tensor(0.3, -0.7)

    def bend(t: float) -> float:
        hessian = torch.autograd.functional.hessian(lambda x: arc_cosine_kernel(x, v), w + t * step)
        return float(step @ hessian @ step)

    def along(t: torch.Tensor) -> torch.Tensor:
        return arc_cosine_kernel(w + t * step, v)

    third = torch.func.grad(torch.func.grad(torch.func.grad(along)))(torch.zeros((), dtype=torch.float64))
    assert float(third) == pytest.approx((bend(1e-4) - bend(-1e-4)) / 2e-4, rel=1e-6)


# -- erf -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("w", "v"), [(0.9, 1.4), (-2.0, 0.8), (3.0, 3.0), (0.0, 1.0), (40.0, 35.0)])
def test_erf_kernel_is_its_average(w, v) -> None:
    def integrand(x):
        return mpmath.erf(w * x / mpmath.sqrt(2)) * mpmath.erf(v * x / mpmath.sqrt(2)) * mpmath.npdf(x)

    wanted = 2 * mpmath.quad(integrand, [0, 0.05, 0.2, 1, 3, 10])
    assert float(erf_kernel(tensor(w), tensor(v))) == pytest.approx(float(wanted), abs=1e-13)


def test_erf_kernel_keeps_its_digits_for_long_parallel_vectors() -> None:
    w = tensor(3e7, 4e7)
    with mpmath.workdps(50):
        squared = mpmath.mpf(25) * 10**14
        wanted = 2 / mpmath.pi * mpmath.asin(squared / (1 + squared))
        rest = 1 - wanted
    assert 1 - float(erf_kernel(w, w)) == pytest.approx(float(rest), abs=2e-16)
    # here |w|^2 |v|^2 - (w.v)^2 by subtraction is noise of 1e17 and either sign, where it should vanish
    for seed in range(20):
        w = 1e8 * torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        v = w * (1 + 1e-3)
        with mpmath.workdps(50):
            a, b = ([mpmath.mpf(float(c)) for c in u] for u in (w, v))
            gram = (a[0] * b[1] - a[1] * b[0]) ** 2
            tangent = mpmath.fdot(a, b) / mpmath.sqrt(1 + mpmath.fdot(a, a) + mpmath.fdot(b, b) + gram)
            wanted = 2 / mpmath.pi * mpmath.atan(tangent)
        assert float(erf_kernel(w, v)) == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize(
    ("w", "v", "bias"), [(0.9, 5.0, 2.5), (-1.4, 5.0, -2.5), (3.2, 1.0, 0.3), (0.7, 0.2, 0.0), (15.0, 20.0, 3.0)]
)
def test_erf_kernel_with_bias(w, v, bias) -> None:
    def integrand(x):
        return mpmath.erf(w * x / mpmath.sqrt(2)) * mpmath.erf((v * x + bias) / mpmath.sqrt(2)) * mpmath.npdf(x)

    corner = -bias / v
    wanted = mpmath.quad(integrand, [-10, -3, -1, corner - 0.1, corner, corner + 0.1, -0.05, 0, 0.05, 1, 3, 10])
    found = float(erf_kernel(tensor(w), tensor(v), c=tensor(bias).squeeze()))
    assert found == pytest.approx(float(wanted), abs=1e-12)
    h, rho = bias / np.sqrt(1 + v**2), w * v / np.sqrt((1 + w**2) * (1 + v**2))
    assert found == pytest.approx(4 * owens_t(h, rho / np.sqrt(1 - rho**2)), abs=1e-14)


def test_the_quadrature_is_exact_as_far_as_it_says() -> None:
    for h in (0.0, 0.01, 0.5, 1.5, 3.0, 6.0):
        for tangent in (0.01, 1.0, 5.0, 20.0, 1000.0):
            # for w = v = s the tangent s^2 / sqrt(1 + 2 s^2) is t when s^2 = t (t + sqrt(1 + t^2))
            s = np.sqrt(tangent * (tangent + np.sqrt(1 + tangent**2)))
            found = erf_kernel(tensor(s), tensor(s), c=tensor(h * np.sqrt(1 + s**2)).squeeze())
            assert float(found) == pytest.approx(4 * owens_t(h, tangent), abs=1e-14)


def test_without_bias_the_two_erf_kernels_agree() -> None:
    w, v = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zeros = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(erf_kernel(w, v, zeros), erf_kernel(w, v), atol=1e-14, rtol=0)


# -- biases in both units --------------------------------------------------------------------------------------------

PAIRS = [
    (r, q, u, b, c)
    for r, q, u in ((0.8, 0.3, 0.4), (2.0, 0.8, -0.95), (0.3, 2.0, 0.95), (2.0, 2.0, 0.0), (0.8, 1.7, -0.5))
    for b, c in ((-0.2, 2.0), (0.0, 0.0), (1.0, 1.0), (-1.5, 0.3))
]


def average(f, g, r, q, u, b, c):
    """``E[f(z) g(z')]`` of Gaussian arguments, over one of the two in closed form of the other's conditional mean."""

    def inner(x):
        mean, spread = q * u * x + c, q * mpmath.sqrt(1 - mpmath.mpf(u) ** 2)
        return f(r * x + b) * g(mean, spread) * mpmath.npdf(x)

    corners = {mpmath.mpf(-b) / r, mpmath.mpf(-c) / (q * u) if u else mpmath.mpf(0), mpmath.mpf(0)}
    return mpmath.quad(inner, sorted({-12, -4, -1.5, *(x for x in corners if abs(x) < 12), 1.5, 4, 12}))


def planes(r, q, u):
    return tensor(r, 0.0), tensor(q * u, q * np.sqrt(1 - u * u))


@pytest.mark.parametrize(("r", "q", "u", "b", "c"), PAIRS)
def test_pairs_of_erf_units(r, q, u, b, c) -> None:
    def smeared(mean, spread):
        return mpmath.erf(mean / mpmath.sqrt(2 * (1 + spread**2)))

    with mpmath.workdps(25):
        wanted = average(lambda z: mpmath.erf(z / mpmath.sqrt(2)), smeared, r, q, u, b, c)
    found = erf_kernel(*planes(r, q, u), tensor(b).squeeze(), tensor(c).squeeze())
    assert float(found) == pytest.approx(float(wanted), abs=1e-13)


@pytest.mark.parametrize(("r", "q", "u", "b", "c"), PAIRS)
def test_pairs_of_relu_units(r, q, u, b, c) -> None:
    def rectified(mean, spread):
        return mean * mpmath.ncdf(mean / spread) + spread * mpmath.npdf(mean / spread)

    with mpmath.workdps(25):
        wanted = average(lambda z: max(0, z), rectified, r, q, u, b, c)
    found = relu_kernel(*planes(r, q, u), tensor(b).squeeze(), tensor(c).squeeze())
    assert float(found) == pytest.approx(float(wanted), abs=1e-13 * r * q * (1 + (b / r) ** 2 + (c / q) ** 2))


@pytest.mark.parametrize(("r", "b"), [(0.8, -0.2), (2.0, 2.0), (0.3, 0.0), (1.0, -3.0)])
def test_single_units(r, b) -> None:
    w, bias = tensor(0.6 * r, 0.8 * r), tensor(b).squeeze()
    edge = max(-12, min(12, -b / r))
    relu = [mpmath.quad(lambda x, k=k: (r * x + b) ** k * mpmath.npdf(x), [edge, edge + 1, 13]) for k in (1, 2)]
    assert float(relu_mean(w, bias)) == pytest.approx(float(relu[0]), abs=1e-14)
    assert float(relu_square(w, bias)) == pytest.approx(float(relu[1]), abs=1e-14)
    erf = mpmath.quad(lambda x: mpmath.erf((r * x + b) / mpmath.sqrt(2)) * mpmath.npdf(x), [-12, -2, 0, 2, 12])
    assert float(erf_mean(w, bias)) == pytest.approx(float(erf), abs=1e-13)


def test_biased_relus_go_over_into_the_kernel_without_biases_and_into_the_square() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    for angle in (0.01, 0.5, 2.0, 3.1):
        w, v = vector(0.2, 1.3), vector(0.2 + angle, 0.7)
        assert float(relu_kernel(w, v, zero, zero)) == pytest.approx(float(arc_cosine_kernel(w, v)), abs=1e-14)
    w = vector(0.2, 1.3)
    for angle in (0.0, 1e-12, 1e-8, 1e-5, 1e-4):  # what is held near parallel vectors is not seen in the value
        bias = tensor(0.7).squeeze()
        near = relu_kernel(w, vector(0.2 + angle, 1.3), bias, bias)
        assert float(near) == pytest.approx(float(relu_square(w, bias)), abs=3 * angle**2 + 1e-13)
        apart = relu_kernel(w, vector(0.2 + angle, 1.3), bias, -bias)  # kinks that do not meet
        wanted = mpmath.quad(lambda x: (1.3 * x + 0.7) * (1.3 * x - 0.7) * mpmath.npdf(x), [0.7 / 1.3, 2, 12])
        assert float(apart) == pytest.approx(float(wanted), abs=3 * angle + 1e-13)


def test_a_relu_without_weights_is_a_constant() -> None:
    w, v, c = torch.zeros(2, dtype=torch.float64), vector(0.3, 0.9), tensor(0.4).squeeze()
    for b in (0.7, -0.7, 300.0):
        bias = tensor(b).squeeze()
        assert float(relu_mean(w, bias)) == max(b, 0)
        assert float(relu_square(w, bias)) == max(b, 0) ** 2
        assert float(relu_kernel(w, v, bias, c)) == pytest.approx(max(b, 0) * float(relu_mean(v, c)), rel=1e-14)
        hessian = torch.func.hessian(lambda x: relu_kernel(x[:2], v, x[2], c))(torch.cat([w, bias.reshape(1)]))
        assert bool(torch.isfinite(hessian).all())


@pytest.mark.parametrize("kernel", [erf_kernel, relu_kernel])
@pytest.mark.parametrize("angle", [0.05, 1.2, 3.0])
def test_derivatives_of_biased_kernels(kernel, angle) -> None:
    """Against central differences of values that are exact: gradients of gradients too."""
    both = torch.cat([vector(0.1, 1.3), vector(0.1 + angle, 0.8), tensor(0.4, -0.6)])

    def joint(x: torch.Tensor) -> torch.Tensor:
        return kernel(x[:2], x[2:4], x[4], x[5])

    gradient = torch.func.grad(joint)
    hessian = torch.func.hessian(joint)(both)
    for e in torch.eye(6, dtype=torch.float64):
        assert float(gradient(both) @ e) == pytest.approx(float(difference(joint, both, e)), abs=1e-10)
        torch.testing.assert_close(hessian @ e, difference(gradient, both, e), atol=1e-9, rtol=1e-9)


def difference(f, x: torch.Tensor, e: torch.Tensor, h: float = 1e-4) -> torch.Tensor:
    """The derivative of f along e, by central differences of fourth order."""
    return (8 * (f(x + h * e) - f(x - h * e)) - f(x + 2 * h * e) + f(x - 2 * h * e)) / (12 * h)
