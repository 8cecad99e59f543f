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
