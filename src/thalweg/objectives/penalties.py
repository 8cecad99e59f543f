"""The penalties that are added to a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, ParameterSpace
from thalweg.objectives import paths, probe
from thalweg.objectives.capabilities import Capability
from thalweg.objectives.contents import content_of
from thalweg.objectives.kinks import record_kinks
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.paths import DerivativePath
from thalweg.objectives.pickling import require_findable

__all__ = ["L2", "Penalty"]


class L2(Objective):
    """The penalty ``strength / 2 * ||theta - center||^2`` on all or some blocks.

    Its gradient is ``strength * theta``: the same as ``weight_decay=strength`` of `torch.optim.SGD`.

    Args:
        space: the space, or an objective whose space it is.
        strength: non-negative factor.
        parameters: globs of the blocks penalised, such as ``"*weight"``; None for all.
        center: ``(P,)``, the origin where None.
        dtype: of values, that of the objective where one is given.

    >>> penalty = L2(ParameterSpace({"weight": (2,), "bias": (1,)}), 0.5, parameters="weight")
    >>> penalty.gradient(torch.tensor([2.0, 4.0, 6.0]))
    tensor([1., 2., 0.], dtype=torch.float64)
    """

    capabilities = frozenset({Capability.GAUSS_NEWTON})
    nonnegative = True

    def __init__(
        self,
        space: ParameterSpace | Objective,
        strength: float,
        parameters: str | Iterable[str] | None = None,
        center: Float[Tensor, " P"] | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(strength, SupportsFloat) or not 0 <= float(strength) < float("inf"):
            raise InvalidInputError(f"the strength of a penalty must be finite and not negative, got {strength!r}")
        self.space = space if isinstance(space, ParameterSpace) else space.space
        self.dtype = dtype or (torch.float64 if isinstance(space, ParameterSpace) else space.dtype)
        self.device = torch.device("cpu") if isinstance(space, ParameterSpace) else space.device
        self.strength = float(strength)
        mask = torch.zeros(self.space.size, dtype=self.dtype, device=self.device)
        mask[self.space.select(parameters if parameters is not None else "*").to(self.device)] = 1
        self.mask = mask
        self.center = torch.zeros_like(mask) if center is None else center.detach().to(mask).clone()
        if self.center.shape != mask.shape:
            raise InvalidInputError(f"center has shape {tuple(self.center.shape)}, expected ({self.space.size},)")
        if not bool(torch.isfinite(self.center).all()):
            raise InvalidInputError("center holds NaN or infinite entries")

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The penalty."""
        return self.strength / 2 * (self.mask * (theta - self.center) ** 2).sum()

    def add_to(self, total: Evaluation, theta: Float[Tensor, "b P"], order: int) -> None:
        """A diagonal: no matrix is formed."""
        rows, _ = self._rows(theta)
        away = self.mask * (rows - self.center)
        total.value.add_(away.square().sum(1), alpha=self.strength / 2)
        if total.gradient is not None:
            total.gradient.add_(away, alpha=self.strength)
        if total.hessian is not None:
            total.hessian.diagonal(dim1=1, dim2=2).add_(self.mask, alpha=self.strength)

    def _derivatives(self, rows: Tensor, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        count, size = rows.shape
        total = Evaluation(
            rows.new_zeros(count),
            rows.new_zeros(count, size) if order else None,
            rows.new_zeros(count, size, size) if order == 2 else None,
        )
        self.add_to(total, rows, order)
        return total.value, total.gradient, total.hessian

    def content(self) -> Iterable[object]:
        """Strength, mask and center."""
        return [self.strength, self.mask, self.center]

    def hessian_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """A diagonal matrix: no differentiation needed."""
        return self.gauss_newton_operator(theta)

    def kept_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def gauss_newton_operator(self, theta: Float[Tensor, " P"], *, keep: bool | None = None) -> LinearOperator:
        """The Hessian itself, which is diagonal and constant; nothing need be kept."""
        self._single(theta)
        diagonal = (self.strength * self.mask).unsqueeze(1)
        size = self.space.size
        return LinearOperator(
            (size, size), lambda columns: diagonal * columns, symmetric=True, dtype=self.dtype, device=self.device
        )

    def __repr__(self) -> str:
        return f"L2({self.strength:g})"


class Penalty(Objective):
    """Any differentiable function of the named parameters, as an objective to be added to a loss.

    Args:
        space: the space, or an objective whose space it is.
        function: maps a dictionary of named tensors to a scalar. Which derivative paths it supports is found out by
            calling it at a few random points.
        name: for reports and the fingerprint, which also holds the function's code and what it closes over.
        dtype: of values, that of the objective where one is given.

    Raises:
        InvalidInputError: for what is no function, asks for a block that is not there, or returns no scalar.

    >>> space = ParameterSpace({"weight": (2,)})
    >>> Penalty(space, lambda p: p["weight"].prod(), name="product").value(torch.tensor([2.0, 3.0]))
    tensor(6., dtype=torch.float64)
    """

    def __init__(
        self,
        space: ParameterSpace | Objective,
        function: Callable[[Mapping[str, Tensor]], Tensor],
        name: str,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.space = space if isinstance(space, ParameterSpace) else space.space
        self.dtype = dtype or (torch.float64 if isinstance(space, ParameterSpace) else space.dtype)
        self.device = torch.device("cpu") if isinstance(space, ParameterSpace) else space.device
        if not callable(function):
            raise InvalidInputError(f"a penalty needs a function of named tensors, got {type(function).__name__}")
        self.function = function
        self.name = name
        self.path = self._find_path()

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """The function of the named blocks."""
        value: object = self.function(self.space.unflatten(theta))
        if not isinstance(value, Tensor) or value.dim():
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(f"the function of {self!r} must return a tensor with one number, got {found}")
        return value

    def _find_path(self) -> DerivativePath:
        """What works at the first of a few points where the function is defined; the plainest way where none is."""
        noise = torch.randn(self.space.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        points = [p.to(dtype=self.dtype, device=self.device) for p in (noise / 2, noise.abs() + 0.1, 0 * noise)]
        value = partial(self.chunk_value, chunk=None)
        for point in points:
            try:
                found, slope = paths.gradients(value, point.unsqueeze(0), _PLAINEST)
            except InvalidInputError:
                raise
            except KeyError as error:
                names = ", ".join(self.space.names)
                raise InvalidInputError(f"{self!r} asks for {error}, but the blocks are {names}") from error
            except Exception:  # the function need not be defined at this point, and may say so in any way
                continue
            if bool(torch.isfinite(found).all() & torch.isfinite(slope).all()):
                return probe.probe_path(value, point, smooth=record_kinks(self.chunk_value, point, [None]).smooth)
        return _PLAINEST

    def content(self) -> Iterable[object]:
        """The name and the function."""
        return [self.name, *content_of(self.function)]

    def __getstate__(self) -> dict[str, Any]:
        require_findable(**{f"the function of {self!r}": self.function})
        return vars(self)

    def __repr__(self) -> str:
        return f"Penalty({self.name})"


_PLAINEST = DerivativePath(batch="loop", columns="loop", samples="loop")
