"""The loss of a small network over boxes of parameters: intervals of its value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.certificates.box_intervals import Interval, enclose_outputs, magnitude, multiply, total, widened
from thalweg.certificates.case import Case
from thalweg.certificates.loss_forms import hard_labels
from thalweg.certificates.rounding import UNIT
from thalweg.certificates.squared import squared_rows
from thalweg.objectives import L2
from thalweg.structure import DenseNetwork

__all__ = ["Enclose", "enclosure_of_loss"]

Enclose = Callable[[Interval], tuple[Interval, Interval]]
"""From boxes ``(B, P)`` to values ``(B,)`` and gradients ``(B, P)``."""
DataTerm = Callable[[Interval, Interval], tuple[Interval, Interval]]
"""The same from outputs ``(B, M, C)`` and their derivatives ``(B, M, C, P)``."""


def enclosure_of_loss(case: Case, network: DenseNetwork) -> Enclose:
    """Value and gradient of squared or logistic losses with weight decay; other terms count as zero.

    Raises:
        NotApplicableError: for other losses.
    """
    risk = case.data_term()
    features = network.features(risk.inputs).cpu()
    data = _squares(case, network) if risk.loss_facts.squared_factor is not None else _logistic(case)
    decays = [term for term in case.others if isinstance(term, L2)]

    def enclose(boxes: Interval) -> tuple[Interval, Interval]:
        value, gradient = data(*enclose_outputs(network, boxes, features))
        for term in decays:
            away = widened(boxes.low - term.center.cpu(), boxes.high - term.center.cpu(), 0.0)
            factor = term.strength * term.mask.cpu().expand_as(away.low)
            slope = multiply(Interval(factor, factor), away)
            squares = total(multiply(Interval(factor / 2, factor / 2), _square(away)), 1)
            value = widened(value.low + squares.low, value.high + squares.high, 0.0)
            gradient = widened(gradient.low + slope.low, gradient.high + slope.high, 0.0)
        return value, gradient

    return enclose


def _square(x: Interval) -> Interval:
    least = torch.where((x.low <= 0) & (x.high >= 0), 0.0, torch.minimum(x.low.abs(), x.high.abs()))
    return widened(least**2, magnitude(x) ** 2, 0.0)


def _squares(case: Case, network: DenseNetwork) -> DataTerm:
    rows = squared_rows(case, network.widths[-1])
    weights = rows.weights.reshape(1, -1, 1)
    exact = Interval(weights * (1 - 8 * UNIT), weights * (1 + 8 * UNIT))

    def squares(f: Interval, df: Interval) -> tuple[Interval, Interval]:
        f = Interval(f.low[:, rows.kept], f.high[:, rows.kept])
        df = Interval(df.low[:, rows.kept], df.high[:, rows.kept])
        off = widened(f.low - rows.targets, f.high - rows.targets, 0.0)
        value = total(multiply(exact, _square(off)).at((len(off.low), -1)), 1)
        pull = multiply(exact, Interval(2 * off.low, 2 * off.high))
        return value, _pulled(pull, df)

    return squares


def _pulled(pull: Interval, df: Interval) -> Interval:
    """``J^T g`` for pulls ``(B, ..., K)`` and derivatives ``(B, ..., K, P)``."""
    parts = multiply(Interval(pull.low.unsqueeze(-1), pull.high.unsqueeze(-1)), df)
    return total(parts.at((len(parts.low), -1, df.low.shape[-1])), 1)


def _logistic(case: Case) -> DataTerm:
    labels = hard_labels(case.data_term())
    place, weight = labels.place.cpu(), labels.weight.detach().to("cpu", torch.float64).reshape(1, -1)
    exact = Interval(weight * (1 - 16 * UNIT), weight * (1 + 16 * UNIT))
    signs = (1 - 2 * labels.label.cpu()).to(torch.float64).reshape(1, -1, 1)
    binary, chosen = place.shape[1] == 1, labels.label.cpu()

    def logistic(f: Interval, df: Interval) -> tuple[Interval, Interval]:
        count, size = len(f.low), df.low.shape[-1]
        at = Interval(f.low.reshape(count, -1)[:, place], f.high.reshape(count, -1)[:, place])
        slopes = Interval(df.low.reshape(count, -1, size)[:, place], df.high.reshape(count, -1, size)[:, place])
        if binary:  # log(1 + exp(-s f)): rises with d = -s f
            d = multiply(Interval(signs, signs), at)
            dd = multiply(Interval(signs.unsqueeze(-1), signs.unsqueeze(-1)), slopes)
        else:  # log of 1 plus the sum of exp(d), d the other outputs less that of the label
            d, dd = _against(at, chosen), _against_slopes(slopes, chosen)
        low, high = torch.logsumexp(_with_zero(d.low), -1), torch.logsumexp(_with_zero(d.high), -1)
        value = widened(low, high, 32 * UNIT * (1 + torch.maximum(low.abs(), high.abs()) + magnitude(d).amax(-1)))
        shares = _shares(d)
        pull = multiply(Interval(exact.low.unsqueeze(-1), exact.high.unsqueeze(-1)), shares)
        return total(multiply(exact, Interval(value.low.clamp_min(0), value.high)), 1), _pulled(pull, dd)

    return logistic


def _with_zero(d: Tensor) -> Tensor:
    return torch.cat([d, torch.zeros_like(d[..., :1])], -1)


def _shares(d: Interval) -> Interval:
    """``exp(d_k) / (1 + sum exp(d_j))``: rises with d_k and falls with the others."""
    found = []
    for own, others in ((d.low, d.high), (d.high, d.low)):
        columns = []
        for k in range(own.shape[-1]):
            mixed = others.clone()
            mixed[..., k] = own[..., k]
            columns.append(torch.exp(own[..., k] - torch.logsumexp(_with_zero(mixed), -1)))
        found.append(torch.stack(columns, -1))
    slack = 64 * UNIT * (1 + magnitude(d).amax(-1, keepdim=True))
    return Interval((found[0] - slack).clamp_min(0), (found[1] + slack).clamp_max(1))


def _others(chosen: Tensor, classes: int) -> Tensor:
    """``(M, K - 1)``: the classes beside each label."""
    every = torch.arange(classes).expand(len(chosen), classes)
    return every[every != chosen.unsqueeze(1)].reshape(len(chosen), classes - 1)


def _against(f: Interval, chosen: Tensor) -> Interval:
    rows, others = torch.arange(len(chosen)), _others(chosen, f.low.shape[-1])
    own = Interval(f.low[:, rows, chosen].unsqueeze(-1), f.high[:, rows, chosen].unsqueeze(-1))
    beside = Interval(f.low[:, rows.unsqueeze(1), others], f.high[:, rows.unsqueeze(1), others])
    return widened(beside.low - own.high, beside.high - own.low, 0.0)


def _against_slopes(df: Interval, chosen: Tensor) -> Interval:
    rows, others = torch.arange(len(chosen)), _others(chosen, df.low.shape[-2])
    own = Interval(df.low[:, rows, chosen].unsqueeze(-2), df.high[:, rows, chosen].unsqueeze(-2))
    beside = Interval(df.low[:, rows.unsqueeze(1), others], df.high[:, rows.unsqueeze(1), others])
    return widened(beside.low - own.high, beside.high - own.low, 0.0)
