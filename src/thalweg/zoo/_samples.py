"""What the objectives of this room that have data share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import Cost, InvalidInputError
from thalweg.objectives import OutputObjective

__all__ = ["SampleChunk", "SampledObjective", "as_floats", "as_matrix", "as_vector", "generator", "random_orthogonal"]


class SampleChunk(NamedTuple):
    """Some samples: inputs ``(n, d)``, targets ``(n, C)`` and their numbers ``(n,)``."""

    inputs: Tensor
    targets: Tensor
    indices: Tensor


class SampledObjective(OutputObjective):
    """A loss over pairs of inputs ``(N, d)`` and targets ``(N, C)``, half the mean squared error unless overridden.

    Args:
        inputs: ``(N, d)``.
        targets: ``(N, C)``, or ``(N,)`` for one output.

    Raises:
        InvalidInputError: for mismatched, empty or non-finite data.
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = as_matrix(inputs, "inputs", self.dtype)
        known = as_floats(targets, self.dtype)
        self.targets = as_matrix(known.unsqueeze(1) if known.dim() == 1 else known, "targets", self.dtype)
        if len(self.inputs) != len(self.targets):
            raise InvalidInputError(f"{len(self.inputs)} inputs but {len(self.targets)} targets; give one for each")
        self.n_samples, self.n_outputs = self.targets.shape

    @abstractmethod
    def on(self, inputs: Tensor, targets: Tensor) -> Self:
        """The same loss on other data, normalised anew."""

    def chunk_loss(self, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, ""]:
        """``1/(2N)`` times the sum of squared errors."""
        return ((outputs - chunk.targets) ** 2).sum() / (2 * self.n_samples)

    def chunks(self, samples: int) -> Iterator[SampleChunk]:
        """The samples in order, at most `samples` at once."""
        for start in range(0, self.n_samples, max(1, samples)):
            some = slice(start, min(start + max(1, samples), self.n_samples))
            yield SampleChunk(self.inputs[some], self.targets[some], torch.arange(some.start, some.stop))

    @property
    def cost(self) -> Cost:
        """A dozen copies of what one sample and one parameter vector hold."""
        per_sample = 12 * self._item_bytes * (self.inputs.shape[1] + self.n_outputs + self._hidden_units())
        return Cost(self.n_samples, per_sample, 8 * self.space.size * self._item_bytes)

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """The same loss over some of the samples.

        Raises:
            InvalidInputError: for an empty choice, or numbers outside 0..N-1.
        """
        index = self._some_samples(indices)
        return self.on(self.inputs[index], self.targets[index])

    def content(self) -> Iterable[object]:
        """The data."""
        return [self.inputs, self.targets]

    def _hidden_units(self) -> int:
        return 0


def as_floats(values: Any, dtype: torch.dtype) -> Tensor:
    """A private copy; numbers in a list never pass through single precision."""
    return (values.detach() if isinstance(values, Tensor) else torch.as_tensor(values, dtype=dtype)).to(dtype).clone()


def as_matrix(values: Any, name: str, dtype: torch.dtype = torch.float64) -> Float[Tensor, "rows columns"]:
    """A private copy as a finite, non-empty matrix.

    Raises:
        InvalidInputError: naming what was found.
    """
    matrix = as_floats(values, dtype)
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise InvalidInputError(f"{name} must be a non-empty matrix, got shape {tuple(matrix.shape)}")
    if not bool(torch.isfinite(matrix).all()):
        raise InvalidInputError(f"{name} must be finite, got NaN or infinity")
    return matrix


def as_vector(values: Any, name: str, dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
    """A private copy as a finite, non-empty vector.

    Raises:
        InvalidInputError: naming what was found.
    """
    vector = as_floats(values, dtype)
    if vector.dim() != 1:
        raise InvalidInputError(f"{name} must be a vector, got shape {tuple(vector.shape)}")
    return as_matrix(vector.unsqueeze(0), name, dtype)[0]


def generator(seed: int) -> torch.Generator:
    """A random source of its own, so that the global one stays as it is."""
    return torch.Generator().manual_seed(seed)


def random_orthogonal(size: int, source: torch.Generator) -> Float[Tensor, "size size"]:
    """A rotation or reflection drawn uniformly (Haar measure): QR of a Gaussian matrix with the signs of R fixed."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=source, dtype=torch.float64))
    return q * torch.sign(torch.diagonal(r))
