"""A network with one neuron too many: the line of critical points that a duplicated neuron makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import Capability
from thalweg.zoo._samples import SampledObjective, as_matrix, as_vector, generator, random_orthogonal
from thalweg.zoo.critical import CriticalPoint, PointKind

__all__ = ["DuplicatedNeuron"]


class DuplicatedNeuron(SampledObjective):
    """Half the mean squared error of a tanh network with one neuron of a known smaller minimum duplicated.

    The smaller network ``f(x) = sum_i a_i tanh(w_i . x)`` of r neurons is a strict local minimum of its own loss,
    exactly: the targets are its outputs minus a residual e that is orthogonal to all its parameter derivatives, so
    that its gradient is zero. The residual is also chosen such that
    ``B = 1/N sum_n e_n a_j tanh''(w_j . x_n) x_n x_n^T`` of the neuron j to be duplicated has the eigenvalues asked
    for, and that of every other neuron is zero.

    Copies of neuron j with output weights ``share * a_j``, shares summing to one, compute the same function: an affine
    space of critical points of equal value (Fukumizu and Amari 2000, theorem 1). In coordinates of the weighted mean
    of the copies and of deviations u_c from it, the Hessian is congruent to that of the smaller network, plus
    ``sum_c share_c u_c^T B u_c`` over deviations with ``sum_c share_c u_c = 0``, plus zero along the shares. So with B
    nonsingular, s copies, and p positive, n negative and z zero shares,

        ``index = (p - 1) #neg(B) + n #pos(B)``, ``nullity = (s - 1) + z d``,

    which for shares (gamma, 1 - gamma) is their theorem 3: ``#neg(B)`` for gamma inside (0, 1), ``#pos(B)`` outside
    [0, 1].

    Args:
        weights: ``(r, d)``, input weights of the smaller network; a constant input serves as bias.
        outputs: ``(r,)``, its output weights, none zero.
        inputs: X, ``(N, d)``, with N at least ``r (d + 1) + r d (d + 1) / 2``.
        curvature: ``(d,)``, eigenvalues of B along the coordinate axes: all non-zero, or all zero for exact targets.
        neuron: j, which neuron is duplicated.
        copies: s, how many copies of it there are.

    Attributes:
        minimum: ``(r (d + 1),)``, the smaller network's parameters: input weights, then output weights.

    Raises:
        InvalidInputError: for shapes that do not fit, too few or too special inputs, or a curvature so large that the
            smaller network is no minimum.

    >>> problem = DuplicatedNeuron.random(neurons=2, inputs=2, curvature=[0.002, 0.004])
    >>> points = [problem.critical_point([gamma, 1 - gamma]) for gamma in (0.5, 2.0, 0.0)]
    >>> [(point.index, point.nullity) for point in points]
    [(0, 1), (2, 1), (0, 3)]
    """

    capabilities = SampledObjective.capabilities | {Capability.CRITICAL_POINTS}

    def __init__(
        self,
        weights: Float[Tensor, "r d"],
        outputs: Float[Tensor, " r"],
        inputs: Float[Tensor, "N d"],
        curvature: Sequence[float] | Float[Tensor, " d"],
        *,
        neuron: int = 0,
        copies: int = 2,
    ) -> None:
        w, a = as_matrix(weights, "weights"), as_vector(outputs, "outputs")
        x = as_matrix(inputs, "inputs")
        self.curvature = as_vector(curvature, "curvature")
        self.neuron, self.copies = neuron, copies
        _check(w, a, x, self.curvature, neuron, copies)
        self.minimum = torch.cat([w.reshape(-1), a])
        self._base_weights, self._base_outputs = w, a
        residual = _residual(w, a, x, self.curvature, neuron)
        super().__init__(x, torch.tanh(x @ w.T) @ a - residual)
        hidden = len(w) + copies - 1
        self.space = ParameterSpace({"0.weight": (hidden, w.shape[1]), "2.weight": (1, hidden)})

    @classmethod
    def random(
        cls,
        neurons: int = 2,
        inputs: int = 2,
        samples: int = 60,
        curvature: Sequence[float] | None = None,
        *,
        copies: int = 2,
        seed: int = 0,
    ) -> DuplicatedNeuron:
        """A random smaller network on Gaussian inputs; neuron 0 is duplicated.

        Input weights are orthogonal and of length 1.5, output weights between 1 and 2: neurons that differ as much as
        these make a minimum whose curvature is at least about 0.005.

        Args:
            neurons: r, at most d.
            inputs: d.
            samples: N.
            curvature: ``(d,)``; 0.002 throughout where None.
            copies: s.
            seed: of network and inputs.

        Raises:
            InvalidInputError: for more neurons than inputs, or as for the class.
        """
        if not 1 <= neurons <= inputs:
            raise InvalidInputError(f"{neurons} neurons cannot be orthogonal in {inputs} inputs; give your own weights")
        source = generator(seed)
        w = 1.5 * random_orthogonal(inputs, source)[:neurons]
        a = torch.ones(neurons, dtype=torch.float64) + torch.rand(neurons, generator=source, dtype=torch.float64)
        x = torch.randn(samples, inputs, generator=source, dtype=torch.float64)
        return cls(w, a, x, [0.002] * inputs if curvature is None else curvature, copies=copies)

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """``sum_i a_i tanh(w_i . x)``."""
        weights, outputs = self.space.unflatten(theta).values()
        return torch.tanh(chunk.inputs @ weights.T) @ outputs.T

    def on(self, inputs: Float[Tensor, "N d"], targets: Float[Tensor, "N ..."]) -> DuplicatedNeuron:
        """The same network on other data, of which no critical points are known."""
        other: DuplicatedNeuron = object.__new__(DuplicatedNeuron)
        other.__dict__.update(self.__dict__)
        SampledObjective.__init__(other, inputs, targets)
        other.capabilities = self.capabilities - {Capability.CRITICAL_POINTS}
        return other

    def on_line(self, shares: Sequence[float]) -> Float[Tensor, " P"]:
        """The parameters with neuron j replaced by copies with these shares of its output weight, which stand last.

        Args:
            shares: as many as `copies`; critical points are where they sum to one.
        """
        given = as_vector(shares, "shares")
        if len(given) != self.copies:
            raise InvalidInputError(f"{self.copies} copies need as many shares, got {len(given)}")
        others = [i for i in range(len(self._base_outputs)) if i != self.neuron]
        w, a = self._base_weights, self._base_outputs
        weights = torch.cat([w[others], w[self.neuron].expand(self.copies, -1)])
        outputs = torch.cat([a[others], given * a[self.neuron]])
        return torch.cat([weights.reshape(-1), outputs])

    def critical_point(self, shares: Sequence[float]) -> CriticalPoint:
        """The critical point with these shares.

        Args:
            shares: as many as `copies`, summing to one to rounding; for two copies ``[gamma, 1 - gamma]``.

        Raises:
            InvalidInputError: for shares that do not sum to one.
        """
        beta = as_vector(shares, "shares")
        theta = self.on_line(shares)
        if abs(float(beta.sum()) - 1) > 1e-12 * max(1.0, float(beta.abs().max())):
            raise InvalidInputError(f"shares must sum to one, got {float(beta.sum())}")
        positive, negative = int((beta > 0).sum()), int((beta < 0).sum())
        zero, d = self.copies - positive - negative, len(self.curvature)
        up, down = int((self.curvature > 0).sum()), int((self.curvature < 0).sum())
        exact = up + down == 0
        index = (positive - 1) * down + negative * up
        nullity = (self.copies - 1) + (d * (self.copies - 1) if exact else d * zero)
        kind, why = self._kind(exact, index, zero)
        tangent = self._share_directions()
        return CriticalPoint(theta, float(self.value(theta)), index, nullity, kind, why, tangent, is_global=exact)

    def critical_points(self) -> tuple[CriticalPoint, ...]:
        """Equal shares, then one share of 2, of -0.5 and of 0, the rest divided equally among the other copies."""
        rest = self.copies - 1
        lists = [[1 / self.copies] * self.copies] + [[g] + [(1 - g) / rest] * rest for g in (2.0, -0.5, 0.0)]
        return tuple(self.critical_point(shares) for shares in lists)

    def _kind(self, exact: bool, index: int, zero: int) -> tuple[PointKind, str]:
        if exact:
            return "degenerate minimum", "the targets are the outputs of the smaller network"
        if index:
            return "saddle", "the copies gain by moving apart (Fukumizu and Amari, theorem 3)"
        if zero:
            return "degenerate saddle", "a copy has no output weight: neighbours of equal value on the line are saddles"
        return "degenerate minimum", "a plateau: the copies only lose by moving apart (Fukumizu and Amari, theorem 3)"

    def _share_directions(self) -> Tensor:
        """Orthonormal directions that shift output weight between copies."""
        hidden = self.space["2.weight"].shape[1]
        shifts = torch.linalg.svd(torch.ones(1, self.copies, dtype=self.dtype))[2][1:].T
        tangent = torch.zeros(self.space.size, self.copies - 1, dtype=self.dtype)
        tangent[self.space.size - hidden :][hidden - self.copies :] = shifts
        return tangent

    def _hidden_units(self) -> int:
        return len(self._base_outputs) + self.copies - 1


def _check(w: Tensor, a: Tensor, x: Tensor, curvature: Tensor, neuron: int, copies: int) -> None:
    r, d = w.shape
    if len(a) != r or bool((a == 0).any()):
        raise InvalidInputError(f"{r} neurons need as many output weights other than zero, got {a.tolist()}")
    if x.shape[1] != d or len(curvature) != d:
        raise InvalidInputError(f"weights have {d} inputs, inputs {x.shape[1]}, the curvature {len(curvature)}")
    if not 0 <= neuron < r or copies < 2:
        raise InvalidInputError(f"need a neuron in 0..{r - 1} and two or more copies, got {neuron} and {copies}")
    if bool((curvature == 0).any()) and bool((curvature != 0).any()):
        raise InvalidInputError(f"the curvature must be zero throughout or nowhere, got {curvature.tolist()}")


def _residual(w: Tensor, a: Tensor, x: Tensor, curvature: Tensor, neuron: int) -> Tensor:
    """Outputs minus targets, ``(N,)``: the smallest vector that meets the conditions of the class docstring."""
    samples, (r, d) = len(x), w.shape
    t = torch.tanh(x @ w.T)
    slope, bend = 1 - t**2, -2 * t * (1 - t**2)
    jacobian = torch.cat([(slope * a).unsqueeze(2) * x.unsqueeze(1), t.unsqueeze(2)], dim=2).reshape(samples, -1)
    upper = torch.triu_indices(d, d)
    pairs = x[:, upper[0]] * x[:, upper[1]]
    bends = ((bend * a).unsqueeze(2) * pairs.unsqueeze(1)).reshape(samples, -1) / samples
    wanted = torch.zeros(r, d * (d + 1) // 2, dtype=x.dtype)
    wanted[neuron] = torch.diag(curvature)[upper[0], upper[1]]
    conditions = torch.cat([jacobian, bends], dim=1).T
    if len(conditions) > samples or int(torch.linalg.matrix_rank(conditions)) < len(conditions):
        raise InvalidInputError(f"{samples} inputs cannot meet {len(conditions)} conditions; give more varied ones")
    known = torch.cat([wanted.new_zeros(jacobian.shape[1]), wanted.reshape(-1)])
    gram = jacobian.T @ jacobian / samples
    block = slice(neuron * (d + 1), neuron * (d + 1) + d)
    gram[block, block] += torch.diag(curvature)
    if float(torch.linalg.eigvalsh(gram)[0]) <= 1e-8 * float(gram.diagonal().sum()):
        raise InvalidInputError(f"curvature {curvature.tolist()} makes the smaller network a saddle; use less of it")
    return torch.linalg.lstsq(conditions, known, driver="gelsd").solution
