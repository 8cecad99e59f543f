"""An objective on an affine subspace of its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import Cost, InvalidInputError, LinearOperator, ParameterSpace
from thalweg.objectives.capabilities import Capability, require
from thalweg.objectives.objective import Objective

__all__ = ["RestrictedObjective", "restrict"]


class RestrictedObjective(Objective):
    """``z -> objective(origin + B z)``; made by `restrict`.

    `embed` maps a parameter vector of the base to the coordinates of its orthogonal projection onto the subspace,
    `project` maps coordinates to the parameter vector they stand for.
    """

    def __init__(
        self,
        base: Objective,
        origin: Float[Tensor, " P"],
        *,
        basis: Float[Tensor, "P k"] | None = None,
        coordinates: Int[Tensor, " k"] | None = None,
        space: ParameterSpace,
    ) -> None:
        self.base = base
        self.origin = origin
        self.space = space
        self.dtype, self.device, self.path = base.dtype, base.device, base.path
        self.capabilities = base.capabilities & {Capability.GAUSS_NEWTON}
        self._coordinates = coordinates
        self._basis = basis
        self._dual = None if basis is None else torch.linalg.pinv(basis)

    def project(self, theta: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch P"]:
        """The base's parameter vector ``origin + B z``.

        Raises:
            InvalidInputError: for a wrong shape.
        """
        theta = self._fitting(theta, self.space.size, "theta")
        if self._basis is not None:
            return self.origin + theta @ self._basis.T
        assert self._coordinates is not None
        full = self.origin.expand(*theta.shape[:-1], -1)
        return full.index_copy(-1, self._coordinates, theta)

    def lift(self, direction: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch P"]:
        """``B v``: the direction in the base's space that a direction of the subspace stands for.

        Raises:
            InvalidInputError: for a wrong shape.
        """
        direction = self._fitting(direction, self.space.size, "the direction")
        if self._basis is not None:
            return direction @ self._basis.T
        assert self._coordinates is not None
        full = torch.zeros_like(self.origin).expand(*direction.shape[:-1], -1)
        return full.index_copy(-1, self._coordinates, direction)

    def embed(self, theta_base: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch k"]:
        """Coordinates of the point of the subspace nearest to `theta_base`.

        Raises:
            InvalidInputError: for a wrong shape.
        """
        theta_base = self._fitting(theta_base, self.base.space.size, "the base's theta")
        if self._dual is not None:
            return (theta_base - self.origin) @ self._dual.T
        return theta_base[..., self._coordinates]

    def _fitting(self, point: Tensor, size: int, what: str) -> Tensor:
        """Check a length, and bring a point to the objective's dtype and device; the graph behind it stays."""
        if not isinstance(point, Tensor) or not point.is_floating_point() or point.shape[-1:] != (size,):
            found = f"shape {tuple(point.shape)}, {point.dtype}" if isinstance(point, Tensor) else type(point).__name__
            raise InvalidInputError(f"{what} must be a floating tensor (*batch, {size}), got {found}")
        return point.to(dtype=self.dtype, device=self.device)

    def chunks(self, samples: int) -> Iterator[Any]:
        """The chunks of the base."""
        return self.base.chunks(samples)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The base at ``origin + B z``."""
        return self.base.chunk_value(self.project(theta), chunk)

    def content(self) -> Iterable[object]:
        """Base, origin and subspace."""
        which = self._basis if self._basis is not None else self._coordinates
        return [self.base.fingerprint(), self.origin, which]

    @property
    def cost(self) -> Cost:
        """That of the base."""
        return self.base.cost

    def execution_context(self) -> AbstractContextManager[None]:
        """That of the base."""
        return self.base.execution_context()

    def higher_order_context(self) -> AbstractContextManager[None]:
        """That of the base."""
        return self.base.higher_order_context()

    def kept_bytes(self) -> int:
        """That of the base, and the way there."""
        return self.base.kept_bytes() + self.base.cost.bytes_fixed

    def _derivatives(self, rows: Tensor, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Those of the base where it is not much larger: it may have closed forms."""
        chosen, size = self._coordinates, self.base.space.size
        if chosen is None or (order == 2 and 2 * len(chosen) < size):
            return super()._derivatives(rows, order)
        value, gradient, hessian = self.base._derivatives(self.project(rows), order)
        if hessian is not None:
            hessian = hessian.index_select(1, chosen).index_select(2, chosen)
        return value, None if gradient is None else gradient.index_select(1, chosen), hessian

    def gauss_newton_operator(self, theta: Float[Tensor, " k"], *, keep: bool | None = None) -> LinearOperator:
        """``B^T G B``; `keep` as for the base."""
        require(self, Capability.GAUSS_NEWTON, "the Gauss-Newton matrix")
        inner = self.base.gauss_newton_operator(self.project(self._single(theta)), keep=keep)
        basis, chosen = self._basis, self._coordinates

        def matmat(columns: Tensor) -> Tensor:
            product = inner @ self.lift(columns.T).T
            return basis.T @ product if basis is not None else product[chosen]

        size = self.space.size
        return LinearOperator((size, size), matmat, symmetric=True, dtype=self.dtype, device=self.device)

    def __repr__(self) -> str:
        return f"restrict({self.base!r}, {self.space.size} of {self.base.space.size} dimensions)"


def restrict(
    objective: Objective,
    subspace: str | Iterable[str] | Float[Tensor, "P k"],
    origin: Float[Tensor, " P"],
) -> RestrictedObjective:
    """Restrict an objective to some of its blocks, or to the affine subspace ``origin + range(B)``.

    Args:
        objective: the base.
        subspace: globs of block names, whose coordinates stay free; or a matrix B ``(P, k)`` with independent columns.
        origin: ``(P,)``, the values of what is held fixed.

    Returns:
        An objective over k coordinates, with `embed` and `project` to and from the base.

    Raises:
        InvalidInputError: for a wrong shape, entries that are not finite, dependent columns, or a glob without match.

    >>> from thalweg.objectives import L2
    >>> space = ParameterSpace({"weight": (2,), "bias": (1,)})
    >>> only_bias = restrict(L2(space, 1.0), "bias", torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64))
    >>> only_bias.value(torch.tensor([2.0]))
    tensor(14.5000, dtype=torch.float64)
    """
    start = objective._single(origin).clone()
    if not bool(torch.isfinite(start).all()):
        raise InvalidInputError(f"the origin holds {int((~torch.isfinite(start)).sum())} NaN or infinite entries")
    if isinstance(subspace, Tensor):
        basis = subspace.detach().to(dtype=objective.dtype, device=objective.device, copy=True)
        if basis.dim() != 2 or basis.shape[0] != objective.space.size or basis.shape[1] == 0:
            raise InvalidInputError(f"the basis has shape {tuple(basis.shape)}, expected ({objective.space.size}, k)")
        if not bool(torch.isfinite(basis).all()):
            raise InvalidInputError(f"the basis holds {int((~torch.isfinite(basis)).sum())} NaN or infinite entries")
        rank = int(torch.linalg.matrix_rank(basis))
        if rank < basis.shape[1]:
            raise InvalidInputError(
                f"the {basis.shape[1]} columns of the basis have rank {rank}; give independent ones"
            )
        space = ParameterSpace({"coordinates": (basis.shape[1],)})
        return RestrictedObjective(objective, start, basis=basis, space=space)
    chosen = objective.space.select(subspace).to(objective.device)
    inside = set(chosen.tolist())
    blocks = [(b.name, b.shape) for b in objective.space if b.start in inside or b.size == 0]
    return RestrictedObjective(objective, start, coordinates=chosen, space=ParameterSpace(blocks))
