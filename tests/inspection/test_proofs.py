"""Certificates in the verdict: which bound counts, what outranks what, and what a reader sees."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.certificates import Certificate, ClaimKind, Hypothesis, Level, Outcome, Scope, State
from thalweg.inspection import Kind
from thalweg.inspection.proofs import best_gap, best_lower_bound, proof_records, proof_sections, settle


def made(kind: ClaimKind, bound: float | None = None, **given: Any) -> Certificate:
    fields: dict[str, Any] = {
        "name": "a proof",
        "scope": Scope.ARCHITECTURE,
        "source": "a book",
        "outcome": Outcome.ESTABLISHED,
        "claim": "so it is",
        "level": Level.RIGOROUS,
    }
    return Certificate(kind=kind, bound=bound, **(fields | given))


def test_the_strongest_claim_over_the_network_counts() -> None:
    lower = [made(ClaimKind.LOWER_BOUND, bound) for bound in (0.1, 0.3, 0.2)]
    gaps = [made(ClaimKind.GAP, bound) for bound in (0.5, 0.4)]
    narrow = [made(ClaimKind.LOWER_BOUND, 9.0, scope=Scope.LINEARISED), made(ClaimKind.GAP, 0.0, scope=Scope.BALL)]
    failed = made(ClaimKind.GAP, outcome=Outcome.UNDECIDED, reason="why", claim="", level=None)
    everything = [*narrow, *lower, *gaps, failed]
    assert best_lower_bound(everything) is lower[1]
    assert best_gap(everything) is gaps[1]
    assert best_gap(narrow) is best_lower_bound(narrow) is None


def test_a_proof_outranks_figures_and_a_conflict_is_told() -> None:
    proof = made(ClaimKind.NOT_A_MINIMUM, name="fibre descent", claim="the loss falls")
    assert settle(Kind.UNDECIDED, ("flat",), [proof], stationary=True) == (Kind.SADDLE, ("the loss falls",))
    assert settle(Kind.UNDECIDED, ("cut",), [proof], stationary=False) == (Kind.UNDECIDED, ("cut",))
    kind, reasons = settle(Kind.STRICT_MINIMUM, ("all positive",), [proof], stationary=True)
    assert kind is Kind.UNDECIDED
    assert "the spectrum speaks for a strict minimum, but the loss falls (rigorous)" in reasons[0]
    for untouched in (Kind.NOT_STATIONARY, Kind.SADDLE):
        assert settle(untouched, ("x",), [proof], stationary=True) == (untouched, ("x",))
    gradient = made(ClaimKind.NOT_A_MINIMUM, name="gradient")
    assert settle(Kind.STRICT_MINIMUM, ("x",), [gradient], stationary=True) == (Kind.STRICT_MINIMUM, ("x",))


def test_a_proof_of_what_the_spectrum_says_is_told_with_it() -> None:
    proofs = [made(ClaimKind.EXISTENCE, 1e-9, evidence={"index": 0.0})]
    kind, reasons = settle(Kind.STRICT_MINIMUM, ("all positive",), proofs, stationary=True)
    assert kind is Kind.STRICT_MINIMUM
    assert reasons == ("all positive", "proved: a strict local minimum lies within 1e-9 of this point")
    for other, level in ((Kind.SADDLE, Level.RIGOROUS), (Kind.STRICT_MINIMUM, Level.NUMERIC)):
        proofs = [made(ClaimKind.EXISTENCE, 1e-9, evidence={"index": 0.0}, level=level)]
        assert settle(other, ("figures",), proofs, stationary=True) == (other, ("figures",))


def test_what_is_shown_in_brief_is_the_strongest_of_each_kind() -> None:
    weak, strong = made(ClaimKind.GAP, 0.5, claim="a weak one"), made(ClaimKind.GAP, 0.1, claim="a strong one")
    local = made(ClaimKind.GAP, 0.0, claim="a local one", scope=Scope.LINEARISED)
    dear = made(ClaimKind.GAP, name="costly", outcome=Outcome.NOT_ATTEMPTED, reason="1 h", claim="", level=None)
    text = tw.display.Report("t", list(proof_sections([weak, local, strong, dear], brief=True))).to_text(100)
    assert "A strong one" in text
    assert "weak" not in text
    assert "local one" not in text
    assert "2 more were proved; too dear for the time or memory given: costly" in text
    whole = tw.display.Report("t", list(proof_sections([weak, local, strong, dear]))).to_text(100)
    assert all(word in whole for word in ("A weak one", "A local one", "A strong one", "costly", "1 h"))


def test_hypotheses_stand_one_by_one_on_the_page_and_in_json() -> None:
    condition = Hypothesis("the moon is full", State.CHECKED, 0.25, "one looked")
    certificate = made(ClaimKind.GAP, 0.1, hypotheses=(condition,), evidence={"theta": torch.ones(2), "n": 3.0})
    page = tw.display.Report("t", list(proof_sections([certificate]))).to_html()
    for word in ("the moon is full", "checked", "0.25", "one looked", "A book"):
        assert word in page
    (record,) = json.loads(json.dumps(proof_records([certificate])))
    assert record["hypotheses"] == [
        {"statement": "the moon is full", "state": "checked", "margin": 0.25, "note": "one looked"}
    ]
    assert record["evidence"] == {"theta": [1.0, 1.0], "n": 3.0}
    assert record["bound"] == 0.1


def test_the_page_says_what_the_claims_on_it_mean_and_what_they_do_not() -> None:
    proofs = [made(ClaimKind.GAP, 0.1), made(ClaimKind.EXISTENCE, 0.1, level=Level.NUMERIC)]
    page = html.unescape(tw.display.Report("t", list(proof_sections(proofs))).to_html())
    for kind in ClaimKind:
        assert (kind.caution in page) is (kind in (ClaimKind.GAP, ClaimKind.EXISTENCE))
    assert Level.NUMERIC.sentence in page
    assert Level.HEURISTIC.sentence not in page


def test_the_documentation_explains_every_kind_of_claim() -> None:
    text = (Path(__file__).parents[2] / "docs" / "understand" / "certificates.md").read_text()
    for kind in ClaimKind:
        assert f"| {kind.value} |" in text


def colliding() -> tuple[nn.Module, nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    return model, nn.MSELoss(), torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [2.0], [1.0]])


def test_a_verdict_has_a_lower_bound_and_a_gap(tmp_path) -> None:  # type: ignore[no-untyped-def]
    verdict = tw.inspect(*colliding())
    assert verdict.lower_bound == pytest.approx(2 / 3, rel=1e-12)
    assert verdict.gap == pytest.approx(verdict.value - 2 / 3, rel=1e-9)
    assert verdict.gap >= verdict.value - 2 / 3
    verdict.save_json(tmp_path / "v.json")
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["lower_bound"] == verdict.lower_bound
    assert {c["name"] for c in record["certificates"]} >= {"label collisions", "gradient"}
    assert "What can be proved" in str(verdict)
    assert "What the proofs rest on" in verdict.report().to_html()


def test_a_global_minimum_is_proved() -> None:
    """Two samples with one input and different targets: the mean is the best there is, and a bias reaches it."""
    model, loss, inputs, targets = colliding()
    risk = tw.EmpiricalRisk(model, loss, inputs, targets)
    solution = tw.minimize(risk, tolerance=1e-10)
    verdict = tw.inspect(risk, solution)
    assert verdict.value == pytest.approx(2 / 3, rel=1e-9)
    assert verdict.gap is not None
    assert verdict.gap < 1e-9
    assert any(f.text.startswith("Proved: the loss is within") for f in verdict.findings)


def test_certificates_are_chosen_by_name_or_left_out() -> None:
    verdict = tw.inspect(*colliding(), certificates=["label collisions"])
    assert [c.name for c in verdict.certificates] == ["label collisions"]
    none = tw.inspect(*colliding(), certificates=[])
    assert none.certificates == ()
    assert none.gap is none.lower_bound is None
    assert "What can be proved" not in str(none)


def test_an_interrupt_among_the_certificates_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.certificates import LabelCollisions

    def interrupted(self: object, *_: object) -> Certificate:
        raise KeyboardInterrupt

    monkeypatch.setattr(LabelCollisions, "prove", interrupted)
    verdict = tw.inspect(*colliding(), certificates=["label collisions", "gradient"])
    assert not verdict.complete
    assert verdict.curvature is not None
    assert any(part.what == "certificates" and "interrupted" in part.why for part in verdict.skipped)


def test_single_precision_is_named_and_ends_nothing() -> None:
    verdict = tw.inspect(*colliding(), dtype=torch.float32)
    assert verdict.complete
    assert any("need an objective in float64" in part.why for part in verdict.skipped)
