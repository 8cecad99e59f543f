"""Random problems for the certificates in interval arithmetic, and what is true of them.

The truth is found with a network of one hidden layer written out in NumPy, which shares nothing with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import mpmath
import numpy as np
import scipy.special
import torch
from torch import nn

import thalweg as tw
from thalweg.certificates import Case, Certificate
from thalweg.certificates.intervals import IntervalGradient, IntervalNewton

__all__ = ["TRIALS", "trial_gradient", "trial_newton"]

Array = np.ndarray
Activation = Callable[[Array], tuple[Array, Array, Array]]


def _tanh(z: Array) -> tuple[Array, Array, Array]:
    t = np.tanh(z)
    return t, 1 - t**2, -2 * t * (1 - t**2)


def _sigmoid(z: Array) -> tuple[Array, Array, Array]:
    s = scipy.special.expit(z)
    return s, s * (1 - s), s * (1 - s) * (1 - 2 * s)


def _softplus(z: Array) -> tuple[Array, Array, Array]:
    """As torch has it: the identity beyond 20."""
    s, slope, _ = _sigmoid(z)
    far = z > 20
    return np.where(far, z, np.logaddexp(0, z)), np.where(far, 1, s), np.where(far, 0, slope)


def _gelu(z: Array) -> tuple[Array, Array, Array]:
    p, density = scipy.special.ndtr(z), np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return z * p, p + z * density, (2 - z * z) * density


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**2


class Sine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


Exact = Callable[[mpmath.mpf], mpmath.mpf]

ACTIVATIONS: list[tuple[type[nn.Module], Activation, Exact]] = [
    (nn.Tanh, _tanh, mpmath.tanh),
    (nn.Sigmoid, _sigmoid, lambda z: 1 / (1 + mpmath.exp(-z))),
    (nn.Softplus, _softplus, lambda z: z if z > 20 else mpmath.log1p(mpmath.exp(z))),
    (nn.GELU, _gelu, lambda z: z * mpmath.ncdf(z)),
    (Square, lambda z: (z**2, 2 * z, 2 * np.ones_like(z)), lambda z: z * z),
    (Sine, lambda z: (np.sin(z), np.cos(z), -np.sin(z)), mpmath.sin),
    (nn.ReLU, lambda z: (np.maximum(z, 0), (z > 0) * 1.0, 0 * z), lambda z: max(z, mpmath.mpf(0))),
]


@dataclass(frozen=True, eq=False)
class Problem:
    """``sum_j a_j sigma(w_j x + b_j) + c`` with m units; theta is w, b, a, c."""

    x: Array
    y: Array
    units: int
    activation: Activation
    exact: Exact
    loss: str
    decay: float
    objective: tw.Objective

    def derivatives(self, theta: Array) -> tuple[float, Array, Array]:
        """Value, gradient and Hessian."""
        d, m, n = self.x.shape[1], self.units, len(self.x)
        w, b = theta[: m * d].reshape(m, d), theta[m * d : m * d + m]
        a, c = theta[m * d + m : -1], theta[-1]
        v, v1, v2 = self.activation(self.x @ w.T + b)
        wide = np.concatenate([self.x, np.ones((n, 1))], 1)
        f = v @ a + c
        losses, g, h = self._loss(f)
        where = [[*range(j * d, (j + 1) * d), m * d + j] for j in range(m)]
        jacobian = np.zeros((n, len(theta)))
        bend = np.zeros((len(theta), len(theta)))
        for j in range(m):
            jacobian[:, where[j]] = (a[j] * v1[:, j])[:, None] * wide
            bend[np.ix_(where[j], where[j])] = wide.T @ ((g * a[j] * v2[:, j])[:, None] * wide)
            cross = wide.T @ (g * v1[:, j])
            bend[where[j], m * d + m + j] = bend[m * d + m + j, where[j]] = cross
        jacobian[:, m * d + m : -1], jacobian[:, -1] = v, 1
        value = losses.sum() + self.decay / 2 * theta @ theta
        hessian = jacobian.T @ (h[:, None] * jacobian) + bend + self.decay * np.eye(len(theta))
        return value, jacobian.T @ g + self.decay * theta, hessian

    def gradient_terms(self, theta: Array) -> float:
        """The size of what adds up to the gradient, on which rounding depends."""
        single = [replace(self, x=x[None], y=y[None], decay=0.0) for x, y in zip(self.x, self.y, strict=True)]
        sizes = (np.linalg.norm(one.derivatives(theta)[1]) / len(single) for one in single)
        return float(sum(sizes) + self.decay * np.linalg.norm(theta))

    def _loss(self, f: Array) -> tuple[Array, Array, Array]:
        n = len(f)
        if self.loss == "squares":
            return (f - self.y) ** 2 / n, 2 * (f - self.y) / n, np.full(n, 2 / n)
        sign = np.where(self.y > 0, 1.0, -1.0)
        step = scipy.special.expit(-sign * f)
        return np.logaddexp(0, -sign * f) / n, -sign * step / n, step * (1 - step) / n

    def value(self, theta: Array) -> mpmath.mpf:
        """The value to 40 digits."""
        with mpmath.workdps(40):
            return self.exact_value(list(map(mpmath.mpf, theta.tolist())))

    def exact_value(self, numbers: list[mpmath.mpf]) -> mpmath.mpf:
        """The value to as many digits as mpmath is set to."""
        d, m, n = self.x.shape[1], self.units, len(self.x)
        total = mpmath.mpf(self.decay) / 2 * sum(t * t for t in numbers)
        for x, y in zip(self.x.tolist(), self.y.tolist(), strict=True):
            f = numbers[-1]
            for j in range(m):
                z = sum((w * v for w, v in zip(numbers[j * d : (j + 1) * d], x, strict=True)), numbers[m * d + j])
                f += numbers[m * d + m + j] * self.exact(z)
            total += ((f - y) ** 2 if self.loss == "squares" else mpmath.log1p(mpmath.exp(-f if y > 0 else f))) / n
        return total

    def in_many_digits(self, theta: Array) -> tuple[float, Array]:
        """Length of the Newton step and eigenvalues of the Hessian, from differences of values to 90 digits."""
        with mpmath.workdps(90):
            size, h = len(theta), mpmath.mpf(10) ** -25
            units = [[h if i == j else mpmath.mpf(0) for i in range(size)] for j in range(size)]
            here = list(map(mpmath.mpf, theta.tolist()))

            def at(*moves: list[mpmath.mpf]) -> mpmath.mpf:
                return self.exact_value([x + sum(parts) for x, *parts in zip(here, *moves, strict=True)])

            back = [[-x for x in unit] for unit in units]
            middle, up, down = at(), [at(u) for u in units], [at(b) for b in back]
            gradient = mpmath.matrix([(u - d) / (2 * h) for u, d in zip(up, down, strict=True)])
            hessian = mpmath.matrix(size, size)
            for i in range(size):
                hessian[i, i] = (up[i] - 2 * middle + down[i]) / h**2
                for j in range(i):
                    corners = at(units[i], units[j]) + at(back[i], back[j]) - at(units[i], back[j])
                    hessian[i, j] = hessian[j, i] = (corners - at(back[i], units[j])) / (4 * h**2)
            step = mpmath.lu_solve(hessian, gradient)
            values = mpmath.eigsy(hessian, eigvals_only=True)
            return float(mpmath.norm(step)), np.array([float(value) for value in values])

    def newton(self, start: Array, steps: int = 40) -> Array | None:
        """Where Newton's method ends from a point, if it ends."""
        theta = start
        with np.errstate(all="ignore"):
            for _ in range(steps):
                _, g, h = self.derivatives(theta)
                if not (np.isfinite(g).all() and np.isfinite(h).all()):
                    return None
                try:
                    step = np.linalg.solve(h, g)
                except np.linalg.LinAlgError:
                    return None
                theta = theta - step
                if not np.linalg.norm(theta) < 1e100:
                    return None
                if np.linalg.norm(step) <= 1e-13 * np.linalg.norm(theta):
                    return theta
        return None


@lru_cache(maxsize=8)
def problem(number: int) -> Problem:
    generator = np.random.default_rng(number)
    module, activation, exact = ACTIVATIONS[generator.integers(len(ACTIVATIONS))]
    d, m, n = generator.integers(1, 3), generator.integers(1, 3), generator.integers(2, 9)
    scale = float(10.0 ** generator.choice([0, 0, 0, -6, -3, 3, 6]))
    single = generator.random() < 0.3  # a float32 model on float32 data, converted
    loss = str(generator.choice(["squares", "bits", "signs"]))
    tame = loss == "squares" and module is not Square  # else the loss itself overflows
    x = generator.normal(size=(n, d)) * (scale if generator.random() < 0.5 and (tame or scale <= 1) else 1.0)
    y = generator.normal(size=n) * scale
    if generator.random() < 0.3:
        x[-1], y[-1] = x[0], -y[0]
    if single:
        x, y = x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)
    decay = float(generator.choice([0.0, 1e-3, 0.05, 0.05, 1.0]))
    network = nn.Sequential(nn.Linear(int(d), int(m)), module(), nn.Linear(int(m), 1))
    network = network if single else network.double()
    targets = {"squares": y, "bits": (y > 0) * 1.0, "signs": np.where(y > 0, 1.0, -1.0)}[loss]
    torch_loss = {"squares": nn.MSELoss(), "bits": nn.BCEWithLogitsLoss(), "signs": nn.SoftMarginLoss()}[loss]
    kind = torch.float32 if single else torch.float64
    risk = tw.EmpiricalRisk(
        network, torch_loss, torch.as_tensor(x).to(kind), torch.as_tensor(targets).to(kind).unsqueeze(1)
    )
    objective = risk + tw.L2(risk, decay) if decay else risk
    return Problem(x, y, int(m), activation, exact, loss, decay, objective)


def draw(seed: int) -> tuple[Problem, Array, Array | None]:
    """A problem, a point, and the critical point it was made from, if any."""
    asked = problem(seed // 6)
    generator = np.random.default_rng(seed)
    size = asked.units * (asked.x.shape[1] + 2) + 1
    known = None
    for _ in range(6):
        known = asked.newton(generator.normal(size=size) * generator.choice([0.3, 1.0, 3.0]))
        if known is not None and np.abs(known).max() < 1e9:
            break
        known = None
    if known is None:
        return asked, generator.normal(size=size), None
    distance = float(generator.choice([0.0, 0.0, 0.0, 1e-9, 1e-6, 1e-3, 0.1]))
    return asked, known + distance * generator.normal(size=size), known


def trial_newton(seed: int) -> tuple[Certificate, bool | None]:
    """A point at or near a critical one: existence, index and uniqueness against plain Newton iterations."""
    asked, theta, _ = draw(seed)
    case = Case(asked.objective, torch.as_tensor(theta))
    found = IntervalNewton().prove(case, ())
    if not found.established:
        return found, None
    near = _numbers(found.evidence["critical point"])
    _, g, h = asked.derivatives(near)
    eigenvalues = np.linalg.eigvalsh(h)
    if np.abs(eigenvalues).min() < 1e-10 * np.abs(eigenvalues).max():
        slip, eigenvalues = asked.in_many_digits(near)
    else:
        slip = np.linalg.norm(np.linalg.solve(h, g))  # a Newton step from the point itself: nothing but rounding
    noise = 1e-14 * asked.gradient_terms(near) / np.abs(eigenvalues).min()
    assert found.bound is not None
    if slip > 1e-5 * (found.bound + np.linalg.norm(near)) + noise:
        return found, False
    if np.linalg.norm(near - theta) > found.bound * (1 + 1e-9) + 2 * slip + 1e-15 * np.linalg.norm(near):
        return found, False
    low, high = float(found.evidence["least value"]), float(found.evidence["largest value"])
    value = asked.value(near)
    noise = np.abs(eigenvalues).max() * (2 * slip + 1e-15 * np.linalg.norm(near)) ** 2  # the point is rounded
    right = (eigenvalues < 0).sum() == found.evidence["index"] and low - noise <= value <= high + noise
    return found, bool(right) and not _another(asked, found, theta, near, seed)


def _another(asked: Problem, found: Certificate, theta: Array, near: Array, seed: int) -> bool:
    """Whether there is a second critical point where there should be none."""
    if "alone within" not in found.evidence:
        return False
    radius = float(found.evidence["alone within"])
    center = theta if found.evidence["alone around"] == "the point asked about" else near
    generator = np.random.default_rng(seed + 1)
    for _ in range(3):
        way = generator.normal(size=len(theta))
        other = asked.newton(center + radius * way / np.linalg.norm(way))
        if other is None or np.linalg.norm(other - center) >= radius * (1 - 1e-9):
            continue
        if np.linalg.norm(other - near) > 1e-6 * radius + 1e-9 * np.linalg.norm(near):
            return True
    return False


def trial_gradient(seed: int) -> tuple[Certificate, bool | None]:
    """No critical point where none is said to be: against one that is known to be near, and against a search."""
    asked, theta, known = draw(seed)
    case = Case(asked.objective, torch.as_tensor(theta))
    found = IntervalGradient().prove(case, ())
    if "least value" in found.evidence:
        low, high = float(found.evidence["least value"]), float(found.evidence["largest value"])
        if not low <= asked.value(theta) <= high:
            return found, False
    if not found.established:
        return found, None
    assert found.bound is not None
    generator = np.random.default_rng(seed + 1)
    starts = (theta + found.bound * generator.uniform(-1, 1, size=len(theta)) for _ in range(3))
    ends = [known, asked.newton(theta), *map(asked.newton, starts)]
    for end in ends:
        if end is not None and np.linalg.norm(end - theta) < found.bound * (1 - 1e-9) - 1e-12 * np.linalg.norm(theta):
            return found, False
    return found, True


def _numbers(tensor: object) -> Array:
    assert isinstance(tensor, torch.Tensor)
    return tensor.numpy()


TRIALS: dict[str, Callable[[int], tuple[Certificate, bool | None]]] = {
    "interval newton": trial_newton,
    "interval gradient": trial_gradient,
}
