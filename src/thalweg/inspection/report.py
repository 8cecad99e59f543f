"""The verdict as a document: for terminals, notebooks and pages alike."""

from __future__ import annotations

from collections.abc import Iterator

from thalweg.display import (
    Axis,
    Caption,
    Code,
    Facts,
    Figure,
    Item,
    Level,
    Mark,
    Notice,
    Report,
    Section,
    Table,
    bars,
    format_duration,
    format_number,
    line,
    points,
)
from thalweg.inspection.proofs import proof_sections
from thalweg.inspection.records import Curvature, Slice
from thalweg.inspection.verdict import Kind, Verdict

__all__ = ["build_report"]

_LEVELS: dict[Kind, Level] = {
    Kind.NOT_STATIONARY: "warn",
    Kind.SADDLE: "bad",
    Kind.STRICT_MINIMUM: "ok",
    Kind.DEGENERATE_MINIMUM: "ok",
    Kind.CHANNEL: "bad",
    Kind.UNDECIDED: "warn",
}


def build_report(verdict: Verdict, *, figures: bool = True) -> Report:
    """Lay a verdict out as a report; without figures where there is no room for them."""
    sections = [
        Section("What to know, and what to do", list(_findings(verdict))),
        Section("The point", [_point(verdict)]),
        Section("What a step would gain", list(_steps(verdict))),
        *proof_sections(verdict.certificates, verdict.kind, brief=not figures),
        Section("Curvature", list(_curvature(verdict))),
        Section("Layers", list(_layers(verdict))),
        Section("Flat directions", list(_flat(verdict))),
        Section("The loss along straight lines", [_slice_figure(verdict, cut) for cut in verdict.slices]),
        Section("Not done", list(_skipped(verdict))),
    ]
    title = f"{verdict.kind.value[0].upper()}{verdict.kind.value[1:]}: {verdict.objective}"
    part = "" if verdict.complete else " Stopped before its end: partial."
    footer = f"Inspected in {format_duration(verdict.seconds)}.{part} Fingerprint {verdict.fingerprint[:16]}."
    if not figures:
        sections = [Section(s.title, [item for item in s.items if not isinstance(item, Figure)]) for s in sections]
    return Report(title, [s for s in sections if s.items], summary=list(_summary(verdict)), footer=footer)


def _summary(verdict: Verdict) -> Iterator[Item]:
    yield Notice(_LEVELS[verdict.kind], verdict.kind.sentence, "; ".join(verdict.reasons) + ".")
    if not verdict.complete:
        yield Notice("warn", "The inspection was stopped before its end; what is shown was measured until then.")


def _findings(verdict: Verdict) -> Iterator[Item]:
    for finding in verdict.findings:
        yield Notice(finding.level, finding.text, finding.advice)
        if finding.code:
            yield Code(finding.code)


def _point(verdict: Verdict) -> Facts:
    point = verdict.point
    rows: list[tuple[str, object, str]] = [
        ("loss", point.value, ""),
        (
            "gradient, maximum norm",
            point.gradient_norm,
            f"rounding alone gives {format_number(point.gradient_floor, 2)}",
        ),
        ("gradient, Euclidean norm", point.gradient_length, ""),
        ("parameters, Euclidean norm", point.theta_norm, f"{verdict.theta.numel():,} parameters"),
    ]
    if point.excess is not None:
        rows.insert(
            1, ("left to gain at most", point.excess, f"no outputs can go below {format_number(point.infimum or 0.0)}")
        )
    if not point.kinks.smooth:
        rows.append(("kinks", point.kinks.describe(), ""))
    if verdict.polish is not None:
        polish = verdict.polish
        text = f"moved by {format_number(polish.moved)}, gradient {format_number(polish.gradient_before, 2)} before"
        rows.append(("polished", polish.status, text))
    return Facts([(name, value, remark) for name, value, remark in rows])


def _steps(verdict: Verdict) -> Iterator[Item]:
    if not verdict.steps:
        return
    rows: list[tuple[object, ...]] = [
        (
            step.name,
            step.predicted,
            step.measured,
            step.length,
            f"{format_number(100 * step.relative_length, 2)} %",
            "yes" if step.verified else "no",
            step.remark,
        )
        for step in verdict.steps
    ]
    heads = ["step", "predicted gain", "measured gain", "length", "relative", "came true", "remark"]
    if not any(step.remark for step in verdict.steps):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    yield Table(
        heads, rows, "Each step was tried: a prediction came true when it misses the measured gain by less than 20 %."
    )


def _curvature(verdict: Verdict) -> Iterator[Item]:
    curvature = verdict.curvature
    if curvature is None:
        return
    limit = ""
    if curvature.highest > 0:
        limit = f"gradient descent is unstable above step size {format_number(2 / curvature.highest)}"
    rows: list[tuple[str, object, str]] = [("largest eigenvalue", curvature.highest, limit)]
    if curvature.dense:
        rows.append(("smallest eigenvalue", curvature.lowest.value, ""))
    else:
        near = f"there is one within {format_number(curvature.lowest.residual, 2)} of it; lower ones may exist"
        rows.append(("smallest eigenvalue, at most", curvature.lowest.value, near))
    if curvature.inertia is not None:
        rows.append(("eigenvalues by sign", curvature.inertia.describe(), "; ".join(curvature.inertia.reasons)))
    if curvature.pairs is not None:
        worst = float(curvature.pairs.residuals.max()) / curvature.scale
        rows.append(
            (
                "residuals of the eigenvalues found",
                f"at most {worst:.1e} of the largest",
                f"{curvature.products} products; {curvature.pairs.stopped}",
            )
        )
    if verdict.pace is not None:
        about = "from all eigenvalues" if verdict.pace.exact else "or more: softer directions were not looked at"
        steps = format_number(verdict.pace.steps_to_half, 2)
        rows.append(("gradient descent, steps to half of what the quadratic model promises", steps, about))
    if verdict.noise is not None:
        noise = verdict.noise
        error = f"standard error {format_number(noise.error, 2)}, from {noise.samples} samples"
        about = error if noise.error > 0 else f"from all {noise.samples} samples"
        rows.append(("batch size where noise equals signal", format_number(noise.critical_batch, 2), about))
    yield Facts(rows)
    yield _spectrum_figure(verdict, curvature)


def _spectrum_figure(verdict: Verdict, curvature: Curvature) -> Figure:
    values = curvature.eigenvalues
    if curvature.dense:
        caption = Caption(
            f"All {len(values)} eigenvalues of the Hessian, in ascending order.",
            verdict.objective,
            f"Signs are decided outside an error bar of {curvature.inertia.threshold:.1e}."
            if curvature.inertia
            else "Rounding.",
        )
        threshold = curvature.inertia.threshold if curvature.inertia is not None else 0.0
        series = [points("eigenvalue", range(1, len(values) + 1), values)]
        axis = Axis("eigenvalue", scale="symlog", threshold=max(threshold, 1e-8 * curvature.scale))
        return Figure("Spectrum of the Hessian", caption, Axis("number"), axis, series, [Mark(0.0, "zero")])
    assert curvature.pairs is not None
    caption = Caption(
        f"{len(values)} eigenvalues at the two ends of the spectrum, by Lanczos with full reorthogonalisation.",
        verdict.objective,
        "Bars: residuals. The lower end is an upper bound: smaller eigenvalues may exist.",
    )
    series = [points("Ritz value", range(1, len(values) + 1), values, error=curvature.pairs.residuals)]
    across, zero = Axis("number among those found"), Mark(0.0, "zero")
    return Figure("Both ends of the spectrum", caption, across, Axis("eigenvalue"), series, [zero])


def _layers(verdict: Verdict) -> Iterator[Item]:
    layers = verdict.point.layers
    if len(layers) < 2 and not verdict.units:
        return
    curved = any(layer.curvature is not None for layer in layers)
    heads = ["block", "parameters", "norm", "gradient", "gradient / norm"] + (["mean curvature"] if curved else [])
    rows = []
    for layer in layers:
        relative = layer.gradient_norm / layer.norm if layer.norm else float("nan")
        row = (layer.name, layer.size, layer.norm, layer.gradient_norm, relative)
        rows.append((*row, layer.curvature) if curved else row)
    yield Table(heads, rows, "Euclidean norms of each block of parameters and of its gradient.")
    if verdict.units:
        heads = ["layer", "activation", "units", "dead", "saturated"]
        yield Table(
            heads,
            [(u.layer, u.activation, u.units, u.dead, u.saturated) for u in verdict.units],
            "Hidden units that give the same output for every sample, or sit in the flat part of their activation.",
        )
    caption = Caption("Euclidean norm of each block's gradient.", verdict.objective, "Exact up to rounding.")
    named = [layer.name for layer in layers]
    series = [bars("gradient", named, [layer.gradient_norm for layer in layers])]
    yield Figure("Gradient by block", caption, Axis("block"), Axis("gradient norm", scale="log"), series)


def _flat(verdict: Verdict) -> Iterator[Item]:
    if verdict.flat:
        rows = [(g.kind, g.dimension, g.largest_change, g.description) for g in verdict.flat]
        heads = ["kind", "dimension", "largest change of the loss", "what it is"]
        yield Table(heads, rows, "Each was walked along in both directions; the loss was evaluated on the way.")


def _slice_figure(verdict: Verdict, cut: Slice) -> Figure:
    suggested = cut.name.startswith("suggested")
    across = Axis("multiple of the step") if suggested else Axis("distance along the unit vector")
    caption = Caption(
        f"{len(cut.t)} evaluations of the loss, and the quadratic model from gradient and curvature. {cut.meaning}",
        verdict.objective,
        "Exact up to rounding.",
    )
    series = [line("loss", cut.t, cut.values), line("quadratic model", cut.t, cut.model)]
    marks = [Mark(0.0, "here", axis="x")] + ([Mark(1.0, "suggested", axis="x")] if suggested else [])
    return Figure(f"Along the {cut.name}", caption, across, Axis("loss"), series, marks)


def _skipped(verdict: Verdict) -> Iterator[Item]:
    if verdict.skipped:
        yield Table(["part", "why"], [(one.what, one.why) for one in verdict.skipped])
