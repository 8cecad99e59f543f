"""The collision bound against minimisation over free outputs, the figures of real data, and what must break it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn import datasets
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import LabelCollisions, Level, Outcome, State, certify
from thalweg.certificates.collisions import identical_samples, unavoidable_errors
from thalweg.foundation import InvalidInputError

SEEDS = range(4)
Draw = Callable[[torch.Generator, int], Tensor]


def bound_of(risk: tw.Objective, **settings: object) -> tw.certificates.Certificate:
    (found,) = certify(risk, getattr(risk, "initial", None) if risk else None, [LabelCollisions(**settings)])  # type: ignore[arg-type]
    return found


def grouped(seed: int, n: int = 24, kinds: int = 5) -> tuple[Tensor, Tensor]:
    """Inputs of which several are the same."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(kinds, 3, generator=generator, dtype=torch.float64)
    of = torch.randint(0, kinds, (n,), generator=generator)
    return prototypes[of], of


def free_minimum(loss: nn.Module, of: Tensor, targets: Tensor, outputs: int) -> float:
    """The lowest loss of any function of the inputs, by minimising over one output per group."""
    groups = int(of.max()) + 1

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(flat.reshape(groups, outputs), requires_grad=True)
        value = loss(leaf[of], targets)
        value.backward()
        return float(value.detach()), leaf.grad.numpy().ravel()

    found = scipy.optimize.minimize(both, np.zeros(groups * outputs), jac=True, method="BFGS",
                                    options={"gtol": 1e-11, "maxiter": 5000})  # fmt: skip
    return float(found.fun)


def normal(width: int, scale: float = 1.0) -> Draw:
    return lambda g, n: torch.randn(n, width, generator=g, dtype=torch.float64) * scale


def uniform(width: int) -> Draw:
    return lambda g, n: torch.rand(n, width, generator=g, dtype=torch.float64)


def labels(classes: int) -> Draw:
    return lambda g, n: torch.randint(0, classes, (n,), generator=g)


def whole(low: int, high: int, width: int = 1) -> Draw:
    return lambda g, n: torch.randint(low, high, (n, width), generator=g).double()


WEIGHTS, POSITIVE = torch.tensor([1.0, 5.0, 0.3]).double(), torch.tensor(3.0).double()
CASES: dict[str, tuple[nn.Module, int, Draw]] = {
    "squares": (nn.MSELoss(), 2, normal(2)),
    "squares, summed": (nn.MSELoss(reduction="sum"), 1, normal(1, 1e3)),
    "labels": (nn.CrossEntropyLoss(), 4, labels(4)),
    "smoothed labels": (nn.CrossEntropyLoss(label_smoothing=0.1), 3, labels(3)),
    "weighted labels": (nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=2), 3, labels(3)),
    "soft labels": (nn.CrossEntropyLoss(), 3, lambda g, n: uniform(3)(g, n).softmax(1)),
    "bits": (nn.BCEWithLogitsLoss(), 2, uniform(2)),
    "weighted bits": (nn.BCEWithLogitsLoss(pos_weight=POSITIVE), 1, uniform(1)),
    "signs": (nn.SoftMarginLoss(), 1, lambda g, n: whole(0, 2)(g, n) * 2 - 1),
    "counts": (nn.PoissonNLLLoss(), 1, whole(1, 5)),
    "counts in full": (nn.PoissonNLLLoss(full=True), 1, whole(1, 5)),
    "several labels": (nn.MultiLabelSoftMarginLoss(), 3, whole(0, 2, 3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_is_the_minimum_over_free_outputs(name: str, seed: int) -> None:
    loss, outputs, draw = CASES[name]
    inputs, of = grouped(seed)
    targets = draw(torch.Generator().manual_seed(seed + 100), len(of))
    risk = tw.EmpiricalRisk(nn.Linear(3, outputs), loss, inputs, targets)
    found = bound_of(risk)
    truth = free_minimum(loss, of, targets, outputs)
    assert found.established, found.reason
    assert found.level is Level.RIGOROUS
    assert found.bound is not None
    assert found.bound == pytest.approx(truth, rel=1e-8, abs=1e-8)
    assert found.bound <= truth + 1e-12 * (1 + abs(truth))


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_of_samples_count(seed: int) -> None:
    inputs, of = grouped(seed)
    generator = torch.Generator().manual_seed(seed)
    targets, weights = (
        torch.randint(0, 3, (len(of),), generator=generator),
        torch.rand(len(of), generator=generator).double(),
    )
    risk = tw.EmpiricalRisk(nn.Linear(3, 3), nn.CrossEntropyLoss(), inputs, targets, sample_weight=weights)

    class Weighted(nn.Module):
        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
            return (weights * nn.functional.cross_entropy(outputs, labels, reduction="none")).sum() / len(of)

    assert bound_of(risk).bound == pytest.approx(free_minimum(Weighted(), of, targets, 3), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_squares_far_from_zero_are_bounded_from_below(scale: float, offset: float) -> None:
    """Against exact fractions: an offset that dwarfs the spread costs accuracy, never truth."""
    inputs, of = grouped(3)
    y = torch.randn(len(of), 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scale + offset
    truth = Fraction(0)
    for group in range(int(of.max()) + 1):
        members = [Fraction(v) for v in y[of == group, 0].tolist()]
        if members:
            mean = sum(members) / len(members)
            truth += sum((v - mean) ** 2 for v in members)
    truth /= len(of)
    found = bound_of(tw.EmpiricalRisk(nn.Linear(3, 1), nn.MSELoss(), inputs, y))
    assert found.established, found.reason
    assert Fraction(found.bound) <= truth
    assert float(truth) - found.bound <= 1e-9 * float(truth) + 1e-20 * offset**2 + 1e-18


def pooled_digits() -> tuple[Tensor, Tensor, Tensor]:
    data = datasets.load_digits()
    small = data.images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    smaller = data.images.reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    labels = torch.tensor(data.target)
    return torch.tensor((small > 7.5).astype(float)), torch.tensor(np.round(smaller / 4)), labels


def test_figures_of_real_data() -> None:
    small, smaller, labels = pooled_digits()
    iris = datasets.load_iris()
    rounded, species = torch.tensor(np.round(iris.data)), torch.tensor(iris.target)
    for inputs, targets, bound, errors, distinct in (
        (small, labels, 0.58075484, 430, 222),
        (smaller, labels, 1.48069535, 959, 49),
        (rounded, species, 0.10791089, 8, 33),
    ):
        model = nn.Linear(inputs.shape[1], int(targets.max()) + 1)
        found = bound_of(tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, targets))
        assert found.bound == pytest.approx(bound, abs=1e-8)
        assert found.evidence["unavoidable errors"] == errors
        assert found.evidence["distinct inputs"] == distinct
    raw = tw.EmpiricalRisk(nn.Linear(64, 10), nn.CrossEntropyLoss(), datasets.load_digits().data, labels)
    assert bound_of(raw).bound == pytest.approx(0, abs=1e-12)
    assert bound_of(raw).evidence["distinct inputs"] == 1797


def test_a_large_network_reaches_the_bound_on_pooled_digits() -> None:
    small, _, labels = pooled_digits()
    model = nn.Sequential(nn.Linear(16, 120), nn.ReLU(), nn.Linear(120, 10)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in (model[0], model[2]):
            layer.reset_parameters()
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), small, labels)
    bound = bound_of(risk).bound
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=400, history_size=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(small), labels)
        value.backward()
        return value

    optimizer.step(closure)
    trained = float(closure().detach())
    assert bound <= trained <= bound + 1e-2


def test_identical_means_bit_for_bit_over_all_parts_of_a_batch() -> None:
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0 + 2**-50]], dtype=torch.float64)
    tokens = torch.tensor([[1, 2], [1, 3], [1, 2]])
    assert identical_samples(a, 3).tolist() == [0, 0, 1]
    assert identical_samples({"a": a, "t": tokens}, 3).tolist() == [0, 1, 2]
    assert identical_samples(torch.tensor([True, False, True]), 3).tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_errors_that_no_classifier_avoids(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups, labels = torch.randint(0, 4, (30,), generator=generator), torch.randint(0, 3, (30,), generator=generator)
    wrong = 0
    for group in groups.unique():
        counts = torch.bincount(labels[groups == group])
        wrong += int(counts.sum() - counts.max())
    assert unavoidable_errors(labels, groups.unique(return_inverse=True)[1]) == wrong


def test_an_invariance_declared_by_the_user_is_used_and_checked() -> None:
    """Shifted copies of one signal with two labels: equal to a pooled circular convolution, different to others."""

    class Circular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(1, 3, 3, padding=1, padding_mode="circular"), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.conv(x.unsqueeze(1))).mean(-1))

    signal = torch.tensor([1.0, 2.0, 3.0, 5.0])
    x, y = torch.stack([signal.roll(k) for k in range(4)]), torch.tensor([0, 1, 0, 1])

    def smallest_shift(inputs: Tensor) -> Tensor:
        return torch.stack([min((row.roll(k) for k in range(4)), key=lambda r: r.tolist()) for row in inputs])

    plain = bound_of(tw.EmpiricalRisk(Circular(), nn.CrossEntropyLoss(), x, y))
    assert plain.bound == pytest.approx(0, abs=1e-12)
    found = bound_of(tw.EmpiricalRisk(Circular(), nn.CrossEntropyLoss(), x, y), canonical=smallest_shift)
    assert found.bound == pytest.approx(math.log(2), rel=1e-12)
    assert any(h.state is State.ASSUMED for h in found.hypotheses)
    refused = bound_of(tw.EmpiricalRisk(nn.Linear(4, 2), nn.CrossEntropyLoss(), x, y), canonical=smallest_shift)
    assert refused.outcome is Outcome.NOT_APPLICABLE
    assert "outputs of identical inputs differ" in refused.reason
    with pytest.raises(InvalidInputError, match="one row for each of the 4 samples"):
        bound_of(tw.EmpiricalRisk(Circular(), nn.CrossEntropyLoss(), x, y), canonical=lambda inputs: inputs[:2])


# -- what must withdraw or weaken it -----------------------------------------------------------------------------------


def test_moving_one_input_by_a_bit_withdraws_the_collision() -> None:
    inputs, targets = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 1])
    risk = tw.EmpiricalRisk(nn.Linear(3, 2), nn.CrossEntropyLoss(), inputs, targets)
    assert bound_of(risk).bound == pytest.approx(math.log(2), rel=1e-12)
    moved = inputs.clone()
    moved[0, 0] = 5e-324
    assert bound_of(risk.on(moved, targets)).bound == pytest.approx(0, abs=1e-15)
    assert bound_of(risk.on(inputs, torch.tensor([1, 1]))).bound == pytest.approx(0, abs=1e-15)


def test_a_penalty_that_may_be_negative_withdraws_it_and_weight_decay_does_not() -> None:
    inputs, targets = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 1])
    risk = tw.EmpiricalRisk(nn.Linear(3, 2), nn.CrossEntropyLoss(), inputs, targets)
    assert certify(risk + tw.L2(risk, 1e-3), risk.initial, ["label collisions"])[0].established
    signless = risk + tw.Penalty(risk, lambda p: -(p["weight"] ** 2).sum(), name="reward")
    (found,) = certify(signless, risk.initial, ["label collisions"])
    assert found.outcome is Outcome.NOT_APPLICABLE
    assert "all other terms of the loss are not negative" in found.reason


def test_what_is_not_declared_is_declined_by_name() -> None:
    risk = tw.EmpiricalRisk(nn.Linear(3, 1), nn.HuberLoss(), torch.zeros(2, 3), torch.ones(2, 1))
    assert "not declared for HuberLoss" in bound_of(risk).reason
    from thalweg.zoo import Quadratic

    (found,) = certify(Quadratic([1.0]), torch.zeros(1), ["label collisions"])
    assert "a loss with one term over data" in found.reason
