"""Files a user points at: functions that fail, weights that do not fit, and what they hold beside parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

import thalweg as tw
from thalweg.commands.loading import Target, load_target
from thalweg.commands.weights import read_weights


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).eval()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs[:, 0] > 0).long()


def trained(path: Path, passes: int) -> nn.Module:
    """The network after some passes in training mode, saved."""
    model, (inputs, _) = network(), data()
    model.train()
    for k in range(passes):
        model(inputs * (k + 2) + k)
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    torch.save(model.state_dict(), path)
    return model.eval()


def loss_of(model: nn.Module) -> float:
    inputs, labels = data()
    with torch.no_grad():
        return float(nn.CrossEntropyLoss()(model.double()(inputs.double()), labels))


def value(pair: tuple[tw.Objective, object]) -> float:
    objective, point = pair
    return float(objective.value(point))


def target() -> Target:
    return Target((network(), nn.CrossEntropyLoss(), *data()))


def test_running_statistics_of_batch_norm_come_from_the_file(tmp_path):
    models = [trained(tmp_path / f"{k}.pt", k) for k in (1, 4)]
    pairs: Iterator[tuple[tw.Objective, object]] = target().points([tmp_path / "1.pt", tmp_path / "4.pt"])
    assert [value(pair) for pair in pairs] == pytest.approx([loss_of(model) for model in models], rel=1e-12)


def test_frozen_parameters_come_from_the_file(tmp_path):
    model = trained(tmp_path / "w.pt", 1)
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    ((objective, point),) = Target((frozen, nn.CrossEntropyLoss(), *data())).points([tmp_path / "w.pt"])
    assert float(objective.value(point)) == pytest.approx(loss_of(model), rel=1e-12)


def test_one_objective_serves_files_that_differ_in_parameters_only(tmp_path):
    state = network().state_dict()
    for name, factor in (("a.pt", 1.0), ("b.pt", 2.0)):
        torch.save({k: factor * v if k.startswith("0.") else v for k, v in state.items()}, tmp_path / name)
    (first, one), (second, two) = target().points([tmp_path / "a.pt", tmp_path / "b.pt"])
    assert first is second
    assert not torch.equal(one, two)


def test_an_objective_made_with_other_statistics_is_refused(tmp_path):
    trained(tmp_path / "w.pt", 3)
    made = Target(tw.EmpiricalRisk(network(), nn.CrossEntropyLoss(), *data()))
    with pytest.raises(tw.InvalidInputError, match=r"another '1\.running_mean' than the objective was made with"):
        list(made.points([tmp_path / "w.pt"]))


def test_double_precision_in_a_file_is_kept(tmp_path):
    state = {name: value.double() + 1e-12 * value.is_floating_point() for name, value in network().state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    ((objective, point),) = target().points([tmp_path / "w.pt"])
    assert torch.equal(objective.space.unflatten(point)["0.weight"], state["0.weight"])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_tied_parameters_need_one_of_their_names(tmp_path):
    model = Tied()
    save_model(model, str(tmp_path / "w.safetensors"))  # drops one of the two names
    read = read_weights(tmp_path / "w.safetensors", model.state_dict())
    assert torch.equal(read["first.weight"], read["second.weight"])
    torch.save({"second.weight": model.second.weight.detach()}, tmp_path / "second.pt")
    inputs, _ = data()
    ((objective, point),) = Target((Tied(), nn.MSELoss(), inputs, inputs)).points([tmp_path / "second.pt"])
    assert float(objective.value(point)) == pytest.approx(float(nn.MSELoss()(model(inputs), inputs).detach()), rel=1e-6)


def test_a_state_dict_is_found_inside_a_checkpoint_of_a_wrapped_model(tmp_path):
    state = network().state_dict()
    optimizer = torch.optim.Adam(network().parameters())
    wrapped = {f"_orig_mod.{name}": value for name, value in state.items()}
    torch.save({"train": {"net": wrapped}, "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt", network().state_dict())
    assert torch.equal(read["3.weight"], state["3.weight"])


def altered(name: str, value: object) -> dict[str, object]:
    """The state dict with one entry changed, or taken out where the value is None."""
    state = {**network().state_dict(), name: value}
    return {key: held for key, held in state.items() if held is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (altered("3.bias", None), r"holds no '3\.bias'.*among its 8 entries are '0\.weight'"),
        (altered("1.running_var", None), r"holds no '1\.running_var'"),
        (altered("4.weight", torch.ones(2)), r"holds '4\.weight', which this model has not"),
        (altered("0.bias", torch.full((4,), float("nan"))), r"4 of 4 entries of '0\.bias' are NaN .* earlier"),
        (altered("0.bias", torch.ones(5)), r"'0\.bias' has shape \(5,\), in this model \(4,\)"),
        (altered("0.bias", [1.0] * 4), r"'0\.bias' is a list, not a tensor"),
        (altered("0.bias", torch.ones(4, dtype=torch.complex64)), r"'0\.bias' is complex"),
        ({f"backbone.{name}": value for name, value in network().state_dict().items()}, "are 'backbone.0.weight'"),
        (torch.ones(3), "holds no state dict"),
        ({}, "it is empty"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_differs(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(tw.InvalidInputError, match=message):
        read_weights(tmp_path / "w.pt", network().state_dict())


def test_files_that_are_no_weights_are_refused_with_why(tmp_path):
    wanted = network().state_dict()
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(tw.InvalidInputError, match="cut off or of another kind"):
        read_weights(tmp_path / "text.pt", wanted)
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(tw.InvalidInputError) as refusal:
        read_weights(tmp_path / "whole.pt", wanted)
    assert "something else than tensors" in str(refusal.value)
    assert "weights_only" not in str(refusal.value)  # torch's advice to load it all the same is not passed on
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(tw.InvalidInputError, match="is a folder"):
        read_weights(tmp_path / "folder.pt", wanted)


@pytest.mark.parametrize("text", ["import sys\nsys.exit(3)\n", "def build():\n    raise SystemExit(3)\n"])
def test_a_script_that_exits_is_an_error_with_advice(tmp_path, text):
    path = tmp_path / "exits_early.py"
    path.write_text(text)
    with pytest.raises(tw.InvalidInputError, match=r"called sys\.exit; put what is meant for a script under"):
        load_target(f"{path}:build")


def test_all_files_are_read_before_the_first_is_inspected(tmp_path):
    trained(tmp_path / "good.pt", 1)
    torch.save({"other": torch.ones(1)}, tmp_path / "bad.pt")
    with pytest.raises(tw.InvalidInputError, match=r"bad\.pt"):
        next(target().points([tmp_path / "good.pt", tmp_path / "bad.pt"]))
