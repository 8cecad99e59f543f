"""Slope and curvature of the loss in the outputs, with proved errors.

Written for losses in closed form: squares ``c |f - y|^2``, and weighted sums of negative log probabilities
``sum_k a_k (-log p_k)`` with p a softmax of several outputs or a sigmoid of one. With ``A = sum_k a_k`` the latter have
the gradient ``A p - a`` and the Hessian ``A (diag p - p p^T)``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thalweg.certificates.bounded_arithmetic import added, exactly, multiplied, summed
from thalweg.certificates.forward import Bounded
from thalweg.certificates.loss_forms import decision_shares, squares
from thalweg.certificates.rounding import TINY, UNIT, gamma
from thalweg.objectives import EmpiricalRisk

__all__ = ["bounded_bend", "bounded_slope"]

ULPS = 16
"""Roundings of the few operations and the elementary functions that make a probability or a share."""


def bounded_slope(risk: EmpiricalRisk, outputs: Bounded) -> Bounded:
    """Gradient of the data term in the outputs, ``(N, C)``.

    The factors of the samples (weight over the denominator of the mean) are taken as they are.

    Args:
        risk: over N samples.
        outputs: ``(N, C)`` with their errors.

    Raises:
        NotApplicableError: for losses other than squared errors, cross-entropy and the logistic ones.
    """
    if type(risk.loss) is nn.MSELoss:
        form = squares(risk)
        return multiplied(_rounded(2 * form.weight.unsqueeze(1)), added(outputs, exactly(-form.target)))
    shares, places = decision_shares(risk)
    chosen = _taken(outputs, places)
    if places.shape[1] == 1:
        up, down = _sigmoid(chosen, 1), _sigmoid(chosen, -1)
        slope = added(multiplied(_rounded(shares[:, 1:]), up), multiplied(_rounded(-shares[:, :1]), down))
    else:
        slope = added(multiplied(_total(shares), _softmax(chosen)), _rounded(-shares))
    found = Bounded(torch.zeros_like(outputs.value), torch.zeros_like(outputs.error))
    found.value.reshape(-1)[places.reshape(-1)] = slope.value.reshape(-1)
    found.error.reshape(-1)[places.reshape(-1)] = slope.error.reshape(-1)
    return found


def bounded_bend(risk: EmpiricalRisk, outputs: Bounded, along: Bounded) -> Bounded:
    """``u^T B u`` with B the Hessian of the data term in the outputs, part by part; the sum is over all parts.

    Args:
        risk: over N samples.
        outputs: ``(N, C)`` with their errors.
        along: u, ``(N, C)`` with errors.

    Raises:
        NotApplicableError: as for `bounded_slope`.
    """
    if type(risk.loss) is nn.MSELoss:
        weight = _rounded(2 * squares(risk).weight.unsqueeze(1))
        return _flat(multiplied(weight, multiplied(along, along)))
    shares, places = decision_shares(risk)
    chosen, u, total = _taken(outputs, places), _taken(along, places), _total(shares)
    if places.shape[1] == 1:
        weight = multiplied(total, multiplied(_sigmoid(chosen, 1), _sigmoid(chosen, -1)))
        return _flat(multiplied(weight, multiplied(u, u)))
    p = _softmax(chosen)
    mean = summed(multiplied(p, u), 1)
    apart = added(u, Bounded(-mean.value.unsqueeze(1), mean.error.unsqueeze(1)))
    return _flat(multiplied(total, multiplied(p, multiplied(apart, apart))))


def _taken(numbers: Bounded, places: Int[Tensor, "M K"]) -> Bounded:
    return Bounded(numbers.value.reshape(-1)[places], numbers.error.reshape(-1)[places])


def _flat(numbers: Bounded) -> Bounded:
    return Bounded(numbers.value.reshape(-1), numbers.error.reshape(-1))


def _rounded(numbers: Tensor) -> Bounded:
    """Coefficients that a few operations made."""
    return Bounded(numbers, gamma(ULPS) * numbers.abs())


def _total(shares: Float[Tensor, "M K"]) -> Bounded:
    return Bounded(shares.sum(1, keepdim=True), gamma(ULPS + shares.shape[1]) * shares.abs().sum(1, keepdim=True))


def _sigmoid(f: Bounded, sign: int) -> Bounded:
    """``s(sign f)``, which changes by no more than a quarter of f's change and no more than by a factor exp of it."""
    value = torch.sigmoid(sign * f.value)
    moved = torch.minimum(f.error / 4, value * torch.expm1(f.error.clamp_max(1)) + (f.error > 1))
    return Bounded(value, (moved + gamma(ULPS) * value) * (1 + 64 * UNIT) + TINY)


def _softmax(f: Bounded) -> Bounded:
    """A softmax, which changes by no more than a factor ``exp(2 d)`` where no output changes by more than d."""
    value = torch.softmax(f.value, 1)
    below = f.value.amax(1, keepdim=True) - f.value
    change = f.error.amax(1, keepdim=True)
    moved = torch.minimum(change / 2, value * torch.expm1((2 * change).clamp_max(1)) + (2 * change > 1))
    own = (gamma(2 * (ULPS + value.shape[1])) + 2 * UNIT * below) * value
    return Bounded(value, (moved + own) * (1 + 64 * UNIT) + TINY)
