"""`srptq doctor`: the facts of this machine, and trials of targets on it."""

import json
import platform
from pathlib import Path

import pytest
import torch
from helpers.command_line import raising

from srptq_plugin import __version__, doctor
from srptq_plugin.cli import main
from srptq_plugin.errors import MissingRuntimeError, UnknownNameError

pytest.importorskip("torchao")


def test_facts_are_about_this_machine() -> None:
    facts = doctor.describe_machine()
    assert facts["srptq-plugin"] == __version__
    assert platform.python_version() in facts["python"]
    assert torch.__version__ in facts["torch"]


def test_instructions_are_those_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "model name\t: Some CPU\nflags\t\t: fpu avx2 avx_vnni\n\nmodel name\t: Another\nflags\t: amx_int8\n"
    )
    monkeypatch.setattr(doctor, "CPU_INFO", file)
    facts = doctor.describe_machine()
    assert facts["processor"].startswith("Some CPU, ")
    assert facts["instructions"] == "avx2, avx_vnni"
    monkeypatch.setattr(doctor, "CPU_INFO", tmp_path / "absent")
    assert doctor.describe_machine()["instructions"] == "unknown"


def test_packages_are_those_that_users_need() -> None:
    packages = doctor.installed_packages()
    assert {"torch", "openvino", "onnxruntime", "matplotlib"} <= packages.keys()
    assert not {"srptq-plugin", "ruff", "pytest"} & packages.keys()
    assert packages["numpy"] is not None


def test_a_target_is_tried() -> None:
    pytest.importorskip("onnxruntime")
    (trial,) = doctor.try_targets(["onnxruntime"])
    assert (trial.integers, trial.passed) == (3, True)
    assert trial.runtime is not None
    assert trial.runtime.startswith("onnxruntime ")
    assert isinstance(trial.saturates, bool)


@pytest.mark.parametrize(
    ("error", "code"),
    [(MissingRuntimeError("npu", "pip install npu"), 0), (RuntimeError("broken library\nmore"), 1)],
    ids=["missing", "broken"],
)
def test_what_fails_is_reported(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "quantize", raising(error))
    assert main(["doctor", "--target", "openvino", "--json"]) == code
    (trial,) = json.loads(capsys.readouterr().out)["targets"]
    assert trial["passed"] is (False if code else None)
    assert trial["note"] == str(error).splitlines()[0]


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'openvino'"):
        doctor.try_targets(["openvno"])


def test_the_screen_can_be_pasted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "quantize", raising(MissingRuntimeError("npu", "pip install npu")))
    assert main(["doctor", "--target", "openvino", "snpe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"srptq-plugin: {__version__}"
    assert any(line.startswith("openvino  not run") and line.endswith("pip install npu") for line in lines)
