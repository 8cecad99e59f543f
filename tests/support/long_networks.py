"""Multilayer perceptrons written out in NumPy with 80-bit numbers: a truth that shares nothing with the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

import thalweg as tw

__all__ = ["ACTIVATIONS", "LONG", "LongNetwork", "has_long"]

Array = Any  # np.ndarray of np.longdouble
LONG = np.longdouble


def has_long() -> bool:
    """Whether this machine's long double is longer than a double."""
    return bool(np.finfo(LONG).eps < 1e-18)


def _sigmoid(z: Array) -> Array:
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def _log1p_exp(z: Array) -> Array:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _softplus(z: Array) -> Array:
    """As torch has it: the identity beyond 20."""
    return np.where(z > 20, z, _log1p_exp(z))


ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (nn.Tanh, np.tanh, lambda z: 1 / np.cosh(np.clip(z, -5000, 5000)) ** 2),
    "sigmoid": (nn.Sigmoid, _sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    "softplus": (nn.Softplus, _softplus, lambda z: np.where(z > 20, LONG(1), _sigmoid(z))),
    "relu": (nn.ReLU, lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(LONG)),
    "leaky": (
        lambda: nn.LeakyReLU(0.25),
        lambda z: np.maximum(z, z / 4),
        lambda z: np.where(z > 0, LONG(1), LONG(0.25)),
    ),
    "identity": (nn.Identity, lambda z: z, np.ones_like),
}
"""Module, value and slope."""


LOSSES: dict[str, type[nn.Module]] = {
    "squares": nn.MSELoss,
    "labels": nn.CrossEntropyLoss,
    "bits": nn.BCEWithLogitsLoss,
    "signs": nn.SoftMarginLoss,
}


@dataclass(frozen=True)
class _Unknown:
    """A loss under a name that nobody has registered."""

    loss: nn.Module

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.loss(outputs, targets)


@dataclass(frozen=True, eq=False)
class LongNetwork:
    """A loss with data, as the package's objective and as a function written out here.

    Attributes:
        sizes: of the inputs and of every layer.
        activation: of the hidden layers.
        bias: whether layers have one.
        loss: ``"squares"``, ``"labels"``, ``"bits"`` or ``"signs"``; every one a mean.
        x: ``(N, d)``.
        y: targets.
        decay: strength of weight decay.
        weights: of the samples, or None.
        single: whether the model is in float32, as the objective converts it.
        own: whether the loss is a callable that the package knows nothing of.
    """

    sizes: tuple[int, ...]
    activation: str
    bias: bool
    loss: str
    x: np.ndarray
    y: np.ndarray
    decay: float = 0.0
    weights: np.ndarray | None = None
    single: bool = False
    own: bool = False
    objective: tw.Objective = field(init=False)
    risk: tw.EmpiricalRisk = field(init=False)

    def __post_init__(self) -> None:
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(self.sizes)):
            layers.append(nn.Linear(before, after, bias=self.bias))
            if number < len(self.sizes) - 2:
                layers.append(ACTIVATIONS[self.activation][0]())
        model = nn.Sequential(*layers)
        loss = LOSSES[self.loss]()
        weights = None if self.weights is None else torch.tensor(self.weights)
        risk = tw.EmpiricalRisk(
            model if self.single else model.double(),
            _Unknown(loss) if self.own else loss,
            torch.tensor(self.x),
            torch.tensor(self.y),
            sample_weight=weights,
            reduction="mean" if self.own else None,
        )
        object.__setattr__(self, "risk", risk)
        object.__setattr__(self, "objective", risk + tw.L2(risk, self.decay) if self.decay else risk)

    @property
    def parameters(self) -> int:
        """P."""
        return sum(after * (before + self.bias) for before, after in pairwise(self.sizes))

    def layers(self, theta: Array) -> list[tuple[slice, slice, tuple[int, int]]]:
        """Where weights and biases of each layer lie, and the shape of the weights."""
        found, place = [], 0
        for before, after in pairwise(self.sizes):
            weight = slice(place, place + before * after)
            bias = slice(weight.stop, weight.stop + after * self.bias)
            found.append((weight, bias, (after, before)))
            place = bias.stop
        assert place == len(theta)
        return found

    def _forward(self, theta: Array) -> tuple[list[Array], list[Array]]:
        inputs, sums, x = [], [], np.asarray(self.x, dtype=LONG)
        for number, (weight, bias, shape) in enumerate(self.layers(theta)):
            inputs.append(x)
            z = x @ theta[weight].reshape(shape).T + (theta[bias] if self.bias else 0)
            sums.append(z)
            x = ACTIVATIONS[self.activation][1](z) if number < len(self.sizes) - 2 else z
        return inputs, sums

    def outputs(self, theta: Array) -> Array:
        """``(N, C)``."""
        return self._forward(np.asarray(theta, dtype=LONG))[1][-1]

    def _loss(self, f: Array) -> tuple[Array, Array]:
        """The loss of each sample, and its gradient in the outputs; factors included."""
        n, width = f.shape
        share = np.ones(n, dtype=LONG) if self.weights is None else np.asarray(self.weights, dtype=LONG)
        if self.loss == "labels":
            top = f.max(1, keepdims=True)
            total = np.exp(f - top).sum(1, keepdims=True)
            p = np.exp(f - top) / total
            rows = np.arange(n)
            loss = np.log(total[:, 0]) - (f - top)[rows, self.y]
            p[rows, self.y] -= 1
            share = share / n
            return share * loss, share[:, None] * p
        share = share / (n * width)
        if self.loss == "squares":
            gap = f - np.asarray(self.y, dtype=LONG)
            return share * (gap**2).sum(1), 2 * share[:, None] * gap
        y = np.asarray(self.y, dtype=LONG)
        if self.loss == "bits":
            return share * (_log1p_exp(f) - y * f).sum(1), share[:, None] * (_sigmoid(f) - y)
        return share * _log1p_exp(-y * f).sum(1), -share[:, None] * y * _sigmoid(-y * f)

    def value(self, theta: Array) -> Any:
        """The loss, weight decay included."""
        theta = np.asarray(theta, dtype=LONG)
        return self._loss(self.outputs(theta))[0].sum() + LONG(self.decay) / 2 * (theta**2).sum()

    def gradient(self, theta: Array) -> Array:
        """Its gradient, ``(P,)``."""
        theta = np.asarray(theta, dtype=LONG)
        return self.data_gradient(theta) + LONG(self.decay) * theta

    def data_gradient(self, theta: Array) -> Array:
        """The gradient without weight decay, ``(P,)``."""
        theta = np.asarray(theta, dtype=LONG)
        inputs, sums = self._forward(theta)
        signal = self._loss(sums[-1])[1]
        found = np.zeros_like(theta)
        slope = ACTIVATIONS[self.activation][2]
        layers = self.layers(theta)
        for number in reversed(range(len(layers))):
            weight, bias, shape = layers[number]
            found[weight] += (signal.T @ inputs[number]).reshape(-1)
            if self.bias:
                found[bias] += signal.sum(0)
            if number:
                signal = (signal @ theta[weight].reshape(shape)) * slope(sums[number - 1])
        return found
