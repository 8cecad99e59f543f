"""Derivatives of the loss of a network with one hidden layer, in closed form, for many parameter vectors in one pass.

The sums that a Hessian takes stand in `thalweg.objectives.shallow_forms`. They hold where the second derivative of the
loss in the outputs is the same number for all samples and outputs, as for squared error, or where there is one output.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import Cost
from thalweg.objectives.perceptron import OutputLoss, over_parts
from thalweg.objectives.perceptron_layout import Layout
from thalweg.objectives.shallow_forms import Entering, Sums, form_for, upper
from thalweg.structure import DenseNetwork, jet

__all__ = ["Shallow"]

MOST_PRODUCTS = 64 * 2**20
"""Bytes that products of inputs may take."""


class Shallow:
    """The closed forms of one network with one hidden layer.

    Args:
        network: for which `suits` says yes.
        device: of the parameters.
    """

    def __init__(self, network: DenseNetwork, device: torch.device | str = "cpu") -> None:
        self._layout = Layout(network, device)
        first, last = self._layout.layers
        self.facts = network.layers[0].activation
        self.units, self.inputs, self._biased = first.rows, first.columns, first.biased
        self.outputs, self._ends_biased = last.rows, last.biased
        self._form = form_for(self.units, self.inputs, self._hidden, self.outputs, device)
        self._table = self._places(device)

    @staticmethod
    def suits(network: DenseNetwork, samples: int) -> bool:
        """Whether a network has one hidden layer, all parameters free, and inputs few enough for pairs of them."""
        if len(network.layers) != 2 or network.layers[1].activation.name != "identity":
            return False
        p = network.layers[0].in_features + 1
        return Layout(network, "cpu").is_permutation and 8 * samples * p * (p + 1) // 2 <= MOST_PRODUCTS

    def takes(self, loss: OutputLoss) -> bool:
        """Whether Hessians under a loss have this form."""
        return self.outputs == 1 or loss.bend is not None

    def gradient_cost(self, samples: int) -> Cost:
        """Of a pass forward and back."""
        return Cost(samples, 8 * (5 * self.units + 4 * self.outputs), 8 * 4 * self._layout.length)

    def hessian_cost(self, samples: int) -> Cost:
        """Of what is written for a sample; fixed are the matrix and what it is put together from."""
        rows = self._form.row_numbers(self._hidden, self.outputs)
        return Cost(samples, 8 * (rows + 9 * self.units + 4 * self.outputs), 8 * 4 * self._layout.length**2)

    def entering(self, x: Float[Tensor, "n d"]) -> Entering:
        """What enters the first layer, as the methods below take it."""
        rows = torch.cat([x, x.new_ones(len(x), 1)], 1) if self._biased else x
        p, q = torch.triu_indices(self.inputs, self.inputs, device=x.device)
        columns = rows.mT.contiguous()
        return Entering(columns, rows.contiguous(), (columns[p] * columns[q]).mT.contiguous())

    # -- what it is asked ----------------------------------------------------------------------------------------------

    def values(self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]) -> Float[Tensor, " S"]:
        """The loss over all parts of the data."""
        incoming, outgoing = self._layout.weights(rows).whole
        return over_parts([(loss.value(self._forward(incoming, outgoing, x, 0)[1].mT),) for x, loss in parts])[0]

    def gradients(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"]]:
        """Value and gradient over all parts of the data."""
        incoming, outgoing = self._layout.weights(rows).whole
        found = []
        for x, loss in parts:
            (units, slopes), outputs = self._forward(incoming, outgoing, x, 1)
            value, pull = loss.value_and_slopes(outputs.mT)
            pull = pull.mT  # (S, C, n)
            tilt = pull if self.outputs == 1 else torch.bmm(self._inner(outgoing).mT, pull)
            back = ((slopes * tilt).flatten(0, 1) @ x.rows).view_as(incoming)
            found.append((value, back, self._with_bias(torch.bmm(pull, units.mT), pull)))
        value, back, ends = over_parts(found)
        if self.outputs == 1:
            back = back * self._inner(outgoing).mT
        return value, self._layout.gathered(torch.cat([back.flatten(1), ends.flatten(1)], 1))

    def hessians(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S P"], Float[Tensor, "S P P"]]:
        """Value, gradient and Hessian over all parts of the data, from one pass over each."""
        incoming, outgoing = self._layout.weights(rows).whole
        found, bend = [], 1.0
        for x, loss in parts:
            (units, slopes, *bends), outputs = self._forward(incoming, outgoing, x, 1 if self._flat else 2)
            value, pull = loss.value_and_slopes(outputs.mT)
            pull = pull.mT
            bend = 1.0 if loss.bend is None else loss.bend
            weight = loss.blocks(outputs.mT).flatten(2).mT if loss.bend is None else None  # (S, 1, n)
            tilt = pull if self.outputs == 1 else torch.bmm(self._inner(outgoing).mT, pull)
            bent = bends[0] * tilt if bends else None
            found.append((value, *self._sums(x, units, slopes, bent, weight, pull)))
        value, *sums = over_parts(found)
        gradient, matrix = self._assembled(Sums(*sums), self._inner(outgoing), bend)
        return value, self._layout.gathered(gradient), matrix

    def gauss_newton(
        self, rows: Float[Tensor, "S P"], parts: Iterator[tuple[Entering, OutputLoss]]
    ) -> Float[Tensor, "S P P"]:
        """``J^T B J``, summed over all parts of the data."""
        incoming, outgoing = self._layout.weights(rows).whole
        found, bend = [], 1.0
        for x, loss in parts:
            (units, slopes), outputs = self._forward(incoming, outgoing, x, 1)
            bend = 1.0 if loss.bend is None else loss.bend
            weight = loss.blocks(outputs.mT).flatten(2).mT if loss.bend is None else None
            found.append(tuple(self._sums(x, units, slopes, None, weight, None)))
        return self._assembled(Sums(*over_parts(found)), self._inner(outgoing), bend)[1]

    # -- passes --------------------------------------------------------------------------------------------------------

    @property
    def _flat(self) -> bool:
        """Whether second derivatives of the activation vanish."""
        return self.facts.piecewise_linear or self.facts.name == "identity"

    @property
    def _hidden(self) -> int:
        return self.units + self._ends_biased

    def _inner(self, outgoing: Tensor) -> Tensor:
        return outgoing[..., : self.units]

    def _forward(self, incoming: Tensor, outgoing: Tensor, x: Entering, order: int) -> tuple[list[Tensor], Tensor]:
        """The units with their derivatives ``(S, m, n)``, and the outputs ``(S, C, n)``."""
        z = (incoming.flatten(0, 1) @ x.columns).view(*incoming.shape[:2], x.columns.shape[1])
        found = jet(self.facts, z, order, dim=1)
        if self._ends_biased:
            return found, torch.baddbmm(outgoing[..., -1:], self._inner(outgoing), found[0])
        return found, torch.bmm(outgoing, found[0])

    def _with_bias(self, sums: Tensor, pull: Tensor) -> Tensor:
        return torch.cat([sums, pull.sum(2, keepdim=True)], 2) if self._ends_biased else sums

    def _sums(
        self,
        x: Entering,
        units: Tensor,
        slopes: Tensor,
        bent: Tensor | None,
        weight: Tensor | None,
        pull: Tensor | None,
    ) -> Sums:
        """What is summed over samples; without `bent` and `pull` what belongs to ``J^T B J`` alone."""
        count, m, n = units.shape
        weighted = slopes if weight is None else slopes * weight
        ends = torch.cat([units, units.new_ones(1).expand(count, 1, n)], 1) if self._ends_biased else units
        tension = units.new_zeros(count, 0, n) if pull is None else pull
        of_units, crossed, pulled = self._form.products(x, slopes, weighted, ends, tension)
        own = units.new_zeros(count, 0, 0)
        if bent is not None:
            own = (bent.flatten(0, 1) @ x.products).unflatten(0, (count, m))
        outer = torch.bmm(ends if weight is None else ends * weight, ends.mT)
        return Sums(of_units, own, crossed, pulled, outer, torch.bmm(tension, ends.mT))

    # -- putting a Hessian together ------------------------------------------------------------------------------------

    def _assembled(self, sums: Sums, ends: Tensor, bend: float) -> tuple[Tensor, Tensor]:
        """Gradient in the order of the layers (meaningless without slopes), and the matrix in that of theta."""
        count, pulled = len(ends), sums.pulled
        units = self._form.block(sums, bend * (ends.mT @ ends), ends)
        crossed = bend * ends[:, :, None, :, None] * sums.crossed.unsqueeze(1)  # (S, C, h, m, p)
        if pulled.shape[1]:
            crossed[:, :, : self.units].diagonal(dim1=2, dim2=3).add_(pulled.transpose(2, 3))
        compact = torch.cat([units.new_zeros(count, 1), units, crossed.flatten(1), bend * sums.outer.flatten(1)], 1)
        matrix = compact.index_select(1, self._table.flatten()).view(count, *self._table.shape)
        if not pulled.shape[1]:
            return matrix, matrix
        back = (ends.unsqueeze(-1) * pulled).sum(1)
        return torch.cat([back.flatten(1), sums.slopes.flatten(1)], 1), matrix

    def _places(self, device: torch.device | str) -> Int[Tensor, "P P"]:
        """Where each entry of the matrix lies among the numbers that it is put together from."""
        m, p, c, hidden = self.units, self.inputs, self.outputs, self._hidden
        units = 1 + self._form.places()
        first = int(units[-1, -1]) + 1
        crossed = first + torch.arange(c * hidden * m * p).view(c, hidden, m, p)
        first += crossed.numel()
        outer = torch.zeros(c, hidden, c, hidden, dtype=torch.int64)  # nothing between different outputs
        outer[torch.arange(c), :, torch.arange(c)] = first + upper(hidden, hidden)
        length = self._layout.length
        table = torch.empty(length, length, dtype=torch.int64)
        table[: m * p, : m * p] = units
        table[m * p :, : m * p] = crossed.reshape(c * hidden, m * p)
        table[: m * p, m * p :] = crossed.reshape(c * hidden, m * p).T
        table[m * p :, m * p :] = outer.reshape(c * hidden, c * hidden)
        order = self._layout.local_of.cpu()
        return table[order][:, order].to(device)
