"""Degrees of homogeneity, against the scaled function."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.foundation import InvalidInputError
from thalweg.structure import trace


class Written(nn.Module):
    def __init__(self, write):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"W": (4, 3), "b": (4,), "V": (4, 4), "a": (2, 4), "c": (2,)}.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))
        self.write = write

    def forward(self, x):
        return self.write(self, x)


CASES = {
    "bias-free relu": (lambda m, x: functional.relu(x @ m.W.T) @ m.a.T, None, 2),
    "first bias only": (lambda m, x: functional.relu(x @ m.W.T + m.b) @ m.a.T, None, 2),
    "last bias": (lambda m, x: functional.relu(x @ m.W.T) @ m.a.T + m.c, None, None),
    "last layer alone": (lambda m, x: functional.relu(x @ m.W.T + m.b) @ m.a.T + m.c, {"a", "c"}, 1),
    "last weight without its bias": (lambda m, x: functional.relu(x @ m.W.T + m.b) @ m.a.T + m.c, {"a"}, None),
    "first layer of relu": (lambda m, x: functional.relu(x @ m.W.T + m.b) @ m.a.T, {"W", "b"}, 1),
    "first layer of tanh": (lambda m, x: torch.tanh(x @ m.W.T + m.b) @ m.a.T, {"W", "b"}, None),
    "last layer of tanh": (lambda m, x: torch.tanh(x @ m.W.T + m.b) @ m.a.T, {"a"}, 1),
    "square": (lambda m, x: (x @ m.W.T) ** 2 @ m.a.T, None, 3),
    "deep": (lambda m, x: functional.leaky_relu(functional.relu(x @ m.W.T) @ m.V.T, 0.2) @ m.a.T / 4, None, 3),
    "residual of equal degree": (lambda m, x: (lambda h: h + functional.relu(h))(x @ m.W.T) @ m.a.T, None, 2),
    "residual of unequal degree": (
        lambda m, x: (lambda h: h + functional.relu(h @ m.V.T))(x @ m.W.T) @ m.a.T, None, None
    ),
    "residual in the branch": (lambda m, x: (lambda h: h + functional.relu(h @ m.V.T))(x @ m.W.T) @ m.a.T, {"a"}, 1),
    "gate": (lambda m, x: ((x @ m.W.T) * functional.relu(x @ m.W.T @ m.V.T)) @ m.a.T, None, 4),
    "constant added": (lambda m, x: (functional.relu(x @ m.W.T) + x.sum(1, keepdim=True)) @ m.a.T, None, None),
    "vector of numbers added": (
        lambda m, x: (functional.relu(x @ m.W.T) + torch.arange(4.0, dtype=x.dtype)) @ m.a.T, None, None
    ),
    "mean over positions": (
        lambda m, x: functional.relu(x.unsqueeze(1).expand(-1, 3, -1) @ m.W.T).mean(1) @ m.a.T, None, 2
    ),
    "softmax": (lambda m, x: functional.softmax(x @ m.W.T, -1) @ m.a.T, None, None),
    "padding by one": (
        lambda m, x: functional.pad(functional.relu(x @ m.W.T)[:, :3], (0, 1), value=1.0) @ m.a.T, None, None
    ),
    "none of these": (lambda m, x: functional.relu(x @ m.W.T) @ m.a.T, {"V"}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_degrees(name):
    write, names, degree = CASES[name]
    model = Written(write)
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    assert structure.homogeneity(names) == degree
    if degree is None:
        return
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = model.double()
    before = model(x)
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if names is None or parameter_name in names:
                p.mul_(1.7)
    assert torch.allclose(model(x), 1.7**degree * before, rtol=1e-12)


def test_convolutions_and_pools_keep_the_degree():
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1)]
    structure = trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(2, 2, bias=False)), torch.randn(4, 1, 8, 8))
    assert structure.homogeneity() == 3
    assert structure.homogeneity({"0.weight", "0.bias"}) == 1


def test_norms_are_not_homogeneous():
    structure = trace(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False)), torch.randn(5, 3))
    assert structure.homogeneity() is None
    assert structure.homogeneity({"2.weight"}) == 1


def test_unknown_names_are_refused():
    structure = trace(nn.Linear(3, 2), torch.randn(5, 3))
    with pytest.raises(InvalidInputError, match="no parameter 'weigth'"):
        structure.homogeneity({"weigth"})
