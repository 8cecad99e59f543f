"""What is declared of each loss, against autograd, random chords and direct minimisation over the outputs."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from thalweg.objectives import EmpiricalRisk, LossFacts, facts_of, register_loss
from thalweg.objectives.losses import settled, unreduced

C = 3
WEIGHT = torch.tensor([0.5, 2.0, 1.5])


def shares(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


HARD = torch.tensor([0, 2, 1, 1])
BINARY = torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]]).double()
SOFT = shares(4, C)
PADDED = torch.tensor([0, -100, 1, 2])
ONE_HOT = nn.functional.one_hot(HARD, C).double()

CASES: dict[str, tuple[nn.Module, Tensor]] = {
    "mse": (nn.MSELoss(), normal(4, C)),
    "l1": (nn.L1Loss(), normal(4, C)),
    "huber": (nn.HuberLoss(delta=0.7), normal(4, C)),
    "smooth l1": (nn.SmoothL1Loss(beta=0.7), normal(4, C)),
    "smooth l1 without beta": (nn.SmoothL1Loss(beta=0.0), normal(4, C)),
    "cross entropy": (nn.CrossEntropyLoss(), HARD),
    "cross entropy smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), HARD),
    "cross entropy smoothing weights": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), HARD),
    "cross entropy weight zero": (nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1, 2]), label_smoothing=0.2), HARD),
    "cross entropy ignored": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), PADDED),
    "cross entropy probabilities": (nn.CrossEntropyLoss(weight=WEIGHT), SOFT),
    "cross entropy one-hot": (nn.CrossEntropyLoss(), ONE_HOT),
    "bce hard": (nn.BCEWithLogitsLoss(), BINARY),
    "bce soft": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0, 0.2, 1.0])), SOFT),
    "bce weights": (nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=torch.tensor(4.0)), SOFT),
    "bce pos_weight zero": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(0.0)), SOFT),
    "bce weight zero": (nn.BCEWithLogitsLoss(weight=torch.tensor([0.0, 1.0, 1.0])), SOFT),
    "soft margin": (nn.SoftMarginLoss(), 2 * BINARY - 1),
    "soft margin with zeros": (nn.SoftMarginLoss(), torch.tensor([[0.0, 0, 0], [0, 1, -1], [2, 0, 0], [0, 0, 0]])),
    "soft margin of zeros": (nn.SoftMarginLoss(), torch.zeros(4, C)),
    "multi label soft margin": (nn.MultiLabelSoftMarginLoss(weight=WEIGHT), SOFT),
    "multi label soft margin hard": (nn.MultiLabelSoftMarginLoss(), BINARY),
    "poisson": (nn.PoissonNLLLoss(), 4 * SOFT),
    "poisson full": (nn.PoissonNLLLoss(full=True), 4 * SOFT),
    "poisson zeros": (nn.PoissonNLLLoss(), (4 * SOFT).round()),
    "multi margin": (nn.MultiMarginLoss(margin=0.7), HARD),
    "multi margin squared": (nn.MultiMarginLoss(p=2, weight=WEIGHT), HARD),
    "hinge embedding": (nn.HingeEmbeddingLoss(), 2 * BINARY - 1),
    "nll": (nn.NLLLoss(weight=WEIGHT), HARD),
    "kl": (nn.KLDivLoss(reduction="batchmean"), SOFT),
}


def by_sample(loss: nn.Module, targets: Tensor) -> Any:
    """``outputs (n, C) -> (n,)``, by calling the loss on one sample after another with reduction='sum'."""
    twin = copy.deepcopy(loss).double()
    twin.reduction = "sum"

    def values(outputs: Tensor) -> Tensor:
        targets_ = targets.double() if targets.is_floating_point() else targets
        found = []
        for row, target in zip(outputs, targets_, strict=True):
            ignored = getattr(loss, "ignore_index", None)
            if not targets.is_floating_point() and ignored is not None and int(target) == ignored:
                found.append(row.sum() * 0)
            else:
                found.append(twin(row.unsqueeze(0), target.unsqueeze(0)))
        return torch.stack(found)

    return values


@pytest.mark.parametrize("name", CASES)
def test_convexity(name: str) -> None:
    """Chords lie above the loss, for every sample, near and far."""
    loss, targets = CASES[name]
    assert facts_of(loss).convex is True
    values = by_sample(loss, targets)
    for seed, scale in itertools.product(range(40), (0.3, 3.0, 30.0)):
        a, b = scale * normal(4, C, seed=seed), scale * normal(4, C, seed=seed + 1000)
        t = float(shares(1, seed=seed))
        chord = (1 - t) * values(a) + t * values(b)
        below = values((1 - t) * a + t * b)
        assert bool((below <= chord + 1e-9 * (1 + chord.abs())).all())


def test_a_probability_loss_is_not_convex_where_its_logarithm_is_clamped() -> None:
    loss = nn.BCELoss(reduction="sum")
    assert facts_of(loss).convex is False
    one, corner = torch.ones(1, dtype=torch.float64), math.exp(-100)
    at = [float(loss(torch.tensor([p], dtype=torch.float64), one)) for p in (0.0, corner, 2 * corner)]
    assert at[0] == 100  # constant below the corner
    assert at[1] == pytest.approx(100)
    assert at[1] > (at[0] + at[2]) / 2 + 0.1


@pytest.mark.parametrize("weight", [torch.tensor([1.0, -1.0, 1.0])])
def test_negative_weights_void_what_is_known(weight: Tensor) -> None:
    for loss in (nn.CrossEntropyLoss(weight=weight), nn.BCEWithLogitsLoss(weight=weight),
                 nn.BCEWithLogitsLoss(pos_weight=weight), nn.MultiLabelSoftMarginLoss(weight=weight),
                 nn.MultiMarginLoss(weight=weight)):  # fmt: skip
        facts = facts_of(loss)
        assert facts.convex is None
        assert facts.infimum is None
        assert facts.attained is None
    values = by_sample(nn.BCEWithLogitsLoss(weight=weight), BINARY)  # and rightly so: not convex
    end = torch.tensor([0.0, 3.0, 0.0]).double().expand(4, C)
    assert not bool((values(0 * end) <= (values(-end) + values(end)) / 2).all())


# -- infima ------------------------------------------------------------------------------------------------------------


WITH_INFIMUM = [name for name, (loss, _) in CASES.items() if facts_of(loss).infimum is not None]


def least(loss: nn.Module, target: Tensor) -> tuple[float, bool]:
    """Infimum over the outputs of one sample, by direct minimisation, and whether the minimiser stays bounded.

    A ridge of vanishing strength picks the point: where finite outputs attain the infimum, the minimiser converges as
    the ridge vanishes; where they do not, it runs away.
    """
    values = by_sample(loss, target.unsqueeze(0))

    def ridged(strength: float) -> Any:
        def value_and_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
            outputs = torch.tensor(x).reshape(1, C).requires_grad_()
            value = values(outputs)[0] + strength / 2 * (outputs**2).sum()
            (slope,) = torch.autograd.grad(value, outputs)
            return float(value.detach()), slope.reshape(-1).numpy()

        return value_and_slope

    point, sizes = 0.1 * normal(C).numpy(), []
    for strength in (1e-3, 1e-6, 1e-9, 1e-12):
        options = {"maxiter": 20000, "gtol": 1e-14, "ftol": 1e-16}
        point = minimize(ridged(strength), point, jac=True, method="L-BFGS-B", options=options).x
        sizes.append(float(np.abs(point).max()))
    return float(values(torch.tensor(point).reshape(1, C))[0]), sizes[-1] < sizes[0] + 3.0


@pytest.mark.parametrize("name", WITH_INFIMUM)
def test_infimum_of_each_sample_and_whether_it_is_attained(name: str) -> None:
    loss, targets = CASES[name]
    facts = facts_of(loss)
    outputs = torch.zeros(4, C, dtype=torch.float64)
    assert facts.infimum is not None
    declared = facts.infimum(unreduced(loss, torch.float64), outputs, targets.double() if targets.is_floating_point()
                             else targets)  # fmt: skip
    attained = torch.tensor([True] * 4) if facts.attains is None else facts.attains(loss, outputs, targets)
    assert declared.shape == attained.shape == (4,)
    for i in range(4):
        found, bounded = least(loss, targets[i])
        assert float(declared[i]) <= found + 1e-9, "the declared infimum is no lower bound"
        assert found == pytest.approx(float(declared[i]), abs=2e-6), "no outputs come near the declared infimum"
        assert bounded == bool(attained[i]), f"sample {i}: the minimiser {'stays' if bounded else 'runs away'}"
    known = settled(facts, loss, outputs, targets)
    assert known.attained == bool(attained.all())
    assert (facts.attained is None) == (facts.attains is not None)


def test_a_negative_count_has_no_lower_bound() -> None:
    facts = facts_of(nn.PoissonNLLLoss())
    assert facts.infimum is not None
    assert facts.attains is not None
    counts = torch.tensor([[-1.0], [2.0]]).double()
    assert facts.infimum(nn.PoissonNLLLoss(), counts, counts).tolist() == pytest.approx(
        [-math.inf, 2 - 2 * math.log(2)]
    )
    assert facts.attains(nn.PoissonNLLLoss(), counts, counts).tolist() == [False, True]


def test_probabilities_attain_their_infimum_at_the_targets() -> None:
    loss, targets = nn.BCELoss(weight=WEIGHT), torch.cat([SOFT, BINARY])
    facts = facts_of(loss)
    assert facts.infimum is not None
    assert facts.attained is True
    declared = facts.infimum(unreduced(loss, torch.float64), targets, targets)
    elements = nn.BCELoss(weight=WEIGHT.double(), reduction="none")(targets, targets)
    torch.testing.assert_close(declared, elements.sum(1))
    for seed in range(50):
        other = nn.BCELoss(weight=WEIGHT.double(), reduction="none")(shares(8, C, seed=seed), targets).sum(1)
        assert bool((other >= declared - 1e-12).all())


def test_the_infimum_of_a_risk_sums_those_of_its_samples() -> None:
    model, x = nn.Linear(2, C), normal(4, 2)
    for loss, targets in (CASES["cross entropy smoothing weights"], CASES["bce weights"], CASES["poisson"]):
        weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
        for reduction in ("mean", "sum"):
            twin = copy.deepcopy(loss)
            twin.reduction = reduction
            risk = EmpiricalRisk(model, twin, x, targets, sample_weight=weights)
            parts = [EmpiricalRisk(model, twin, x[i : i + 1], targets[i : i + 1]).output_infimum() for i in range(4)]
            assert all(part is not None for part in parts)
            if reduction == "sum":
                assert risk.output_infimum() == pytest.approx(float(weights @ torch.tensor(parts)), rel=1e-6)
            assert risk.output_infimum() <= float(risk.value(risk.initial))
    assert EmpiricalRisk(model, nn.NLLLoss(), x, HARD).output_infimum() is None


# -- smoothness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "target", "kink"),
    [
        (nn.L1Loss(), 0.3, 0.3),
        (nn.HuberLoss(delta=0.7), 0.3, 1.0),
        (nn.HuberLoss(delta=0.7), 0.3, -0.4),
        (nn.SmoothL1Loss(beta=0.7), 0.3, 1.0),
        (nn.SmoothL1Loss(beta=0.0), 0.3, 0.3),
        (nn.HingeEmbeddingLoss(margin=0.5), -1.0, 0.5),
    ],
    ids=str,
)
def test_derivatives_jump_at_the_kink_in_the_order_declared(loss: nn.Module, target: float, kink: float) -> None:
    smoothness = facts_of(loss).smoothness
    assert smoothness in (0, 1)

    def value(x: float) -> float:
        return float(loss(torch.tensor([x]).double(), torch.tensor([target]).double()))

    h = 1e-4
    slopes = [(value(kink + 2 * s * h) - value(kink + s * h)) / (s * h) for s in (-1, 1)]
    assert (abs(slopes[1] - slopes[0]) > 0.1) == (smoothness == 0)
    bends = [(value(kink + 3 * s * h) - 2 * value(kink + 2 * s * h) + value(kink + s * h)) / h**2 for s in (-1, 1)]
    if smoothness == 1:
        assert abs(bends[1] - bends[0]) > 0.1


@pytest.mark.parametrize("p", [1, 2])
def test_margins_of_several_classes_jump_in_the_order_declared(p: int) -> None:
    loss, label = nn.MultiMarginLoss(p=p), torch.tensor([0])
    assert facts_of(loss).smoothness == p - 1

    def slope(x: float) -> float:
        outputs = torch.tensor([[1.0, x, -9.0]], dtype=torch.float64, requires_grad=True)
        return float(torch.autograd.grad(loss(outputs, label), outputs)[0][0, 1])

    jump = slope(1e-6) - slope(-1e-6)  # 1 - (1 - x) crosses zero at x = 0
    assert (jump > 0.1) == (p == 1)


@pytest.mark.parametrize("name", [n for n, (loss, _) in CASES.items() if facts_of(loss).smoothness == math.inf])
def test_smooth_losses_have_derivatives_that_agree_with_differences(name: str) -> None:
    loss, targets = CASES[name]
    values = by_sample(loss, targets)
    for seed in range(5):
        point, step = 2 * normal(4, C, seed=seed), 1e-4 * normal(4, C, seed=seed + 50)
        ends = torch.stack([values(point + k * step).sum() for k in (-2, -1, 0, 1, 2)])
        leaf = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(values(leaf).sum(), leaf)
        measured = (8 * (ends[3] - ends[1]) - (ends[4] - ends[0])) / 12
        assert float(measured) == pytest.approx(float((slope * step).sum()), abs=1e-11)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_squared_error_is_its_factor_times_the_sum_of_squares(reduction: str) -> None:
    factor = facts_of(nn.MSELoss(reduction=reduction)).squared_factor
    outputs, targets = normal(4, C), normal(4, C, seed=1)
    elements = nn.MSELoss(reduction="none")(outputs, targets)
    torch.testing.assert_close(elements, factor * (outputs - targets) ** 2)
    assert [n for n, (loss, _) in CASES.items() if facts_of(loss).squared_factor is not None] == ["mse"]


@pytest.mark.parametrize("name", CASES)
def test_shift_invariance(name: str) -> None:
    loss, targets = CASES[name]
    values = by_sample(loss, targets)
    outputs = normal(4, C)
    shifted = float((values(outputs + 1.7) - values(outputs)).abs().max())
    assert (shifted < 1e-12) == (facts_of(loss).shift_invariant or name.startswith(("multi margin", "soft margin of")))


# -- registration ------------------------------------------------------------------------------------------------------


class Asymmetric(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.exp(outputs - targets).mean()


class Child(nn.MSELoss):
    """A subclass may compute anything, so nothing is known of it."""


def test_users_register_losses_of_their_own() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets) ** 4).sum()

    assert facts_of(own) == LossFacts("own")
    register_loss(own, LossFacts("fourth power", convex=True, smoothness=math.inf, attained=True))
    assert facts_of(own).convex is True
    register_loss(Asymmetric, LossFacts("exponential", convex=True, attained=False))
    assert facts_of(Asymmetric()).attained is False
    risk = EmpiricalRisk(nn.Linear(2, C), own, normal(4, 2), normal(4, C), reduction="sum")
    assert risk.loss_facts.name == "fourth power"
    assert "fourth power" in repr(risk)


def test_nothing_is_claimed_of_what_is_not_known() -> None:
    for loss in (Child(), lambda o, t: o.sum(), nn.CTCLoss()):
        facts = facts_of(loss)
        assert (facts.convex, facts.smoothness, facts.infimum, facts.attained, facts.squared_factor) == (None,) * 5
    assert facts_of(Child()).describe() == "Child: no facts declared"
    assert facts_of(nn.L1Loss()).describe() == "L1Loss: convex in the outputs, corners, infimum attained"
    assert facts_of(nn.BCELoss()).describe() == "BCELoss: not convex in the outputs, corners, infimum attained"
    unsettled = facts_of(nn.CrossEntropyLoss())
    assert unsettled.describe() == "CrossEntropyLoss: convex in the outputs, smooth"
    known = settled(unsettled, nn.CrossEntropyLoss(), normal(4, C), HARD)
    assert known.describe() == "CrossEntropyLoss: convex in the outputs, smooth, infimum not attained"
