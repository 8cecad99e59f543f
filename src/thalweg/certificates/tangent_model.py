"""The model linear in its parameters at a point, ``delta -> f(theta) + J delta``, and the convex loss over it.

Its value, gradient and Gauss-Newton steps are found by products with J alone. For a loss that is convex in the outputs,
with a penalty ``sum m_j (theta_j - center_j)^2 / 2``, it is convex: whatever delta is tried, its gradient there bounds
from below what any other delta can reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Hypothesis, State
from thalweg.foundation import LinearOperator, require_memory
from thalweg.objectives import L2, EmpiricalRisk

__all__ = ["Slopes", "TangentModel", "convexity", "output_slopes"]

DENSE = 2**22
"""Entries up to which the Jacobian is formed: products with it are then much cheaper than passes."""


class Slopes(NamedTuple):
    """The loss as a function of the outputs: value, gradient ``(N, C)``, Hessians ``(N, C, C)`` or None."""

    value: float
    gradient: Tensor
    hessian: Tensor | None


def output_slopes(risk: EmpiricalRisk, outputs: Float[Tensor, "N C"], *, curved: bool = False) -> Slopes:
    """Derivatives of the data term with respect to outputs, wherever they come from.

    Args:
        risk: over N samples.
        outputs: ``(N, C)``.
        curved: whether the Hessians are wanted.
    """
    width = risk.n_outputs
    if curved:
        require_memory(8 * 4 * outputs.numel() * width, "the output Hessians of all samples", "Use fewer samples.")
    leaf = outputs.detach().clone().requires_grad_()
    with torch.enable_grad(), risk.execution_context():
        total = leaf.new_zeros(())
        start = 0
        for chunk in risk.chunks(risk.n_samples):
            stop = start + len(chunk.weights)
            total = total + risk.chunk_loss(leaf[start:stop], chunk)
            start = stop
        (slope,) = torch.autograd.grad(total, leaf, create_graph=curved, materialize_grads=True)
        hessian = None
        if curved:
            hessian = leaf.new_zeros(*outputs.shape, width)
            for c in range(width if slope.requires_grad else 0):
                (row,) = torch.autograd.grad(slope[:, c].sum(), leaf, retain_graph=True, materialize_grads=True)
                hessian[:, c] = row
    return Slopes(float(total.detach()), slope.detach(), hessian)


def convexity(case: Case) -> list[Hypothesis]:
    """That the loss over a model linear in its parameters is convex."""
    risk = case.data_term()
    facts = risk.loss_facts
    state = State.PROVED if facts.convex else State.NOT_MET
    others = [repr(term) for term in case.others if not isinstance(term, L2)]
    return [
        Hypothesis("the loss is convex in the outputs", state, note=f"declared for {facts.name}"),
        Hypothesis(
            "all other terms are squares of parameters",
            State.NOT_MET if others else State.PROVED,
            note=", ".join(others),
        ),
    ]


@dataclass(frozen=True, eq=False)
class Linearised:
    """Outputs and Jacobian at one parameter vector, over some coordinates."""

    theta: Tensor
    outputs: Tensor
    jacobian: LinearOperator


class TangentModel:
    """The linearised model about a case's point, over all coordinates or some.

    Args:
        case: with one term over data; all others are `L2`.
        coordinates: ``(k,)``, those that move; None for all.
    """

    def __init__(self, case: Case, coordinates: Int[Tensor, " k"] | None = None) -> None:
        self.case = case
        self.risk = case.data_term()
        size = case.objective.space.size
        everything = torch.arange(size, device=case.theta.device)
        self.coordinates = everything if coordinates is None else coordinates.to(case.theta.device)
        self.whole = len(self.coordinates) == size
        self.penalties = [term for term in case.others if isinstance(term, L2)]
        self.decay = case.theta.new_zeros(size)
        for term in self.penalties:
            self.decay += term.strength * term.mask
        self.dense = self.risk.n_samples * self.risk.n_outputs * size <= DENSE
        self.here = self.linearised(case.theta)

    @property
    def strong(self) -> Float[Tensor, " k"]:
        """What the penalty adds to the curvature in each coordinate that moves."""
        return self.decay[self.coordinates]

    def linearised(self, theta: Float[Tensor, " P"]) -> Linearised:
        """Outputs and Jacobian at a point, not necessarily the case's."""
        own = theta is self.case.theta
        outputs = self.case.outputs if own else self.risk.outputs(theta)
        if self.dense:
            matrix = self.case.jacobian if own else self.risk.jacobian(theta)
            matrix = matrix if self.whole else matrix[:, self.coordinates]
            jacobian = LinearOperator(
                (matrix.shape[0], matrix.shape[1]),
                lambda v: matrix @ v,
                lambda v: matrix.T @ v,
                dtype=matrix.dtype,
                device=matrix.device,
            )
        else:
            jacobian = self._products(theta)
        return Linearised(theta, outputs, jacobian)

    def _products(self, theta: Tensor) -> LinearOperator:
        inner = self.risk.jacobian_operator(theta)
        if self.whole:
            return inner
        chosen, size = self.coordinates, self.case.objective.space.size

        def forward(columns: Tensor) -> Tensor:
            return inner @ columns.new_zeros(size, columns.shape[1]).index_copy(0, chosen, columns)

        return LinearOperator(
            (inner.shape[0], len(chosen)),
            forward,
            lambda v: inner.transpose_matmul(v)[chosen],
            dtype=inner.dtype,
            device=inner.device,
        )

    def outputs(self, delta: Float[Tensor, " k"], at: Linearised | None = None) -> Float[Tensor, "N C"]:
        """``f + J delta``."""
        at = at or self.here
        return at.outputs + (at.jacobian @ delta).reshape(at.outputs.shape)

    def penalty(self, delta: Float[Tensor, " k"], at: Linearised | None = None) -> tuple[float, Float[Tensor, " k"]]:
        """Value and gradient of the penalty at ``theta + delta``."""
        point = (at or self.here).theta.clone()
        point[self.coordinates] += delta
        value, slope = 0.0, torch.zeros_like(point)
        for term in self.penalties:
            value += float(term.value(point))
            slope += term.strength * term.mask * (point - term.center)
        return value, slope[self.coordinates]

    def value_and_gradient(
        self, delta: Float[Tensor, " k"], at: Linearised | None = None
    ) -> tuple[float, Float[Tensor, " k"]]:
        """Of the loss over the linearised model."""
        at = at or self.here
        found = output_slopes(self.risk, self.outputs(delta, at))
        extra, slope = self.penalty(delta, at)
        return found.value + extra, at.jacobian.transpose_matmul(found.gradient.reshape(-1)) + slope

    def newton_step(self, delta: Float[Tensor, " k"], products: int) -> Float[Tensor, " k"]:
        """An approximate minimiser, from delta, of the loss's quadratic model in the outputs; any accuracy serves.

        Args:
            delta: where from.
            products: number of products with J that may be spent.
        """
        found = output_slopes(self.risk, self.outputs(delta), curved=True)
        assert found.hessian is not None
        root, scaled = roots(found.hessian, found.gradient)
        _, pull = self.penalty(delta)
        weight = self.strong.sqrt()
        inverse = torch.where(weight > 0, 1 / weight, torch.zeros_like(weight))
        return least_squares(self.here.jacobian, root, weight, -scaled, -inverse * pull, products)


def roots(hessian: Float[Tensor, "N C C"], slope: Float[Tensor, "N C"]) -> tuple[Tensor, Tensor]:
    """``B^(1/2)`` of every sample, and ``B^(-1/2) g`` on the range of B."""
    values, vectors = torch.linalg.eigh(hessian)
    least = 1e-14 * values.amax(dim=1, keepdim=True).clamp_min(0)
    kept = values > least
    sizes = torch.where(kept, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(kept, 1 / sizes.clamp_min(1e-300), torch.zeros_like(sizes))
    root = (vectors * sizes.unsqueeze(1)) @ vectors.mT
    turned = (vectors.mT @ slope.unsqueeze(-1)).squeeze(-1)
    return root, (vectors @ (inverse * turned).unsqueeze(-1)).squeeze(-1)


def least_squares(
    jacobian: LinearOperator,
    root: Float[Tensor, "N C C"],
    weight: Float[Tensor, " k"],
    top: Float[Tensor, "N C"],
    bottom: Float[Tensor, " k"],
    products: int,
) -> Float[Tensor, " k"]:
    """Approximate least-squares solution of ``[B^(1/2) J; diag(w)] x = [top; bottom]``, by LSMR."""
    from scipy.sparse.linalg import lsmr

    samples, width = top.shape
    rows, size = samples * width, jacobian.shape[1]

    def forward(columns: Tensor) -> Tensor:
        pushed = (jacobian @ columns).reshape(samples, width, -1)
        return torch.cat([(root @ pushed).reshape(rows, -1), weight.unsqueeze(1) * columns])

    def backward(columns: Tensor) -> Tensor:
        pulled = (root.mT @ columns[:rows].reshape(samples, width, -1)).reshape(rows, -1)
        return jacobian.transpose_matmul(pulled) + weight.unsqueeze(1) * columns[rows:]

    operator = LinearOperator((rows + size, size), forward, backward, dtype=top.dtype, device=top.device)
    target = torch.cat([top.reshape(-1), bottom])
    if not bool(torch.isfinite(target).all()) or not bool(target.any()):
        return torch.zeros_like(weight)
    limit = max(1, products // 2)
    found = lsmr(operator.to_scipy(), target.cpu().numpy(), atol=1e-14, btol=1e-14, conlim=0.0, maxiter=limit)[0]
    step = torch.from_numpy(found).to(weight)
    return step if bool(torch.isfinite(step).all()) else torch.zeros_like(weight)


def finite(number: float) -> float:
    """The number, infinite where it is NaN."""
    return math.inf if math.isnan(number) else number
