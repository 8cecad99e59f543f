"""Whatever a user calls their data is read once, in fixed order, into tensors of the objective's own."""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from thalweg.foundation import InvalidInputError
from thalweg.objectives import EmpiricalRisk
from thalweg.objectives.data import read_data

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 2, (10,), generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.usefixtures("untouched_random_state")


class Pairs(Dataset[Any]):
    """Samples one by one, as a user's own class gives them."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        return X[i].numpy(), int(Y[i])


class Augmented(Pairs):
    """The same with noise from a source of the user's choice."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __getitem__(self, i: int) -> Any:
        return X[i] + 0.1 * float(self.draw()), int(Y[i])


class Dictionaries(Pairs):
    def __getitem__(self, i: int) -> Any:
        return {"x": X[i], "label": Y[i]}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(x, y) for x, y in zip(X, Y, strict=True)])


def reversed_pairs(items: list[Any]) -> Any:
    return torch.stack([torch.as_tensor(x) for x, _ in items]), torch.tensor([y for _, y in items])


SOURCES = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "tensor dataset": (TensorDataset(X, Y), None),
    "own dataset": (Pairs(), None),
    "dataset and targets": (TensorDataset(X), Y),
    "stream": (Stream(), None),
    "loader": (DataLoader(Pairs(), batch_size=4), None),
    "shuffling loader": (DataLoader(Pairs(), batch_size=4, shuffle=True), None),
    "shuffling loader with a seed": (
        DataLoader(Pairs(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5)),
        None,
    ),
    "shuffling loader that drops": (DataLoader(Pairs(), batch_size=4, shuffle=True, drop_last=True), None),
    "collating loader": (DataLoader(Pairs(), batch_size=3, shuffle=True, collate_fn=reversed_pairs), None),
    "batches of samplers": (
        DataLoader(Pairs(), batch_sampler=BatchSampler(SequentialSampler(X), 4, drop_last=False)),
        None,
    ),
    "loader of a stream": (DataLoader(Stream(), batch_size=4), None),
    "dictionary": ({"x": X, "label": Y}, "label"),
    "dataset of dictionaries": (Dictionaries(), "label"),
    "loader of dictionaries": (DataLoader(Dictionaries(), batch_size=4, shuffle=True), "label"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_numbers(name: str) -> None:
    inputs, targets = read_data(*SOURCES[name])
    found = inputs["x"] if isinstance(inputs, dict) else inputs[0] if isinstance(inputs, list) else inputs
    assert torch.equal(torch.as_tensor(found), X)
    assert torch.equal(targets, Y)


def test_a_shuffling_loader_gives_the_same_objective() -> None:
    with torch.random.fork_rng(devices=[]):
        model = nn.Linear(3, 2)
    risks = [
        EmpiricalRisk(model, nn.CrossEntropyLoss(), *SOURCES[name])
        for name in ("tensors", "shuffling loader", "shuffling loader that drops")
    ]
    assert len({risk.fingerprint() for risk in risks}) == 1


def test_a_fixed_order_that_drops_is_taken_at_its_word() -> None:
    inputs, _ = read_data(DataLoader(Pairs(), batch_size=4, drop_last=True))
    assert torch.equal(inputs, X[:8])


def test_a_random_subset_is_read_in_its_own_order() -> None:
    inputs, targets = read_data(DataLoader(Pairs(), batch_size=2, sampler=SubsetRandomSampler([7, 1, 4])))
    assert torch.equal(inputs, X[[7, 1, 4]])
    assert torch.equal(targets, Y[[7, 1, 4]])


@pytest.mark.parametrize(
    "draw", [lambda: torch.randn(()), random.random, np.random.rand], ids=["torch", "python", "np"]
)
def test_augmentation_is_refused(draw: Any) -> None:
    for source in (Augmented(draw), DataLoader(Augmented(draw), batch_size=4)):
        with pytest.raises(
            InvalidInputError, match=r"two passes over the data disagree: .*switch the augmentation off"
        ):
            read_data(source)


def test_orders_that_change_are_refused() -> None:
    weighted = WeightedRandomSampler(torch.ones(10).tolist(), 10)
    shuffled = BatchSampler(RandomSampler(X), 4, drop_last=False)
    for loader in (DataLoader(Pairs(), sampler=weighted), DataLoader(Pairs(), batch_sampler=shuffled)):
        with pytest.raises(InvalidInputError, match="two passes over the data disagree"):
            read_data(loader)


class Triples(Pairs):
    def __getitem__(self, i: int) -> Any:
        return X[i], X[i], int(Y[i])


class Ragged(Pairs):
    def __getitem__(self, i: int) -> Any:
        return X[i][: 1 + i % 3], int(Y[i])


class Texts(Pairs):
    def __getitem__(self, i: int) -> Any:
        return "a text", int(Y[i])


class Empty(Pairs):
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Triples(), r"tuples of 3; give pairs \(inputs, targets\)"),
        (DataLoader(Triples()), "tuples of 3"),
        (Ragged(), "cannot be joined into tensors of one shape .*pad them"),
        (DataLoader(Ragged(), batch_size=1), "cannot be joined into tensors of one shape"),
        (Texts(), "cannot be joined into tensors"),
        (Empty(), "the data are empty"),
        (DataLoader(Empty()), "the data are empty"),
        (TensorDataset(X[:0], Y[:0]), "the data are empty"),
    ],
)
def test_sources_that_give_no_tensors(source: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_data(source)


def test_a_dataset_with_nan_is_refused_for_what_it_holds() -> None:
    x = X.clone()
    x[3, 1] = float("nan")
    with pytest.raises(InvalidInputError, match="the data hold 1 NaN or infinite entries, the first in sample 3"):
        read_data(TensorDataset(x, Y))


Both = namedtuple("Both", ["left", "right"])


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.linear(left - 2 * right)


@pytest.mark.parametrize(
    "inputs", [(X, X.flip(0)), [X, X.flip(0)], Both(X, X.flip(0)), {"right": X.flip(0), "left": X}]
)
def test_trees_of_inputs_become_arguments(inputs: Any) -> None:
    model = Sum()
    risk = EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, Y, batch_size=4)
    wanted = nn.functional.cross_entropy(model.double()(X.double(), X.flip(0).double()), Y)
    torch.testing.assert_close(risk.value(risk.initial), wanted.detach(), rtol=1e-12, atol=0)


def test_the_objective_keeps_its_data_when_the_user_changes_theirs() -> None:
    x, y = X.double(), torch.randn(10, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.ones(10, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        model = nn.Linear(3, 2).double()
    risk = EmpiricalRisk(model, nn.MSELoss(), x, y, sample_weight=weights)
    theta, before = risk.initial.clone(), risk.fingerprint()
    value = risk.value(theta)
    for tensor in (x, y, weights, model.weight.data):
        tensor.add_(1.0)
    assert risk.fingerprint() == before
    assert torch.equal(risk.value(theta), value)
    assert torch.equal(risk.initial, theta)
    array = np.ones((10, 3))
    of_array = EmpiricalRisk(model, nn.MSELoss(), array, y)
    array[:] = 7
    assert float(of_array.inputs.max()) == 1


def test_whole_numbers_stay_whole() -> None:
    words = torch.randint(0, 5, (6, 2), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten())
    risk = EmpiricalRisk(model, nn.MSELoss(), words, torch.zeros(6, 4))
    assert risk.inputs.dtype == torch.int64
    assert risk.targets.dtype == torch.float64
