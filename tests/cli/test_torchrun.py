"""The command line in processes that torchrun started: one screen, one message, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command_line import TINY, Result

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
FACTORY = """
import os, signal
from torch import nn

def build(lost=""):
    if os.environ.get("RANK") == lost:
        os.kill(os.getpid(), signal.SIGKILL)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tiny_network.py").write_text(FACTORY)
    return tmp_path


def torchrun(place: Path, *argv: str) -> Result:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "srptq_plugin")
    command = [sys.executable, *launcher, *argv]
    done = subprocess.run(command, check=False, cwd=place, capture_output=True, text=True)  # noqa: S603
    return Result(done.returncode, done.stdout, done.stderr)


def quantize(place: Path, *argv: str) -> Result:
    recipe = ("--recipe", "paper-w4a4", *TINY, "--out", "run")
    return torchrun(place, "quantize", "--model", "tiny_network:build", *recipe, *argv)


def test_two_processes_write_one_run(place: Path) -> None:
    result = quantize(place, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["convs"] == 2
    assert "srptq" not in result.err
    assert sorted(path.name for path in place.iterdir() if path.is_dir() and path.name != "__pycache__") == ["run"]


def test_a_mistake_is_reported_once(place: Path) -> None:
    result = torchrun(place, "quantize", "--model", "nowhere.pth")
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("srptq: error: weights: no file nowhere.pth") == 1
    assert result.err.count("srptq: ") == 1


def test_a_lost_process_ends_the_others(place: Path) -> None:
    result = quantize(place, "--model-args", "lost='1'")
    assert result.code == 1
    assert result.err.count("srptq: error: ") == 1
    assert "another process" in result.err
    assert not (place / "run").exists()
    assert not (place / "run.quantizing").exists()


def test_other_commands_run_in_the_first_process(place: Path) -> None:
    result = torchrun(place, "targets", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)
