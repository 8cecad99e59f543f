"""How fast the Hessian of a loss can change over a ball: its Lipschitz constant."""

from __future__ import annotations

import math

import torch

from thalweg.certificates.case import Case
from thalweg.certificates.growth import growth
from thalweg.certificates.loss_forms import curvatures, squares
from thalweg.certificates.rounding import gamma
from thalweg.foundation import NotApplicableError
from thalweg.objectives import L2

__all__ = ["hessian_lipschitz"]


def hessian_lipschitz(case: Case, radius: float) -> float:
    """A bound of ``|H(x) - H(y)| / |x - y|`` over the ball of a radius about the point.

    The third derivative along a unit direction of ``sum_i l_i(f_i)`` is ``sum_i l_i' f_i''' + 3 l_i'' [f_i', f_i''] +
    l_i''' [f_i', f_i', f_i']``, and each factor is bounded over the ball (`thalweg.certificates.growth`). Squares of
    parameters do not change the Hessian.

    Args:
        case: a multilayer perceptron with smooth activations under squares, cross-entropy or a logistic loss; or
            squares of parameters alone.
        radius: of the ball.

    Raises:
        NotApplicableError: for other networks, losses and terms.

    >>> from thalweg.foundation import ParameterSpace
    >>> hessian_lipschitz(Case(L2(ParameterSpace({"x": (2,)}), 3.0), torch.ones(2)), 1.0)
    0.0
    """
    signless = [repr(term) for term in case.others if not isinstance(term, L2)]
    if signless:
        raise NotApplicableError(f"how fast the curvature of {', '.join(signless)} changes is not known")
    if case.risk is None and all(isinstance(term, L2) for term in case.terms):
        return 0.0
    risk = case.data_term()
    found = curvatures(risk)
    rates = growth(case.dense(), case.theta, risk.inputs, radius, order=3)
    assert rates.third is not None
    reached = case.bounded_outputs
    if bool(torch.isfinite(found.slope).all()):
        steepest = found.slope
    else:  # squares: the slope grows with the distance from the target
        form = squares(risk)
        apart = ((reached.value - form.target).abs() + reached.error).norm(dim=1)
        steepest = 2 * form.weight * (apart * (1 + gamma(risk.n_outputs + 8)) + radius * rates.first)
    parts = steepest * rates.third + 3 * found.second * rates.first * rates.second + found.third * rates.first**3
    total = math.fsum(parts.tolist()) * (1 + 1e-9)
    return total if math.isfinite(total) else math.inf
