"""Trust-region Newton without matrices: conjugate gradients on Hessian products (Steihaug 1983)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.solvers.method import Method, State
from thalweg.solvers.trust import Proposal, advance
from thalweg.solvers.watch import checkpoint

__all__ = ["NewtonCG", "Truncated", "products_at", "steihaug"]

Product = Callable[[Tensor, Tensor], Tensor]
"""Maps row numbers ``(k,)`` and vectors ``(k, P)`` to the products of each row's own Hessian with its vector."""


@dataclass(frozen=True)
class NewtonCG(Method):
    """Newton's method for many parameters: the Hessian is only multiplied with, never formed.

    Steps come from conjugate gradients inside a ball of trust, stopped at the ball or at negative curvature, which is
    then followed; the inner iteration is solved the more exactly the smaller the gradient is (Dembo and Steihaug 1983).

    Args:
        radius: of the first ball, in units of ``1 + |theta|``.
        widest: no step is longer than this.
        inner: products at most per iteration; None allows ``2 P``, at most 500.

    >>> NewtonCG(inner=50).alias
    'newton-cg'
    """

    radius: float = 0.5
    widest: float = 1e10
    inner: int | None = None
    alias: ClassVar[str] = "newton-cg"
    max_iterations: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        if not (self.radius > 0 and self.widest > 0 and (self.inner is None or self.inner > 0)):
            raise InvalidInputError(f"radius, widest and inner must be positive, got {self}")

    def start(self, objective: Objective, theta: Float[Tensor, "b P"]) -> State:
        """Value and gradient at the starting points."""
        found = objective.evaluate(theta, 1)
        assert found.gradient is not None
        length = found.gradient.norm(dim=-1)
        return State.fresh(
            theta, found.value, found.gradient, 0, radius=self.radius * (1 + theta.norm(dim=-1)), first=length
        )

    def step(self, objective: Objective, state: State) -> State:
        """One sequence of conjugate gradients per trial."""
        size = state.theta.shape[-1]
        inner = self.inner if self.inner is not None else min(2 * size, 500)
        length = state.gradient.norm(dim=-1)
        relative = (length / state.memory["first"].clamp(min=torch.finfo(length.dtype).tiny)).sqrt().clamp(max=0.5)
        product = products_at(objective, state.theta)
        products = torch.zeros_like(state.hessians)

        def propose(rows: Tensor, radius: Tensor) -> Proposal:
            found = steihaug(
                lambda some, v: product(rows[some], v),
                state.gradient[rows],
                radius,
                relative[rows] * length[rows],
                inner,
            )
            products[rows] += found.products
            return Proposal(found.step, found.predicted, found.boundary)

        tried = advance(objective, state, state.memory["radius"], propose, widest=self.widest)
        rows = tried.moved.nonzero().squeeze(-1)
        value, gradient = state.value.clone(), state.gradient.clone()
        if len(rows):
            found = objective.evaluate(tried.theta[rows], 1)
            assert found.gradient is not None
            value[rows], gradient[rows] = found.value, found.gradient
        return State(
            theta=tried.theta,
            value=value,
            gradient=gradient,
            stuck=~tried.moved,
            evaluations=state.evaluations + tried.evaluations + tried.moved,
            hessians=state.hessians + products,
            memory={"radius": tried.radius, "first": state.memory["first"]},
        )


class Truncated(NamedTuple):
    """A truncated Newton step: `predicted` is the decrease of the model, `residual` the norm of ``H p + g``."""

    step: Float[Tensor, "b P"]
    predicted: Float[Tensor, " b"]
    boundary: Bool[Tensor, " b"]
    residual: Float[Tensor, " b"]
    negative: Bool[Tensor, " b"]
    products: Int[Tensor, " b"]


def products_at(objective: Objective, theta: Float[Tensor, "b P"]) -> Product:
    """Hessian products at fixed points; with a kept linearisation where there is but one point."""
    if len(theta) == 1:
        operator = objective.hessian_operator(theta[0])
        return lambda rows, vectors: (operator @ vectors.T).T
    return lambda rows, vectors: objective.hessian_product(theta[rows], vectors)


def steihaug(
    product: Product,
    gradient: Float[Tensor, "b P"],
    radius: Float[Tensor, " b"],
    tolerance: Float[Tensor, " b"],
    limit: int,
) -> Truncated:
    """Conjugate gradients on ``H p = -g`` inside the ball, every row until its own end.

    A row ends when its residual is below `tolerance`, at the boundary, or where it meets negative curvature, along
    which it goes to the boundary.
    """
    step, model = torch.zeros_like(gradient), torch.zeros_like(gradient)
    residual, direction = gradient.clone(), -gradient
    boundary = torch.zeros(len(gradient), dtype=torch.bool, device=gradient.device)
    negative = torch.zeros_like(boundary)
    products = torch.zeros(len(gradient), dtype=torch.int64, device=gradient.device)
    active = (residual.norm(dim=-1) > tolerance).nonzero().squeeze(-1)
    for _ in range(limit):
        if not len(active):
            break
        checkpoint()
        d, p, r, rho = direction[active], step[active], residual[active], radius[active]
        image = product(active, d)
        products[active] += 1
        curvature, square = (d * image).sum(-1), (r * r).sum(-1)
        bent = curvature <= torch.finfo(d.dtype).eps * d.norm(dim=-1) * image.norm(dim=-1)
        length = square / torch.where(bent, torch.ones_like(curvature), curvature)
        outside = bent | ((p + length[:, None] * d).norm(dim=-1) >= rho)
        length = torch.where(outside, _to_boundary(p, d, rho), length)[:, None]
        step[active], model[active] = p + length * d, model[active] + length * image
        new = r + length * image
        residual[active] = new
        boundary[active], negative[active] = outside, bent
        direction[active] = -new + ((new * new).sum(-1) / square)[:, None] * d
        active = active[~outside & (new.norm(dim=-1) > tolerance[active])]
    predicted = -((gradient + model / 2) * step).sum(-1)
    return Truncated(step, predicted, boundary, residual.norm(dim=-1), negative, products)


def _to_boundary(point: Tensor, direction: Tensor, radius: Tensor) -> Tensor:
    """The positive root t of ``|point + t * direction| = radius``."""
    a, b = (direction**2).sum(-1), (point * direction).sum(-1)
    c = ((point**2).sum(-1) - radius**2).clamp(max=0)
    root = (b * b - a * c).clamp(min=0).sqrt()
    return torch.where(b > 0, -c / (b + root), (root - b) / a)
