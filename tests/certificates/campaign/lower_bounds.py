"""Random problems for the certificates of lower bounds, and what is true of them.

Objectives are made once for each shape and loss, and given other data for each trial; the certificates see no
difference. Truths come from `lower_bound_truths`, which uses nothing of the package.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from lower_bound_truths import (
    Mlp,
    affine,
    best_affine,
    best_hinges,
    best_lipschitz,
    best_segments,
    best_table,
    cross_entropy,
    squares,
)
from scipy.special import expit
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import (
    Case,
    Certificate,
    Certifier,
    DisjointSubsets,
    LabelCollisions,
    LinearNetwork,
    LinearPieces,
    NearCollisions,
    OutputRank,
    ParameterBox,
    ParameterCount,
    WeightDecay,
)
from thalweg.foundation import NotApplicableError

__all__ = ["TRIALS"]

POOL = 24
Trial = Callable[[int], tuple[Certificate, bool | None]]
ACTIVATIONS: dict[str, tuple[type[nn.Module], Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]] = {
    "relu": (nn.ReLU, lambda z: (np.maximum(z, 0), (z > 0) * 1.0)),
    "tanh": (nn.Tanh, lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2)),
    "sigmoid": (nn.Sigmoid, lambda z: (expit(z), expit(z) * expit(-z))),
    "abs": (type("Abs", (nn.Module,), {"forward": lambda self, x: x.abs()}), lambda z: (np.abs(z), np.sign(z))),
}


# -- objectives, made once ---------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """What an objective is made of, besides its data."""

    n: int
    widths: tuple[int, ...]
    activation: str = "relu"
    bias: bool = True
    loss: str = "squares"
    single: bool = False


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "squares": nn.MSELoss,
    "sum": lambda: nn.MSELoss(reduction="sum"),
    "labels": nn.CrossEntropyLoss,
    "bits": nn.BCEWithLogitsLoss,
}


def network(shape: Shape) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in zip(shape.widths, shape.widths[1:], strict=False):
        layers.append(nn.Linear(a, b, bias=shape.bias))
        if shape.activation != "linear":
            layers.append(ACTIVATIONS[shape.activation][0]())
    model = nn.Sequential(*(layers[:-1] if shape.activation != "linear" else layers))
    return model.float() if shape.single else model.double()


@cache
def template(shape: Shape) -> tw.EmpiricalRisk:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, model = torch.randn(shape.n, shape.widths[0], dtype=torch.float64), network(shape)
    y = torch.zeros(shape.n, shape.widths[-1], dtype=torch.float64)
    targets = torch.arange(shape.n) % shape.widths[-1] if shape.loss == "labels" else y
    return tw.EmpiricalRisk(model, LOSSES[shape.loss](), x, targets)


def risk_of(shape: Shape, x: Tensor, targets: Tensor, weights: Tensor | None = None) -> tw.EmpiricalRisk:
    """The objective of other data: what `EmpiricalRisk.on` gives, without looking at the model again."""
    risk = copy.copy(template(shape))
    risk.inputs, risk.targets = x, targets
    risk._weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    risk.n_samples = len(x)
    risk._bound_loss = copy.copy(risk._bound_loss)
    outputs = torch.zeros(len(x), shape.widths[-1], dtype=torch.float64)
    risk._bound_loss.bind(outputs, targets, len(x))
    risk.trace_report = template(shape).trace_report
    risk.subset = lambda index: risk_of(shape, x[index], targets[index], risk._weights[index])  # type: ignore[method-assign]
    return risk


def ask(certifier: Certifier, case: Case, earlier: Sequence[Certificate] = ()) -> Certificate:
    try:
        certifier.work(case)
        return certifier.prove(case, earlier)
    except NotApplicableError as error:
        return certifier.declined((), str(error))


def verdict(found: Certificate, reached: float | np.longdouble | Fraction) -> tuple[Certificate, bool | None]:
    """True if something that exists has no loss below the bound."""
    if not found.established or found.bound is None:
        return found, None
    if isinstance(reached, Fraction):
        return found, Fraction(found.bound) <= reached
    return found, bool(np.longdouble(found.bound) <= np.longdouble(reached))


def of_pool(seed: int) -> np.random.Generator:
    """What shapes are drawn with: a few dozen for each certificate, so that each objective serves many trials."""
    return np.random.default_rng(seed % POOL)


# -- data --------------------------------------------------------------------------------------------------------------


def scale(rng: np.random.Generator) -> float:
    """Between a millionth and a million, one half of the time."""
    return float(10.0 ** rng.uniform(-6, 6)) if rng.random() < 0.5 else 1.0


def inputs(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Of any scale and offset, with copies, rounded, nearly dependent columns, or few distinct values."""
    x = rng.standard_normal((n, d)) * scale(rng)
    kind = rng.integers(6)
    if kind == 0:
        x = x[rng.integers(0, max(1, n // 2), n)]
    elif kind == 1:
        x = np.round(rng.standard_normal((n, d)))
    elif kind == 2:
        x = x + x.std() * 10.0 ** rng.integers(0, 6)
    elif kind == 3 and d > 1:
        x[:, -1] = x[:, 0] + x[:, :-1].sum(1) * rng.choice([0.0, 1.0, 1e-9])
    elif kind == 4:
        x[rng.integers(n)] = 0.0
    return x


def real_targets(rng: np.random.Generator, n: int, q: int) -> np.ndarray:
    y = rng.standard_normal((n, q)) * scale(rng)
    kind = rng.integers(5)
    if kind == 0:
        y = y + 1e6 * np.abs(y).max()
    elif kind == 1:
        y[:, -1] = y[:, 0]
    elif kind == 2:
        y = np.round(rng.standard_normal((n, q)))
    return y


def sample_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    kind = rng.integers(3)
    if kind == 0:
        return np.ones(n)
    w = rng.random(n) if kind == 1 else 10.0 ** rng.uniform(-6, 6, n)
    w[rng.integers(n)] *= rng.integers(2)
    return w if (w > 0).any() else np.ones(n)


def factors(shape: Shape, w: np.ndarray) -> list[Fraction]:
    """What multiplies each sample's squares or logistic terms, exactly."""
    count = 1 if shape.loss == "sum" else len(w) * (1 if shape.loss == "labels" else shape.widths[-1])
    return [Fraction(float(weight)) / count for weight in w]


def with_weight(c: list[Fraction]) -> tuple[np.ndarray, list[Fraction], np.ndarray]:
    """Which samples count, what multiplies them, and that in floats."""
    kept = np.array([factor > 0 for factor in c])
    some = [factor for factor in c if factor > 0]
    return kept, some, np.array([float(factor) for factor in some])


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def with_penalty(rng: np.random.Generator, risk: tw.EmpiricalRisk) -> tw.Objective:
    """Weight decay a third of the time: it leaves bounds of the data term true."""
    return risk + tw.L2(risk, float(10.0 ** rng.uniform(-6, 1))) if rng.random() < 1 / 3 else risk


def anywhere(rng: np.random.Generator, shape: Shape, size: float = 1.0) -> Tensor:
    space = template(shape).space
    theta = torch.from_numpy(rng.standard_normal(space.size) * size)
    return theta.float().double() if shape.single else theta


# -- one function for each certificate ---------------------------------------------------------------------------------


def output_rank(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    k, q = int(pool.integers(1, 3)), int(pool.integers(2, 5))
    shape = Shape(7, (2, k, q), str(pool.choice(["relu", "tanh", "linear"])), bool(pool.integers(2)),
                  str(pool.choice(["squares", "sum"])), bool(pool.integers(2)))  # fmt: skip
    x, y, w = inputs(rng, 7, 2), real_targets(rng, 7, q), sample_weights(rng, 7)
    risk = risk_of(shape, *tensors(x, y, w))
    found = ask(OutputRank(), Case(with_penalty(rng, risk), anywhere(rng, shape)))
    kept, c, rough = with_weight(factors(shape, w))
    return verdict(found, squares(best_table(y[kept], rough, k, intercept=shape.bias), y[kept], c))


def linear_network(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    d, q = int(pool.integers(1, 4)), int(pool.integers(1, 4))
    widths = [(d, q), (d, 1, q), (d, 2, q), (d, 3, 1, q)][pool.integers(4)]
    shape = Shape(8, widths, "linear", bool(pool.integers(2)), str(pool.choice(["squares", "sum"])))
    x, y, w = inputs(rng, 8, d), real_targets(rng, 8, q), sample_weights(rng, 8)
    risk = risk_of(shape, *tensors(x, y, w))
    found = ask(LinearNetwork(), Case(with_penalty(rng, risk), anywhere(rng, shape)))
    kept, c, rough = with_weight(factors(shape, w))
    maps = best_affine(x[kept], y[kept], rough, min(widths), intercept=shape.bias)
    return verdict(found, squares(affine(x[kept], *maps), y[kept], c))


def linear_pieces(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    k, q, n = int(pool.integers(1, 3)), int(pool.integers(1, 3)), 7
    shape = Shape(n, (1, k, q), str(pool.choice(["relu", "abs"])), True, str(pool.choice(["squares", "sum"])))
    x, y, w = inputs(rng, n, 1), real_targets(rng, n, q), sample_weights(rng, n)
    risk = risk_of(shape, *tensors(x, y, w))
    found = ask(LinearPieces(), Case(with_penalty(rng, risk), anywhere(rng, shape)))
    if not found.established:
        return found, None
    kept, c, _ = with_weight(factors(shape, w))
    reached = best_segments(x[kept, 0], y[kept], c, k + 1)
    if shape.activation == "relu" and kept.sum() > 1:
        reached = min(reached, best_hinges(x[kept, 0], y[kept], c, k))
    return verdict(found, reached)


def near_collisions(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    n, d, q = int(pool.integers(2, 5)), int(pool.integers(1, 3)), int(pool.integers(1, 3))
    labels = pool.random() < 0.4
    loss = ("labels" if q > 1 else "bits") if labels else str(pool.choice(["squares", "sum"]))
    shape = Shape(n, (d, q), "linear", True, loss)
    x, w = inputs(rng, n, d), sample_weights(rng, n)
    kinds = rng.integers(0, 2, n)
    y = kinds[:, None].astype(float) if loss == "bits" else real_targets(rng, n, q)
    targets = torch.from_numpy(kinds) if loss == "labels" else torch.from_numpy(y)
    spread = float(np.abs(x - x[0]).max()) or 1.0
    steepness = float(10.0 ** rng.uniform(-2, 1)) * (1.0 if labels else max(np.abs(y).max(), 1e-300)) / spread
    theta = torch.zeros(template(shape).space.size, dtype=torch.float64)
    theta[0] = steepness * float(rng.choice([0.0, 0.9, 0.9, 1.1]))
    risk = risk_of(shape, *tensors(x), targets, *tensors(w))
    found = ask(NearCollisions(steepness), Case(with_penalty(rng, risk), theta))
    if not found.established:
        return found, None
    c = factors(shape, w)
    rough = np.array([float(factor) for factor in c])
    if labels:
        start = (2.0 * kinds[:, None] - 1) * (np.array([[-1.0, 1.0]]) if q > 1 else np.ones((1, 1)))
        some = best_lipschitz(x, start, steepness, lambda f: float(cross_entropy(f, kinds, rough)))
        return verdict(found, min(cross_entropy(middle + rows, kinds, rough) for middle, rows in some))
    some = best_lipschitz(x, y, steepness, lambda f: float((rough[:, None] * (f - y) ** 2).sum()))
    tables = (affine(rows, np.eye(q), middle) for middle, rows in some)
    return verdict(found, min(squares(table, y, c) for table in tables))


def disjoint_subsets(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    d, q, n = int(pool.integers(1, 3)), int(pool.integers(1, 3)), 8
    shape = Shape(n, (d, q), "linear", True, str(pool.choice(["squares", "sum"])))
    x, y, w = inputs(rng, n, d), real_targets(rng, n, q), sample_weights(rng, n)
    if rng.random() < 0.7:
        x = x[rng.integers(0, 3, n)]
    risk = risk_of(shape, *tensors(x, y, w))
    by: tuple[Certifier, ...] = (LinearNetwork(),) if rng.random() < 0.1 else (LabelCollisions(),)
    certifier = DisjointSubsets(torch.from_numpy(rng.integers(0, 2, n)), by)
    found = ask(certifier, Case(with_penalty(rng, risk), anywhere(rng, shape)))
    kept, c, rough = with_weight(factors(shape, w))
    return verdict(
        found, squares(affine(x[kept], *best_affine(x[kept], y[kept], rough, q, intercept=True)), y[kept], c)
    )


def _numpy_loss(shape: Shape, y: np.ndarray, c: list[Fraction]) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    weights = np.array([[float(factor)] for factor in c])

    def of_squares(f: np.ndarray) -> tuple[float, np.ndarray]:
        return float((weights * (f - y) ** 2).sum()), 2 * weights * (f - y)

    def of_labels(f: np.ndarray) -> tuple[float, np.ndarray]:
        chosen = y[:, 0].astype(int)
        top = f.max(1, keepdims=True)
        p = np.exp(f - top) / np.exp(f - top).sum(1, keepdims=True)
        value = float(cross_entropy(f, chosen, weights[:, 0]))
        return value, weights * (p - np.eye(f.shape[1])[chosen])

    def of_bits(f: np.ndarray) -> tuple[float, np.ndarray]:
        value = float((weights * (np.logaddexp(0, f) - y * f)).sum())
        return value, weights * (expit(f) - y)

    return {"labels": of_labels, "bits": of_bits}.get(shape.loss, of_squares)


def _penalised(rng: np.random.Generator, shape: Shape, moderate: bool) -> tuple[tw.EmpiricalRisk, Mlp, float]:
    """A small network with weight decay, in torch and in NumPy."""
    n, d, q = shape.n, shape.widths[0], shape.widths[-1]
    x = rng.standard_normal((n, d)) if moderate else inputs(rng, n, d)
    y = rng.standard_normal((n, q)) * (3.0 if moderate else scale(rng))
    if shape.loss == "labels":
        y = rng.integers(0, q, (n, 1)).astype(float)
    elif shape.loss == "bits":
        y = rng.integers(0, 2, (n, q)).astype(float)
    w = sample_weights(rng, n) if rng.random() < 0.3 and not moderate else np.ones(n)
    c = factors(shape, w)
    decay = float(10.0 ** rng.uniform(-2 if moderate else -4, 1))
    targets = torch.from_numpy(y[:, 0].astype(np.int64)) if shape.loss == "labels" else torch.from_numpy(y)
    risk = risk_of(shape, *tensors(x), targets, *tensors(w))
    hidden = shape.widths[1] if len(shape.widths) == 3 else None
    activation = ACTIVATIONS.get(shape.activation, ACTIVATIONS["relu"])[1]
    if shape.activation == "linear":
        activation = lambda z: (z, np.ones_like(z))  # noqa: E731
    return risk, Mlp((d, hidden, q), shape.bias, activation, x, _numpy_loss(shape, y, c), decay), decay


def weight_decay(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    loss = str(pool.choice(["squares", "sum", "labels", "bits"]))
    q = int(pool.integers(2, 4)) if loss == "labels" else int(pool.integers(1, 3))
    widths = [(2, q), (2, 2, q), (1, 3, q)][pool.integers(3)]
    shape = Shape(6, widths, str(pool.choice(["relu", "tanh", "sigmoid", "linear"])), bool(pool.integers(2)), loss)
    with np.errstate(all="ignore"):
        risk, truth, decay = _penalised(rng, shape, moderate=bool(rng.integers(2)))
        theta = anywhere(rng, shape)
        case = Case(risk + tw.L2(risk, decay), theta)
        found = ask(WeightDecay(), case, [ask(LabelCollisions(), case)])
        if not found.established:
            return found, None
        size = len(theta)
        starts = [np.zeros(size), theta.numpy(), *(rng.standard_normal(size) * s for s in (0.3, 1.0))]
        return verdict(found, truth.lowest(starts))


def parameter_box(seed: int) -> tuple[Certificate, bool | None]:
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    choices = [((1, 1), True, "squares"), ((2, 1), True, "sum"), ((1, 1, 1), False, "squares"),
               ((1, 1, 1), True, "squares"), ((1, 2), True, "labels"), ((1, 1), True, "bits"),
               ((1, 1, 1), True, "bits"), ((1, 2, 1), False, "squares")]  # fmt: skip
    widths, bias, loss = choices[pool.integers(len(choices))]
    shape = Shape(5, widths, str(pool.choice(["relu", "tanh", "sigmoid", "abs"])), bias, loss)
    risk, truth, decay = _penalised(rng, shape, moderate=True)
    theta = anywhere(rng, shape, 0.5)
    radius = None if rng.random() < 0.6 else float(rng.choice([0.1, 0.5, 2.0]))
    objective: tw.Objective = risk + tw.L2(risk, decay)
    if radius is not None and rng.random() < 0.5:
        objective, truth = risk, Mlp(truth.sizes, truth.bias, truth.activation, truth.x, truth.loss)
    found = ask(ParameterBox(radius, boxes=250), Case(objective, theta))
    if not found.established:
        return found, None
    center, reach = theta.numpy(), radius if radius is not None else 3.0
    starts = [center, *(center + rng.uniform(-reach, reach, len(center)) for _ in range(2))]
    bounds = None if radius is None else [(v - radius, v + radius) for v in center]
    best = truth.lowest(starts, bounds, 30)
    if radius is None:
        best = min(best, truth.value_and_gradient(np.zeros(len(center)))[0])
    return verdict(found, best * (1 + 1e-13) + 1e-300)  # NumPy's own rounding


def parameter_count(seed: int) -> tuple[Certificate, bool | None]:
    """Whether targets drawn at random are out of reach: of the tangent model, whose outputs fill most."""
    rng, pool = np.random.default_rng(seed), of_pool(seed)
    n, d, q = int(pool.integers(2, 7)), int(pool.integers(1, 4)), int(pool.integers(1, 4))
    widths = [(d, q), (d, 1, q), (d, 2, q)][pool.integers(3)]
    shape = Shape(n, widths, str(pool.choice(["relu", "tanh", "linear"])), bool(pool.integers(2)), "squares")
    x, y, w = rng.standard_normal((n, d)) * scale(rng), real_targets(rng, n, q), np.ones(n)
    theta = anywhere(rng, shape)
    case = Case(risk_of(shape, *tensors(x, y, w)), theta)
    found = ask(ParameterCount(), case)
    if not found.established:
        return found, None
    hidden = widths[1] if len(widths) == 3 else None
    activation = {"linear": lambda z: (z, np.ones_like(z))}.get(shape.activation) or ACTIVATIONS[shape.activation][1]

    def row(i: int, k: int) -> np.ndarray:  # the gradient of one output is that of a loss that is this output
        pick = np.zeros((n, q))
        pick[i, k] = 1
        net = Mlp((d, hidden, q), shape.bias, activation, x, lambda f: (float(f[i, k]), pick))
        return net.value_and_gradient(theta.numpy())[1]

    jacobian = np.stack([row(i, k) for i in range(n) for k in range(q)])
    wanted = rng.standard_normal(n * q)
    left = wanted - jacobian @ np.linalg.lstsq(jacobian, wanted, rcond=None)[0]
    return found, bool(math.sqrt(float(left @ left)) > 1e-9)


TRIALS: dict[str, Trial] = {
    "output rank": output_rank,
    "linear network": linear_network,
    "linear pieces": linear_pieces,
    "near collisions": near_collisions,
    "disjoint subsets": disjoint_subsets,
    "weight decay": weight_decay,
    "parameter box": parameter_box,
    "parameter count": parameter_count,
}
