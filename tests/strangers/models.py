"""Models that nobody here designed the library for, each with the loss and the data a user would have with it.

One factory a model. Everything is small, so that whole Hessians can be computed in a slow and independent way, and in
float32, as users have it, unless the point of the model is another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Stranger:
    """A user's own model, loss and data.

    Attributes:
        name: for the matrix.
        model: live module, in the mode it is to be judged in.
        loss: a torch loss or a callable.
        data: inputs, as `EmpiricalRisk` takes them.
        targets: targets or None.
        forward: ``forward(model, batch)`` or None.
        settings: further keywords of `EmpiricalRisk`.
        kinked: whether what it computes has kinks or branches on what it computed.
    """

    name: str
    model: nn.Module
    loss: Any
    data: Any
    targets: Any = None
    forward: Callable[[Any, Any], Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    kinked: bool = False


Factory = Callable[[], Stranger]
FACTORIES: dict[str, Factory] = {}


def stranger(factory: Callable[[], dict[str, Any]]) -> Callable[[], Stranger]:
    """Register a factory; what it draws is the same every time and leaves the global random state alone."""
    name = factory.__name__.replace("_", " ")

    def make() -> Stranger:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(map(ord, name)))
            return Stranger(name=name, **factory())

    FACTORIES[name] = make
    return make


def all_strangers() -> Iterator[Stranger]:
    """Every stranger, made anew."""
    for make in FACTORIES.values():
        yield make()


# -- recurrent ---------------------------------------------------------------------------------------------------------


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.rnn(x)
        return self.head(last[0]).squeeze(1)


@stranger
def gru() -> dict[str, Any]:
    x = torch.randn(7, 4, 2)
    return {
        "model": LastState(),
        "loss": nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.5)),
        "data": x,
        "targets": (x.sum((1, 2)) > 0).float(),
    }


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 2, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states)


def classes_second(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).transpose(1, 2)


@stranger
def lstm_tagger() -> dict[str, Any]:
    labels = torch.randint(0, 3, (6, 4))
    labels[0, 2:] = -100  # padding
    labels[3, 1:] = -100
    return {
        "model": Tagger(),
        "loss": nn.CrossEntropyLoss(),
        "data": torch.randn(6, 4, 2),
        "targets": labels,
        "forward": classes_second,
    }


# -- attention ---------------------------------------------------------------------------------------------------------


class TextClassifier(nn.Module):
    """A transformer block called with keywords, as language models are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4, padding_idx=0)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, padding: Tensor) -> dict[str, Tensor]:
        h = self.embed(tokens)
        mixed, _ = self.attend(h, h, h, key_padding_mask=padding, need_weights=False)
        h = self.norm(h + mixed)
        h = h + self.mlp(h)
        kept = (~padding).unsqueeze(-1).to(h.dtype)
        return {"logits": self.head((h * kept).sum(1) / kept.sum(1))}


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)["logits"]


@stranger
def transformer_dict() -> dict[str, Any]:
    tokens = torch.randint(1, 6, (6, 4))
    tokens[1, 3:] = 0
    tokens[4, 2:] = 0
    return {
        "model": TextClassifier(),
        "loss": nn.CrossEntropyLoss(label_smoothing=0.1),
        "data": {"tokens": tokens, "padding": tokens == 0, "labels": torch.randint(0, 3, (6,))},
        "targets": "labels",
        "forward": logits,
    }


@stranger
def encoder_layer() -> dict[str, Any]:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=4, dropout=0.1, batch_first=True)
    return {
        "model": layer.eval(),
        "loss": nn.MSELoss(reduction="sum"),
        "data": torch.randn(4, 3, 4),
        "targets": torch.randn(4, 3, 4),
        "kinked": True,
    }


# -- parameters that are not what they seem ----------------------------------------------------------------------------


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3, bias=False)
        self.decoder = nn.Linear(3, 4)
        self.inner = nn.Linear(3, 3)
        self.again = self.inner  # the same layer twice

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encoder(x))
        h = torch.tanh(self.again(torch.tanh(self.inner(h))))
        return F.linear(h, self.encoder.weight.T, self.decoder.bias) + 0 * self.decoder(h)


def reconstruction_error(outputs: Tensor, batch: Tensor) -> Tensor:
    return ((outputs - batch) ** 2).sum(1).mean()


@stranger
def tied_weights() -> dict[str, Any]:
    return {
        "model": TiedAutoencoder(),
        "loss": reconstruction_error,
        "data": torch.randn(8, 4),
        "settings": {"reduction": "mean"},
    }


@stranger
def weight_norm() -> dict[str, Any]:
    x = torch.randn(9, 3)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
    return {
        "model": model,
        "loss": nn.SoftMarginLoss(),
        "data": x,
        "targets": torch.sign(torch.randn(9, 2)),
    }


@stranger
def weight_norm_by_hooks() -> dict[str, Any]:
    with warnings.catch_warnings():  # torch calls it deprecated; people's checkpoints still hold it
        warnings.simplefilter("ignore")
        first = nn.utils.weight_norm(nn.Linear(3, 4))
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(8, 3)
    model(x)  # a forward pass leaves the computed weight in the module, with its graph
    return {"model": model, "loss": nn.MSELoss(), "data": x, "targets": torch.randn(8, 1)}


@stranger
def frozen_backbone() -> dict[str, Any]:
    backbone = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6)).requires_grad_(False)
    backbone[2].running_mean.copy_(torch.rand(6))
    backbone[2].running_var.copy_(torch.rand(6) + 0.5)
    model = nn.Sequential(backbone, nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    return {
        "model": model,
        "loss": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])),
        "data": torch.randn(9, 5),
        "targets": torch.randint(0, 3, (9,)),
    }


@stranger
def single_precision() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2))
    return {
        "model": model,
        "loss": nn.MSELoss(),
        "data": torch.randn(8, 3),
        "targets": torch.randn(8, 2),
        "settings": {"dtype": torch.float32},
    }


# -- images, sets and text ---------------------------------------------------------------------------------------------


class ReluClass(nn.Module):
    """No activation module anywhere: what is not smooth stands in the code of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(5, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        h = torch.where(self.second(h) > 0, self.second(h), 0.1 * self.second(h))
        return self.last(h)


@stranger
def functional_relu() -> dict[str, Any]:
    return {
        "model": ReluClass(),
        "loss": nn.HuberLoss(delta=0.5),
        "data": torch.randn(9, 3),
        "targets": 2 * torch.randn(9, 1),
        "kinked": True,
    }


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(2, 4)
        self.conv = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + self.conv(F.silu(self.norm(h)))
        return self.head(h.mean((2, 3)))


@stranger
def residual_group_norm() -> dict[str, Any]:
    return {
        "model": ResidualBlock(),
        "loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.5, 2.0]), label_smoothing=0.05),
        "data": torch.randn(6, 1, 4, 4),
        "targets": torch.randint(0, 3, (6,)),
    }


@stranger
def convolution_batch_norm() -> dict[str, Any]:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    x = torch.randn(8, 1, 6, 6)
    model(x)  # one pass in train mode gives the running statistics
    return {
        "model": model.eval(),
        "loss": nn.CrossEntropyLoss(),
        "data": x,
        "targets": torch.randint(0, 3, (8,)),
        "kinked": True,
    }


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(7, 3, mode="mean")
        self.position = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, words: Tensor, place: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(words) + self.position(place)))


@stranger
def embedding_bag() -> dict[str, Any]:
    return {
        "model": BagOfWords(),
        "loss": nn.CrossEntropyLoss(reduction="sum"),
        "data": (torch.randint(0, 7, (8, 4)), torch.randint(0, 5, (8,))),
        "targets": torch.tensor([[0.9, 0.1], [0.3, 0.7]]).repeat(4, 1),
    }


# -- habits of forward passes ------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 5)
        self.where = nn.Linear(5, 2)
        self.what = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x))
        return self.where(h), self.what(h)


def detection_loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(outputs[0], targets[0]) + 0.3 * F.cross_entropy(outputs[1], targets[1])


@stranger
def several_outputs() -> dict[str, Any]:
    return {
        "model": TwoHeads(),
        "loss": detection_loss,
        "data": torch.randn(8, 4),
        "targets": (torch.randn(8, 2), torch.randint(0, 3, (8,))),
        "settings": {"reduction": "mean"},
    }


class InPlace(nn.Module):
    """Writes into its input, into activations, and keeps its last activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.last_activation: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5).clamp_(-3, 3)
        h = self.first(x)
        h += 0.1
        h = F.leaky_relu_(h, 0.2)
        padded = torch.zeros(len(h), 4, dtype=h.dtype)
        padded[:, :] = torch.sin(h)
        self.last_activation = padded
        return self.second(padded)


@stranger
def in_place() -> dict[str, Any]:
    return {
        "model": InPlace(),
        "loss": nn.MSELoss(),
        "data": torch.randn(8, 3),
        "targets": torch.randn(8, 2),
        "kinked": True,
    }


class Guarded(nn.Module):
    """Looks at its activations and takes another way when they grow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if bool((h.abs() > 50).any()):
            h = 50 * torch.tanh(h / 50)
        return self.last(torch.sigmoid(h))


@stranger
def data_dependent_branch() -> dict[str, Any]:
    return {
        "model": Guarded(),
        "loss": nn.MSELoss(),
        "data": torch.randn(9, 3),
        "targets": torch.randn(9, 1),
        "kinked": True,
    }


class Unrolled(nn.Module):
    """An implicit layer unrolled in a loop, with buffers and a table of sub-modules."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]))
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)), persistent=False)
        self.cells = nn.ModuleDict({"inject": nn.Linear(3, 4), "mix": nn.Linear(4, 4, bias=False)})
        self.scales = nn.ParameterList([nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.8))])
        self.steps = 3

    def forward(self, x: Tensor) -> Tensor:
        source = self.cells["inject"](x - self.mean)
        z = torch.zeros_like(source)
        for step in range(self.steps):
            masked = F.linear(z, self.cells["mix"].weight * self.mask)
            z = torch.tanh(self.scales[step % 2] * masked + source)
        return z[:, :2]


@stranger
def unrolled_with_buffers() -> dict[str, Any]:
    return {
        "model": Unrolled(),
        "loss": nn.SmoothL1Loss(beta=0.3),
        "data": torch.randn(7, 3),
        "targets": torch.randn(7, 2),
        "kinked": True,
    }


class HandSine(torch.autograd.Function):
    """A gradient written by hand, once: no derivative of it exists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return slope * torch.cos(x)


class HandWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(HandSine.apply(self.first(x)))


@stranger
def hand_written_gradient() -> dict[str, Any]:
    return {"model": HandWritten(), "loss": nn.MSELoss(), "data": torch.randn(8, 3), "targets": torch.randn(8, 1)}
