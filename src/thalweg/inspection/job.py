"""One inspection under way: the order of its parts, what stops it, and what is kept then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, though torch's stubs do not say so

from thalweg.certificates import Certificate, Certifier, certify
from thalweg.foundation import NotApplicableError, Progress, RunControl, ThalwegError
from thalweg.inspection import curvature as curved
from thalweg.inspection.findings import Evidence, collect_findings
from thalweg.inspection.flat import FlatCandidate, verify_flat
from thalweg.inspection.gains import forecast_gains, steepest_gains
from thalweg.inspection.noise import measure_noise
from thalweg.inspection.point import measure_point
from thalweg.inspection.portions import SHARES, Piece
from thalweg.inspection.proofs import settle
from thalweg.inspection.proposals import level_lines, structural_candidates
from thalweg.inspection.records import Curvature, FlatGroup, Forecast, Noise, Pace, Point, Skipped, Slice, Units
from thalweg.inspection.ruling import judge_point, relative_gradient
from thalweg.inspection.slices import cut_slices
from thalweg.inspection.units import measure_units
from thalweg.inspection.verdict import Kind, Polish, Verdict
from thalweg.objectives import Objective, explain_network, find_risk
from thalweg.solvers import Status, find_critical_point

__all__ = ["Job"]


class _StoppedError(Exception):
    """Raised in or between parts when the work has to end."""


@dataclass
class Job:
    """What is inspected, with which settings, and what was measured so far; that survives an interrupt.

    Attributes:
        objective: the loss.
        theta: ``(P,)``; polishing moves it.
        control: time budget and stop event.
        bar: told what is going on, and how much is done in hundredths.
        seed: of the random choices.
        tolerance: of the relative gradient of a stationary point.
        learning_rate: the user's own, for the findings.
        batch_size: likewise.
        module: whether a module was given, with loss and data.
        certifiers: names of certifiers, or certifiers, to be asked; None asks all that can be afforded.
    """

    objective: Objective
    theta: Float[Tensor, " P"]
    control: RunControl
    bar: Progress
    seed: int
    tolerance: float
    learning_rate: float | None
    batch_size: int | None
    module: bool = False
    certifiers: Iterable[str | Certifier] | None = None
    point: Point | None = None
    curvature: Curvature | None = None
    hessian: Tensor | None = None
    flat: tuple[FlatGroup, ...] = ()
    steps: list[Forecast] = field(default_factory=list)
    pace: Pace | None = None
    noise: Noise | None = None
    units: tuple[Units, ...] = ()
    slices: tuple[Slice, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    polish: Polish | None = None
    skipped: list[Skipped] = field(default_factory=list)
    complete: bool = True
    done: float = 0.0

    def run(self, polish: bool) -> Verdict:
        """All parts in order of importance, until the end or a stop.

        Before value and gradient are known there is nothing to keep: an interrupt then goes to the caller.
        """
        left: list[tuple[str, Callable[[], None]]] = [
            ("curvature", self._curve),
            ("flat directions", self._find_flat),
            ("what a step would gain", self._forecast),
            ("hidden units", self._look_at_units),
            ("noise of mini-batches", self._listen),
            ("slices", self._cut),
            ("certificates", self._certify),
        ]
        why = self._try_to_polish() if polish else None
        self.bar.update(description="inspecting: value and gradient")
        self.point = measure_point(self.objective, self.theta)
        try:
            while left:
                self._go_on(why)
                self._do(*left[0])
                del left[0]
        except (KeyboardInterrupt, _StoppedError) as stopped:
            self.complete = False
            self.skipped.extend(Skipped(name, str(stopped) or "interrupted") for name, _ in left)
        return self._conclude()

    def _go_on(self, why: str | None = None) -> None:
        why = why or self.control.why_stop()
        if why is not None:
            raise _StoppedError(why)

    def _do(self, name: str, part: Callable[[], None]) -> None:
        """Run one part; where it does not apply or fit, meets NaN or fails to converge, that is written down."""
        self.bar.update(self.done, description=f"inspecting: {name}")
        try:
            part()
        except (ThalwegError, LinAlgError) as error:
            self.skipped.append(Skipped(name, str(error)))
        self.done += SHARES[name]

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _try_to_polish(self) -> str | None:
        """Go to the critical point nearby, in at most half of the time; why everything must end, or None."""
        self.bar.update(description="inspecting: polishing")
        try:
            return self._polish()
        except ThalwegError as error:
            self.skipped.append(Skipped("polishing", str(error)))
        return None

    def _polish(self) -> str | None:
        before = self.objective.evaluate(self.theta, 1)
        assert before.gradient is not None
        budget = None if self.control.budget is None else max(self.control.remaining() / 2, 1e-3)
        solution = find_critical_point(
            self.objective,
            self.theta,
            stop_event=self.control.stop_event,
            time_budget=budget,
            progress=False,  # there is a bar already
        )
        if not bool(torch.isfinite(solution.value)):
            return None
        self.polish = Polish(
            moved=float((solution.theta - self.theta).norm()),
            gradient_before=float(before.gradient.abs().max()),
            gradient_after=float(solution.gradient_norm),
            value_change=float(solution.value - before.value),
            status=f"{solution.status.value}: {solution.message}",
        )
        self.theta = solution.theta
        return "interrupted" if solution.status is Status.INTERRUPTED else None

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
        piece = Piece(self.bar, self.done, SHARES["curvature"], curved.PRODUCTS)
        self.curvature = curved.extreme_curvature(
            self.objective, self.theta, seed=self.seed, control=self.control, progress=piece
        )
        pairs = self.curvature.pairs if self.curvature is not None else None
        if pairs is None or pairs.reason in ("interrupted", "time limit"):
            raise _StoppedError(pairs.reason if pairs is not None else self.control.why_stop() or "interrupted")

    def _find_flat(self) -> None:
        assert self.point is not None
        if self.curvature is None:
            return
        proposed: list[FlatCandidate] = []
        risk, structure = find_risk(self.objective), explain_network(self.objective).structure
        if risk is not None and structure is not None and self.dense:
            proposed += structural_candidates(risk, structure, self.theta)
        if self._near_critical:
            proposed += level_lines(self.curvature)
        self.flat = verify_flat(self.objective, self.theta, self.point, proposed)
        level = self.flat if self._near_critical else tuple(group for group in self.flat if group.straight)
        if self.hessian is None or not (level or self._near_critical):
            return
        shift = curved.hessian_shift(self.objective, self.theta, self.point, self.curvature, self.hessian)
        self.curvature, _ = curved.dense_curvature(
            self.objective,
            self.theta,
            self._samples,
            hessian=self.hessian,
            shift=shift if self._near_critical else 0.0,
            flat=level,
        )

    def _forecast(self) -> None:
        assert self.point is not None
        if self.curvature is None:
            return
        sources: list[Iterator[Forecast | Pace]] = []
        if self.point.gradient_norm > self.point.gradient_floor:
            sources.append(forecast_gains(self.objective, self.theta, self.point, self.curvature, self._ended))
        sources.append(steepest_gains(self.objective, self.theta, self.point, self.curvature))
        for found in chain(*sources):  # one by one, so that an interrupt leaves those found before
            if isinstance(found, Pace):
                self.pace = found
            else:
                self.steps.append(found)

    def _look_at_units(self) -> None:
        risk = find_risk(self.objective)
        if risk is None:
            raise NotApplicableError("units belong to networks; this objective has no module")
        report = explain_network(self.objective)
        if report.structure is None:
            raise NotApplicableError(f"the structure of the network is not known: {report.reason}")
        self.units = measure_units(risk, report.structure, self.theta)

    def _listen(self) -> None:
        assert self.point is not None
        risk = find_risk(self.objective)
        if risk is None or risk.space != self.objective.space:
            raise NotApplicableError("mini-batches belong to a loss over samples in all its parameters")
        if self._near_critical:
            raise NotApplicableError("the gradient vanishes here: there is no signal to compare noise with")
        self.noise = measure_noise(risk, self.theta, seed=self.seed, signal=self.point.gradient, stop=self._ended)

    def _cut(self) -> None:
        assert self.point is not None
        verified = [step for step in self.steps if step.verified]
        best = max(verified, key=lambda step: step.measured) if verified else None
        points = 41 if self.dense else 17
        self.slices = cut_slices(self.objective, self.theta, self.point, self.curvature, best, points)

    def _certify(self) -> None:
        self.certificates = certify(
            self.objective,
            self.theta,
            self.certifiers,
            seed=self.seed,
            control=self.control,
            hessian=self.hessian,
            show_progress=False,  # there is a bar already
        )
        stopped = {"interrupted", "time limit"} & {certificate.reason for certificate in self.certificates}
        if stopped:
            raise _StoppedError(stopped.pop())

    # -- what they share -----------------------------------------------------------------------------------------------

    def _ended(self) -> bool:
        return self.control.why_stop() is not None

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

    # -- the end -------------------------------------------------------------------------------------------------------

    def _judge(self) -> tuple[Kind, tuple[str, ...]]:
        assert self.point is not None
        try:
            return judge_point(
                self.objective,
                self.theta,
                self.point,
                self.curvature,
                self.flat,
                self.tolerance,
                thorough=self.complete,
            )
        except KeyboardInterrupt:
            self.complete = False
            return Kind.UNDECIDED, ("the inspection was interrupted before it could be judged",)
        except ThalwegError as error:
            return Kind.UNDECIDED, (str(error).rstrip("."),)

    def _conclude(self) -> Verdict:
        assert self.point is not None
        self.bar.update(description="inspecting: verdict")
        kind, reasons = settle(*self._judge(), self.certificates, stationary=self._near_critical)
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
            module=self.module,
            certificates=self.certificates,
        )
        return Verdict(
            kind=kind,
            reasons=reasons,
            objective=repr(self.objective),
            fingerprint=self.objective.fingerprint(),
            point=self.point,
            curvature=self.curvature,
            flat=self.flat,
            steps=evidence.steps,
            pace=self.pace,
            noise=self.noise,
            units=self.units,
            slices=self.slices,
            certificates=self.certificates,
            findings=collect_findings(evidence),
            skipped=tuple(self.skipped),
            polish=self.polish,
            complete=self.complete,
            seconds=self.control.elapsed(),
            theta=self.theta,
        )
