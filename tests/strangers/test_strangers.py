"""Every verb on every stranger: a checked answer or a refusal that names its reason."""

from __future__ import annotations

import itertools

import pytest
from tests.strangers import matrix
from tests.strangers.cells import VERBS, answer, case
from tests.strangers.models import FACTORIES

SECOND_ORDER = ("Hessian", "Hessian product", "Hessian operator", "Taylor")
REFUSED = {
    **{("hand written gradient", verb): "the Hessian is not symmetric" for verb in SECOND_ORDER},
    ("weight norm", "pickle"): "torch cannot pickle",
    **{
        ("hand written gradient", verb): "twice"
        for verb in ("eigenpairs", "inertia", "minimize", "flow", "survey", "critical point", "inspect")
    },
    ("single precision", "certify"): "need an objective in float64",
    ("gru", "structure"): "it is recurrent",
    ("lstm tagger", "structure"): "it is recurrent",
    ("data dependent branch", "structure"): "reads numbers out of tensors",
}
"""Cells that are refused, and a part of the reason. A cell not named here must be answered."""


STANDING = matrix.in_readme()


@pytest.mark.parametrize("stranger", FACTORIES)
@pytest.mark.parametrize("verb", VERBS)
def test_cell(stranger: str, verb: str) -> None:
    """It is answered or refused as named above, and the README says so; ``python -m tests.strangers.matrix --write``
    renews that."""
    found = answer(stranger, verb)
    reason = REFUSED.get((stranger, verb))
    if reason is None:
        assert found == "ok"
    else:
        assert found.startswith("refused: ")
        assert reason in found
    assert STANDING.cells[stranger, verb] == found
    assert STANDING.losses[stranger] == case(stranger).risk.loss_facts.name


def test_the_matrix_in_the_readme_is_whole() -> None:
    assert list(STANDING.cells) == list(itertools.product(FACTORIES, VERBS))
