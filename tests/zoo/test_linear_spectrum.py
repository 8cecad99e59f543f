"""The closed-form spectra against dense ones that NumPy makes from the definition."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from thalweg.zoo import subset_spectrum
from thalweg.zoo.linear_spectrum import count_subsets, subsets


def brute_force(s: list[float], used: tuple[int, ...], inputs: int, outputs: int, widths: list[int]) -> np.ndarray:
    """Eigenvalues of the Hessian, assembled entry by entry from the products of the other layers, in singular bases."""
    sizes, depth = [inputs, *widths, outputs], len(widths) + 1
    target = np.zeros((outputs, inputs))
    target[range(len(s)), range(len(s))] = s
    weights = [np.zeros((sizes[i + 1], sizes[i])) for i in range(depth)]
    for slot, i in enumerate(used):
        path = [i, *[slot] * (depth - 1), i]
        for layer in range(depth):
            weights[layer][path[layer + 1], path[layer]] = s[i] ** (1 / depth)
    residual = chain(weights, inputs) - target
    units = [(layer, i, j) for layer in range(depth) for i in range(sizes[layer + 1]) for j in range(sizes[layer])]
    first = np.stack([moved(weights, [unit], inputs).ravel() for unit in units])
    hessian = first @ first.T
    for p, q in combinations(range(len(units)), 2):
        if units[p][0] != units[q][0]:
            mixed = (residual * moved(weights, [units[p], units[q]], inputs)).sum()
            hessian[p, q] += mixed
            hessian[q, p] += mixed
    return np.linalg.eigvalsh(hessian)


def chain(weights: list[np.ndarray], inputs: int) -> np.ndarray:
    product = np.eye(inputs)
    for weight in weights:
        product = weight @ product
    return product


def moved(weights: list[np.ndarray], units: list[tuple[int, int, int]], inputs: int) -> np.ndarray:
    """The product with whole layers replaced by unit matrices."""
    replaced = list(weights)
    for layer, i, j in units:
        replaced[layer] = np.zeros_like(weights[layer])
        replaced[layer][i, j] = 1
    return chain(replaced, inputs)


CASES = [
    # singular values, inputs, outputs, widths: one hidden layer narrower than, as wide as and wider than min(d, k)
    ([3.0, 2.0, 0.5], 3, 3, [2]),
    ([3.0, 2.0, 0.5], 3, 3, [3]),
    ([3.0, 2.0, 0.5], 3, 3, [5]),
    ([3.0, 1.0], 4, 2, [1]),
    ([3.0, 1.0], 4, 2, [2]),
    ([3.0, 1.0], 4, 2, [3]),
    ([3.0, 1.0], 2, 5, [1]),
    ([3.0, 1.0], 2, 5, [2]),
    ([3.0, 1.0], 2, 5, [4]),
    ([2.0], 1, 1, [3]),
    ([2.0], 3, 1, [2]),
    ([2.0, 1.0], 2, 3, [2, 2]),
    ([2.0, 1.0], 3, 2, [1, 4]),
    ([2.0, 1.0], 2, 2, [3, 2, 2]),
]


@pytest.mark.parametrize(("s", "inputs", "outputs", "widths"), CASES)
def test_spectra_counts_and_formulas(s, inputs, outputs, widths) -> None:
    m, h = len(s), min(widths)
    assert m == min(inputs, outputs)
    for used in subsets(range(m), h):
        r = len(used)
        found = subset_spectrum(torch.tensor(s, dtype=torch.float64), used, inputs, outputs, widths).numpy()
        np.testing.assert_allclose(found, brute_force(s, used, inputs, outputs, widths), atol=1e-12)
        inverted = sum(s[j] > s[i] for i in used for j in range(m) if j not in used)
        if len(widths) == 1:
            index, nullity = (h - r) * (m - r) + inverted, r * r + (h - r) * (2 * r + abs(inputs - outputs))
        else:
            index, nullity = inverted, len(found) - r * (inputs + outputs - r)
        assert (int((found < 0).sum()), int((found == 0).sum())) == (index, nullity), used


def test_equal_and_vanishing_values_add_exact_zeros() -> None:
    for s, used, inputs, outputs, widths in (
        ([2.0, 2.0, 1.0], (0,), 3, 3, [2]),
        ([2.0, 1.0, 0.0], (0, 1), 3, 4, [3]),
        ([2.0, 2.0], (1,), 2, 2, [2, 2]),
    ):
        found = subset_spectrum(torch.tensor(s, dtype=torch.float64), used, inputs, outputs, widths).numpy()
        dense = brute_force(s, used, inputs, outputs, widths)
        np.testing.assert_allclose(found, dense, atol=1e-12)
        assert (found == 0).sum() == (abs(dense) < 1e-12).sum()


@pytest.mark.parametrize(("available", "at_most"), [(0, 3), (4, 0), (4, 2), (4, 4), (3, 9)])
def test_subsets_are_all_there_once(available, at_most) -> None:
    found = list(subsets(range(available), at_most))
    assert len(found) == len(set(found)) == count_subsets(available, at_most)
    assert len(found) == sum(comb(available, r) for r in range(at_most + 1))
    assert all(len(set(subset)) == len(subset) <= at_most for subset in found)
