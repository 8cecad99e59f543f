"""Parameter vectors from whatever holds parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.objectives import L2, EmpiricalRisk, as_theta, find_risk, restrict

SOURCE = torch.Generator().manual_seed(0)
X, Y = torch.randn(9, 3, generator=SOURCE), torch.randn(9, 2, generator=SOURCE)


def model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).eval()


def risk(**settings: Any) -> EmpiricalRisk:
    return EmpiricalRisk(model(), nn.MSELoss(), X, Y, **settings)


@dataclass(frozen=True)
class Found:
    theta: Tensor


def flat(of: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in of.parameters()]).double()


def test_every_source_gives_the_same_vector() -> None:
    objective, other = risk(), model(1)
    wanted = flat(other)
    for source in (
        other,
        other.state_dict(),
        dict(other.named_parameters()),
        {name: p.detach().numpy() for name, p in other.named_parameters()},
        wanted,
        wanted.float(),
        Found(wanted),
        Found(wanted.float()),
    ):
        found = as_theta(source, objective)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    single = risk(dtype=torch.float32)
    assert as_theta(wanted, single).dtype == torch.float32


def test_checkpoints_are_a_batch() -> None:
    objective = risk()
    run = [model(seed).state_dict() for seed in range(3)]
    found = as_theta(run, objective)
    assert found.shape == (3, objective.space.size)
    for i, seed in enumerate(range(3)):
        torch.testing.assert_close(found[i], flat(model(seed)))
    mixed = as_theta((model(0), flat(model(1)), Found(flat(model(2)))), objective)
    torch.testing.assert_close(mixed, found)
    deep = torch.zeros(2, 5, objective.space.size)
    assert as_theta(deep, objective).shape == deep.shape
    assert as_theta([deep, deep], objective).shape == (2, *deep.shape)


def test_only_what_is_free_is_read() -> None:
    objective = risk(parameters="3.*")
    head = model()
    with torch.no_grad():
        head[3].weight.add_(1.0)
    assert as_theta(head, objective).shape == (10,)
    base = risk()
    part = restrict(base, "3.*", base.initial)
    torch.testing.assert_close(as_theta(head, part), as_theta(head, objective))
    total = base + L2(base, 1.0)
    torch.testing.assert_close(as_theta(model(1), total), flat(model(1)))
    assert find_risk(total) is base
    assert find_risk(L2(base, 1.0)) is None


def test_what_theta_does_not_carry_must_be_the_same() -> None:
    """Other running statistics or another frozen layer make another function, which theta could not tell."""
    other = model()
    other[1].running_mean.add_(1.0)
    with pytest.raises(InvalidInputError, match=r"'1\.running_mean' differs from what the objective was made with"):
        as_theta(other, risk())
    with pytest.raises(InvalidInputError, match=r"'0\.weight', '0\.bias' differ from what"):
        as_theta(model(1), risk(parameters="3.*"))
    counted = model()
    counted[1].num_batches_tracked.add_(7)  # counts, and changes nothing
    assert as_theta(counted, risk()).shape == (34,)
    with pytest.raises(InvalidInputError, match="running_mean"):
        as_theta([model(), other.state_dict()], risk())


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in model().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            nn.Linear(3, 2),
            "no parameter '0.weight', '0.bias', .* among 'weight', 'bias': other weights than this model's",
        ),
        (without("3.bias"), "no parameter '3.bias' among"),
        ({f"module.{k}": v for k, v in model().state_dict().items()}, r"among 'module\.0\.weight'"),
        ({**model().state_dict(), "3.bias": torch.zeros(3)}, r"block '3.bias' has shape \(3,\), expected"),
        (torch.zeros(7), r"theta has shape \(7,\), expected \(\*batch, 34\)"),
        (torch.tensor(1.0), r"theta has shape \(\)"),
        (torch.zeros(34, dtype=torch.int64), "must be a floating tensor, got torch.int64"),
        (torch.full((34,), float("nan")), "theta holds 34 NaN or infinite entries"),
        ([torch.zeros(34), torch.full((34,), float("inf"))], "theta holds 34 NaN or infinite"),
        ([], "cannot read parameters from list"),
        ("weights.pt", "cannot read parameters from str"),
        (None, "cannot read parameters from NoneType"),
        ([torch.zeros(34), "weights.pt"], "cannot read parameters from str"),
    ],
)
def test_sources_that_do_not_fit(source: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        as_theta(source, risk())


def test_batches_of_unequal_shape_do_not_fit() -> None:
    with pytest.raises(InvalidInputError, match=r"points of shapes \(2, 34\), \(34,\) make no batch"):
        as_theta([torch.zeros(34), torch.zeros(2, 34)], risk())


def test_a_space_that_is_no_model_s() -> None:
    objective = L2(ParameterSpace({"x": (2, 2)}), 1.0)
    assert as_theta({"x": torch.eye(2)}, objective).tolist() == [1, 0, 0, 1]
    with pytest.raises(InvalidInputError, match="no parameter 'x' among"):
        as_theta(model(), objective)
