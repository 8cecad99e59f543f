"""The verdict: what is known of one point, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import IO, TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from thalweg.certificates import Certificate
from thalweg.display import print_report, to_json, write_json, write_text_atomically
from thalweg.foundation import Told
from thalweg.inspection.records import (
    Curvature,
    Finding,
    FlatGroup,
    Forecast,
    Noise,
    Pace,
    Point,
    Skipped,
    Slice,
    Units,
    plain,
)

if TYPE_CHECKING:
    from thalweg.display import Report

__all__ = ["SCHEMA_VERSION", "Kind", "Polish", "Verdict"]

SCHEMA_VERSION = 1
"""Raised whenever a field of the JSON changes its meaning or goes."""


class Kind(Told):
    """What a point is; `sentence` says what that means."""

    NOT_STATIONARY = ("not stationary", "The gradient does not vanish: no critical point, and the loss can be lowered.")
    SADDLE = ("saddle", "The gradient vanishes, but the loss falls along some directions.")
    STRICT_MINIMUM = ("strict minimum", "The gradient vanishes and the loss curves upwards along every direction.")
    DEGENERATE_MINIMUM = (
        "degenerate minimum",
        "The gradient vanishes, the loss curves downwards nowhere, and every flat direction is one along which the "
        "loss was found not to change at all.",
    )
    CHANNEL = (
        "channel",
        "The gradient is small because the loss keeps falling, ever more slowly, towards infinity: no minimum is here.",
    )
    UNDECIDED = ("undecided", "What this point is could not be told; the reasons are listed.")


@dataclass(frozen=True)
class Polish:
    """What polishing did before the inspection.

    Attributes:
        moved: Euclidean distance from the point given.
        gradient_before: maximum norm there.
        gradient_after: maximum norm at the point inspected.
        value_change: of the loss.
        status: how the search for the critical point ended, with its sentence.
    """

    moved: float
    gradient_before: float
    gradient_after: float
    value_change: float
    status: str


@dataclass(frozen=True, repr=False, eq=False)
class Verdict:
    """What is known of one point; made by `thalweg.inspect`.

    Parts that were not reached (a budget, an interrupt) or do not apply are None, and `skipped` says why.

    Attributes:
        kind: what the point is.
        reasons: why it is called so, one sentence each.
        objective: what was inspected, as text.
        fingerprint: hash of what was inspected.
        point: value, gradient, kinks, blocks.
        curvature: the spectrum.
        flat: directions along which the loss does not change.
        steps: what steps would gain, best first.
        pace: what gradient descent can do here.
        noise: signal and noise of mini-batches.
        units: hidden units that do not respond.
        slices: the loss along straight lines.
        certificates: what was proved, and what could not be, with the reasons.
        findings: what to know and what to do, most important first.
        skipped: what was not done.
        polish: what polishing did, where it was asked for.
        complete: False where the inspection was stopped before its end.
        seconds: wall time.
        theta: ``(P,)``, the point inspected.
    """

    kind: Kind
    reasons: tuple[str, ...]
    objective: str
    fingerprint: str
    point: Point
    curvature: Curvature | None
    flat: tuple[FlatGroup, ...]
    steps: tuple[Forecast, ...]
    pace: Pace | None
    noise: Noise | None
    units: tuple[Units, ...]
    slices: tuple[Slice, ...]
    certificates: tuple[Certificate, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    polish: Polish | None
    complete: bool
    seconds: float
    theta: Float[Tensor, " P"] = field(repr=False)

    @property
    def value(self) -> float:
        """The loss."""
        return self.point.value

    @property
    def gradient_norm(self) -> float:
        """Maximum norm of the gradient."""
        return self.point.gradient_norm

    @property
    def index(self) -> int | None:
        """Number of negative eigenvalues; None unless every eigenvalue's sign is decided."""
        inertia = self.curvature.inertia if self.curvature is not None else None
        return None if inertia is None else inertia.index

    @property
    def nullity(self) -> int | None:
        """Number of zero eigenvalues; None unless every eigenvalue's sign is decided."""
        inertia = self.curvature.inertia if self.curvature is not None else None
        return None if inertia is None else inertia.nullity

    @property
    def best_step(self) -> Forecast | None:
        """The verified step that gains most; None where there is none."""
        verified = [step for step in self.steps if step.verified]
        return max(verified, key=lambda step: step.measured) if verified else None

    @property
    def suggested_theta(self) -> Float[Tensor, " P"] | None:
        """The point that `best_step` leads to: the loss there is lower by ``best_step.measured``."""
        return None if self.best_step is None else self.theta + self.best_step.step

    @property
    def lower_bound(self) -> float | None:
        """The highest certified lower bound of the loss over all parameters; None where nothing was proved."""
        from thalweg.inspection.proofs import best_lower_bound

        found = best_lower_bound(self.certificates)
        return None if found is None else found.bound

    @property
    def gap(self) -> float | None:
        """The smallest certified distance of the loss from its infimum over all parameters; None without any."""
        from thalweg.inspection.proofs import best_gap

        found = best_gap(self.certificates)
        return None if found is None else found.bound

    @property
    def suggested_method(self) -> str:
        """The method with which `thalweg.minimize` had best go on from `suggested_theta`."""
        from thalweg.inspection.findings import suggested_method  # which names the kinds of verdict

        return suggested_method(self.point)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vectors as long as theta, ready for `json.dumps`."""
        from thalweg.inspection.proofs import proof_records

        record: dict[str, Any] = {
            "kind": self.kind,
            "sentence": self.kind.sentence,
            "reasons": self.reasons,
            "objective": self.objective,
            "fingerprint": self.fingerprint,
            "index": self.index,
            "nullity": self.nullity,
            "complete": self.complete,
            "seconds": self.seconds,
            "polish": self.polish,
            "point": plain(self.point) | {"kinks": self.point.kinks, "excess": self.point.excess},
            "curvature": _curvature_record(self.curvature),
            "flat": [plain(group) for group in self.flat],
            "steps": [plain(step) for step in self.steps],
            "best_step": self.best_step.name if self.best_step is not None else None,
            "pace": self.pace,
            "noise": self.noise,
            "units": self.units,
            "slices": self.slices,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            "certificates": proof_records(self.certificates),
            "findings": self.findings,
            "skipped": self.skipped,
        }
        return to_json(record, schema="thalweg.verdict", version=SCHEMA_VERSION)

    def save_json(self, path: str | PathLike[str]) -> None:
        """Write `to_dict` to a file, whole or not at all."""
        content = self.to_dict()
        version = content.pop("schema_version")
        schema = content.pop("schema")
        write_json(path, content, schema=schema, version=version)

    def report(self, *, figures: bool = True) -> Report:
        """The verdict as a document, to be shown anywhere; the terminal shows it without figures."""
        from thalweg.inspection.report import build_report

        return build_report(self, figures=figures)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write a self-contained page to a file, whole or not at all."""
        from thalweg.display import to_page

        write_text_atomically(path, to_page(self.report()))

    def print(self, file: IO[str] | None = None, width: int | None = None) -> None:
        """Show the verdict as a table in a terminal."""
        print_report(self.report(figures=False), file, width)

    def __str__(self) -> str:
        return self.report(figures=False).to_text(width=100)

    def __repr__(self) -> str:
        part = "" if self.complete else "; partial"
        return f"<Verdict {self.kind.value}; loss {self.value:.6g}, gradient {self.gradient_norm:.2g}{part}>"

    def _repr_html_(self) -> str:
        from thalweg.display import to_fragment

        return to_fragment(self.report())


def _curvature_record(curvature: Curvature | None) -> dict[str, Any] | None:
    if curvature is None:
        return None
    record = plain(curvature)
    inertia, pairs = curvature.inertia, curvature.pairs
    record["lowest"] = curvature.lowest
    if inertia is not None:
        record["inertia"] = {name: value for name, value in vars(inertia).items() if name != "eigenvalues"}
    if pairs is not None:
        record["pairs"] = {
            "values": pairs.values,
            "residuals": pairs.residuals,
            "converged": pairs.converged,
            "tolerance": pairs.tolerance,
            "stopped": pairs.stopped,
        }
    return record
