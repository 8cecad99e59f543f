"""Higher directional derivatives along a line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, NotApplicableError, plan_passes
from thalweg.objectives.objective import Objective
from thalweg.objectives.paths import quiet

__all__ = ["taylor"]

Line = Callable[[Tensor], Tensor]


def taylor(
    objective: Objective, theta: Float[Tensor, "*#batch P"], direction: Float[Tensor, "*#batch P"], order: int = 4
) -> Float[Tensor, "*batch {order}+1"]:
    """Derivatives of ``t -> objective(theta + t * direction)`` at zero, of order 0 to `order`.

    The k-th entry is the k-th derivative, k! times the Taylor coefficient. The direction is taken as it is, not
    normalised.

    Args:
        objective: any objective.
        theta: ``(*batch, P)``.
        direction: broadcast against `theta`.
        order: 0 to 4.

    Returns:
        ``(*batch, order + 1)``.

    Raises:
        InvalidInputError: for an order outside 0 to 4.
        NotApplicableError: where the objective cannot be differentiated that often.

    >>> from thalweg.objectives import Penalty
    >>> from thalweg.foundation import ParameterSpace
    >>> quartic = Penalty(ParameterSpace({"x": ()}), lambda p: p["x"] ** 4, name="x^4")
    >>> taylor(quartic, torch.tensor([1.0]), torch.tensor([1.0]))
    tensor([ 1.,  4., 12., 24., 24.], dtype=torch.float64)
    """
    if order not in range(5):
        raise InvalidInputError(f"order must be 0 to 4, got {order!r}")
    theta, direction = torch.broadcast_tensors(theta, direction)
    rows, batch = objective._rows(theta)
    directions, _ = objective._rows(direction)
    samples = max(1, plan_passes(objective.cost, 1).samples // (2**order))  # each order keeps about twice as much
    derivatives = _forward if objective.path.forward else _backward
    result = torch.zeros(len(rows), order + 1, dtype=objective.dtype, device=objective.device)
    with objective.execution_context(), quiet():
        for chunk in objective.chunks(samples):
            for i, (row, step) in enumerate(zip(rows.unbind(), directions.unbind(), strict=True)):
                line = partial(_on_line, objective, chunk, row, step)
                try:
                    result[i] += derivatives(line, order, rows.new_zeros(()))
                except RuntimeError as error:
                    raise NotApplicableError(
                        f"{objective!r} cannot be differentiated {order} times along a line: {error}"
                    ) from error
    return result.reshape(*batch, order + 1)


def _on_line(objective: Objective, chunk: object, row: Tensor, step: Tensor, t: Tensor) -> Tensor:
    return objective.chunk_value(row + t * step, chunk)


def _forward(line: Line, order: int, zero: Tensor) -> Tensor:
    """Nested forward mode: each level returns all lower derivatives with the next."""

    def level(f: Line) -> Line:
        def lifted(t: Tensor) -> Tensor:
            pair: Any = torch.func.jvp(f, (t,), (torch.ones_like(t),))
            below, slope = pair
            return torch.cat([below, slope[-1:]])

        return lifted

    f: Line = lambda t: line(t).reshape(1)  # noqa: E731
    for _ in range(order):
        f = level(f)
    return f(zero).detach()


def _backward(line: Line, order: int, zero: Tensor) -> Tensor:
    """Repeated reverse mode on the scalar t."""
    t = zero.clone().requires_grad_()
    with torch.enable_grad():
        current = line(t)
        found = [current.detach()]
        for k in range(order):
            if current.requires_grad:
                (current,) = torch.autograd.grad(current, t, create_graph=k + 1 < order, materialize_grads=True)
            else:
                current = torch.zeros_like(zero)
            found.append(current.detach())
    return torch.stack(found)
