"""Symmetric matrices and operators with a spectrum chosen beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.foundation import LinearOperator


def rotated(spectrum: Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues in random directions."""
    spectrum = spectrum.double()
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64)).Q
    matrix = (directions * spectrum) @ directions.T
    return (matrix + matrix.T) / 2


def diagonal(spectrum: Tensor) -> LinearOperator:
    """An operator with these eigenvalues along the axes; cheap at any size."""
    column = spectrum.double().unsqueeze(1)
    size = len(spectrum)
    return LinearOperator((size, size), lambda v: column * v, symmetric=True)


def dense(matrix: Tensor) -> LinearOperator:
    """A matrix as an operator."""
    return LinearOperator((len(matrix), len(matrix)), lambda v: matrix @ v, symmetric=True, dtype=matrix.dtype)


def uniform(size: int, low: float, high: float, seed: int = 0) -> Tensor:
    """Random numbers of an interval, float64."""
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
