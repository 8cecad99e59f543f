"""The network inside an objective, traced once for all who ask."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from thalweg.objectives.convert import find_risk
from thalweg.objectives.objective import Objective
from thalweg.objectives.risk import EmpiricalRisk
from thalweg.structure import TraceReport, explain_trace

__all__ = ["explain_network"]

_REPORTS: WeakKeyDictionary[EmpiricalRisk, TraceReport] = WeakKeyDictionary()
"""What came of each trace. A risk never changes, so neither does its network."""


def explain_network(objective: Objective) -> TraceReport:
    """The structure of the network whose parameters an objective takes, or the reason why there is none.

    Args:
        objective: an empirical risk, or a sum that holds one.

    >>> import torch
    >>> from torch import nn
    >>> risk = EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), torch.ones(3, 2), torch.zeros(3, 1))
    >>> explain_network(risk).structure is explain_network(risk).structure
    True
    """
    risk = find_risk(objective)
    if risk is None:
        return TraceReport(None, "the loss has no term over data, or several")
    if risk.space != objective.space:
        return TraceReport(None, "only some of its directions are free")
    if risk not in _REPORTS:
        _REPORTS[risk] = explain_trace(risk.model, risk.inputs, risk.space, risk.forward)
    return _REPORTS[risk]
