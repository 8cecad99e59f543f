"""Rooms import from the floors below them, and from nowhere else.

The rule is the data at the top. Imports are read from the source, so those inside functions and under ``TYPE_CHECKING``
count too, and so does ``importlib.import_module`` with a written-out name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "thalweg"

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "foundation",
        "structure",
        "objectives",
        "zoo",
        "tangent",
        "certificates",
        "solvers",
        "optim",
        "guarantees symmetry families dynamics convex flatness identification learning",
        "inspection catalogue",
        "labs",
        "studies",
        "commands",
        "cli",
    )
)
"""From the ground up. Rooms that share a floor do not import one another."""

GROUND = frozenset({"foundation", "structure", "objectives", "zoo", "display"})
"""What is minimised, and how things are shown. `display` stands here but knows nothing of its neighbours: it imports
the foundation only, and every room above the ground may import it."""

FRONT_DOORS = frozenset({"__init__", "__main__"})
"""Files of the package itself, which put the rooms together."""


class Import(NamedTuple):
    """One import of something of the package's: where it stands, in which room, of which room ('': the front door)."""

    place: str
    room: str
    imported: str


def may_import(room: str, other: str) -> bool:
    """Say whether the floors allow it."""
    if room == other:
        return True
    if room == "display":
        return other == "foundation"
    if other == "display":
        return room not in GROUND
    return level(other) < level(room)


def level(room: str) -> int:
    """Number of the floor, counted from the ground."""
    for number, floor in enumerate(FLOORS):
        if room in floor:
            return number
    raise KeyError(f"room {room!r} stands on no floor; give it one in {Path(__file__).name}")


def room_of(path: Path, package: Path) -> str:
    """First folder under the package, or the name of a file that lies there."""
    return path.relative_to(package).with_suffix("").parts[0]


def imports(path: Path, package: Path) -> Iterator[Import]:
    """Read every import of the package's own modules in one file."""
    room = room_of(path, package)
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        for module in _modules(node, path, package):
            parts = module.split(".")
            if parts[0] == package.name:
                place = f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 0)}"
                yield Import(place, room, parts[1] if len(parts) > 1 else "")


def _modules(node: ast.AST, path: Path, package: Path) -> list[str]:
    """Absolute names of the modules that one node imports; of ``from a import b`` both a.b, or a.name, are one name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            folder = path.relative_to(package.parent).parent.parts
            base = ".".join([*folder[: len(folder) - node.level + 1], *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names] if base == package.name else [base]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def violations(package: Path) -> list[str]:
    """Every import that goes up, sideways, or through the front door."""
    found = []
    for path in sorted(package.rglob("*.py")):
        if room_of(path, package) in FRONT_DOORS:
            continue
        for place, room, imported in imports(path, package):
            if room == "cli" and imported == "__version__":
                continue  # the front door's own constant; it needs no room
            if imported not in frozenset().union(*FLOORS, GROUND):
                found.append(f"{place}: {room} imports through the front door ({imported or package.name})")
            elif not may_import(room, imported):
                found.append(f"{place}: {room} imports {imported}, which is not below it")
    return found


def test_rooms_import_only_from_below() -> None:
    found = violations(PACKAGE)
    assert not found, "\n".join(found)


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")} - FRONT_DOORS
    known = frozenset().union(*FLOORS, GROUND)
    assert rooms <= known, f"no floor for {sorted(rooms - known)}"


def test_the_rule_is_about_something() -> None:
    seen = [found for path in PACKAGE.rglob("*.py") for found in imports(path, PACKAGE)]
    assert len(seen) > 20
    assert any(one.room == "objectives" and one.imported == "foundation" for one in seen)


# -- the test's own tests: planted violations --------------------------------------------------------------------------

PLANTED = {
    "up": ("foundation/a.py", "from thalweg.objectives import Objective", "foundation imports objectives"),
    "up, of a submodule": ("zoo/a.py", "import thalweg.tangent.spectrum as s", "zoo imports tangent"),
    "inside a function": (
        "solvers/a.py",
        "def f():\n    from thalweg.inspection import inspect",
        "solvers imports inspection",
    ),
    "under TYPE_CHECKING": (
        "structure/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from thalweg.zoo.linear import Linear",
        "structure imports zoo",
    ),
    "relative": ("objectives/deep/a.py", "from ...tangent import spectrum", "objectives imports tangent"),
    "relative, of a room": ("objectives/a.py", "from .. import tangent", "objectives imports tangent"),
    "sideways": ("symmetry/a.py", "from thalweg.families import known", "symmetry imports families"),
    "science into display": ("display/a.py", "from thalweg.objectives import Objective", "display imports objectives"),
    "display on the ground": ("zoo/a.py", "from thalweg.display import Report", "zoo imports display"),
    "by name": (
        "tangent/a.py",
        "import importlib\nimportlib.import_module('thalweg.solvers')",
        "tangent imports solvers",
    ),
    "front door": ("tangent/a.py", "import thalweg as tw", "through the front door"),
    "front door, a name": ("tangent/a.py", "from thalweg import minimize", "through the front door"),
    "a room by way of the front door": ("tangent/a.py", "from thalweg import solvers", "tangent imports solvers"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_planted_violation_is_found(case: str, tmp_path: Path) -> None:
    name, source, expected = PLANTED[case]
    found = violations(_plant(tmp_path, name, source))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("objectives/a.py", "from thalweg.foundation import ParameterSpace\nfrom thalweg.structure import trace"),
        ("tangent/a.py", "from thalweg.display import Report\nimport torch\nfrom .b import c"),
        ("display/a.py", "from thalweg.foundation import InvalidInputError"),
        ("cli.py", "def run():\n    from thalweg.inspection import inspect\n    from thalweg.display import Report"),
        ("inspection/a.py", "from thalweg.convex import solve\nfrom thalweg.certificates import registry"),
    ],
)
def test_what_is_allowed_is_not_reported(name: str, source: str, tmp_path: Path) -> None:
    assert violations(_plant(tmp_path, name, source)) == []


def test_a_new_room_without_a_floor_is_an_error() -> None:
    with pytest.raises(KeyError, match="stands on no floor"):
        level("attic")


def _plant(folder: Path, name: str, source: str) -> Path:
    package = folder / "thalweg"
    (package / name).parent.mkdir(parents=True)
    (package / name).write_text(source + "\n")
    return package
