"""The front door: light, complete, and no room stands in front of a function."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg

PACKAGE = Path(thalweg.__file__).parent
HEAVY = frozenset(
    {
        "torch", "numpy", "scipy", "sklearn", "plotly", "transformers", "pandas", "matplotlib", "cvxpy", "sqlalchemy",
        "pyarrow", "distributed",
    }
)  # fmt: skip


def _modules_after(code: str) -> set[str]:
    """Top-level names of what a fresh interpreter has imported after `code`."""
    ending = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


CALL = """
import sys
from thalweg.cli import main
sys.argv = ["thalweg", {argument!r}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_command_answers_without_heavy_imports(argument: str) -> None:
    loaded = _modules_after(CALL.format(argument=argument))
    assert "thalweg" in loaded
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not _modules_after("import thalweg; dir(thalweg)") & HEAVY


def test_the_check_sees_heavy_imports() -> None:
    assert {"numpy", "torch"} <= _modules_after("import thalweg; thalweg.ParameterSpace")


def test_help_names_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "thalweg", "--help"], capture_output=True, text=True, check=True)
    assert "thalweg" in run.stdout
    assert "--version" in run.stdout


@pytest.mark.parametrize("name", [name for name in thalweg.__all__ if not name.startswith("__")])
def test_every_public_name_is_there(name: str) -> None:
    home = thalweg._HOME.get(name)
    found = getattr(thalweg, name)
    if home is None:
        assert found is importlib.import_module(f"thalweg.{name}")
    else:
        assert found is getattr(importlib.import_module(f"thalweg.{home}"), name)
        assert getattr(thalweg, name) is found  # on second access too


def test_the_three_lists_of_names_agree() -> None:
    names = {*thalweg._HOME, *thalweg._ROOMS}
    assert names == set(thalweg.__all__) - {"__version__"}
    assert len(thalweg.__all__) == len(set(thalweg.__all__))
    assert names <= set(dir(thalweg))
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared == names, "what type checkers see is not what is there at run time"


def test_no_room_shares_a_name_with_a_public_function() -> None:
    # Importing thalweg.x for the first time binds the attribute x of thalweg to the module, whatever it was before.
    files = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not files & set(thalweg._HOME)
    assert set(thalweg._ROOMS) <= files


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'minimise'"):
        thalweg.minimise  # noqa: B018  the access itself is what is tried


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("thalweg") == thalweg.__version__
