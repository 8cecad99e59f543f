"""Closed-form derivatives of multilayer perceptrons against automatic differentiation of the user's own module."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.foundation import InvalidInputError, memory_limit
from thalweg.objectives import explain_network
from thalweg.objectives.closed_form import _agrees, closed_form
from thalweg.objectives.perceptron import Perceptron
from thalweg.objectives.risk import SMALL


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perceptron(widths: tuple[int, ...], activations: list[nn.Module | None], *, bias: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(widths))
        for number, (a, b) in enumerate(itertools.pairwise(widths)):
            parts.append(nn.Linear(a, b, bias=bias))
            after = activations[number] if number < len(activations) else None
            parts += [after] if after is not None else []
        return nn.Sequential(*parts).double()


def plain(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian by torch alone, of the loss as the user writes it."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    shapes = [p.shape for p in model.parameters() if p.requires_grad]

    def value(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        named = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return loss(torch.func.functional_call(model, named, (x,)), y)

    gradient = torch.autograd.functional.jacobian(value, theta)
    return gradient, torch.autograd.functional.hessian(value, theta)


def holds_at_every_order(
    risk: tw.EmpiricalRisk, model: nn.Module, loss: Callable[..., Tensor], y: Any, theta: Tensor
) -> None:
    """Value, gradient and Hessian of a risk are those of torch alone, however many are asked for."""
    gradient, hessian = plain(model, loss, risk.inputs, y, theta)
    value = loss(torch.func.functional_call(model, risk.space.unflatten(theta), (risk.inputs,)), y)
    for order in (0, 1, 2):
        found = risk.evaluate(theta, order)
        assert float(found.value) == pytest.approx(float(value), rel=1e-13)
        assert found.gradient is None or agrees(found.gradient, gradient)
        assert found.hessian is None or agrees(found.hessian, hessian)


def agrees(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


class Shifted(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(4 * z) + nn.functional.softplus(z)


class Power(nn.Module):
    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, z: Tensor) -> Tensor:
        return z**self.exponent


class Erf(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.erf(z / 2**0.5)


ACTIVATIONS: list[nn.Module] = [
    nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.GELU(), nn.SiLU(), nn.ReLU(), nn.LeakyReLU(0.1), nn.ELU(), nn.SELU(),
    Power(2), Power(3), Erf(), Shifted(), nn.Identity(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_every_activation_depth_and_bias(activation: nn.Module, depth: int, bias: bool) -> None:
    model = perceptron((3, *(4, 3, 5)[:depth], 2), [activation] * depth, bias=bias)
    x, y = draw(9, 3), draw(9, 2, seed=1)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    assert closed_form(risk) is not None
    theta = risk.initial + 0.3 * draw(risk.space.size, seed=2)
    holds_at_every_order(risk, model, nn.MSELoss(), y, theta)
    other = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, derivatives="autograd")
    assert agrees(risk.jacobian(theta), other.jacobian(theta))


LOSSES: dict[str, tuple[nn.Module, Tensor]] = {
    "sum of squares": (nn.MSELoss(reduction="sum"), draw(8, 3, seed=3)),
    "classes": (nn.CrossEntropyLoss(), torch.arange(8) % 3),
    "weighted, smoothed, ignored": (
        nn.CrossEntropyLoss(torch.tensor([0.2, 1.0, 3.0]).double(), label_smoothing=0.1, ignore_index=1),
        torch.arange(8) % 3,
    ),
    "soft labels": (nn.CrossEntropyLoss(), torch.softmax(draw(8, 3, seed=4), 1)),
    "bits": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5]).double()), torch.rand(8, 3).double()),
    "signs": (nn.SoftMarginLoss(), draw(8, 3, seed=5).sign()),
    "huber": (nn.HuberLoss(delta=0.5), draw(8, 3, seed=6)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("last", [None, nn.Tanh()], ids=["linear", "tanh"])
def test_every_loss(name: str, last: nn.Module | None) -> None:
    loss, y = LOSSES[name]
    model = perceptron((2, 4, 3), [nn.Tanh(), last])
    risk = tw.EmpiricalRisk(model, loss, draw(8, 2), y)
    assert closed_form(risk) is not None
    theta = 2 * draw(risk.space.size, seed=7)
    holds_at_every_order(risk, model, loss, y, theta)
    other = tw.EmpiricalRisk(model, loss, draw(8, 2), y, derivatives="autograd")
    assert agrees(risk.gauss_newton(theta), other.gauss_newton(theta))


ONE_OUTPUT: dict[str, tuple[nn.Module, Tensor]] = {
    "squares": (nn.MSELoss(), draw(8, 1, seed=3)),
    "bits": (nn.BCEWithLogitsLoss(), torch.arange(8).remainder(2).double().unsqueeze(1)),
    "huber": (nn.HuberLoss(delta=0.5), draw(8, 1, seed=6)),
}


@pytest.mark.parametrize("name", ONE_OUTPUT)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_one_hidden_layer_and_one_output(name: str, bias: bool, weighted: bool, batch_size: int | None) -> None:
    loss, y = ONE_OUTPUT[name]
    model, x = perceptron((2, 4, 1), [nn.GELU()], bias=bias), draw(8, 2)
    kept: dict[str, Any] = {"sample_weight": torch.arange(8).double() if weighted else None, "batch_size": batch_size}
    risk = tw.EmpiricalRisk(model, loss, x, y, **kept)
    other = tw.EmpiricalRisk(model, loss, x, y, derivatives="autograd", **kept)
    theta = 2 * draw(5, risk.space.size, seed=7)
    found, expected = risk.evaluate(theta, 2), other.evaluate(theta, 2)
    assert found.gradient is not None
    assert found.hessian is not None
    assert expected.gradient is not None
    assert expected.hessian is not None
    assert torch.equal(found.hessian, found.hessian.mT)
    assert agrees(found.value, expected.value)
    assert agrees(found.gradient, expected.gradient)
    assert agrees(risk.gradient(theta), expected.gradient)
    assert agrees(found.hessian, expected.hessian)
    assert agrees(risk.gauss_newton(theta), other.gauss_newton(theta))
    form = closed_form(risk)
    assert form is not None
    assert form._dense is not None, "the form of one hidden layer was meant"


def test_threads_do_not_share_their_arrays() -> None:
    model = perceptron((2, 6, 1), [nn.Tanh()])
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(300, 2), draw(300, 1, seed=1))
    points = draw(24, 8, risk.space.size, seed=2)
    expected = [risk.hessian(point) for point in points]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(risk.hessian, points))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_sample_weights_subsets_and_terms() -> None:
    model, weights = perceptron((2, 4, 1), [nn.Tanh()]), torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 3.0]).double()
    x, y = draw(6, 2), draw(6, 1, seed=1)
    theta = draw(17, seed=2)
    both = [
        tw.EmpiricalRisk(model, nn.MSELoss(), x, y, sample_weight=weights, derivatives=derivatives)
        for derivatives in ("auto", "autograd")
    ]
    assert agrees(both[0].hessian(theta), both[1].hessian(theta))
    parts = [each.subset([1, 3, 5]) for each in both]
    assert parts[1].derivatives == "autograd"
    assert agrees(parts[0].hessian(theta), parts[1].hessian(theta))
    sums = [each + tw.L2(each, 0.1) for each in both]
    assert agrees(sums[0].hessian(theta), sums[1].hessian(theta))


@pytest.mark.parametrize("classes", [False, True])
def test_parts_of_the_data_add_up_and_weights_are_masks(classes: bool) -> None:
    """Mini-batches of any size add up to the whole; weights of 0 and 1 leave samples out; labels are one-hot rows."""
    x = draw(11, 2)
    labels = torch.arange(11) % 3
    y: Tensor = labels if classes else draw(11, 3, seed=1)
    loss = nn.CrossEntropyLoss(reduction="sum") if classes else nn.MSELoss(reduction="sum")
    model = perceptron((2, 4, 3), [nn.Tanh()])
    whole = tw.EmpiricalRisk(model, loss, x, y)
    theta = draw(3, whole.space.size, seed=2)
    expected = whole.evaluate(theta, 2)
    assert expected.gradient is not None
    assert expected.hessian is not None
    for cuts in ((0, 4, 8, 11), (0, 1, 11), tuple(range(12))):
        parts = [whole.subset(range(a, b)).evaluate(theta, 2) for a, b in itertools.pairwise(cuts)]
        assert agrees(torch.stack([part.value for part in parts]).sum(0), expected.value)
        assert agrees(sum(part.gradient for part in parts), expected.gradient)  # type: ignore[misc, arg-type]
        assert agrees(sum(part.hessian for part in parts), expected.hessian)  # type: ignore[misc, arg-type]
    mask = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0], dtype=torch.float64)
    masked = tw.EmpiricalRisk(model, loss, x, y, sample_weight=mask).evaluate(theta, 2)
    chosen = whole.subset(mask.nonzero().squeeze(1)).evaluate(theta, 2)
    for found, wanted in zip(masked, chosen, strict=True):
        assert found is not None
        assert wanted is not None
        assert agrees(found, wanted)
    if classes:
        rows = tw.EmpiricalRisk(model, loss, x, nn.functional.one_hot(labels, 3).double())
        assert agrees(rows.value(theta), expected.value)
        assert agrees(rows.hessian(theta), expected.hessian)


def test_frozen_tied_and_transposed_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(draw(3, 5))
            self.b = nn.Parameter(draw(5, seed=1))
            self.c = nn.Parameter(draw(3, seed=2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.w + self.b) @ self.w.T + self.c

    x, y = draw(7, 3), draw(7, 3, seed=4)
    model = Tied()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    assert closed_form(risk) is not None
    theta = draw(risk.space.size, seed=5)
    assert agrees(risk.hessian(theta), plain(model, nn.MSELoss(), x, y, theta)[1])
    frozen = perceptron((3, 4, 4, 3), [nn.Tanh(), nn.Tanh()])
    frozen[2].weight.requires_grad_(False)
    risk = tw.EmpiricalRisk(frozen, nn.MSELoss(), x, y)
    assert closed_form(risk) is not None
    theta = draw(risk.space.size, seed=6)
    assert agrees(risk.hessian(theta), plain(frozen, nn.MSELoss(), x, y, theta)[1])


def test_small_networks_are_never_run_once_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: object) -> Tensor:
        raise AssertionError("the module was run")

    x, y = draw(9, 3), draw(9, 1, seed=1)
    for derivatives in ("auto", "autograd"):
        model = perceptron((3, 4, 1), [nn.Tanh()])
        risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, derivatives=derivatives)
        expected = risk.evaluate(risk.initial, 1)
        monkeypatch.setattr(risk, "chunk_outputs", ran)
        monkeypatch.setattr(risk, "chunk_value", ran)
        if derivatives == "auto":
            assert torch.equal(risk.value(risk.initial), expected.value)
            assert torch.equal(risk.gradient(risk.initial), expected.gradient)
        else:
            with pytest.raises(AssertionError, match="the module was run"):
                risk.gradient(risk.initial)


class Gated(nn.Module):
    """A perceptron while its last weights are small."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(h) if float(self.b.weight.detach().norm()) < 20 else 0.5 * self.b(h)


def test_a_network_that_changes_with_its_weights_is_never_taken_for_a_perceptron() -> None:
    x, y = draw(9, 3), draw(9, 1, seed=1)
    model = Gated().double()
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    risk.value(risk.initial)
    theta = 100 * draw(risk.space.size, seed=3)
    with torch.no_grad():
        expected = nn.functional.mse_loss(torch.func.functional_call(model, risk.space.unflatten(theta), (x,)), y)
    assert float(risk.value(theta)) == pytest.approx(float(expected), rel=1e-12)


class Clamp(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.clamp(min=0)  # torch gives it another slope at zero than to a ReLU


def test_slopes_at_a_kink_are_those_of_the_module() -> None:
    x, y = draw(5, 2), draw(5, 1, seed=1)
    for activation in (Clamp(), nn.ReLU()):
        model = perceptron((2, 3, 1), [activation], bias=False)
        risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
        theta = draw(risk.space.size, seed=2)
        theta[:2] = 0.0  # a unit at its kink for every sample
        gradient, _ = plain(model, nn.MSELoss(), x, y, theta)
        assert agrees(risk.gradient(theta), gradient)


def test_a_frozen_body_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices over all weights, frozen ones too, would be a hundred times those asked for."""
    model = perceptron((40, 50, 1), [nn.Tanh()])
    x, y = draw(6, 40), draw(6, 1, seed=1)
    head = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, parameters="2.*")
    slow = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, parameters="2.*", derivatives="autograd")
    assert head.space.size == 51
    form = closed_form(head)
    assert form is not None
    assert not form.is_lean(1)

    def formed(*_: object) -> Tensor:
        raise AssertionError("a matrix over all 2,101 weights was made, 35 MB")

    monkeypatch.setattr(Perceptron, "_blank", formed)
    with memory_limit("1MB"):
        assert agrees(head.hessian(head.initial), slow.hessian(head.initial))
        assert agrees(head.gauss_newton(head.initial), slow.gauss_newton(head.initial))


class Pretender:
    """Outputs of the module, but for parameters that are large; or none at all where the module has some."""

    def __init__(self, risk: tw.EmpiricalRisk, wrong: float, beyond: float) -> None:
        self.risk, self.wrong, self.beyond = risk, wrong, beyond

    def outputs(self, theta: Tensor) -> Tensor:
        return self.risk.outputs(theta) + (self.wrong if float(theta.abs().max()) > self.beyond else 0.0)


def test_a_form_that_is_wrong_anywhere_it_is_tried_is_not_taken() -> None:
    model = perceptron((3, 4, 1), [nn.Tanh()])
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(9, 3), draw(9, 1, seed=1))
    assert _agrees(risk, Pretender(risk, 0.0, 0.0))  # type: ignore[arg-type]
    for beyond in (0.0, 2.0, 10.0):  # everywhere; from moderate weights on; for large ones only
        assert not _agrees(risk, Pretender(risk, 1e-2, beyond))  # type: ignore[arg-type]
        assert not _agrees(risk, Pretender(risk, float("nan"), beyond))  # type: ignore[arg-type]


def test_a_large_network_takes_values_by_its_module() -> None:
    """A trace would gain nothing there: its passes are products of matrices anyway."""
    model = perceptron((100, 200, 10), [nn.Tanh()])
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(4, 100), draw(4, 10, seed=1))
    assert risk.space.size > SMALL
    risk.gradient(risk.initial)
    assert "trace_report" not in vars(risk)


def test_a_subset_is_not_traced_again() -> None:
    model = perceptron((3, 4, 1), [nn.Tanh()])
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(9, 3), draw(9, 1, seed=1))
    risk.value(risk.initial)
    one = risk.subset([4])
    assert one.trace_report is risk.trace_report
    theta = draw(risk.space.size, seed=2)
    alone = tw.EmpiricalRisk(model, nn.MSELoss(), draw(9, 3)[4:5], draw(9, 1, seed=1)[4:5], derivatives="autograd")
    assert agrees(one.gradient(theta), alone.gradient(theta))
    assert agrees(one.hessian(theta), alone.hessian(theta))


def test_batches_and_chunks_are_single_points_and_the_whole() -> None:
    model = perceptron((3, 6, 4, 2), [nn.Tanh(), nn.GELU()])
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), draw(500, 3), draw(500, 2, seed=1))
    thetas = draw(2, 3, risk.space.size, seed=2)
    whole = risk.hessian(thetas)
    assert whole.shape == (2, 3, risk.space.size, risk.space.size)
    assert torch.equal(whole, whole.mT)
    for row, hessian in zip(thetas.flatten(0, 1), whole.flatten(0, 1), strict=True):
        assert agrees(risk.hessian(row), hessian, 1e-13)
    with memory_limit("2MiB"):
        assert agrees(risk.hessian(thetas[0, 0]), whole[0, 0], 1e-13)
        assert agrees(risk.gauss_newton(thetas[0, 0]), risk.gauss_newton(thetas)[0, 0], 1e-13)
    limited = tw.EmpiricalRisk(model, nn.MSELoss(), draw(500, 3), draw(500, 2, seed=1), batch_size=7)
    found, theta = limited.evaluate(thetas, 2), thetas[0, 0]
    assert agrees(found.hessian, whole, 1e-13)
    assert agrees(found.gradient, risk.gradient(thetas), 1e-13)
    assert agrees(found.value, risk.value(thetas), 1e-13)
    assert agrees(limited.gauss_newton(theta), risk.gauss_newton(theta), 1e-13)


def test_a_loss_is_right_for_every_number_of_samples() -> None:
    model = perceptron((2, 4, 1), [nn.Softplus()])
    theta = draw(17, seed=1)
    for n in range(60, 81):
        x, y = draw(n, 2, seed=n), draw(n, 1, seed=n + 1)
        risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
        named = risk.space.unflatten(theta)
        expected = sum((torch.func.functional_call(model, named, (x[i : i + 1],)) - y[i]) ** 2 for i in range(n)) / n
        assert float(risk.evaluate(theta, 2).value) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("name", ["bits", "signs", "classes"])
def test_values_of_large_outputs_keep_all_digits(name: str) -> None:
    loss, y = LOSSES[name]
    risk = tw.EmpiricalRisk(perceptron((2, 4, 3), [nn.Tanh()]), loss, draw(8, 2), y)
    theta = 30 * draw(risk.space.size, seed=9)
    assert 25 < float(risk.outputs(theta).abs().max()) < 500
    module = tw.EmpiricalRisk(perceptron((2, 4, 3), [nn.Tanh()]), loss, draw(8, 2), y, derivatives="autograd")
    for order in (0, 1, 2):
        assert float(risk.evaluate(theta, order).value) == pytest.approx(float(module.value(theta)), rel=1e-14)


def test_a_network_that_does_something_else_with_many_samples() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x) if len(x) <= 4 else torch.tanh(self.map(x))

    model, x, y = Sized().double(), draw(12, 3), draw(12, 2, seed=1)
    risk = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, batch_size=12)
    assert closed_form(risk) is None
    theta = risk.initial
    assert agrees(risk.hessian(theta), plain(model, nn.MSELoss(), x, y, theta)[1])


def test_a_risk_is_forgotten_with_its_closed_form() -> None:
    risk = tw.EmpiricalRisk(perceptron((2, 4, 1), [nn.Tanh()]), nn.HuberLoss(), draw(6, 2), draw(6, 1, seed=1))
    again = copy.deepcopy(risk)
    assert torch.equal(risk.hessian(risk.initial), again.hessian(again.initial))
    assert torch.equal(copy.copy(risk).hessian(risk.initial), risk.hessian(risk.initial))
    gone = weakref.ref(risk)
    del risk
    gc.collect()
    assert gone() is None


def test_single_precision() -> None:
    model = perceptron((2, 5, 1), [nn.Tanh()]).float()
    x, y = draw(20, 2).float(), draw(20, 1, seed=1).float()
    single = tw.EmpiricalRisk(model, nn.MSELoss(), x, y, dtype=torch.float32)
    double = tw.EmpiricalRisk(model, nn.MSELoss(), x, y)
    hessian = single.hessian(single.initial)
    assert hessian.dtype == torch.float32
    assert agrees(hessian.double(), double.hessian(double.initial), 1e-5)


def test_a_hessian_leaves_the_structure_as_it_is() -> None:
    """Kernels that are opened for derivatives are no part of the network."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(torch.tanh(self.words(words)))

    words, labels = torch.arange(24).reshape(8, 3) % 9, torch.arange(8) % 2
    risk = tw.EmpiricalRisk(Bag().double(), nn.CrossEntropyLoss(), words, labels)
    risk.hessian(risk.initial)
    structure = explain_network(risk).structure
    assert structure is not None
    found = structure.outputs_at(risk.initial, words)[0]  # more samples than it was traced with
    assert torch.allclose(found, risk.outputs(risk.initial))


def test_other_networks_go_by_autograd() -> None:
    convolution = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 1)).double()
    risk = tw.EmpiricalRisk(convolution, nn.MSELoss(), draw(4, 1, 5), draw(4, 1, seed=1))
    assert closed_form(risk) is None
    theta = risk.initial
    assert agrees(risk.hessian(theta), plain(convolution, nn.MSELoss(), draw(4, 1, 5), draw(4, 1, seed=1), theta)[1])
    positions = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    rows = tw.EmpiricalRisk(positions, nn.MSELoss(), draw(4, 5, 3), draw(4, 5, 1, seed=1))
    assert closed_form(rows) is None
    with pytest.raises(InvalidInputError, match="'auto' or 'autograd'"):
        tw.EmpiricalRisk(positions, nn.MSELoss(), draw(4, 5, 3), draw(4, 5, 1, seed=1), derivatives="fast")
