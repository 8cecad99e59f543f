"""The trust-region subproblem, solved for a whole batch in the eigenbasis of its matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.foundation import InvalidInputError

__all__ = ["Step", "trust_region_step"]

_CLOSE = 1e-2
"""A step on the boundary may miss the radius by this fraction: the radius itself is only a guess."""


class Step(NamedTuple):
    """A minimiser of the quadratic model inside the ball.

    Attributes:
        step: ``(b, P)``, in the eigenbasis.
        predicted: ``(b,)``, decrease of the model, not negative.
        boundary: ``(b,)``, True where the ball cut the step short.
        shifted: ``(b, P)``, positive: the eigenvalues plus the multiplier, whose inverse made the step.
    """

    step: Float[Tensor, "b P"]
    predicted: Float[Tensor, " b"]
    boundary: Bool[Tensor, " b"]
    shifted: Float[Tensor, "b P"]


def trust_region_step(
    eigenvalues: Float[Tensor, "b P"], slopes: Float[Tensor, "b P"], radius: Float[Tensor, " b"]
) -> Step:
    """Minimise ``slopes . p + p . (eigenvalues * p) / 2`` over ``|p| <= radius``, globally, in every row.

    Newton's method on ``1 / |p(mu)| = 1 / radius`` (Moré and Sorensen 1983, in the eigenbasis), from the side where it
    converges monotonically; in the hard case (the slope has nothing along the lowest eigenvector) the rest of the
    radius is spent along that vector.

    Args:
        eigenvalues: ascending.
        slopes: the gradient in the eigenbasis.
        radius: positive.

    Raises:
        InvalidInputError: for a radius that is not positive.

    >>> found = trust_region_step(torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([2.0]))
    >>> float(found.step.norm()), bool(found.boundary)
    (2.0, True)
    """
    if not bool((radius > 0).all()):
        raise InvalidInputError("the trust radius must be positive")
    lowest = eigenvalues[:, :1]
    largest = eigenvalues.abs().amax(-1, keepdim=True)
    tiny = torch.finfo(eigenvalues.dtype).eps * largest + torch.finfo(eigenvalues.dtype).tiny
    gaps = eigenvalues - lowest
    goal = radius[:, None]
    # sigma = mu + lowest >= 0 is the shifted unknown; the bounds on it follow from
    # |slopes_i| / (gap_i + sigma) <= |p| <= |slopes| / sigma
    least = (slopes.abs() / goal - gaps).amax(-1, keepdim=True)
    least = torch.maximum(torch.maximum(lowest, least), tiny)
    most = torch.maximum(slopes.norm(dim=-1, keepdim=True) / goal, least)
    sigma = least
    for _ in range(60):
        step = -slopes / (gaps + sigma)
        length = step.norm(dim=-1, keepdim=True)
        unfinished = length > (1 + _CLOSE) * goal
        if not bool(unfinished.any()):
            break
        bend = (step**2 / (gaps + sigma)).sum(-1, keepdim=True)
        sigma = torch.where(unfinished, (sigma + length**2 / bend * (length - goal) / goal).clamp(max=most), sigma)
    step = -slopes / (gaps + sigma)
    length = step.norm(dim=-1, keepdim=True)
    hard = (length < (1 - _CLOSE) * goal) & (lowest < sigma - 2 * tiny) & (sigma <= least)
    indefinite = hard & (lowest <= 0)
    rest = torch.where(indefinite, (goal**2 - length**2).clamp(min=0).sqrt(), torch.zeros_like(length))
    downhill = torch.where(slopes[:, :1] > 0, -torch.ones_like(rest), torch.ones_like(rest))
    step = torch.cat([step[:, :1] + downhill * rest, step[:, 1:]], dim=-1)
    predicted = -(slopes * step + eigenvalues * step**2 / 2).sum(-1)
    return Step(step, predicted, (sigma > lowest).squeeze(-1), gaps + sigma)
