"""``thalweg inspect`` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from thalweg.cli import app

SETUP = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = torch.randn(30, 3)
    return model, nn.CrossEntropyLoss(), inputs, (inputs[:, 0] > 0).long()

def objective():
    import thalweg as tw
    risk = tw.EmpiricalRisk(*build())
    return risk + tw.L2(risk, 0.1)

def saddle():
    from thalweg.zoo import Quadratic
    import thalweg as tw
    return Quadratic([-1.0, 2.0])

def broken():
    raise RuntimeError("no such data")

def wrong():
    return 3

NOT_A_FUNCTION = 1
"""


@pytest.fixture
def setup(tmp_path: Path) -> Path:
    path = tmp_path / "train_setup.py"
    path.write_text(SETUP)
    return path


def thalweg(*words: object) -> tuple[int, str]:
    with torch.random.fork_rng(devices=[]):
        result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def checkpoint(scale: float) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).state_dict()
    return {name: scale * value for name, value in state.items()}


def test_a_verdict_in_the_terminal_as_json_and_as_a_page(setup, tmp_path):
    code, out = thalweg("inspect", f"{setup}:build", "--json", tmp_path / "v.json", "--html", tmp_path / "v.html")
    assert code == 0
    assert "Not stationary" in out
    record = json.loads((tmp_path / "v.json").read_text())
    assert f"{record['point']['value']:.4g}" in out
    assert "Spectrum of the Hessian" in (tmp_path / "v.html").read_text()


def test_weights_are_those_of_the_file(setup, tmp_path):
    state = checkpoint(0.5)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "a.pt")
    values = []
    for name in ("a.safetensors", "a.pt"):
        thalweg("inspect", f"{setup}:build", "--weights", tmp_path / name, "--json", tmp_path / "v.json")
        values.append(json.loads((tmp_path / "v.json").read_text())["point"]["value"])
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model.load_state_dict(state)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))  # the same draws as the setup makes
        inputs = torch.randn(30, 3)
        expected = float(nn.CrossEntropyLoss()(model(inputs.double()), (inputs[:, 0] > 0).long()))
    assert values == pytest.approx([expected, expected], rel=1e-12)


def test_several_weights_give_the_course_of_a_run(setup, tmp_path):
    files = []
    for number, scale in enumerate((0.1, 0.5, 1.0)):
        torch.save(checkpoint(scale), tmp_path / f"{number}.pt")
        files += ["--weights", tmp_path / f"{number}.pt"]
    outputs = ["--json", tmp_path / "c.json", "--html", tmp_path / "c.html"]
    code, out = thalweg("inspect", f"{setup}:objective", *files, *outputs)
    assert code == 0
    assert "Course of 3 checkpoints" in out
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["schema"] == "thalweg.course"
    assert record["names"] == ["0.pt", "1.pt", "2.pt"]
    assert len({verdict["point"]["value"] for verdict in record["verdicts"]}) == 3


def test_polish_goes_to_the_critical_point_and_keeps_its_kind(setup, tmp_path):
    code, out = thalweg("inspect", f"{setup}:objective", "--polish", "--json", tmp_path / "v.json")
    assert code == 0
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["polish"]["gradient_after"] < 1e-9 < record["polish"]["gradient_before"]
    assert record["kind"] in ("strict minimum", "saddle")
    assert "polished" in out


def test_a_budget_too_small_leaves_a_partial_verdict_and_says_so(setup, tmp_path):
    code, out = thalweg("inspect", f"{setup}:build", "--budget", "0.000001s", "--json", tmp_path / "v.json")
    assert code == 3
    assert "partial" in out
    assert json.loads((tmp_path / "v.json").read_text())["complete"] is False


def test_what_would_run_code_is_not_loaded(setup, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    code, out = thalweg("inspect", f"{setup}:build", "--weights", tmp_path / "whole.pt")
    assert code == 2
    assert "could run code" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.py:build"], "there is no file nowhere.py"),
        (["{setup}"], "write FILE.py:FUNCTION"),
        (["{setup}:missing"], "defines no function 'missing'"),
        (["{setup}:NOT_A_FUNCTION"], "defines no function"),
        (["{setup}:broken"], "RuntimeError: no such data"),
        (["{setup}:wrong"], "returned int"),
        (["{setup}:build", "--weights", "gone.pt"], "there is no weights file gone.pt"),
        (["{setup}:build", "--weights", "{setup}"], "cannot be read as weights"),
        (["{setup}:build", "--weights", "{other}"], "weights of another model"),
        (["{setup}:build", "--budget", "soon"], "cannot read 'soon' as a time"),
        (["{setup}:build", "--memory", "lots"], "cannot read 'lots' as a memory size"),
        (["{setup}:build", "--json", "/nonexistent/v.json"], "there is no folder"),
        (["{setup}:build", "--json", "{folder}"], "is a folder"),
        (["{setup}:build", "--learning-rate", "0"], "learning_rate is the step size in use, a positive number"),
        (["{setup}:build", "--batch-size", "31"], "1 to 30 here; got 31"),
        (["{setup}:saddle"], "which point"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(setup, tmp_path, words, message):
    torch.save({"something": torch.ones(2)}, tmp_path / "other.pt")
    words = [word.format(setup=setup, other=tmp_path / "other.pt", folder=tmp_path) for word in words]
    code, out = thalweg("inspect", *words)
    assert code == 2
    assert message in " ".join(out.split())
    assert "Traceback" not in out


def test_shape_mismatch_of_weights_is_named(setup, tmp_path):
    state = checkpoint(1.0)
    state["0.weight"] = torch.ones(4, 5)
    torch.save(state, tmp_path / "w.pt")
    code, out = thalweg("inspect", f"{setup}:build", "--weights", tmp_path / "w.pt")
    assert code == 2
    assert "'0.weight' has shape (4, 5)" in " ".join(out.split())


def test_the_verdict_is_printed_and_the_rest_saved_where_one_file_cannot_be_written(setup, tmp_path, monkeypatch):
    import thalweg.inspection.verdict as module
    from thalweg.foundation import InvalidInputError

    def full(*_: object, **__: object) -> None:
        raise InvalidInputError("no space left on device")

    monkeypatch.setattr(module, "write_json", full)
    code, out = thalweg("inspect", f"{setup}:build", "--json", tmp_path / "v.json", "--html", tmp_path / "v.html")
    assert code == 2
    assert "Not stationary" in out
    assert "no space left on device" in out
    assert (tmp_path / "v.html").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_terminal_that_cannot_be_written_to_is_one_line_and_files_are_saved(setup, tmp_path):
    command = [sys.executable, "-m", "thalweg", "inspect", f"{setup}:build", "--json", str(tmp_path / "v.json")]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)
    assert run.returncode == 2
    assert "cannot print the result" in run.stderr
    assert "Traceback" not in run.stderr
    assert (tmp_path / "v.json").is_file()


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
INTERRUPTED = (
    SETUP
    + """

def long():
    import os, signal
    import thalweg as tw
    from thalweg.inspection import job
    job.curved.DENSE_BELOW = 1
    risk = tw.EmpiricalRisk(*build())
    operator = type(risk).hessian_operator

    def interrupted(self, theta, **settings):
        found = operator(self, theta, **settings)
        product, calls = found._matmat, []

        def slow(columns):
            calls.append(1)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return product(columns)

        found._matmat = slow
        return found

    type(risk).hessian_operator = interrupted
    return risk
"""
)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal here")
def test_ctrl_c_in_the_middle_of_a_large_inspection_prints_and_saves_what_is_known(tmp_path):
    path = tmp_path / "long_setup.py"
    path.write_text(INTERRUPTED)
    command = [sys.executable, "-m", "thalweg", "inspect", f"{path}:long", "--json", str(tmp_path / "v.json")]
    # a shell in the background may have told its children to ignore interrupts
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=ONE_THREAD,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert run.returncode == 3, run.stderr
    assert "Traceback" not in run.stderr
    assert "partial" in run.stdout
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["complete"] is False
    assert record["curvature"]["products"] >= 4
    assert {one["what"] for one in record["skipped"]} >= {"what a step would gain", "slices"}
