"""Where the weights of a perceptron lie: theta, and the same numbers layer by layer, unit by unit, the bias last."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.objectives.layer_algebra import Layer
from thalweg.structure import DenseNetwork

__all__ = ["Layout", "Weights"]


class Weights(NamedTuple):
    """The weights of each layer for S parameter vectors.

    Attributes:
        whole: ``(S, rows, columns)``, the bias in the last column.
        inner: the same without biases.
    """

    whole: list[Tensor]
    inner: list[Tensor]


class Layout:
    """The numbers of all layers in one row of L, *local* below, and the P coordinates of theta that they are.

    They differ in order, and where parameters are frozen (no coordinate) or used in several places (one for several).

    Args:
        network: the perceptron.
        device: of the parameters.
    """

    def __init__(self, network: DenseNetwork, device: torch.device | str) -> None:
        self.layers: list[Layer] = []
        tables, start = [], 0
        for layer in network.layers:
            bias = [] if layer.bias_coordinates is None else [layer.bias_coordinates.unsqueeze(1)]
            table = torch.cat([layer.weight_coordinates, *bias], 1)
            self.layers.append(Layer(table.shape[0], table.shape[1], bool(bias), slice(start, start + table.numel())))
            tables.append(table.reshape(-1))
            start += table.numel()
        self.size, self.length = network.space.size, start
        self._places = torch.cat(tables).to(device)
        order = self._places.argsort()
        every = torch.arange(self.size, device=device)
        self._order = order if torch.equal(self._places[order], every) else None
        self._free = (self._places >= 0).nonzero().squeeze(1)
        nothing = torch.zeros(self.size, dtype=torch.float64)
        held = [w if b is None else torch.cat([w, b.unsqueeze(1)], 1) for w, b in network.matrices(nothing)]
        self._frozen = torch.cat([table.reshape(-1) for table in held])  # zero where something is free

    @property
    def is_permutation(self) -> bool:
        """Whether every coordinate of theta is one of these numbers, and every number one coordinate."""
        return self._order is not None and self.length == self.size

    @property
    def local_of(self) -> Int[Tensor, " P"]:
        """Of a permutation, the number that each coordinate of theta is."""
        assert self._order is not None, "parameters are frozen or shared"
        return self._order

    def weights(self, rows: Float[Tensor, "S P"]) -> Weights:
        """Of parameter vectors."""
        if self._order is not None:
            local = rows.index_select(1, self._places)
        else:
            local = self._frozen.to(rows).repeat(len(rows), 1)
            local[:, self._free] = rows[:, self._places[self._free]]
        whole = [local[:, layer.place].view(-1, layer.rows, layer.columns) for layer in self.layers]
        inner = [w[..., :-1] if layer.biased else w for w, layer in zip(whole, self.layers, strict=True)]
        return Weights(whole, inner)

    def gathered(self, local: Float[Tensor, "*any L"]) -> Float[Tensor, "*any P"]:
        """Derivatives in the coordinates of theta, along the last dimension; those of a shared parameter add up."""
        if self._order is not None:
            return local.index_select(-1, self._order)
        found = local.new_zeros(*local.shape[:-1], self.size)
        return found.index_add_(-1, self._places[self._free], local[..., self._free])

    def square(self, whole: Float[Tensor, "S L L"]) -> Float[Tensor, "S P P"]:
        """The same along both dimensions of a symmetric matrix, made exactly symmetric."""
        found = self.gathered(self.gathered(whole).mT)
        return (found + found.mT).div_(2)
