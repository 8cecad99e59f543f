"""The tangent kernel, layer by layer, against the dense Jacobian of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from designed_spectra import normal
from kernel_models import MODELS
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thalweg.foundation import (
    InvalidInputError,
    MemoryLimitError,
    NotApplicableError,
    ParameterSpace,
    memory_limit,
)
from thalweg.objectives import EmpiricalRisk, OutputObjective, Penalty
from thalweg.tangent import kernel_operator, tangent_kernel


def risk_of(name: str, **options: Any) -> EmpiricalRisk:
    torch.manual_seed(7)
    make, inputs, _ = MODELS[name]
    model, data = make(), inputs()
    with torch.no_grad():
        targets = torch.randn_like(model(data))
    return EmpiricalRisk(model, nn.MSELoss(), data, targets, **options)


def reference(risk: EmpiricalRisk, theta: Tensor) -> Tensor:
    """The Jacobian by reverse mode over all samples at once, which shares no code with either engine."""
    everything = next(iter(risk.chunks(risk.n_samples)))
    leaf = theta.detach().requires_grad_()
    with risk.execution_context():
        flat = risk.chunk_outputs(leaf, everything).reshape(-1)
        return torch.stack([torch.autograd.grad(y, leaf, retain_graph=True)[0] for y in flat]).double()


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[EmpiricalRisk, Tensor, Tensor, set[str]]:
    risk = risk_of(request.param)
    theta = risk.initial + 0.1 * normal(risk.space.size, seed=2)
    return risk, theta, reference(risk, theta), MODELS[request.param][2]


def test_every_model_by_layers_and_by_columns(case: tuple[EmpiricalRisk, Tensor, Tensor, set[str]]) -> None:
    risk, theta, jacobian, unexplained = case
    truth = jacobian @ jacobian.T
    scale = float(truth.abs().max())
    kernel = tangent_kernel(risk, theta, per_block=True)
    assert torch.allclose(kernel.matrix, truth, rtol=0, atol=1e-12 * scale)
    assert torch.equal(kernel.matrix, kernel.matrix.T)
    for block in risk.space:
        part = jacobian[:, block.slice]
        assert torch.allclose(kernel.blocks[block.name], part @ part.T, rtol=0, atol=1e-12 * scale), block.name
    assert {route.block for route in kernel.routes if route.engine == "columns"} == unexplained
    assert all(route.detail for route in kernel.routes)
    assert kernel.discrepancy < 1e-13
    by_columns = tangent_kernel(risk, theta, engine="columns")
    assert torch.allclose(by_columns.matrix, truth, rtol=0, atol=1e-12 * scale)
    assert {route.engine for route in by_columns.routes} == {"columns"}


def test_operator_multiplies_by_the_same_matrix(case: tuple[EmpiricalRisk, Tensor, Tensor, set[str]]) -> None:
    risk, theta, jacobian, _ = case
    columns = normal(len(jacobian), 2, seed=1)
    exact = jacobian @ (jacobian.T @ columns)
    assert torch.allclose(kernel_operator(risk, theta) @ columns, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["dense", "sequence", "words", "tied words", "sequences", "convolutions"])
def test_small_tiles_and_groups_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    risk = risk_of(name)
    whole = tangent_kernel(risk, risk.initial, per_block=True)
    monkeypatch.setattr("thalweg.tangent._factors.TILE_BYTES", 3000)
    monkeypatch.setattr("thalweg.tangent._columns.WORKING_SET", 20_000)

    def pairs(self: object, side: OutputObjective) -> list[list[tuple[slice, Any]]]:
        chunks = list(side.chunks(2))
        starts = range(0, side.n_samples, 2)
        placed = [(slice(s, min(s + 2, side.n_samples)), chunk) for s, chunk in zip(starts, chunks, strict=True)]
        return [placed[:1], placed[1:]] if len(placed) > 1 else [placed]

    monkeypatch.setattr("thalweg.tangent._layers.LayerEngine._groups", pairs)
    cut = tangent_kernel(risk, risk.initial, per_block=True)
    assert torch.allclose(cut.matrix, whole.matrix, rtol=1e-12, atol=1e-13)
    for block in whole.blocks:
        assert torch.allclose(cut.blocks[block], whole.blocks[block], rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_same_padding_of_even_kernels_is_longer_behind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, (2, 4), padding="same"), nn.Flatten(), nn.Linear(50, 2))
    risk = EmpiricalRisk(model, nn.MSELoss(), torch.randn(3, 1, 5, 5), torch.randn(3, 2))
    jacobian = reference(risk, risk.initial)
    kernel = tangent_kernel(risk, risk.initial)
    assert {route.engine for route in kernel.routes} == {"layers"}
    assert torch.allclose(kernel.matrix, jacobian @ jacobian.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("name", ["sequence", "convolutions", "words"])
def test_both_ways_to_multiply_agree(name: str, by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grams of factors and rows of outer products: the cost decides which is taken, never the result."""
    from thalweg.tangent import _factors

    def forced(self: _factors.Outer, other: _factors.Factor, into: Tensor) -> None:
        assert isinstance(other, _factors.Outer)
        if by_rows:
            _factors._add_by_rows(self, other, into)
        else:
            _factors._add_by_grams(self.signals, other.signals, into, self._activation_gram(other))

    monkeypatch.setattr(_factors.Outer, "add_gram", forced)
    risk = risk_of(name)
    jacobian = reference(risk, risk.initial)
    kernel = tangent_kernel(risk, risk.initial)
    assert torch.allclose(kernel.matrix, jacobian @ jacobian.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "words", "tied words", "recurrent"])
def test_between_two_sets_of_data(name: str) -> None:
    risk = risk_of(name)
    torch.manual_seed(11)
    other = risk.on(MODELS[name][1]()[:4], risk.targets[:4])
    left, right = reference(risk, risk.initial), reference(other, risk.initial)
    kernel = tangent_kernel(risk, risk.initial, other)
    assert torch.allclose(kernel.matrix, left @ right.T, rtol=1e-11, atol=1e-12)
    assert kernel.by_sample.shape == (risk.n_samples, risk.n_outputs, 4, risk.n_outputs)
    back = tangent_kernel(other, risk.initial, risk)
    assert torch.allclose(back.matrix, kernel.matrix.T, rtol=1e-11, atol=1e-12)


def test_filtered_by_globs() -> None:
    risk = risk_of("convolutions")
    jacobian = reference(risk, risk.initial)
    chosen = risk.space.select(["0.*", "*.bias"])
    kernel = tangent_kernel(risk, risk.initial, parameters=["0.*", "*.bias"])
    assert torch.allclose(kernel.matrix, jacobian[:, chosen] @ jacobian[:, chosen].T, rtol=1e-11, atol=1e-12)
    assert {route.block for route in kernel.routes} == {"0.weight", "0.bias", "2.bias", "3.bias", "5.bias", "8.bias"}
    operator = kernel_operator(risk, risk.initial, parameters=["0.*", "*.bias"])
    assert torch.allclose(operator.dense(), kernel.matrix, rtol=1e-10, atol=1e-11)
    with pytest.raises(InvalidInputError, match="matches no block"):
        tangent_kernel(risk, risk.initial, parameters="nothing*")


def test_frozen_parameters_do_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    risk = EmpiricalRisk(model, nn.MSELoss(), torch.randn(6, 4), torch.randn(6, 2), parameters="2.*")
    jacobian = reference(risk, risk.initial)
    kernel = tangent_kernel(risk, risk.initial)
    assert [route.block for route in kernel.routes] == ["2.weight", "2.bias"]
    assert torch.allclose(kernel.matrix, jacobian @ jacobian.T, rtol=1e-12, atol=1e-13)


def test_single_precision_models_are_summed_in_double() -> None:
    single, double = risk_of("dense", dtype=torch.float32), risk_of("dense")
    kernel = tangent_kernel(single, single.initial)
    assert kernel.matrix.dtype == torch.float64
    assert {route.engine for route in kernel.routes} == {"layers"}
    truth = tangent_kernel(double, single.initial.double()).matrix
    assert float((kernel.matrix - truth).abs().max() / truth.abs().max()) < 3e-7
    # an inner product of 400 positive terms: summed in single precision it would be off by more than the factors are
    wide = nn.Linear(4000, 1, bias=False)
    inputs = torch.rand(2, 4000)
    risk = EmpiricalRisk(wide, nn.MSELoss(), inputs, torch.zeros(2, 1), dtype=torch.float32)
    exact = inputs.double() @ inputs.double().T
    assert torch.allclose(tangent_kernel(risk, risk.initial).matrix, exact, rtol=1e-14)


def test_a_model_that_calls_otherwise_on_a_later_pass_goes_by_columns() -> None:
    """The survey sees the first samples only; a branch on the data that later samples take must not slip through."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.usual, self.rare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.usual(x)
            return (
                out
                if bool((x[:, 0] < 5).all())
                else out + torch.nn.functional.linear(x, self.usual.weight) * (x[:, :1] >= 5)
            )

    torch.manual_seed(1)
    data = torch.randn(12, 3)
    data[9, 0] = 8.0
    risk = EmpiricalRisk(Branching(), nn.MSELoss(), data, torch.zeros(12, 2), batch_size=4)
    jacobian = torch.cat(
        [
            torch.autograd.grad(y, leaf, retain_graph=True, materialize_grads=True, allow_unused=True)[0].unsqueeze(0)
            for leaf in [risk.initial.clone().requires_grad_()]
            for chunk in risk.chunks(4)
            for y in risk.chunk_outputs(leaf, chunk).flatten()
        ]
    )
    kernel = tangent_kernel(risk, risk.initial)
    assert torch.allclose(kernel.matrix, jacobian @ jacobian.T, rtol=1e-12, atol=1e-12)
    assert {route.block: route.engine for route in kernel.routes}["usual.weight"] == "columns"


def test_nothing_is_left_behind() -> None:
    risk = risk_of("convolutions")
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in risk.model.state_dict().items()}
    tangent_kernel(risk, risk.initial)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in risk.model.state_dict().items())
    assert not any(module._forward_hooks for module in risk.model.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in risk.model.parameters())


def test_an_error_inside_takes_the_hooks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    risk = risk_of("dense")

    def fail(*args: object) -> Tensor:
        raise KeyError("inside")

    monkeypatch.setattr(EmpiricalRisk, "chunk_outputs", fail)
    with pytest.raises(KeyError):
        tangent_kernel(risk, risk.initial)
    assert not any(module._forward_hooks for module in risk.model.modules())


class Quadratics(OutputObjective):
    """Outputs without a torch module: x_n^T theta and its square."""

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self.space = ParameterSpace({"first": (2,), "rest": (data.shape[1] - 2,)})
        self.n_samples, self.n_outputs = len(data), 2

    def chunks(self, samples: int) -> Any:
        for start in range(0, self.n_samples, max(1, samples or self.n_samples)):
            yield self.data[start : start + max(1, samples or self.n_samples)]

    def chunk_outputs(self, theta: Tensor, chunk: Any) -> Tensor:
        line = chunk @ theta
        return torch.stack([line, line**2], dim=1)

    def chunk_loss(self, outputs: Tensor, chunk: Any) -> Tensor:
        return (outputs**2).sum()

    def subset(self, indices: Any) -> Quadratics:
        return Quadratics(self.data[indices])

    def content(self) -> Any:
        return [self.data]


def test_an_objective_without_a_module_in_closed_form() -> None:
    data, theta = normal(5, 4), normal(4, seed=1)
    slopes = torch.stack([torch.ones(5, dtype=torch.float64), 2 * data @ theta], dim=1)
    exact = torch.einsum("nc,md,nm->ncmd", slopes, slopes, data @ data.T).reshape(10, 10)
    kernel = tangent_kernel(Quadratics(data), theta)
    assert torch.allclose(kernel.matrix, exact, rtol=1e-12)
    assert kernel.routes[0].detail == "the objective is not computed by a torch module"


def test_memory_is_refused_before_it_is_taken() -> None:
    risk = risk_of("dense")
    with memory_limit("1MB"), pytest.raises(MemoryLimitError, match="kernel_operator"):
        tangent_kernel(risk, risk.initial)
    torch.manual_seed(0)
    big = EmpiricalRisk(nn.Linear(2, 100), nn.MSELoss(), torch.randn(1000, 2), torch.randn(1000, 100))
    with memory_limit("2GB"), pytest.raises(MemoryLimitError, match="100000 x 100000"):
        tangent_kernel(big, big.initial)


@pytest.mark.parametrize("name", ["dense", "words", "tied words"])
def test_a_tight_limit_makes_more_groups_and_the_same_kernel(name: str) -> None:
    risk = risk_of(name)
    inputs = pytree.tree_map(lambda x: x.repeat(20, *[1] * (x.dim() - 1)), risk.inputs)
    repeated = risk.on(inputs, risk.targets.repeat(20, 1))
    plenty = tangent_kernel(repeated, risk.initial)
    rows = repeated.n_samples * repeated.n_outputs
    limit = 8 * rows**2 + 2 * 64 * 2**20 + 300_000
    with memory_limit(limit):
        scarce = tangent_kernel(repeated, risk.initial)
    assert scarce.predicted_bytes <= limit
    assert torch.allclose(scarce.matrix, plenty.matrix, rtol=1e-12, atol=1e-13)


def test_what_does_not_apply_is_declined() -> None:
    bare = Penalty(ParameterSpace({"x": (2,)}), lambda p: p["x"].sum(), name="line")
    for function in (tangent_kernel, kernel_operator):
        check: Callable[..., object] = function
        with pytest.raises(NotApplicableError, match="tangent kernel"):
            check(bare, normal(2))
    with pytest.raises(InvalidInputError, match="engine must be"):
        tangent_kernel(risk_of("dense"), risk_of("dense").initial, engine="layers")  # type: ignore[arg-type]  # is tested
    with pytest.raises(InvalidInputError, match="one space"):
        tangent_kernel(risk_of("dense"), risk_of("dense").initial, risk_of("words"))
