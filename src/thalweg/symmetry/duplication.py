"""A unit taken several times, each copy with a share of its output weights: critical points of a wider network.

At a critical point, copies of unit j with the same input weights and output weights ``beta_i a``, the shares beta
adding up to one, are a critical point of the wider network with the same loss, for all shares: a line for two copies
(Fukumizu and Amari 2000). Let the copies' input weights be ``w + xi_i`` with ``sum beta_i xi_i = 0``, and their output
weights ``beta_i c + eta_i`` with ``sum eta_i = 0``. In these coordinates the Hessian of the wider network is that of
the given one, and beside it, with nothing between, the form::

    sum beta_i xi_i^T B xi_i + 2 sum xi_i^T D eta_i,
    B = sum (a . e) sigma''(w.x) x x^T,     D = sum sigma'(w.x) x e^T

over samples, with x what enters the layer (and a one for the bias) and e the gradient of the loss in the next layer's
arguments. So the signs of all eigenvalues follow from a small matrix. For one output D vanishes at a critical point,
and two copies lie on a plateau (minima where the given point is one) between shares 0 and 1 if B is positive definite,
outside if it is negative definite, and nowhere if it is indefinite. For several outputs D is hardly ever zero: each
rank of it makes one direction along which the loss falls, and there is no plateau (Petzka and Sminchisescu 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.objectives import EmpiricalRisk, Objective
from thalweg.structure import DenseNetwork
from thalweg.symmetry.channel_entry import one_point
from thalweg.symmetry.channel_ground import Ground, ground_of
from thalweg.symmetry.dense_module import resized
from thalweg.tangent import Inertia, inertia

__all__ = ["Duplication", "Signs", "duplicate"]

_AT_ONCE = 8192
"""Samples in one pass."""


class Signs(NamedTuple):
    """How many eigenvalues of a Hessian are negative, zero, positive, and how many rounding hides."""

    negative: int
    zero: int
    positive: int
    undecided: int

    @staticmethod
    def of(found: Inertia) -> Signs:
        """The counts alone."""
        return Signs(found.negative, found.zero, found.positive, found.undecided)

    def beside(self, other: Signs) -> Signs:
        """Of two blocks with nothing between them."""
        return Signs(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, eq=False)
class Duplication:
    """A unit at a critical point, and what becomes of that point where the unit is taken several times.

    Attributes:
        risk: the loss of the given network.
        theta: ``(P,)``, the point.
        layer: number of the hidden layer.
        unit: the unit.
        given: signs of the Hessian's eigenvalues there.
        gradient_norm: maximum norm of the gradient there; all that is said supposes that it vanishes.
        bend: B, ``(d, d)``, with the bias last where there is one.
        tension: D, ``(d, q)``.
        error: how much an entry of B or D may be off, by rounding and by the gradient that is left.
    """

    risk: EmpiricalRisk = field(repr=False)
    theta: Float[Tensor, " P"] = field(repr=False)
    layer: int
    unit: int
    given: Signs
    gradient_norm: float
    bend: Float[Tensor, "d d"]
    tension: Float[Tensor, "d q"]
    error: float
    _network: DenseNetwork = field(repr=False)

    @cached_property
    def bends(self) -> Float[Tensor, " d"]:
        """Eigenvalues of B, ascending."""
        return torch.linalg.eigvalsh(self.bend)

    @property
    def plateau(self) -> str:
        """Where two copies with shares gamma and 1 - gamma are minima.

        ``"between"`` 0 and 1, ``"outside"``, or ``"nowhere"``; ``"undecided"`` where rounding hides an eigenvalue. A
        point that is no minimum makes none.
        """
        level = self.given.zero + self.tension.shape[1]  # the shares themselves, for each output, are level
        for name, gamma in (("between", 0.5), ("outside", 2.0)):
            found = self.signs((gamma, 1 - gamma))
            if found.undecided or (found.negative == 0 and found.zero > level):
                return "undecided"
            if found.negative == 0:
                return name
        return "nowhere"

    def signs(self, shares: Sequence[float]) -> Signs:
        """Signs of the eigenvalues of the wider network's Hessian, for shares that add up to one.

        Raises:
            InvalidInputError: for fewer than two shares, or shares that do not add up to one.
        """
        form = self.form(shares)
        worst = self.error * len(form) * max(1.0, max(abs(share) for share in shares))
        return self.given.beside(Signs.of(inertia(form, error=worst)))

    def form(self, shares: Sequence[float]) -> Float[Tensor, "k k"]:
        """The form in xi and eta, in orthonormal coordinates of the subspace that they lie in; k is (s - 1)(d + q)."""
        beta = self._checked(shares)
        copies, (d, q) = len(beta), self.tension.shape
        whole = self.bend.new_zeros(copies, d + q, copies, d + q)
        for i in range(copies):
            whole[i, :d, i, :d] = beta[i] * self.bend
            whole[i, :d, i, d:] = self.tension
            whole[i, d:, i, :d] = self.tension.T
        free_xi = _orthogonal_to(beta)
        free_eta = _orthogonal_to(torch.ones_like(beta))
        xi = torch.einsum("ka,de->kdae", free_xi, torch.eye(d).to(beta)).reshape(copies, d, -1)
        eta = torch.einsum("ka,de->kdae", free_eta, torch.eye(q).to(beta)).reshape(copies, q, -1)
        basis = beta.new_zeros(copies, d + q, (copies - 1) * (d + q))
        basis[:, :d, : (copies - 1) * d] = xi
        basis[:, d:, (copies - 1) * d :] = eta
        flat = basis.flatten(0, 1)
        return flat.T @ whole.reshape(copies * (d + q), -1) @ flat

    def wider(self, copies: int = 2) -> EmpiricalRisk:
        """The loss of the network with this unit taken so many times.

        Raises:
            InvalidInputError: for fewer than two copies.
        """
        if copies < 2:
            raise InvalidInputError(f"a unit is taken at least twice, got {copies}")
        return resized(self.risk, self._network, self.layer, copies - 1)

    def at(self, shares: Sequence[float]) -> Float[Tensor, " W"]:
        """Parameters of the wider network; the copies are the given unit and, after all others, the new ones.

        Raises:
            InvalidInputError: as for `signs`.
        """
        beta = self._checked(shares)
        named: dict[str, Tensor] = {}
        for k, (weight, bias) in enumerate(self._network.matrices(self.theta)):
            named[f"weight_{k}"] = weight
            if bias is not None:
                named[f"bias_{k}"] = bias
        more = [self.unit] * (len(beta) - 1)
        for name in (f"weight_{self.layer}", f"bias_{self.layer}"):
            if name in named:
                named[name] = torch.cat([named[name], named[name][more]])
        outgoing = named[f"weight_{self.layer + 1}"]
        copies = outgoing[:, self.unit : self.unit + 1] * beta
        outgoing = torch.cat([outgoing, copies[:, 1:]], 1)
        outgoing[:, self.unit] = copies[:, 0]
        named[f"weight_{self.layer + 1}"] = outgoing
        return torch.cat([named[block.name].flatten() for block in self.wider(len(beta)).space])

    def __str__(self) -> str:
        d, q = self.tension.shape
        lines = [
            f"Unit {self.unit} of hidden layer {self.layer}, taken twice with shares gamma and 1 - gamma",
            f"  given point: {_told(self.given)}; gradient {self.gradient_norm:.2g}",
            f"  B ({d} x {d}): eigenvalues {', '.join(f'{value:.6g}' for value in self.bends.tolist())}",
        ]
        if q > 1:
            sizes = torch.linalg.svdvals(self.tension).tolist()
            lines.append(f"  D ({d} x {q}): singular values {', '.join(f'{value:.3g}' for value in sizes)}")
        for name, gamma in (("between 0 and 1", 0.5), ("outside", 2.0), ("at 0 and 1", 1.0)):
            lines.append(f"  gamma {name}: {_told(self.signs((gamma, 1 - gamma)))}")
        lines.append(f"  a plateau of minima: {self.plateau}")
        return "\n".join(lines)

    def _checked(self, shares: Sequence[float]) -> Tensor:
        beta = torch.as_tensor(shares, dtype=self.bend.dtype, device=self.bend.device)
        good = beta.dim() == 1 and len(beta) >= 2 and bool(torch.isfinite(beta).all())
        if not good or abs(float(beta.sum()) - 1) > 1e-12 * max(1.0, float(beta.abs().max())):
            raise InvalidInputError(f"shares are two or more numbers that add up to one, got {list(shares)}")
        return beta


def duplicate(
    objective: Objective, theta: Float[Tensor, " P"] | Any = None, *, unit: int, layer: int = 0
) -> Duplication:
    """What becomes of a critical point where one of its units is taken twice, or more often.

    Args:
        objective: an empirical risk of a multilayer perceptron with smooth activations.
        theta: ``(P,)``, or whatever `thalweg.objectives.as_theta` converts; None takes the initial parameters. It must
            be a critical point: the closer, the truer.
        unit: number of the unit.
        layer: number of its hidden layer.

    Raises:
        InvalidInputError: for a layer or unit that is not there, or a theta of another shape.
        NotApplicableError: for other models, activations with kinks, weight decay.

    >>> import torch
    >>> import thalweg as tw
    >>> from torch import nn
    >>> x = torch.linspace(-2, 2, 41, dtype=torch.float64).unsqueeze(1)
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    >>> risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, torch.tanh(3 * x + 2) + torch.tanh(3 * x - 2))
    >>> best = tw.minimize(risk, torch.tensor([1.0, 1.0], dtype=torch.float64))
    >>> print(duplicate(risk, best.theta, unit=0).plateau)
    between
    """
    row = one_point(objective, theta)
    ground = ground_of(objective, layer)
    width = ground.network.layers[layer].out_features
    if not 0 <= unit < width:
        raise InvalidInputError(f"hidden layer {layer} has units 0 to {width - 1}; got {unit}")
    if objective is not ground.risk:
        raise NotApplicableError("the loss alone is needed, without a barrier beside it")
    found = ground.risk.evaluate(row, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    bend, tension, terms = _bend_and_tension(ground, row, layer, unit)
    rounding = 16 * torch.finfo(row.dtype).eps * ground.risk.n_samples**0.5 * terms
    left = float(found.gradient.abs().max())
    pull = float(ground.network.matrices(row)[layer + 1][0][:, unit].norm())
    return Duplication(
        risk=ground.risk,
        theta=row,
        layer=layer,
        unit=unit,
        given=Signs.of(inertia(found.hessian, samples=ground.risk.n_samples)),
        gradient_norm=float(found.gradient.abs().max()),
        bend=bend,
        tension=tension,
        error=rounding + left / max(pull, torch.finfo(row.dtype).tiny),
        _network=ground.network,
    )


def _bend_and_tension(ground: Ground, row: Tensor, layer: int, unit: int) -> tuple[Tensor, Tensor, float]:
    """B and D, summed over samples some at a time, and the root of the sum of the squares of their terms."""
    risk, network = ground.risk, ground.network
    matrices = network.matrices(row)
    features = network.features(risk.inputs).to(row)
    bends, tensions, squares = [], [], 0.0
    for start in range(0, risk.n_samples, _AT_ONCE):
        some = slice(start, min(start + _AT_ONCE, risk.n_samples))
        x = features[some]
        for k in range(layer):
            x = network.layers[k].activation(_affine(x, *matrices[k]))
        z = _affine(x, *matrices[layer])[:, unit]
        facts = network.layers[layer].activation
        e = _slopes(ground, matrices, x, layer, some)
        if matrices[layer][1] is not None:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        pull = e @ matrices[layer + 1][0][:, unit]
        slope, bent, size = facts.derivative(z, 1), facts.derivative(z, 2), x.square().sum(1)
        bends.append((x.T * (pull * bent)) @ x)
        tensions.append((x.T * slope) @ e)
        squares += float(((pull * bent * size).square() + size * slope.square() * e.square().sum(1)).sum())
    bend = torch.stack(bends).sum(0)
    return (bend + bend.T) / 2, torch.stack(tensions).sum(0), squares**0.5


def _slopes(
    ground: Ground, matrices: list[tuple[Tensor, Tensor | None]], x: Tensor, layer: int, some: slice
) -> Float[Tensor, "n q"]:
    """The gradient of the loss in the arguments of the next layer."""
    layers = ground.network.layers
    with torch.enable_grad():
        z = _affine(layers[layer].activation(_affine(x, *matrices[layer])), *matrices[layer + 1]).detach()
        z.requires_grad_()
        out = layers[layer + 1].activation(z)
        for k in range(layer + 2, len(layers)):
            out = layers[k].activation(_affine(out, *matrices[k]))
        value = ground.risk.chunk_loss(out, ground.risk.chunk_of(some))
        (found,) = torch.autograd.grad(value, z)
    return found


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.T if bias is None else x @ weight.T + bias


def _orthogonal_to(direction: Float[Tensor, " s"]) -> Float[Tensor, "s k"]:
    """An orthonormal basis of what is orthogonal to one vector."""
    return torch.linalg.svd(direction.unsqueeze(0)).Vh[1:].T


def _told(signs: Signs) -> str:
    told = f"{signs.negative} negative, {signs.zero} zero, {signs.positive} positive"
    return told + (f", {signs.undecided} undecided" if signs.undecided else "")
