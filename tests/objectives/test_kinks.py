"""Kinks are found in what a forward pass computes, and their margins are distances one can check by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from channel_cases import Field, planted
from torch import Tensor, nn

from thalweg.foundation import ParameterSpace
from thalweg.objectives import L2, EmpiricalRisk, KinkReport, Penalty, seamless

SPACE = ParameterSpace({"x": (2, 3)})


def report(function: Callable[[Tensor], Tensor], x: Tensor) -> KinkReport:
    """Kinks of a function of the parameters alone."""
    return Penalty(SPACE, lambda p: function(p["x"]).sum(), "test").kinks(x.reshape(-1).double())


X = torch.tensor([[0.7, -1.3, 2.2], [-0.4, 3.6, -2.9]], dtype=torch.float64)


BOUNDS = torch.tensor([[0.5], [3.5]], dtype=torch.float64)
OTHER = torch.tensor([[1.0, -1.0, 2.0], [0.0, 3.0, -3.0]], dtype=torch.float64)

ELEMENTARY: dict[str, tuple[Callable[[Tensor], Tensor], float, int]] = {
    "relu": (F.relu, 0.4, 1),
    "relu module": (nn.ReLU(), 0.4, 1),
    "relu in place": (lambda x: F.relu_(x * 2) / 2, 0.8, 1),
    "relu6": (lambda x: F.relu6(2 * x), 0.8, 1),
    "leaky": (F.leaky_relu, 0.4, 1),
    "leaky in place": (lambda x: F.leaky_relu_(1 * x), 0.4, 1),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.2], dtype=torch.float64)), 0.4, 1),
    "rrelu": (F.rrelu, 0.4, 1),
    "threshold": (lambda x: F.threshold(x, 0.6, 0.0), 0.1, 1),
    "hardtanh": (F.hardtanh, 0.3, 1),
    "hardtanh bounds": (lambda x: F.hardtanh(x, -2.0, 3.5), 0.1, 1),
    "hardsigmoid": (F.hardsigmoid, 0.1, 1),
    "hardswish": (F.hardswish, 0.1, 1),
    "hardshrink": (F.hardshrink, 0.1, 1),
    "softshrink": (lambda x: F.softshrink(x, 0.6), 0.1, 1),
    "elu": (F.elu, 0.4, 2),
    "elu alpha": (lambda x: F.elu(x, 0.7), 0.4, 1),
    "selu": (F.selu, 0.4, 1),
    "celu": (lambda x: F.celu(x, 1.3), 0.4, 2),
    "abs": (torch.abs, 0.4, 1),
    "sign": (torch.sign, 0.4, 1),
    "round": (torch.round, 0.1, 1),
    "round decimals": (lambda x: torch.round(x * 0.97, decimals=1), 0.011, 1),
    "floor": (torch.floor, 0.1, 1),
    "ceil": (torch.ceil, 0.1, 1),
    "trunc": (torch.trunc, 0.1, 1),
    "frac": (torch.frac, 0.1, 1),
    "remainder": (lambda x: torch.remainder(x, 2.0), 0.2, 1),
    "fmod": (lambda x: torch.fmod(x, 2.0), 0.2, 1),
    "floor divide": (lambda x: torch.floor_divide(x, 2.0), 0.1, 1),
    "rounded division": (lambda x: torch.div(x, 2.0, rounding_mode="trunc"), 0.1, 1),
    "clamp": (lambda x: x.clamp(-1, 2), 0.2, 1),
    "clamp below": (lambda x: x.clamp(min=0.6), 0.1, 1),
    "clamp above": (lambda x: x.clamp(max=0.6), 0.1, 1),
    "clamp tensors": (lambda x: x.clamp(BOUNDS - 1, BOUNDS), 0.1, 1),
    "clip in place": (lambda x: (1 * x).clip_(-1, 2), 0.2, 1),
    "maximum": (lambda x: torch.maximum(x, OTHER), 0.1, 1),
    "minimum of constants": (lambda x: torch.minimum(OTHER, x), 0.1, 1),
    "max of two": (lambda x: torch.max(x, OTHER), 0.1, 1),
    "fmin": (lambda x: torch.fmin(x, OTHER), 0.1, 1),
    "where": (lambda x: torch.where(x > 0.6, x, 0.0), 0.1, 1),
    "where the other way": (lambda x: torch.where(x <= 0.6, x, x**2), 0.1, 1),
    "mask": (lambda x: x * (x < 2.0), 0.2, 1),
    "cast": (lambda x: x * x.int(), 0.1, 1),
    "truth": (lambda x: x * x.bool(), 0.4, 1),
    "bucketize": (lambda x: x * torch.bucketize(x, torch.tensor([0.6, 1.0], dtype=torch.float64)), 0.1, 1),
    "l1 loss": (lambda x: F.l1_loss(x, OTHER), 0.1, 1),
    "huber": (lambda x: F.huber_loss(x, OTHER, delta=0.35), 0.05, 2),
    "huber reversed": (lambda x: F.huber_loss(OTHER, x, delta=0.35), 0.05, 2),
    "smooth l1": (lambda x: F.smooth_l1_loss(x, OTHER, beta=0.5, reduction="sum"), 0.1, 2),
    "hinge": (lambda x: F.hinge_embedding_loss(x, -torch.ones_like(x), margin=0.6), 0.1, 1),
    "multi margin": (lambda x: F.multi_margin_loss(x, torch.tensor([0, 1]), margin=1.6), 0.4, 1),
    "multi margin squared": (lambda x: F.multi_margin_loss(x, torch.tensor([0, 1]), p=2, margin=1.6), 0.4, 2),
    "multi label margin": (
        lambda x: F.multilabel_margin_loss(x, torch.tensor([[0, -1, 1], [1, 0, -1]])),
        1.0,
        1,
    ),
    "largest": (lambda x: x.max(-1).values, 1.5, 1),
    "largest of all": (torch.max, 1.4, 1),
    "smallest": (lambda x: x.min(0).values, 0.7 + 0.4, 1),
    "amax": (lambda x: x.amax((0, 1)), 1.4, 1),
    "amin": (lambda x: x.amin(-1), 2.0, 1),
    "argmax": (lambda x: x * x.argmax(-1, keepdim=True), 1.5, 1),
    "sort": (lambda x: x.sort(-1).values * torch.arange(3), 1.5, 1),
    "stable sort": (lambda x: x.sort(dim=-1, stable=True).values * torch.arange(3), 1.5, 1),
    "topk": (lambda x: x.topk(1).values, 1.5, 1),
    "median": (lambda x: x.median(-1).values, 1.5, 1),
    "kthvalue": (lambda x: x.kthvalue(2).values, 1.5, 1),
    "cummax": (lambda x: x.cummax(-1).values, 1.5, 1),
    "infinity norm": (lambda x: torch.linalg.vector_norm(x, math.inf, dim=-1), 0.7, 1),
    "norm": (lambda x: x.norm(dim=1), float(X.norm(dim=1).min()), 1),
    "one-norm": (lambda x: torch.linalg.vector_norm(x, 1), 0.4, 1),
    "normalised": (lambda x: F.normalize(x, dim=1), float(X.norm(dim=1).min()), 1),
    "pairwise distances": (lambda x: torch.cdist(x, OTHER), float(torch.cdist(X, OTHER).min()), 1),
    "triplet": (
        lambda x: F.triplet_margin_loss(x, OTHER, -OTHER, margin=1.0),
        min(
            float((X - OTHER + 1e-6).norm(dim=1).min()),
            float((X + OTHER + 1e-6).norm(dim=1).min()),
            float((1 + (X - OTHER + 1e-6).norm(dim=1) - (X + OTHER + 1e-6).norm(dim=1)).abs().min()),
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", ELEMENTARY)
def test_margin_and_order_of_elementary_operations(name: str) -> None:
    function, margin, order = ELEMENTARY[name]
    found = report(function, X)
    assert not found.smooth
    assert found.margin == pytest.approx(margin, rel=1e-9)
    assert found.order == order
    assert not found.branches


@pytest.mark.parametrize("name", [n for n, (_, _, order) in ELEMENTARY.items() if order == 1])
def test_within_the_margin_a_line_is_smooth(name: str) -> None:
    """No argument moves further than the margin: then the third differences along a line vanish with the step."""
    function, margin, _ = ELEMENTARY[name]
    direction = torch.tensor([[1.0, -0.7, 0.3], [0.9, 1.0, -0.8]], dtype=torch.float64)

    def along(t: float) -> float:
        return float(function(X + t * direction).sum())

    reach = 0.05 * margin
    for start in (-8, -4, 0, 4):
        ends = [along((start + k) * reach) for k in range(5)]
        fourth = ends[0] - 4 * ends[1] + 6 * ends[2] - 4 * ends[3] + ends[4]
        assert abs(fourth) < 1e-2 * reach


def _fresh(freed: Tensor) -> Tensor:
    """Absolute values of data that lie where results depending on theta have just been freed."""
    del freed
    return (torch.zeros(2, 3, dtype=torch.float64) + 1).abs() + (torch.zeros((), dtype=torch.float64) + 1).abs()


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1) ** 2,
    "log-softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "layer norm": lambda x: F.layer_norm(x, (3,)),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double()),
    "group norm": lambda x: F.group_norm(x.reshape(1, 2, 3), 2),
    "variance": lambda x: x.var(-1),
    "cross entropy": lambda x: F.cross_entropy(x, torch.tensor([0, 2]), label_smoothing=0.1),
    "binary cross entropy": lambda x: F.binary_cross_entropy_with_logits(x, (OTHER > 0).double()),
    "binary cross entropy of probabilities": lambda x: F.binary_cross_entropy(x.sigmoid(), (OTHER > 0).double()),
    "soft margin": lambda x: F.soft_margin_loss(x, OTHER.sign()),
    "poisson": lambda x: F.poisson_nll_loss(x, OTHER.abs()),
    "mse": lambda x: F.mse_loss(x, OTHER),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "determinant": lambda x: torch.linalg.det(x @ x.T),
    "casts between floats": lambda x: x.float().double(),
    "leaky with slope one": lambda x: F.leaky_relu(x, 1.0),
    "power": lambda x: (x**2 + 1) ** 1.5,
    "data compared": lambda x: x * (OTHER > 0) * OTHER.abs().clamp(min=1).sort().values.max(),
    "data branched": lambda x: x * 2 if bool((OTHER > 0).any()) else x,
    "indices": lambda x: x[OTHER > 0] * x[torch.tensor([0]), torch.tensor([1])],
    "memory used again": lambda x: sum((x * 2 + 0 * _fresh((x * 3).sum())).sum() for _ in range(30)),
    "dropout out of training": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_have_no_kinks(name: str) -> None:
    found = report(SMOOTH[name], X)
    assert found.smooth, found.describe()
    assert found.margin == math.inf
    assert found.order == 0
    assert found.describe() == "no kinks"


@pytest.mark.parametrize(
    "branch",
    [
        lambda x: x * 2 if bool((x > 0).any()) else x,
        lambda x: x * 2 if x.sum() > 0 else x,
        lambda x: x * float(x.sum()),
        lambda x: x * x.max().item(),
        lambda x: x * 2 if torch.equal(x, X) else x,
        lambda x: x * (x.tolist()[0][0] > 0),
    ],
)
def test_numbers_read_out_of_the_computation_are_flagged(branch: Callable[[Tensor], Tensor]) -> None:
    found = report(branch, X)
    assert found.branches
    assert not found.smooth
    assert "data-dependent branch" in found.describe()


# -- pooling -----------------------------------------------------------------------------------------------------------


POOLS = [
    (kernel, stride, padding, dilation, ceil)
    for kernel, stride, padding, dilation, ceil in itertools.product((2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True))
    if 2 * padding <= kernel
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "ceil"), POOLS)
def test_pooling_windows(kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> None:
    source = torch.Generator().manual_seed(kernel + 10 * stride + 100 * padding + 1000 * dilation)
    image = torch.randn(2, 1, 7, 6, generator=source, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)

    count = run(image).shape[-2:]
    gaps = []
    for plane in image[:, 0]:
        for i, j in itertools.product(range(count[0]), range(count[1])):
            rows = [i * stride - padding + dilation * k for k in range(kernel)]
            columns = [j * stride - padding + dilation * k for k in range(kernel)]
            inside = [float(plane[r, c]) for r in rows for c in columns if 0 <= r < 7 and 0 <= c < 6]
            top = sorted(inside, reverse=True)
            assert top[0] == float(run(plane[None, None])[0, 0, i, j])  # the windows are those of torch
            if len(top) > 1:
                gaps.append(top[0] - top[1])
    space = ParameterSpace({"x": (2, 1, 7, 6)})
    found = Penalty(space, lambda p: run(p["x"]).sum(), "pool").kinks(image.reshape(-1))
    assert found.margin == pytest.approx(min(gaps), rel=1e-12)
    assert found.operations == {"max_pool2d_with_indices": 2 * count[0] * count[1]}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("adaptive", [False, True])
def test_pooling_in_any_dimension(dimensions: int, adaptive: bool) -> None:
    shape = (2, 1, *(5, 4, 6)[:dimensions])
    image = torch.randn(shape, generator=torch.Generator().manual_seed(dimensions), dtype=torch.float64)
    name = f"adaptive_max_pool{dimensions}d" if adaptive else f"max_pool{dimensions}d"
    run = lambda x: getattr(F, name)(x, 2)  # noqa: E731
    found = Penalty(ParameterSpace({"x": shape}), lambda p: run(p["x"]).sum(), "pool").kinks(image.reshape(-1))
    assert not found.smooth
    # move two entries closer by less than the margin: the places of the maxima stay; by a bit more than it: one changes
    _, before = getattr(F, name)(image, 2, return_indices=True)
    changed = []
    for factor in (0.499, 0.501):
        worst = False
        for i, j in itertools.permutations(range(image[0].numel()), 2):
            moved = image.clone()
            moved.view(2, -1)[:, i] += factor * found.margin
            moved.view(2, -1)[:, j] -= factor * found.margin
            worst = worst or not torch.equal(getattr(F, name)(moved, 2, return_indices=True)[1], before)
        changed.append(worst)
    assert changed == [False, True]


# -- networks ----------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


def risk_of(model: nn.Module, loss: Any = None, **settings: Any) -> EmpiricalRisk:
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 2, generator=source), torch.randn(12, 1, generator=source)
    return EmpiricalRisk(model, loss or nn.MSELoss(), x, y, **settings)


def test_a_network_s_margin_is_that_of_its_pre_activations() -> None:
    torch.manual_seed(3)
    model = Functional()
    risk = risk_of(model)
    weight, bias = (p.detach().double() for p in model.first.parameters())
    wanted = float((risk.inputs @ weight.T + bias).abs().min())
    found = risk.kinks(risk.initial)
    assert found.margin == pytest.approx(wanted, rel=1e-12)
    assert found.operations == {"relu": 48}
    assert found.describe() == f"relu (48 arguments, corner); nearest argument at distance {wanted:.2g}"
    both = risk_of(model, nn.HuberLoss(delta=0.4))
    residual = float(((both.outputs(both.initial)[:, 0] - both.targets[:, 0]).abs() - 0.4).abs().min())
    assert both.kinks(both.initial).margin == pytest.approx(min(wanted, residual), rel=1e-9)
    assert set(both.kinks(both.initial).operations) == {"relu", "huber_loss"}


def test_margins_of_many_points_in_pieces() -> None:
    torch.manual_seed(3)
    risk = risk_of(Functional())
    cut = risk_of(Functional(), batch_size=5)
    thetas = torch.randn(2, 3, risk.space.size, generator=torch.Generator().manual_seed(1))
    margins = risk.kink_margin(thetas)
    assert margins.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert float(margins[i, j]) == risk.kinks(thetas[i, j]).margin == cut.kinks(thetas[i, j]).margin
        assert cut.kinks(thetas[i, j]).operations == {"relu": 48}
    assert math.isinf(float(risk_of(nn.Linear(2, 1)).kink_margin(torch.zeros(3))))


def test_exactly_at_a_kink_the_margin_is_zero() -> None:
    found = report(F.relu, torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert found.margin == 0
    torch.manual_seed(0)
    twins = nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten())
    with torch.no_grad():
        twins[0].weight[1] = twins[0].weight[0]
        twins[0].bias[1] = twins[0].bias[0]
    risk = risk_of(twins)
    assert risk.kinks(risk.initial).margin == 0  # two equal neurons compete: moving one of them is a corner


def test_what_does_not_move_is_not_at_a_kink() -> None:
    """Dead units tie in a pooling window, and padded zeros stand at the corner of a ReLU: neither moves with theta."""
    torch.manual_seed(0)
    x = torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(2))
    x[:, :, 4:] = 0  # padding
    model = nn.Sequential(nn.Conv1d(1, 2, 1, bias=False), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(), nn.Linear(4, 1))
    risk = EmpiricalRisk(model, nn.MSELoss(), x, torch.randn(5, 1))
    weight = model[0].weight.detach().double().reshape(2, 1)
    before = risk.inputs[:, :, :4] * weight  # (5, 2, 4)
    gaps = [float(before.abs().min())]
    for window in before.clamp(min=0).reshape(10, 4):
        top = window.sort(descending=True).values
        if float(top[0]) > 0:
            gaps.append(float(top[0] - top[1]))
    found = risk.kinks(risk.initial)
    assert found.margin == pytest.approx(min(gaps), rel=1e-9)
    assert found.margin > 0


def test_kinks_of_sums_and_restrictions() -> None:
    torch.manual_seed(3)
    risk = risk_of(Functional())
    total = risk + L2(risk, 0.1) + Penalty(risk, lambda p: p["last.weight"].abs().sum(), "sparse")
    found = total.kinks(risk.initial)
    smallest = float(risk.space.unflatten(risk.initial)["last.weight"].abs().min())
    assert found.margin == pytest.approx(min(risk.kinks(risk.initial).margin, smallest), rel=1e-12)
    assert found.operations == {"relu": 48, "abs": 4}


def test_nothing_is_left_behind() -> None:
    risk = risk_of(Functional())
    before = torch.get_rng_state()
    theta = risk.initial.clone()
    risk.kinks(theta)
    assert torch.equal(theta, risk.initial)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_a_choice_between_formulas_of_one_function_is_no_kink() -> None:
    def sinc(z: Tensor, told: bool) -> Tensor:
        with seamless() if told else nullcontext():
            near = z.abs() < 1e-4
        return torch.where(near, 1 - z**2 / 6, torch.sin(z) / torch.where(near, torch.ones_like(z), z))

    at = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.5, 1e-5]])
    assert not report(lambda z: sinc(z, told=False), at).smooth
    assert report(lambda z: sinc(z, told=True), at).smooth
    after = report(lambda z: sinc(z, told=True).abs(), at)  # what comes after is looked at again
    assert after.operations == {"abs": 6}


def test_channels_have_no_kinks_but_those_of_hard_units() -> None:
    plant = planted(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), 0, [1, 3, 0], (3,), seed=1)
    assert plant.form.kinks(plant.at).smooth
    alone = planted(nn.Sequential(nn.Linear(3, 3, bias=False), Field(), nn.Linear(3, 1)), 0, [1], (1,))
    u = alone.form.space.unflatten(alone.at)["weight_0"][-1]
    assert alone.form.kinks(alone.at).margin == pytest.approx(float((alone.form.inputs @ u).abs().min()), rel=1e-12)
    soft = alone.at.clone()
    soft[alone.form.space.slice("softness")] = 0.1
    assert alone.form.kinks(soft).smooth
