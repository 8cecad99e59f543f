"""Every route to a derivative gives the same numbers, whether a model needs it or it is forced."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from plain_torch import PlainRun
from torch import Tensor, nn

from thalweg.foundation import NotApplicableError, UnsupportedModelError, memory_limit
from thalweg.objectives import DerivativePath, EmpiricalRisk


def risk_of(model: nn.Module, loss: Any = None, batch_size: int | None = None, **settings: Any) -> EmpiricalRisk:
    x, y = data()
    return EmpiricalRisk(model, loss or nn.MSELoss(), x, y, batch_size=batch_size, **settings)


def data() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(9, 3, generator=source), torch.randn(9, 2, generator=source)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def points(risk: EmpiricalRisk, count: int) -> Tensor:
    noise = torch.randn(count, risk.space.size, generator=torch.Generator().manual_seed(3), dtype=risk.dtype)
    return risk.initial + 0.2 * noise


FORCED = [
    DerivativePath(batch, second, forward, columns, samples, keep)  # type: ignore[arg-type]
    for batch, second, columns, samples, keep, forward in itertools.chain(
        itertools.product(("vmap", "loop"), ("double-backward", "jvp"), ("vmap", "loop"), ("vmap",), (False,), (True,)),
        [
            ("vmap", "double-backward", "vmap", "loop", True, True),
            ("loop", "double-backward", "vmap", "loop", True, False),
            ("vmap", "double-backward", "loop", "vmap", True, False),
        ],
    )
]


@functools.cache
def plainly() -> list[tuple[Tensor, ...]]:
    """Value, gradient, Hessian, Jacobian and Gauss-Newton matrix at two points, by plain PyTorch."""
    plain = PlainRun(network(), nn.MSELoss(), *data())
    found = []
    for theta in points(risk_of(network()), 2):
        jacobian = plain.jacobian(theta)
        curvature = jacobian.T @ plain.loss_curvature(theta) @ jacobian
        found.append((plain.value(theta), plain.gradient(theta), plain.hessian(theta), jacobian, curvature))
    return found


@pytest.mark.parametrize("path", FORCED, ids=lambda p: f"{p.describe()}, forward: {p.forward}, keep: {p.keep}")
@pytest.mark.parametrize("batch_size", [None, 4])
def test_every_route_gives_what_plain_torch_gives(path: DerivativePath, batch_size: int | None) -> None:
    risk = risk_of(network(), batch_size=batch_size)
    risk.path = path
    thetas, vectors = points(risk, 2), points(risk, 2).flip(0)
    found = risk.evaluate(thetas, order=2)
    products = risk.hessian_product(thetas, vectors)
    assert found.gradient is not None
    assert found.hessian is not None
    for i, theta in enumerate(thetas):
        exact = {"rtol": 1e-9, "atol": 1e-10}
        value, gradient, hessian, jacobian, curvature = plainly()[i]
        torch.testing.assert_close(found.value[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.gradient[i], gradient, **exact)
        torch.testing.assert_close(found.hessian[i], hessian, **exact)
        torch.testing.assert_close(products[i], hessian @ vectors[i], **exact)
        torch.testing.assert_close(risk.hessian_operator(theta).dense(), hessian, **exact)
        torch.testing.assert_close(risk.jacobian(theta), jacobian, **exact)
        torch.testing.assert_close(risk.gauss_newton(theta), curvature, **exact)
        torch.testing.assert_close(risk.gauss_newton_operator(theta).dense(), curvature, **exact)
        operator = risk.jacobian_operator(theta)
        torch.testing.assert_close(operator @ vectors.T, jacobian @ vectors.T, **exact)
        torch.testing.assert_close(operator.transpose_matmul(jacobian), jacobian.T @ jacobian, **exact)
        torch.testing.assert_close(risk.sample_gradients(theta).sum(0), gradient, **exact)


@pytest.mark.parametrize("path", FORCED, ids=lambda p: p.describe())
def test_a_small_limit_changes_nothing_but_the_pieces(path: DerivativePath) -> None:
    risk = risk_of(network())
    thetas = points(risk, 4)
    whole = risk.evaluate(thetas, order=2)
    products = risk.hessian_product(thetas, thetas)
    gauss_newton = risk.gauss_newton(thetas)
    outputs, slopes = risk.outputs(thetas), risk.output_gradient(thetas)
    risk.path = path
    needed = 2 * 4 * risk.space.size**2 * 8  # what the four Hessians themselves take
    with memory_limit(needed):
        cut = risk.evaluate(thetas, order=2)
        for a, b in zip(whole, cut, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(risk.hessian_product(thetas, thetas), products, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(risk.gauss_newton(thetas), gauss_newton, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(risk.outputs(thetas), outputs, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(risk.output_gradient(thetas), slopes, rtol=1e-11, atol=1e-13)


def test_one_parameter_vector_and_none_at_all_and_deep_batches() -> None:
    risk = risk_of(network())
    size, thetas = risk.space.size, points(risk, 6)
    for shape in ((0,), (2, 0), (1,), (1, 1), (2, 3)):
        theta = thetas[: torch.Size(shape).numel()].reshape(*shape, size)
        found = risk.evaluate(theta, order=2)
        assert found.value.shape == shape
        assert found.gradient is not None
        assert found.hessian is not None
        assert found.gradient.shape == (*shape, size)
        assert found.hessian.shape == (*shape, size, size)
        assert risk.hessian_product(theta, theta).shape == (*shape, size)
        assert risk.outputs(theta).shape == (*shape, 9, 2)
        assert risk.output_gradient(theta).shape == (*shape, 9, 2)
        assert risk.output_hessian(theta).shape == (*shape, 9, 2, 2)
        assert risk.sample_values(theta).shape == (*shape, 9)
        assert risk.sample_gradients(theta).shape == (*shape, 9, size)
        assert risk.jacobian(theta).shape == (*shape, 18, size)
        assert risk.gauss_newton(theta).shape == (*shape, size, size)
        assert risk.kink_margin(theta).shape == shape
    torch.testing.assert_close(
        risk.gradient(thetas.reshape(2, 3, size)).reshape(6, size), torch.stack([risk.gradient(t) for t in thetas])
    )


# -- models that need a route ------------------------------------------------------------------------------------------


class Sine(torch.autograd.Function):
    """A user's own function, in the style that torch's transforms understand, with forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sin(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return SineSlope.apply(slope, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * torch.cos(ctx.saved_tensors[0])


class SineSlope(torch.autograd.Function):
    """Its gradient: with a forward mode, but without a gradient of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slope: Tensor, x: Tensor) -> Tensor:
        return slope * torch.cos(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("nobody wrote the second derivative")

    @staticmethod
    def jvp(ctx: Any, of_slope: Tensor, of_x: Tensor) -> Tensor:
        slope, x = ctx.saved_tensors
        return of_slope * torch.cos(x) - slope * torch.sin(x) * of_x


class OfFunction(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def sine(x: Tensor) -> Tensor:
    return Sine.apply(x)


def test_forward_over_reverse_where_double_backward_does_not_exist() -> None:
    model = OfFunction(sine)
    risk = risk_of(model)
    assert risk.path.second == "jvp", risk.path.notes
    assert not risk.path.keep
    assert any("nobody wrote the second derivative" in note for note in risk.path.notes)
    twin = risk_of(with_weights_of(model, OfFunction(torch.sin)))
    thetas = points(risk, 3)
    for theirs, ours in zip(twin.evaluate(thetas, 2), risk.evaluate(thetas, 2), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(risk.hessian_product(thetas, thetas), twin.hessian_product(thetas, thetas))
    operator = risk.hessian_operator(thetas[0])
    torch.testing.assert_close(operator.dense(), twin.hessian(thetas[0]))
    torch.testing.assert_close(risk.gauss_newton_operator(thetas[0]).dense(), twin.gauss_newton(thetas[0]))
    with pytest.raises(NotApplicableError, match=r"cannot be kept here .*double backward fails.*use keep=False"):
        risk.hessian_operator(thetas[0], keep=True)
    with pytest.raises(NotApplicableError, match="outputs cannot be kept here"):
        risk.gauss_newton_operator(thetas[0], keep=True)


def with_weights_of(model: nn.Module, other: nn.Module) -> nn.Module:
    other.load_state_dict(model.state_dict())
    return other


class Flat(torch.autograd.Function):
    """A straight-through estimator: its gradient is not the derivative of what it computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope


def straight_through(x: Tensor) -> Tensor:
    return Flat.apply(x)


def test_a_gradient_that_is_none_has_no_hessian() -> None:
    risk = risk_of(OfFunction(straight_through))
    assert risk.path.second == "none"
    with pytest.raises(NotApplicableError, match=r"no Hessian: .*the Hessian is not the derivative of the gradient"):
        risk.hessian(risk.initial)
    with pytest.raises(NotApplicableError, match="no Hessian"):
        risk.hessian_operator(risk.initial)
    with pytest.raises(NotApplicableError, match="no Hessian"):
        risk.hessian_product(risk.initial, risk.initial)


class Once(torch.autograd.Function):
    """Differentiable once: torch lets the second derivative pass, as zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * 3 * ctx.saved_tensors[0] ** 2


class Cubes(nn.Module):
    """Each output has a parameter of its own, so that a Hessian without its diagonal would still be symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(self.weight) * torch.ones_like(x[:, :2])


class CubesOfLayer(OfFunction):
    def __init__(self) -> None:
        super().__init__(Once.apply)


def test_a_false_second_derivative_is_found_out_next_to_kinks_too() -> None:
    """Differences of gradients say nothing across kinks; that the Hessian is not symmetric says enough."""
    risk = risk_of(CubesOfLayer(), nn.HuberLoss(delta=0.1))
    assert not risk.kinks(risk.initial).smooth
    assert risk.path.second == "none"
    with pytest.raises(NotApplicableError, match="the Hessian is not symmetric"):
        risk.hessian(risk.initial)


def sum_of_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum()


def test_a_second_derivative_that_torch_silently_takes_for_zero_is_found_out() -> None:
    risk = risk_of(Cubes(), sum_of_outputs, reduction="sum")
    torch.testing.assert_close(risk.gradient(risk.initial), 9 * 3 * risk.initial**2)
    with pytest.raises(NotApplicableError, match="not the derivative of the gradient"):
        risk.hessian(risk.initial)


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        raise ValueError("this backward was never finished")


def broken(x: Tensor) -> Tensor:
    return Broken.apply(x)


def test_a_model_without_a_gradient_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be differentiated: this backward was never finished"):
        risk_of(OfFunction(broken))


def test_recurrent_layers_go_one_parameter_vector_after_another() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(1, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.unsqueeze(-1))[0][:, -1])

    model = Recurrent()
    risk = risk_of(model)
    assert (risk.path.batch, risk.path.samples) == ("loop", "loop")
    plain = PlainRun(model, nn.MSELoss(), *data())
    thetas = points(risk, 2)
    torch.testing.assert_close(risk.hessian(thetas)[1], plain.hessian(thetas[1]), rtol=1e-9, atol=1e-10)


def test_group_norm_takes_columns_one_by_one() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 1, bias=False), nn.GroupNorm(2, 4), nn.Flatten())
    model.append(nn.Linear(12, 2))
    risk = risk_of(model)
    plain = PlainRun(model, nn.MSELoss(), *data())
    theta = points(risk, 1)[0]
    torch.testing.assert_close(risk.hessian(theta), plain.hessian(theta), rtol=1e-9, atol=1e-10)


def test_a_linear_function_has_a_hessian_of_zeros() -> None:
    risk = EmpiricalRisk(nn.Linear(3, 2), sum_of_outputs, *data(), reduction="sum")
    theta = points(risk, 2)
    assert risk.path.second == "double-backward"
    assert torch.equal(risk.hessian(theta), torch.zeros(2, 8, 8, dtype=torch.float64))
    assert torch.equal(risk.hessian_operator(theta[0]).dense(), torch.zeros(8, 8, dtype=torch.float64))
    assert torch.equal(risk.gauss_newton(theta), torch.zeros(2, 8, 8, dtype=torch.float64))


def test_a_constant_function_has_derivatives_of_zeros() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2].clone()

    risk = risk_of(Constant())
    theta = points(risk, 2)
    assert not risk.gradient(theta).any()
    assert not risk.hessian(theta).any()
    assert not risk.hessian_operator(theta[0]).dense().any()
    assert not risk.jacobian(theta).any()
    assert not risk.jacobian_operator(theta[0]).dense().any()
    assert not risk.gauss_newton_operator(theta[0]).dense().any()
    assert not risk.sample_gradients(theta).any()
