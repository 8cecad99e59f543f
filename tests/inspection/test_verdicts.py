"""Verdicts on points whose kind is known in advance."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.inspection import Kind
from thalweg.zoo import LinearNetwork, Quadratic, all_infinities, all_known

KNOWN = [
    pytest.param(exhibit.objective, point, id=f"{exhibit.name}-{number}")
    for exhibit in all_known()
    for number, point in enumerate(exhibit.objective.critical_points()[:8])
]


@pytest.mark.parametrize(("objective", "point"), KNOWN)
def test_no_known_critical_point_is_called_what_it_is_not(objective, point):
    verdict = tw.inspect(objective, point.theta)
    assert verdict.kind is not Kind.NOT_STATIONARY
    inertia = verdict.curvature.inertia
    assert inertia.negative <= point.index <= inertia.negative + inertia.undecided
    if verdict.index is not None:
        assert (verdict.index, verdict.nullity) == (point.index, point.nullity)
    allowed = {
        "strict minimum": {Kind.STRICT_MINIMUM, Kind.UNDECIDED},
        "degenerate minimum": {Kind.DEGENERATE_MINIMUM, Kind.UNDECIDED},
        "saddle": {Kind.SADDLE},
        "degenerate saddle": {Kind.UNDECIDED},
        "maximum": {Kind.SADDLE, Kind.UNDECIDED},
    }
    assert verdict.kind in allowed[point.kind], (verdict.kind, verdict.reasons)


def test_the_easy_ones_are_decided():
    """Undecided is honest, but not for everything."""
    decided = [
        tw.inspect(exhibit.objective, point.theta).kind is not Kind.UNDECIDED
        for exhibit in all_known()
        for point in exhibit.objective.critical_points()[:4]
        if point.kind in ("strict minimum", "saddle")
    ]
    assert sum(decided) >= 0.95 * len(decided)


INFINITE = [
    pytest.param(exhibit.objective, start, id=f"{exhibit.name}-{number}")
    for exhibit in all_infinities()
    for number, start in enumerate(exhibit.objective.starts()[:3])
]


@pytest.mark.parametrize(("objective", "start"), INFINITE)
def test_a_way_to_infinity_is_never_called_a_minimum(objective, start):
    """Where descent stops on its way out, at whatever gradient, there is no minimum."""
    for iterations in (0, 5, 40, 400):
        theta = start if iterations == 0 else tw.minimize(objective, start, max_iterations=iterations).theta
        verdict = tw.inspect(objective, theta)
        assert verdict.kind not in (Kind.STRICT_MINIMUM, Kind.DEGENERATE_MINIMUM), (iterations, verdict.reasons)


def test_index_and_nullity_of_every_saddle_of_a_linear_network_with_close_singular_values():
    network = LinearNetwork.from_singular_values([1.0, 1.0 + 1e-4, 2.0], 3)
    for point in network.critical_points():
        verdict = tw.inspect(network, point.theta)
        assert (verdict.index, verdict.nullity) == (point.index, point.nullity), point.why


@pytest.mark.parametrize("gap", [1e-9, 1e-12, 1e-14])
def test_closer_singular_values_give_an_undecided_count_that_contains_the_truth(gap):
    network = LinearNetwork.from_singular_values([1.0, 1.0 + gap, 2.0], 2)
    for point in network.critical_points():
        inertia = tw.inspect(network, point.theta).curvature.inertia
        assert inertia.negative <= point.index <= inertia.negative + inertia.undecided


def test_the_verdict_does_not_depend_on_units():
    """The loss in other units is the same landscape."""
    for factor in (1e-12, 1.0, 1e12):
        spectrum = [factor * value for value in (-1.0, 2.0, 5.0)]
        quadratic = Quadratic(spectrum, torch.tensor([1.0, 2.0, 3.0]))
        at_center = tw.inspect(quadratic, quadratic.critical_points()[0].theta)
        assert at_center.kind is Kind.SADDLE
        away = tw.inspect(quadratic, quadratic.critical_points()[0].theta + 0.1)
        assert away.kind is Kind.NOT_STATIONARY


def small_network(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(60, 4, generator=generator)
    targets = torch.randint(0, 3, (60,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, inputs, targets


def test_predictions_are_what_the_loss_does():
    """Every gain reported is found again by evaluating the user's own model after the step."""
    model, inputs, targets = small_network()
    verdict = tw.inspect(model, nn.CrossEntropyLoss(), inputs, targets)
    assert verdict.kind is Kind.NOT_STATIONARY
    assert verdict.best_step is not None
    objective = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, targets)
    for step in verdict.steps:
        end = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        objective.load_into_model(verdict.theta + step.step, end)
        with torch.no_grad():
            before = float(nn.CrossEntropyLoss()(model.double()(inputs.double()), targets))
            after = float(nn.CrossEntropyLoss()(end(inputs.double()), targets))
        assert before - after == pytest.approx(step.measured, rel=1e-9)
        if step.verified:
            assert abs(step.predicted - (before - after)) <= 0.2 * (before - after)


def test_the_live_model_is_untouched(untouched_random_state):
    model, inputs, targets = small_network()
    model.train()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    tw.inspect(model, nn.CrossEntropyLoss(), inputs, targets)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_a_softmax_shift_explains_the_flat_directions_of_a_minimum():
    """At a penalised minimum nothing is flat; where only the bias goes unpenalised, exactly one direction is."""
    model, inputs, targets = small_network()
    risk = tw.EmpiricalRisk(model, nn.CrossEntropyLoss(), inputs, targets)
    full = tw.minimize(risk + tw.L2(risk, 1e-2), risk.initial)
    assert tw.inspect(risk + tw.L2(risk, 1e-2), full).kind is Kind.STRICT_MINIMUM
    weights_only = risk + tw.L2(risk, 1e-2, parameters="*weight")
    verdict = tw.inspect(weights_only, tw.minimize(weights_only, risk.initial))
    assert verdict.kind is Kind.DEGENERATE_MINIMUM, verdict.reasons
    assert verdict.nullity == 1
    assert verdict.index == 0


def test_json_holds_the_figures_and_its_schema(tmp_path):
    model, inputs, targets = small_network()
    verdict = tw.inspect(model, nn.CrossEntropyLoss(), inputs, targets)
    verdict.save_json(tmp_path / "verdict.json")
    record = json.loads((tmp_path / "verdict.json").read_text())
    assert record["schema"] == "thalweg.verdict"
    assert record["schema_version"] == 1
    assert record["kind"] == "not stationary"
    assert record["point"]["value"] == verdict.value
    assert len(record["curvature"]["eigenvalues"]) == 43
    assert record["steps"][0]["measured"] == verdict.steps[0].measured


def test_table_page_and_fragment_show_the_kind_and_the_advice(tmp_path):
    model, inputs, targets = small_network()
    verdict = tw.inspect(model, nn.CrossEntropyLoss(), inputs, targets)
    verdict.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in (str(verdict), page, verdict._repr_html_()):
        assert "ot stationary" in text
        assert "tw.minimize" in text
    document = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)  # the drawing library's own source aside
    for loaded in ('src="http', 'href="http', "@import", "url(http", "<script src"):
        assert loaded not in document
    assert repr(verdict).startswith("<Verdict not stationary; loss")
