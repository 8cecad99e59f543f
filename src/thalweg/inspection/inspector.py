"""The verb: everything below, asked of one point."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from thalweg.certificates import Certifier
from thalweg.foundation import InvalidInputError, RunControl, parse_duration, progress_bar
from thalweg.inspection.job import Job
from thalweg.inspection.ruling import TOLERANCE
from thalweg.inspection.verdict import Verdict
from thalweg.objectives import EmpiricalRisk, Objective, as_theta, find_risk

__all__ = ["inspect"]


def inspect(
    target: Objective | nn.Module,
    *risk: Any,
    theta: Any = None,
    polish: bool = False,
    budget: float | str | None = None,
    tolerance: float = TOLERANCE,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    certificates: Iterable[str | Certifier] | None = None,
    seed: int = 0,
    stop_event: threading.Event | None = None,
    show_progress: bool | None = None,
    **options: Any,
) -> Verdict:
    """Say what point a network stands at, why it is stuck or slow, and what to do next.

    ``inspect(objective, theta)`` or, short, ``inspect(model, loss, inputs, targets)``, where everything after the model
    goes to `EmpiricalRisk` and the model's own parameters are inspected. Ctrl-C ends the inspection early and returns
    what was found until then, with `Verdict.complete` False (before the gradient is known there is nothing to return,
    and the interrupt goes on).

    Args:
        target: an objective or a torch module.
        risk: for an objective, the point (anything `as_theta` reads); for a module, loss and data as for
            `EmpiricalRisk`.
        theta: the point, where it was not given by position; the objective's own ``initial`` if it has one.
        polish: first go to the critical point nearby, keeping its kind: a saddle stays a saddle.
        budget: seconds, or a text such as ``"2m"``; None sets no limit. What does not fit is left out and named; at
            most half of it goes into polishing.
        tolerance: of the relative gradient ``||g|| / (||H|| ||theta||)`` of a stationary point.
        learning_rate: the step size in use by gradient descent (SGD), to be compared with what is stable here; that of
            Adam cannot be compared.
        batch_size: the mini-batch size in use, to be compared with the noise here.
        certificates: names of certifiers, or certifiers, to be asked (`thalweg.certify`); None asks all that can be
            afforded, an empty list none.
        seed: of the random choices (starting vector, samples).
        stop_event: set it from elsewhere to end early.
        show_progress: None shows a bar in a terminal.
        options: for a module, keywords of `EmpiricalRisk`.

    Raises:
        InvalidInputError: for a batch of points, a loss or gradient that is not finite there, or arguments that do not
            fit.

    >>> import torch
    >>> from thalweg.zoo import Quadratic
    >>> verdict = inspect(Quadratic([-1.0, 2.0, 5.0]), torch.zeros(3))
    >>> verdict.kind.value, verdict.index
    ('saddle', 1)
    """
    objective, start = _read_target(target, risk, theta, options)
    _check_settings(objective, tolerance, learning_rate, batch_size)
    control = RunControl(parse_duration(budget), stop_event)
    with progress_bar("inspecting", total=100, show=show_progress) as bar:
        module = isinstance(target, nn.Module)
        settings = (seed, tolerance, learning_rate, batch_size, module, certificates)
        return Job(objective, start, control, bar, *settings).run(polish)


def _check_settings(
    objective: Objective, tolerance: float, learning_rate: float | None, batch_size: int | None
) -> None:
    if not (tolerance > 0):
        raise InvalidInputError(f"tolerance must be positive, got {tolerance}")
    if learning_rate is not None and not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InvalidInputError(f"learning_rate is the step size in use, a positive number; got {learning_rate}")
    if batch_size is None:
        return
    risk = find_risk(objective)
    most = risk.n_samples if risk is not None else batch_size
    if not 1 <= batch_size <= most:
        raise InvalidInputError(
            f"batch_size is the number of samples in a mini-batch in use, 1 to {max(1, most)} here; got {batch_size}"
        )


def _read_target(target: Any, risk: tuple[Any, ...], theta: Any, options: dict[str, Any]) -> tuple[Objective, Tensor]:
    if isinstance(target, nn.Module):
        objective: Objective = EmpiricalRisk(target, *risk, **options)
        given = theta
    elif isinstance(target, Objective):
        if options:
            raise InvalidInputError(f"{', '.join(options)} belong to a module, but an objective was given")
        if len(risk) > 1 or (risk and theta is not None):
            raise InvalidInputError("inspect(objective, theta) takes one point")
        objective, given = target, risk[0] if risk else theta
    else:
        raise InvalidInputError(
            f"inspect takes an Objective or an nn.Module, got {type(target).__name__}: "
            "inspect(model, loss, inputs, targets)"
        )
    if given is None:
        given = getattr(find_risk(objective) or objective, "initial", None)
        if given is None or given.shape != (objective.space.size,):
            raise InvalidInputError("which point? Pass inspect(objective, theta)")
    point = as_theta(given, objective)
    if point.dim() != 1:
        raise InvalidInputError(
            f"inspect takes one point ({objective.space.size},), got {tuple(point.shape)}; loop over them"
        )
    return objective, point
