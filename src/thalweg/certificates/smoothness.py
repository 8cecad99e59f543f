"""Whether the loss is differentiable, once or twice, at the very point in question."""

from __future__ import annotations

import math

import torch

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Hypothesis, State
from thalweg.certificates.forward import bounded_layers
from thalweg.certificates.gradient_bounds import near_kink
from thalweg.certificates.random_rounding import RandomRounding
from thalweg.certificates.rounding import UNIT
from thalweg.foundation import NotApplicableError
from thalweg.objectives import L2

__all__ = ["differentiable"]

_TIMES = {1: "differentiable", 2: "twice differentiable"}


def differentiable(case: Case, order: int = 1) -> Hypothesis:
    """The hypothesis that the loss has derivatives up to an order at the point.

    A computed argument near a corner may belong to an exact one on it, and at corners there are minima whose computed
    gradient is not zero. So arguments must be further from every corner than their rounding errors: proved errors for
    multilayer perceptrons, else errors estimated by letting theta and every operation err at random.

    Args:
        case: the problem.
        order: 1 or 2; a kink where only the second derivative jumps does not count for 1.
    """
    statement = f"the loss is {_TIMES[order]} here"
    kinks = case.objective.kinks(case.theta)
    if kinks.branches:
        return Hypothesis(statement, State.NOT_MET, note="the computation branches on numbers that depend on theta")
    if kinks.smooth or kinks.order > order:
        return Hypothesis(statement, State.PROVED, note="no operation with corners was met")
    if math.isinf(kinks.margin):
        return Hypothesis(statement, State.CHECKED, margin=math.inf, note=kinks.describe())
    if _away_from_corners(case):
        note = f"{kinks.describe()}, beyond the rounding errors of all arguments"
        return Hypothesis(statement, State.PROVED, margin=kinks.margin, note=note)
    noise = _noise(case, kinks.margin)
    state = State.CHECKED if kinks.margin > noise else State.NOT_MET
    note = f"{kinks.describe()}; arguments are known to about {noise:.2g}"
    return Hypothesis(statement, state, margin=kinks.margin, note=note)


def _away_from_corners(case: Case) -> bool:
    """Whether a multilayer perceptron under a smooth loss has no weighted sum that may lie on a kink."""
    risk = case.risk
    if risk is None or risk.loss_facts.smoothness != math.inf or not all(isinstance(t, L2) for t in case.others):
        return False
    try:
        network = case.dense()
        layers = bounded_layers(network, case.theta, network.features(risk.inputs))
    except NotApplicableError:
        return False
    pairs = zip(network.layers, layers, strict=True)
    return not any(bool(near_kink(layer.activation, found.before).any()) for layer, found in pairs)


def _noise(case: Case, margin: float) -> float:
    """How far computed arguments may be from exact ones: what the margin changes by under random rounding, times 8."""
    generator = torch.Generator().manual_seed(case.seed)
    seen = 0.0
    for number in range(2):
        signs = 2 * torch.randint(0, 2, case.theta.shape, generator=generator).to(case.theta) - 1
        with RandomRounding(case.seed + number):
            moved = case.objective.kinks(case.theta * (1 + 4 * UNIT * signs)).margin
        seen = max(seen, abs(moved - margin))
    return 8 * seen + 1e-13 * (1 + float(case.theta.abs().max()))
