"""The files around the code: what is pinned, what is promised, what the commands are called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import thalweg

ROOT = Path(__file__).parent.parent
COMMANDS = ("help", "venv", "demo", "test", "soak", "bench", "studies", "docs")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "only exact versions, no hosts"
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_every_requirement_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement

    extras = project()["optional-dependencies"].values()
    listed = [*project()["dependencies"], *(one for extra in extras for one in extra)]
    pinned = pins()
    for text in listed:
        requirement = Requirement(text)
        if normal(requirement.name) != "thalweg":
            assert pinned[normal(requirement.name)] in requirement.specifier, text


def test_what_is_installed_here_is_what_is_pinned() -> None:
    from importlib.metadata import version

    pinned = pins()
    for package in ("torch", "numpy", "scipy", "scikit-learn", "plotly", "typer"):
        assert version(package).split("+")[0] == pinned[package]


@needs_make
def test_help_lists_every_command() -> None:
    run = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert re.search(rf"^  make {command}\s+\S", run.stdout, re.MULTILINE), command
    assert run.stdout == subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@needs_make
def test_an_old_python_is_named_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi\n')
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    run = subprocess.run(["make", "venv", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, env=clean)
    assert run.returncode != 0
    assert "needs Python 3.11 or newer" in run.stderr
    assert "Python 3.9.2" in run.stderr
    assert "make venv PYTHON=" in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_script_of_continuous_integration() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) or sys.platform == "win32"
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert lines.index("make test") < lines.index("make demo")


def test_versions_agree() -> None:
    assert project()["version"] == thalweg.__version__
    assert f"version: {thalweg.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_citation_file_is_complete() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what version 1.2.0 of the format requires
    assert citation["license"] == project()["license"]


def test_the_changelog_has_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    assert "## [Unreleased]" in text
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_typed_marker_is_there() -> None:
    assert (Path(thalweg.__file__).parent / "py.typed").exists()
