"""A network that computes something of its inputs before its first layer: what that gives is rounded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.certificates import Level, Outcome
from thalweg.certificates.case import Case


class Scaled(nn.Module):
    """Bytes become numbers between 0 and 1, as in many loaders."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x / 255 if self.inside else x)


def _risk(inside: bool) -> tw.EmpiricalRisk:
    torch.manual_seed(0)
    model, x = Scaled(inside), torch.randint(0, 256, (12, 3)).double()
    return tw.EmpiricalRisk(model, nn.MSELoss(), x if inside else x / 255, torch.sin(x[:, :1]))


def test_the_value_is_estimated_where_the_network_rescales_its_inputs() -> None:
    for inside, level in ((False, Level.RIGOROUS), (True, Level.NUMERIC)):
        risk = _risk(inside)
        assert Case(risk, risk.initial).value.level is level


def test_no_certificate_takes_rescaled_inputs_as_exact() -> None:
    """What is proved from bounds of rounding is proved for inputs as given, and only there."""
    found = {}
    for inside in (False, True):
        risk = _risk(inside)
        theta = risk.initial.clone()
        theta[risk.space["body.2.weight"].slice][0] = 0.0  # a silent unit: one more certificate has something to say
        found[inside] = {each.name: each for each in tw.certify(risk, theta)}
    stricter = {name for name, each in found[False].items() if each.established and each.level is Level.RIGOROUS}
    same = {name for name, each in found[True].items() if each.established and each.level is Level.RIGOROUS}
    assert {"gradient", "silent units"} <= stricter
    assert not {"gradient", "silent units"} & same
    assert found[True]["silent units"].outcome is Outcome.NOT_APPLICABLE
    assert "can be done to the data beforehand" in found[True]["silent units"].reason


def test_the_hessian_that_is_handed_over_is_used() -> None:
    risk = _risk(False)
    wrong = torch.eye(risk.space.size, dtype=torch.float64)
    assert Case(risk, risk.initial, hessian=wrong).hessian is wrong


class Sized(nn.Module):
    """Linear on few samples, bent on many: what was traced on few is not what is minimised."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) if len(x) <= 4 else torch.tanh(3 * self.map(x))


def test_nothing_rests_on_a_description_that_all_data_contradict() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 3).double()
    risk = tw.EmpiricalRisk(Sized().double(), nn.MSELoss(), x, torch.sin(x[:, :1]), batch_size=12)
    found = {each.name: each for each in tw.certify(risk, risk.initial)}
    assert Case(risk, risk.initial).value.level is Level.NUMERIC
    for name in ("gradient", "label collisions"):  # an estimate, and what holds for any function
        assert found[name].established
        assert not any("description" in one.statement for one in found[name].hypotheses)
    assert found["gradient"].level is Level.NUMERIC
    for name in ("linear network", "interval gradient", "last layer refit", "critical point nearby"):
        assert not found[name].established
        assert "the network is as its description says" in found[name].reason


def test_what_rests_on_the_description_says_so() -> None:
    risk = _risk(False)
    theta = risk.initial.clone()
    theta[risk.space["body.2.weight"].slice][0] = 0.0
    found = {each.name: each for each in tw.certify(risk, theta)}
    resting = {"gradient", "interval gradient", "gap", "fibre descent"}  # the last: on what was found at a moved point
    for name in (*resting, "label collisions"):
        rests = name in resting
        assert found[name].established
        stated = [one for one in found[name].hypotheses if one.statement == "the network is as its description says"]
        assert len(stated) == rests, name
