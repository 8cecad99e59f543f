"""What certificates say of a point: the strongest of them, and how all of them are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from thalweg.certificates import Certificate, ClaimKind, Outcome
from thalweg.certificates import Level as Rigour
from thalweg.display import Item, Level, Notice, Paragraph, Section, Table, format_number
from thalweg.inspection.verdict import Kind
from thalweg.symmetry import ChannelToInfinity

__all__ = [
    "best_gap",
    "best_lower_bound",
    "proof_records",
    "proof_sections",
    "refutation",
    "settle",
    "way_to_infinity",
]

_ORDER = (
    ClaimKind.NOT_A_MINIMUM,
    ClaimKind.GAP,
    ClaimKind.EXISTENCE,
    ClaimKind.SUBOPTIMAL,
    ClaimKind.LOWER_BOUND,
    ClaimKind.NOT_ATTAINED,
    ClaimKind.IDENTITY,
)

_FIRST_ORDER = frozenset({"gradient", "interval gradient", "Gauss-Newton decrement"})
_LEVELS = (Rigour.RIGOROUS, Rigour.NUMERIC, Rigour.HEURISTIC)


def best_lower_bound(certificates: Sequence[Certificate]) -> Certificate | None:
    """The highest of the lower bounds that hold over the network or more; None without any."""
    found = _claims(certificates, ClaimKind.LOWER_BOUND)
    return max(found, key=lambda c: c.bound if c.bound is not None else 0.0, default=None)


def best_gap(certificates: Sequence[Certificate]) -> Certificate | None:
    """The smallest certified distance to the infimum over the network; None without any."""
    found = _claims(certificates, ClaimKind.GAP)
    return min(found, key=lambda c: c.bound if c.bound is not None else 0.0, default=None)


def refutation(certificates: Sequence[Certificate]) -> Certificate | None:
    """The firmest proof that no local minimum is here; None without any.

    What rests on the gradient alone is none: it refutes the point to the last digit, and says nothing of the minimum
    that a tolerance takes the point for.
    """
    found = [c for c in certificates if c.established and c.kind is ClaimKind.NOT_A_MINIMUM]
    found = [c for c in found if c.name not in _FIRST_ORDER]
    return min(found, key=_rank, default=None)


def settle(
    kind: Kind, reasons: tuple[str, ...], certificates: Sequence[Certificate], *, stationary: bool
) -> tuple[Kind, tuple[str, ...]]:
    """What the point is, once certificates have spoken: a proof outranks a judgement by figures.

    Args:
        kind: as judged from the spectrum.
        reasons: why.
        certificates: of the point.
        stationary: whether the gradient counts as zero; without that a proof that no minimum is here makes no saddle.
    """
    proof = refutation(certificates)
    channel = way_to_infinity(certificates)
    if channel is not None and kind is not Kind.SADDLE and (kind is Kind.CHANNEL or _at_the_bottom(channel)):
        return Kind.CHANNEL, (channel.claim, *(reasons if kind is Kind.CHANNEL else ()))
    if proof is None or kind in (Kind.NOT_STATIONARY, Kind.SADDLE):
        return kind, (*reasons, *_confirmed(kind, certificates))
    if kind is Kind.UNDECIDED:
        return (Kind.SADDLE, (proof.claim,)) if stationary else (kind, reasons)
    text = f"the spectrum speaks for a {kind.value}, but {proof.claim} ({proof.level.value if proof.level else ''})"
    return Kind.UNDECIDED, (text, *reasons)


def way_to_infinity(certificates: Sequence[Certificate]) -> Certificate | None:
    """The certificate that the loss falls along a channel; None without one."""
    return next((c for c in certificates if c.established and c.name == ChannelToInfinity.name), None)


def _at_the_bottom(channel: Certificate) -> bool:
    """Whether the point has hardly more loss than the channel's own bottom has there."""
    excess, rise = channel.evidence["excess"], channel.evidence["rise"]
    assert isinstance(excess, float)
    assert isinstance(rise, float)
    return 0 < excess <= 2 * rise


def _confirmed(kind: Kind, certificates: Sequence[Certificate]) -> Iterator[str]:
    """What the spectrum says, where a certificate proves it of a critical point nearby, rounding included."""
    for certificate in certificates:
        index = certificate.evidence.get("index")
        if not certificate.established or certificate.level is not Rigour.RIGOROUS or certificate.bound is None:
            continue
        if (kind is Kind.STRICT_MINIMUM and index == 0) or (kind is Kind.SADDLE and isinstance(index, float) and index):
            what = "a strict local minimum" if index == 0 else f"a saddle of index {index:g}"
            yield f"proved: {what} lies within {format_number(certificate.bound, 2)} of this point"


def _claims(certificates: Sequence[Certificate], kind: ClaimKind) -> list[Certificate]:
    return [
        c
        for c in certificates
        if c.established and c.kind is kind and c.bound is not None and c.scope.ranges_over_network
    ]


def proof_sections(
    certificates: Sequence[Certificate], kind: Kind = Kind.NOT_STATIONARY, *, brief: bool = False
) -> Iterator[Section]:
    """What was proved, on what it rests, and what could not be proved.

    Args:
        certificates: of the point.
        kind: what the point is; where it counts as critical, that its gradient is not exactly zero is no news.
        brief: of each kind of claim only the strongest, and of what failed only what might have succeeded.
    """
    if kind is not Kind.NOT_STATIONARY:
        certificates = [c for c in certificates if c.name not in _FIRST_ORDER]
    if not certificates:
        return
    made = sorted((c for c in certificates if c.established), key=_rank)
    telling = [c for c in made if c.kind is not ClaimKind.IDENTITY and c.level is not Rigour.HEURISTIC]
    shown = list({c.kind: c for c in reversed(telling)}.values())[::-1] if brief else made
    failed = [c for c in certificates if not c.established]
    yield Section("What can be proved", [*_claimed(shown), *_left_out(len(made) - len(shown), failed, brief)])
    if made and not brief:
        yield Section("How to read the proofs", _legend(made))
        yield Section("What the proofs rest on", [_hypotheses(made)])
    if failed and not brief:
        rows = [(c.name, c.outcome.value, c.reason) for c in _by_outcome(failed)]
        yield Section("What could not be proved", [Table(["certificate", "outcome", "why"], rows)])


def _rank(certificate: Certificate) -> tuple[int, bool, int, float]:
    """Order of showing: kinds by what they say, claims over the network first, then firm ones, then strong ones."""
    strength = certificate.bound or 0.0
    small_is_strong = certificate.kind in (ClaimKind.GAP, ClaimKind.EXISTENCE)
    return (
        _ORDER.index(certificate.kind),
        not certificate.scope.ranges_over_network,
        _LEVELS.index(certificate.level) if certificate.level is not None else len(_LEVELS),
        strength if small_is_strong else -strength,
    )


def _left_out(more: int, failed: Sequence[Certificate], brief: bool) -> Iterator[Item]:
    if not brief:
        return
    dear = [c.name for c in failed if c.outcome is Outcome.NOT_ATTEMPTED]
    open_ = [c.name for c in failed if c.outcome is Outcome.UNDECIDED]
    if more or failed:
        counts = [f"{more} more were proved"] if more else []
        counts += [f"undecided: {', '.join(open_)}"] if open_ else []
        counts += [f"too dear for the time or memory given: {', '.join(dear)}"] if dear else []
        rest = len(failed) - len(dear) - len(open_)
        counts += [f"{rest} do not apply here"] if rest else []
        yield Paragraph(f"{'; '.join(counts)}. `verdict.certificates` and the page have all, with the reasons.")


def _claimed(made: Sequence[Certificate]) -> Iterator[Item]:
    if not made:
        yield Paragraph("Nothing.")
    for certificate in made:
        assert certificate.level is not None
        level: Level = "bad" if certificate.kind is ClaimKind.NOT_A_MINIMUM else "ok"
        claim = certificate.claim[0].upper() + certificate.claim[1:]
        name, kind = certificate.name, certificate.kind.value
        about = f"{name if name == kind else f'{name}: {kind}'}, {certificate.scope.sentence}. "
        source = certificate.source[0].upper() + certificate.source[1:]
        yield Notice(level, f"{claim}.", f"{about}{certificate.level.value.capitalize()}. {source}.")


def _legend(made: Sequence[Certificate]) -> list[Item]:
    """What the words mean, of those that occur."""
    kinds = sorted({certificate.kind for certificate in made}, key=_ORDER.index)
    rows = [(kind.value, kind.sentence, kind.caution) for kind in kinds]
    levels = [level for level in _LEVELS if any(certificate.level is level for certificate in made)]
    firm = "; ".join(f"{level.value}: {level.sentence}" for level in levels)
    return [
        Table(["claim", "means", "does not mean"], rows),
        Paragraph(f"How firmly. {firm[0].upper()}{firm[1:]}."),
        Paragraph(
            "Finding the lowest loss of a network is hard in general; proofs are had where it is easy. That something "
            "could not be proved says nothing against it, and nothing here speaks of test data."
        ),
    ]


def _hypotheses(made: Sequence[Certificate]) -> Table:
    """A row for each; the certificate is named in the first of its rows."""
    rows = [
        (
            certificate.name if not number else "",
            hypothesis.statement,
            hypothesis.state.value,
            "" if hypothesis.margin is None else format_number(hypothesis.margin, 3),
            hypothesis.note,
        )
        for certificate in made
        for number, hypothesis in enumerate(certificate.hypotheses)
    ]
    caption = "Each hypothesis by itself: proved here, checked numerically (with the margin), or assumed."
    return Table(["certificate", "hypothesis", "state", "margin", "because"], rows, caption)


def _by_outcome(failed: Sequence[Certificate]) -> list[Certificate]:
    order = (Outcome.UNDECIDED, Outcome.NOT_ATTEMPTED, Outcome.NOT_APPLICABLE)
    return sorted(failed, key=lambda c: order.index(c.outcome))


def proof_records(certificates: Sequence[Certificate]) -> list[dict[str, object]]:
    """Certificates for JSON; of tensors in the evidence only small ones."""
    return [
        {
            "name": c.name,
            "kind": c.kind.value,
            "scope": c.scope.value,
            "source": c.source,
            "outcome": c.outcome.value,
            "claim": c.claim,
            "reason": c.reason,
            "bound": c.bound,
            "rounding": c.rounding,
            "level": c.level.value if c.level is not None else None,
            "hypotheses": [
                {"statement": h.statement, "state": h.state.value, "margin": h.margin, "note": h.note}
                for h in c.hypotheses
            ],
            "evidence": {
                name: thing.tolist() if isinstance(thing, Tensor) else thing
                for name, thing in c.evidence.items()
                if not isinstance(thing, Tensor) or thing.numel() <= 64
            },
            "work": {"gradients": c.work.gradients, "flops": c.work.flops, "bytes": c.work.bytes},
            "seconds": c.seconds,
        }
        for c in certificates
    ]
