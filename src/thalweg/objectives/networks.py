"""The network inside an objective."""

from __future__ import annotations

from thalweg.objectives.convert import find_risk
from thalweg.objectives.objective import Objective
from thalweg.structure import TraceReport

__all__ = ["explain_network"]


def explain_network(objective: Objective) -> TraceReport:
    """The structure of the network whose parameters an objective takes, or the reason why there is none.

    Args:
        objective: an empirical risk, or a sum that holds one.

    >>> import torch
    >>> from torch import nn
    >>> from thalweg.objectives import EmpiricalRisk
    >>> risk = EmpiricalRisk(nn.Linear(2, 1), nn.MSELoss(), torch.ones(3, 2), torch.zeros(3, 1))
    >>> explain_network(risk).structure.as_dense().widths
    (2, 1)
    """
    risk = find_risk(objective)
    if risk is None:
        return TraceReport(None, "the loss has no term over data, or several")
    if risk.space != objective.space:
        return TraceReport(None, "only some of its directions are free")
    return risk.trace_report
