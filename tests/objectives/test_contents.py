"""Fingerprints: equal for equal objectives in any process, different for anything that changes the function."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import ParameterSpace
from thalweg.objectives import L2, EmpiricalRisk, Penalty, restrict
from thalweg.objectives.contents import content_of, digest_of

X = torch.arange(12.0).reshape(4, 3) / 10
Y = torch.arange(8.0).reshape(4, 2) / 7
LABELS = torch.tensor([0, 1, 1, 0])
SCALE = 1.0


class Net(nn.Module):
    factor = 2.0

    def __init__(self, power: int = 2) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)
        self.power = power
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("table", torch.ones(3), persistent=False)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape) / (i + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x - self.mean) * self.table) ** self.power) * self.factor


class Other(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0


def squares(outputs: Tensor, targets: Tensor, weight: float = 1.0) -> Tensor:
    return weight * ((outputs - targets) ** 2).mean() * SCALE


def fourths(outputs: Tensor, targets: Tensor, weight: float = 1.0) -> Tensor:
    return weight * ((outputs - targets) ** 4).mean() * SCALE


def plus(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch) + 1


def minus(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch) - 1


def scaled(factor: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (factor * (outputs - targets) ** 2).mean()

    return loss


class Way(Enum):
    UP = 1
    DOWN = 2


def choosing(among: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets) ** 2).mean() * (2 if 1 in (among if hasattr(among, "__contains__") else ()) else 1)

    return loss


class Loss:
    """A callable object with a setting."""

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets).abs() + self.delta).mean()


def risk(
    model: nn.Module | None = None, loss: Any = None, x: Tensor = X, y: Tensor = Y, **settings: Any
) -> EmpiricalRisk:
    mean = {} if loss is None or isinstance(loss, nn.Module) else {"reduction": "mean"}
    return EmpiricalRisk(model or Net(), loss or nn.MSELoss(), x, y, **mean, **settings)


def changed(tensor: Tensor, place: int = 1) -> Tensor:
    other = tensor.clone()
    other.view(-1)[place] += 1e-7 if other.is_floating_point() else 1
    return other


def with_weight(name: str) -> Net:
    model = Net()
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[0] += 1e-6
    return model


def with_buffer(name: str) -> Net:
    model = Net()
    getattr(model, name)[1] += 1e-6
    return model


def with_hook(factor: float) -> Net:
    model = Net()
    model.last.register_forward_hook(lambda module, inputs, output: factor * output)
    return model


def double(x: Tensor) -> Tensor:
    return 2 * x


DIFFERENT: dict[str, tuple[Callable[[], EmpiricalRisk], Callable[[], EmpiricalRisk]]] = {
    "a datum": (risk, lambda: risk(x=changed(X))),
    "a target": (risk, lambda: risk(y=changed(Y))),
    "a label": (lambda: risk(loss=nn.CrossEntropyLoss(), y=LABELS),
                lambda: risk(loss=nn.CrossEntropyLoss(), y=1 - LABELS)),
    "the order of the data": (risk, lambda: risk(x=X.flip(0), y=Y.flip(0))),
    "a weight of a sample": (risk, lambda: risk(sample_weight=torch.tensor([1, 1, 1, 1.001]))),
    "a frozen weight": (
        lambda: risk(parameters="last.*"), lambda: risk(with_weight("first.bias"), parameters="last.*")
    ),
    "a buffer": (risk, lambda: risk(with_buffer("mean"))),
    "a buffer that is not saved": (risk, lambda: risk(with_buffer("table"))),
    "a setting of the model": (risk, lambda: risk(Net(power=3))),
    "the code of the model": (risk, lambda: risk(Other())),
    "a hook": (lambda: risk(with_hook(1.0)), lambda: risk(with_hook(2.0))),
    "what is free": (lambda: risk(parameters="last.*"), lambda: risk(parameters="first.*")),
    "the loss": (risk, lambda: risk(loss=nn.HuberLoss())),
    "a setting of the loss": (lambda: risk(loss=nn.HuberLoss(delta=1.0)), lambda: risk(loss=nn.HuberLoss(delta=1.1))),
    "the reduction": (risk, lambda: risk(loss=nn.MSELoss(reduction="sum"))),
    "a weight of the loss": (
        lambda: risk(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), y=LABELS),
        lambda: risk(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.5])), y=LABELS),
    ),
    "the smoothing": (
        lambda: risk(loss=nn.CrossEntropyLoss(label_smoothing=0.1), y=LABELS),
        lambda: risk(loss=nn.CrossEntropyLoss(label_smoothing=0.2), y=LABELS),
    ),
    "a function as loss": (lambda: risk(loss=squares), lambda: risk(loss=fourths)),
    "functions on one line": (lambda: risk(loss=PAIR[0]), lambda: risk(loss=PAIR[1])),
    "a default": (lambda: risk(loss=DEFAULTS[0]), lambda: risk(loss=DEFAULTS[1])),
    "a closure": (lambda: risk(loss=scaled(2.0)), lambda: risk(loss=scaled(3.0))),
    "a tensor in a closure": (
        lambda: risk(loss=scaled(torch.tensor([1.0, 2.0]))), lambda: risk(loss=scaled(torch.tensor([1.0, 3.0])))
    ),
    "an array in a closure": (
        lambda: risk(loss=scaled(torch.as_tensor(np.array([1.0, 2.0])))),
        lambda: risk(loss=scaled(torch.as_tensor(np.array([1.0, 3.0])))),
    ),
    "a set in a closure": (lambda: risk(loss=choosing({1, 2})), lambda: risk(loss=choosing({1, 3}))),
    "a range in a closure": (lambda: risk(loss=choosing(range(2))), lambda: risk(loss=choosing(range(3)))),
    "a deque in a closure": (lambda: risk(loss=choosing(deque([1]))), lambda: risk(loss=choosing(deque([2])))),
    "a member of an enumeration": (lambda: risk(loss=choosing(Way.UP)), lambda: risk(loss=choosing(Way.DOWN))),
    "a bound argument": (
        lambda: risk(loss=functools.partial(squares, weight=2.0)),
        lambda: risk(loss=functools.partial(squares, weight=2.5)),
    ),
    "a callable object": (lambda: risk(loss=Loss(1.0)), lambda: risk(loss=Loss(1.5))),
    "the forward pass": (lambda: risk(forward=plus), lambda: risk(forward=minus)),
    "no forward pass of ones own": (lambda: risk(forward=plus), risk),
    "the type": (risk, lambda: risk(dtype=torch.float32)),
    "names of the data": (
        lambda: EmpiricalRisk(Pair(), nn.MSELoss(), {"a": X, "b": 2 * X}, Y),
        lambda: EmpiricalRisk(Pair(), nn.MSELoss(), {"b": X, "a": 2 * X}, Y),
    ),
}  # fmt: skip
PAIR = [lambda o, t: (o + t).abs().mean(), lambda o, t: (o - t).abs().mean()]  # fmt: skip
DEFAULTS = [
    lambda o, t, w=1.0: (w * (o - t) ** 2).mean(),
    lambda o, t, w=2.0: (w * (o - t) ** 2).mean(),
]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        with torch.no_grad():
            for p in self.parameters():
                p.fill_(0.5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a + b**2)


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_change_of_the_function_changes_the_fingerprint(what: str) -> None:
    one, other = DIFFERENT[what]
    assert one().fingerprint() == one().fingerprint()
    assert other().fingerprint() == other().fingerprint()
    assert one().fingerprint() != other().fingerprint()


def test_a_global_constant_that_the_loss_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = risk(loss=squares).fingerprint()
    monkeypatch.setitem(squares.__globals__, "SCALE", 2.0)
    assert risk(loss=squares).fingerprint() != before


def test_a_constant_of_the_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.objectives import contents

    before = risk().fingerprint()
    monkeypatch.setattr(Net, "factor", 3.0)
    contents._source_of.cache_clear()
    assert risk().fingerprint() != before
    contents._source_of.cache_clear()


def test_what_does_not_change_the_function_leaves_the_fingerprint() -> None:
    before = risk().fingerprint()
    assert risk(batch_size=2).fingerprint() == before
    assert risk(x=X.double()).fingerprint() == before
    assert risk(sample_weight=torch.ones(4)).fingerprint() == before
    assert risk(with_weight("last.weight")).fingerprint() == before  # a free parameter: the function is the same
    used = risk()
    used.evaluate(used.initial, 2)
    used.outputs(used.initial)
    assert used.fingerprint() == before
    trained = Net()
    torch.optim.SGD(trained.parameters(), 0.1).zero_grad()
    trained(X).sum().backward()
    assert risk(trained).fingerprint() == before


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u2", "c16", "?", "g", "U3"])
def test_arrays_are_told_apart_by_their_entries_however_they_lie(dtype: str) -> None:
    """Read-only views, reversed and strided ones included, which torch takes with a warning or not at all."""
    array = np.arange(6).reshape(2, 3).astype(dtype)
    same = np.broadcast_to(array, (2, 3)), array[::-1].copy()[::-1], np.asfortranarray(array), array.T.copy().T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = {digest_of(content_of(view)) for view in (array, *same)}
        others = {digest_of(content_of(view)) for view in (array[::-1], array.T, array[:1], array.reshape(6))}
    assert len(known) == 1
    assert len(others) == 4
    assert not known & others


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


@pytest.mark.parametrize("make", [Path, Slotted, Fraction, Decimal], ids=lambda make: make.__name__)
def test_objects_without_a_dictionary_count_by_what_they_hold(make: Callable[[Any], object]) -> None:
    two = "2" if make is Path else 2
    assert digest_of(content_of(make(two))) == digest_of(content_of(make(two)))
    assert digest_of(content_of(make(two))) != digest_of(content_of(make("3" if make is Path else 3)))
    assert list(content_of(threading.Lock())) == list(content_of(threading.Lock()))


def test_sums_penalties_and_restrictions() -> None:
    base = risk()
    theta = base.initial
    different = [
        base,
        base + L2(base, 0.1),
        base + L2(base, 0.2),
        base + L2(base, 0.1, parameters="*weight"),
        base + L2(base, 0.1, center=theta),
        base + Penalty(base, lambda p: p["last.bias"].sum(), "a"),
        base + Penalty(base, lambda p: p["last.bias"].abs().sum(), "a"),
        base + Penalty(base, lambda p: p["last.bias"].sum(), "b"),
        restrict(base, "last.*", theta),
        restrict(base, "first.*", theta),
        restrict(base, "last.*", theta + 1e-9),
        restrict(base, torch.eye(base.space.size)[:, :3], theta),
        restrict(base, torch.eye(base.space.size)[:, 1:4], theta),
        L2(ParameterSpace({"x": (2,)}), 1.0),
        L2(ParameterSpace({"y": (2,)}), 1.0),
        L2(ParameterSpace({"x": (2,)}), 1.0, dtype=torch.float32),
    ]
    assert len({objective.fingerprint() for objective in different}) == len(different)
    assert (base + L2(base, 0.1)).fingerprint() == (risk() + L2(risk(), 0.1)).fingerprint()


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from importlib import util
spec = util.spec_from_file_location({name!r}, {file!r})
module = util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
for what, (one, other) in module.DIFFERENT.items():
    print(one().fingerprint(), other().fingerprint())
"""


def test_another_process_gives_the_same_fingerprints() -> None:
    """Under another hash seed and at other addresses; this very file is loaded there under the same name."""
    program = PROGRAM.format(path=sys.path, name=__name__, file=__file__)
    there = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    ).stdout.split()
    here = [make().fingerprint() for pair in DIFFERENT.values() for make in pair]
    assert there == here
