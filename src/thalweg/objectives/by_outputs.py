"""Derivatives of a loss from those of the outputs, for a model that brings its own.

A model whose Jacobian and second derivatives are known in closed form says so by deriving from `OwnDerivatives`: its
method ``output_map(space)`` returns an `OutputMap`, or None. `ByOutputs` makes of it what the closed forms of
perceptrons are: with e the gradient of the loss in the outputs and B its second derivative there, the Hessian is
``J^T B J + sum e f''``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, ParameterSpace
from thalweg.objectives.perceptron import OutputLoss, over_parts
from thalweg.structure import ActivationFacts

__all__ = ["ByOutputs", "OutputMap", "OwnDerivatives"]


class OutputMap(Protocol):
    """The outputs of a model and their derivatives, for S parameter vectors and n samples.

    `passed` is what one pass keeps for the others; its ``outputs`` are ``(S, n, C)``.
    """

    activations: list[ActivationFacts]
    size: int

    def features(self, x: Tensor) -> Float[Tensor, "1 n p"]:
        """What enters, one row a sample."""

    def numbers(self, order: int) -> int:
        """How many numbers a pass of an order holds for a sample."""

    def passed(self, rows: Tensor, x: Tensor, order: int) -> Any:
        """A pass forward, with derivatives up to an order."""

    def pulled(self, passed: Any, slopes: Tensor) -> Float[Tensor, "S P"]:
        """``sum e . df``, for slopes e ``(S, n, C)``."""

    def jacobian(self, passed: Any) -> Float[Tensor, "S L C n"]:
        """Of the outputs, in coordinates of its own, of which theta is a choice."""

    def bent(self, passed: Any, slopes: Tensor) -> Float[Tensor, "S L L"]:
        """``sum e . d2f`` in the same."""

    def chosen(self, table: Tensor, dim: int) -> Tensor:
        """What belongs to theta, along one dimension."""


class OwnDerivatives(ABC):
    """A module that brings closed forms of its derivatives."""

    @abstractmethod
    def output_map(self, space: ParameterSpace) -> OutputMap | None:
        """Its outputs and their derivatives as functions of these parameters; None where it has no closed forms."""


class ByOutputs:
    """The closed forms of a model that brings its own derivatives."""

    def __init__(self, outputs: OutputMap) -> None:
        self._map = outputs
        self.activations, self.size, self.length = outputs.activations, outputs.size, outputs.size

    def gradient_cost(self, samples: int) -> Cost:
        """Of a pass forward and back."""
        return Cost(samples, 8 * self._map.numbers(1), 0)

    def hessian_cost(self, samples: int) -> Cost:
        """Of the Jacobian and the second derivatives; fixed is the matrix."""
        return Cost(samples, 8 * self._map.numbers(2), 8 * 4 * self.size**2)

    def jacobian_cost(self, samples: int) -> Cost:
        """Of the Jacobian."""
        return self.hessian_cost(samples)

    def features(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "1 n p"]:
        """What enters."""
        return self._map.features(x)

    def outputs(self, rows: Float[Tensor, "S P"], x: Float[Tensor, "1 n p"]) -> Float[Tensor, "S n C"]:
        """Outputs of each sample."""
        found: Tensor = self._map.passed(rows, x, 0).outputs
        return found

    def values(self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Tensor, OutputLoss]]) -> Float[Tensor, " S"]:
        """The loss over all parts of the data."""
        return over_parts([(loss.value(self.outputs(rows, x)),) for x, loss in parts])[0]

    def gradients(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Tensor, OutputLoss]]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"]]:
        """Value and gradient over all parts of the data."""
        found = []
        for x, loss in parts:
            passed = self._map.passed(rows, x, 1)
            value, slopes = loss.value_and_slopes(passed.outputs)
            found.append((value, self._map.pulled(passed, slopes)))
        value, gradient = over_parts(found)
        return value, gradient

    def hessians(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Tensor, OutputLoss]]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian over all parts of the data."""
        found = []
        for x, loss in parts:
            passed = self._map.passed(rows, x, 2)
            value, slopes = loss.value_and_slopes(passed.outputs)
            matrix = self._curved(passed, loss) + self._map.bent(passed, slopes)
            found.append((value, self._map.pulled(passed, slopes), matrix))
        value, gradient, matrix = over_parts(found)
        return value, gradient, self._square(matrix)

    def gauss_newton(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Tensor, OutputLoss]]
    ) -> Float[Tensor, "S P P"]:
        """``J^T B J``, summed over all parts of the data."""
        found = [(self._curved(self._map.passed(rows, x, 1), loss),) for x, loss in parts]
        return self._square(over_parts(found)[0])

    def jacobians(
        self, rows: Float[Tensor, "S P"], x: Float[Tensor, "1 n p"]
    ) -> tuple[Float[Tensor, "S n C"], Float[Tensor, "S n C P"]]:
        """Outputs of each sample, and their Jacobian."""
        passed = self._map.passed(rows, x, 1)
        jacobian = self._map.chosen(self._map.jacobian(passed), 1)
        return passed.outputs, jacobian.permute(0, 3, 2, 1)

    def _curved(self, passed: Any, loss: OutputLoss) -> Tensor:
        """``J^T B J``."""
        jacobian = self._map.jacobian(passed)
        flat = jacobian.flatten(2)
        if loss.bend is not None:
            return loss.bend * torch.bmm(flat, flat.mT)
        bent = loss.bent(passed.outputs, jacobian.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        return torch.bmm(flat, bent.flatten(2).mT)

    def _square(self, matrix: Tensor) -> Tensor:
        found = self._map.chosen(self._map.chosen(matrix, 1), 2)
        return (found + found.mT).div_(2)
