"""The verb: everything below, asked of one point, in the order of what matters most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.foundation import (
    InvalidInputError,
    MemoryLimitError,
    NotApplicableError,
    Progress,
    RunControl,
    parse_duration,
    progress_bar,
)
from thalweg.inspection import curvature as curved
from thalweg.inspection.findings import Evidence, collect_findings
from thalweg.inspection.flat import verify_flat
from thalweg.inspection.forecast import dense_candidates, krylov_path, line_candidates, try_steps
from thalweg.inspection.noise import measure_noise
from thalweg.inspection.pace import pace_of
from thalweg.inspection.point import measure_point
from thalweg.inspection.proposals import level_lines, structural_candidates
from thalweg.inspection.records import Curvature, FlatGroup, Forecast, Noise, Pace, Point, Skipped, Slice, Units
from thalweg.inspection.ruling import TOLERANCE, judge_point, relative_gradient
from thalweg.inspection.slices import cut_slices
from thalweg.inspection.units import measure_units
from thalweg.inspection.verdict import Kind, Polish, Verdict
from thalweg.objectives import Capability, EmpiricalRisk, Objective, as_theta, find_risk
from thalweg.structure.tracing import TraceReport, explain_trace

__all__ = ["inspect"]

CG_STEPS = 24
"""Products spent on each Krylov path of the matrix-free forecast."""

T = TypeVar("T")


def inspect(
    target: Objective | nn.Module,
    *risk: Any,
    theta: Any = None,
    polish: bool = False,
    budget: float | str | None = None,
    tolerance: float = TOLERANCE,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    stop_event: threading.Event | None = None,
    show_progress: bool | None = None,
    **options: Any,
) -> Verdict:
    """Say what point a network stands at, why it is stuck or slow, and what to do next.

    ``inspect(objective, theta)`` or, short, ``inspect(model, loss, inputs, targets)``, where everything after the model
    goes to `EmpiricalRisk` and the model's own parameters are inspected. Ctrl-C ends the inspection early and returns
    what was found until then; `Verdict.complete` is False then.

    Args:
        target: an objective or a torch module.
        risk: for an objective, the point (anything `as_theta` reads); for a module, loss and data as for
            `EmpiricalRisk`.
        theta: the point, where it was not given by position; the objective's own ``initial`` if it has one.
        polish: first go to the critical point nearby, keeping its kind: a saddle stays a saddle.
        budget: seconds, or a text such as ``"2m"``; None sets no limit. What does not fit is left out and named.
        tolerance: of the relative gradient ``||g|| / (||H|| ||theta||)`` of a stationary point.
        learning_rate: the step size in use, to be compared with what is stable here.
        batch_size: the mini-batch size in use, to be compared with the noise here.
        seed: of the random choices (starting vector, samples).
        stop_event: set it from elsewhere to end early.
        show_progress: None shows a bar in a terminal.
        options: for a module, keywords of `EmpiricalRisk`.

    Raises:
        InvalidInputError: for a batch of points, NaN, or arguments that do not fit.

    >>> from thalweg.zoo import Quadratic
    >>> verdict = inspect(Quadratic([-1.0, 2.0, 5.0]), torch.zeros(3))
    >>> verdict.kind.value, verdict.index
    ('saddle', 1)
    """
    objective, start = _read_target(target, risk, theta, options)
    if not (tolerance > 0):
        raise InvalidInputError(f"tolerance must be positive, got {tolerance}")
    control = RunControl(parse_duration(budget), stop_event)
    with progress_bar("inspecting", total=None, show=show_progress) as bar:
        job = _Job(objective, start, control, bar, seed, tolerance, learning_rate, batch_size)
        return job.run(polish)


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
            f"inspect takes an Objective or an nn.Module, got {type(target).__name__}: inspect(model, loss, inputs, "
            f"targets)"
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


class _StoppedError(Exception):
    """Raised between parts when the work has to end."""


@dataclass
class _Job:
    """One inspection under way; what was measured so far survives an interrupt."""

    objective: Objective
    theta: Float[Tensor, " P"]
    control: RunControl
    bar: Progress
    seed: int
    tolerance: float
    learning_rate: float | None
    batch_size: int | None
    point: Point | None = None
    curvature: Curvature | None = None
    hessian: Tensor | None = None
    flat: tuple[FlatGroup, ...] = ()
    steps: list[Forecast] = field(default_factory=list)
    pace: Pace | None = None
    noise: Noise | None = None
    units: tuple[Units, ...] = ()
    slices: tuple[Slice, ...] = ()
    polish: Polish | None = None
    trace: TraceReport | None = None
    skipped: list[Skipped] = field(default_factory=list)
    complete: bool = True

    def run(self, polish: bool) -> Verdict:
        """All parts in order of importance, until the end or a stop."""
        if polish:
            self._polish()
        self.bar.update(description="inspecting: value and gradient")
        self.point = measure_point(self.objective, self.theta)
        parts: list[tuple[str, Callable[[], None]]] = [
            ("curvature", self._curve),
            ("flat directions", self._find_flat),
            ("what a step would gain", self._forecast),
            ("hidden units", self._look_at_units),
            ("noise of mini-batches", self._listen),
            ("slices", self._cut),
        ]
        for number, (name, part) in enumerate(parts):
            with self._guarded(name, [later for later, _ in parts[number:]]) as go:
                if go:
                    part()
            if not self.complete:
                break
        return self._conclude()

    @contextmanager
    def _guarded(self, name: str, remaining: list[str]) -> Iterator[bool]:
        """Run one part; what stops it is written down, and what was found before stays."""
        self.bar.update(description=f"inspecting: {name}")
        why = self.control.why_stop()
        try:
            if why is not None:
                raise _StoppedError(why)
            yield True
        except (NotApplicableError, MemoryLimitError) as error:
            self.skipped.append(Skipped(name, str(error)))
        except KeyboardInterrupt:
            self._stop(remaining, "interrupted")
        except _StoppedError as stopped:
            self._stop(remaining, str(stopped))
            yield False

    def _stop(self, remaining: list[str], why: str) -> None:
        self.complete = False
        self.skipped.extend(Skipped(name, why) for name in remaining)

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _polish(self) -> None:
        self.bar.update(description="inspecting: polishing")
        before = self.objective.evaluate(self.theta, 1)
        assert before.gradient is not None
        from thalweg.solvers import find_critical_point

        solution = find_critical_point(self.objective, self.theta)
        self.polish = Polish(
            moved=float((solution.theta - self.theta).norm()),
            gradient_before=float(before.gradient.abs().max()),
            gradient_after=float(solution.gradient_norm),
            value_change=float(solution.value - before.value),
            status=f"{solution.status.value}: {solution.message}",
        )
        self.theta = solution.theta

    def _curve(self) -> None:
        assert self.point is not None
        if self.objective.path.second == "none":
            raise NotApplicableError(
                "the loss cannot be differentiated twice here: " + "; ".join(self.objective.path.notes)
            )
        if self.dense:
            self.curvature, self.hessian = curved.dense_curvature(self.objective, self.theta, self._samples)
            self.point = curved.add_block_curvature(self.point, self.objective, self.hessian)
            return
        products = self._affordable_products()
        self.curvature = curved.extreme_curvature(
            self.objective, self.theta, products=products, seed=self.seed, control=self.control, progress=self.bar
        )
        pairs = self.curvature.pairs if self.curvature is not None else None
        if pairs is not None and pairs.reason in ("interrupted", "time limit"):
            raise _StoppedError(pairs.reason)

    def _find_flat(self) -> None:
        assert self.point is not None
        if self.curvature is None:
            return
        proposed = []
        risk, report = find_risk(self.objective), self._structure()
        if risk is not None and report is not None and report.structure is not None and self.dense:
            proposed += structural_candidates(risk, report.structure, self.theta)
        if self._near_critical:
            proposed += level_lines(self.curvature)
        self.flat = verify_flat(self.objective, self.theta, self.point, proposed)
        level = self.flat if self._near_critical else tuple(group for group in self.flat if group.straight)
        if self.hessian is None or not (level or self._near_critical):
            return
        self.curvature, _ = curved.dense_curvature(
            self.objective,
            self.theta,
            self._samples,
            hessian=self.hessian,
            shift=self._hessian_shift() if self._near_critical else 0.0,
            flat=level,
        )

    def _forecast(self) -> None:
        assert self.point is not None
        if self.curvature is None or self.point.gradient_norm <= self.point.gradient_floor:
            self._forecast_descent()
            return
        if self.dense:
            self._forecast_dense()
        else:
            self._forecast_free()
        self._forecast_descent()
        self.steps.sort(key=lambda step: (not step.verified, -step.measured))

    def _look_at_units(self) -> None:
        risk = find_risk(self.objective)
        if risk is None:
            raise NotApplicableError("units belong to networks; this objective has no module")
        report = self._structure()
        if report is None or report.structure is None:
            why = report.reason if report is not None else "only some of its directions are free"
            raise NotApplicableError(f"the structure of the network is not known: {why}")
        self.units = measure_units(risk, report.structure, self.theta)

    def _listen(self) -> None:
        risk = find_risk(self.objective)
        if risk is None or risk is not self.objective:
            raise NotApplicableError("mini-batches belong to a loss over samples without other terms")
        if self._near_critical:
            raise NotApplicableError("the gradient vanishes here: there is no signal to compare noise with")
        self.noise = measure_noise(risk, self.theta, seed=self.seed)

    def _cut(self) -> None:
        assert self.point is not None
        verified = [step for step in self.steps if step.verified]
        best = max(verified, key=lambda step: step.measured) if verified else None
        points = 41 if self.dense else 17
        self.slices = cut_slices(self.objective, self.theta, self.point, self.curvature, best, points)

    def _structure(self) -> TraceReport | None:
        """The network traced, once; None where the objective has none, or frees only some of its directions."""
        risk = find_risk(self.objective)
        if risk is None or risk.space != self.objective.space:
            return None
        if self.trace is None:
            self.trace = explain_trace(risk.model, risk.inputs, risk.space, risk.forward)
        return self.trace

    # -- their parts ---------------------------------------------------------------------------------------------------

    @property
    def dense(self) -> bool:
        """Whether the Hessian is formed."""
        return self.objective.space.size <= curved.DENSE_BELOW

    @property
    def _samples(self) -> int:
        return max(1, self.objective.cost.samples)

    @property
    def _near_critical(self) -> bool:
        assert self.point is not None
        small = relative_gradient(self.point, self.curvature) <= self.tolerance
        return small or self.point.gradient_norm <= self.point.gradient_floor

    def _affordable_products(self) -> int:
        """Products that half of the time left pays for."""
        if self.control.budget is None:
            return curved.PRODUCTS
        started = time.monotonic()
        self.objective.hessian_product(self.theta, self.theta)
        each = max(time.monotonic() - started, 1e-6)
        return int(max(8, min(curved.PRODUCTS, self.control.remaining() / 2 / each)))

    def _hessian_shift(self) -> float:
        """How much the Hessian changes on the way to the critical point that a Newton step points at."""
        assert self.curvature is not None
        assert self.point is not None
        assert self.hessian is not None
        values, vectors = self.curvature.eigenvalues, self.curvature.vectors
        slopes = vectors.T @ self.point.gradient
        firm = values.abs() > 1e-9 * self.curvature.scale
        step = vectors @ torch.where(firm, -slopes / torch.where(firm, values, torch.ones_like(values)), 0 * slopes)
        if not bool(step.any()):
            return 0.0
        change = self.objective.hessian(self.theta + step) - self.hessian
        return 2 * float(torch.linalg.matrix_norm(change, ord=2))

    def _forecast_dense(self) -> None:
        assert self.point is not None
        assert self.curvature is not None
        point, curvature = self.point, self.curvature
        widest = 2 * max(point.theta_norm, 1.0)
        newton = dense_candidates(curvature.eigenvalues, curvature.vectors, point.gradient, widest)
        self._try("Newton", newton)
        slopes = curvature.vectors.T @ point.gradient
        excess = point.excess
        self.pace = pace_of(curvature.eigenvalues, slopes**2, curvature.highest, excess, exact=True)
        if Capability.GAUSS_NEWTON in self.objective.capabilities:
            values, vectors = torch.linalg.eigh(self.objective.gauss_newton(self.theta))
            self._try("Gauss-Newton", dense_candidates(values.clamp(min=0), vectors, point.gradient, widest))

    def _forecast_free(self) -> None:
        assert self.point is not None
        assert self.curvature is not None
        longest = 0.1 * max(self.point.theta_norm, 1.0)

        def stop() -> bool:
            return self.control.why_stop() is not None

        operator = self.objective.hessian_operator(self.theta)
        path = krylov_path(operator, self.point.gradient, CG_STEPS, longest, stop)
        del operator
        remark = "met negative curvature" if path.negative else ""
        if len(path.candidates.steps):
            self._try("Newton", path.candidates, remark)
        if len(path.ritz):
            excess = self.point.excess
            self.pace = pace_of(path.ritz, path.weights, self.curvature.highest, excess, exact=False)
        if Capability.GAUSS_NEWTON in self.objective.capabilities:
            gauss = self.objective.gauss_newton_operator(self.theta)
            path = krylov_path(gauss, self.point.gradient, CG_STEPS, longest, stop)
            if len(path.candidates.steps):
                self._try("Gauss-Newton", path.candidates)

    def _forecast_descent(self) -> None:
        """The gradient step, and the step along negative curvature."""
        assert self.point is not None
        point, curvature = self.point, self.curvature
        if curvature is None:
            return
        if point.gradient_norm > point.gradient_floor and curvature.highest > 0:
            direction = point.gradient / point.gradient_length
            bend = float(direction @ self.objective.hessian_product(self.theta, direction))
            longest = 2 * point.gradient_length / curvature.highest
            self._try("gradient", line_candidates(direction, point.gradient_length, bend, longest))
        if curvature.lowest.negative:
            vector = curvature.lowest_vector
            slope = float(point.gradient @ vector)
            longest = max(point.theta_norm, 1.0)
            self._try("negative curvature", line_candidates(vector, slope, curvature.lowest.value, longest))

    def _try(self, name: str, candidates: Any, remark: str = "") -> None:
        assert self.point is not None
        found = try_steps(self.objective, self.theta, self.point.value, name, candidates, lambda _: remark)
        if found is not None:
            self.steps.append(found)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _conclude(self) -> Verdict:
        assert self.point is not None
        kind = Kind.UNDECIDED
        reasons: tuple[str, ...] = ("the inspection was interrupted before it could be judged",)
        try:
            kind, reasons = judge_point(
                self.objective, self.theta, self.point, self.curvature, self.flat, self.tolerance
            )
        except KeyboardInterrupt:
            self.complete = False
        self.steps.sort(key=lambda step: (not step.verified, -step.measured))
        evidence = Evidence(
            kind=kind,
            point=self.point,
            curvature=self.curvature,
            steps=tuple(self.steps),
            pace=self.pace,
            noise=self.noise,
            units=self.units,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )
        return Verdict(
            kind=kind,
            reasons=reasons,
            objective=repr(self.objective),
            fingerprint=self.objective.fingerprint(),
            point=self.point,
            curvature=self.curvature,
            flat=self.flat,
            steps=tuple(self.steps),
            pace=self.pace,
            noise=self.noise,
            units=self.units,
            slices=self.slices,
            findings=collect_findings(evidence),
            skipped=tuple(self.skipped),
            polish=self.polish,
            complete=self.complete,
            seconds=self.control.elapsed(),
            theta=self.theta,
        )
