"""The shapes in public signatures are really checked while the tests run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import jaxtyping
import pytest
import shape_checks
import torch

from thalweg.foundation import InvalidInputError, LinearOperator, ParameterSpace
from thalweg.objectives import L2, Evaluation

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor

def careless(theta: Float[Tensor, "*batch P"], matrix: Float[Tensor, "P P"]) -> Float[Tensor, "*batch P"]:
    return (theta.unsqueeze(-1) * matrix[0, 0]).squeeze(-1)

def careful(theta: Float[Tensor, "*batch P"], matrix: Float[Tensor, "P P"]) -> Float[Tensor, "*batch P"]:
    if theta.shape[-1] != matrix.shape[0]:
        raise ValueError("says so itself")
    return theta

def wrong(theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    return theta

def no_shapes(text: str) -> int:
    return text

def _private(theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    return theta

@dataclass(frozen=True)
class Record:
    point: Float[Tensor, " P"]
    direction: Float[Tensor, " P"]

    @property
    def wrong(self) -> Float[Tensor, ""]:
        return self.point

def other_hints(theta: Float[Tensor, "*batch P"], text: int) -> Float[Tensor, "*batch P"]:
    return theta
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("checked") / "checked_example.py"
    path.write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        with shape_checks.install("checked_example"):
            spec = importlib.util.find_spec("checked_example")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, "checked_example", module)  # dataclasses look themselves up there
            spec.loader.exec_module(module)
    return module


def test_a_wrong_result_is_found(checked) -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return value of checked_example\.wrong"):
        checked.wrong(torch.zeros(2, 3))


def test_a_wrong_argument_that_was_let_pass_is_found(checked) -> None:
    assert checked.careless(torch.zeros(4, 3), torch.zeros(3, 3)).shape == (4, 3)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked.careless(torch.zeros(4, 3), torch.zeros(2, 2))


def test_a_refusal_of_the_functions_own_comes_first(checked) -> None:
    with pytest.raises(ValueError, match="says so itself"):
        checked.careful(torch.zeros(4, 3), torch.zeros(2, 2))


def test_functions_without_shapes_are_left_alone(checked) -> None:
    assert checked.no_shapes("as it is") == "as it is"


def test_records_are_checked_when_they_are_made(checked) -> None:
    assert checked.Record(torch.zeros(3), torch.zeros(3)).point.shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError, match="Record"):
        checked.Record(torch.zeros(3), torch.zeros(4))


def test_properties_are_checked(checked) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        _ = checked.Record(torch.zeros(3), torch.zeros(3)).wrong


def test_what_is_private_is_left_alone(checked) -> None:
    assert checked._private(torch.zeros(2, 3)).shape == (2, 3)


def test_hints_other_than_shapes_are_left_to_mypy(checked) -> None:
    assert checked.other_hints(torch.zeros(2), "no integer").shape == (2,)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch.func.jvp calls it
def test_transforms_of_torch_pass_through(checked) -> None:
    thetas, matrix = torch.ones(5, 3), 2 * torch.eye(3)
    batched = torch.func.vmap(lambda theta: checked.careless(theta, matrix))(thetas)
    assert torch.equal(batched, 2 * thetas)
    _, tangent = torch.func.jvp(lambda theta: checked.careless(theta, matrix), (thetas,), (thetas,))
    assert torch.equal(tangent, 2 * thetas)


class Lying(L2):
    """Gives the gradient where the value is asked for."""

    def evaluate(self, theta: torch.Tensor, order: int = 0) -> Evaluation:
        return Evaluation(theta)


def test_the_package_itself_is_checked() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return value of thalweg\.objectives\..*\.value"):
        Lying(ParameterSpace({"x": (3,)}), 1.0).value(torch.zeros(5, 3))


def test_the_packages_refusals_are_seen_with_the_checks_on() -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        LinearOperator((3, 3), lambda columns: columns, symmetric=True) @ torch.zeros(2)


def test_the_checker_is_where_the_hook_looks_for_it() -> None:
    module, name = shape_checks.CHECKER.rsplit(".", 1)
    assert getattr(importlib.import_module(module), name) is shape_checks.check_after_the_call
    assert Path(shape_checks.__file__).parent.name == "support"
