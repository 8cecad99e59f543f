"""The Jacobian of a multilayer perceptron with a proved bound of its rounding error.

Signals go back through ``W^T`` and the slopes of the activations, each entry with a bound of its error; a row of the
Jacobian is the outer product of a layer's signals and its inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.bounded_arithmetic import exactly, matrix_product, multiplied
from thalweg.certificates.claims import Level
from thalweg.certificates.forward import Bounded, bounded_layers
from thalweg.certificates.gradient_bounds import bounded_derivative
from thalweg.certificates.rounding import TINY, UNIT, gamma, norm_above
from thalweg.foundation import require_memory
from thalweg.structure import DenseNetwork

__all__ = ["BoundedJacobian", "bounded_jacobian"]


class BoundedJacobian(NamedTuple):
    """A computed Jacobian ``(N*C, P)``, how far it is from the exact one in the Frobenius norm, and how firmly."""

    value: Tensor
    error: float
    level: Level = Level.RIGOROUS


def bounded_jacobian(network: DenseNetwork, theta: Float[Tensor, " P"], inputs: Any) -> BoundedJacobian:
    """Jacobian of all outputs, samples outer, outputs inner.

    Args:
        network: the perceptron.
        theta: ``(P,)``, taken as exact.
        inputs: of the network, taken as exact.

    Raises:
        NotApplicableError: for an activation where no bound of the rounding of the slope is known.
        MemoryLimitError: if it would not fit.

    >>> from torch import nn
    >>> from thalweg.structure import trace
    >>> network = trace(nn.Linear(2, 1), torch.ones(3, 2)).as_dense()
    >>> found = bounded_jacobian(network, torch.zeros(3, dtype=torch.float64), torch.eye(2))
    >>> found.value, found.error < 1e-14
    (tensor([[1., 0., 1.],
            [0., 1., 1.]], dtype=torch.float64), True)
    """
    features = network.features(inputs)
    rows, width = len(features), network.widths[-1]
    require_memory(
        8 * rows * width * (2 * network.space.size + 4 * max(network.widths)),
        f"a dense Jacobian of {rows * width} x {network.space.size} with error bounds",
        "Use fewer samples.",
    )
    layers = bounded_layers(network, theta, features)
    matrices = network.matrices(theta)
    signal = torch.eye(width, dtype=torch.float64, device=theta.device).expand(rows, width, width)
    back = Bounded(signal, torch.zeros_like(signal))
    jacobian = theta.new_zeros(rows, width, network.space.size)
    error = 0.0
    for number in reversed(range(len(layers))):
        slopes = bounded_derivative(network.layers[number].activation, layers[number].before, at_corners=True)
        back = multiplied(back, Bounded(slopes.value.unsqueeze(1), slopes.error.unsqueeze(1)))
        entering = layers[number - 1].after if number else Bounded(features, torch.zeros_like(features))
        error += _fill(jacobian, network, number, back, entering)
        back = matrix_product(back, exactly(matrices[number][0]))
    flat = jacobian.reshape(rows * width, -1)
    return BoundedJacobian(flat, (error + 2 * UNIT * len(layers) * norm_above(flat)) * (1 + 1e-12))


def _fill(jacobian: Tensor, network: DenseNetwork, number: int, back: Bounded, entering: Bounded) -> float:
    """Add a layer's columns; returns a bound of their error in the Frobenius norm."""
    layer = network.layers[number]
    rows, width = jacobian.shape[:2]
    for table, columns in (
        (layer.weight_coordinates, back.value.unsqueeze(-1) * entering.value[:, None, None, :]),
        (layer.bias_coordinates, back.value),
    ):
        if table is None:
            continue
        free = (table >= 0).reshape(-1).to(jacobian.device)
        places = table.reshape(-1).to(jacobian.device)[free]
        jacobian.index_add_(2, places, columns.reshape(rows, width, -1)[:, :, free])
    signal, entry = _norms(back.value), _norms(entering.value).unsqueeze(1)
    wrong, off = _norms(back.error), _norms(entering.error).unsqueeze(1)
    by_row = signal * off + wrong * (entry + off) + 2 * UNIT * signal * entry
    return (norm_above(by_row) + norm_above(wrong)) * (1 + 1e-12) + rows * width * TINY


def _norms(entries: Tensor) -> Tensor:
    """Upper bounds of the norms along the last dimension."""
    return entries.norm(dim=-1) * (1 + gamma(entries.shape[-1] + 4)) + entries.shape[-1] * TINY**0.5
