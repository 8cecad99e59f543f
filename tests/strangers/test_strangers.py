"""Every verb on every stranger: a checked answer or a refusal that names its reason."""

from __future__ import annotations

import pytest
from tests.strangers import matrix
from tests.strangers.cells import VERBS, answer
from tests.strangers.models import FACTORIES

SECOND_ORDER = ("Hessian", "Hessian product", "Hessian operator", "Taylor")
REFUSED = {
    **{("hand written gradient", verb): "the Hessian is not symmetric" for verb in SECOND_ORDER},
    ("weight norm", "pickle"): "torch cannot pickle",
    **{
        ("hand written gradient", verb): "twice"
        for verb in ("eigenpairs", "inertia", "minimize", "critical point", "inspect")
    },
    ("single precision", "certify"): "need an objective in float64",
    ("gru", "structure"): "it is recurrent",
    ("lstm tagger", "structure"): "it is recurrent",
    ("data dependent branch", "structure"): "reads numbers out of tensors",
}
"""Cells that are refused, and a part of the reason. A cell not named here must be answered."""


@pytest.mark.parametrize("stranger", FACTORIES)
@pytest.mark.parametrize("verb", VERBS)
def test_cell(stranger: str, verb: str) -> None:
    found = answer(stranger, verb)
    reason = REFUSED.get((stranger, verb))
    if reason is None:
        assert found == "ok"
    else:
        assert found.startswith("refused: ")
        assert reason in found


def test_matrix_stands_in_the_readme() -> None:
    """``python -m tests.strangers.matrix --write`` renews it."""
    standing = matrix.in_readme()
    if standing is None:
        pytest.skip("the README has no place for the matrix yet")
    assert standing == matrix.matrix().strip()
