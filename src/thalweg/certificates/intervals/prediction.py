"""What interval arithmetic on a perceptron will cost, told from the sizes alone."""

from __future__ import annotations

from torch import nn

from thalweg.certificates.case import Case
from thalweg.certificates.intervals.arithmetic import multiplication_seconds
from thalweg.certificates.registry import flops_per_second
from thalweg.certificates.work import Work

__all__ = ["predict"]

# In multiplications of two balls in a Python loop; fitted to measured times of perceptrons of 7 to 120 parameters.
_ACTIVATION = 30.0
"""One activation with two derivatives, or the loss of one output."""
_ENTRY = 7.0
"""One derivative of one unit for one row: combined, scaled, and laid into matrices."""
_CLASSES = 10.0
"""One pair of classes in a softmax."""
_INSIDE = 0.05
"""One multiplication and addition inside a product of matrices."""
_ELIMINATION = 1.0
"""One of the ``P^3`` steps of inverting, of products with the inverse, and of a factorisation."""
_BALL_BYTES = 96


def predict(case: Case, *, hessians: float = 0.0, gradients: float = 0.0) -> Work:
    """The cost of so many Hessians, and gradients besides, with the linear algebra of size P that goes with each.

    Args:
        case: of a multilayer perceptron.
        hessians: number of them.
        gradients: number of them.

    Raises:
        NotApplicableError: if it is no multilayer perceptron.
    """
    network = case.dense()
    rows = case.data_term().n_samples * network.rows_per_sample
    size = len(case.theta)
    of_hessian = 0.0
    softmax = isinstance(case.data_term().loss, nn.CrossEntropyLoss)
    of_gradient = rows * network.widths[-1] ** 2 * _CLASSES if softmax else 0.0
    entries, earlier, held = 0.0, 0, 0
    for number, layer in enumerate(network.layers):
        units, inputs = layer.out_features, layer.in_features + (layer.bias_coordinates is not None)
        weights = units * inputs
        of_gradient += rows * (units * _ACTIVATION + 2 * (units + inputs) + 3 * weights * _INSIDE)
        support = earlier + inputs if number else inputs
        entries = rows * units * support
        of_hessian += entries * _ENTRY + entries * support * _INSIDE + units * support**2
        of_hessian += rows * earlier * weights * _INSIDE
        earlier, held = earlier + weights, held + int(entries)
    of_hessian += of_gradient + size**3 * _ELIMINATION
    seconds = (hessians * of_hessian + gradients * of_gradient) * multiplication_seconds()
    needed = _BALL_BYTES * (3 * held * bool(hessians) + 6 * size**2 * bool(hessians) + 6 * rows * sum(network.widths))
    return Work(flops=seconds * flops_per_second(), bytes=int(needed))
