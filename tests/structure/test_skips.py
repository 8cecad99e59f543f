"""Places where two ways meet."""

import torch
from torch import nn

from thalweg.structure import trace


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.gate, self.head = (nn.Linear(4, 4) for _ in range(5))

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        h = h + self.b(torch.tanh(self.a(h)))
        return self.head(h * torch.sigmoid(self.gate(h)))


def test_residual_connection_and_gate():
    structure = trace(Network(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert [skip.kind for skip in structure.skips] == ["add", "multiply"]
    residual, gate = structure.skips
    assert structure.steps[residual.source].activation.name == "tanh"
    assert structure.steps[residual.source].reads == (structure.layers[0].index,)
    assert gate.source == residual.join


def test_a_chain_has_none():
    chain = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
    assert trace(chain, torch.randn(3, 4, generator=torch.Generator().manual_seed(0))).skips == ()
