"""From figures to sentences: why a network is stuck or slow, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.display import Level, format_number
from thalweg.inspection.records import Curvature, Finding, Forecast, Noise, Pace, Point, Units
from thalweg.inspection.verdict import Kind

__all__ = ["Evidence", "collect_findings"]

SLOW = 1000.0
"""Steps to gain half of what is promised, above which gradient descent is called slow."""
WORTH_IT = 0.01
"""A gain above this share of the loss is worth a warning."""
CAUTIOUS = 0.05
"""A step size below this share of the stable limit is called small."""


@dataclass(frozen=True)
class Evidence:
    """Everything measured, with the user's own settings where they were told."""

    kind: Kind
    point: Point
    curvature: Curvature | None
    steps: tuple[Forecast, ...]
    pace: Pace | None
    noise: Noise | None
    units: tuple[Units, ...]
    learning_rate: float | None
    batch_size: int | None


def collect_findings(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings, most important first.

    Args:
        evidence: what was measured.
    """
    makers = (_best_step, _floor, _step_size, _slow, _curves_down, _noise, _cut_off, _silent_units, _kinks)
    found = [finding for make in makers for finding in make(evidence)]
    order = {"bad": 0, "warn": 1, "ok": 2}
    return tuple(sorted(found, key=lambda finding: order[finding.level]))


def _best_step(e: Evidence) -> list[Finding]:
    verified = [step for step in e.steps if step.verified]
    if not verified:
        if e.kind is not Kind.NOT_STATIONARY or not e.steps:
            return []
        return [Finding("warn", "No step kept its promise: what the local model says is not to be trusted here.")]
    best = max(verified, key=lambda step: step.measured)
    before, gain = e.point.value, best.measured
    share = gain / abs(before) if before else 0.0
    text = (
        f"One {best.name} step of length {format_number(best.length)} ({100 * best.relative_length:.2g} % of the "
        f"parameters) lowers the loss from {format_number(before)} to {format_number(before - gain)} "
        f"({100 * share:.3g} %): predicted {format_number(best.predicted)}, measured {format_number(gain)}."
    )
    code = f'solution = tw.minimize(objective, verdict.suggested_theta, method="{_method(e, best)}")'
    level: Level = "warn" if share > WORTH_IT else "ok"
    return [Finding(level, text, "There is more to gain; go on from the suggested point.", code)]


def _method(e: Evidence, best: Forecast) -> str:
    if best.name == "Gauss-Newton" and e.curvature is not None and e.curvature.dense:
        return "lm"
    return "newton-cg"


def _floor(e: Evidence) -> list[Finding]:
    excess, infimum = e.point.excess, e.point.infimum
    if excess is None or infimum is None:
        return []
    if excess <= max(e.point.value_noise, 1e-300):
        return [Finding("ok", "The loss is at the lowest value that any outputs could give: nothing is left to gain.")]
    if infimum == 0:
        return []
    left = f"at most {format_number(excess)} is left to gain"
    return [Finding("ok", f"No outputs whatever bring the loss below {format_number(infimum)}: {left}.")]


def _step_size(e: Evidence) -> list[Finding]:
    if e.pace is None:
        return []
    limit = format_number(e.pace.largest_step)
    if e.learning_rate is None:
        text = f"Full-batch gradient descent is stable here for step sizes below {limit} (2 / largest curvature)."
        return [Finding("ok", text)]
    ratio = e.learning_rate / e.pace.largest_step
    used = f"The step size {format_number(e.learning_rate)} is"
    if ratio > 1:
        text = f"{used} {format_number(ratio)} times the stable limit of plain gradient descent, {limit}."
        return [Finding("bad", text, "Without adaptive scaling it grows along the stiffest direction: stay below.")]
    text = f"{used} {100 * ratio:.2g} % of the stable limit of plain gradient descent, {limit}."
    if ratio < CAUTIOUS:
        return [Finding("warn", text, f"Plain full-batch gradient descent could take steps up to {limit}.")]
    return [Finding("ok", text)]


def _slow(e: Evidence) -> list[Finding]:
    if e.pace is None or e.kind is not Kind.NOT_STATIONARY or e.pace.steps_to_half < SLOW:
        return []
    soft = 100 * (1 - e.pace.stiff_share)
    about = "" if e.pace.exact else "at least "
    text = (
        f"Slow, because the valley is narrow: {soft:.3g} % of what the local model promises lies in directions more "
        f"than 100 times softer than the stiffest. Gradient descent needs {about}"
        f"{format_number(e.pace.steps_to_half, 2)} steps for half of it."
    )
    return [Finding("warn", text, "A second-order method takes the soft directions at once; a larger step cannot.")]


def _curves_down(e: Evidence) -> list[Finding]:
    if e.curvature is None or not e.curvature.lowest.negative or e.kind is Kind.CHANNEL:
        return []
    low = e.curvature.lowest.value
    share = abs(low) / e.curvature.scale
    count = e.curvature.inertia.negative if e.curvature.inertia is not None else None
    many = f"{count} directions curve" if count and count > 1 else "A direction curves"
    text = f"{many} downwards, the steepest with {format_number(low)} ({100 * share:.2g} % of the largest curvature)."
    if e.kind is Kind.SADDLE:
        return [Finding("bad", text, "This is no minimum: step along the most negative direction, either way.")]
    return [Finding("ok" if share < WORTH_IT else "warn", text)]


def _noise(e: Evidence) -> list[Finding]:
    if e.noise is None:
        return []
    critical = f"{format_number(e.noise.critical_batch, 2)} (standard error {format_number(e.noise.error, 2)})"
    if e.batch_size is None:
        return [Finding("ok", f"Signal and noise of a mini-batch gradient are equal at a batch of {critical} samples.")]
    ratio = e.noise.signal_to_noise(e.batch_size)
    text = (
        f"A mini-batch of {e.batch_size} has signal to noise {format_number(ratio, 2)}; "
        f"they are equal at a batch of {critical}."
    )
    if ratio < 0.3:
        return [
            Finding("warn", text, "Most of each step is noise: lower the step size, average, or enlarge the batch.")
        ]
    return [Finding("ok", text)]


def _cut_off(e: Evidence) -> list[Finding]:
    if e.kind is not Kind.NOT_STATIONARY:
        return []
    idle = [layer.name for layer in e.point.layers if layer.gradient_norm <= 1e-12 * e.point.gradient_length]
    if not idle:
        return []
    named = ", ".join(f"`{name}`" for name in idle[:6]) + (" and more" if len(idle) > 6 else "")
    advice = "These parameters cannot learn: look for dead units or a cut graph."
    return [Finding("bad", f"No gradient reaches {named}.", advice)]


def _silent_units(e: Evidence) -> list[Finding]:
    found = []
    for layer in e.units:
        of = f"of {layer.units} units of {layer.layer} ({layer.activation})"
        if layer.dead:
            text = f"{layer.dead} {of} give the same output for every sample."
            found.append(Finding("warn", text, "Dead units learn nothing; start them anew or lower the step size."))
        if layer.saturated:
            text = f"{layer.saturated} {of} are saturated on nearly all samples."
            found.append(Finding("warn", text, "Hardly any gradient passes through them."))
    return found


def _kinks(e: Evidence) -> list[Finding]:
    kinks = e.point.kinks
    if kinks.smooth:
        return []
    text = f"The loss is not smooth everywhere: {kinks.describe()}."
    return [Finding("ok", text, "What is said of curvature holds on the smooth piece around this point.")]
