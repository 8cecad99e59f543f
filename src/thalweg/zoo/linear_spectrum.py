"""The Hessian spectrum of a linear network at its balanced critical points, in closed form.

Write the loss as ``1/2 ||W_L ... W_1 - M||^2`` and M by its singular values ``s_1 .. s_m``, ``m = min(d, k)``. Choose
a set I of r of them and give each a hidden slot of its own in every layer, with the factor ``s_i^(1/L)``; all other
slots are zero. At this point the product is the part of M in I, and the residual E is minus the rest. In the singular
bases the Hessian form

    ``|| sum_l W_L .. dW_l .. W_1 ||^2 + 2 <E, sum_{l<l'} W_L .. dW_l' .. dW_l .. W_1>``

splits into small blocks, because E touches only what I does not (so that of the second sum only the pair of the last
layer with the first remains). Eigenvalues, with i in I, j not in I and ``j <= m``:

* (i, j): ``s_i^((L-2)/L) * (s_i + s_j)`` and ``s_i^((L-2)/L) * (s_i - s_j)``, each once;
* (i, i'), both in I: ``sum_l s_i^(2(L-l)/L) * s_i'^(2(l-1)/L)`` once;
* i with a direction of input or output space beyond m: ``s_i^(2(L-1)/L)``, ``|d - k|`` times;
* for L = 2 only, an unused slot with j: ``s_j`` and ``-s_j``, each ``h - r`` times;
* everything else: zero.

With s distinct and positive this counts, for one hidden layer (L = 2) of width h,

    ``index = (h - r)(m - r) + #{i in I, j not in I: s_j > s_i}``, ``nullity = r^2 + (h - r)(2r + |d - k|)``,

for all d, k and h, and for L >= 3 of any widths ``index = #{i in I, j not in I: s_j > s_i}``,
``nullity = P - r(d + k - r)``. At depth 3 and more the index therefore says little: every point whose I holds the r
largest s has index 0, a minimum or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import comb

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["count_subsets", "subset_spectrum", "subsets"]


def subsets(available: Sequence[int], at_most: int) -> Iterator[tuple[int, ...]]:
    """All subsets of up to `at_most` elements, small ones first.

    >>> list(subsets([0, 1], 1))
    [(), (0,), (1,)]
    """
    for size in range(min(at_most, len(available)) + 1):
        yield from combinations(available, size)


def count_subsets(available: int, at_most: int) -> int:
    """Number of subsets of up to `at_most` of `available` elements.

    >>> count_subsets(2, 1)
    3
    """
    return sum(comb(available, size) for size in range(min(at_most, available) + 1))


def subset_spectrum(
    singular_values: Float[Tensor, " m"], used: Sequence[int], inputs: int, outputs: int, widths: Sequence[int]
) -> Float[Tensor, " P"]:
    """All Hessian eigenvalues, ascending, at the balanced critical point of one subset; zeros are exact.

    Args:
        singular_values: ``(m,)`` with ``m = min(inputs, outputs)``, all of them.
        used: I, at most ``min(widths)`` indices of positive singular values.
        inputs: d.
        outputs: k.
        widths: of the hidden layers, at least one.

    >>> subset_spectrum(torch.tensor([2.0, 1.0]), [0], 2, 2, [1])
    tensor([0., 1., 3., 4.])
    """
    s, depth = singular_values, len(widths) + 1
    inside = s[list(used)]
    outside = s[[j for j in range(len(s)) if j not in set(used)]]
    factor = (inside ** ((depth - 2) / depth)).unsqueeze(1)
    layers = torch.arange(depth, dtype=s.dtype).view(-1, 1, 1)
    powers = inside.view(1, -1, 1) ** (2 * (depth - 1 - layers) / depth) * inside.view(1, 1, -1) ** (2 * layers / depth)
    parts = [
        factor * (inside.unsqueeze(1) + outside),
        factor * (inside.unsqueeze(1) - outside),
        powers.sum(0),
        (inside ** (2 * (depth - 1) / depth)).repeat(abs(inputs - outputs)),
    ]
    if depth == 2:
        free = widths[0] - len(inside)
        parts += [outside.repeat(free), -outside.repeat(free)]
    values = torch.cat([part.reshape(-1) for part in parts])
    sizes = [inputs, *widths, outputs]
    size = sum(a * b for a, b in pairwise(sizes))
    return torch.cat([values, values.new_zeros(size - len(values))]).sort().values
