"""From figures to sentences: why a network is stuck or slow, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.certificates import Certificate
from thalweg.display import Level, format_number
from thalweg.inspection.proofs import best_gap, way_to_infinity
from thalweg.inspection.records import Curvature, Finding, Forecast, Noise, Pace, Point, Units
from thalweg.inspection.verdict import Kind

__all__ = ["Evidence", "collect_findings", "suggested_method"]

SLOW = 1000.0
"""Steps to gain half of what is promised, above which gradient descent is called slow."""
WORTH_IT = 0.01
"""A gain above this share of the loss is worth a warning."""
CAUTIOUS = 0.05
"""A step size below this share of the stable limit is called small."""
NOISY = 0.3
"""Signal to noise of a mini-batch gradient below which a step is mostly noise."""
PROVED = 0.9
"""A certified gap below this share of the loss says more than that the loss is not negative."""
HELD_UP = 10.0
"""A promise this many times the gain of the best step that came true is a promise not kept."""
SMALL = 300
"""Parameters up to which forming the Hessian at every step pays; on larger networks products with it are faster."""


def suggested_method(point: Point) -> str:
    """The method of `thalweg.minimize` to go on with.

    On a 64-16-10 classifier of 1,438 digits (1,210 parameters) Newton steps by conjugate gradients converged in 10 s,
    and methods that form a matrix at every step had not in 60 s.

    Args:
        point: where the network stands.
    """
    return "newton" if sum(layer.size for layer in point.layers) <= SMALL else "newton-cg"


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
    module: bool = False
    """Whether a module was given, with loss and data, and not an objective."""
    certificates: tuple[Certificate, ...] = ()


def collect_findings(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings, most important first.

    Args:
        evidence: what was measured.
    """
    steps = (_channel, _best_step, _proved, _floor, _step_size, _slow, _curves_down)
    found = [finding for make in (*steps, _noise, _cut_off, _silent_units, _kinks) for finding in make(evidence)]
    order = {"bad": 0, "warn": 1, "ok": 2}
    return tuple(sorted(found, key=lambda finding: order[finding.level]))


def _percent(share: float) -> str:
    return f"{format_number(100 * share, 3)} %"


def _from_to(before: float, after: float) -> str:
    """Two numbers with as many digits as it takes to see that they differ."""
    digits = 4
    while digits < 15 and format_number(before, digits) == format_number(after, digits):
        digits += 1
    return f"from {format_number(before, digits)} to {format_number(after, digits)}"


def _channel(e: Evidence) -> list[Finding]:
    found = way_to_infinity(e.certificates)
    if found is None:
        return []
    limit, units = found.evidence["limit"], found.evidence["units"]
    assert isinstance(limit, float)
    there = "It stands on" if e.kind is Kind.CHANNEL else "From here leads"
    text = (
        f"{there} a way to infinity, the channel of {units}: along it the loss falls "
        f"{_from_to(e.point.value, limit)}, which it reaches at no finite weights."
    )
    advice = "More training gains no more. Take the network at the end, or forbid large weights by weight decay."
    code = "channel = tw.symmetry.resolve_channel(objective, verdict.theta)\nlimit = channel.network()"
    if e.module:
        code = f"objective = tw.EmpiricalRisk(model, loss, inputs, targets)\n{code}"
    return [Finding("warn", text, advice, code)]


def _best_step(e: Evidence) -> list[Finding]:
    if e.kind is Kind.CHANNEL:
        return []  # however many steps are taken, what there is to gain lies at infinity
    verified = [step for step in e.steps if step.verified]
    if not verified:
        if e.kind is not Kind.NOT_STATIONARY or not e.steps:
            return []
        return [Finding("warn", "No step kept its promise: what the local model says is not to be trusted here.")]
    best = max(verified, key=lambda step: step.measured)
    before, gain = e.point.value, best.measured
    share = gain / abs(before) if before else 0.0
    text = (
        f"One {best.name} step of length {format_number(best.length)} ({_percent(best.relative_length)} of the "
        f"parameters) lowers the loss {_from_to(before, before - gain)} ({_percent(share)}): predicted "
        f"{format_number(best.predicted)}, measured {format_number(gain)}."
    )
    method = suggested_method(e.point)
    code = f'solution = tw.minimize(objective, verdict.suggested_theta, method="{method}")'
    if e.module:
        code = (
            f"objective = tw.EmpiricalRisk(model, loss, inputs, targets)\n{code}\n"
            "objective.load_into_model(solution.theta, model)"
        )
    level: Level = "warn" if share > WORTH_IT else "ok"
    found = [Finding(level, text, "There is more to gain; go on from the suggested point.", code)]
    return [*found, *_held_up(e, best)]


def _held_up(e: Evidence, best: Forecast) -> list[Finding]:
    """A kink that keeps the steps short although the smooth model promises more."""
    promise = max([step.predicted for step in e.steps] + ([e.pace.promised] if e.pace is not None else []))
    if e.point.kinks.smooth or promise < HELD_UP * best.measured or promise <= WORTH_IT * abs(e.point.value):
        return []
    text = (
        f"A kink of the loss keeps the steps short: the smooth piece around this point promises a gain of "
        f"{format_number(promise)}, but it ends before that."
    )
    advice = "Train on with small steps to cross it, or use a smooth activation (softplus, GELU) in place of ReLU."
    return [Finding("warn", text, advice)]


def _proved(e: Evidence) -> list[Finding]:
    """What is left to gain, where it was proved."""
    gap = best_gap(e.certificates)
    if gap is None or gap.bound is None or gap.bound > PROVED * abs(e.point.value):
        return []
    share = f", {_percent(gap.bound / abs(e.point.value))} of it" if e.point.value else ""
    text = f"Proved: the loss is within {format_number(gap.bound)}{share} of the lowest that this network can reach."
    return [Finding("ok", text, f"By {gap.name}.")]


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
        # the largest curvature found by products is a lower bound: only the unstable side of the limit is certain
        text = f"Plain gradient descent is unstable here for step sizes above {limit} (2 / largest curvature found)."
        return [Finding("ok", text, "Momentum and adaptive methods such as Adam have other limits.")]
    ratio = e.learning_rate / e.pace.largest_step
    used = f"The step size {format_number(e.learning_rate)} is"
    if ratio > 1:
        text = f"{used} {format_number(ratio)} times the stable limit of plain gradient descent, {limit}."
        return [Finding("bad", text, "Without adaptive scaling it grows along the stiffest direction: stay below.")]
    text = f"{used} {_percent(ratio)} of the stable limit of plain gradient descent, {limit}."
    if ratio < CAUTIOUS:
        return [Finding("warn", text, "Plain gradient descent could take larger steps here, up to that limit.")]
    return [Finding("ok", text)]


def _slow(e: Evidence) -> list[Finding]:
    if e.pace is None or e.kind is not Kind.NOT_STATIONARY or e.pace.steps_to_half < SLOW:
        return []
    about = "" if e.pace.exact else "at least "
    text = (
        f"Slow, because the valley is narrow: {_percent(1 - e.pace.stiff_share)} of what the local model promises lies "
        f"in directions more than 100 times softer than the stiffest. Gradient descent needs {about}"
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
    text = f"{many} downwards, the steepest with {format_number(low)} ({_percent(share)} of the largest curvature)."
    if e.kind is Kind.SADDLE:
        return [Finding("bad", text, "This is no minimum: step along the most negative direction, either way.")]
    return [Finding("ok" if share < WORTH_IT else "warn", text)]


def _noise(e: Evidence) -> list[Finding]:
    if e.noise is None:
        return []
    error = f" (standard error {format_number(e.noise.error, 2)})" if e.noise.error > 0 else ""
    critical = f"{format_number(e.noise.critical_batch, 2)} samples{error}"
    if e.batch_size is None:
        return [Finding("ok", f"Signal and noise of a mini-batch gradient are equal at a batch of {critical}.")]
    ratio = e.noise.signal_to_noise(e.batch_size)
    text = (
        f"A mini-batch of {e.batch_size} has signal to noise {format_number(ratio, 2)}; "
        f"they are equal at a batch of {critical}."
    )
    if ratio < NOISY:
        advice = "Most of each step is noise: lower the step size, or average the parameters over many steps."
        return [Finding("warn", text, advice)]
    return [Finding("ok", text)]


def _cut_off(e: Evidence) -> list[Finding]:
    if e.kind is not Kind.NOT_STATIONARY:
        return []
    idle = [layer.name for layer in e.point.layers if layer.gradient_norm == 0]
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
