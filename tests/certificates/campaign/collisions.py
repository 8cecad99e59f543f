"""Random problems with label collisions, and the lowest loss of any function of their inputs, in exact arithmetic.

Torch's losses are written out from their definitions, in rationals for squared errors, in forty digits for logarithms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from torch import nn

import thalweg as tw
from thalweg.certificates import Case, Certificate, LabelCollisions

__all__ = ["TRIALS"]

Array = np.ndarray


class Problem(NamedTuple):
    """Inputs ``(N, d)``, targets, weights of the samples, the torch loss, and its infimum over groups of samples."""

    x: Array
    y: torch.Tensor
    weights: Array
    loss: nn.Module
    outputs: int
    least: Callable[[list[int]], Any]


def squares(rng: np.random.Generator, n: int) -> Problem:
    width, reduction = int(rng.integers(1, 4)), str(rng.choice(["mean", "sum"]))
    y = rng.standard_normal((n, width)) * 10.0 ** rng.integers(-6, 7) + rng.choice([0.0, 0.0, 1e6])
    w = weights(rng, n)

    def least(group: list[int]) -> Fraction:
        c = [Fraction(w[i]) / (n * width if reduction == "mean" else 1) for i in group]
        if not sum(c):
            return Fraction(0)
        total = Fraction(0)
        for column in y.T:
            numbers = [Fraction(column[i]) for i in group]
            mean = sum((a * b for a, b in zip(c, numbers, strict=True)), Fraction(0)) / sum(c)
            total += sum((a * (b - mean) ** 2 for a, b in zip(c, numbers, strict=True)), Fraction(0))
        return total

    return Problem(inputs(rng, n), torch.from_numpy(y), w, nn.MSELoss(reduction=reduction), width, least)


def classes(rng: np.random.Generator, n: int) -> Problem:
    width = int(rng.integers(2, 5))
    smoothing = float(rng.choice([0.0, 0.0, 0.1, 0.3]))
    each = rng.random(width) + 0.1 if rng.random() < 0.5 else np.ones(width)
    reduction = str(rng.choice(["mean", "sum"]))
    w, soft = weights(rng, n), rng.random() < 0.3
    labels = rng.integers(0, width, n)
    share = rng.dirichlet(np.ones(width), n) if soft else np.eye(width)[labels]
    ignored = np.zeros(n, dtype=bool) if soft else rng.random(n) < 0.2
    ignored[0] = False
    counted = sum(Fraction(each[k]) for k, off in zip(labels, ignored, strict=True) if not off)
    over = 1 if reduction == "sum" else n if soft else counted

    def least(group: list[int]) -> Any:
        cost = [mpmath.mpf(0)] * width
        for i in group:
            for k in range(width) if not ignored[i] else ():
                part = (1 - Fraction(smoothing)) * Fraction(share[i, k]) + Fraction(smoothing) / width
                cost[k] += real(part * Fraction(each[k]) * Fraction(w[i]) / over)
        return entropy(cost)

    y = torch.from_numpy(share) if soft else torch.from_numpy(np.where(ignored, -100, labels))
    loss = nn.CrossEntropyLoss(torch.from_numpy(each), label_smoothing=smoothing, reduction=reduction)
    return Problem(inputs(rng, n), y, w, loss, width, least)


def bits(rng: np.random.Generator, n: int) -> Problem:
    width, positive = int(rng.integers(1, 4)), float(10.0 ** rng.uniform(-2, 2))
    w, soft = weights(rng, n), rng.random() < 0.5
    y = rng.random((n, width)) if soft else rng.integers(0, 2, (n, width)) * 1.0

    def least(group: list[int]) -> Any:
        found = mpmath.mpf(0)
        for column in y.T:
            one = sum((Fraction(positive) * Fraction(column[i]) * Fraction(w[i]) for i in group), Fraction(0))
            zero = sum(((1 - Fraction(column[i])) * Fraction(w[i]) for i in group), Fraction(0))
            found += entropy([real(one / (n * width)), real(zero / (n * width))])
        return found

    loss = nn.BCEWithLogitsLoss(pos_weight=torch.full((width,), positive, dtype=torch.float64))
    return Problem(inputs(rng, n), torch.from_numpy(y), w, loss, width, least)


def inputs(rng: np.random.Generator, n: int) -> Array:
    """Few distinct rows; some differ in the last digit, or in the sign of a zero."""
    x = rng.standard_normal((max(2, n // 2), 2)) * 10.0 ** rng.integers(-6, 7)
    x[0, 0] = 0.0
    x = x[rng.integers(0, len(x), n)]
    kind = rng.integers(4)
    if kind == 0:
        x[-1] = np.nextafter(x[0], np.inf)
    elif kind == 1:
        x[-1] = x[0] * np.where(x[0] == 0, -1.0, 1.0)
    return x


def weights(rng: np.random.Generator, n: int) -> Array:
    w = [np.ones(n), rng.random(n), 10.0 ** rng.uniform(-6, 6, n)][rng.integers(3)]
    w[rng.integers(1, n)] *= rng.integers(2)
    return w


def entropy(costs: list[Any]) -> Any:
    """The least of ``-sum_k a_k log p_k`` over probabilities p."""
    whole = sum(costs)
    return sum((a * mpmath.log(whole / a) for a in costs if a), mpmath.mpf(0))


def real(number: Fraction) -> Any:
    return mpmath.mpf(number.numerator) / number.denominator


def label_collisions(seed: int) -> tuple[Certificate, bool | None]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 13))
    problem = [squares, classes, bits][rng.integers(3)](rng, n)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, problem.outputs)).double()
    x = torch.from_numpy(problem.x)
    if rng.random() < 0.3:  # a model in single precision: the numbers that it sees are those of its own type
        model, x = model.float(), x.float()
    risk = tw.EmpiricalRisk(model, problem.loss, x, problem.y, sample_weight=torch.from_numpy(problem.weights))
    objective = risk + tw.L2(risk, 1e-3) if rng.random() < 0.3 else risk
    found = LabelCollisions().prove(Case(objective, risk.initial), ())
    if not found.established:
        return found, None
    groups = defaultdict(list)
    for number, row in enumerate(x.tolist()):
        groups[tuple(row)].append(number)
    assert found.bound is not None
    with mpmath.workdps(40):
        truth = [problem.least(group) for group in groups.values()]
        true = all(isinstance(part, Fraction) for part in truth)
        lowest = sum(truth) if true else mpmath.fsum(truth)
        bound = Fraction(found.bound) if true else mpmath.mpf(found.bound)
        return found, bool(bound <= lowest)


TRIALS = {"label collisions": label_collisions}
