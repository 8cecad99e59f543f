"""Problems whose channels are known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.objectives.networks import explain_network
from thalweg.studies.channels.problems import SigmoidSoftplus as Field
from thalweg.studies.channels.problems import grid, split, toy
from thalweg.symmetry import ChannelNetwork
from thalweg.symmetry.channel_coordinates import from_channel, merging_of, to_channel

__all__ = ["Field", "Planted", "grid", "planted", "split", "toy"]


class Planted(NamedTuple):
    """A problem with a minimum at infinity that is known.

    Attributes:
        risk: the loss.
        theta: weights inside the channels, near their end.
        value: the loss at infinity.
        rise: of each channel, half the second derivative of the loss along its opening (of one unit, the first).
        at: the end in the coordinates of the channels.
        form: the loss in these.
    """

    risk: tw.EmpiricalRisk
    theta: Tensor
    value: float
    rise: float
    at: Tensor
    form: tw.EmpiricalRisk


def planted(
    model: nn.Sequential, layer: int, units: list[int], sizes: tuple[int, ...], size: float = 1e-2, seed: int = 0
) -> Planted:
    """Targets whose residuals are orthogonal to the tangents at the end, and along what opening the channels adds.

    With f the outputs there, J their Jacobian and g_k the first outputs that an opening adds, the targets are ``f - r``
    for an r in the span of the g_k, without what J reaches, with ``<g_k, r>`` the same for all k: the gradient
    vanishes, and the loss rises by that as each channel opens. The root of the mean of r squared is `size`; a negative
    one plants a point from which the loss falls.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 200
    x = torch.randn(count, model[0].in_features, generator=generator, dtype=torch.float64)
    risk = tw.EmpiricalRisk(model.double(), nn.MSELoss(), x, torch.zeros(count, model[-1].out_features).double())
    structure = explain_network(risk).structure
    assert structure is not None
    network = structure.as_dense()
    assert network is not None
    theta = torch.randn(risk.space.size, generator=generator, dtype=torch.float64)
    which = torch.tensor(units)
    merging = merging_of(network, layer, sizes, which, theta)
    form = risk.with_model(ChannelNetwork(network, merging, (network.widths[-1],)))
    end = to_channel(network, merging, which, theta.unsqueeze(0), form.space)[0]
    opening = torch.zeros(form.space.size, dtype=torch.bool)
    for name in ("softness", "opening"):
        if name in form.space:
            opening[form.space.slice(name)] = True
    end[opening] = 0.0
    columns = []
    for k in opening.nonzero().squeeze(1).tolist():
        step = torch.zeros_like(end)
        step[k] = 1e-4
        up = form.outputs(end + step) - form.outputs(end)
        columns.append((up / 1e-8 if merging.sizes[len(columns)] > 1 else up / 1e-4).flatten())
    added = torch.stack(columns, 1)
    tangents = form.jacobian(end)[:, ~opening]
    left = added - tangents @ torch.linalg.lstsq(tangents, added, driver="gelsd").solution
    even = torch.ones(len(columns), dtype=torch.float64)
    residual = (left @ torch.linalg.solve(left.T @ added, even)).view(count, -1)
    scale = abs(size) / float(residual.square().mean().sqrt())
    target = form.outputs(end) - math.copysign(scale, size) * residual
    start = end.clone()
    start[opening] = 0.02
    weights = from_channel(network, merging, which, start.unsqueeze(0), form.space)[0]
    rise = math.copysign(scale, size) * 2 / residual.numel()
    return Planted(risk.on(x, target), weights, size**2, rise, end, form.on(form.inputs, target))
