"""Run on_a_device.py in a process of its own, as torch counts devices when it first computes a gradient."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command_line import captured, refused


@pytest.mark.parametrize("device", ["second", "cuda"])
def test_another_device_equals_the_cpu(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    cases = Path(__file__).with_name("on_a_device.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(cases), "-k", device, "-rs", "-v"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=cases.parents[2], check=False)  # noqa: S603
    assert process.returncode == 0, process.stdout
    if " passed" not in process.stdout:
        pytest.skip(process.stdout.strip().splitlines()[-1])


def test_an_unavailable_device_is_refused(tmp_path: Path) -> None:
    result = captured("quantize", "--device", "cuda:99", "--out", tmp_path / "run")
    refused(result, "--device cuda:99: not available")
