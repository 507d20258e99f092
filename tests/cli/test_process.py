import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command_line import Result, Srptq, captured, raising, refused, returning, shell

from srptq_plugin import pipeline
from srptq_plugin.evaluation import evaluate
from srptq_plugin.evaluation.scores import Evaluation, Score
from srptq_plugin.runs.run import Run


@pytest.mark.parametrize("argv", [["--help"], ["quantize", "--help"], ["--version"]])
def test_help_imports_only_the_standard_library(argv: list[str]) -> None:
    code = f"import sys; known = set(sys.modules); from srptq_plugin.cli import main; code = main({argv})"
    code += "; print(*sys.modules.keys() - known, file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    packages = {name.partition(".")[0] for name in done.stderr.split()}
    assert done.stdout
    assert packages - sys.stdlib_module_names == {"srptq_plugin"}


def test_help_lists_commands_and_exit_codes() -> None:
    text = captured("--help").out
    for part in ("quantize", "evaluate", "verify", "recipes", "targets", "plugins", "exit codes"):
        assert part in text
    assert max(map(len, captured("quantize", "--help").out.splitlines())) <= 80


def test_internal_error_is_one_line(srptq: Srptq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "quantize", raising(ZeroDivisionError("by\nzero")))
    result = srptq("quantize")
    assert (result.code, result.out) == (3, "")
    assert result.err == ("srptq: internal error: ZeroDivisionError: by; please report it with the output of -v\n")
    assert "Traceback" in srptq("quantize", "-v").err
    assert "Traceback" in srptq("-v", "quantize").err


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "run"), MemoryError(), torch.OutOfMemoryError("CUDA")]
)
def test_errors_of_the_machine_are_not_internal(
    srptq: Srptq, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(pipeline, "quantize", raising(error))
    refused(srptq("quantize"))


def test_interrupt_is_quiet(srptq: Srptq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "quantize", raising(KeyboardInterrupt()))
    assert srptq("quantize") == Result(130, "", "")


@pytest.mark.parametrize("argv", [["--help"], ["plugins", "--json"]])
def test_closed_pipe_is_quiet(argv: list[str]) -> None:
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as stdout:
        result = shell(*argv, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (result.code, result.err) == (141, "")


def test_json_is_alone_on_stdout(srptq: Srptq, monkeypatch: pytest.MonkeyPatch) -> None:
    def talk(*_: object, **__: object) -> Evaluation:
        print("noise")  # noqa: T201 - a network of the user's may
        subprocess.run(["echo", "noise of a converter"], check=True)  # noqa: S607
        return Evaluation("flat", [Score("a.png", "float", math.inf, 1.0)])

    monkeypatch.setattr(evaluate, "evaluate", talk)
    monkeypatch.setattr(Run, "open", returning(None))
    result = srptq("evaluate", "run", "--data", "flat", "--json")
    answer = json.loads(result.out)
    assert answer["rows"][0]["psnr"] is None
    assert answer["images"][0]["psnr"] is None
    assert "noise\n" in result.err
    assert "noise of a converter" in result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_full_disk_is_refused() -> None:
    with Path("/dev/full").open("w") as stdout:
        result = shell("recipes", "--json", stdout=stdout, stderr=subprocess.PIPE, text=True)
    refused(result, "No space left on device")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m srptq_plugin plugins {closed}"
    assert subprocess.run(command, shell=True, check=False, capture_output=True).returncode == 0  # noqa: S602
