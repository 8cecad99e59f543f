"""The loss at many points, of which only a group is held at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import current_limit
from thalweg.objectives import Objective

__all__ = ["values_in_groups"]

BYTES = 256 * 2**20
"""Memory that the points of one group may fill, or an eighth of `current_limit` where that is less."""


def values_in_groups(objective: Objective, count: int, make: Callable[[slice], Tensor]) -> Float[Tensor, " count"]:
    """Evaluate the loss at `count` points.

    Args:
        objective: the loss.
        count: number of points.
        make: from a range of their numbers to the points themselves, ``(k, P)``.

    >>> from thalweg.zoo import Quadratic
    >>> t = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> values_in_groups(Quadratic([2.0]), 3, lambda some: t[some])
    tensor([0., 1., 4.], dtype=torch.float64)
    """
    one = objective.space.size * torch.empty((), dtype=objective.dtype).element_size()
    at_once = max(1, min(BYTES, current_limit() // 8) // max(1, one))
    parts = [objective.value(make(slice(k, min(k + at_once, count)))) for k in range(0, count, at_once)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=objective.dtype, device=objective.device)
