"""MINRES for symmetric, possibly indefinite systems, for a batch of right-hand sides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.solvers.watch import checkpoint

__all__ = ["minres"]


def minres(
    product: Callable[[Tensor, Tensor], Tensor],
    right: Float[Tensor, "b P"],
    *,
    tolerance: float | Float[Tensor, " b"] = 1e-8,
    limit: int = 1000,
) -> tuple[Float[Tensor, "b P"], Float[Tensor, " b"], Int[Tensor, " b"]]:
    """Solve ``A x = right`` by minimal residuals (Paige and Saunders 1975), every row with its own matrix.

    A singular consistent system gets its solution of least norm.

    Args:
        product: maps row numbers ``(k,)`` and vectors ``(k, P)`` to the products with the rows' own matrices.
        right: right-hand sides.
        tolerance: relative residual at which a row ends, one for all or one each.
        limit: products per row.

    Returns:
        The solutions, their relative residuals, and the products used.

    >>> matrix = torch.tensor([[2.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    >>> x, residual, _ = minres(lambda rows, v: v @ matrix, torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    >>> x
    tensor([[1., 1.]], dtype=torch.float64)
    """
    beta = right.norm(dim=-1)
    first = beta.clone()
    tiny = torch.finfo(right.dtype).tiny
    x, products = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.int64, device=right.device)
    old, v = torch.zeros_like(right), right / beta.clamp(min=tiny)[:, None]
    w_old, w = torch.zeros_like(right), torch.zeros_like(right)
    cos_old, sin_old = torch.ones_like(beta), torch.zeros_like(beta)
    cos, sin = torch.ones_like(beta), torch.zeros_like(beta)
    rest, beta_old = beta.clone(), torch.zeros_like(beta)
    goal = tolerance * first
    active = (beta > goal).nonzero().squeeze(-1)
    for _ in range(limit):
        if not len(active):
            break
        checkpoint()
        a = active
        image = product(a, v[a]) - beta_old[a, None] * old[a]
        products[a] += 1
        alpha = (image * v[a]).sum(-1)
        image = image - alpha[:, None] * v[a]
        beta_new = image.norm(dim=-1)
        # two old rotations act on the new column of the tridiagonal matrix, a new one makes it triangular
        epsilon = sin_old[a] * beta_old[a]
        delta = cos_old[a] * beta_old[a]
        delta, gamma = cos[a] * delta + sin[a] * alpha, cos[a] * alpha - sin[a] * delta
        norm = torch.hypot(gamma, beta_new).clamp(min=tiny)
        cos_old[a], sin_old[a] = cos[a], sin[a]
        cos[a], sin[a] = gamma / norm, beta_new / norm
        direction = (v[a] - epsilon[:, None] * w_old[a] - delta[:, None] * w[a]) / norm[:, None]
        w_old[a], w[a] = w[a], direction
        x[a] += (cos[a] * rest[a])[:, None] * direction
        rest[a] = -sin[a] * rest[a]
        old[a], v[a] = v[a], image / beta_new.clamp(min=tiny)[:, None]
        beta_old[a] = beta_new
        exhausted = beta_new <= 10 * torch.finfo(right.dtype).eps * (alpha.abs() + beta_new)
        active = a[(rest[a].abs() > goal[a]) & ~exhausted]
    return x, rest.abs() / first.clamp(min=tiny), products
