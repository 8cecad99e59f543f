"""What lower bounds are held against: explicit functions, whose squared error is computed in fractions.

Nothing of the package is used. Every number returned is the loss of something that exists, exactly, so that a lower
bound above it is false; most are also very nearly the least, so that a lower bound far below is a poor one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

__all__ = [
    "Mlp",
    "affine",
    "best_affine",
    "best_hinges",
    "best_lipschitz",
    "best_segments",
    "best_table",
    "cross_entropy",
    "exact",
    "squares",
    "straight",
]

Array = NDArray[np.float64]
Long = np.longdouble
Table = list[list[Fraction]]


def exact(numbers: Array | Sequence[float]) -> list[Fraction]:
    """Floats as the fractions they are."""
    return [Fraction(float(number)) for number in np.asarray(numbers).ravel()]


def squares(outputs: Table, y: Array, c: list[Fraction]) -> Fraction:
    """``sum_i c_i |f_i - y_i|^2``."""
    return sum(
        (factor * sum((f - Fraction(float(t))) ** 2 for f, t in zip(row, wanted, strict=True))
         for row, wanted, factor in zip(outputs, y, c, strict=True)),
        Fraction(0),
    )  # fmt: skip


def affine(x: Array, slope: Array, shift: Array) -> Table:
    """``slope x + shift`` of every row, exactly."""
    rows, matrix, constant = [exact(row) for row in x], [exact(row) for row in slope], exact(shift)
    return [
        [sum((a * b for a, b in zip(line, row, strict=True)), add) for line, add in zip(matrix, constant, strict=True)]
        for row in rows
    ]


def cross_entropy(outputs: Array, labels: NDArray[np.int64], c: Array) -> Long:
    """``-sum_i c_i log softmax(f_i)[label_i]``; with one output the labels 0 and 1 stand for its sign."""
    f = outputs.astype(Long)
    if f.shape[1] == 1:
        f = np.concatenate([np.zeros_like(f), f], 1)
    away = f - f[np.arange(len(f)), labels][:, None]
    top = away.max(1, keepdims=True)
    return (c.astype(Long) * (top[:, 0] + np.log(np.exp(away - top).sum(1)))).sum()


def best_table(y: Array, c: Array, rank: int, *, intercept: bool) -> Table:
    """The table of a rank (plus a constant row) nearest to y in squares weighted by c."""
    mean = (c[:, None] * y).sum(0) / c.sum() if intercept else np.zeros(y.shape[1])
    root = np.sqrt(c)[:, None]
    left, values, right = np.linalg.svd(root * (y - mean), full_matrices=False)
    return affine((left[:, :rank] * values[:rank]) / root, right[:rank].T, mean)


def best_affine(x: Array, y: Array, c: Array, rank: int, *, intercept: bool) -> tuple[Array, Array]:
    """B of a rank and b with ``B x + b`` nearest to y; (q, d) and (q,)."""
    root = np.sqrt(c)[:, None]
    mean_x = (c[:, None] * x).sum(0) / c.sum() if intercept else np.zeros(x.shape[1])
    mean_y = (c[:, None] * y).sum(0) / c.sum() if intercept else np.zeros(y.shape[1])
    centred = root * (x - mean_x)
    full = np.linalg.lstsq(centred, root * (y - mean_y), rcond=None)[0]
    _, _, right = np.linalg.svd(centred @ full, full_matrices=False)
    kept = right[:rank].T @ right[:rank]
    slope = (full @ kept).T
    return slope, mean_y - slope @ mean_x


def _partitions(count: int, pieces: int) -> Iterator[list[tuple[int, int]]]:
    for cuts in itertools.combinations(range(1, count), min(pieces, count) - 1):
        ends = [0, *cuts, count]
        yield list(itertools.pairwise(ends))


def best_segments(x: Array, y: Array, c: list[Fraction], pieces: int) -> Fraction:
    """Least loss of functions of so many straight pieces that need not join, by trying all partitions."""
    order = np.argsort(x, kind="stable")
    x, y, c = x[order], y[order], [c[place] for place in order]
    places = np.unique(x)
    costs: dict[tuple[int, int], Fraction] = {}
    for start, stop in itertools.combinations(range(len(places) + 1), 2):
        inside = np.flatnonzero((x >= places[start]) & (x <= places[stop - 1]))
        costs[start, stop] = straight(x[inside], y[inside], [c[place] for place in inside])
    return min(sum(costs[piece] for piece in parts) for parts in _partitions(len(places), pieces))


def straight(x: Array, y: Array, c: list[Fraction]) -> Fraction:
    """The squares that the best straight line leaves, by the normal equations in fractions."""
    u, total = exact(x), sum(c)
    mean_u = sum(a * b for a, b in zip(c, u, strict=True)) / total
    spread = sum(a * (b - mean_u) ** 2 for a, b in zip(c, u, strict=True))
    left = Fraction(0)
    for column in y.T:
        v = exact(column)
        mean_v = sum(a * b for a, b in zip(c, v, strict=True)) / total
        along = sum(a * (b - mean_u) * (d - mean_v) for a, b, d in zip(c, u, v, strict=True))
        left += sum(a * (d - mean_v) ** 2 for a, d in zip(c, v, strict=True)) - (along**2 / spread if spread else 0)
    return left


def best_hinges(x: Array, y: Array, c: list[Fraction], units: int) -> Fraction:
    """A low loss of ``b + sum_j a_j max(0, +-(x - t_j))`` with corners at, or halfway between, the places."""
    places = np.unique(x)
    corners = np.concatenate([places[:-1], (places[1:] + places[:-1]) / 2])
    weights = np.array([float(factor) for factor in c])
    root, best = np.sqrt(weights)[:, None], (np.inf, (), (), np.zeros((1, 1)))
    for chosen in itertools.combinations(corners, min(units, len(corners))):
        for signs in itertools.product((1.0, -1.0), repeat=len(chosen)):
            columns = [np.maximum(0, s * (x - t)) for s, t in zip(signs, chosen, strict=True)]
            features = np.stack([np.ones_like(x), *columns], 1)
            found = np.linalg.lstsq(root * features, root * y, rcond=None)[0]
            value = float((weights[:, None] * (features @ found - y) ** 2).sum())
            if value < best[0]:
                best = (value, signs, chosen, found)
    _, signs, chosen, found = best
    bent = [[max(Fraction(0), Fraction(s) * (Fraction(float(u)) - Fraction(float(t))))
             for s, t in zip(signs, chosen, strict=True)] for u in x]  # fmt: skip
    outer = [exact(column) for column in found.T]
    outputs = [[sum((a * h for a, h in zip(line[1:], row, strict=True)), line[0]) for line in outer] for row in bent]
    return squares(outputs, y, c)


def best_lipschitz(
    x: Array, start: Array, steepness: float, rough: Callable[[Array], float]
) -> Iterator[tuple[Array, Array]]:
    """Outputs no two of which are further apart than the distance of their inputs times a constant, some of low loss.

    Such outputs extend to a function that steep (McShane for one output, Kirszbraun for several). Each is a row for
    all samples, and rows to be added to it.
    """
    places, of = np.unique(x, axis=0, return_inverse=True)
    of = of.reshape(-1)
    width = start.shape[1]
    first = np.stack([start[of == group].mean(0) for group in range(len(places))])
    pairs = np.array(list(itertools.combinations(range(len(places)), 2)), dtype=np.int64).reshape(-1, 2)
    allowed = steepness * np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1) * (1 - 1e-12)
    middle = start.mean(0)
    scale = float(np.abs(first - middle).max()) or 1.0
    yield middle, np.zeros_like(start)

    def room(flat: Array) -> Array:
        f = flat.reshape(-1, width)
        return (allowed / scale) ** 2 - ((f[pairs[:, 0]] - f[pairs[:, 1]]) ** 2).sum(1)

    size = rough(0 * start + middle) or 1.0
    found = scipy.optimize.minimize(
        lambda u: rough((u * scale).reshape(-1, width)[of] + middle) / size, np.zeros(first.size), method="SLSQP",
        options={"maxiter": 60, "ftol": 1e-12}, constraints={"type": "ineq", "fun": room} if len(pairs) else (),
    )  # fmt: skip
    for f in (first - middle, (found.x * scale).reshape(-1, width)):
        if np.isfinite(f).all():
            yield middle, _shrunk(f, pairs, allowed)[of]


def _shrunk(f: Array, pairs: NDArray[np.int64], allowed: Array) -> Array:
    """Drawn together until all pairs are near enough; all equal where rounding does not allow that."""
    center = f.mean(0)
    for _ in range(3):
        moved = np.linalg.norm(f[pairs[:, 0]] - f[pairs[:, 1]], axis=1)
        if (moved <= allowed).all():
            return f
        apart = moved > allowed
        f = center + (f - center) * float((allowed[apart] / moved[apart]).min()) * (1 - 1e-12)
    return np.zeros_like(f) + center


@dataclass(frozen=True)
class Mlp:
    """``A s(W x + b) + a`` with weight decay ``mu / 2 |theta|^2``; theta is W, b, A, a, those of no bias left out.

    Attributes:
        sizes: inputs, hidden units (None for ``A x + a`` alone), outputs.
        bias: whether there are biases.
        activation: ``(values, slopes)`` of the hidden layer.
        x: ``(n, d)``.
        loss: of outputs, its gradient in them too.
        decay: mu.
    """

    sizes: tuple[int, int | None, int]
    bias: bool
    activation: Callable[[Array], tuple[Array, Array]]
    x: Array
    loss: Callable[[Array], tuple[float, Array]]
    decay: float = 0.0

    def shapes(self) -> list[tuple[int, ...]]:
        d, m, q = self.sizes
        layers = [(d, q)] if m is None else [(d, m), (m, q)]
        return [shape for a, b in layers for shape in ([(b, a), (b,)] if self.bias else [(b, a)])]

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        parts, place = [], 0
        for shape in self.shapes():
            size = int(np.prod(shape))
            parts.append(theta[place : place + size].reshape(shape))
            place += size
        step = 2 if self.bias else 1
        last = parts[-step:]
        if self.sizes[1] is None:
            h, slope = self.x, None
        else:
            z = self.x @ parts[0].T + (parts[1] if self.bias else 0.0)
            h, slope = self.activation(z)
        outputs = h @ last[0].T + (last[1] if self.bias else 0.0)
        value, pull = self.loss(outputs)
        grads = [pull.T @ h] + ([pull.sum(0)] if self.bias else [])
        if slope is not None:
            back = (pull @ last[0]) * slope
            grads = [back.T @ self.x] + ([back.sum(0)] if self.bias else []) + grads
        gradient = np.concatenate([g.ravel() for g in grads]) + self.decay * theta
        return value + self.decay / 2 * float(theta @ theta), gradient

    def lowest(
        self, starts: list[Array], bounds: list[tuple[float, float]] | None = None, iterations: int = 60
    ) -> float:
        """The lowest loss met in searches from several points, and at the points themselves."""
        best = np.inf
        for start in starts:
            found = scipy.optimize.minimize(
                self.value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds,
                options={"maxiter": iterations},
            )  # fmt: skip
            best = min(best, float(found.fun), self.value_and_gradient(start)[0])
        return best
