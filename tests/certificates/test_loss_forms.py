"""Weights, labels and curvature bounds read off losses, against the losses themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates.loss_forms import curvatures, hard_labels, squares, zero_targets
from thalweg.foundation import NotApplicableError

WEIGHT, POSITIVE = torch.tensor([1.0, 5.0, 0.3]).double(), torch.tensor([3.0, 0.5]).double()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


class Grid(nn.Module):
    """Three classes at each of two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).reshape(-1, 3, 2)


HARD: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {
    "labels": (nn.Linear(2, 3), nn.CrossEntropyLoss(), whole(3, 9)),
    "weighted, some ignored": (nn.Linear(2, 3), nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2), whole(3, 9)),
    "summed": (nn.Linear(2, 3), nn.CrossEntropyLoss(reduction="sum"), whole(3, 9)),
    "places": (Grid(), nn.CrossEntropyLoss(), whole(3, 9, 2)),
    "one-hot": (nn.Linear(2, 3), nn.CrossEntropyLoss(), nn.functional.one_hot(whole(3, 9), 3).double()),
    "bits": (nn.Linear(2, 2), nn.BCEWithLogitsLoss(pos_weight=POSITIVE), whole(2, 9, 2).double()),
    "signs": (nn.Linear(2, 2), nn.SoftMarginLoss(), 2 * whole(2, 9, 2).double() - 1),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_make_up_the_loss(name: str, weighted: bool) -> None:
    model, loss, targets = HARD[name]
    weights = whole(3, 9, seed=5).double() if weighted else None
    risk = tw.EmpiricalRisk(model, loss, draw(9, 2), targets, sample_weight=weights)
    labels, outputs = hard_labels(risk), risk.outputs(risk.initial)
    assert (labels.weight > 0).all()
    chosen = outputs.reshape(-1)[labels.place]
    if labels.place.shape[1] == 1:
        terms = nn.functional.softplus(-(2 * labels.label - 1) * chosen[:, 0])
    else:
        terms = nn.functional.cross_entropy(chosen, labels.label, reduction="none")
    assert float((labels.weight * terms).sum()) == pytest.approx(float(risk.value(risk.initial)), rel=1e-12)
    right = labels.margins(outputs) > 0
    assert torch.equal(right, terms < math.log(2)) or labels.place.shape[1] > 2
    if labels.place.shape[1] > 2:
        assert torch.equal(right, chosen.argmax(1) == labels.label)


@pytest.mark.parametrize(
    ("loss", "targets", "why"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), whole(3, 9), "soft or smoothed"),
        (nn.CrossEntropyLoss(), draw(9, 3).softmax(1), "soft or smoothed"),
        (nn.BCEWithLogitsLoss(), draw(9, 3).sigmoid(), "soft or smoothed"),
        (nn.SoftMarginLoss(), draw(9, 3), "labels -1 and 1"),
        (nn.MSELoss(), draw(9, 3), "this one is MSELoss"),
    ],
)
def test_what_has_no_hard_labels_is_declined(loss: nn.Module, targets: Tensor, why: str) -> None:
    with pytest.raises(NotApplicableError, match=why):
        hard_labels(tw.EmpiricalRisk(nn.Linear(2, 3), loss, draw(9, 2), targets))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squares_make_up_the_loss(reduction: str) -> None:
    risk = tw.EmpiricalRisk(nn.Linear(2, 3), nn.MSELoss(reduction=reduction), draw(9, 2), draw(9, 3, seed=1),
                            sample_weight=draw(9).abs())  # fmt: skip
    form = squares(risk)
    value = (form.weight * ((risk.outputs(risk.initial) - form.target) ** 2).sum(1)).sum()
    assert float(value) == pytest.approx(float(risk.value(risk.initial)), rel=1e-12)
    other = tw.EmpiricalRisk(nn.Linear(2, 3), nn.HuberLoss(), draw(9, 2), draw(9, 3))
    assert torch.equal(zero_targets(other).target, draw(9, 3))
    with pytest.raises(NotApplicableError, match="squared loss"):
        squares(other)


@pytest.mark.parametrize("name", [*HARD, "smoothed", "soft bits", "squares"])
def test_curvatures_bound_every_derivative_of_every_sample(name: str) -> None:
    """Along many unit directions, at outputs from tame to saturated."""
    model, loss, targets = {
        **HARD,
        "smoothed": (nn.Linear(2, 3), nn.CrossEntropyLoss(label_smoothing=0.3, weight=WEIGHT), whole(3, 9)),
        "soft bits": (nn.Linear(2, 2), nn.BCEWithLogitsLoss(), draw(9, 2).sigmoid()),
        "squares": (nn.Linear(2, 2), nn.MSELoss(), draw(9, 2)),
    }[name]
    risk = tw.EmpiricalRisk(model, loss, draw(9, 2), targets)
    found = curvatures(risk)
    seen = torch.zeros(3, 9, dtype=torch.float64)
    for seed in range(150):
        outputs = draw(9, risk.n_outputs, seed=seed) * [0.3, 1.0, 4.0][seed % 3]
        direction = nn.functional.normalize(draw(9, risk.n_outputs, seed=seed + 1000), dim=1)
        step = torch.zeros(9, dtype=torch.float64, requires_grad=True)
        (chunk,) = risk.chunks(9)
        value = risk.chunk_loss(outputs + step[:, None] * direction, chunk)
        for order in range(3):
            (slope,) = torch.autograd.grad(value.sum(), step, create_graph=True, materialize_grads=True)
            seen[order] = torch.maximum(seen[order], slope.detach().abs())
            value = slope
            if not slope.requires_grad:
                break
    for order, bound in enumerate(found):
        assert (seen[order] <= bound * (1 + 1e-12)).all()
    assert float(seen[1].max()) > 0.3 * float(found.second.max())


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_slope_of_cross_entropy_against_its_value(classes: int) -> None:
    """The ratio of slope to ``1 - exp(-l)`` is at least ``sqrt(K / (K - 1))``, and comes near it."""
    logits = draw(100_000, classes) * 3
    logits[:1000] = 0.01 * logits[:1000]
    others = logits.softmax(1)[:, 1:]
    lack = others.sum(1)  # 1 - exp(-l), without the cancellation
    ratio = (lack**2 + (others**2).sum(1)).sqrt() / lack
    assert float(ratio.min()) >= math.sqrt(classes / (classes - 1)) * (1 - 1e-12)
    assert float(ratio.min()) == pytest.approx(math.sqrt(classes / (classes - 1)), abs=1e-3)
