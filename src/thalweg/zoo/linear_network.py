"""Linear networks of any depth on whitened inputs, with every saddle of a balanced form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace, require_memory
from thalweg.objectives import Capability, Objective
from thalweg.zoo._samples import as_matrix, as_vector, generator, random_orthogonal
from thalweg.zoo.critical import CriticalPoint, PointKind, count_signs, orthonormal
from thalweg.zoo.linear_spectrum import count_subsets, subset_spectrum, subsets

__all__ = ["LinearNetwork"]


class LinearNetwork(Objective):
    """``1/2 * ||W_L ... W_1 - M||_F^2`` over the weights of L linear layers without biases.

    This is, up to a constant, half the mean squared error of the network on any data with whitened inputs: if
    ``X^T X / N = I`` and ``M = Y^T X / N``, then ``1/(2N) sum_n ||W_L...W_1 x_n - y_n||^2`` is this value plus
    ``1/(2N) sum_n ||M x_n - y_n||^2`` (`SampledLinearNetwork`). Blocks are named as in
    ``nn.Sequential(nn.Linear(d, h, bias=False), nn.Linear(h, k, bias=False))``.

    If the singular values of M differ, the product at any critical point is the part of M in a set I of its singular
    directions (Baldi and Hornik 1989; Achour et al. 2022 for any depth). `critical_points` gives one point for every I,
    balanced over the layers, with index and nullity by the closed form of `linear_spectrum`. `gauge` moves along its
    orbit under ``W_l -> G_l W_l G_(l-1)^-1``, on which they stay the same; at depth 3 and more there are other critical
    points of the same product, which may have another index.

    Args:
        target: M, ``(k, d)``: k outputs, d inputs.
        widths: of the hidden layers; a number for a single one.

    Attributes:
        target: ``(k, d)``.
        widths: of the hidden layers.
        singular_values: ``(min(d, k),)``, descending. Those that differ by no more than rounding (8 max(d, k) eps of
            the largest) are taken as equal, and below that as zero.

    Raises:
        InvalidInputError: for an unusable target or width.

    >>> network = LinearNetwork(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), widths=2)
    >>> [(p.index, p.nullity, p.kind) for p in network.critical_points()]
    [(4, 0, 'saddle'), (1, 3, 'saddle'), (2, 3, 'saddle'), (0, 4, 'degenerate minimum')]
    """

    capabilities = frozenset({Capability.CRITICAL_POINTS})

    def __init__(self, target: Float[Tensor, "k d"], widths: int | Sequence[int]) -> None:
        self.target = as_matrix(target, "the target", self.dtype)
        self.widths = tuple([widths] if isinstance(widths, int) else widths)
        if not self.widths or min(self.widths) < 1:
            raise InvalidInputError(f"hidden layers need at least one unit each, got widths {self.widths}")
        outputs, inputs = self.target.shape
        sizes = [inputs, *self.widths, outputs]
        self.space = ParameterSpace({f"{i}.weight": (sizes[i + 1], sizes[i]) for i in range(len(sizes) - 1)})
        left, s, right = torch.linalg.svd(self.target, full_matrices=True)
        self._left, self._right = left, right.T
        self.singular_values = _without_rounding(s, 8 * max(inputs, outputs) * torch.finfo(s.dtype).eps)

    @classmethod
    def from_singular_values(
        cls,
        singular_values: Sequence[float] | Float[Tensor, " m"],
        widths: int | Sequence[int],
        *,
        inputs: int | None = None,
        outputs: int | None = None,
        seed: int = 0,
    ) -> LinearNetwork:
        """A network whose target has these singular values, in random directions.

        Args:
            singular_values: ``(min(inputs, outputs),)``, not negative.
            widths: of the hidden layers.
            inputs: d, the number of singular values where None.
            outputs: k, the number of singular values where None.
            seed: of the directions.

        Raises:
            InvalidInputError: if the numbers do not fit together.

        >>> LinearNetwork.from_singular_values([2.0, 1.0], 3, inputs=4).space
        ParameterSpace(P=18; 0.weight: 3x4, 1.weight: 2x3)
        """
        s = as_vector(singular_values, "singular_values")
        inputs, outputs = inputs or len(s), outputs or len(s)
        if bool((s < 0).any()) or min(inputs, outputs) != len(s):
            wanted = min(inputs, outputs)
            raise InvalidInputError(f"a {outputs} x {inputs} map has {wanted} singular values >= 0, got {s.tolist()}")
        source = generator(seed)
        left, right = random_orthogonal(outputs, source), random_orthogonal(inputs, source)
        return cls(left[:, : len(s)] * s @ right[:, : len(s)].T, widths)

    @property
    def depth(self) -> int:
        """Number of layers of weights, L."""
        return len(self.widths) + 1

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """Half the squared Frobenius distance to the target."""
        return ((self.product(theta) - self.target) ** 2).sum() / 2

    def content(self) -> Iterable[object]:
        """Target and widths."""
        return [self.target, self.widths]

    def product(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch k d"]:
        """The linear map that the network computes."""
        first, *others = self.space.unflatten(theta).values()
        for weight in others:
            first = weight @ first
        return first

    def gauge(self, theta: Float[Tensor, " P"], matrices: Sequence[Float[Tensor, "h h"]]) -> Float[Tensor, " P"]:
        """Change the basis of every hidden layer, ``W_l -> G_l W_l G_(l-1)^-1``: the function stays the same.

        The loss is invariant, so critical points go to critical points of the same index and nullity; the eigenvalues
        change unless every G is orthogonal.

        Args:
            theta: ``(P,)``.
            matrices: an invertible G for each hidden layer.
        """
        weights = list(self.space.unflatten(theta).values())
        for layer, matrix in enumerate(matrices):
            weights[layer] = matrix @ weights[layer]
            weights[layer + 1] = torch.linalg.solve(matrix, weights[layer + 1], left=False)
        return torch.cat([weight.reshape(-1) for weight in weights])

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """The balanced critical points of all sets I of at most ``min(widths)`` positive singular values.

        Raises:
            MemoryLimitError: if there are too many sets; `critical_point` gives one.
        """
        positive = [i for i, s in enumerate(self.singular_values.tolist()) if s > 0]
        count = count_subsets(len(positive), min(self.widths))
        each = self.space.size * (2 + sum(h * h for h in self.widths)) * self._item_bytes
        require_memory(count * each, f"{count} critical points", "Use critical_point(used) for single ones.")
        return tuple(self.critical_point(used) for used in subsets(positive, min(self.widths)))

    def critical_point(self, used: Sequence[int]) -> CriticalPoint:
        """The balanced critical point whose product is the part of the target in some of its singular directions.

        Args:
            used: I, positions in `singular_values`, of positive ones, at most ``min(widths)``.

        Raises:
            InvalidInputError: for a set that the network cannot hold.
        """
        used = tuple(sorted(used))
        s = self.singular_values
        there = all(0 <= i < len(s) and s[i] > 0 for i in used)
        if not there or len(set(used)) < len(used) or len(used) > min(self.widths):
            raise InvalidInputError(
                f"used={used} must be at most {min(self.widths)} different positions of positive values in {s.tolist()}"
            )
        outputs, inputs = self.target.shape
        spectrum = subset_spectrum(s, used, inputs, outputs, self.widths)
        index, nullity = count_signs(spectrum)
        theta = self._balanced(used)
        kind, is_global, why = self._kind(used, index)
        tangent = orthonormal(self._flat_columns(theta, len(used)))
        return CriticalPoint(theta, float(self.value(theta)), index, nullity, kind, why, tangent, spectrum, is_global)

    def _balanced(self, used: tuple[int, ...]) -> Tensor:
        """Slot p of every hidden layer carries the p-th chosen direction, every layer the same share of it."""
        share = self.singular_values[list(used)] ** (1 / self.depth)
        blocks = {}
        for block in self.space:
            weight = torch.zeros(block.shape, dtype=self.dtype)
            weight[range(len(used)), range(len(used))] = share
            blocks[block.name] = weight
        first, last = self.space.names[0], self.space.names[-1]
        blocks[first] = torch.zeros(self.space[first].shape, dtype=self.dtype)
        blocks[first][: len(used)] = share.unsqueeze(1) * self._right[:, list(used)].T
        blocks[last] = torch.zeros(self.space[last].shape, dtype=self.dtype)
        blocks[last][:, : len(used)] = self._left[:, list(used)] * share
        return self.space.flatten(blocks)

    def _kind(self, used: tuple[int, ...], index: int) -> tuple[PointKind, bool, str]:
        s = self.singular_values
        most = min(min(self.widths), int((s > 0).sum()))
        if torch.equal(s[list(used)], s[:most]):  # as values: among equal ones any choice is as good
            return "degenerate minimum", True, f"the best approximation of the target of rank {most} (Eckart and Young)"
        if index > 0:
            return "saddle", False, f"uses the singular directions {used}, and the Hessian has negative eigenvalues"
        why = f"uses the {len(used)} largest singular directions; unused slots gain only in the order of the depth"
        return "degenerate saddle", False, why

    def _flat_columns(self, theta: Tensor, rank: int) -> Tensor:
        """Velocities of the orbit under `gauge`; with one hidden layer also of slots that meet no target direction."""
        weights = list(self.space.unflatten(theta).values())
        columns = []
        for layer, width in enumerate(self.widths):
            for unit in torch.eye(width * width, dtype=self.dtype).reshape(-1, width, width):
                moved = [torch.zeros_like(weight) for weight in weights]
                moved[layer], moved[layer + 1] = unit @ weights[layer], -weights[layer + 1] @ unit
                columns.append(torch.cat([m.reshape(-1) for m in moved]))
        if self.depth == 2:
            columns += self._beyond_columns(rank)
        return torch.stack(columns, dim=1)

    def _beyond_columns(self, rank: int) -> list[Tensor]:
        """An unused slot may read from, or write to, directions beyond the min(d, k) of the target."""
        m, columns = len(self.singular_values), []
        first, last = self.space
        for slot in range(rank, self.widths[0]):
            for direction in self._right[:, m:].T:
                column = torch.zeros(self.space.size, dtype=self.dtype)
                column[first.slice].reshape(first.shape)[slot] = direction
                columns.append(column)
            for direction in self._left[:, m:].T:
                column = torch.zeros(self.space.size, dtype=self.dtype)
                column[last.slice].reshape(last.shape)[:, slot] = direction
                columns.append(column)
        return columns


def _without_rounding(s: Tensor, tolerance: float) -> Tensor:
    """Descending singular values, those within `tolerance` of the largest made equal to the one before, or zero."""
    cleaned = s.clone()
    level = tolerance * float(s.max())
    for i in range(len(s)):
        if float(cleaned[i]) <= level:
            cleaned[i] = 0
        elif i and float(cleaned[i - 1] - s[i]) <= level:
            cleaned[i] = cleaned[i - 1]
    return cleaned
