"""Gradient flow itself: the path that gradient descent takes in the limit of small steps, at chosen times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.foundation import InvalidInputError, RunControl, parse_duration, progress_bar, require_memory
from thalweg.objectives import Objective
from thalweg.solvers.method import max_norm
from thalweg.solvers.newton import decompose, predict_memory
from thalweg.solvers.rosenbrock import RODAS4, Spectrum, Step, next_length, root_mean_square, rosenbrock_step, steepest
from thalweg.solvers.solution import in_batch_shape
from thalweg.solvers.starts import checked_starts

__all__ = ["Trajectory", "gradient_flow"]

_SHORTEST = 64
"""A step shorter than this many units in the last place of the time reached is none."""


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """Gradient flow from every start of a batch ``*b``, at k times.

    Attributes:
        times: ``(k,)``, ascending, the first is zero. Time belongs to the objective as it is: that of a mean over N
            samples runs N times slower than that of their sum.
        theta: ``(*b, k, P)``; NaN at times that were not reached.
        value: ``(*b, k)``.
        gradient_norm: ``(*b, k)``, maximum norm of the gradient.
        reached: ``(*b)``, the time up to which the flow was followed.
        steps: ``(*b)``, accepted.
        rejected: ``(*b)``.
        ended: how each flow ended, an object array (a text for a single start): ``"end of time"``, ``"stationary"``
            (the gradient fell below its tolerance: it stays there), or ``"step limit"``, ``"step too short"``, ``"time
            limit"``, ``"interrupted"`` where the end was not reached.
        seconds: wall time of the whole batch.
    """

    times: Float[Tensor, " k"]
    theta: Float[Tensor, "*b k P"]
    value: Float[Tensor, "*b k"]
    gradient_norm: Float[Tensor, "*b k"]
    reached: Float[Tensor, "*b"]
    steps: Int[Tensor, "*b"]
    rejected: Int[Tensor, "*b"]
    ended: Any
    seconds: float

    @property
    def end(self) -> Float[Tensor, "*b P"]:
        """Where each flow stands at the last time."""
        return self.theta[..., -1, :]

    def __repr__(self) -> str:
        ends = [self.ended] if isinstance(self.ended, str) else list(self.ended.ravel())
        counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
        return (
            f"<Trajectory of {len(ends)} flow{'s' if len(ends) != 1 else ''} to t = {float(self.times[-1]):.6g} at "
            f"{len(self.times)} times; {counts}; at most {int(self.steps.max())} steps, {self.seconds:.2f} s>"
        )


def gradient_flow(
    objective: Objective,
    theta: Float[Tensor, "*batch P"] | Any = None,
    time: float | None = None,
    *,
    times: Float[Tensor, " k"] | None = None,
    samples: int = 100,
    inverse_time_constants: float | Tensor | Mapping[str, float] = 1.0,
    rtol: float = 1e-6,
    stationary: float = 0.0,
    max_steps: int = 100_000,
    starts: int | None = None,
    seed: int | None = None,
    time_budget: float | str | None = None,
    progress: bool | None = None,
) -> Trajectory:
    """Follow ``theta' = -tau^-1 * grad L(theta)`` with control of the error, stiff valleys included.

    Each step takes one Hessian, one eigendecomposition and five gradients (RODAS4, see `thalweg.solvers.rosenbrock`),
    for all starts in one batch; the error of a step is held below `rtol`, relative to each parameter and to the root
    mean square of all. Between steps the path is interpolated to third order.

    Args:
        objective: whose flow it is.
        theta: starts ``(*batch, P)``, or whatever `thalweg.objectives.as_theta` converts; None takes the parameters the
            objective came with.
        time: when the flow ends.
        times: at which the path is wanted, in place of `time`: ascending, not negative; zero is put first.
        samples: without `times`, the path is kept at zero and at so many times, spaced evenly on a logarithmic scale
            from a millionth of `time`.
        inverse_time_constants: tau^-1, one for all parameters, one each ``(P,)``, or by globs of blocks, such as
            ``{"0.*": 0.0}``, where 0 freezes parameters exactly and blocks not named have 1.
        rtol: tolerance of the error of a step.
        stationary: the flow is taken to stay where the maximum norm of its velocity falls below this.
        max_steps: per start.
        starts: draw this many random starts instead of `theta`.
        seed: of those.
        time_budget: seconds, or a text such as ``"2m"``.
        progress: show a bar; None shows it in a terminal.

    Returns:
        A `Trajectory`. An interrupt from the keyboard returns what there is.

    Raises:
        InvalidInputError: for starts or times that make no sense.
        MemoryLimitError: where Hessians, or the path, would not fit.

    >>> from thalweg.objectives import L2
    >>> from thalweg.foundation import ParameterSpace
    >>> bowl = L2(ParameterSpace({"x": (2,)}), strength=2.0)
    >>> path = gradient_flow(bowl, torch.tensor([1.0, -3.0]), times=torch.tensor([0.5, 1.0]))
    >>> bool(torch.allclose(path.end, torch.tensor([1.0, -3.0], dtype=torch.float64) * torch.exp(torch.tensor(-2.0))))
    True
    """
    points, batch = checked_starts(objective, theta, starts, seed)
    when = _times(time, times, samples, points)
    if not 0 < rtol < 1 or stationary < 0 or max_steps < 1:
        raise InvalidInputError(
            f"rtol must lie between 0 and 1, stationary not be negative and max_steps be at least 1, got {rtol}, "
            f"{stationary} and {max_steps}"
        )
    item = points.element_size()
    require_memory(2 * points.numel() * len(when) * item, "the path", "Ask for fewer samples, or fewer starts at once.")
    predict_memory(objective, len(points))
    flow = _Flow(objective, points, _rates(objective, inverse_time_constants).sqrt(), when, rtol, stationary, max_steps)
    control = RunControl(parse_duration(time_budget))
    try:
        with progress_bar(f"gradient flow, {len(points)} starts", total=len(points), show=progress) as bar:
            while len(flow.running):
                reason = control.why_stop()
                if reason is not None:
                    flow.stop(torch.ones_like(flow.running, dtype=torch.bool), reason)
                else:
                    flow.advance()
                    bar.update(len(points) - len(flow.running))
    except KeyboardInterrupt:
        flow.stop(torch.ones_like(flow.running, dtype=torch.bool), "interrupted")
    return flow.trajectory(batch, control.elapsed())


class _Flow:
    """The flows that are still running, in coordinates in which the Hessian of ``tau^-1 * grad`` is symmetric.

    With ``theta = theta_0 + s * z`` and s the root of tau^-1, the flow of z is that of the loss as a function of z:
    ``z' = -s * grad L``, its Hessian ``s H s``, also where s is zero.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        root: Tensor,
        times: Tensor,
        rtol: float,
        stationary: float,
        max_steps: int,
    ) -> None:
        self.objective, self.root, self.times, self.rtol = objective, root, times, rtol
        self.stationary, self.max_steps = stationary, max_steps
        count = len(theta)
        self.running = torch.arange(count, device=theta.device)
        self.path = theta.new_full((count, len(times), theta.shape[1]), torch.nan)
        self.path[:, 0] = theta
        self.next = torch.ones_like(self.running)  # the first time not yet passed
        self.reached = theta.new_zeros(count)
        self.steps, self.rejected = torch.zeros_like(self.running), torch.zeros_like(self.running)
        self.ended = [""] * count
        self.theta = theta.clone()
        self.pull, self.spectrum = self._measured(theta)
        self.length = steepest(theta, self.pull, root_mean_square(theta).clamp(min=1e-3))
        if len(times) == 1:
            self.stop(torch.ones_like(self.running, dtype=torch.bool), "end of time")
        self._end_stationary()

    def _measured(self, theta: Tensor) -> tuple[Tensor, Spectrum]:
        """Gradient and Hessian in z."""
        found = self.objective.evaluate(theta, 2)
        assert found.gradient is not None
        assert found.hessian is not None
        values, vectors = decompose(self.root[:, None] * found.hessian * self.root)
        return self.root * found.gradient, Spectrum(values, vectors)

    def advance(self) -> None:
        """Try a step in every flow that runs."""
        here, last = self.running, self.times[-1]
        length = torch.minimum(torch.minimum(self.length, self.spectrum.longest()), last - self.reached[here])
        origin = self.theta

        def pull(z: Tensor) -> Tensor:
            return self.root * self.objective.gradient(origin + self.root * z)

        trial = rosenbrock_step(RODAS4, pull, torch.zeros_like(origin), self.pull, self.spectrum, length)
        ends = origin + self.root * trial.theta
        shift = Step(origin, ends, self.root * trial.error, tuple(self.root * each for each in trial.inside))
        floor = self.rtol * torch.maximum(root_mean_square(origin), root_mean_square(ends)).unsqueeze(1)
        misfit = shift.misfit(self.rtol, floor)
        good = misfit <= 1
        self.length = next_length(length, misfit, RODAS4.order)
        self.steps[here] += good
        self.rejected[here] += ~good
        self._keep(shift, good, length)
        rows = good.nonzero().squeeze(1)
        if len(rows):
            self.theta = self.theta.clone()
            self.theta[rows] = ends[rows]
            self.pull[rows], fresh = self._measured(ends[rows])
            self.spectrum.values[rows], self.spectrum.vectors[rows] = fresh.values, fresh.vectors
        unit = torch.finfo(last.dtype).eps
        self.stop(self.reached[self.running] >= last * (1 - 4 * unit), "end of time")
        self._end_stationary()
        tiny = self.length < _SHORTEST * unit * self.reached[self.running]
        self.stop(tiny | ~torch.isfinite(self.pull).all(1), "step too short")
        self.stop(self.steps[self.running] + self.rejected[self.running] >= self.max_steps, "step limit")

    def _keep(self, step: Step, good: Tensor, length: Tensor) -> None:
        """Write down the path at the times that lie inside the steps taken."""
        before = self.reached[self.running]
        after = before + length
        after = torch.where(after >= self.times[-1] * (1 - 1e-15), self.times[-1], after)
        while True:
            number = self.next[self.running]
            due = self.times[number.clamp(max=len(self.times) - 1)]
            rows = (good & (number < len(self.times)) & (due <= after)).nonzero().squeeze(1)
            if not len(rows):
                break
            fraction = ((due - before) / length)[rows].clamp(max=1.0)
            part = Step(step.start[rows], step.theta[rows], step.error[rows], tuple(e[rows] for e in step.inside))
            whole = (fraction == 1.0)[:, None]
            self.path[self.running[rows], number[rows]] = torch.where(whole, part.theta, part.at(fraction))
            self.next[self.running[rows]] += 1
        self.reached[self.running] = torch.where(good, after, before)

    def _end_stationary(self) -> None:
        still = max_norm(self.root * self.pull) <= self.stationary
        for row in still.nonzero().squeeze(1).tolist():
            owner = int(self.running[row])
            self.path[owner, int(self.next[owner]) :] = self.theta[row]
            self.reached[owner] = self.times[-1]
        self.stop(still, "stationary")

    def stop(self, rows: Tensor, why: str) -> None:
        """Take some flows out, with the reason."""
        for owner in self.running[rows].tolist():
            self.ended[owner] = why
        if bool(rows.any()):
            rest = (~rows).nonzero().squeeze(1)
            self.running, self.theta, self.pull = self.running[rest], self.theta[rest], self.pull[rest]
            self.length, self.spectrum = self.length[rest], self.spectrum.take(rest)

    def trajectory(self, batch: torch.Size, seconds: float) -> Trajectory:
        """What was found, in the batch shape of the starts."""
        found = self.objective.evaluate(self.path, 1)
        assert found.gradient is not None
        norm = torch.where(torch.isnan(found.gradient).any(-1), torch.nan, max_norm(found.gradient))
        k = len(self.times)
        return Trajectory(
            times=self.times,
            theta=self.path.reshape(*batch, k, self.path.shape[2]),
            value=found.value.reshape(*batch, k),
            gradient_norm=norm.reshape(*batch, k),
            reached=self.reached.reshape(batch),
            steps=self.steps.reshape(batch),
            rejected=self.rejected.reshape(batch),
            ended=in_batch_shape(self.ended, batch),
            seconds=seconds,
        )


def _times(time: float | None, times: Tensor | None, samples: int, like: Tensor) -> Tensor:
    if (time is None) == (times is None):
        raise InvalidInputError("say how long to follow the flow: either time=100.0 or times=torch.tensor([...])")
    if time is not None:
        if not 0 < time < float("inf") or samples < 1:
            raise InvalidInputError(f"time must be positive and finite and samples at least 1, got {time}, {samples}")
        found = torch.as_tensor(np.geomspace(1e-6 * time, time, samples) if samples > 1 else np.array([time]))
    else:
        found = torch.as_tensor(times).detach().to(torch.float64).reshape(-1).cpu()
        fine = bool(len(found) > 0 and torch.isfinite(found).all() and found[0] >= 0 and (found.diff() > 0).all())
        if not fine:
            raise InvalidInputError(f"times must be finite, not negative and ascending, got {found.tolist()[:8]}")
    found = found if float(found[0]) == 0 else torch.cat([found.new_zeros(1), found])
    return found.to(like)


def _rates(objective: Objective, given: float | Tensor | Mapping[str, float]) -> Float[Tensor, " P"]:
    """tau^-1 of every parameter."""
    size = objective.space.size
    rates = torch.ones(size, dtype=objective.dtype, device=objective.device)
    if isinstance(given, Mapping):
        for pattern, rate in given.items():
            rates[objective.space.select(pattern).to(rates.device)] = float(rate)
    else:
        wanted = torch.as_tensor(given).detach().to(rates)
        if wanted.shape not in (torch.Size([]), torch.Size([size])):
            raise InvalidInputError(f"inverse_time_constants have shape {tuple(wanted.shape)}, expected ({size},)")
        rates = rates * wanted
    if not bool((torch.isfinite(rates) & (rates >= 0)).all()):
        raise InvalidInputError("inverse_time_constants must be finite and not negative")
    return rates
