"""Random problems for refutations, identities and better points, and what is true of them.

The truth comes from networks written out in NumPy with 80-bit numbers (`long_networks`). Among the points are global
minima known by construction, in whole numbers, at which nothing may be refuted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from long_networks import LONG, LongNetwork

from thalweg.certificates import (
    BalancedUnits,
    CalibratedOutputs,
    Case,
    Certificate,
    Certifier,
    EscapeStep,
    FibreDescent,
    FibreSearch,
    HomogeneousUnits,
    LastLayerGradient,
    LastLayerRefit,
    LayerRefit,
    NegativeCurvature,
    NonzeroGradient,
    ResidualRefit,
    SilentUnits,
    Transfer,
    certify,
)
from thalweg.certificates.identities import data_gradient

__all__ = ["TRIALS"]

Truth = tuple[Certificate, bool | None]
NETWORKS = 40
"""Networks with data, loss and regulariser; points at them are drawn anew for every seed."""


class Point(NamedTuple):
    """A network and a point.

    Attributes:
        network: the problem.
        theta: ``(P,)``.
        minimum: whether the point is a global minimum by construction.
    """

    network: LongNetwork
    theta: np.ndarray
    minimum: bool


@cache
def network(key: int) -> LongNetwork:
    """One of the networks; those of the last quarter have whole numbers as data and no regulariser."""
    rng = np.random.default_rng(key)
    whole = key >= 3 * NETWORKS // 4
    inputs, outputs = int(rng.integers(1, 4)), int(rng.integers(2, 4))
    hidden = tuple(int(w) for w in rng.integers(1, 5, size=rng.integers(1, 3)))
    activation = str(rng.choice(["tanh", "relu", "leaky", "sigmoid", "softplus", "identity", "tanh", "relu"]))
    loss = str(rng.choice(["squares", "labels", "bits", "signs", "squares"]))
    if whole:
        activation, loss = str(rng.choice(["tanh", "relu", "identity"])), "squares"
    samples = int(rng.integers(3, 9))
    scale = 1.0 if whole else float(rng.choice([1e-6, 1.0, 1.0, 1e6]))
    x = rng.integers(-3, 4, (samples, inputs)).astype(float) if whole else rng.normal(size=(samples, inputs)) * scale
    if rng.random() < 0.4 or whole:
        x = np.concatenate([x, x])  # every input twice
    n = len(x)
    y = {
        "squares": rng.normal(size=(n, outputs)) * float(rng.choice([1e-6, 1.0, 1e6])),
        "labels": rng.integers(0, outputs, n),
        "bits": rng.random((n, outputs)).round(int(rng.integers(0, 3))),
        "signs": rng.integers(0, 2, (n, outputs)) * 2.0 - 1,
    }[loss]
    decay = float(rng.choice([0.0, 0.0, 1e-4, 0.3])) if not whole else 0.0
    weights = rng.random(n) + 0.1 if rng.random() < 0.2 and not whole else None
    bias, single = bool(rng.random() < 0.8) or whole, bool(rng.random() < 0.2)
    own = bool(rng.random() < 0.3) and weights is None
    if not whole:
        return LongNetwork((inputs, *hidden, outputs), activation, bias, loss, x, y, decay, weights, single, own)
    return _with_known_minimum(rng, (inputs, *hidden, outputs), activation, x, own)


def _whole_theta(rng: np.random.Generator, problem: LongNetwork) -> np.ndarray:
    """Parameters in whole numbers with whole outputs; units of a tanh network are switched off."""
    theta = rng.integers(-2, 3, problem.parameters).astype(float)
    layers = problem.layers(theta)
    if problem.activation == "tanh":
        for weight, _, _ in layers[1:]:
            theta[weight] = 0
    elif rng.random() < 0.5:  # some units without outgoing weights, some without incoming ones
        theta[layers[-1][0]] = 0
        theta[layers[0][0]] *= rng.integers(0, 2)
    return theta


def _with_known_minimum(
    rng: np.random.Generator, sizes: tuple[int, ...], activation: str, x: np.ndarray, own: bool
) -> LongNetwork:
    """Each input has two targets, as far above the output as below: the outputs are best for each input."""
    first = LongNetwork(sizes, activation, True, "squares", x, np.zeros((len(x), sizes[-1])))
    theta = _whole_theta(rng, first)
    f = first.outputs(theta).astype(float)
    half = len(x) // 2
    apart = rng.integers(0, 3, f[:half].shape).astype(float)
    built = LongNetwork(sizes, activation, True, "squares", x, f + np.concatenate([apart, -apart]), own=own)
    _KNOWN[id(built)] = theta
    return built


_KNOWN: dict[int, np.ndarray] = {}


@cache
def keys_of(activations: tuple[str, ...], losses: tuple[str, ...] = (), bare: bool = False) -> tuple[int, ...]:
    """Networks of some activations, some losses (all where none are named), without decay if wanted."""
    built = [(key, network(key)) for key in range(NETWORKS)]
    fit = [(key, n) for key, n in built if n.activation in activations and (not losses or n.loss in losses)]
    return tuple(key for key, n in fit if not (bare and n.decay))


def draw(seed: int, keys: tuple[int, ...] = (), kinds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)) -> Point:
    """A network (of those with some keys) and a point of one of several kinds."""
    rng = np.random.default_rng(seed)
    problem = network(keys[seed % len(keys)] if keys else seed % NETWORKS)
    if id(problem) in _KNOWN:
        theta = _KNOWN[id(problem)].copy()
        if rng.random() < 0.5:
            return Point(problem, theta, True)
        theta[rng.integers(len(theta))] += float(rng.choice([1.0, 1e-3, 1e-9]))
        return Point(problem, theta, False)
    theta = rng.normal(size=problem.parameters) * float(rng.choice([1e-6, 1e-2, 0.5, 1.0, 3.0]))
    if abs(problem.x).max() > 100 and rng.random() < 0.7:
        theta[problem.layers(theta)[0][0]] *= 1e-6
    kind = int(rng.choice(kinds))
    layers = problem.layers(theta)
    if kind == 0:
        theta[:] = 0
    elif kind == 1:
        theta[layers[-1][0]] = 0
        theta = _centred(problem, theta)
    elif kind == 2:
        _switch_off(rng, layers, theta)
    elif kind == 3:
        theta = _descended(problem, theta)
    elif kind == 4 and problem.activation in ("relu", "leaky"):
        weight, bias, shape = layers[0]
        if problem.bias:  # one sample exactly, or nearly, on a corner
            row = theta[weight].reshape(shape)[0]
            theta[bias.start] = -(problem.x[0] @ row) * (1 + float(rng.choice([0.0, 1e-15, 1e-9])))
    return Point(problem, theta, False)


def _centred(problem: LongNetwork, theta: np.ndarray) -> np.ndarray:
    """With last weights of zero: the best constant outputs for squares, so that only the units' signals are left."""
    if problem.loss == "squares" and problem.bias and not problem.decay:
        share = np.ones(len(problem.x)) if problem.weights is None else problem.weights
        theta[problem.layers(theta)[-1][1]] = (share[:, None] * problem.y).sum(0) / share.sum()
    return theta


def _switch_off(
    rng: np.random.Generator, layers: list[tuple[slice, slice, tuple[int, int]]], theta: np.ndarray
) -> None:
    """One hidden unit loses its outgoing weights, or its incoming ones, or both."""
    number = int(rng.integers(len(layers) - 1))
    (weight, bias, shape), (after, _, into) = layers[number], layers[number + 1]
    unit, which = int(rng.integers(shape[0])), int(rng.integers(3))
    if which != 0:
        theta[after].reshape(into)[:, unit] = 0
    if which != 1:
        theta[weight].reshape(shape)[unit] = 0
        if bias.stop > bias.start:
            theta[bias.start + unit] = 0


@cache
def _ends(key: int, start: int) -> np.ndarray:
    """A point where a few Newton-like steps have led, nearly stationary."""
    problem = network(key)
    theta = np.random.default_rng(start).normal(size=problem.parameters) * 0.5
    if abs(problem.x).max() > 100:
        theta[problem.layers(theta)[0][0]] *= 1e-6
    at = torch.tensor(theta)
    for _ in range(40):
        value, slope, bend = problem.objective.evaluate(at, 2)
        values, vectors = torch.linalg.eigh(bend)
        size = values.abs().clamp_min(1e-9 * float(values.abs().max()) + 1e-300)
        step = -(vectors @ ((vectors.T @ slope) / size))
        length = 1.0
        while length > 1e-6 and not bool(problem.objective.value(at + length * step) <= value):
            length /= 2
        if length <= 1e-6 or bool(step.norm() <= 1e-14 * at.norm()):
            break
        at = at + length * step
    return at.numpy()


def _descended(problem: LongNetwork, theta: np.ndarray) -> np.ndarray:
    key = next(k for k in range(NETWORKS) if network(k) is problem)
    return _ends(key, int(abs(theta[0]) * 1e6) % 2).copy()


# -- truths ------------------------------------------------------------------------------------------------------------


def _asked(point: Point, certifier: Certifier) -> Certificate:
    return certify(point.network.objective, torch.tensor(point.theta), [certifier], show_progress=False, budget="1h")[0]


def _differentiable(point: Point) -> bool:
    if point.network.activation not in ("relu", "leaky"):
        return True
    inputs, sums = point.network._forward(np.asarray(point.theta, dtype=LONG))
    for x, z in zip(inputs[:-1], sums[:-1], strict=True):
        still = (x == 0).all(1) & (not point.network.bias)  # zeros that stay zero when theta moves
        if not bool((z[~still] != 0).all()):
            return False
    return True


def _slope_is_not_zero(point: Point) -> bool | None:
    """Whether the exact gradient is certainly not zero; None where 80 bits cannot tell."""
    g = point.network.gradient(point.theta)
    size = np.abs(g).max()
    wiggled = point.network.gradient(np.asarray(point.theta, dtype=LONG) * (1 + LONG(1e-18)))
    noise = np.abs(wiggled - g).max() + LONG(1e-19) * (1 + np.abs(point.network.y).max())
    return True if _differentiable(point) and size > 20 * noise else None


def gradient(seed: int) -> Truth:
    """The gradient does not vanish."""
    point = draw(seed)
    found = _asked(point, NonzeroGradient())
    if not found.established:
        return found, None
    least, exact = float(found.evidence["least gradient"]), point.network.gradient(point.theta)
    if point.minimum or not _differentiable(point):
        return found, False
    return found, bool(np.sqrt((exact**2).sum()) * (1 + 1e-15) >= least)


def negative_curvature(seed: int) -> Truth:
    """The loss curves down along a direction."""
    point = draw(seed)
    found = _asked(point, NegativeCurvature())
    if not found.established:
        return found, None
    if point.minimum or not _differentiable(point):
        return found, False
    direction = np.asarray(found.evidence["direction"].numpy(), dtype=LONG)
    size = float(np.abs(point.theta).max()) or 1.0
    for h in (1e-5, 1e-5 * size, 1e-7 * size):
        if max(_second_difference(point, direction, h), _second_difference(point, direction, h / 2)) < 0:
            return found, True
    return found, _can_be_left(point, seed)


def _second_difference(point: Point, direction: np.ndarray, h: float) -> float:
    step = LONG(h) * direction
    ahead, behind = (point.network.gradient(point.theta + sign * step) for sign in (1, -1))
    return float(((ahead - behind) @ direction) / (2 * LONG(h)))


def _lower_nearby(point: Point, move: np.ndarray) -> bool:
    """Whether moves of shrinking length leave the loss and lead to a slope, or a step from there to a lower loss."""
    here = point.network.value(point.theta)
    for part in (1e-1, 1e-2, 1e-3):
        moved = np.asarray(point.theta, dtype=LONG) + LONG(part) * move
        slope = point.network.gradient(moved)
        noise = np.abs(point.network.gradient(moved * (1 + LONG(1e-18))) - slope).max()
        size = np.sqrt((slope**2).sum())
        if size == 0:
            return False
        same = abs(point.network.value(moved) - here) <= LONG(1e-16) * (abs(here) + 1)
        steps = [LONG(part) * np.sqrt((move**2).sum()) * LONG(10.0) ** -k for k in range(16)]
        lower = any(point.network.value(moved - t * slope / size) < here for t in steps)
        if not lower and not (same and size > 20 * (noise + LONG(1e-19) * (1 + np.abs(point.network.y).max()))):
            return False
    return True


def _can_be_left(point: Point, seed: int) -> bool:
    """Whether the point is no local minimum, by its slope, its curvature, or moves of units that are switched off."""
    if point.minimum:
        return False
    if _slope_is_not_zero(point):
        return True
    at = torch.tensor(point.theta)
    direction = np.asarray(torch.linalg.eigh(point.network.objective.hessian(at))[1][:, 0].numpy(), dtype=LONG)
    if max(_second_difference(point, direction, h) for h in (1e-3, 1e-4)) < -1e-14:
        return True
    rng = np.random.default_rng(seed)
    free = [mask for mask in (_rows_without_effect(point), _columns_without_effect(point)) if mask.any()]
    size = 1 / max(1.0, abs(point.network.x).max())
    return any(
        _lower_nearby(point, np.asarray(mask * rng.normal(size=len(mask)) * scale, dtype=LONG))
        for mask in free
        for scale in (1.0, 1.0, size)
    )


def _rows_without_effect(point: Point) -> np.ndarray:
    """Which parameters go into units that reach no output, ``(P,)``."""
    layers, found = point.network.layers(point.theta), np.zeros(len(point.theta))
    reached = np.ones(point.network.sizes[-1], dtype=bool)
    for (weight, bias, shape), (after, _, into) in reversed(list(pairwise(layers))):
        reached = (point.theta[after].reshape(into)[reached] != 0).any(0)
        found[weight].reshape(shape)[~reached] = 1
        found[bias][~reached[: bias.stop - bias.start]] = 1
    return found


def _columns_without_effect(point: Point) -> np.ndarray:
    """Which parameters multiply units that are zero on all samples, ``(P,)``."""
    layers, found = point.network.layers(point.theta), np.zeros(len(point.theta))
    inputs, _ = point.network._forward(np.asarray(point.theta, dtype=LONG))
    for x, (weight, _, shape) in zip(inputs[1:], layers[1:], strict=True):
        found[weight].reshape(shape)[:, (x == 0).all(0)] = 1
    return found


def fibre_descent(seed: int) -> Truth:
    """A move that changes no output, and a step down."""
    point = draw(seed, kinds=(0, 1, 2, 2, 2, 5))
    found = _asked(point, FibreDescent())
    if not found.established:
        return found, None
    if not _is_lower(point, found.evidence["theta"], float(found.evidence["decrease"])):
        return found, False
    move = np.asarray(found.evidence["direction"].numpy(), dtype=LONG)
    return found, not point.minimum and (_lower_nearby(point, move) or _can_be_left(point, seed))


def silent_units(seed: int) -> Truth:
    """A unit that is switched off could be of use."""
    smooth = keys_of(("tanh", "sigmoid", "softplus"), bare=True) if seed % 4 else ()
    point = draw(seed, smooth, kinds=(0, 1, 2, 2, 2, 5))
    found = _asked(point, SilentUnits())
    if not found.established:
        return found, None
    rng = np.random.default_rng(seed)
    weight, bias, shape = point.network.layers(point.theta)[int(found.evidence["layer"])]
    unit, size = int(found.evidence["unit"]), 1 / max(1.0, abs(point.network.x).max())

    for _ in range(8):
        move = np.zeros(len(point.theta), dtype=LONG)
        move[weight].reshape(shape)[unit] = rng.normal(size=shape[1]) * size
        move[bias.start + unit] = rng.normal()
        if not point.minimum and _lower_nearby(point, move):
            return found, True
    return found, _can_be_left(point, seed)


@cache
def _with_room() -> tuple[int, ...]:
    """Networks with more parameters than outputs of all samples, and no decay."""
    built = [(key, network(key)) for key in range(NETWORKS)]
    return tuple(key for key, n in built if not n.decay and len(n.x) * n.sizes[-1] < n.parameters)


def fibre_search(seed: int) -> Truth:
    """Lower points at shrinking distances."""
    point = draw(seed, _with_room() if seed % 3 else (), kinds=(0, 1, 2, 3))
    found = _asked(point, FibreSearch())
    if not found.established:
        return found, None
    if not _is_lower(point, found.evidence["theta"], float(found.evidence["decrease"])):
        return found, False
    return found, _can_be_left(point, seed)


def _is_lower(point: Point, theta: object, bound: float) -> bool:
    assert isinstance(theta, torch.Tensor)
    gained = point.network.value(point.theta) - point.network.value(theta.numpy())
    return bool(gained >= LONG(bound) * (1 - LONG(1e-17)))


def _better(
    certifier: Callable[[Point, int], Certifier], activations: tuple[str, ...] = (), losses: tuple[str, ...] = ()
) -> Callable[[int], Truth]:
    """A trial of a certifier that shows a better point, mostly of networks with some activations."""

    def trial(seed: int) -> Truth:
        point = draw(seed, keys_of(activations, losses) if activations and seed % 4 else ())
        found = _asked(point, certifier(point, seed))
        if not found.established:
            return found, None
        assert found.bound is not None
        return found, not point.minimum and _is_lower(point, found.evidence["theta"], found.bound)

    return trial


def _others(point: Point, seed: int) -> Certifier:
    """A better point, a worse one, and one that hardly differs."""
    rng = np.random.default_rng(seed + 1)
    step = np.asarray(-point.network.gradient(point.theta), dtype=float)
    size = 10.0 ** -rng.integers(0, 12) / (1e-300 + np.abs(step).max())
    noise = rng.normal(size=len(step))
    moves = (size * step, noise, 1e-15 * noise * point.theta)
    return Transfer(points=tuple(torch.tensor(point.theta + move) for move in moves))


# -- a residual network ------------------------------------------------------------------------------------------------


class Residual(torch.nn.Module):
    """``W (x + V tanh(U x))``."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.W = torch.nn.Linear(inputs, outputs, bias=bias)
        self.V = torch.nn.Linear(2, inputs, bias=bias)
        self.U = torch.nn.Linear(inputs, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.W(x + self.V(torch.tanh(self.U(x))))


@cache
def _residual(key: int) -> tuple[object, np.ndarray, np.ndarray, bool]:
    import thalweg as tw

    rng = np.random.default_rng(key)
    bias, inputs = key % 2 == 0, int(rng.integers(2, 5))
    x, y = rng.normal(size=(12, inputs)), rng.normal(size=(12, 2)) * float(rng.choice([1e-6, 1.0, 1e6]))
    model = Residual(inputs, 2, bias).double()
    return tw.EmpiricalRisk(model, torch.nn.MSELoss(), torch.tensor(x), torch.tensor(y)), x, y, bias


def residual_refit(seed: int) -> Truth:
    """W and V of a residual block refitted."""
    risk, x, y, bias = _residual(seed % 12)
    rng = np.random.default_rng(seed)
    theta = torch.tensor(rng.normal(size=risk.space.size) * float(rng.choice([1e-3, 1.0, 3.0])))  # type: ignore[attr-defined]
    if rng.random() < 0.3:
        theta[risk.space.slice("W.weight")] = 0  # type: ignore[attr-defined]

    def value(at: torch.Tensor) -> np.longdouble:
        named = {name: block.numpy().astype(LONG) for name, block in risk.space.unflatten(at).items()}  # type: ignore[attr-defined]
        w, v, u = named["W.weight"], named["V.weight"], named["U.weight"]
        b, c = (named["W.bias"], named["V.bias"]) if bias else (LONG(0), LONG(0))
        f = (x + np.tanh(x @ u.T) @ v.T + c) @ w.T + b
        return ((f - y) ** 2).sum() / y.size

    found = certify(risk, theta, [ResidualRefit()], show_progress=False)[0]  # type: ignore[arg-type]
    if not found.established:
        return found, None
    assert found.bound is not None
    return found, bool(value(theta) - value(found.evidence["theta"]) >= LONG(found.bound))  # type: ignore[arg-type]


# -- identities --------------------------------------------------------------------------------------------------------


def homogeneous_units(seed: int) -> Truth:
    """Incoming and outgoing weights pull equally."""
    point = draw(seed)
    found = _asked(point, HomogeneousUnits())
    if not found.established:
        return found, None
    g, _ = data_gradient(Case(point.network.objective, torch.tensor(point.theta)))
    product = np.asarray(g.numpy(), dtype=LONG) * np.asarray(point.theta, dtype=LONG)
    layers = point.network.layers(point.theta)
    worst = LONG(0)
    for (weight, bias, shape), (after, _, into) in pairwise(layers):
        left = product[weight].reshape(shape).sum(1) + (product[bias] if point.network.bias else 0)
        worst = max(worst, np.abs(left - product[after].reshape(into).sum(0)).max())
    return found, bool(worst <= LONG(found.bound or 0))


def last_layer_gradient(seed: int) -> Truth:
    """The last layer's gradient by automatic differentiation is the exact one, within the bound and its error."""
    point = draw(seed)
    found = _asked(point, LastLayerGradient())
    if not found.established:
        return found, None
    g, error = data_gradient(Case(point.network.objective, torch.tensor(point.theta)))
    exact = point.network.data_gradient(point.theta)
    weight, bias, _ = point.network.layers(point.theta)[-1]
    last = slice(weight.start, max(weight.stop, bias.stop))
    gap = np.abs(np.asarray(g.numpy(), dtype=LONG)[last] - exact[last])
    return found, bool((gap <= LONG(found.bound or 0) + error.numpy()[last] + 1e-300).all())


def calibrated_outputs(seed: int) -> Truth:
    """Sums that vanish where the last layer is stationary."""
    point = draw(seed)
    found = _asked(point, CalibratedOutputs())
    if not found.established:
        return found, None
    weight, bias, _ = point.network.layers(point.theta)[-1]
    exact = point.network.gradient(point.theta)[weight.start : max(weight.stop, bias.stop)]
    return found, bool(np.abs(exact).max() <= LONG(found.bound or 0))


def balanced_units(seed: int) -> Truth:
    """Squares of incoming and outgoing weights, balanced by decay."""
    keys = tuple(k for k in keys_of(("relu", "leaky", "identity")) if network(k).decay)
    key = keys[seed % len(keys)]
    problem, theta = network(key), _ends(key, seed % 2).copy()
    if seed % 4 == 0:
        theta *= 1 + 1e-3 * np.random.default_rng(seed).normal(size=len(theta))
    point = Point(problem, theta, False)
    found = _asked(point, BalancedUnits())
    if not found.established:
        return found, None
    squares = LONG(problem.decay) * np.asarray(theta, dtype=LONG) ** 2
    layers, worst = problem.layers(theta), LONG(0)
    for (weight, bias, shape), (after, _, into) in pairwise(layers):
        left = squares[weight].reshape(shape).sum(1) + (squares[bias] if problem.bias else 0)
        worst = max(worst, np.abs(left - squares[after].reshape(into).sum(0)).max())
    return found, bool(worst <= LONG(found.bound or 0))


TRIALS: dict[str, Callable[[int], Truth]] = {
    "gradient": gradient,
    "negative curvature": negative_curvature,
    "fibre descent": fibre_descent,
    "silent units": silent_units,
    "fibre search": fibre_search,
    "homogeneous units": homogeneous_units,
    "last layer gradient": last_layer_gradient,
    "calibrated outputs": calibrated_outputs,
    "balanced units": balanced_units,
    "last layer refit": _better(lambda point, seed: LastLayerRefit()),
    "hidden layer refit": _better(lambda point, seed: LayerRefit(), ("relu", "leaky", "identity"), ("squares",)),
    "residual refit": residual_refit,
    "escape step": _better(lambda point, seed: EscapeStep(steps=2)),
    "transfer": _better(_others),
}
