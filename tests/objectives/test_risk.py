"""The empirical risk as an object: which parameters are free, other data, live models, pickles."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from plain_torch import PlainRun
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, UnsupportedModelError
from thalweg.objectives import Capability, EmpiricalRisk, load_into_model

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(10, 3, generator=SOURCE)
Y = torch.randn(10, 2, generator=SOURCE)
LABELS = torch.randint(0, 2, (10,), generator=SOURCE)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
            self.head = nn.Linear(4, 2)
        self.register_buffer("shift", torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) + self.shift


def risk_of(model: nn.Module | None = None, **settings: Any) -> EmpiricalRisk:
    return EmpiricalRisk(model or Net(), nn.MSELoss(), X, Y, **settings)


# -- which parameters are free -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (None, ("body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias", "head.weight", "head.bias")),
        ("head.*", ("head.weight", "head.bias")),
        (["head.*", "*.0.bias"], ("body.0.bias", "head.weight", "head.bias")),
        ("*weight", ("body.0.weight", "body.2.weight", "head.weight")),
        (["head.bias", "head.*"], ("head.weight", "head.bias")),
    ],
)
def test_globs_choose_the_parameters(patterns: Any, names: tuple[str, ...]) -> None:
    model = Net()
    risk = risk_of(model, parameters=patterns)
    assert risk.space.names == names
    plain = PlainRun(model, nn.MSELoss(), X, Y, names=list(names))
    theta = risk.initial + 0.1
    torch.testing.assert_close(risk.value(theta), plain.value(theta), rtol=1e-12, atol=0)
    torch.testing.assert_close(risk.gradient(theta), plain.gradient(theta), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(risk.hessian(theta), plain.hessian(theta), rtol=1e-9, atol=1e-11)
    assert risk.subset([1, 2]).space == risk.space
    assert risk.on(X[:4], Y[:4]).space == risk.space


def test_a_frozen_backbone_stays_where_it_is() -> None:
    model = Net()
    model.body.requires_grad_(False)
    risk = risk_of(model)
    assert risk.space.names == ("head.weight", "head.bias")
    assert risk_of(model, parameters="body.2.*").space.names == ("body.2.weight", "body.2.bias")  # named: free
    other = Net()
    other.body.requires_grad_(False)
    with torch.no_grad():
        other.body[0].weight.add_(0.5)
    assert not torch.equal(risk_of(other).value(risk.initial), risk.value(risk.initial))


class Tied(nn.Module):
    """One matrix under two names, one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder, self.inner, self.out = nn.Linear(3, 4, bias=False), nn.Linear(4, 4), nn.Linear(3, 2)
        self.again = self.inner
        self.decoder = nn.Linear(4, 3, bias=False)
        self.decoder.weight = nn.Parameter(self.encoder.weight.T.detach().clone())
        self.twin = nn.Linear(3, 4, bias=False)
        self.twin.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.again(torch.tanh(self.inner(self.encoder(x)))))
        return self.out(self.decoder(h) + F.linear(self.twin(x), self.twin.weight.T))


def test_tied_parameters_are_one() -> None:
    model = Tied()
    risk = EmpiricalRisk(model, nn.MSELoss(), X, Y)
    assert risk.space.names == (
        "encoder.weight",
        "inner.weight",
        "inner.bias",
        "out.weight",
        "out.bias",
        "decoder.weight",
    )
    plain = PlainRun(model, nn.MSELoss(), X, Y)
    theta = risk.initial + 0.1 * torch.randn(risk.space.size, generator=SOURCE)
    for _ in range(2):  # the second time finds what the first left behind
        torch.testing.assert_close(risk.value(theta), plain.value(theta), rtol=1e-12, atol=0)
        torch.testing.assert_close(risk.gradient(theta), plain.gradient(theta), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(risk.hessian(theta), plain.hessian(theta), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(risk.value(risk.initial), plain.value(plain.initial), rtol=1e-12, atol=0)
    own = dict(risk.model.named_parameters())
    torch.testing.assert_close(torch.cat([own[n].reshape(-1) for n in risk.space.names]), risk.initial)
    live = Tied()
    risk.load_into_model(theta, live)
    assert live.twin.weight is live.encoder.weight
    torch.testing.assert_close(live.twin.weight.double().reshape(-1), theta[:12], rtol=1e-6, atol=1e-7)


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_everything_is_computed_in_the_type_asked_for(dtype: torch.dtype, given: torch.dtype) -> None:
    risk = EmpiricalRisk(Net().to(given), nn.MSELoss(), X.to(given), Y.to(given), dtype=dtype)
    theta = risk.initial.to(given)
    found = risk.evaluate(theta, 2)
    assert {t.dtype for t in found if t is not None} == {dtype}
    for tensor in (risk.outputs(theta), risk.jacobian(theta), risk.gauss_newton(theta), risk.sample_values(theta),
                   risk.hessian_product(theta, theta), risk.hessian_operator(theta) @ theta, risk.kink_margin(theta),
                   risk.sample_gradients(theta), risk.initial, risk.inputs):  # fmt: skip
        assert tensor.dtype == dtype
    exact = risk_of(Net().to(given))
    torch.testing.assert_close(found.value.double(), exact.value(exact.initial), rtol=1e-5, atol=0)
    assert found.hessian is not None
    torch.testing.assert_close(found.hessian.double(), exact.hessian(exact.initial), rtol=1e-3, atol=1e-5)


# -- other data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "indices",
    [[3, 1, 1], range(4, 8), torch.tensor([9]), torch.arange(10) > 6, torch.tensor([0, 2], dtype=torch.int32)],
)
def test_subsets_are_taken_anew(indices: Any) -> None:
    rows = X[indices] if isinstance(indices, Tensor) else X[list(indices)]
    wanted = Y[indices] if isinstance(indices, Tensor) else Y[list(indices)]
    risk = risk_of().subset(indices)
    torch.testing.assert_close(
        risk.value(risk.initial),
        F.mse_loss(Net().double()(rows.double()), wanted.double()).detach(),
        rtol=1e-12,
        atol=0,
    )
    assert risk.n_samples == len(rows)


def test_subsets_of_subsets_with_weights_and_settings() -> None:
    weights = torch.arange(1.0, 11.0)
    risk = risk_of(sample_weight=weights, batch_size=4, parameters="head.*", dtype=torch.float32)
    part = risk.subset([8, 2, 5]).subset([2, 0])
    direct = risk_of(sample_weight=weights, parameters="head.*", dtype=torch.float32).subset([5, 8])
    assert part.fingerprint() == direct.fingerprint()
    assert part.dtype == torch.float32
    total = F.mse_loss(Net()(X[[5, 8]]), Y[[5, 8]], reduction="none").sum(1) @ weights[[5, 8]] / 4
    torch.testing.assert_close(part.value(part.initial), total.detach(), rtol=1e-5, atol=0)
    again = risk.on(X, Y)  # other data come without weights
    torch.testing.assert_close(again.value(again.initial), F.mse_loss(Net()(X), Y).detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "at least one sample"),
        (torch.zeros(10, dtype=torch.bool), "at least one sample"),
        ([10], r"must lie in 0\.\.9"),
        ([-1], r"must lie in 0\.\.9"),
        ([[0, 1]], "vector of sample numbers"),
        ([0.5], "vector of sample numbers"),
        (torch.ones(9, dtype=torch.bool), r"the mask has shape \(9,\), expected \(10,\)"),
    ],
)
def test_subsets_that_make_no_sense(indices: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        risk_of().subset(indices)


def test_the_same_model_on_other_data_and_dictionaries() -> None:
    def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["x"])

    batch = {"x": X, "y": LABELS}
    risk = EmpiricalRisk(Net(), nn.CrossEntropyLoss(), batch, "y", forward=forward)
    other = risk.on({"x": X[:5], "y": LABELS[:5]}, "y")
    assert other.fingerprint() == risk.subset(range(5)).fingerprint()


# -- live models -------------------------------------------------------------------------------------------------------


def test_loading_writes_in_the_model_s_own_type_and_reports_the_gradient_there() -> None:
    model = Net()
    risk = risk_of(model)
    theta = risk.initial + 0.123456789012345
    norm = risk.load_into_model(theta, model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    held = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double()
    assert torch.equal(held, theta.float().double())
    assert norm == float(risk.gradient(held).abs().max())
    assert norm != float(risk.gradient(theta).abs().max())
    assert load_into_model(risk, theta, model) == norm
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_loading_only_the_free_parameters_leaves_the_others() -> None:
    model = Net()
    risk = risk_of(model, parameters="head.*")
    body = copy.deepcopy(model.body.state_dict())
    risk.load_into_model(risk.initial + 1, model)
    assert all(torch.equal(a, b) for a, b in zip(model.body.state_dict().values(), body.values(), strict=True))


def test_a_model_that_does_not_fit_is_left_alone() -> None:
    risk = risk_of()
    other = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(InvalidInputError, match=r"holds nothing where 'body.0.weight' of shape \(4, 3\) should go"):
        risk.load_into_model(risk.initial, other)
    narrow = Net()
    narrow.head = nn.Linear(4, 3)
    before = copy.deepcopy(narrow.state_dict())
    with pytest.raises(InvalidInputError, match=r"holds \(3, 4\) where 'head.weight' of shape \(2, 4\) should go"):
        risk.load_into_model(risk.initial + 1, narrow)
    assert all(torch.equal(a, b) for a, b in zip(narrow.state_dict().values(), before.values(), strict=True))


@pytest.mark.usefixtures("untouched_random_state")
def test_nothing_that_is_live_is_touched() -> None:
    model = Net().train()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 0.9]))
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    before = copy.deepcopy(model.state_dict())
    versions = [p._version for p in (*model.parameters(), *model.buffers(), X, LABELS)]
    threads, mode = torch.get_num_threads(), torch.is_grad_enabled()
    risk = EmpiricalRisk(model, loss, X, LABELS)
    theta = risk.initial.clone()
    risk.evaluate(theta, 2)
    risk.hessian_operator(theta).dense()
    risk.gauss_newton_operator(theta) @ theta
    risk.jacobian_operator(theta).dense()
    risk.sample_gradients(theta)
    risk.kinks(theta)
    risk.fingerprint()
    risk.subset([1, 2])
    pickle.dumps(risk)
    assert torch.equal(theta, risk.initial)
    assert model.training
    assert all(bool((p.grad == 3).all()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.parameters())
    assert [p._version for p in (*model.parameters(), *model.buffers(), X, LABELS)] == versions
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert loss.weight is not None
    assert loss.weight.dtype == torch.float32
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, mode)


def test_a_gradient_that_is_being_recorded_outside_is_none_of_ours() -> None:
    risk = risk_of()
    theta = risk.initial.clone().requires_grad_()
    value = risk.value(theta)
    assert not value.requires_grad
    assert not risk.gradient(theta).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(risk.gradient(theta), risk.gradient(risk.initial))
        torch.testing.assert_close(risk.hessian(theta), risk.hessian(risk.initial))
        torch.testing.assert_close(risk.hessian_operator(theta).dense(), risk.hessian(risk.initial))
        torch.testing.assert_close(risk.gauss_newton_operator(theta).dense(), risk.gauss_newton(risk.initial))
    with torch.inference_mode():
        with pytest.raises(InvalidInputError, match=r"inference_mode\(\) forbids derivatives; use torch.no_grad"):
            risk.value(risk.initial)
        with pytest.raises(InvalidInputError, match="make the objective outside of it"):
            risk_of()


def test_several_threads_may_ask_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    risk = risk_of()
    thetas = risk.initial + torch.randn(16, risk.space.size, generator=SOURCE)
    wanted = [risk.gradient(theta) for theta in thetas]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(risk.gradient, thetas))
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


# -- pickles -----------------------------------------------------------------------------------------------------------


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def call(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def test_a_pickle_is_the_same_objective() -> None:
    weights = torch.rand(10, generator=SOURCE)
    for risk in (
        risk_of(sample_weight=weights, batch_size=3, parameters="head.*"),
        EmpiricalRisk(Net(), absolute, X, Y, reduction="mean", forward=call),
    ):
        twin = pickle.loads(pickle.dumps(risk))
        assert twin.fingerprint() == risk.fingerprint()
        assert repr(twin) == repr(risk)
        assert twin.path == risk.path
        assert torch.equal(twin.gradient(risk.initial), risk.gradient(risk.initial))
        assert torch.equal(twin.jacobian(risk.initial), risk.jacobian(risk.initial))
        assert copy.deepcopy(risk).fingerprint() == risk.fingerprint()


def test_what_cannot_be_pickled_says_why() -> None:
    for settings, named in (
        ({"forward": lambda model, batch: model(batch)}, "forward= is test_what"),
        ({}, "the loss is test_what"),
    ):
        loss = nn.MSELoss() if settings else lambda o, t: (o - t).abs().mean()
        risk = EmpiricalRisk(Net(), loss, X, Y, reduction=None if settings else "mean", **settings)
        with pytest.raises(UnsupportedModelError, match=rf"{named}.*define it at the top level of a module"):
            pickle.dumps(risk)


class Scaled:
    """A loss that is an object with a method."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.factor * (outputs - targets).abs().mean()


def test_what_is_made_inside_of_a_function_is_named_wherever_it_hides() -> None:
    class Inner(Net):
        pass

    class InnerLoss(Scaled):
        pass

    class Reducing(Scaled):
        def __reduce__(self) -> Any:
            return Scaled, (self.factor,)

    local = lambda outputs, targets, by: by * (outputs - targets).abs().mean()  # noqa: E731
    for model, loss, found in (
        (Inner(), absolute, "a part of the model is test_what_is_made.*Inner"),
        (nn.Sequential(nn.Identity(), Inner()), absolute, "a part of the model is .*Inner"),
        (Net(), functools.partial(local, by=2.0), "the loss is .*lambda"),
        (Net(), InnerLoss(2.0), "the loss is .*InnerLoss"),
        (Net(), InnerLoss(2.0).__call__, "the loss is .*InnerLoss"),
    ):
        risk = EmpiricalRisk(model, loss, X, Y, reduction="mean")
        with pytest.raises(UnsupportedModelError, match=rf"{found}.*, which another process could not find"):
            pickle.dumps(risk)
    for loss in (Scaled(2.0), Scaled(2.0).__call__, functools.partial(absolute), Reducing(2.0)):
        risk = EmpiricalRisk(Net(), loss, X, Y, reduction="mean")
        twin = pickle.loads(pickle.dumps(risk))
        assert torch.equal(twin.gradient(risk.initial), risk.gradient(risk.initial))


def test_a_pickle_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    batch = {"x": (X, X), "y": LABELS}
    risk = EmpiricalRisk(Net(), nn.CrossEntropyLoss(), batch, "y", forward=first)
    assert torch.equal(pickle.loads(pickle.dumps(risk)).initial, risk.initial)
    assert not recwarn.list


def first(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return model(batch["x"][0])


# -- what is known -----------------------------------------------------------------------------------------------------


def test_capabilities_and_names() -> None:
    risk = risk_of()
    assert risk.capabilities == {Capability.OUTPUTS, Capability.GAUSS_NEWTON, Capability.DATA, Capability.MODEL}
    assert repr(risk) == "EmpiricalRisk(Net, MSELoss, N=10, C=2, P=46)"
    assert risk.reduction == "mean"
    assert risk.loss_facts.squared_factor == 1
    assert EmpiricalRisk(Net(), F.cross_entropy, X, LABELS).loss_facts.attained is False
    named = risk.space.unflatten(risk.initial)
    raw = risk.call({"head.bias": named["head.bias"] + 1}, risk.inputs)
    torch.testing.assert_close(raw, risk.outputs(risk.initial) + 1)
    torch.testing.assert_close(risk.call({}, risk.inputs), risk.outputs(risk.initial))
