"""Small networks that use their parameters in every way the tangent kernel has to tell apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Words(nn.Module):
    """An embedding, a layer used twice, and an output layer, tied to the embedding if wanted."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.layer = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(self.table(words)))
        return self.out(torch.tanh(self.layer(hidden)).mean(1))


class Sequences(nn.Module):
    """Samples second, samples and places in one dimension in both orders, and a weight used again by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(5, 5)
        self.mixed = nn.Linear(5, 5)
        self.twice = nn.Linear(5, 5)
        self.offset = nn.Parameter(torch.randn(5))
        self.place = nn.Embedding(4, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, places, width = x.shape
        h = self.second(x.transpose(0, 1)).transpose(0, 1) + self.offset + self.place(torch.arange(places))
        h = torch.tanh(self.mixed(h.reshape(n * places, width))).reshape(n, places, width)
        turned = self.mixed(h.transpose(0, 1).reshape(n * places, width)).reshape(places, n, width)
        h = torch.tanh(turned.transpose(0, 1))
        h = self.twice(h) + functional.linear(h, self.twice.weight)
        return self.out(h.sum(1))


class Recurrent(nn.Module):
    """A recurrent layer, which vmap cannot batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 4, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Residual(nn.Module):
    """A block that changes a layer's output in place, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(torch.tanh(x))
        h += x
        return self.out(h.relu_())


class Shouting(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def convolutions() -> nn.Module:
    """Strides, padding, dilation, groups, group norm, batch norm with statistics of its own, an in-place ReLU."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 5), groups=2, dilation=(2, 1), padding="same"),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 1, bias=False),
        nn.Flatten(),
        nn.Linear(32, 3),
    ).eval()
    norm = model[5]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.randn(6)
    norm.running_var = 0.5 + torch.rand(6)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], set[str]]] = {
    # name: model, inputs, blocks that no layer rule can explain
    "dense": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)),
        lambda: torch.randn(9, 5),
        set(),
    ),
    "no bias": (
        lambda: nn.Sequential(nn.Linear(5, 7, bias=False), nn.GELU(), nn.Linear(7, 1)),
        lambda: torch.randn(6, 5),
        set(),
    ),
    "one sample": (
        lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)),
        lambda: torch.randn(1, 5),
        set(),
    ),
    "sequence": (
        lambda: nn.Sequential(
            nn.Linear(5, 7), nn.LayerNorm((4, 7)), nn.Tanh(), nn.RMSNorm(7), nn.Flatten(), nn.Linear(28, 3)
        ),
        lambda: torch.randn(9, 4, 5),
        set(),
    ),
    "convolutions": (convolutions, lambda: torch.randn(5, 2, 8, 8), set()),
    "convolutions along a line": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"),
            nn.Tanh(),
            nn.InstanceNorm1d(4, affine=True),
            nn.Conv1d(4, 2, 3, stride=2, padding="valid"),
            nn.Flatten(),
        ),
        lambda: torch.randn(5, 2, 8),
        set(),
    ),
    "convolutions in space": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2, stride=(1, 2, 1)), nn.Tanh(), nn.Flatten(), nn.Linear(36, 2)),
        lambda: torch.randn(4, 1, 4, 4, 4),
        set(),
    ),
    "words": (lambda: Words(False), lambda: torch.randint(0, 11, (6, 4)), set()),
    "few words of many": (
        lambda: nn.Sequential(nn.Embedding(50, 3), nn.Flatten(), nn.Linear(12, 2)),
        lambda: torch.randint(0, 50, (6, 4)),
        set(),
    ),
    "tied words": (lambda: Words(True), lambda: torch.randint(0, 11, (6, 4)), {"table.weight"}),
    "sequences": (Sequences, lambda: torch.randn(7, 4, 5), {"offset", "place.weight", "twice.weight"}),
    "as many samples as places": (Sequences, lambda: torch.randn(4, 4, 5), {"offset", "place.weight", "twice.weight"}),
    "recurrent": (
        Recurrent,
        lambda: torch.randn(6, 5, 3),
        {"cell.weight_ih_l0", "cell.weight_hh_l0", "cell.bias_ih_l0", "cell.bias_hh_l0"},
    ),
    "residual": (Residual, lambda: torch.randn(6, 4), set()),
    "subclass": (
        lambda: nn.Sequential(Shouting(3, 4), nn.Linear(4, 2)),
        lambda: torch.randn(5, 3),
        {"0.weight", "0.bias"},
    ),
    "attention": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(24, 2)
        ).eval(),
        lambda: torch.randn(5, 4, 6),
        {f"0.self_attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")},
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1)),
        lambda: torch.randn(5, 4),
        {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    ),
}
