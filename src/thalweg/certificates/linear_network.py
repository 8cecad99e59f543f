"""Linear models and linear networks: the lowest squared error in closed form, however deep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.least_squares import LowRankFit, low_rank_affine_bound
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.squared import squared_loss, squared_rows
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError, require_memory
from thalweg.structure import DenseNetwork

__all__ = ["AffineMaps", "LinearNetwork", "affine_maps"]


class AffineMaps(NamedTuple):
    """Maps ``x -> B x + b`` that hold all a network computes: B of a rank, and b as the bias says.

    Attributes:
        rank: largest rank of B.
        bias: ``"free"``; ``"none"`` for b = 0; ``"inside"`` where B and b together have that rank, as when the bias
            passes the narrowest layer.
    """

    rank: int
    bias: str


def affine_maps(network: DenseNetwork) -> tuple[AffineMaps, ...]:
    """Sets of maps that hold everything a linear network computes; of several, each holds all.

    >>> from torch import nn, ones
    >>> from thalweg.structure import trace
    >>> net = trace(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4, bias=False)), ones(5, 3)).as_dense()
    >>> affine_maps(net)
    (AffineMaps(rank=2, bias='free'), AffineMaps(rank=2, bias='inside'))
    """
    rank = min(network.widths)
    biased = [place for place, layer in enumerate(network.layers) if layer.bias_coordinates is not None]
    if not biased:
        return (AffineMaps(rank, "none"),)
    last = biased[-1]
    if last == len(network.layers) - 1:
        return (AffineMaps(rank, "free"),)
    return AffineMaps(rank, "free"), AffineMaps(min(network.widths[last + 1 :]), "inside")


@dataclass(frozen=True)
class LinearNetwork(Certifier):
    """The lowest squared error of a network without nonlinear activations.

    Such a network computes ``B x + b`` with B of a rank no larger than its narrowest layer. The best linear fit leaves
    the residual of least squares; a narrow layer adds the squares of the singular values of that fit beyond its rank
    (reduced-rank regression). Where all parameters are free and none are shared, the bound is the exact minimum.
    """

    name: ClassVar[str] = "linear network"
    kind: ClassVar[ClaimKind] = ClaimKind.LOWER_BOUND
    scope: ClassVar[Scope] = Scope.ARCHITECTURE
    source: ClassVar[str] = "reduced-rank regression (Baldi and Hornik 1989; Izenman 1975)"
    stage: ClassVar[int] = 10

    def work(self, case: Case) -> Work:
        """A few decompositions of the table of inputs."""
        squared_loss(case)
        network = _linear(case)
        rows, width = case.data_term().n_samples * network.rows_per_sample, network.widths[0] + network.widths[-1]
        return Work(gradients=1, flops=60.0 * rows * width * width, bytes=12 * 8 * rows * width)

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Bound the best affine map of the rank."""
        network, risk = _linear(case), case.data_term()
        rows = squared_rows(case, network.widths[-1])
        require_memory(96 * len(rows.kept) * sum(network.widths), "a table of the inputs", "Use fewer samples.")
        features = network.features(risk.inputs).cpu()
        maps = affine_maps(network)
        fits = [self._fit(each, features[rows.kept], rows.targets, rows.weights) for each in maps]
        hypotheses = self._hypotheses(case, network)
        if None in fits:
            text = "columns of the inputs are so nearly dependent that rounding hides what they span"
            return self.undecided(text, hypotheses)
        best = max((fit for fit in fits if fit is not None), key=lambda fit: fit.bound)
        if not best.bound > 0:
            return self.undecided("the targets can be fitted exactly, as far as rounding shows", hypotheses)
        exact = len(maps) == 1 and not network.tied and _all_free(network) and not case.others
        kind = "the lowest loss of all" if exact else "no parameters have a loss below"
        rank = min(network.widths[1:-1], default=min(network.widths))
        text = f"{kind}{' is' if exact else ''} {best.bound:.8g}: a linear map of rank at most {rank} at best"
        return self.claimed(
            text,
            level=Level.RIGOROUS,
            bound=best.bound,
            rounding=best.rounding,
            hypotheses=hypotheses,
            evidence={"rank": float(rank)},
        )

    @staticmethod
    def _fit(
        maps: AffineMaps, x: Float[Tensor, "n d"], y: Float[Tensor, "n q"], c: Float[Tensor, " n"]
    ) -> LowRankFit | None:
        if maps.bias == "inside":
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        return low_rank_affine_bound(x, y, c, maps.rank, intercept=maps.bias == "free")

    @staticmethod
    def _hypotheses(case: Case, network: DenseNetwork) -> list[Hypothesis]:
        names = ", ".join(dict.fromkeys(layer.activation.name for layer in network.layers))
        return [
            squared_loss(case),
            Hypothesis("every activation is linear", State.PROVED, note=names),
            case.described,
            case.others_not_negative,
        ]


def _linear(case: Case) -> DenseNetwork:
    network = case.dense()
    for layer in network.layers:
        if not layer.activation.linear:
            raise NotApplicableError(
                f"it needs a linear network, {layer.name!r} is followed by {layer.activation.name}"
            )
    return network


def _all_free(network: DenseNetwork) -> bool:
    tables = [t for layer in network.layers for t in (layer.weight_coordinates, layer.bias_coordinates)]
    return all(bool((table >= 0).all()) for table in tables if table is not None)


register_certifier(LinearNetwork())
