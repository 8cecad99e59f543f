"""A multilayer perceptron as a module of its own, of any widths: what networks are made wider with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.objectives import EmpiricalRisk
from thalweg.structure import ActivationFacts, DenseNetwork

__all__ = ["DenseModule", "resized"]


class DenseModule(nn.Module):
    """Weights ``weight_k`` and ``bias_k`` of each layer k, its activation, outputs in a shape.

    Args:
        widths: numbers of features before the first layer and after each.
        activations: of the layers.
        biased: which layers have a bias.
        shape: of one sample's output.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activations: Sequence[ActivationFacts],
        biased: Sequence[bool],
        shape: Sequence[int],
    ) -> None:
        super().__init__()
        self.activations, self.shape = list(activations), tuple(shape)
        for k, with_bias in enumerate(biased):
            weight = torch.zeros(widths[k + 1], widths[k], dtype=torch.float64)
            self.register_parameter(f"weight_{k}", nn.Parameter(weight))
            bias = nn.Parameter(torch.zeros(widths[k + 1], dtype=torch.float64)) if with_bias else None
            self.register_parameter(f"bias_{k}", bias)

    def forward(self, x: Float[Tensor, "n d"]) -> Tensor:
        """The outputs, one row a sample."""
        for k, activation in enumerate(self.activations):
            weight, bias = getattr(self, f"weight_{k}"), getattr(self, f"bias_{k}")
            x = activation(x @ weight.T if bias is None else x @ weight.T + bias)
        return x.reshape(-1, *self.shape)


def resized(risk: EmpiricalRisk, network: DenseNetwork, layer: int, extra: int) -> EmpiricalRisk:
    """The same loss with a network that has more units in one hidden layer.

    Args:
        risk: the loss.
        network: its perceptron.
        layer: number of the hidden layer.
        extra: how many units more.
    """
    widths = list(network.widths)
    widths[layer + 1] += extra
    shape = risk.structured_outputs(risk.initial.new_zeros(1, risk.n_outputs)).shape[1:]
    layers = network.layers
    biased = [one.bias_coordinates is not None for one in layers]
    module = DenseModule(widths, [one.activation for one in layers], biased, shape)
    module = module.to(risk.device, risk.dtype)
    return risk.with_model(module, network.features(risk.inputs).to(risk.device, risk.dtype))
