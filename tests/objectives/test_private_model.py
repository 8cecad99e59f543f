"""The private copy: called with other parameters, left as it was, whatever a forward pass does to its module."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.objectives import EmpiricalRisk
from thalweg.objectives.private_model import PrivateModel

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))


class Keeper(nn.Module):
    """Keeps activations in every way people do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(3, 2)
        self.last: Tensor | None = None
        self.table: dict[str, Tensor] = {}
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.last = y
        self.table["y"] = y
        self.history.append(y)
        self.fresh = y
        return y


def risk_of(model: nn.Module, **settings: Any) -> EmpiricalRisk:
    return EmpiricalRisk(model, nn.MSELoss(), X, Y, **settings)


def test_nothing_of_a_call_is_kept() -> None:
    live = Keeper()
    risk = risk_of(live)
    risk.evaluate(risk.initial.expand(3, -1), 2)
    risk.jacobian(risk.initial)
    for keeper in (risk.model, live):
        assert keeper.last is None
        assert keeper.table == {}
        assert keeper.history == []
        assert not hasattr(keeper, "fresh")
    risk.subset([1, 2]).gradient(risk.initial)
    copy.deepcopy(risk).hessian(risk.initial)


def test_a_module_that_has_kept_something_can_be_copied() -> None:
    live = Keeper()
    live(X).sum().backward()
    kept = live.last
    risk = risk_of(live)
    torch.testing.assert_close(risk.value(risk.initial), nn.functional.mse_loss(live.double()(X.double()), Y.double()))
    assert kept is not None
    assert kept.grad_fn is not None


def test_an_error_inside_a_call_leaves_the_parameters_in_place() -> None:
    class Picky(Keeper):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 5:
                raise ValueError("five is too many")
            return super().forward(x)

    private = PrivateModel(Picky(), None, torch.float64)
    own = private.model.linear.weight
    with pytest.raises(ValueError, match="five"):
        private({"linear.weight": torch.zeros(2, 3, dtype=torch.float64)}, X[:5].double())
    assert private.model.linear.weight is own
    assert private.model.last is None


class Writer(nn.Module):
    """Writes into what it is given, by every kind of operation."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(3, 2)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.inner(x))


class FirstColumn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = x[:, 0] * 2
        return x


@pytest.mark.parametrize(
    "inner", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.SiLU(inplace=True), FirstColumn()]
)
def test_the_data_stay_what_they_are(inner: nn.Module) -> None:
    x, model = X.double(), Writer(inner)
    before = x.clone()
    risk = risk_of(model)
    risk.inputs = x  # even the user's own tensor
    thetas = risk.initial + torch.randn(3, risk.space.size, generator=torch.Generator().manual_seed(2))
    wanted = [nn.functional.mse_loss(risk.call(risk.space.unflatten(t), x.clone()), Y.double()) for t in thetas]
    for _ in range(2):
        torch.testing.assert_close(risk.value(thetas), torch.stack(wanted).detach())
        risk.evaluate(thetas, 2)
        risk.jacobian(thetas)
        risk.sample_gradients(thetas)
    assert torch.equal(x, before)


def test_an_explicit_copy_costs_nothing_where_nothing_is_written() -> None:
    risk = risk_of(Writer(nn.Tanh()))
    assert not risk._private._writes_inputs
    assert risk._private._keeping == []
    assert risk_of(Writer(nn.ReLU(inplace=True)))._private._writes_inputs


def test_recurrent_and_weight_normed_layers_hold_their_own_parameters_afterwards() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = nn.utils.weight_norm(nn.Linear(3, 2))
    risk = risk_of(hooked)
    risk.hessian(risk.initial)
    assert not risk.model.weight.requires_grad
    recurrent = nn.Sequential(nn.GRU(3, 2, batch_first=True))
    other = EmpiricalRisk(recurrent, nn.MSELoss(), X[:, None], Y[:, None], forward=lambda m, b: m(b)[0])
    other.hessian(other.initial)
    gru = other.model[0]
    assert all(a is b for a, b in zip(gru._flat_weights, gru.parameters(), strict=True))


def test_the_mode_is_the_one_given() -> None:
    class Modal(Keeper):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * (2 if self.training else 1)

    model = Modal()
    trained = risk_of(model.train())
    judged = risk_of(model.eval())
    assert trained.model.training
    assert not judged.model.training
    torch.testing.assert_close(trained.outputs(trained.initial), 2 * judged.outputs(judged.initial))


def test_frozen_parameters_and_modules_as_forward() -> None:
    class Wrapper(nn.Module):
        """A module used as ``forward``: its own parameters are no part of the objective."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, model: nn.Module, batch: Tensor) -> Tensor:
            return self.scale.detach() * model(batch)

    risk = risk_of(Keeper(), forward=Wrapper())
    assert risk.space.names == ("linear.weight", "linear.bias")
    torch.testing.assert_close(
        risk.outputs(risk.initial), 3 * risk_of(risk.model.requires_grad_()).outputs(risk.initial)
    )
