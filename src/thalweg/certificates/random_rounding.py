"""Arithmetic in which every operation errs at random, to see how far its errors reach.

The result of each elementary operation of torch is multiplied by ``1 + 2 u`` or ``1 - 2 u``, drawn for each number, in
the pass forward and in the pass back (J. Vignes, *A stochastic arithmetic for reliable scientific computation*, 1993).
What then changes in the final result is about what rounding does to it, cancellation and saturation included; moving
the parameters alone shows neither, where they are zero or no longer matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.certificates.rounding import UNIT

__all__ = ["RandomRounding"]


class RandomRounding(TorchDispatchMode):
    """A context in which operations in double precision err by a unit in the last place, up or down.

    Args:
        seed: of the errors.

    >>> with RandomRounding(0):
    ...     third = torch.tensor([1.0], dtype=torch.float64) / 3
    >>> float(third) != 1 / 3, abs(3 * float(third) - 1) < 1e-15
    (True, True)
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return result  # a view, or written in place
        return pytree.tree_map_only(Tensor, self._rounded, result)

    def _rounded(self, result: Tensor) -> Tensor:
        if result.dtype != torch.float64 or result.is_sparse or not result.numel():
            return result
        signs = torch.randint(0, 2, result.shape, generator=self._generator, dtype=torch.int8).to(result.device)
        return result * (1 + UNIT * (4 * signs.to(result.dtype) - 2))
